import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from .comfyui import PACK, Server, find_comfyui, find_python, snapshot
from .page import browser
from .workflows import EXAMPLES, models_of, read

HERE = Path(__file__).parent
TOLD = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items):
    """Without a ComfyUI these tests are skipped before any fixture runs."""
    ours = [item for item in items if HERE in item.path.parents]
    if not ours:
        return
    try:
        comfyui = find_comfyui()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if comfyui is None:
        reason = "needs a ComfyUI: set COMFYUI_DIR, or put this repository into its custom_nodes"
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def comfyui() -> Path:
    return find_comfyui()


@pytest.fixture(scope="session")
def python(comfyui) -> str:
    python = find_python(comfyui)
    if python is None:
        message = f"no Python with ComfyUI's packages in or beside {comfyui}: set COMFYUI_PYTHON"
        # Whoever asked for these tests wants to know; a plain pytest in custom_nodes goes on.
        pytest.fail(message) if os.environ.get("COMFYUI_DIR") else pytest.skip(message)
    return python


@pytest.fixture(scope="session")
def start_server(comfyui, python, tmp_path_factory):
    """Starts servers in fresh folders; in the end all are stopped and the checkouts untouched."""
    before: dict[Path, dict] = {}
    servers = []

    def start(
        *flags: str, checkout: Path = comfyui, python: str = python, **options: bool
    ) -> Server:
        before.setdefault(checkout, snapshot(checkout))
        server = Server(checkout, python, tmp_path_factory.mktemp("server"), flags, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()
    for checkout, was in before.items():
        now = snapshot(checkout)
        changed = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        assert not changed, f"a server wrote into {checkout}: {changed[:20]}"


@pytest.fixture(scope="session")
def server(start_server) -> Server:
    return start_server(beside_browser=True)


@pytest.fixture(scope="session")
def model_files(comfyui, python, tmp_path_factory) -> Path:
    """A models folder with every file that an example workflow names: encoders and VAEs as large as
    the real ones, U-Nets reduced, values random.
    """
    from .released_files import UNET, place_in_models

    folder = tmp_path_factory.mktemp("models")
    place_in_models(folder, unet_config=UNET | {"attention_resolutions": [2]})
    script = Path(__file__).with_name("zero123_file.py")
    zero123 = folder / "checkpoints" / "stable_zero123.ckpt"
    subprocess.run([python, "-B", script, comfyui, zero123], check=True, cwd=folder)
    named = {name for workflow in EXAMPLES for name in models_of(read(workflow))}
    assert named == {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def with_models(server, model_files) -> Server:
    """The server, with these models."""
    server.give(model_files)
    return server


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    info = server.json("/object_info")
    if "LGM_Reconstruct" not in info:
        about = "\n".join(line for line in server.log.splitlines() if PACK in line)
        pytest.fail(f"the pack did not load; the log says:\n{about}", pytrace=False)
    return info


@pytest.fixture(scope="session")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def shots(tell) -> Path:
    """Where the screenshots stay, for looking at."""
    folder = Path(os.environ.get("COMFYUI_SHOTS") or tempfile.mkdtemp(prefix="lgm-shots-"))
    folder.mkdir(parents=True, exist_ok=True)
    tell(f"screenshots: {folder}")
    return folder


@pytest.fixture(scope="session")
def tell(pytestconfig):
    """Takes a line, such as a measured time, that is printed when all is over."""
    return pytestconfig.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(terminalreporter, config):
    if lines := config.stash.get(TOLD, []):
        terminalreporter.section("ComfyUI")
        terminalreporter.write_line("\n".join(lines))
