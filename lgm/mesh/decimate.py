"""Fewer triangles for a closed surface, by collapsing the edges that matter least.

Garland and Heckbert's quadrics (1997). Many edges far enough apart collapse at once, so that whole
arrays do it, on a CPU in seconds and faster on a GPU; an edge whose collapse would pinch the
surface or flip a face stays.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..machine.interrupt import between_steps, report

PASSES = 5  # choices of edges for each sorting of all: few edges are each other's best
CANDIDATES = 0.25  # part of the edges, the cheapest ones, that may go in one round
STIFFNESS = 1e-3  # pulls towards an edge's middle where a flat neighborhood has no single minimum
LEAST_TURN = 0.2  # cosine between a face's normals before and after

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of a symmetric 3x3 matrix


def decimate(vertices: Tensor, faces: Tensor, target_faces: int) -> tuple[Tensor, Tensor]:
    """Vertices and faces of about the same surface, still closed, with `target_faces` at most
    unless the surface can't be kept whole with so few. The same on every run.

    Args:
        vertices: [V, 3], on any device.
        faces: [F, 3], of a closed surface: each edge once in each direction.
    """
    vertices, faces = vertices.double(), faces.long()
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    vertices = vertices - middle  # the quadrics' digits are best near the origin
    quadrics = _quadrics(vertices, faces)
    part, first = CANDIDATES, len(faces)
    while len(faces) > target_faces:
        between_steps()
        removed = _round(vertices, faces, quadrics, part, (len(faces) - target_faces + 1) // 2)
        if removed is None and part == 1:
            break
        part = 1 if removed is None else CANDIDATES
        faces = faces if removed is None else removed
        # Each round takes about the same part of what is left.
        report(math.log(first / len(faces)) / math.log(first / target_faces))
    used, faces = faces.unique(return_inverse=True)
    return vertices[used] + middle, faces


def sums_at(index: Tensor, values: Tensor, count: int) -> Tensor:
    """[count, C] sums of the values [N, C] with the same index. Unlike with atomic additions, the
    same to the bit on every run.
    """
    order = index.argsort(stable=True)
    lengths = torch.bincount(index, minlength=count)
    return torch.segment_reduce(  # ty: ignore[missing-attribute]
        values[order], "sum", lengths=lengths, axis=0, unsafe=True
    )


def _round(vertices, faces, quadrics, part: float, limit: int) -> Tensor | None:
    """The faces after at most `limit` collapses, None if there were none. `vertices` and
    `quadrics` follow in place.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].view(-1, 2)
    edges = edges.index_select(0, (edges[:, 0] < edges[:, 1]).nonzero()[:, 0])
    edges, places = _cheapest(vertices, quadrics, edges, max(int(part * len(edges)), 1))
    chosen = _apart(edges, faces, len(vertices))
    chosen = chosen[_keeps_manifold(edges[chosen], faces, len(vertices))]
    chosen = chosen[_flips_nothing(edges[chosen], places[chosen], vertices, faces)][:limit]
    if not len(chosen):
        return None
    stay, go = edges[chosen].unbind(1)
    vertices[stay] = places[chosen]
    quadrics[stay] += quadrics[go]
    target = torch.arange(len(vertices), device=faces.device)
    target[go] = stay
    faces = target[faces]
    a, b, c = faces.unbind(1)
    return faces.index_select(0, ((a != b) & (b != c) & (c != a)).nonzero()[:, 0])


def _quadrics(vertices: Tensor, faces: Tensor) -> Tensor:
    """[V, 10]: squared distances from the planes of the faces around, by area: the matrix (6), the
    vector (3) and the constant.
    """
    a, b, c = (vertices[corner] for corner in faces.unbind(1))
    normals = torch.linalg.cross(b - a, c - a)
    areas = normals.norm(dim=-1, keepdim=True)
    normals = normals / areas.clamp(min=1e-30)
    offsets = -(normals * a).sum(-1, keepdim=True)
    columns = [normals[:, [i]] * normals[:, [j]] for i, j in _PAIRS]
    columns += [normals * offsets, offsets**2]
    planes = areas * torch.cat(columns, dim=-1)
    return sums_at(faces.view(-1), planes.repeat_interleave(3, 0), len(vertices))


def _cheapest(vertices, quadrics, edges, count: int) -> tuple[Tensor, Tensor]:
    """The `count` edges of [E, 2] that cost least, in order, and where they should collapse to."""
    one, other = edges.unbind(1)  # index_select takes rows much faster than indexing on a CPU
    start, end = vertices.index_select(0, one), vertices.index_select(0, other)
    middles = (start + end) / 2
    lengths = (start - end).square().sum(-1)
    sums = (quadrics.index_select(0, one) + quadrics.index_select(0, other)).T.contiguous()
    # In flat surroundings the shortest go first, so that faces keep their shape.
    slow = STIFFNESS * (sums[0] + sums[3] + sums[5]) + 1e-30
    costs = _costs(sums, middles) + slow * lengths
    if count < len(edges):  # the middle tells well enough which are out of the question
        some = (costs <= costs.kthvalue(count).values).nonzero()[:, 0]
        edges, middles = edges.index_select(0, some), middles.index_select(0, some)
        sums, lengths, slow = sums[:, some], lengths[some], slow[some]
    places = _least(sums, middles, slow)
    near = (places - middles).square().sum(-1) <= lengths  # false for NaN, too
    places = torch.where(near[:, None], places, middles)
    order = (_costs(sums, places) + slow * lengths).argsort(stable=True)
    return edges.index_select(0, order), places.index_select(0, order)


