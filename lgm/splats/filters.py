"""Which Gaussians of a splat to keep: faint, huge, stray and surplus ones found, crops, extent.

Made for splats from anywhere: count, position, scale and rotation don't change the answer. Nothing
here changes a record: every function returns a mask [N] (bool, on the device of its input), for
`Gaussians.select`. The arithmetic is float64 on the CPU, as neighbor searches need it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..gaussians import Gaussians
from ..machine.interrupt import between_steps
from .clusters import cluster_mask
from .extent import sphere_of
from .neighbors import NEIGHBORS, array, as_mask, lengths, nearest, unique_rows


def keep_mask(
    gaussians: Gaussians,
    min_opacity: float = 0.0,
    max_scale: float = 0.0,
    outliers: float = 0.0,
    largest_cluster: bool = False,
    budget: int = 0,
) -> Tensor:
    """Which Gaussians to keep; each step sees only what the one before it kept. An option that is 0
    or False does nothing.

    Args:
        gaussians: a batch of one.
        min_opacity: fainter ones go, 0..1.
        max_scale: ones with a larger standard deviation go, as a fraction of `extent`'s radius.
        outliers: see `outlier_mask`; 3 takes clear strays, less takes more.
        largest_cluster: see `cluster_mask`.
        budget: at most so many stay, see `budget_mask`.

    Returns:
        [N] bool. With any option on, Gaussians that are not finite go, too.

    Raises:
        ValueError: more than one object, or a setting below 0.
    """
    if gaussians.batch_size != 1:
        raise ValueError(
            f"Cleaning needs one object at a time, got a batch of {gaussians.batch_size}: "
            "use item()."
        )
    settings = {
        "min_opacity": min_opacity,
        "max_scale": max_scale,
        "outliers": outliers,
        "budget": budget,
    }
    for name, value in settings.items():
        if not value >= 0:
            raise ValueError(f"Cleaning needs {name} of 0 (off) or above, got {value}.")
    # The order: cheap before dear, and what is removed early no longer counts as a neighbor, a
    # bridge between clusters, or a rival for the budget.
    steps = [
        (min_opacity, lambda it: opacity_mask(it.opacities[0], min_opacity)),
        (max_scale, lambda it: scale_mask(*_sizes(it), max_scale)),
        (outliers, lambda it: outlier_mask(it.positions[0], outliers)),
        (largest_cluster, lambda it: cluster_mask(*_sizes(it), it.rotations[0])),
        (budget, lambda it: budget_mask(*_sizes(it), budget)),
    ]
    steps = [step for is_on, step in steps if is_on]
    keep = torch.ones(gaussians.count, dtype=torch.bool)
    if not steps:
        return keep.to(gaussians.device)
    shapes = replace(gaussians, sh=None).map(lambda tensor: tensor.detach().cpu())
    for column in (*_sizes(shapes), shapes.rotations[0]):
        keep &= column.isfinite().all(-1)
    for step in steps:
        between_steps()
        kept = keep.nonzero()[:, 0]
        if len(kept):
            keep[kept] = step(shapes.select(kept))
    return keep.to(gaussians.device)


def _sizes(gaussians: Gaussians) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, opacities and scales of one object."""
    return gaussians.positions[0], gaussians.opacities[0], gaussians.scales[0]


def opacity_mask(opacities: Tensor, minimum: float) -> Tensor:
    """Opacities [N, 1] of at least `minimum`."""
    return opacities[:, 0] >= minimum


def scale_mask(positions: Tensor, opacities: Tensor, scales: Tensor, maximum: float) -> Tensor:
    """Gaussians whose largest standard deviation is at most `maximum` times the splat's radius (see
    `extent`): 0.1 removes what blurs over a tenth of the object.
    """
    _, radius = sphere_of(array(positions), array(opacities)[:, 0], array(scales))
    return scales.double().amax(-1) <= maximum * radius


def outlier_mask(positions: Tensor, deviations: float) -> Tensor:
    """Gaussians about as close to their neighbors as is usual in this splat: statistical outlier
    removal (Rusu et al. 2008) on the mean distance to the nearest NEIGHBORS other places.

    The distances' logarithm is compared with its median, in standard deviations estimated from the
    median absolute deviation: detail is packed 100 times denser than plain areas in many splats,
    and plain areas are no outliers, nor may the outliers themselves widen what is usual.

    Args:
        positions: [N, 3].
        deviations: what lies further out goes; fewer removes more.
    """
    keep = torch.ones(len(positions), dtype=torch.bool, device=positions.device)
    # Equal places count once: a tree can't split them, so thousands of them would take for ever.
    places, place_of = unique_rows(array(positions))
    neighbors = min(NEIGHBORS, len(places) - 1)
    if neighbors < 2:
        return keep
    distances = np.empty(len(places))
    for chunk, near, _ in nearest(places, np.arange(len(places)), neighbors):
        distances[chunk] = near.mean(1)
    logs = np.log(distances)[place_of]
    offset = logs - np.median(logs)
    # 1.4826: from median absolute to standard deviation. At least 0.2, since in an even grid
    # nothing deviates, and its border, 1.5 times as sparse, is no outlier for that.
    spread = max(1.4826 * np.median(np.abs(offset)), 0.2)
    return keep & as_mask(offset <= deviations * spread, positions)


def budget_mask(positions: Tensor, opacities: Tensor, scales: Tensor, count: int) -> Tensor:
    """The `count` Gaussians that cover most of a picture: `importance`, highest first.

    Equals are thinned out evenly by a number that only their distance from the splat's middle
    tells, so that the outcome hangs on nothing else.
    """
    if count >= len(positions):
        return torch.ones(len(positions), dtype=torch.bool, device=positions.device)
    values = array(importance(opacities, scales))
    threshold = np.partition(values, -count)[-count]
    keep = values > threshold
    tied = np.flatnonzero(values == threshold)
    points = array(positions)
    distances = lengths(points - np.average(points, axis=0))
    shuffled = (distances[tied] / max(distances.mean(), np.finfo(float).tiny) * 997) % 1
    order = np.lexsort([*points[tied].T, shuffled])
    keep[tied[order[: count - keep.sum()]]] = True
    return as_mask(keep, positions)


def importance(opacities: Tensor, scales: Tensor) -> Tensor:
    """[N]: opacity times the mean area of the ellipsoid's shadow over all directions.

    That area is a quarter of the surface (Cauchy), for which Thomsen's formula is 1 % off at most.
    """
    a, b, c = scales.double().unbind(-1)
    p = 1.6075
    area = torch.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    return opacities[:, 0].double() * area
