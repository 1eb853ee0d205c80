"""A Triton kernel that lays out 3 x 3 patches for a matrix product (im2col)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .norm_triton import _columns, _place, assert_channels_last


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
