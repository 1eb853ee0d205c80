"""A way out of a long drawing, without a parameter through every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Check = Callable[[], None]
Progress = Callable[[float], None]

_asked: ContextVar[Callable[[], None] | None] = ContextVar("asked_between_steps", default=None)


@contextmanager
def interruptible(ask: Callable[[], None]) -> Iterator[None]:
    """While this is open, `ask()` is called between the steps of slow backends and between
    pictures; what it raises ends the drawing."""
    token = _asked.set(ask)
    try:
        yield
    finally:
        _asked.reset(token)


def between_steps() -> None:
    if ask := _asked.get():
        ask()
