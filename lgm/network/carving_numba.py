"""The numba kernel behind `carving` on CPUs: every pixel's ray is marched from both ends, only as
far as the hull; a point is tested by no further silhouette once it is outside of one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..machine.numba_jit import jit, share, worker_count

F32 = np.float32
_ZERO, _HALF, _ONE, _TWO, _NEAREST = F32(0), F32(0.5), F32(1), F32(2), F32(0.05)


def march(
    alphas: Tensor,
    own: Tensor,
    starts: Tensor,
    steps: Tensor,
    tan_half: Tensor,
    farther: Tensor,
    depths: Tensor,
    bisections: int,
    inside: float,
    nearest: float,
    miss: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Depths [B, V, 1, h, h] where rays enter and leave the hull, and where they meet it at all.

    Args:
        alphas: [B, M, 1, h, h], the silhouettes of the first M views. own: [B, V, 1, h, h].
        starts, steps: see `views.between_views`. tan_half: [B, V].
        farther: [B, V], added to all depths of a view.
        depths: [D], evenly spaced. bisections, inside, nearest, miss: see `carving`.
    """
    near, far, valid = (torch.empty(own.shape) for _ in range(3))
    arrays = [
        t.detach().float().contiguous().numpy()
        for t in (alphas[:, :, 0], own[:, :, 0], starts, steps, tan_half, farther, depths)
    ]
    out = [t[:, :, 0].numpy() for t in (near, far, valid)]
    workers = worker_count()
    with ThreadPoolExecutor(workers) as pool:
        share(
            pool, workers, _march, *arrays, bisections, F32(inside), F32(nearest), F32(miss), *out
        )
    return near, far, valid


@jit
def _coverage(alpha, x, y, z, tangent):
    """A silhouette where a point in its camera's own axes falls; bilinear, border repeated."""
    size = len(alpha)
    most = F32(size - 1)
    scale = tangent * max(-z, _NEAREST)
    column = min(max(((x / scale + _ONE) * F32(size) - _ONE) * _HALF, _ZERO), most)
    row = min(max(((_ONE - y / scale) * F32(size) - _ONE) * _HALF, _ZERO), most)
    left, top = int(column), int(row)
    right, bottom = min(left + 1, size - 1), min(top + 1, size - 1)
    across, down = column - F32(left), row - F32(top)
    upper = alpha[top, left] + across * (alpha[top, right] - alpha[top, left])
    lower = alpha[bottom, left] + across * (alpha[bottom, right] - alpha[bottom, left])
    return upper + down * (lower - upper)


@jit
def _is_inside(alphas, starts, steps, tangents, farther, nearest, view, px, py, depth, inside):
    """Whether the point `farther` than `depth` on the ray (px, py, -1) is on all other silhouettes
    and at least `nearest` away.
    """
    depth = depth + farther
    if not depth > nearest:
        return False
    for other in range(len(alphas)):
        if other != view:
            start, step = starts[other], steps[other]
            x = start[0] + depth * (step[0, 0] * px + step[0, 1] * py - step[0, 2])
            y = start[1] + depth * (step[1, 0] * px + step[1, 1] * py - step[1, 2])
            z = start[2] + depth * (step[2, 0] * px + step[2, 1] * py - step[2, 2])
            if not _coverage(alphas[other], x, y, z, tangents[other]) > inside:
                return False
    return True


@jit
def _march(
    alphas, own, starts, steps, tangents, farther, depths, bisections, inside, nearest, miss,
    near, far, valid, worker, workers,
):  # fmt: skip
    """Sets every n-th row of the maps [B, V, h, h]."""
    batch, views, size, _ = own.shape
    count, spacing = len(depths), depths[1] - depths[0]
    for task in range(worker, batch * views * size, workers):
        item, view, row = task // (views * size), task // size % views, task % size
        more = farther[item, view]
        scene = (
            alphas[item], starts[item, view], steps[item, view], tangents[item], more, nearest
        )  # fmt: skip
        tangent = tangents[item, view]
        py = (_ONE - (F32(row) + _HALF) / F32(size) * _TWO) * tangent
        for column in range(size):
            px = ((F32(column) + _HALF) / F32(size) * _TWO - _ONE) * tangent
            first, last = 0, count - 1
            if own[item, view, row, column] > inside:
                while first < count and not _is_inside(*scene, view, px, py, depths[first], inside):
                    first += 1
            else:
                first = count
            is_hit = first < count
            valid[item, view, row, column] = _ONE if is_hit else _ZERO
            near[item, view, row, column] = far[item, view, row, column] = miss + more
            if not is_hit:
                continue
            while not _is_inside(*scene, view, px, py, depths[last], inside):
                last -= 1
            for edge, outwards, result in ((first, -spacing, near), (last, spacing, far)):
                hit, outside = depths[edge], depths[edge] + outwards
                for _ in range(bisections):
                    middle = (hit + outside) / _TWO
                    if _is_inside(*scene, view, px, py, middle, inside):
                        hit = middle
                    else:
                        outside = middle
                result[item, view, row, column] = hit + more
