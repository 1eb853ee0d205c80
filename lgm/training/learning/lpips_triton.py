"""Triton kernels behind `lpips`: two feature maps normalized, subtracted, squared and summed in one
pass over memory, and the gradient in another.

Maps are channels-last: a pixel's C channels are one row. Sums have a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8192  # elements of each map a program holds
EPSILON = tl.constexpr(1e-10)  # `lpips.EPSILON`


@triton.jit
def _rows(a, b, weights, pixels, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Rows of a, unit rows of both maps, a's lengths, weights, memory offsets, and a mask."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    offsets = rows[:, None] * WIDTH + columns[None, :]
    inside = (rows < pixels)[:, None]
    x = tl.load(a + offsets, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(b + offsets, mask=inside, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(x * x, axis=1))[:, None]
    other = tl.sqrt(tl.sum(y * y, axis=1))[:, None]
    w = tl.load(weights + columns)[None, :]
    return x, x / (length + EPSILON), y / (other + EPSILON), length, w, offsets, inside


@triton.jit
def _distance(a, b, weights, partial, pixels, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    _, first, second, _, w, _, _ = _rows(a, b, weights, pixels, WIDTH, ROWS)
    difference = first - second
    total = tl.sum(tl.sum(w * difference * difference, axis=1), axis=0)
    tl.store(partial + tl.program_id(0), total)


@triton.jit
def _distance_backward(a, b, weights, grad, out, pixels, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    x, first, second, length, w, offsets, inside = _rows(a, b, weights, pixels, WIDTH, ROWS)
    scale = 2.0 * tl.load(grad) / pixels
    unit = scale * w * (first - second)  # with respect to a's unit row
    along = tl.sum(unit * x, axis=1)[:, None]
    inverse = 1.0 / (length + EPSILON)
    # A row of zeros has no direction; its gradient is 0, since the ReLU before passes none on.
    result = unit * inverse - x * along * inverse * inverse / tl.maximum(length, 1e-30)
    result = tl.where(length > 0, result, 0.0)
    tl.store(out + offsets, result.to(out.dtype.element_ty), mask=inside)


def distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """See `lpips.map_distance`; a and b channels-last, C a power of two."""
    pixels, grid, settings = _settings(a)
    partial = torch.empty(grid, device=a.device)
    with torch.cuda.device_of(a):
        _distance[grid](a, b, weights.float(), partial, pixels, **settings)
    return partial.sum() / pixels


def distance_backward(a: Tensor, b: Tensor, weights: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `distance` with respect to a."""
    pixels, grid, settings = _settings(a)
    out = torch.empty_like(a)
    with torch.cuda.device_of(a):
        _distance_backward[grid](a, b, weights.float(), grad.float(), out, pixels, **settings)
    return out


def _settings(a: Tensor) -> tuple[int, tuple[int], dict[str, int]]:
    pixels, width = a.numel() // a.shape[1], a.shape[1]
    rows = max(TILE // width, 1)
    return pixels, (triton.cdiv(pixels, rows),), {"WIDTH": width, "ROWS": rows}
