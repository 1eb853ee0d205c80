"""The levels of comfy-test that need no GPU and no network, attached to a server of ours."""

import os
import shutil
import subprocess

import pytest

from .comfyui import ROOT
from .workflows import EXAMPLES, KEPT, twin, version

LEVELS = (
    "syntax",
    "registration",
    "javascript",
    pytest.param(
        "validation",
        marks=pytest.mark.xfail(
            strict=True,
            reason="comfy-test 0.4.15 takes widgets of V3 nodes (COMBO, COLOR, dynamic combos) for "
            "sockets, and notes for unknown nodes, ComfyUI's own too",
        ),
    ),
    "execution_light",
)
CONFIG = """[test]
levels = {levels}
[test.platforms]
platforms = ["linux", "macos", "windows"]
[test.workflows]
cpu = "all"
timeout = 300
"""


@pytest.fixture(scope="module")
def comfy_test() -> str:
    command = os.environ.get("COMFY_TEST")
    return command or pytest.skip("needs comfy-test: set COMFY_TEST to its command")


@pytest.fixture(scope="module")
def attached(comfy_test, start_server, model_files):
    """A server whose copy of the pack is what the registry's archive holds."""
    server = start_server()
    if (ROOT / ".comfyignore").exists():
        command = ["git", "ls-files", "-z", "-co", "--ignored", "--exclude-from=.comfyignore"]
        left_out = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, left_out.decode().split("\0")):
            (server.pack / name).unlink(missing_ok=True)
    (server.pack / "workflows").mkdir()
    server.give(model_files)
    return server


@pytest.mark.parametrize("level", LEVELS)
def test_level_passes(comfy_test, attached, level, tell):
    levels = {"syntax": ["syntax"]}.get(level, ["install", "registration", level])
    config = CONFIG.format(levels=list(dict.fromkeys(levels)))
    (attached.pack / "comfy-test.toml").write_text(config, encoding="utf-8")
    for path in EXAMPLES:
        # Its own way from a workflow file to a prompt misplaces COLOR widgets: it runs the page's.
        source = twin(KEPT / version() / path.name) if level == "execution_light" else path
        shutil.copy(source, attached.pack / "workflows" / path.name)
    # It reads the server's log, and writes its own, in one folder.
    logs = {"COMFY_TEST_LOGS_DIR": str(attached.base)}
    done = subprocess.run(
        [comfy_test, "run", "--server-url", attached.url],
        cwd=attached.pack,
        env={**os.environ, **logs},
        capture_output=True,
        text=True,
    )
    tell(f"comfy-test, {level}: {'failed' if done.returncode else 'passed'}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
