"""Options, checks and messages that several commands share."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from .. import io, load_model
from ..network.model import LGM
from ..releases.places import own_folder

SPLAT_SUFFIXES = tuple(suffix for suffix, format_ in io.FORMATS.items() if format_.write)
VIDEO_SUFFIXES = (".mp4", ".gif")
# What goes wrong with what the user gave, or with this machine: said in one line.
FAILURES = (ValueError, RuntimeError, OSError, MemoryError)


def lacks_package(error: ImportError) -> bool:
    """Whether an optional package is missing; any other failing import is a mistake in lgm."""
    package = (error.name or "").split(".")[0]
    return not package or importlib.util.find_spec(package) is None


def report(error: BaseException) -> None:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        message = f"Not enough memory ({message}): use smaller pictures, files or --size."
    elif isinstance(error, OSError) and error.strerror:
        what = error.filename or "the output"
        message = f"Can't use {what}: {error.strerror}; check the name, its rights and the room."
    print(f"lgm: {message}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Reports bad usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")


def add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="demo", metavar="NAME_OR_PATH", help="see lgm doctor")
    command.add_argument(
        "--models-dir", type=Path, metavar="DIR", help="another place to look for models"
    )
    add_device_options(command)


def add_device_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    command.add_argument("--quiet", action="store_true", help="no progress bars, no tables")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An option's type: a whole number in a range."""
    return _in_range(int, "whole number", low, high)


def number(low: float, high: float) -> Callable[[str], float]:
    """An option's type: a finite number in a range."""
    return _in_range(float, "number", low, high)


def _in_range(kind: type, name: str, low: float, high: float) -> Callable:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # NaN is in no range
            raise argparse.ArgumentTypeError(
                f"needs a {name} from {low:,} to {high:,}, got {text!r}"
            )
        return value

    return convert


def load(options: argparse.Namespace, device: str) -> LGM:
    return load_model(options.model, device=device, folders=model_places(options))


def model_places(options: argparse.Namespace) -> list[Path]:
    """Where models are looked for first: the user's folder and that of `lgm download`."""
    return [*([options.models_dir] if options.models_dir else []), own_folder()]


def pick_device(name: str) -> str:
    """`auto` is CUDA where it works, else the CPU.

    Raises:
        ValueError: this torch can't use that device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # `meta` fails only when it is looked at
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"Device {name!r} can't be used here ({reason}): choose cpu or auto."
        ) from error
    return name


def progress(
    items: Iterable | None, options: argparse.Namespace, unit: str, total: int | None = None, **more
) -> tqdm:
    """A bar on stderr over `items`, or one to update by hand; hidden where nobody would see it."""
    hidden = options.quiet or not sys.stderr.isatty()
    return tqdm(items, total=total, unit=f" {unit}", leave=False, disable=hidden, **more)


def require_suffix(options: argparse.Namespace, suffixes: Sequence[str]) -> None:
    if options.out.suffix.lower() not in suffixes:
        options.parser.error(
            f"--out needs a name ending in {' '.join(suffixes)}, got {str(options.out)!r}"
        )
