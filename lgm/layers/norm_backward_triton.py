"""Triton kernels of the backward pass of GroupNorm + SiLU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .norm_triton import _place, _reduction, _tiling, assert_channels_last


@triton.jit
def _silu_derivative(u):
    gate = 1.0 / (1.0 + tl.exp(-u))
    return gate * (1.0 + u * (1.0 - gate))


@triton.jit
def _gradient_tile(
    x, grad, weight, bias, mean_in, rstd_in, sample, rows, columns, inside, pixels, channels,
    groups,
    SILU: tl.constexpr,
):  # fmt: skip
    """Gradient at the affine output, normalized input, weight, rstd, index of the group."""
    at = (sample * pixels + rows[:, None]) * channels + columns[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    group = sample * groups + columns // (channels // groups)
    rstd = tl.load(rstd_in + group)
    normal = (values - tl.load(mean_in + group)[None, :]) * rstd[None, :]
    w = tl.load(weight + columns).to(tl.float32)
    if SILU:
        u = normal * w[None, :] + tl.load(bias + columns).to(tl.float32)[None, :]
        g = g * _silu_derivative(u)
    return g, normal, w, rstd, group


@triton.jit
def _backward_sums(
    x, grad, weight, bias, mean_in, rstd_in, partial, pixels, channels, groups,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of gradient and gradient * normalized over ROWS pixels; partial [N, chunks, 2, C]."""
    chunk, rows, columns = _place(channels, ROWS, COLUMNS)
    sample = tl.program_id(1).to(tl.int64)
    inside = (rows < pixels)[:, None]
    g, normal, _w, _rstd, _group = _gradient_tile(
        x,
        grad,
        weight,
        bias,
        mean_in,
        rstd_in,
        sample,
        rows,
        columns,
        inside,
        pixels,
        channels,
        groups,
        SILU,
    )
    out = partial + (sample * tl.cdiv(pixels, ROWS) + chunk) * 2 * channels + columns
    tl.store(out, tl.sum(g, axis=0))  # loads outside are zero, so g is
    tl.store(out + channels, tl.sum(g * normal, axis=0))


@triton.jit(do_not_specialize=["chunks", "group_width"])
def _backward_groups(
    partial, weight, channel_sums, group_means, pixels, chunks, group_width,
    CHUNKS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Sums over all pixels [N, 2, C], and their weighted means over a group [N, groups, 2]."""
    group = tl.program_id(0)
    groups = tl.num_programs(0)
    sample = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, GROUP)
    channel = group * group_width + lane
    channels = groups * group_width
    valid = lane < group_width
    base = partial + sample * chunks * 2 * channels + channel[None, :]
    chunk = tl.arange(0, CHUNKS)
    inside = (chunk < chunks)[:, None] & valid[None, :]
    at = base + chunk[:, None] * 2 * channels
    sums = tl.sum(tl.load(at, mask=inside, other=0.0), axis=0)
    sums_normal = tl.sum(tl.load(at + channels, mask=inside, other=0.0), axis=0)
    out = channel_sums + sample * 2 * channels + channel
    tl.store(out, sums, mask=valid)
    tl.store(out + channels, sums_normal, mask=valid)
    w = tl.load(weight + channel, mask=valid, other=0.0).to(tl.float32)
    size = pixels * group_width * 1.0
    place = group_means + (sample * groups + group) * 2
    tl.store(place, tl.sum(w * sums, axis=0) / size)
    tl.store(place + 1, tl.sum(w * sums_normal, axis=0) / size)


@triton.jit
def _backward_input(
    x, grad, weight, bias, mean_in, rstd_in, group_means, grad_x, pixels, channels, groups,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    _chunk, rows, columns = _place(channels, ROWS, COLUMNS)
    sample = tl.program_id(1).to(tl.int64)
    inside = (rows < pixels)[:, None]
    g, normal, w, rstd, group = _gradient_tile(
        x,
        grad,
        weight,
        bias,
        mean_in,
        rstd_in,
        sample,
        rows,
        columns,
        inside,
        pixels,
        channels,
        groups,
        SILU,
    )
    along_one = tl.load(group_means + group * 2)
    along_normal = tl.load(group_means + group * 2 + 1)
    # The normalized output feels neither a shift nor a scaling of its group: take those directions
    # out.
    dx = rstd[None, :] * (g * w[None, :] - along_one[None, :] - normal * along_normal[None, :])
    out = grad_x + (sample * pixels + rows[:, None]) * channels + columns[None, :]
    tl.store(out, dx.to(grad_x.dtype.element_ty), mask=inside)


def normalize_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; grad and x channels-last."""
    assert_channels_last(grad, x)
    samples, channels, rows_high, rows_wide = x.shape
    pixels, groups = rows_high * rows_wide, mean.shape[1]
    group_width = channels // groups
    rows, columns, chunks = _tiling(pixels, channels)
    tiles = (chunks * (channels // columns), samples)
    sizes = (pixels, channels, groups)
    partial = torch.empty(samples, chunks, 2, channels, dtype=torch.float32, device=x.device)
    channel_sums = torch.empty(samples, 2, channels, dtype=torch.float32, device=x.device)
    group_means = torch.empty(samples, groups, 2, dtype=torch.float32, device=x.device)
    grad_x = torch.empty_like(x)
    saved = (x, grad, weight, bias, mean, rstd)
    _backward_sums[tiles](
        *saved, partial, *sizes, SILU=silu, ROWS=rows, COLUMNS=columns, num_warps=8
    )
    _backward_groups[(groups, samples)](
        partial,
        weight,
        channel_sums,
        group_means,
        pixels,
        chunks,
        group_width,
        **_reduction(chunks, group_width),
    )
    _backward_input[tiles](
        *saved, group_means, grad_x, *sizes, SILU=silu, ROWS=rows, COLUMNS=columns, num_warps=8
    )
    grad_bias, grad_weight = channel_sums.sum(0)
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
