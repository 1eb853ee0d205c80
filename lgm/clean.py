"""Which Gaussians of a splat to keep: faint, huge, stray and surplus ones found, crops, extent.

Made for splats from anywhere: any count, place, scale and turn gives the same answer. Nothing here
changes a record: every function returns a mask [N] (bool, on the device of its input), for
`Gaussians.select`. The arithmetic is float64 on the CPU, as neighbor searches need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from .gaussians import Gaussians
from .render.projection import MIN_ALPHA, rotation_matrices

NEIGHBORS = 16
CHUNK = 1 << 16  # neighbor searches per call: about 0.2 s between two looks at `check`
CELLS_PER_RADIUS = 64  # gaps of 1.5 to 3 % of the splat's radius part two clusters
ALONE = 0.25  # part of the opacity that may be alone in its cell: more, and surfaces get gaps
REACH = 1.5  # standard deviations; two Gaussians this large that touch look like one thing

Check = Callable[[], None]


def keep_mask(
    gaussians: Gaussians,
    min_opacity: float = 0.0,
    max_scale: float = 0.0,
    outliers: float = 0.0,
    largest_cluster: bool = False,
    budget: int = 0,
    check: Check | None = None,
) -> Tensor:
    """What is left when everything unwanted is gone; each step looks only at what the one before
    it kept. An option that is 0 or False does nothing.

    Args:
        gaussians: a batch of one.
        min_opacity: fainter ones go, 0..1.
        max_scale: ones with a larger standard deviation go, as a fraction of `extent`'s radius.
        outliers: see `outlier_mask`; 3 takes clear strays, less takes more.
        largest_cluster: see `cluster_mask`.
        budget: at most so many stay, see `budget_mask`.
        check: called between the steps and within the long ones; may raise to give up.

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
    check = check or _nothing
    # The order: cheap before dear, and what is removed early no longer counts as a neighbor, a
    # bridge between clusters, or a rival for the budget.
    steps = [
        (min_opacity, lambda p, o, s, r: opacity_mask(o, min_opacity)),
        (max_scale, lambda p, o, s, r: scale_mask(p, o, s, max_scale)),
        (outliers, lambda p, o, s, r: outlier_mask(p, outliers, check)),
        (largest_cluster, lambda p, o, s, r: cluster_mask(p, o, s, r, check)),
        (budget, lambda p, o, s, r: budget_mask(p, o, s, budget)),
    ]
    steps = [step for is_on, step in steps if is_on]
    keep = torch.ones(gaussians.count, dtype=torch.bool)
    if not steps:
        return keep.to(gaussians.device)
    columns = [
        column[0].detach().cpu()
        for column in (
            gaussians.positions,
            gaussians.opacities,
            gaussians.scales,
            gaussians.rotations,
        )
    ]
    for column in columns:
        keep &= column.isfinite().all(-1)
    for step in steps:
        check()
        kept = keep.nonzero()[:, 0]
        if len(kept):
            keep[kept] = step(*(column[kept] for column in columns))
    return keep.to(gaussians.device)


def _nothing() -> None:
    pass


# Single rules -------------------------------------------------------------------------------


def opacity_mask(opacities: Tensor, minimum: float) -> Tensor:
    """Opacities [N, 1] of at least `minimum`."""
    return opacities[:, 0] >= minimum


def scale_mask(positions: Tensor, opacities: Tensor, scales: Tensor, maximum: float) -> Tensor:
    """Gaussians whose largest standard deviation is at most `maximum` times the splat's radius (see
    `extent`): 0.1 removes what blurs over a tenth of the object.
    """
    _, radius = _extent(_array(positions), _array(opacities)[:, 0], _array(scales))
    return scales.double().amax(-1) <= maximum * radius


def outlier_mask(positions: Tensor, deviations: float, check: Check = _nothing) -> Tensor:
    """Gaussians about as close to their neighbors as is usual in this splat: statistical outlier
    removal (Rusu et al. 2008) on the mean distance to the nearest NEIGHBORS other places.

    The distances' logarithm is compared with its median, in standard deviations told from the
    median absolute deviation: detail is packed 100 times denser than plain areas in many splats,
    and plain areas are no outliers, nor may the outliers themselves widen what is usual.

    Args:
        positions: [N, 3].
        deviations: what lies further out goes; fewer removes more.
    """
    keep = torch.ones(len(positions), dtype=torch.bool, device=positions.device)
    # Equal places count once: a tree can't split them, so thousands of them would take for ever.
    places, place_of = _unique_rows(_array(positions))
    neighbors = min(NEIGHBORS, len(places) - 1)
    if neighbors < 2:
        return keep
    distances = np.empty(len(places))
    for chunk, near, _ in _nearest(places, np.arange(len(places)), neighbors, check):
        distances[chunk] = near.mean(1)
    logs = np.log(distances)[place_of]
    offset = logs - np.median(logs)
    # 1.4826: from median absolute to standard deviation. At least 0.2, since in an even grid
    # nothing deviates, and its border, 1.5 times as sparse, is no outlier for that.
    spread = max(1.4826 * np.median(np.abs(offset)), 0.2)
    return keep & _mask(offset <= deviations * spread, positions)


