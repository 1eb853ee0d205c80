"""Connected clusters of Gaussians."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..machine.interrupt import between_steps
from ..rotations import rotation_matrices
from .extent import quantile, sphere_of, visible_mask
from .neighbors import NEIGHBORS, array, as_mask, lengths, nearest

CELLS_PER_RADIUS = 64  # gaps of 1.5 to 3 % of the splat's radius part two clusters
ALONE = 0.25  # part of the opacity that may be alone in its cell: more, and surfaces get gaps
REACH = 1.5  # standard deviations; Gaussians that touch at this size are connected


def cluster_mask(positions: Tensor, opacities: Tensor, scales: Tensor, rotations: Tensor) -> Tensor:
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
    visible = visible_mask(array(opacities)[:, 0])
    points, weights = array(positions)[visible], array(opacities)[visible, 0]
    sizes = np.sort(array(scales)[visible], axis=1)
    center, radius = sphere_of(points, weights, sizes)
    points = points - center
    cell = max(radius / CELLS_PER_RADIUS, 2 * quantile(sizes[:, 1], weights, 0.5))
    if not cell > 0:  # everything at one point
        return as_mask(visible, positions)
    between_steps()
    cells, cell_of, cell = _occupied_cells(points, weights, radius, cell)
    between_steps()
    cluster_of = _components(len(cells), _touching(cells))[cell_of]
    between_steps()
    if cluster_of.max() > 0:
        shapes = array(scales)[visible], array(rotations)[visible]
        links = _bridges(points, *shapes, cluster_of, cell)
        cluster_of = _components(cluster_of.max() + 1, links)[cluster_of]
    # Whole steps add up to the same sum in any order.
    totals = np.bincount(cluster_of, np.rint(weights * 2**20))
    best = np.flatnonzero(totals == totals.max())
    if len(best) > 1:  # the one that comes closest to the middle
        ties = np.isin(cluster_of, best)
        nearest = np.argmin(np.where(ties, lengths(points), np.inf))
        best = cluster_of[nearest]
    keep = np.zeros(len(visible), bool)
    keep[visible] = cluster_of == best
    return as_mask(keep, positions)


def _occupied_cells(
    points: np.ndarray, weights: np.ndarray, radius: float, cell: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The cells of a grid that hold points [N, 3] around the splat's center: sorted keys [M], the
    index among these of each point [N], and the cells' size: `cell`, or more where that would leave
    too many points alone.

    The grid lies along the splat's own principal axes, so that it turns with it, and the center is
    a corner, so that an axis pointing the other way gives the same cells.
    """
    inner = points[lengths(points) <= radius]
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
            index = np.searchsorted(cells, cells + step).clip(max=len(cells) - 1)
            found = np.flatnonzero(cells[index] == cells + step)
            pairs.append(np.stack([found, index[found]], axis=1))
    return np.concatenate(pairs)


def _bridges(
    points: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    cluster_of: np.ndarray,
    cell: float,
) -> np.ndarray:
    """Pairs [P, 2] of clusters that are joined by Gaussians larger than the cells.

    Trained splats cover plain areas with few large flat Gaussians, whose centers leave empty cells.
    """
    reach = REACH * scales.max(1)
    large = np.flatnonzero(2 * reach > cell)
    pairs = [np.empty((0, 2), np.int64)]
    neighbors = min(NEIGHBORS, len(points) - 1)
    for chunk, distances, others in nearest(points, large, neighbors):
        near = distances <= reach[chunk][:, None] + reach[others]
        row, column = np.nonzero(near & (cluster_of[chunk][:, None] != cluster_of[others]))
        one, other = chunk[row], others[row, column]
        way = points[other] - points[one]
        length = lengths(way)
        deviations = 0
        for i in (one, other):
            axes = rotation_matrices(torch.from_numpy(rotations[i])).numpy()
            along = np.einsum("nij,ni->nj", axes, way / length[:, None])
            deviations = deviations + lengths(scales[i] * along)
        linked = length <= REACH * deviations
        pairs.append(np.stack([cluster_of[one], cluster_of[other]], axis=1)[linked])
    return np.concatenate(pairs)


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Labels [count], 0 and up, of the connected components that `pairs` [P, 2] make."""
    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
