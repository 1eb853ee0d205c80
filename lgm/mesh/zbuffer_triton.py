"""The visibility buffer on the GPU: a warp per triangle and view, atomic minimum of the depth.

The same arithmetic as `zbuffer_numba`, whose comments say why it is the way it is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).max
BLOCK_WIDTH, BLOCK_HEIGHT = 8, 4  # one pixel per lane: most triangles fit one or two blocks


@triton.jit
def _snap(coordinate):
    bounded = tl.minimum(tl.maximum(coordinate * 256.0, -1073741824.0), 1073741824.0)
    return tl.floor(bounded + 0.5).to(tl.int64)


@triton.jit
def _project(corner, camera, focal, center):
    """Snapped picture coordinates and camera z of the corner at pointer `corner`."""
    px = tl.load(corner)
    py = tl.load(corner + 1)
    pz = tl.load(corner + 2)
    x = tl.load(camera) * px + tl.load(camera + 1) * py
    x = x + tl.load(camera + 2) * pz + tl.load(camera + 3)
    y = tl.load(camera + 4) * px + tl.load(camera + 5) * py
    y = y + tl.load(camera + 6) * pz + tl.load(camera + 7)
    z = tl.load(camera + 8) * px + tl.load(camera + 9) * py
    z = z + tl.load(camera + 10) * pz + tl.load(camera + 11)
    safe = tl.maximum(z, 0.05)
    return _snap(focal * (x / safe) + center), _snap(focal * (y / safe) + center), z


@triton.jit
def _least(dx, dy):
    """0 where pixels exactly on the edge belong to the triangle (top and left edges), else 1."""
    return tl.where((dy < 0) | ((dy == 0) & (dx > 0)), 0, 1)


@triton.jit
def _draw(
    corners, objects, w2c, packed, focal, size, views,
    BLOCK_WIDTH: tl.constexpr, BLOCK_HEIGHT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    triangle = (program // views).to(tl.int64)
    image = tl.load(objects + triangle) * views + program % views
    corner = corners + triangle * 9
    camera = w2c + image * 12
    center = size * 0.5
    x0, y0, z0 = _project(corner, camera, focal, center)
    x1, y1, z1 = _project(corner + 3, camera, focal, center)
    x2, y2, z2 = _project(corner + 6, camera, focal, center)

    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    swap = area < 0
    area = tl.where(swap, -area, area)
    xa, ya, za = tl.where(swap, x2, x1), tl.where(swap, y2, y1), tl.where(swap, z2, z1)
    xb, yb, zb = tl.where(swap, x1, x2), tl.where(swap, y1, y2), tl.where(swap, z1, z2)
    drawn = (area > 0) & (z0 >= 0.05) & (z1 >= 0.05) & (z2 >= 0.05)

    # Shifts divide by 256 and round down, also below zero.
    left = tl.maximum((tl.minimum(tl.minimum(x0, xa), xb) + 127) >> 8, 0).to(tl.int32)
    top = tl.maximum((tl.minimum(tl.minimum(y0, ya), yb) + 127) >> 8, 0).to(tl.int32)
    right = ((tl.maximum(tl.maximum(x0, xa), xb) - 128) >> 8) + 1
    bottom = ((tl.maximum(tl.maximum(y0, ya), yb) - 128) >> 8) + 1
    right = tl.minimum(right, size).to(tl.int32)
    bottom = tl.minimum(bottom, size).to(tl.int32)
    bottom = tl.where(drawn, bottom, top)  # an empty loop instead of an early return

    ax, ay = xb - xa, yb - ya
    bx, by = x0 - xb, y0 - yb
    cx, cy = xa - x0, ya - y0
    a_least = _least(ax, ay)
    b_least = _least(bx, by)
    c_least = _least(cx, cy)
    scale = area.to(tl.float32)
    inverse_0 = 1.0 / z0
    inverse_a = 1.0 / za
    inverse_b = 1.0 / zb

    lane = tl.arange(0, BLOCK_WIDTH * BLOCK_HEIGHT)
    lane_x = lane % BLOCK_WIDTH
    lane_y = lane // BLOCK_WIDTH
    picture = packed + image * size * size
    for row in range(top, bottom, BLOCK_HEIGHT):
        pixel_y = row + lane_y
        v = pixel_y.to(tl.int64) * 256 + 128
        for column in range(left, right, BLOCK_WIDTH):
            pixel_x = column + lane_x
            u = pixel_x.to(tl.int64) * 256 + 128
            a = ax * (v - ya) - ay * (u - xa)
            b = bx * (v - yb) - by * (u - xb)
            c = cx * (v - y0) - cy * (u - x0)
            inside = (a >= a_least) & (b >= b_least) & (c >= c_least)
            inside = inside & (pixel_x < right) & (pixel_y < bottom)
            weight = a.to(tl.float32) * inverse_0 + b.to(tl.float32) * inverse_a
            depth = scale / (weight + c.to(tl.float32) * inverse_b)
            bits = depth.to(tl.int32, bitcast=True).to(tl.int64)
            # Nothing else is ordered by these writes; the default order would add a fence to each.
            tl.atomic_min(
                picture + pixel_y * size + pixel_x,
                (bits << 32) | triangle,
                mask=inside,
                sem="relaxed",
            )


def visibility(corners: Tensor, objects: Tensor, w2c: Tensor, focal: float, size: int) -> Tensor:
    """As `zbuffer_numba.visibility`, for CUDA tensors."""
    items, views = w2c.shape[:2]
    packed = torch.full(
        (items * views, size, size), EMPTY, dtype=torch.int64, device=corners.device
    )
    if len(corners) * views > 0:
        _draw[(len(corners) * views,)](
            corners.contiguous(), objects.contiguous(), w2c.contiguous(),
            packed, focal, size, views,
            BLOCK_WIDTH=BLOCK_WIDTH, BLOCK_HEIGHT=BLOCK_HEIGHT, num_warps=1,
        )  # fmt: skip
    return packed