def cluster_mask(
    positions: Tensor,
    opacities: Tensor,
    scales: Tensor,
    rotations: Tensor,
    check: Check = _nothing,
) -> Tensor:
    """The largest connected part: by the sum of opacities, since splats spend Gaussians where there
    is something to see, while by volume a single large haze would win over the object.

    Space is cut into cells of 1/64 of the splat's radius, or more if its typical Gaussian is larger
    or its Gaussians lie further apart; cells that touch are connected. So are Gaussians larger than
    a cell and their neighbors, if their ellipsoids touch. Gaussians too faint to be drawn connect
    nothing and go.

    Args:
        positions: [N, 3].
        opacities: [N, 1].
        scales: [N, 3].
        rotations: [N, 4].
    """
    visible = _visible(_array(opacities)[:, 0])
    points, weights = _array(positions)[visible], _array(opacities)[visible, 0]
    sizes = np.sort(_array(scales)[visible], axis=1)
    center, radius = _extent(points, weights, sizes)
    points = points - center
    cell = max(radius / CELLS_PER_RADIUS, 2 * _quantile(sizes[:, 1], weights, 0.5))
    if not cell > 0:  # everything at one place
        return _mask(visible, positions)
    check()
    cells, cell_of, cell = _occupied_cells(points, weights, radius, cell)
    check()
    cluster_of = _components(len(cells), _touching(cells))[cell_of]
    check()
    if cluster_of.max() > 0:
        shapes = _array(scales)[visible], _array(rotations)[visible]
        links = _bridges(points, *shapes, cluster_of, cell, check)
        cluster_of = _components(cluster_of.max() + 1, links)[cluster_of]
    # Whole steps add up to the same sum in any order.
    totals = np.bincount(cluster_of, np.rint(weights * 2**20))
    best = np.flatnonzero(totals == totals.max())
    if len(best) > 1:  # the one that comes closest to the middle
        ties = np.isin(cluster_of, best)
        nearest = np.argmin(np.where(ties, _lengths(points), np.inf))
        best = cluster_of[nearest]
    keep = np.zeros(len(visible), bool)
    keep[visible] = cluster_of == best
    return _mask(keep, positions)


def budget_mask(positions: Tensor, opacities: Tensor, scales: Tensor, count: int) -> Tensor:
    """The `count` Gaussians that cover most of a picture: `importance`, highest first.

    Equals are thinned out evenly by a number that only their distance from the splat's middle
    tells, so that the outcome hangs on nothing else.
    """
    if count >= len(positions):
        return torch.ones(len(positions), dtype=torch.bool, device=positions.device)
    values = _array(importance(opacities, scales))
    threshold = np.partition(values, -count)[-count]
    keep = values > threshold
    tied = np.flatnonzero(values == threshold)
    points = _array(positions)
    distances = _lengths(points - np.average(points, axis=0))
    shuffled = (distances[tied] / max(distances.mean(), np.finfo(float).tiny) * 997) % 1
    order = np.lexsort([*points[tied].T, shuffled])
    keep[tied[order[: count - keep.sum()]]] = True
    return _mask(keep, positions)


def importance(opacities: Tensor, scales: Tensor) -> Tensor:
    """[N]: opacity times the mean area of the ellipsoid's shadow over all directions.

    That area is a quarter of the surface (Cauchy), for which Thomsen's formula is 1 % off at most.
    """
    a, b, c = scales.double().unbind(-1)
    p = 1.6075
    area = torch.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    return opacities[:, 0].double() * area


# Crops --------------------------------------------------------------------------------------


