"""A ComfyUI from before `io.Splat` says which one is needed, and goes on without the pack."""

import os
from pathlib import Path

import pytest

from .comfyui import find_python, is_comfyui, traceback_lines


@pytest.fixture(scope="module")
def old_server(start_server, python):
    named = os.environ.get("COMFYUI_OLD_DIR")
    if not named:
        pytest.skip("needs a ComfyUI older than 0.28: set COMFYUI_OLD_DIR")
    folder = Path(named).resolve()
    assert is_comfyui(folder), f"COMFYUI_OLD_DIR needs a ComfyUI, found none in {folder}"
    return start_server(checkout=folder, python=find_python(folder) or python)


def test_old_comfyui_is_told_what_the_pack_needs(old_server):
    told = [line for line in old_server.log.splitlines() if "0.28" in line]
    assert len(told) == 1, old_server.log[-3000:]
    assert "LGM" in told[0]


def test_old_comfyui_keeps_starting_without_the_pack(old_server):
    assert not [name for name in old_server.json("/object_info") if name.startswith("LGM_")]
    assert "KSampler" in old_server.json("/object_info")
    assert not traceback_lines(old_server.log)
