"""The surface of a field on a grid, closed and without an edge that more than two faces share."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CORNERS = tuple(product((0, 1), repeat=3))  # of a cell, from its lowest one
EDGES = tuple(
    (one, other)
    for one, first in enumerate(CORNERS)
    for other, second in enumerate(CORNERS)
    if one < other and sum(a != b for a, b in zip(first, second, strict=True)) == 1
)
FILLED = -0.05  # the value of a corner that becomes inside so that a cell has one surface only
LEAST = 0.05  # of an edge, between a crossing and its ends: no two vertices at one place


def surface_nets(values: Tensor, origin: Tensor, voxel: float) -> tuple[np.ndarray, np.ndarray]:
    """The border between inside (below 0) and outside, one vertex per cell that it passes (Gibson
    1998).

    Where a cell's inside or outside corners hang together only by a diagonal, the outside corner
    that is inside most nearly is filled first. Then each face of a cell has two crossings or none,
    hence each edge of the surface two faces.

    Args:
        values: [X, Y, Z], of any scale, on any device.
        origin: [3], where the first value lies.
        voxel: the distance between two values.

    Returns:
        Vertices [V, 3] float32 and faces [F, 3] int64, counterclockwise from outside; both may be
        empty.
    """
    # Outside all around, and more so than anything: no corner there is ever filled.
    values = F.pad(values, (1,) * 6, value=2 * max(values.amax().item(), 1.0)).contiguous()
    shape = values.shape
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1], device=values.device)
    offsets = _flat_index(torch.tensor(CORNERS, device=values.device), strides)
    config = _configurations(values < 0)
    flat, config_flat = values.view(-1), config.view(-1)
    _untangle(flat, config_flat, offsets)
    cells = ((config_flat > 0) & (config_flat < 255)).nonzero()[:, 0]
    place = torch.stack(torch.unravel_index(cells, shape), dim=-1)
    vertices = (place - 1 + _crossings(flat[cells[:, None] + offsets])) * voxel
    vertices = vertices + origin.to(vertices)
    number = torch.full_like(config_flat, -1, dtype=torch.int32)
    number[cells] = torch.arange(len(cells), dtype=torch.int32, device=cells.device)
    inside = values < 0
    quads = torch.cat([_quads(inside, axis, strides, number) for axis in range(3)])
    return vertices.float().cpu().numpy(), _triangles(vertices, quads.long()).cpu().numpy()


def _flat_index(place: Tensor, strides: Tensor) -> Tensor:
    """[N] of [N, 3]. CUDA has no matrix products of integers."""
    return (place * strides).sum(dim=-1)


def _configurations(inside: Tensor) -> Tensor:
    """[X, Y, Z] uint8: which corners of the cell above each place are inside, a bit for each."""
    config = torch.zeros(inside.shape, dtype=torch.uint8, device=inside.device)
    x, y, z = (side - 1 for side in inside.shape)
    for bit, (a, b, c) in enumerate(CORNERS):
        config[:x, :y, :z] |= inside[a : a + x, b : b + y, c : c + z].to(torch.uint8) << bit
    return config


def _untangle(values: Tensor, config: Tensor, offsets: Tensor) -> None:
    """Fill corners until no cell is tangled, in place; it ends since there is ever less outside."""
    tangled = _tangled().to(values.device)
    weights = 2 ** torch.arange(8, device=values.device)
    cells = tangled[config.int()].nonzero()[:, 0]
    while len(cells):
        around = values[cells[:, None] + offsets]
        nearest = torch.where(around < 0, torch.inf, around).argmin(1)
        filled = (cells + offsets[nearest]).unique()
        values[filled] = FILLED
        touched = (filled[:, None] - offsets).flatten().unique()
        bits = (values[touched[:, None] + offsets] < 0) * weights
        config[touched] = bits.sum(1).to(torch.uint8)
        cells = touched[tangled[config[touched].int()]]


@cache
def _tangled() -> Tensor:
    """[256] bool: are the inside or the outside corners in parts that share no edge?"""
    return torch.tensor(
        [
            not (_connected(config) and _connected(255 - config)) and 0 < config < 255
            for config in range(256)
        ]
    )


def _connected(config: int) -> bool:
    members = {corner for corner in range(8) if config >> corner & 1}
    reached = set(sorted(members)[:1])
    for _ in members:
        for one, other in EDGES:
            if reached & {one, other}:
                reached |= {one, other} & members
    return reached == members


def _crossings(corners: Tensor) -> Tensor:
    """Mean place [N, 3], 0..1, of the crossings on the edges of cells with values [N, 8]."""
    total = corners.new_zeros(len(corners), 3)
    count = corners.new_zeros(len(corners), 1)
    for one, other in EDGES:
        start, end = corners[:, one], corners[:, other]
        crosses = ((start < 0) != (end < 0)).to(corners)[:, None]
        part = (start / torch.where(start == end, 1.0, start - end)).clamp(LEAST, 1 - LEAST)
        low, high = (corners.new_tensor(CORNERS[corner]) for corner in (one, other))
        total += crosses * (low + part[:, None] * (high - low))
        count += crosses
    return total / count


def _quads(inside: Tensor, axis: int, strides: Tensor, number: Tensor) -> Tensor:
    """[Q, 4] vertices around the grid's edges along `axis` that cross the surface."""
    length = inside.shape[axis] - 1
    first, second = inside.narrow(axis, 0, length), inside.narrow(axis, 1, length)
    edges = (first != second).nonzero()
    leaves = inside[edges.unbind(1)]  # is the inside below?
    one, other = strides[(axis + 1) % 3], strides[(axis + 2) % 3]
    around = torch.stack([-one - other, -other, 0 * one, -one])
    quads = number[_flat_index(edges, strides)[:, None] + around]
    return torch.where(leaves[:, None], quads, quads.flip(1))


def _triangles(vertices: Tensor, quads: Tensor) -> Tensor:
    """[F, 3]: each quad cut along its shorter diagonal."""
    a, b, c, d = vertices[quads].unbind(1)
    along_first = (a - c).square().sum(1) <= (b - d).square().sum(1)
    pairs = torch.where(
        along_first[:, None],
        quads[:, [0, 1, 2, 0, 2, 3]],
        quads[:, [1, 2, 3, 1, 3, 0]],
    )
    return pairs.reshape(-1, 3)
