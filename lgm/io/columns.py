"""Between the Gaussians record and the arrays of a file: checks and frame for all formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..gaussians import Gaussians, flip_y_z

Frame = Literal["y-down", "y-up"]  # of a file; memory is always y-up

NAMES = (  # of every column, as 3DGS files have them
    ("x", "y", "z"),
    ("opacity",),
    ("scale_0", "scale_1", "scale_2"),
    ("rot_0", "rot_1", "rot_2", "rot_3"),
    ("red", "green", "blue"),
)


class Columns(NamedTuple):
    """One object in the frame of its file; the fields of `Gaussians` without the batch axis."""

    positions: np.ndarray  # [N, 3]
    opacities: np.ndarray  # [N, 1], 0..1
    scales: np.ndarray  # [N, 3], linear
    rotations: np.ndarray  # [N, 4], w, x, y, z
    colors: np.ndarray  # [N, 3], sRGB 0..1
    sh: np.ndarray | None = None  # [N, 3 | 8 | 15, 3]


def is_y_down(frame: Frame) -> bool:
    """Whether a file in `frame` has to be turned on its way to memory."""
    if frame not in ("y-down", "y-up"):
        raise ValueError(
            f'The frame of a file is "y-down" (3DGS) or "y-up" (original LGM), got {frame!r}.'
        )
    return frame == "y-down"


def from_columns(name: str, columns: Columns, *, y_down: bool) -> Gaussians:
    """Gaussians [1, N, ..] (float32, CPU, y-up) from what a file holds.

    Colors are clamped to 0..1, unless there is `sh`: beside higher bands a base color may well lie
    outside. A quaternion of length zero becomes the identity (some exporters write zeros for round
    Gaussians).

    Args:
        name: what to call the file in messages.
        columns: activated values, of any float type; rotations need not be normalized.
        y_down: the file is in the 3DGS frame.

    Raises:
        ValueError: NaN, infinite or negative values, opacities outside 0..1.
    """
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused
        columns = Columns(*(np.array(c, np.float32, order="C") for c in columns if c is not None))
    for names, column in zip(NAMES, columns[:5], strict=True):
        require_finite(name, names, column)
    if columns.sh is not None:
        values = columns.sh.reshape(len(columns.sh), -1)
        require_finite(name, ("a higher band",) * values.shape[1], values)
    negative = int((columns.scales < 0).sum())
    if negative:
        raise ValueError(f"{name} has {negative:,} negative scales: a size can't be below zero.")
    outside = int(((columns.opacities < -1e-3) | (columns.opacities > 1 + 1e-3)).sum())
    if outside:
        raise ValueError(f"{name} has {outside:,} opacities outside 0..1.")
    columns = columns._replace(
        opacities=columns.opacities.clip(0, 1),
        rotations=normalize(columns.rotations),
        colors=columns.colors.clip(0, 1) if columns.sh is None else columns.colors,
    )
    gaussians = Gaussians(*(torch.from_numpy(c)[None] for c in columns if c is not None))
    return flip_y_z(gaussians) if y_down else gaussians


def to_columns(gaussians: Gaussians, *, y_down: bool) -> Columns:
    """The columns of a file: one object in float32, without Gaussians fainter than 0.005.

    Raises:
        ValueError: a batch other than one, NaN or infinite values, or nothing left to write.
    """
    if gaussians.batch_size != 1:
        raise ValueError(
            f"A splat file holds one object, got a batch of {gaussians.batch_size}: "
            "write each item(i) to its own file."
        )
    record = gaussians.detach().to("cpu", torch.float32)
    for key, value in record.tensors().items():
        bad = int((~value.isfinite()).sum())
        if bad:
            raise ValueError(
                f"Gaussians have {bad:,} NaN or infinite values in {key}: not written."
            )
    record = record.visible()
    if not record.count:
        raise ValueError(
            f"None of {gaussians.count:,} Gaussians has an opacity of 0.005 or more: not written."
        )
    record = flip_y_z(record) if y_down else record
    return Columns(**{key: value[0].numpy() for key, value in record.tensors().items()})


def require_finite(name: str, names: Sequence[str], values: np.ndarray) -> None:
    """Refuse NaN and infinity in `values` [N, len(names)], naming the first column with any."""
    bad = (~np.isfinite(values)).sum(axis=0)
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(
            f"{name} has {int(bad[first]):,} NaN or infinite values in {names[first]} "
            f"({len(values):,} Gaussians): every value has to be a finite number."
        )


def normalize(rotations: np.ndarray) -> np.ndarray:
    """[N, 4] unit quaternions, float32; the identity where there was no direction."""
    rotations = rotations.astype(np.float64)  # squares of large float32 values overflow
    lengths = np.linalg.norm(rotations, axis=-1, keepdims=True)
    unit = np.where(lengths > 0, rotations / np.where(lengths > 0, lengths, 1), (1, 0, 0, 0))
    return unit.astype(np.float32)
