"""Splat files: one format per module, bytes in, bytes out.

Memory is +y up (see `lgm.cameras`), and so is glTF; .ply, .splat and .spz hold the 3DGS frame, +y
down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..gaussians import Gaussians
from .columns import Frame, is_y_down
from .files import Source, write_atomically
from .gltf import read_gltf, write_gltf
from .ply import read_ply, write_ply
from .splat import read_splat, write_splat
from .spz import read_spz, write_spz

__all__ = [
    "FORMATS",
    "read_gltf",
    "read_ply",
    "read_splat",
    "read_splat_file",
    "read_spz",
    "write_atomically",
    "write_gltf",
    "write_ply",
    "write_splat",
    "write_splat_file",
    "write_spz",
]


@dataclass(frozen=True)
class Format:
    read: Callable[..., Gaussians]
    write: Callable[[str | Path | None, Gaussians], bytes] | None = None
    has_frame: bool = True  # glTF says itself that +y is up


FORMATS = {
    ".ply": Format(read_ply, write_ply),
    ".splat": Format(read_splat, write_splat),
    ".spz": Format(read_spz, write_spz),
    ".glb": Format(read_gltf, write_gltf, has_frame=False),
    ".gltf": Format(read_gltf, has_frame=False),
}


def read_splat_file(
    source: Source, suffix: str | None = None, *, frame: Frame = "y-down"
) -> Gaussians:
    """Gaussians [1, N, ..] (float32, CPU, y-up) of a splat file, by its suffix.

    Args:
        source: a path, or the bytes.
        suffix: ".ply", ".splat", ".spz", ".glb" or ".gltf"; by default that of the path.
        frame: what a .ply, .splat or .spz holds; "y-up" reads files of the original LGM code.

    Raises:
        ValueError: an unknown suffix, or whatever the format's reader refuses.
    """
    if not suffix:
        if not isinstance(source, (str, Path)):
            raise ValueError('Splat data without a name needs the format, as in suffix=".ply".')
        suffix = Path(source).suffix
    format_ = find(suffix, "read", FORMATS)
    is_y_down(frame)  # refuses a misspelled frame for every format alike
    return format_.read(source, frame=frame) if format_.has_frame else format_.read(source)


def write_splat_file(path: str | Path, gaussians: Gaussians) -> bytes:
    """Write one object as .ply, .splat, .spz or .glb, by suffix, and return the bytes.

    Raises:
        ValueError: an unknown suffix, or Gaussians that no file can hold.
        RuntimeError: the file can't be written.
    """
    writable = {suffix: format_ for suffix, format_ in FORMATS.items() if format_.write}
    write = find(Path(path).suffix, "write", writable).write
    assert write is not None  # the others are left out
    return write(path, gaussians)


def find(suffix: str, verb: str, formats: dict[str, Format]) -> Format:
    try:
        return formats[suffix.lower()]
    except KeyError:
        known, named = ", ".join(formats), f"named *{suffix}" if suffix else "without a suffix"
        raise ValueError(f"Can't {verb} a splat file {named}: known are {known}.") from None
