"""`.splat` (antimatter15): 32-byte records without a header, +y down, base color only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..gaussians import Gaussians
from .columns import Columns, Frame, from_columns, is_y_down, to_columns
from .files import Source, read_source, write_atomically

RECORD: np.dtype[Any] = np.dtype(
    [
        ("position", "<f4", 3),
        ("scale", "<f4", 3),  # linear
        ("rgba", "u1", 4),  # 0..255
        ("rotation", "u1", 4),  # w, x, y, z as 128 + 128 q
    ]
)


def write_splat(path: str | Path | None, gaussians: Gaussians) -> bytes:
    """The bytes of a `.splat` (+y down), also written to `path` unless it is None.

    Gaussians fainter than 0.005 are left out; the others keep their order. Color and opacity are
    rounded to 1/255, quaternion components to 1/128. The format has no room for higher bands: `sh`
    is dropped, and the base color stays.

    Raises:
        ValueError: a batch other than one, values that are not finite, nothing visible.
        RuntimeError: the file can't be written.
    """
    columns = to_columns(gaussians, y_down=True)
    rgba = np.concatenate([columns.colors, columns.opacities], axis=1)
    rows = np.empty(len(rgba), RECORD)
    rows["position"] = columns.positions
    rows["scale"] = columns.scales
    rows["rgba"] = (rgba * 255).round().clip(0, 255)
    rows["rotation"] = (columns.rotations * 128 + 128).round().clip(0, 255)
    data = rows.tobytes()
    if path is not None:
        write_atomically(path, data)
    return data


def read_splat(source: Source, *, frame: Frame = "y-down") -> Gaussians:
    """Gaussians [1, N, ..] (float32, CPU, y-up) of a `.splat` file.

    Args:
        source: a path, or the bytes.
        frame: what the file holds; the format can't say.

    Raises:
        ValueError: not a whole number of records, or NaN, infinite or negative values: the format
            has no other mark by which to know it.
    """
    y_down = is_y_down(frame)
    name, data = read_source(source)
    if not data or len(data) % RECORD.itemsize:
        raise ValueError(
            f"{name} is not a .splat file: it needs one or more records of 32 bytes, "
            f"and has {len(data):,} bytes."
        )
    rows = np.frombuffer(data, RECORD)
    rgba = rows["rgba"] / 255
    columns = Columns(
        positions=rows["position"],
        opacities=rgba[:, 3:],
        scales=rows["scale"],
        rotations=(rows["rotation"] - 128.0) / 128,
        colors=rgba[:, :3],
    )
    return from_columns(name, columns, y_down=y_down)