def box_mask(
    positions: Tensor,
    center: Sequence[float] | Tensor,
    size: Sequence[float] | Tensor,
    rotation_degrees: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> Tensor:
    """Positions [N, 3] in a box, its border included.

    Args:
        center: [3], world units, +y up.
        size: [3], the full lengths of the edges.
        rotation_degrees: [3], turns about the world's x, then y, then z axis through the center.

    Raises:
        ValueError: an edge below 0.
    """
    center, size, angles = (
        torch.as_tensor(value, dtype=torch.float64).cpu()
        for value in (center, size, rotation_degrees)
    )
    if not (size >= 0).all():
        raise ValueError(f"A box needs edges of 0 or longer, got {size.tolist()}.")
    x, y, z = torch.deg2rad(angles).unbind()
    turn = _turn(z, 0, 1) @ _turn(y, 2, 0) @ _turn(x, 1, 2)
    local = (positions.double() - center.to(positions.device)) @ turn.to(positions.device)
    return (local.abs() <= size.to(positions.device) / 2).all(-1)


def _turn(angle: Tensor, first: int, second: int) -> Tensor:
    """[3, 3]: a turn by `angle` radians from axis `first` towards axis `second`."""
    turn = torch.eye(3, dtype=torch.float64)
    turn[first, first] = turn[second, second] = angle.cos()
    turn[second, first], turn[first, second] = angle.sin(), -angle.sin()
    return turn


def sphere_mask(positions: Tensor, center: Sequence[float] | Tensor, radius: float) -> Tensor:
    """Positions [N, 3] in a sphere (center [3], world units, +y up), its border included.

    Raises:
        ValueError: a radius below 0.
    """
    if not radius >= 0:
        raise ValueError(f"A sphere needs a radius of 0 or more, got {radius}.")
    center = torch.as_tensor(center, dtype=torch.float64, device=positions.device)
    return (positions.double() - center).norm(dim=-1) <= radius


# Extent -------------------------------------------------------------------------------------


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
        _array(column[0]) for column in (gaussians.positions, gaussians.opacities, gaussians.scales)
    ]
    finite = np.all([np.isfinite(column).all(1) for column in columns], axis=0)
    if not finite.any():
        raise ValueError("An extent needs one Gaussian at least, got an empty splat.")
    positions, opacities, scales = (column[finite] for column in columns)
    center, radius = _extent(positions, opacities[:, 0], scales)
    return torch.from_numpy(center).float(), radius


def _extent(
    positions: np.ndarray, opacities: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, float]:
    visible = _visible(opacities)
    points, weights = positions[visible], opacities[visible]
    if not weights.any():
        weights = np.ones(len(weights))
    median = _geometric_median(points, weights)
    distances = _lengths(points - median)
    most, nearly_all = _quantile(distances, weights, (0.75, 0.98))
    part = distances <= min(5 * most, 1.3 * nearly_all)
    part &= weights >= 0.1 * _quantile(weights, weights, 0.5)  # a faint veil is no border
    center, radius = _smallest_ball(points[part] - median)
    typical = _quantile(scales[visible][part].max(1), weights[part], 0.5)
    return center + median, float(radius + 2 * typical)


def _visible(opacities: np.ndarray) -> np.ndarray:
    """[N] bool: opaque enough to be drawn at all, or everything if nothing is."""
    visible = opacities >= MIN_ALPHA
    return visible if visible.any() else np.ones(len(opacities), bool)


