"""The `lgm` command: parses, checks what it can before any work, calls the library, reports.

Exit status 0 is success, 2 a command that makes no sense, 1 anything that went wrong; then one line
on stderr says what was needed, what was found and what to do. `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from .doctor import add_doctor
from .draw import add_mesh, add_render
from .generate import add_download, add_generate
from .options import FAILURES, Parser, lacks_package, report
from .reconstruct import add_demo, add_reconstruct

DELEGATED = {  # commands with an argument parser of their own
    "train": "train a model, on one device or many",
    "evaluate": "measure a model on held-out objects",
    "dataset": "make training data",
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="lgm: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidies up, as Ctrl-C does
    try:
        if arguments and arguments[0] in DELEGATED:
            status = delegated(arguments[0])(arguments[1:])
        else:
            options = build_parser().parse_args(arguments)
            status = options.run(options)
        if sys.stdout:  # None where it was closed
            sys.stdout.flush()
        return status or 0
    except (KeyboardInterrupt, SystemError) as error:
        # A compiled function passes the Ctrl-C that reached it on as the cause of a SystemError.
        if KeyboardInterrupt not in (type(error), type(error.__cause__)):
            raise
        print("lgm: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, as `head` does, has seen enough
        _drop_unwritten()
        return 1
    except (*FAILURES, ImportError) as error:
        if debug or (isinstance(error, ImportError) and not lacks_package(error)):
            raise
        report(error)
        _drop_unwritten()
        return 1


def delegated(command: str) -> Callable[[list[str]], int | None]:
    """The command's own `main`, imported late: training needs more packages than other commands."""
    if command == "train":
        from .train import main as run
    elif command == "evaluate":
        from .evaluate import main as run
    else:
        from .dataset import main as run
    return run


def _drop_unwritten() -> None:
    """Let Python end in silence where standard output is a closed pipe or a full disk."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="lgm", description="Pictures of an object to 3D Gaussians.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and more messages")
    parser.add_argument("--version", action="version", version=f"lgm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (add_demo, add_generate, add_download, add_reconstruct, add_render, add_mesh):
        add(commands)
    for name, summary in DELEGATED.items():
        commands.add_parser(name, help=summary)
    add_doctor(commands)
    return parser
