"""Whether the optional package numba is there and works."""

from __future__ import annotations

import functools
import importlib.util
import os
from functools import cache

import torch
from torch import Tensor


def why_no_numba() -> str:
    """Why its kernels can't be used, with what to do about it; empty if they can."""
    if not importlib.util.find_spec("numba"):
        return "the package numba is not installed: pip install numba"
    return _import_error()


@cache
def _import_error() -> str:
    try:
        import numba  # noqa: F401
    except Exception as error:  # one that doesn't fit the NumPy beside it, above all
        reason = str(error).partition("\n")[0]
        return f"numba does not work here ({type(error).__name__}: {reason}): upgrade it"
    return ""


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def uses_triton(x: Tensor) -> bool:
    """Whether the kernels take x. On the CPU only Triton's interpreter does, which tests use."""
    if torch.compiler.is_compiling() or x.dtype not in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
    ):
        return False
    on_device = x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return on_device and x.numel() > 0 and _has_triton()
