"""GroupNorm with SiLU for CPUs, as numba kernels over channels-last maps.

torch's own kernel for this layout loses digits (see `norm`); the other one needs a copy there
and one back, and SiLU a pass of its own. Here x is read twice and written once. What is summed up
does not depend on the number of threads, so results repeat to the bit.

Threads are Python's own, as in `render.numba_tiles`. Mind when changing a constant: numba's disk
cache only looks at the file that a kernel is in.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..machine.numba_jit import jit, share, worker_count

CHUNK = 1 << 15  # elements, as many as a core's cache holds

F32 = np.float32
_ZERO, _HALF, _ONE = F32(0), F32(0.5), F32(1)
_LOG2_E, _LARGEST = F32(math.log2(math.e)), F32(126)  # exponents of normal numbers
# 2^e, e in [-1/2, 1/2], to 1e-7: Taylor's.
_P1, _P2, _P3, _P4, _P5, _P6 = (F32(math.log(2) ** k / math.factorial(k)) for k in range(1, 7))


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> Tensor:
    """As `norm.group_norm_silu`, of a channels-last float32 map, without gradients."""
    rows = _rows(x)
    count, pixels, channels = rows.shape
    chunks = max(1, pixels * channels // CHUNK)
    moments = np.empty((3, count, chunks, channels), F32)
    affine = np.empty((3, count, channels), F32)
    weight, bias = (t.detach().float().contiguous().numpy() for t in (weight, bias))
    y = torch.empty_like(x, memory_format=torch.channels_last)
    workers = worker_count()
    with ThreadPoolExecutor(workers) as pool:
        share(pool, workers, _moments, rows, *moments)
        _affine(pixels, *moments, weight, bias, groups, eps, *affine)
        share(pool, workers, _normalize, rows, *affine, silu, chunks, _rows(y))
    return y


def _rows(x: Tensor) -> np.ndarray:
    """The map's own memory as [N, H * W, C]."""
    return x.detach().permute(0, 2, 3, 1).flatten(1, 2).numpy()


@jit
def _part(pixels, chunk, chunks):
    """First and last pixel of a chunk."""
    return chunk * pixels // chunks, (chunk + 1) * pixels // chunks


@jit
def _add_row(row, shift, total, square):
    for c in range(len(row)):
        distance = row[c] - shift[c]
        total[c] += distance
        square[c] += distance * distance


@jit
def _moments(rows, shift, total, square, worker, workers):
    """Of each chunk's channels: the first pixel's value, the sum and the squares of the distances
    from it. A mean far from zero costs no precision so.
    """
    count, pixels, channels = rows.shape
    chunks = shift.shape[1]
    for task in range(worker, count * chunks, workers):
        n, chunk = task // chunks, task % chunks
        first, last = _part(pixels, chunk, chunks)
        for c in range(channels):  # an assignment of whole rows takes a second more to compile
            shift[n, chunk, c] = rows[n, first, c]
            total[n, chunk, c] = square[n, chunk, c] = _ZERO
        for p in range(first, last):
            _add_row(rows[n, p], shift[n, chunk], total[n, chunk], square[n, chunk])


@jit
def _affine(pixels, shift, total, square, weight, bias, groups, eps, mean, scale, offset):
    """What makes of x the result: (x - mean) * scale + offset, [N, C]; moments are merged in
    float64 (Chan).
    """
    count, chunks, channels = shift.shape
    width = channels // groups
    for n in range(count):
        for group in range(groups):
            members = range(group * width, (group + 1) * width)
            middle = 0.0
            for k in range(chunks):
                first, last = _part(pixels, k, chunks)
                for c in members:
                    middle += (last - first) * np.float64(shift[n, k, c])
                    middle += np.float64(total[n, k, c])
            middle /= pixels * width
            variance = 0.0
            for k in range(chunks):
                first, last = _part(pixels, k, chunks)
                for c in members:
                    away = np.float64(shift[n, k, c]) - middle
                    variance += np.float64(square[n, k, c]) + (last - first) * away * away
                    variance += 2 * away * np.float64(total[n, k, c])
            inverse = 1 / np.sqrt(variance / (pixels * width) + eps)
            for c in members:
                mean[n, c] = F32(middle)
                scale[n, c] = inverse * weight[c]
                offset[n, c] = bias[c] - (middle - mean[n, c]) * inverse * weight[c]


@jit
def _normalize_row(row, mean, scale, offset, out):
    for c in range(len(row)):
        out[c] = (row[c] - mean[c]) * scale[c] + offset[c]


@jit
def _silu_row(y, rest, exponent, power):
    """y / (1 + 2^(-y log2 e)) in place; `power` is the memory of `exponent`, read as floats."""
    for c in range(len(y)):
        e = -y[c] * _LOG2_E
        e = min(max(e, -_LARGEST), _LARGEST)
        whole = np.floor(e + _HALF)
        rest[c] = e - whole
        exponent[c] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    for c in range(len(y)):
        e = rest[c]
        fraction = (((((_P6 * e + _P5) * e + _P4) * e + _P3) * e + _P2) * e + _P1) * e + _ONE
        y[c] = y[c] / (_ONE + fraction * power[c])


@jit
def _normalize(rows, mean, scale, offset, silu, chunks, out, worker, workers):
    count, pixels, channels = rows.shape
    rest, exponent = np.empty(channels, F32), np.empty(channels, np.int32)
    power = exponent.view(F32)
    for task in range(worker, count * chunks, workers):
        n, chunk = task // chunks, task % chunks
        first, last = _part(pixels, chunk, chunks)
        for p in range(first, last):
            _normalize_row(rows[n, p], mean[n], scale[n], offset[n], out[n, p])
            if silu:
                _silu_row(out[n, p], rest, exponent, power)
