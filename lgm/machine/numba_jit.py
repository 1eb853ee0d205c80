"""How this project's numba kernels are compiled and shared out over threads."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FunctionType

import torch
from numba import njit

MAX_WORKERS = 16  # more than memory feeds; and some need much of it, as for gradients of their own


def jit(
    function: FunctionType | None = None, *, exact: bool = False, inline: str = "never"
) -> Callable:
    """njit without the GIL, with a disk cache where a folder for it can be written, else without.

    Every kernel of this project is compiled by it, since a folder that is imported under two names
    needs two caches.

    Args:
        exact: every operation in the order written; else it may be reordered and fused, but NaN
            and infinity keep their meaning.
        inline: as numba has it; "always" compiles a helper anew into each kernel that calls it.
    """
    if function is None:
        return partial(jit, exact=exact, inline=inline)
    # The cache tells functions apart by file and name, and what it keeps imports their module: in
    # ComfyUI that has another name than in Python, and neither may find the other's.
    function.__qualname__ += f"_{zlib.crc32(function.__module__.encode()):08x}"
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": set() if exact else {"contract", "reassoc", "nsz", "arcp"},
        "inline": inline,
    }
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # numba found no folder it may write to
        return njit(function, **options)


def worker_count() -> int:
    """How many threads share a kernel: as many as torch has, up to MAX_WORKERS."""
    return min(torch.get_num_threads(), MAX_WORKERS)


def share(pool: ThreadPoolExecutor, workers: int, kernel: Callable, *arguments: object) -> None:
    """`kernel(*arguments, worker, workers)` by each worker."""
    list(pool.map(lambda worker: kernel(*arguments, worker, workers), range(workers)))
