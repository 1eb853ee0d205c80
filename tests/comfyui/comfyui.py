"""Finding a ComfyUI checkout and the Python that runs it, and starting a server that writes nowhere
but into a folder of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from .client import Client

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("probe")

# Not the repository's name: nothing in the pack may depend on it. (ComfyUI itself does
# not serve the scripts of a folder with a space in its name.)
PACK = "LGM-Splats-test"

# A browser that draws in software holds up one of so few: torch's threads would all wait for it.
FEW_CORES = 4


def find_comfyui() -> Path | None:
    """COMFYUI_DIR, else the ComfyUI in whose custom_nodes folder this repository lies.

    Raises:
        ValueError: COMFYUI_DIR is not a ComfyUI.
    """
    named = os.environ.get("COMFYUI_DIR")
    if named:
        folder = Path(named).resolve()
        if not is_comfyui(folder):
            raise ValueError(f"COMFYUI_DIR needs main.py and comfy/ in it, found none in {folder}.")
        return folder
    parent = ROOT.parent.parent
    return parent if ROOT.parent.name == "custom_nodes" and is_comfyui(parent) else None


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def find_python(comfyui: Path) -> str | None:
    """COMFYUI_PYTHON, else the first Python in or beside the checkout with ComfyUI's packages."""
    if named := os.environ.get("COMFYUI_PYTHON"):
        return named
    inside = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    venvs = [
        folder / name / inside for folder in (comfyui, comfyui.parent) for name in ("venv", ".venv")
    ]
    portable = comfyui.parent / "python_embeded" / "python.exe"  # spelled so on Windows
    candidates = [*filter(Path.exists, [*venvs, portable]), sys.executable]
    return next((str(python) for python in candidates if has_requirements(python)), None)


def has_requirements(python: str | Path) -> bool:
    """Two of ComfyUI's requirements stand for all: an environment of something else lacks one."""
    check = "from importlib.util import find_spec as f; assert f('aiohttp') and f('torchsde')"
    return subprocess.run([python, "-c", check], capture_output=True).returncode == 0


def copy_pack(target: Path) -> None:
    """What a `git clone` of this working tree would bring: no link, no cache, no environment."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode:  # unpacked from an archive
        left_out = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, target, ignore=left_out)
        return
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_file():  # a deleted file stays listed until it is committed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def snapshot(checkout: Path) -> dict[str, tuple[int, int]]:
    """(size, mtime) of each file of a checkout that a server may not touch."""
    # Other people's packs, models and environments may be in use by other programs.
    skipped = {".git", "venv", ".venv", "custom_nodes", "models"}
    files = {}
    for folder, subfolders, names in os.walk(checkout):
        if Path(folder) == checkout:
            subfolders[:] = [name for name in subfolders if name not in skipped]
        for name in names:
            stat = Path(folder, name).stat()
            files[str(Path(folder, name).relative_to(checkout))] = (stat.st_size, stat.st_mtime_ns)
    return files


def traceback_lines(log: str) -> list[str]:
    """Lines of a log that belong to a traceback through the pack."""
    return [line for line in log.splitlines() if "File " in line and f"{PACK}/" in line]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server(Client):
    """A ComfyUI on the CPU whose models, inputs, outputs, users and custom nodes lie in `base`.

    The pack lies there as a copy, with the probe (`probe/__init__.py`) beside it.
    """

    def __init__(
        self,
        comfyui: Path,
        python: str,
        base: Path,
        flags: tuple[str, ...] = (),
        api_nodes: bool = False,  # without these, the page forbids itself more
        beside_browser: bool = False,  # see FEW_CORES
    ):
        super().__init__(free_port())
        self.api_nodes, self.beside_browser = api_nodes, beside_browser
        self.comfyui, self.python, self.base, self.flags = comfyui, python, base, flags
        self.log_file = base / "server.log"
        self.process: subprocess.Popen | None = None
        self.imported_at_start: list[str] = []
        # Without one of these folders the server does not start, or complains.
        for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True)
        example = comfyui / "input" / "example.png"  # what every ComfyUI has there from the start
        if example.exists():
            shutil.copyfile(example, base / "input" / example.name)
        copy_pack(self.pack)
        shutil.copytree(PROBE, base / "custom_nodes" / PROBE.name)

    @property
    def pack(self) -> Path:
        return self.base / "custom_nodes" / PACK

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def give(self, models: Path) -> None:
        """Put a folder of models, by links, among the server's own."""
        shutil.copytree(models, self.base / "models", copy_function=os.link, dirs_exist_ok=True)

    def start(self, wait: float = 300) -> None:
        """Returns when the server answers; a slow disk may need minutes to load torch.

        Raises:
            RuntimeError: it ended, or did not answer in `wait` seconds; with the end of its log.
        """
        command = [
            # -B: no __pycache__ in the checkout.
            *(self.python, "-B", str(self.comfyui / "main.py"), "--cpu"),
            *("--listen", "127.0.0.1", "--port", str(self.port)),
            *("--base-directory", str(self.base)),
            *("--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"),
            *([] if self.api_nodes else ["--disable-api-nodes"]),
            "--disable-auto-launch",
            # An extra_model_paths.yaml in the checkout may name more packs: those stay out.
            *("--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK, PROBE.name),
            *shlex.split(os.environ.get("COMFYUI_ARGS", "")),
            *self.flags,
        ]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUTF8": "1"}
        if self.beside_browser and (os.cpu_count() or 1) <= FEW_CORES:
            env.setdefault("OMP_NUM_THREADS", "1")
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.base,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + wait
        while not self.answers():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                reason = "ended" if ended else f"did not answer within {wait:.0f} s"
                raise RuntimeError(f"ComfyUI {reason}; its log ends:\n{self.log[-4000:]}")
            time.sleep(0.3)
        # Before any run: what runs import is their own business.
        self.imported_at_start = self.json("/lgm_probe")["imports"]

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def restart(self) -> None:
        self.stop()
        self.port = free_port()
        self.start()
