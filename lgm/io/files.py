"""Bytes from a source, bytes to a file: the only two ways this package touches the disk."""

from __future__ import annotations

import secrets
from pathlib import Path

Source = str | Path | bytes  # a file, or what is in it

MAX_FILE_BYTES = 2 << 30  # about 38 million Gaussians as PLY; more is a mistake or an attack


def read_source(source: Source) -> tuple[str, bytes]:
    """The source's name, for messages, and its content.

    Raises:
        ValueError: no such regular file, not readable, or larger than 2 GiB.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the data", bytes(source)
    path = Path(source)
    try:
        if not path.is_file():  # a folder, a pipe or a device would block or never end
            found = "it is not a regular file" if path.exists() else "there is no such file"
            raise ValueError(f"Can't read {path}: {found}.")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"Can't read {path}: {size:,} bytes is beyond {MAX_FILE_BYTES:,}.")
        return path.name, path.read_bytes()
    except OSError as error:
        raise ValueError(f"Can't read {path}: {error.strerror or error}.") from error


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write beside the file, then rename: it is there complete or not at all.

    Raises:
        RuntimeError: the folder is missing or closed, the disk is full, or the path is a folder.
    """
    path = Path(path)
    partial = path.with_name(
        f".{secrets.token_hex(8)}.partial"
    )  # same folder: a rename can't cross disks
    try:
        try:
            with partial.open("xb") as file:  # not tempfile, whose files only their owner can read
                file.write(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"Can't write {path}: {error.strerror or error}. "
            "Choose a folder that exists, is writable and has room."
        ) from error
