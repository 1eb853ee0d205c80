"""How this project's numba kernels are compiled and shared out over threads."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from numba import njit


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


def share(pool: ThreadPoolExecutor, workers: int, kernel: Callable, *arguments: object) -> None:
    """`kernel(*arguments, worker, workers)` by each worker."""
    list(pool.map(lambda worker: kernel(*arguments, worker, workers), range(workers)))
