"""Triton kernels behind `fused_norm`: GroupNorm + SiLU forward and backward, and small fusions
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
def _silu_derivative(u):
    gate = 1.0 / (1.0 + tl.exp(-u))
    return gate * (1.0 + u * (1.0 - gate))


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


@triton.jit
def _patches(x, y, pixels, height, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """3x3 neighborhoods, zero outside, as rows [pixels, 9, channels]; pixels of all samples."""
    tap = tl.program_id(1)
    _chunk, rows, columns = _place(channels, ROWS, COLUMNS)
    down = tap // 3 - 1
    right = tap % 3 - 1
    row = (rows // width) % height + down
    column = rows % width + right
    kept = (rows < pixels) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = (rows + down * width + right).to(tl.int64)
    values = tl.load(
        x + source[:, None] * channels + columns[None, :], mask=kept[:, None], other=0.0
    )
    target = rows.to(tl.int64) * 9 + tap
    tl.store(
        y + target[:, None] * channels + columns[None, :], values, mask=(rows < pixels)[:, None]
    )


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


def patches(x: Tensor) -> Tensor:
    """Zero-padded 3x3 neighborhoods of channels-last x [N, C, H, W]: [N * H * W, 9 * C], by tap."""
    assert_channels_last(x)
    samples, channels, height, width = x.shape
    pixels = samples * height * width
    y = torch.empty(pixels, 9 * channels, dtype=x.dtype, device=x.device)
    rows, columns, chunks = 64, _columns(channels), triton.cdiv(pixels, 64)
    _patches[(chunks * (channels // columns), 9)](
        x, y, pixels, height, width, channels, ROWS=rows, COLUMNS=columns, num_warps=4
    )
    return y
