"""Makes .venv with everything the demo and the tests need; quick when nothing has changed.

Needs Python 3.10 to 3.13 and pip. `python tools/setup.py` is the same on every system.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
STAMP = VENV / "lgm-setup.txt"
EXTRAS = "cpu-fast,generate,train,dev"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def fingerprint() -> str:
    """Changes with the Python version and with every file that decides what gets installed."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("requirements.txt", "constraints.txt", "pyproject.toml", "tools/setup.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def has_nvidia_gpu() -> bool:
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia").exists()


def torch_index() -> list[str]:
    """pip options that find a small CPU build of torch, where the usual build would bring CUDA."""
    if sys.platform != "linux" or has_nvidia_gpu():
        return []
    try:
        with urllib.request.urlopen(f"{CPU_WHEELS}/torch/", timeout=5):
            return ["--extra-index-url", CPU_WHEELS]
    except (OSError, HTTPException):  # offline or behind a mirror: take what pip is set up to find
        return []


def create_venv() -> None:
    if PYTHON.exists():
        return
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True)
    if made.returncode == 0:
        return
    # Debian without python3-venv has no ensurepip; this Python's own pip can fill the gap.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", VENV], check=True)
    subprocess.run([sys.executable, "-m", "pip", "--python", PYTHON, "install", "pip"], check=True)


def pip_install(*arguments: str) -> None:
    command = [PYTHON, "-m", "pip", "install", "-q", "-c", "constraints.txt", *arguments]
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> int:
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        print(
            f"setup: needs Python 3.10 to 3.13, found {sys.version.split()[0]}: "
            "install one of these, then `make PYTHON=python3.12 ...`.",
            file=sys.stderr,
        )
        return 2
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    try:
        print("Setting up .venv (a few minutes the first time) ...", flush=True)
        create_venv()
        pip_install(*torch_index(), "torch")  # first: others depend on it and would pick any build
        pip_install("-e", f".[{EXTRAS}]")
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        print(f"setup: `{command}` failed: see its message above.", file=sys.stderr)
        return 1
    STAMP.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
