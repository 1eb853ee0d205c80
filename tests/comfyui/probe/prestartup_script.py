"""Runs before ComfyUI imports torch: from then on every import that the pack causes is noted."""

import sys
from pathlib import Path

PACKS = str(Path(__file__).resolve().parents[1])
OWN = str(Path(__file__).resolve().parent)


def of_the_pack(filename: str) -> bool:
    return filename.startswith(PACKS) and not filename.startswith(OWN)


def watch(event: str, arguments: tuple) -> None:
    """The event comes at a module's first import; the pack is the cause if it is on the stack."""
    if event != "import":
        return
    frame = sys._getframe()
    while frame is not None:
        if of_the_pack(frame.f_code.co_filename):
            sys.lgm_imports.add(arguments[0])
            return
        frame = frame.f_back


sys.lgm_imports = set()
sys.addaudithook(watch)