def _geometric_median(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[3]: the place with the least sum of distances, nearly (Weiszfeld's steps). Unlike the mean
    it hardly notices floaters; unlike medians per axis it turns along.
    """
    median = np.average(points, axis=0, weights=weights)
    for _ in range(12):
        distances = _lengths(points - median)
        floor = distances.mean() * 1e-6
        if not floor > 0:
            break
        median = np.average(points, axis=0, weights=weights / np.maximum(distances, floor))
    return median


def _quantile(values: np.ndarray, weights: np.ndarray, part) -> np.ndarray:
    """The least of `values` that, with all below it, holds `part` (or parts) of the weight."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    index = np.searchsorted(total, np.multiply(part, total[-1]))
    return values[order[np.minimum(index, len(order) - 1)]]


def _smallest_ball(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Center and radius of the smallest ball around points [N, 3].

    At most four points on its surface decide it. The point that sticks out most is exchanged for
    one of them until none does; each exchange makes the ball larger, so that this ends.
    """
    start = points[_lengths(points).argmax()]
    deciding, center, radius = start[None], start, 0.0
    while True:
        distances = _lengths(points - center)
        furthest = distances.argmax()
        if distances[furthest] <= radius * (1 + 1e-9):
            return center, radius
        candidates = np.concatenate([deciding, points[furthest][None]])
        ball = min(_balls_around(candidates), key=lambda ball: ball[1], default=None)
        if ball is None or ball[1] <= radius:  # rounding has the last word
            return center, distances[furthest]
        center, radius, deciding = ball


def _balls_around(points: np.ndarray):
    """Balls (center, radius, deciding points) that hold all of points [M, 3], 2 to 4 of them on the
    surface, in the plane or line of these.
    """
    for count in range(2, min(len(points), 4) + 1):
        for chosen in map(list, combinations(range(len(points)), count)):
            edges = points[chosen[1:]] - points[chosen[0]]
            squares = (edges * edges).sum(1)
            along = np.linalg.lstsq(2 * edges @ edges.T, squares, rcond=None)[0]
            center = points[chosen[0]] + along @ edges
            radius = np.linalg.norm(center - points[chosen[0]])
            if (_lengths(points - center) <= radius * (1 + 1e-9)).all():
                yield center, radius, points[chosen]


# Neighbors ----------------------------------------------------------------------------------


def _nearest(points: np.ndarray, queries: np.ndarray, count: int, check: Check):
    """Per chunk of `queries` (indices): the chunk, and distances and indices [M, count] of the
    nearest others.
    """
    tree = cKDTree(points)
    check()
    # In the tree's own order, one search finds in the cache what the last one read: 3 times faster.
    rank = np.empty(len(points), np.int64)
    rank[tree.indices] = np.arange(len(points))
    queries = queries[np.argsort(rank[queries])]
    for start in range(0, len(queries), CHUNK):
        chunk = queries[start : start + CHUNK]
        distances, indices = tree.query(points[chunk], k=count + 1, workers=-1)
        check()
        yield chunk, distances[:, 1:], indices[:, 1:]  # the first is the point itself


def _unique_rows(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of [N, 3], and for each of the N the index of its row."""
    order = np.lexsort(points.T)
    ordered = points[order]
    is_new = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(1)])
    row_of = np.empty(len(points), np.int64)
    row_of[order] = np.cumsum(is_new) - 1
    return ordered[is_new], row_of


def _occupied_cells(
    points: np.ndarray, weights: np.ndarray, radius: float, cell: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The cells of a grid that hold points [N, 3] around the splat's center: sorted keys [M], the
    index among these of each point [N], and the cells' size: `cell`, or more where that would leave
    too many points alone.

    The grid lies along the splat's own principal axes, so that it turns with it, and the center is
    a corner, so that an axis pointing the other way gives the same cells.
    """
    inner = points[_lengths(points) <= radius]
    _, axes = np.linalg.eigh(inner.T @ inner)
    along_axes = points @ axes
    limit = 1 << 20
    while True:
        index = np.floor(along_axes / cell).clip(2 - limit, limit - 2).astype(np.int64) + limit
        cells, cell_of, counts = np.unique(
            index @ _STRIDES, return_inverse=True, return_counts=True
        )
        alone = weights[counts[cell_of] == 1].sum()
        if cell >= radius or alone <= ALONE * weights.sum():
            return cells, cell_of, cell
        cell *= 2**0.5


_STRIDES = np.array([1 << 42, 1 << 21, 1])


def _touching(cells: np.ndarray) -> np.ndarray:
    """Pairs [P, 2] of indices of sorted cell keys that share a face, edge or corner."""
    pairs = []
    for offset in np.ndindex(3, 3, 3):
        step = (np.array(offset) - 1) @ _STRIDES
        if step > 0:  # the other half finds the same pairs
            place = np.searchsorted(cells, cells + step).clip(max=len(cells) - 1)
            found = np.flatnonzero(cells[place] == cells + step)
            pairs.append(np.stack([found, place[found]], axis=1))
    return np.concatenate(pairs)


def _bridges(
    points: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    cluster_of: np.ndarray,
    cell: float,
    check: Check,
) -> np.ndarray:
    """Pairs [P, 2] of clusters that are joined by Gaussians larger than the cells.

    Trained splats cover plain areas with few large flat Gaussians, whose centers leave empty cells.
    """
    reach = REACH * scales.max(1)
    large = np.flatnonzero(2 * reach > cell)
    pairs = [np.empty((0, 2), np.int64)]
    neighbors = min(NEIGHBORS, len(points) - 1)
    for chunk, distances, others in _nearest(points, large, neighbors, check):
        near = distances <= reach[chunk][:, None] + reach[others]
        row, column = np.nonzero(near & (cluster_of[chunk][:, None] != cluster_of[others]))
        one, other = chunk[row], others[row, column]
        way = points[other] - points[one]
        length = _lengths(way)
        deviations = 0
        for i in (one, other):
            axes = rotation_matrices(torch.from_numpy(rotations[i])).numpy()
            along = np.einsum("nij,ni->nj", axes, way / length[:, None])
            deviations = deviations + _lengths(scales[i] * along)
        linked = length <= REACH * deviations
        pairs.append(np.stack([cluster_of[one], cluster_of[other]], axis=1)[linked])
    return np.concatenate(pairs)


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Labels [count], 0 and up, of the connected components that `pairs` [P, 2] make."""
    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _mask(keep: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(keep).to(like.device)