def _costs(sums: Tensor, places: Tensor) -> Tensor:
    """[E] sums of squared distances of places [E, 3] from the planes of quadrics [10, E]."""
    x, y, z = places.T.contiguous()
    xx, xy, xz, yy, yz, zz, dx, dy, dz, constant = sums
    costs = x * (xx * x + 2 * (xy * y + xz * z + dx)) + y * (yy * y + 2 * (yz * z + dy))
    return (costs + z * (zz * z + 2 * dz) + constant).clamp(min=0)


def _least(sums: Tensor, middles: Tensor, stiffness: Tensor) -> Tensor:
    """[E, 3] where quadrics [10, E] are least, drawn a little to the middles: by Cramer's rule."""
    xx, xy, xz, yy, yz, zz = sums[:6]
    xx, yy, zz = xx + stiffness, yy + stiffness, zz + stiffness
    r, s, t = stiffness * middles.T - sums[6:9]
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    places = torch.stack([a * r + b * s + c * t, b * r + d * s + e * t, c * r + e * s + f * t], -1)
    return places / (xx * a + xy * b + xz * c).clamp(min=1e-300)[:, None]


def _apart(edges: Tensor, faces: Tensor, count: int) -> Tensor:
    """Indices of sorted edges, cheapest first, such that no face touches two of them."""
    one, other = edges.T.contiguous()
    a, b, c = faces.T.contiguous()
    taken = torch.zeros(count, dtype=torch.bool, device=edges.device)
    chosen = torch.zeros(len(edges), dtype=torch.bool, device=edges.device)
    ranks = torch.arange(len(edges), device=edges.device)
    for _ in range(PASSES):
        ranks = ranks[~(taken[one[ranks]] | taken[other[ranks]])]
        best = torch.full_like(taken, len(edges), dtype=torch.int64)
        for end in (one, other):
            best.scatter_reduce_(0, end[ranks], ranks, "amin")
        least = torch.minimum(torch.minimum(best[a], best[b]), best[c])
        around = best.clone()
        for corner in (a, b, c):
            around.scatter_reduce_(0, corner, least, "amin")
        picked = ranks[(around[one[ranks]] == ranks) & (around[other[ranks]] == ranks)]
        if not len(picked):
            break
        chosen[picked] = True
        # Faces at a chosen edge are taken, and so is every edge that one of these faces touches.
        ends = torch.zeros_like(taken)
        ends[one[picked]] = ends[other[picked]] = True
        touched = (ends[a] | ends[b] | ends[c]).nonzero()[:, 0]
        for corner in (a, b, c):
            taken[corner[touched]] = True
    return chosen.nonzero()[:, 0]


def _owners(edges: Tensor, count: int) -> Tensor:
    """[count] the edge that each vertex is an end of, -1 for none."""
    owner = torch.full((count,), -1, device=edges.device)
    owner[edges] = torch.arange(len(edges), device=edges.device)[:, None].expand(-1, 2)
    return owner


def _keeps_manifold(edges: Tensor, faces: Tensor, count: int) -> Tensor:
    """[E] bool: do the ends have but the two neighbors in common that are opposite the edge?"""
    owner = _owners(edges, count)
    start, end = faces[:, [0, 1, 1, 2, 2, 0]].view(-1, 2).unbind(1)
    whose = owner[start]  # of a closed surface: each neighbor once
    some = (whose >= 0).nonzero()[:, 0]
    keys = (whose[some] * count + end[some]).sort().values
    common = keys[1:][keys[1:] == keys[:-1]] // count
    return torch.bincount(common, minlength=len(edges)) == 2


def _flips_nothing(edges: Tensor, places: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """[E] bool: do all faces around keep their direction, roughly?"""
    of_corner = _owners(edges, len(vertices))[faces]
    ends = of_corner >= 0
    touched = ends[:, 0] ^ ends[:, 1] ^ ends[:, 2]  # the two faces at the edge itself vanish
    faces, of_corner = faces[touched], of_corner[touched]
    before = vertices[faces]
    after = torch.where((of_corner >= 0)[..., None], places[of_corner], before)
    old, new = (torch.linalg.cross(x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]) for x in (before, after))
    lengths = (old.square().sum(-1) * new.square().sum(-1)).sqrt()
    turned = ~((old * new).sum(-1) > LEAST_TURN * lengths)
    good = torch.ones(len(edges), dtype=torch.bool, device=edges.device)
    good[of_corner.amax(1)[turned]] = False
    return good
