"""Triton kernels for the tokens of the multi-view U-Net: layer norm, GEGLU, and cross-attention to
a few words, each in one pass over memory. fp32 inside, sums in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 4  # tokens that one program normalizes
QUERIES = 64  # that one program answers


@triton.jit
def _layer_norm(
    x, offset, weight, bias, y, count, channels, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    valid = column < channels
    inside = (row < count)[:, None] & valid[None, :]
    at = row[:, None] * channels + column[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(offset + column, mask=valid, other=0.0).to(tl.float32)[None, :]
    mean = tl.sum(values, axis=1) / channels
    delta = tl.where(inside, values - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(delta * delta, axis=1) / channels + eps)
    scale = tl.load(weight + column, mask=valid, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=valid, other=0.0).to(tl.float32)
    out = delta * rstd[:, None] * scale[None, :] + shift[None, :]
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


def layer_norm(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm(x + offset) over the last axis; x [M, C] contiguous, the others [C]."""
    count, channels = x.shape
    y = torch.empty_like(x)
    _layer_norm[(triton.cdiv(count, ROWS),)](
        x, offset, weight, bias, y, count, channels, eps,
        ROWS=ROWS, COLUMNS=triton.next_power_of_2(channels), num_warps=4,
    )  # fmt: skip
    return y


@triton.jit
def _geglu(x, bias, y, count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    blocks = tl.cdiv(width, COLUMNS)
    row = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    valid = column < width
    inside = (row < count)[:, None] & valid[None, :]
    at = row[:, None] * 2 * width + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x + at + width, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + column, mask=valid, other=0.0).to(tl.float32)[None, :]
    gate += tl.load(bias + width + column, mask=valid, other=0.0).to(tl.float32)[None, :]
    out = value * gate * 0.5 * (1.0 + tl.math.erf(gate * 0.7071067811865476))
    place = row[:, None] * width + column[None, :]
    tl.store(y + place, out.to(y.dtype.element_ty), mask=inside)


def geglu(x: Tensor, bias: Tensor) -> Tensor:
    """First half of the channels times GELU of the second, of x + bias: x [M, 2 C], bias [2 C]."""
    count, width = x.shape[0], x.shape[1] // 2
    y = torch.empty(count, width, dtype=x.dtype, device=x.device)
    rows, columns = 8, min(triton.next_power_of_2(width), 512)
    grid = (triton.cdiv(count, rows) * triton.cdiv(width, columns),)
    _geglu[grid](x, bias, y, count, width, ROWS=rows, COLUMNS=columns, num_warps=4)
    return y


@triton.jit
def _attend_words(
    q, keys, values, sample, head, queries, column, inside, words, channels, scale,
    COUNT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """softmax(q k^T scale) v over all words at once, float32."""
    word = tl.arange(0, COUNT)
    there = word < words
    at = (sample * words + word[:, None]) * channels + head * WIDTH + column[None, :]
    k = tl.load(keys + at, mask=there[:, None], other=0.0)
    v = tl.load(values + at, mask=there[:, None], other=0.0)
    scores = tl.dot(q, tl.trans(k)) * scale
    scores = tl.where(there[None, :], scores, float("-inf"))
    powers = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    weights = powers / tl.sum(powers, axis=1)[:, None]
    return tl.dot(weights.to(v.dtype), v)


@triton.jit
def _cross_attention(
    q, keys, values, image_keys, image_values, y, tokens, words, image_words, channels, scale,
    HAS_IMAGE: tl.constexpr, COUNT: tl.constexpr, IMAGE_COUNT: tl.constexpr,
    QUERIES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    column = tl.arange(0, WIDTH)
    inside = (query < tokens)[:, None]
    at = (sample * tokens + query[:, None]) * channels + head * WIDTH + column[None, :]
    own = tl.load(q + at, mask=inside, other=0.0)
    out = _attend_words(
        own, keys, values, sample, head, query, column, inside, words, channels, scale,
        COUNT, WIDTH,
    )  # fmt: skip
    if HAS_IMAGE:
        out += _attend_words(
            own, image_keys, image_values, sample, head, query, column, inside, image_words,
            channels, scale, IMAGE_COUNT, WIDTH,
        )  # fmt: skip
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


def cross_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    image_keys: Tensor | None,
    image_values: Tensor | None,
    head_channels: int,
) -> Tensor:
    """Attention of q [N, T, C] to the text's keys and values [N, W, C], plus that to the picture's,
    per head of `head_channels` (a power of two, 16 or more); all contiguous.
    """
    samples, tokens, channels = q.shape
    has_image = image_keys is not None
    image_words = image_keys.shape[1] if has_image else 0
    y = torch.empty_like(q)
    grid = (triton.cdiv(tokens, QUERIES), channels // head_channels, samples)
    _cross_attention[grid](
        q, keys, values, image_keys if has_image else keys, image_values if has_image else values,
        y, tokens, keys.shape[1], image_words, channels, head_channels**-0.5,
        HAS_IMAGE=has_image, COUNT=max(triton.next_power_of_2(keys.shape[1]), 16),
        IMAGE_COUNT=max(triton.next_power_of_2(max(image_words, 1)), 16),
        QUERIES=QUERIES, WIDTH=head_channels, num_warps=4,
    )  # fmt: skip
    return y
