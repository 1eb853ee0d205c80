"""Fewer triangles for a closed surface, by collapsing the edges that matter least.

Garland and Heckbert's quadrics (1997). Many edges far enough apart collapse at once, so that numpy
does it in seconds; an edge whose collapse would pinch the surface or flip a face stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PASSES = 5  # choices of edges for each sorting of all: few edges are each other's best
CANDIDATES = 0.25  # part of the edges, the cheapest ones, that may go in one round
STIFFNESS = 1e-3  # pulls towards an edge's middle where flat surroundings leave the place open
LEAST_TURN = 0.2  # cosine between a face's normals before and after

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of a symmetric 3x3 matrix


def decimate(
    vertices: np.ndarray, faces: np.ndarray, target_faces: int, check: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of about the same surface, still closed, with `target_faces` at most
    unless the surface can't be kept whole with so few.

    Args:
        vertices: [V, 3].
        faces: [F, 3], of a closed surface: each edge once in each direction.
        check: called in each round.
    """
    vertices, faces = vertices.astype(np.float64), faces.astype(np.int64)
    middle = vertices.mean(0)  # the quadrics' digits are best near the origin
    vertices -= middle
    quadrics = _quadrics(vertices, faces)
    part = CANDIDATES
    while len(faces) > target_faces:
        check()
        removed = _round(vertices, faces, quadrics, part, (len(faces) - target_faces + 1) // 2)
        if removed is None and part == 1:
            break
        part = 1 if removed is None else CANDIDATES
        faces = faces if removed is None else removed
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used] + middle, faces.reshape(-1, 3)


def _round(vertices, faces, quadrics, part: float, limit: int) -> np.ndarray | None:
    """The faces after at most `limit` collapses, None if there were none. `vertices` and
    `quadrics` follow in place.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = edges[edges[:, 0] < edges[:, 1]]
    edges, places = _cheapest(vertices, quadrics, edges, max(int(part * len(edges)), 1))
    chosen = _apart(edges, faces, len(vertices))
    chosen = chosen[_keeps_manifold(edges[chosen], faces, len(vertices))]
    chosen = chosen[_flips_nothing(edges[chosen], places[chosen], vertices, faces)][:limit]
    if not len(chosen):
        return None
    stay, go = edges[chosen].T
    vertices[stay] = places[chosen]
    quadrics[stay] += quadrics[go]
    target = np.arange(len(vertices))
    target[go] = stay
    faces = target[faces]
    a, b, c = faces[:, 0], faces[:, 1], faces[:, 2]
    return faces[(a != b) & (b != c) & (c != a)]


def _quadrics(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[V, 10]: squared distances from the planes of the faces around, by area: the matrix (6), the
    vector (3) and the constant.
    """
    a, b, c = (vertices[corner] for corner in faces.T)
    normals = np.cross(b - a, c - a)
    areas = np.sqrt((normals**2).sum(1))
    normals /= np.maximum(areas, 1e-30)[:, None]
    offsets = -(normals * a).sum(1)
    columns = [normals[:, i] * normals[:, j] for i, j in _PAIRS]
    columns += [normals[:, i] * offsets for i in range(3)] + [offsets**2]
    corners = faces.T.reshape(-1)
    return np.stack(
        [np.bincount(corners, np.tile(areas * x, 3), len(vertices)) for x in columns], axis=1
    )


