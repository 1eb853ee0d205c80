"""Output places: refused before any work is done, and never left half-filled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_writable(path: Path, folder: bool = False) -> None:
    """Raise if `path` can't become a file (or a folder with files in it); makes nothing.

    Raises:
        RuntimeError: says what is in the way.
    """
    try:
        _check_place(path, folder)
    except OSError as error:  # a name too long, a loop of links
        raise _cannot_write(path, error) from error


def _check_place(path: Path, folder: bool) -> None:
    if path.exists() and path.is_dir() != folder:
        found = "a folder" if path.is_dir() else "a file"
        wanted = "a folder" if folder else "a file"
        raise RuntimeError(f"{path} has to be {wanted}, but is {found}: choose another --out.")
    place = path if path.exists() and folder else path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise RuntimeError(f"Can't write {path}: {place} is not a folder; choose another --out.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RuntimeError(f"Can't write {path}: {place} is closed to you; choose another --out.")


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `out` only when all went well.

    It is in `out` if that exists, which may be another disk than what is around it, else beside.
    """
    place = out if out.is_dir() else out.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=place))
    except OSError as error:
        raise _cannot_write(out, error) from error
    try:
        yield staging
        out.mkdir(exist_ok=True)
        for path in staging.iterdir():
            path.replace(out / path.name)
    except OSError as error:
        # A full disk has no file name. Any other name belongs to a file that was only read.
        if error.filename is None or str(error.filename).startswith(str(staging)):
            raise _cannot_write(out, error) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _cannot_write(out: Path, error: OSError) -> RuntimeError:
    return RuntimeError(
        f"Can't write {out}: {error.strerror or error}; "
        "choose a folder that is writable and has room."
    )
