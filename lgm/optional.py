"""Whether the optional package numba is there and works."""

from __future__ import annotations

import importlib.util
from functools import cache


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
