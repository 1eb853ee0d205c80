"""How long work tells how far it is and can be stopped, without a parameter through every function.

A caller opens `working(check, progress)`; the work inside calls `between_steps()` and `report()`.
A thread that the work starts sees none of it, unless it is run in a copy of the starting thread's
context (`contextvars.copy_context().run`): today no thread of this project asks or tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Check = Callable[[], None]
Progress = Callable[[float], None]

_check: ContextVar[Check | None] = ContextVar("check", default=None)
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def working(check: Check | None = None, progress: Progress | None = None) -> Iterator[None]:
    """Ask and tell the caller while this is open; what is None stays as it was around it.

    Args:
        check: called often, between steps; what it raises ends the work.
        progress: called with the part of the work that is done, 0..1.
    """
    given: dict[ContextVar[Any], Any] = {_check: check, _progress: progress}
    tokens = [
        (variable, variable.set(value)) for variable, value in given.items() if value is not None
    ]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


@contextmanager
def subtask(begin: float, end: float) -> Iterator[None]:
    """An inner step, whose 0..1 is the part from `begin` to `end` of the work around it."""
    outer = _progress.get()
    with working(progress=outer and (lambda part: outer(begin + (end - begin) * part))):
        yield


def between_steps() -> None:
    """Ask whether to go on; does not return if not."""
    if check := _check.get():
        check()


def report(part: float) -> None:
    """Tell the part of the current work that is done, 0..1."""
    if progress := _progress.get():
        progress(part)
