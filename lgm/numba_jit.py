"""How this project's numba kernels are compiled and shared out over threads."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from numba import njit

MAX_WORKERS = 16  # more than memory feeds; and some need much of it, as for gradients of their own


def jit(function: Callable) -> Callable:
    """njit without the GIL, with a disk cache where a folder for it can be written, else without.

    Fast math may reorder and fuse, but NaN and infinity keep their meaning.
    """
    # The cache tells functions apart by file and name, and what it keeps imports their module: in
    # ComfyUI that has another name than in Python, and neither may find the other's.
    function.__qualname__ += f"_{zlib.crc32(function.__module__.encode()):08x}"
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    }
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # numba found no folder it may write to
        return njit(function, **options)


def worker_count() -> int:
    """As many threads as torch has, up to a point."""
    return min(torch.get_num_threads(), MAX_WORKERS)


def share(pool: ThreadPoolExecutor, workers: int, kernel: Callable, *arguments: object) -> None:
    """`kernel(*arguments, worker, workers)` by each worker."""
    list(pool.map(lambda worker: kernel(*arguments, worker, workers), range(workers)))