def _cheapest(vertices, quadrics, edges, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` edges of [E, 2] that cost least, in order, and where they should collapse to."""
    start, end = vertices[edges[:, 0]], vertices[edges[:, 1]]
    middles = (start + end) / 2
    lengths = _squares(start - end)
    sums = np.ascontiguousarray((quadrics[edges[:, 0]] + quadrics[edges[:, 1]]).T)
    # In flat surroundings the shortest go first, so that faces keep their shape.
    slow = STIFFNESS * (sums[0] + sums[3] + sums[5]) + 1e-30
    costs = _costs(sums, middles) + slow * lengths
    if count < len(edges):  # the middle tells well enough which are out of the question
        some = np.argpartition(costs, count)[:count]
        some.sort()
        edges, middles, lengths = edges[some], middles[some], lengths[some]
        sums, slow = sums[:, some], slow[some]
    places = _least(sums, middles, slow)
    stray = ~(_squares(places - middles) <= lengths)  # further than the edge is long
    places[stray] = middles[stray]
    order = np.argsort(_costs(sums, places) + slow * lengths, kind="stable")
    return edges[order], places[order]


def _costs(sums: np.ndarray, places: np.ndarray) -> np.ndarray:
    """[E] sums of squared distances of places [E, 3] from the planes of quadrics [10, E]."""
    x, y, z = np.ascontiguousarray(places.T)
    xx, xy, xz, yy, yz, zz, dx, dy, dz, constant = sums
    costs = x * (xx * x + 2 * (xy * y + xz * z + dx)) + y * (yy * y + 2 * (yz * z + dy))
    return np.maximum(costs + z * (zz * z + 2 * dz) + constant, 0)


def _least(sums: np.ndarray, middles: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
    """[E, 3] where quadrics [10, E] are least, drawn a little to the middles: by Cramer's rule."""
    xx, xy, xz, yy, yz, zz = sums[:6]
    xx, yy, zz = xx + stiffness, yy + stiffness, zz + stiffness
    r, s, t = stiffness * middles.T - sums[6:9]
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    places = np.stack([a * r + b * s + c * t, b * r + d * s + e * t, c * r + e * s + f * t], axis=1)
    return places / np.maximum(xx * a + xy * b + xz * c, 1e-300)[:, None]


def _squares(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", vectors, vectors)


def _apart(edges: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """Indices of sorted edges, cheapest first, such that no face touches two of them."""
    a, b, c = np.ascontiguousarray(faces.T)
    one, other = np.ascontiguousarray(edges.T)
    taken = np.zeros(count, bool)
    chosen = np.zeros(len(edges), bool)
    ranks = np.arange(len(edges))
    for _ in range(PASSES):
        ranks = ranks[~(taken[one[ranks]] | taken[other[ranks]])]
        best = np.full(count, len(edges))
        np.minimum.at(best, one[ranks], ranks)
        np.minimum.at(best, other[ranks], ranks)
        around = best.copy()
        least = np.minimum(np.minimum(best[a], best[b]), best[c])
        for corner in (a, b, c):
            np.minimum.at(around, corner, least)
        picked = ranks[(around[one[ranks]] == ranks) & (around[other[ranks]] == ranks)]
        if not len(picked):
            break
        chosen[picked] = True
        # Faces at a chosen edge are taken, and so is every edge that one of these faces touches.
        ends = np.zeros(count, bool)
        ends[one[picked]] = ends[other[picked]] = True
        taken[faces[ends[a] | ends[b] | ends[c]]] = True
    return np.flatnonzero(chosen)


def _keeps_manifold(edges: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """[E] bool: do the ends have but the two neighbors in common that are opposite the edge?"""
    owner = np.full(count, -1)
    for corner in (0, 1):
        owner[edges[:, corner]] = np.arange(len(edges))
    ways = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)  # of a closed surface: each neighbor once
    ways = ways[owner[ways[:, 0]] >= 0]
    keys = np.sort(owner[ways[:, 0]] * count + ways[:, 1])
    common = keys[1:][keys[1:] == keys[:-1]] // count
    return np.bincount(common, minlength=len(edges)) == 2


def _flips_nothing(edges, places, vertices, faces) -> np.ndarray:
    """[E] bool: do all faces around keep their direction, roughly?"""
    owner = np.full(len(vertices), -1)
    for corner in (0, 1):
        owner[edges[:, corner]] = np.arange(len(edges))
    of_corner = owner[faces]
    is_end = of_corner >= 0  # the two faces at the edge itself vanish
    touched = is_end[:, 0] ^ is_end[:, 1] ^ is_end[:, 2]
    faces, of_corner = faces[touched], of_corner[touched]
    before = vertices[faces]
    after = np.where((of_corner >= 0)[..., None], places[of_corner], before)
    old, new = (np.cross(x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]) for x in (before, after))
    lengths = np.sqrt(_squares(old) * _squares(new))
    turned = ~(np.einsum("ij,ij->i", old, new) > LEAST_TURN * lengths)
    good = np.ones(len(edges), bool)
    good[of_corner.max(1)[turned]] = False
    return good
