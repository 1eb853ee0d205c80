"""How many CPU threads drawing uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import backend_for

FEW_THREADS = 4


@contextmanager
def threads(count: int) -> Iterator[int]:
    """Torch's threads on the CPU; gives how many to draw with. With several, the many small steps
    here wait for each other ten times as long as they work, if the CPU is busy.
    """
    before, drawing = torch.get_num_threads(), drawing_threads()
    torch.set_num_threads(count)
    try:
        yield drawing
    finally:
        torch.set_num_threads(before)


def drawing_threads() -> int:
    """Torch draws in many small steps, too: of few threads, one that another program holds up holds
    up all, and one alone is steadier. numba's threads don't wait so.
    """
    count = torch.get_num_threads()
    by_torch = backend_for("auto", torch.device("cpu")) == "torch"
    return 1 if by_torch and count <= FEW_THREADS else count
