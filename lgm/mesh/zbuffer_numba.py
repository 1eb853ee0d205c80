"""The visibility buffer on the CPU: the arithmetic of `zbuffer_triton`, a thread per picture."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..machine.numba_jit import jit

STEPS = 256  # per pixel, corners are snapped to it: integer edges leave neither cracks nor overlaps
NEAR = np.float32(0.05)
FAR = np.float32(2.0**30)  # bounds snapped coordinates, so that their products fit 64 bits
HALF = np.float32(0.5)
ONE = np.float32(1.0)


@jit(exact=True, inline="always")
def _snap(coordinate):
    return np.int64(math.floor(min(max(coordinate * np.float32(STEPS), -FAR), FAR) + HALF))


@jit(exact=True, inline="always")
def _threshold(dx, dy):
    """0 where pixels exactly on the edge belong to the triangle (top and left edges), else 1."""
    return 0 if dy < 0 or (dy == 0 and dx > 0) else 1


@jit(exact=True)
def _draw(corners, first, last, camera, focal, size, depths, triangles):
    """Draw `corners[first:last]`, seen by `camera` [3, 4], into `depths` and `triangles`."""
    center = np.float32(size) * HALF
    x = np.empty(3, np.int64)
    y = np.empty(3, np.int64)
    z = np.empty(3, np.float32)
    for triangle in range(first, last):
        for i in range(3):
            px, py, pz = corners[triangle, i]
            cx = camera[0, 0] * px + camera[0, 1] * py + camera[0, 2] * pz + camera[0, 3]
            cy = camera[1, 0] * px + camera[1, 1] * py + camera[1, 2] * pz + camera[1, 3]
            cz = camera[2, 0] * px + camera[2, 1] * py + camera[2, 2] * pz + camera[2, 3]
            z[i] = cz
            cz = max(cz, NEAR)
            x[i] = _snap(focal * (cx / cz) + center)
            y[i] = _snap(focal * (cy / cz) + center)
        area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
        if area == 0 or not min(z[0], z[1], z[2]) >= NEAR:
            continue
        if area < 0:  # one winding for the fill rule; both sides are drawn
            area = -area
            x[1], x[2] = x[2], x[1]
            y[1], y[2] = y[2], y[1]
            z[1], z[2] = z[2], z[1]

        # Pixel i is covered from its center on, at (i + 0.5) * STEPS.
        left = max((min(x[0], x[1], x[2]) + STEPS // 2 - 1) // STEPS, 0)
        right = min((max(x[0], x[1], x[2]) - STEPS // 2) // STEPS + 1, size)
        top = max((min(y[0], y[1], y[2]) + STEPS // 2 - 1) // STEPS, 0)
        bottom = min((max(y[0], y[1], y[2]) - STEPS // 2) // STEPS + 1, size)
        ax, ay = x[2] - x[1], y[2] - y[1]  # the edge opposite corner 0, and so on
        bx, by = x[0] - x[2], y[0] - y[2]
        cx_, cy_ = x[1] - x[0], y[1] - y[0]
        a_least, b_least, c_least = _threshold(ax, ay), _threshold(bx, by), _threshold(cx_, cy_)
        scale = np.float32(area)
        inverse_a, inverse_b, inverse_c = ONE / z[0], ONE / z[1], ONE / z[2]
        for row in range(top, bottom):
            v = row * STEPS + STEPS // 2
            for column in range(left, right):
                u = column * STEPS + STEPS // 2
                a = ax * (v - y[1]) - ay * (u - x[1])
                b = bx * (v - y[2]) - by * (u - x[2])
                c = cx_ * (v - y[0]) - cy_ * (u - x[0])
                if a < a_least or b < b_least or c < c_least:
                    continue
                depth = scale / (
                    np.float32(a) * inverse_a
                    + np.float32(b) * inverse_b
                    + np.float32(c) * inverse_c
                )
                if depth < depths[row, column]:
                    depths[row, column] = depth
                    triangles[row, column] = triangle


def visibility(corners: Tensor, objects: Tensor, w2c: Tensor, focal: float, size: int) -> Tensor:
    """Packed (depth bits << 32 | triangle) of the nearest triangle per pixel.

    Args:
        corners: [T, 3, 3] float32, world.
        objects: [T] int64, ascending.
        w2c: [B, V, 3, 4] float32 in OpenCV axes.

    Returns:
        [B * V, size, size] int64; the largest integer where there is nothing.
    """
    items, views = w2c.shape[:2]
    bounds = torch.searchsorted(objects, torch.arange(items + 1)).tolist()
    soup = corners.contiguous().numpy()
    cameras = w2c.reshape(-1, 3, 4).contiguous().numpy()
    depths = np.full((items * views, size, size), np.inf, np.float32)
    triangles = np.full((items * views, size, size), -1, np.int32)

    def draw(image: int) -> None:
        item = image // views
        _draw(
            soup, bounds[item], bounds[item + 1], cameras[image],
            np.float32(focal), size, depths[image], triangles[image],
        )  # fmt: skip

    with ThreadPoolExecutor(max(torch.get_num_threads(), 1)) as pool:
        list(pool.map(draw, range(items * views)))
    packed = (depths.view(np.int32).astype(np.int64) << 32) | triangles
    packed[triangles < 0] = np.iinfo(np.int64).max
    return torch.from_numpy(packed)
