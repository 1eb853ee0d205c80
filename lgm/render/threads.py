"""How many CPU threads drawing uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import backend_for

FEW_THREADS = 4


@contextmanager
def threads(count: int) -> Iterator[int]:
    """Let torch use `count` CPU threads while this is open; gives how many to draw with.

    With several, the threads of the many small steps of meshing wait for each other ten times as
    long as they work, if the CPU is busy. `torch.set_num_threads` holds for the whole process: what
    another thread, as of a server, calculates with torch meanwhile is slower, too; and two threads
    that are inside at a time may leave the number at `count`.
    """
    before, drawing = torch.get_num_threads(), drawing_threads()
    torch.set_num_threads(count)
    try:
        yield drawing
    finally:
        torch.set_num_threads(before)


def drawing_threads() -> int:
    """How many threads to draw with; changes nothing. The torch backend, too, works in many small
    steps: with few threads, one that the system suspends stalls the others, and a single thread is
    more predictable. numba is not affected.
    """
    count = torch.get_num_threads()
    by_torch = backend_for("auto", torch.device("cpu")) == "torch"
    return 1 if by_torch and count <= FEW_THREADS else count
