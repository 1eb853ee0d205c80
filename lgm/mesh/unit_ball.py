"""The splat moved into the unit ball, and the grid that its surface is found on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..gaussians import Gaussians
from ..machine.interrupt import between_steps
from ..render.projection import MIN_ALPHA
from ..splats.extent import extent

LEAST_RESOLUTION = 16
REACH = 1.05  # of the splat's radius: what lies further out is no part of the object
EXTENT_OF = 100_000  # Gaussians at most: more of them do not tell the size better
OPAQUE = 0.5  # coverage from which on a pixel shows the object


@dataclass(frozen=True)
class Grid:
    origin: Tensor  # [3], where the first value lies
    voxel: float
    shape: tuple[int, int, int]  # multiples of COARSE


NOTHING_OPAQUE = (
    f"A mesh needs Gaussians that cover {OPAQUE:.0%} of a pixel together, but pictures of this "
    "splat show nothing so dense: check its opacities and scales."
)


def check_resolution(resolution: int) -> None:
    if not resolution >= LEAST_RESOLUTION:
        raise ValueError(
            f"A mesh needs a resolution of {LEAST_RESOLUTION} or more, got {resolution}."
        )


def in_unit_ball(gaussians: Gaussians) -> tuple[Gaussians, Tensor, float]:
    """The visible part, moved and scaled into the unit ball, with that ball's center and radius."""
    if gaussians.batch_size != 1:
        raise ValueError(
            f"A mesh is made of one object at a time, got a batch of {gaussians.batch_size}: "
            "use item()."
        )
    shape = replace(gaussians, sh=None)
    visible = shape.opacities[0, :, 0] >= MIN_ALPHA
    for tensor in shape.tensors().values():
        visible &= tensor[0].isfinite().all(-1)
    if not visible.any():
        fault = (
            f"all {gaussians.count} of this splat are fainter than {MIN_ALPHA:.3f} or not finite"
        )
        raise ValueError(
            "A mesh needs visible Gaussians, but "
            + (f"{fault}: check its opacities." if gaussians.count else "this splat is empty.")
        )
    shape = shape.select(visible)
    between_steps()
    center, radius = extent(shape.select(slice(None, None, shape.count // EXTENT_OF + 1)))
    between_steps()
    if not radius > 0:
        raise ValueError("A mesh needs Gaussians that fill some space, but these have no size.")
    positions = (shape.positions - center.to(shape.positions)) / radius
    shape = replace(shape, positions=positions, scales=shape.scales / radius).to(torch.float32)
    return shape.select(positions[0].norm(dim=-1) <= REACH), center, radius
