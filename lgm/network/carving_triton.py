"""The Triton kernel behind `hull`: every pixel's ray marched through the other silhouettes in
registers. In plain torch the 64 depths of all pixels are written out a dozen times.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .views import between_views

BLOCK = 128  # pixels of one program


@triton.jit
def _covered(alphas, x, y, z, tangent, size, INSIDE: tl.constexpr):
    """Whether points in a camera's own axes fall on its silhouette; bilinear, border repeated."""
    scale = tangent * tl.maximum(-z, 0.05)
    column = tl.clamp(((x / scale + 1.0) * size - 1.0) * 0.5, 0.0, size - 1.0)
    row = tl.clamp(((-y / scale + 1.0) * size - 1.0) * 0.5, 0.0, size - 1.0)
    left, top = tl.floor(column), tl.floor(row)
    right_share, bottom_share = column - left, row - top
    left, top = left.to(tl.int32), top.to(tl.int32)
    right, bottom = tl.minimum(left + 1, size - 1), tl.minimum(top + 1, size - 1)
    upper = tl.load(alphas + top * size + left) * (1 - right_share)
    upper += tl.load(alphas + top * size + right) * right_share
    lower = tl.load(alphas + bottom * size + left) * (1 - right_share)
    lower += tl.load(alphas + bottom * size + right) * right_share
    return upper * (1 - bottom_share) + lower * bottom_share > INSIDE


@triton.jit
def _inside(
    alphas, starts, steps, tangents, item, view, px, py, depth, size,
    VIEWS: tl.constexpr, INSIDE: tl.constexpr, NEAREST: tl.constexpr,
):  # fmt: skip
    """Whether points at `depth` on the rays (px, py, -1) are on all other silhouettes and at least
    `NEAREST` away.
    """
    inside = depth > NEAREST
    for shift in tl.static_range(1, VIEWS):
        other = (view + shift) % VIEWS
        pair = (item * VIEWS + view) * VIEWS + other
        start, step = starts + pair * 3, steps + pair * 9
        x = tl.load(start) + depth * (
            tl.load(step) * px + tl.load(step + 1) * py - tl.load(step + 2)
        )
        y = tl.load(start + 1) + depth * (
            tl.load(step + 3) * px + tl.load(step + 4) * py - tl.load(step + 5)
        )
        z = tl.load(start + 2) + depth * (
            tl.load(step + 6) * px + tl.load(step + 7) * py - tl.load(step + 8)
        )
        image = item * VIEWS + other
        tangent = tl.load(tangents + image)
        inside = inside & _covered(
            alphas + image.to(tl.int64) * size * size, x, y, z, tangent, size, INSIDE
        )
    return inside


@triton.jit
def _march(
    alphas, starts, steps, tangents, farther, near, far, valid, size, first_depth, spacing, miss,
    VIEWS: tl.constexpr, STEPS: tl.constexpr, BISECTIONS: tl.constexpr, INSIDE: tl.constexpr,
    NEAREST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    item, view = image // VIEWS, image % VIEWS
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < size * size
    tangent, more = tl.load(tangents + image), tl.load(farther + image)
    px = ((pixel % size).to(tl.float32) + 0.5) / size * 2.0 - 1.0
    py = 1.0 - ((pixel // size).to(tl.float32) + 0.5) / size * 2.0
    px, py = px * tangent, py * tangent
    first = tl.full((BLOCK,), STEPS, tl.int32)
    last = tl.full((BLOCK,), -1, tl.int32)
    for index in range(STEPS):
        depth = first_depth + index * spacing + px * 0.0 + more
        hit = _inside(
            alphas, starts, steps, tangents, item, view, px, py, depth, size,
            VIEWS, INSIDE, NEAREST,
        )  # fmt: skip
        first = tl.where(hit & (first == STEPS), index, first)
        last = tl.where(hit, index, last)
    place = image.to(tl.int64) * size * size + pixel
    own = tl.load(alphas + place, mask=mask, other=0.0)
    found = (last >= 0) & (own > INSIDE)
    for side in tl.static_range(2):
        edge = first if side == 0 else last
        inner = first_depth + edge.to(tl.float32) * spacing
        outer = inner - spacing if side == 0 else inner + spacing
        for _ in range(BISECTIONS):
            middle = (inner + outer) / 2
            hit = _inside(
                alphas, starts, steps, tangents, item, view, px, py, middle + more, size,
                VIEWS, INSIDE, NEAREST,
            )  # fmt: skip
            inner, outer = tl.where(hit, middle, inner), tl.where(hit, outer, middle)
        result = tl.where(found, inner, miss) + more
        tl.store((near if side == 0 else far) + place, result, mask=mask)
    tl.store(valid + place, found.to(tl.float32), mask=mask)


def march(
    alphas: Tensor,
    c2w: Tensor,
    tan_half: Tensor,
    farther: Tensor,
    depths: tuple[float, float],
    count: int,
    bisections: int,
    inside: float,
    nearest: float,
    miss: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Depths [B, V, 1, h, h] where rays enter and leave the hull, and where they meet it at all.

    Args: as `hull.visual_hull`; `count` depths from one to the other of `depths`, all of a view
    `farther` [B, V].
    """
    batch, views, _, size, _ = alphas.shape
    alphas = alphas.float().contiguous()
    starts, steps = (t.contiguous() for t in between_views(c2w.float()))
    near, far, valid = (torch.empty_like(alphas) for _ in range(3))
    grid = (triton.cdiv(size * size, BLOCK), batch * views)
    with torch.cuda.device_of(alphas):
        _march[grid](
            alphas, starts, steps, tan_half.float().contiguous(),
            farther.float().contiguous(), near, far, valid, size,
            depths[0], (depths[1] - depths[0]) / (count - 1), miss,
            VIEWS=views, STEPS=count, BISECTIONS=bisections, INSIDE=inside, NEAREST=nearest,
            BLOCK=BLOCK,
        )  # fmt: skip
    return near, far, valid
