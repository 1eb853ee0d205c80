"""Which triangle each pixel sees: the z-buffer under meshing, baking and training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import FOVY, focal_length, pixel_slopes, transform, turn, world_to_camera
from ..machine.optional import why_no_numba

STEPS = 256  # per pixel, corners are snapped to it: edges then leave neither cracks nor overlaps
NEAR = 0.05  # triangles with a corner nearer to the camera, as a part of its distance, are left out
CANDIDATES = {"cpu": 1 << 17}  # pixel and triangle pairs tested at once: a CPU's cache holds them
CANDIDATES_ELSEWHERE = 1 << 22  # about 300 bytes each


@dataclass(frozen=True)
class Hits:
    """Where the rays of pixels meet a mesh."""

    pixel: Tensor  # [P] int64, ascending, into the flattened pictures
    triangle: Tensor  # [P] int64
    weights: Tensor  # [P, 3], of the triangle's corners


def visibility(
    vertices: Tensor, faces: Tensor, c2w: Tensor, size: int, fovy: float = FOVY
) -> tuple[Tensor, Tensor]:
    """Depths [V, size, size] (camera z, infinite where there is nothing) and the triangles seen
    there (int64, -1 where there is nothing).

    Args:
        vertices: [N, 3].
        faces: [F, 3]; both sides are drawn.
        c2w: [V, 4, 4].
    """
    device = vertices.device if vertices.device.type == "cuda" else torch.device("cpu")
    w2c = world_to_camera(c2w.double())[:, :3]
    # Seen from further away by the same angle, the picture is the same: any world unit will do.
    unit = c2w[:, :3, 3].to(vertices).sub(vertices.mean(0)).norm(dim=-1).amax().item() or 1.0
    w2c[:, :, 3] /= unit
    corners = (vertices / unit)[faces].float().to(device)
    w2c, focal = w2c.float().to(device), focal_length(size, fovy)
    if device.type == "cpu" and not why_no_numba():
        packed = _by_numba(corners, w2c, focal, size)
    else:
        packed = torch.stack([_by_torch(corners, camera, focal, size) for camera in w2c])
    triangles = torch.where(packed == _NOTHING, -1, packed & 0xFFFFFFFF)
    depths = (packed >> 32).to(torch.int32).view(torch.float32) * unit
    depths = torch.where(triangles < 0, torch.inf, depths)
    return depths.to(vertices.device), triangles.to(vertices.device)


_NOTHING = torch.iinfo(torch.int64).max


def _by_numba(corners: Tensor, w2c: Tensor, focal: float, size: int) -> Tensor:
    from .zbuffer_numba import visibility

    objects = torch.zeros(len(corners), dtype=torch.int64)
    return visibility(corners, objects, w2c[None].contiguous(), focal, size)


def _by_torch(corners: Tensor, camera: Tensor, focal: float, size: int) -> Tensor:
    """Packed (depth bits << 32 | triangle) [size, size] of the nearest triangle per pixel."""
    x, y, z = transform(camera, corners).unbind(-1)
    inverse = 1 / z.clamp(min=NEAR)
    flat = torch.stack([x * inverse, y * inverse], dim=-1) * focal + size / 2
    flat = flat.where((z.amin(-1) >= NEAR)[:, None, None], -1.0)  # no area: nothing is covered
    packed = flat.new_full((size * size,), _NOTHING, dtype=torch.int64)
    for pixel, triangle, weights in covered(flat, size, size):
        depth = 1 / (weights * inverse[triangle]).sum(-1)
        key = depth.view(torch.int32).long() << 32 | triangle
        packed.scatter_reduce_(0, pixel, key, "amin")
    return packed.view(size, size)


def covered(corners: Tensor, height: int, width: int):
    """The pixels that flat triangles cover: chunks of pixel [K] (row * width + column), triangle
    [K] and weights [K, 3] of its corners there.

    A pixel is covered where its center is; a center on the edge of two triangles belongs to one of
    them.

    Args:
        corners: [T, 3, 2] x and y in pixels, y downward.
    """
    # Whole numbers below 2^25, whose products and their sums float64 holds exactly.
    limit = STEPS * 2.0**17
    points = (corners.double() * STEPS).round().clamp(-limit, limit)
    first = ((points.amin(1) - STEPS / 2) / STEPS).ceil().clamp(min=0)
    bound = points.new_tensor([width - 1, height - 1])
    last = ((points.amax(1) - STEPS / 2) / STEPS).floor().minimum(bound)
    x, y = points.unbind(-1)
    edge_x = x.roll(-2, 1) - x.roll(-1, 1)  # opposite each corner
    edge_y = y.roll(-2, 1) - y.roll(-1, 1)
    area = edge_x[:, 0] * edge_y[:, 1] - edge_y[:, 0] * edge_x[:, 1]
    edge_x, edge_y = edge_x * area.sign()[:, None], edge_y * area.sign()[:, None]  # one winding
    owned = (edge_y < 0) | ((edge_y == 0) & (edge_x > 0))  # which edges have their pixels
    # Twice the area over each edge, seen from the pixel's center: linear in column and row.
    start = edge_x * (STEPS / 2 - y.roll(-1, 1)) - edge_y * (STEPS / 2 - x.roll(-1, 1))
    table = torch.stack([start, -edge_y * STEPS, edge_x * STEPS], dim=1)  # [T, 3, corners]
    columns, rows = (last - first + 1).clamp(min=0).unbind(-1)
    counts = (columns * rows * (area != 0)).long()
    kept = counts.nonzero()[:, 0]
    for part in _chunks(kept, counts[kept]):
        count = counts[part]
        index = torch.arange(int(count.sum()), device=part.device)
        index = index - (count.cumsum(0) - count).repeat_interleave(count)
        local = torch.arange(len(part), device=part.device).repeat_interleave(count)
        row = (index / columns[part][local]).floor()  # exact: both far below 2^53
        column = index - row * columns[part][local] + first[part, 0][local]
        row = row + first[part, 1][local]
        slopes = table[part].transpose(0, 1)[:, local]
        parts = slopes[0] + column[:, None] * slopes[1] + row[:, None] * slopes[2]
        inside = (parts >= (1.0 - owned[part].double())[local]).all(-1).nonzero()[:, 0]
        triangle = part[local[inside]]
        weights = (parts[inside] / area[triangle].abs()[:, None]).float()
        yield (row * width + column)[inside].long(), triangle, weights


def _chunks(kept: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    """Triangles in groups of about `CANDIDATES` pixels."""
    at_once = CANDIDATES.get(kept.device.type, CANDIDATES_ELSEWHERE)
    group = counts.cumsum(0) // at_once
    sizes = group.unique_consecutive(return_counts=True)[1]
    return kept.split(sizes.tolist())


def interpolate(weights: Tensor, values: Tensor) -> Tensor:
    """Barycentric mixtures [P, C] of the values [P, 3, C] at corners by weights [P, 3]."""
    return (weights[..., None] * values).sum(1)


def hits(
    vertices: Tensor, faces: Tensor, triangles: Tensor, c2w: Tensor, fovy: float = FOVY
) -> Hits:
    """Where in the triangles [V, size, size] of `visibility` the pixels' rays meet the mesh."""
    size = triangles.shape[-1]
    pixel = (triangles.reshape(-1) >= 0).nonzero()[:, 0]
    triangle = triangles.reshape(-1)[pixel]
    pose = c2w.to(vertices)[pixel // size**2]
    x, y = pixel_slopes(pixel // size % size, pixel % size, size, fovy)
    ray = turn(pose, torch.stack([x, y, -torch.ones_like(x)], dim=-1).to(vertices))
    corners = vertices[faces[triangle]]
    # Signed volumes under each edge, as seen along the ray (Moeller and Trumbore 1997).
    offset = corners - pose[:, None, :3, 3]
    volumes = (torch.linalg.cross(offset.roll(-1, 1), offset.roll(-2, 1)) * ray[:, None]).sum(-1)
    total = volumes.sum(-1, keepdim=True)
    # Corners were snapped when drawn: a ray may miss its triangle by a hair.
    weights = (volumes / torch.where(total == 0, 1, total)).clamp(0, 1)
    return Hits(pixel, triangle, weights / weights.sum(-1, keepdim=True).clamp(min=1e-6))
