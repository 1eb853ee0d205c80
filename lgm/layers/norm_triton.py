"""Triton kernels behind `norm`: GroupNorm + SiLU forward and backward, and small fusions
around convolutions.

Every tensor is channels-last: sample n, pixel p, channel c lie at (n * pixels + p) * channels + c,
so a tile [ROWS pixels, COLUMNS channels] is read in whole cache lines and a group is a narrow
column of the matrix. A large map takes three launches (moments of tiles, moments of groups,
normalization), a small one a single launch that holds a whole group in registers; it reads its
narrow column badly, so large batches take three, too. Sums have a fixed
order, without atomics: results repeat to the bit. Moments are centered before they are squared and
merged by Chan's formula; means far from zero cost no precision.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8192  # elements a program holds: 32 for each thread of 8 warps
GROUP_TILE = 16384  # largest group that is normalized by one program
SMALL_MAP = 1 << 22  # elements up to which a launch costs more than reading twice
MAX_COLUMNS = 64  # 128 bytes of fp16, one cache line


@triton.jit
def _place(channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Chunk, pixels and channels of this program: neighbors along channels run at the same time."""
    blocks = channels // COLUMNS
    chunk = tl.program_id(0) // blocks
    columns = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    return chunk, chunk * ROWS + tl.arange(0, ROWS), columns


