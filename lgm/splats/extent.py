"""Where a splat's visible matter is, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import overload

import numpy as np
import torch
from torch import Tensor

from ..gaussians import Gaussians
from ..render.projection import MIN_ALPHA
from .neighbors import array, lengths


def extent(gaussians: Gaussians) -> tuple[Tensor, float]:
    """Center ([3], float32, CPU) and radius of the sphere around what is visible of a batch of one.

    It is the smallest ball around the Gaussians' centers, plus two standard deviations of a typical
    Gaussian. Part of the splat is what lies, from its median on, within 1.3 times the distance that
    holds 98 % of all opacity, so that tips and tails count; and within 5 times the distance that
    holds 75 %, so that even many floaters don't.

    Raises:
        ValueError: more than one object, or no finite Gaussian in it.
    """
    if gaussians.batch_size != 1:
        raise ValueError(
            f"An extent needs one object at a time, got a batch of {gaussians.batch_size}: "
            "use item()."
        )
    columns = [
        array(column[0]) for column in (gaussians.positions, gaussians.opacities, gaussians.scales)
    ]
    finite = np.all([np.isfinite(column).all(1) for column in columns], axis=0)
    if not finite.any():
        raise ValueError("An extent needs one Gaussian at least, got an empty splat.")
    positions, opacities, scales = (column[finite] for column in columns)
    center, radius = sphere_of(positions, opacities[:, 0], scales)
    return torch.from_numpy(center).float(), radius


def sphere_of(
    positions: np.ndarray, opacities: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, float]:
    visible = visible_mask(opacities)
    points, weights = positions[visible], opacities[visible]
    if not weights.any():
        weights = np.ones(len(weights))
    median = _geometric_median(points, weights)
    distances = lengths(points - median)
    most, nearly_all = quantile(distances, weights, (0.75, 0.98))
    part = distances <= min(5 * most, 1.3 * nearly_all)
    part &= weights >= 0.1 * quantile(weights, weights, 0.5)  # a faint veil is no border
    center, radius = smallest_ball(points[part] - median)
    typical = quantile(scales[visible][part].max(1), weights[part], 0.5)
    return center + median, float(radius + 2 * typical)


def visible_mask(opacities: np.ndarray) -> np.ndarray:
    """[N] bool: opaque enough to be drawn at all, or everything if nothing is."""
    visible = opacities >= MIN_ALPHA
    return visible if visible.any() else np.ones(len(opacities), bool)


def _geometric_median(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The point [3] with about the least sum of distances (Weiszfeld's steps). Unlike the mean it
    hardly moves with floaters; unlike medians per axis it turns with the object.
    """
    median = np.average(points, axis=0, weights=weights)
    for _ in range(12):
        distances = lengths(points - median)
        floor = distances.mean() * 1e-6
        if not floor > 0:
            break
        median = np.average(points, axis=0, weights=weights / np.maximum(distances, floor))
    return median


@overload
def quantile(values: np.ndarray, weights: np.ndarray, part: float) -> float: ...
@overload
def quantile(values: np.ndarray, weights: np.ndarray, part: Sequence[float]) -> np.ndarray: ...
def quantile(values, weights, part):
    """The least of `values` that, with all below it, holds `part` (or parts) of the weight."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    index = np.searchsorted(total, np.multiply(part, total[-1]))
    return values[order[np.minimum(index, len(order) - 1)]]


def smallest_ball(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Center and radius of the smallest ball around points [N, 3].

    At most four points on its surface decide it. The point that sticks out most is exchanged for
    one of them until none does; each exchange makes the ball larger, so that this ends.
    """
    start = points[lengths(points).argmax()]
    deciding, center, radius = start[None], start, 0.0
    while True:
        distances = lengths(points - center)
        furthest = distances.argmax()
        if distances[furthest] <= radius * (1 + 1e-9):
            return center, radius
        candidates = np.concatenate([deciding, points[furthest][None]])
        ball = min(_balls_around(candidates), key=lambda ball: ball[1], default=None)
        if ball is None or ball[1] <= radius:  # smaller steps than rounding
            return center, distances[furthest]
        center, radius, deciding = ball


def _balls_around(points: np.ndarray):
    """Balls (center, radius, deciding points) that hold all of points [M, 3]: the smallest ones
    through 2 to 4 of them, so that the center lies in the line or plane that these span.
    """
    for count in range(2, min(len(points), 4) + 1):
        for chosen in map(list, combinations(range(len(points)), count)):
            edges = points[chosen[1:]] - points[chosen[0]]
            squares = (edges * edges).sum(1)
            along = np.linalg.lstsq(2 * edges @ edges.T, squares, rcond=None)[0]
            center = points[chosen[0]] + along @ edges
            radius = np.linalg.norm(center - points[chosen[0]])
            if (lengths(points - center) <= radius * (1 + 1e-9)).all():
                yield center, radius, points[chosen]
