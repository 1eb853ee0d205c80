"""The `lgm` command, where it has always been: `lgm.command` holds it."""

from .command.main import main

__all__ = ["main"]