@triton.jit
def _tile(
    x, skip, sample, rows, columns, inside, pixels, width, skip_width, HAS_SKIP: tl.constexpr
):
    """[ROWS, COLUMNS] of one sample of [x, skip] along channels, float32; 0 outside."""
    pixel = sample * pixels + rows[:, None]
    if HAS_SKIP:
        own = columns < width
        a = tl.load(x + pixel * width + columns[None, :], mask=inside & own[None, :], other=0.0)
        b = tl.load(
            skip + pixel * skip_width + (columns - width)[None, :],
            mask=inside & (columns >= width)[None, :],
            other=0.0,
        )
        values = a.to(tl.float32) + b.to(tl.float32)
    else:
        values = tl.load(x + pixel * width + columns[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
    return values


@triton.jit
def _silu(u):
    return u / (1.0 + tl.exp(-u))


@triton.jit
def _tile_moments(
    x, skip, offset, offset_stride, partial, pixels, width, skip_width,
    HAS_SKIP: tl.constexpr, HAS_OFFSET: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean and centered sum of squares of ROWS pixels, per channel; partial [N, chunks, 2, C]."""
    channels = width + skip_width
    chunk, rows, columns = _place(channels, ROWS, COLUMNS)
    sample = tl.program_id(1).to(tl.int64)
    inside = (rows < pixels)[:, None]
    values = _tile(x, skip, sample, rows, columns, inside, pixels, width, skip_width, HAS_SKIP)
    count = tl.minimum(pixels - chunk * ROWS, ROWS).to(tl.float32)
    mean = tl.sum(values, axis=0) / count
    delta = tl.where(inside, values - mean[None, :], 0.0)
    out = partial + (sample * tl.cdiv(pixels, ROWS) + chunk) * 2 * channels + columns
    if HAS_OFFSET:
        mean += tl.load(offset + sample * offset_stride + columns).to(tl.float32)
    tl.store(out, mean)
    tl.store(out + channels, tl.sum(delta * delta, axis=0))


@triton.jit(do_not_specialize=["chunks", "group_width"])
def _group_moments(
    partial, mean_out, rstd_out, pixels, chunks, group_width, eps,
    ROWS: tl.constexpr, CHUNKS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Merge the tiles' moments into mean and 1 / standard deviation of each group, [N, groups]."""
    group = tl.program_id(0)
    groups = tl.num_programs(0)
    sample = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, GROUP)
    channel = group * group_width + lane
    channels = groups * group_width
    valid = lane < group_width
    base = partial + sample * chunks * 2 * channels + channel[None, :]
    size = pixels * group_width * 1.0
    chunk = tl.arange(0, CHUNKS)
    inside = (chunk < chunks)[:, None] & valid[None, :]
    count = tl.minimum(pixels - chunk * ROWS, ROWS).to(tl.float32)[:, None]
    at = base + chunk[:, None] * 2 * channels
    means = tl.load(at, mask=inside, other=0.0)
    squares = tl.load(at + channels, mask=inside, other=0.0)
    group_mean = tl.sum(tl.sum(tl.where(inside, means * count, 0.0), axis=1), axis=0) / size
    delta = means - group_mean
    squares = tl.where(inside, squares + count * delta * delta, 0.0)
    variance = tl.sum(tl.sum(squares, axis=1), axis=0) / size
    tl.store(mean_out + sample * groups + group, group_mean)
    tl.store(rstd_out + sample * groups + group, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _normalize(
    x, skip, offset, offset_stride, weight, bias, mean_in, rstd_in, y,
    pixels, width, skip_width, groups,
    HAS_SKIP: tl.constexpr, HAS_OFFSET: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    channels = width + skip_width
    _chunk, rows, columns = _place(channels, ROWS, COLUMNS)
    sample = tl.program_id(1).to(tl.int64)
    inside = (rows < pixels)[:, None]
    values = _tile(x, skip, sample, rows, columns, inside, pixels, width, skip_width, HAS_SKIP)
    group = sample * groups + columns // (channels // groups)
    mean = tl.load(mean_in + group)
    if HAS_OFFSET:
        mean -= tl.load(offset + sample * offset_stride + columns).to(tl.float32)
    scale = tl.load(weight + columns).to(tl.float32) * tl.load(rstd_in + group)
    u = values * scale[None, :] + (tl.load(bias + columns).to(tl.float32) - mean * scale)[None, :]
    if SILU:
        u = _silu(u)
    out = y + (sample * pixels + rows[:, None]) * channels + columns[None, :]
    tl.store(out, u.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _normalize_group(
    x, skip, offset, offset_stride, weight, bias, mean_out, rstd_out, y,
    pixels, width, skip_width, eps,
    HAS_SKIP: tl.constexpr, HAS_OFFSET: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, GROUP: tl.constexpr, GROUP_WIDTH: tl.constexpr,
):  # fmt: skip
    """All of the above for one group of one sample, which fits into one tile."""
    group = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, GROUP)
    rows = tl.arange(0, ROWS)
    columns = group * GROUP_WIDTH + lane
    valid = lane < GROUP_WIDTH
    inside = (rows < pixels)[:, None] & valid[None, :]
    values = _tile(x, skip, sample, rows, columns, inside, pixels, width, skip_width, HAS_SKIP)
    if HAS_OFFSET:
        shift = tl.load(offset + sample * offset_stride + columns, mask=valid, other=0.0)
        values += shift.to(tl.float32)[None, :]
        values = tl.where(inside, values, 0.0)
    size = pixels * GROUP_WIDTH * 1.0
    mean = tl.sum(tl.sum(values, axis=1), axis=0) / size
    delta = tl.where(inside, values - mean, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(delta * delta, axis=1), axis=0) / size + eps)
    scale = tl.load(weight + columns, mask=valid, other=0.0).to(tl.float32) * rstd
    u = (
        delta * scale[None, :]
        + tl.load(bias + columns, mask=valid, other=0.0).to(tl.float32)[None, :]
    )
    if SILU:
        u = _silu(u)
    channels = width + skip_width
    out = y + (sample * pixels + rows[:, None]) * channels + columns[None, :]
    tl.store(out, u.to(y.dtype.element_ty), mask=inside)
    place = sample * tl.num_programs(0) + group
    tl.store(mean_out + place, mean)
    tl.store(rstd_out + place, rstd)


@triton.jit
def _scaled_sum(
    a,
    b,
    bias,
    y,
    pixels,
    channels,
    scale,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    _chunk, rows, columns = _place(channels, ROWS, COLUMNS)
    inside = (rows < pixels)[:, None]
    at = rows[:, None].to(tl.int64) * channels + columns[None, :]
    total = tl.load(a + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(b + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + columns).to(tl.float32)[None, :]
    tl.store(y + at, (total * scale).to(y.dtype.element_ty), mask=inside)


def assert_channels_last(*tensors: Tensor) -> None:
    for x in tensors:
        assert x.is_contiguous(memory_format=torch.channels_last), (x.shape, x.stride())


def _columns(*widths: int) -> int:
    """Largest power of two that divides every width: tiles then need no mask along channels."""
    columns = MAX_COLUMNS
    while any(width % columns for width in widths):
        columns //= 2
    return columns


def _tiling(pixels: int, *widths: int) -> tuple[int, int, int]:
    """ROWS and COLUMNS of a tile, and how many tiles are stacked over `pixels`."""
    columns = _columns(*widths)
    rows = min(TILE // columns, triton.next_power_of_2(pixels))
    return rows, columns, triton.cdiv(pixels, rows)


def _reduction(chunks: int, group_width: int) -> dict[str, int]:
    """Tile over all chunks and channels of a group."""
    return {
        "CHUNKS": triton.next_power_of_2(chunks),
        "GROUP": triton.next_power_of_2(group_width),
        "num_warps": 4,
    }


def normalize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    skip: Tensor | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalized [N, C, H, W] in channels-last memory, and mean and 1 / standard deviation [N,
    groups].

    The input is x, then skip, along the channels, plus offset [C] or [N, C]; all of it
    channels-last.
    """
    assert_channels_last(x, *(() if skip is None else (skip,)))
    samples, width, rows_high, rows_wide = x.shape
    skip_width = 0 if skip is None else skip.shape[1]
    pixels, channels = rows_high * rows_wide, width + skip_width
    group_width = channels // groups
    y = torch.empty(
        (samples, channels, rows_high, rows_wide),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    mean = torch.empty(samples, groups, dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    inputs = (x, x if skip is None else skip)
    shift = (weight, 0) if offset is None else (offset, channels * (offset.dim() - 1))
    flags = {"HAS_SKIP": skip is not None, "HAS_OFFSET": offset is not None}
    rows, group = triton.next_power_of_2(pixels), triton.next_power_of_2(group_width)
    if rows * group <= GROUP_TILE and samples * pixels * channels <= SMALL_MAP:
        _normalize_group[(groups, samples)](
            *inputs, *shift, weight, bias, mean, rstd, y, pixels, width, skip_width, eps,
            **flags, SILU=silu, ROWS=rows, GROUP=group, GROUP_WIDTH=group_width,
            num_warps=16 if rows * group > 8192 else 8 if rows * group > 2048 else 4,
        )  # fmt: skip
        return y, mean, rstd
    rows, columns, chunks = _tiling(pixels, width, skip_width)
    tiles = (chunks * (channels // columns), samples)
    partial = torch.empty(samples, chunks, 2, channels, dtype=torch.float32, device=x.device)
    _tile_moments[tiles](
        *inputs, *shift, partial, pixels, width, skip_width,
        **flags, ROWS=rows, COLUMNS=columns, num_warps=8,
    )  # fmt: skip
    _group_moments[(groups, samples)](
        partial, mean, rstd, pixels, chunks, group_width, eps,
        ROWS=rows, **_reduction(chunks, group_width),
    )  # fmt: skip
    _normalize[tiles](
        *inputs, *shift, weight, bias, mean, rstd, y, pixels, width, skip_width, groups,
        **flags, SILU=silu, ROWS=rows, COLUMNS=columns, num_warps=8,
    )  # fmt: skip
    return y, mean, rstd


def scaled_sum(a: Tensor, b: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """scale * (a + b + bias); a and b [N, C, H, W] channels-last, bias [C]."""
    assert_channels_last(a, b)
    y = torch.empty_like(a)
    pixels, channels = a.numel() // a.shape[1], a.shape[1]
    rows, columns, chunks = _tiling(pixels, channels)
    _scaled_sum[(chunks * (channels // columns),)](
        a, b, a if bias is None else bias, y, pixels, channels, scale,
        HAS_BIAS=bias is not None, ROWS=rows, COLUMNS=columns, num_warps=8,
    )  # fmt: skip
    return y
