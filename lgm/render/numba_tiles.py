"""The renderer for CPUs: numba kernels over 8 x 8 tiles, with a hand-written backward pass.

Threads are Python's own, over kernels that release the GIL: numba's thread layers are not safe to
call from two threads or after a fork, and OpenMP's waiting threads take the cores from torch's.
Each worker takes every n-th row of tiles, so neighbors, which cost alike, are shared out evenly,
and only the rounding of gradient sums depends on the number of threads.

The loops over a tile's 64 pixels are split by purpose and have a trip count that the compiler
doesn't know: this is what makes LLVM turn each of them into SIMD code. As one loop, or with a
constant count, they run several times slower.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..gaussians import Gaussians
from ..machine.numba_jit import jit, share, worker_count
from . import numba_projection as projection
from .numba_projection import (
    BLUE,
    CHORD,
    COLUMNS,
    DEPTH,
    F32,
    GREEN,
    HALF,
    HALF_HEIGHT,
    HALF_WIDTH,
    LOG2_MIN_ALPHA,
    LOG2_OPACITY,
    ONE,
    RED,
    SHEAR,
    TILE,
    TIP,
    XX,
    XY,
    YY,
    ZERO,
    X,
    Y,
)
from .projection import MAX_ALPHA, MIN_TRANSMITTANCE

_PIXELS = TILE * TILE
_MAX_ALPHA, _MIN_TRANSMITTANCE = F32(MAX_ALPHA), F32(MIN_TRANSMITTANCE)


def draw(
    gaussians: Gaussians, w2c: Tensor, size: tuple[int, int], fovy: float, background: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, alphas and depths by the cameras w2c [B, V, 4, 4] on backgrounds [B, V, 3].

    In float32; the cameras get no gradient.
    """
    cameras = [
        [projection.camera_constants(view, size, fovy) for view in views]
        for views in w2c.detach().numpy()
    ]
    if not torch.is_grad_enabled():
        gaussians, background = gaussians.detach(), background.detach()  # nothing is kept then
    return _Draw.apply(cameras, size, background, *gaussians.tensors().values())


class _Draw(torch.autograd.Function):
    """Images, alphas and depths of positions, opacities, scales, rotations and colors."""

    @staticmethod
    def forward(
        ctx,
        cameras: list[list[np.ndarray]],
        size: tuple[int, int],
        background: Tensor,
        *tensors: Tensor,
    ):
        colors = _array(background)
        arrays = [_array(tensor) for tensor in tensors]
        count, tile_rows = arrays[0].shape[1], -(-size[0] // TILE)
        workers = max(1, min(worker_count(), tile_rows))
        out = [torch.empty(*colors.shape[:2], channels, *size) for channels in (3, 1, 1)]
        kept = {}
        with ThreadPoolExecutor(workers) as pool:
            for item, view in np.ndindex(colors.shape[:2]):
                inputs = [array[item] for array in arrays]
                table = np.empty((count, COLUMNS), np.float32)
                rows = np.empty(count, np.int32), np.empty(count, np.int32)
                camera = cameras[item][view]
                _split(
                    pool, workers, count, projection.project, *inputs, camera, *size, table, *rows
                )
                binned = _bin_rows(table, *rows, tile_rows)
                pictures = [picture[item, view].numpy() for picture in out]
                share(pool, workers, _draw_rows, table, *binned, colors[item, view], *pictures)
                if any(ctx.needs_input_grad):
                    kept[item, view] = camera, table, rows, binned
        ctx.kept = kept, workers
        ctx.save_for_backward(background, *tensors, *out)
        return tuple(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grad_out: Tensor):
        background, *tensors = ctx.saved_tensors
        kept, workers = ctx.kept
        colors = _array(background)
        arrays, out = [_array(t) for t in tensors[:5]], [_array(t) for t in tensors[5:]]
        slopes = [_array(grad) for grad in grad_out]
        grads = [np.zeros_like(array) for array in arrays]
        with ThreadPoolExecutor(workers) as pool:
            for (item, view), (camera, table, rows, binned) in kept.items():
                moments = np.zeros((workers, len(table), 10), np.float32)
                pictures = [picture[item, view] for picture in (*out, *slopes)]
                share(
                    pool, workers, _draw_rows_backward,
                    table, *binned, colors[item, view], *pictures, moments,
                )  # fmt: skip
                inputs = [array[item] for array in (*arrays[:4], *grads)]
                _split(
                    pool, workers, len(table), projection.project_backward,
                    *inputs[:4], camera, table, *rows, moments, *inputs[4:],
                )  # fmt: skip
        grad_background = None
        if ctx.needs_input_grad[2]:
            grad_background = (grad_out[0] * (1 - tensors[6])).sum(dim=(-1, -2))
        return None, None, grad_background, *(torch.from_numpy(grad) for grad in grads)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _split(pool: ThreadPoolExecutor, workers: int, count: int, kernel, *arguments) -> None:
    """`kernel(*arguments, begin, end)` on equal parts of range(count)."""
    bounds = [count * worker // workers for worker in range(workers + 1)]
    list(pool.map(lambda begin, end: kernel(*arguments, begin, end), bounds[:-1], bounds[1:]))


@jit
def _front_to_back(table, drawn):
    """`drawn` by ascending depth, ties in order: a radix sort of the bits of positive floats."""
    depths = table[:, DEPTH].copy().view(np.uint32)
    keys = depths[drawn]
    moved_keys, moved = np.empty_like(keys), np.empty_like(drawn)
    for shift in (0, 11, 22):
        starts = np.zeros(2049, np.int64)
        for key in keys:
            starts[((key >> shift) & 2047) + 1] += 1
        starts = np.cumsum(starts)
        for i in range(len(keys)):
            digit = (keys[i] >> shift) & 2047
            moved_keys[starts[digit]] = keys[i]
            moved[starts[digit]] = drawn[i]
            starts[digit] += 1
        keys, moved_keys = moved_keys, keys
        drawn, moved = moved, drawn
    return drawn


@jit
def _bin_rows(table, first, last, tile_rows):
    """Splats touching each row of tiles, front to back; row r's are starts[r] : starts[r + 1]."""
    drawn = _front_to_back(table, np.nonzero(first <= last)[0].astype(np.int32))
    starts = np.zeros(tile_rows + 1, np.int64)
    for n in drawn:
        for row in range(first[n], last[n] + 1):
            starts[row + 1] += 1
    starts = np.cumsum(starts)
    fill = starts.copy()
    splats = np.empty(starts[-1], np.int32)
    for n in drawn:
        for row in range(first[n], last[n] + 1):
            splats[fill[row]] = n
            fill[row] += 1
    return starts, splats


@jit
def _right_edge(splat, low, high, side):
    """How far a splat reaches to a side (1: right, -1: left) between two heights above its center.

    The edge is a concave function of the height, so it is farthest as near the tip as the heights
    allow.
    """
    height = min(max(side * splat[TIP], low), high)
    ratio = height / splat[HALF_HEIGHT]
    edge = splat[CHORD] * np.sqrt(max(ZERO, ONE - ratio * ratio)) + side * splat[SHEAR] * height
    return min(edge, splat[HALF_WIDTH])


@jit
def _bin_tiles(table, splats, row, tiles):
    """Splats touching each tile of a row, front to back, as in `_bin_rows`."""
    left, right = np.empty(len(splats), np.int32), np.empty(len(splats), np.int32)
    starts = np.zeros(tiles + 2, np.int64)
    top = F32(row * TILE) + HALF
    for i, n in enumerate(splats):
        splat = table[n]
        low = max(top - splat[Y], -splat[HALF_HEIGHT])
        high = min(top + F32(TILE - 1) - splat[Y], splat[HALF_HEIGHT])
        begin = splat[X] - _right_edge(splat, low, high, -ONE)
        end = splat[X] + _right_edge(splat, low, high, ONE)
        # Tile t is touched if one of its pixel centers, 8 t + 0.5 ... 8 t + 7.5, is.
        left[i] = int(max(ZERO, np.ceil((begin - F32(TILE) + HALF) / F32(TILE))))
        right[i] = int(min(F32(tiles - 1), np.floor((end - HALF) / F32(TILE))))
        if left[i] <= right[i]:
            starts[left[i] + 1] += 1
            starts[right[i] + 2] -= 1
    starts = np.cumsum(np.cumsum(starts))[: tiles + 1]
    fill = starts.copy()
    lists = np.empty(starts[-1], np.int32)
    for i, n in enumerate(splats):
        for tile in range(left[i], right[i] + 1):
            lists[fill[tile]] = n
            fill[tile] += 1
    return starts, lists


@jit
def _tile_pixels():
    """Pixel centers of a tile from its corner, [64] each."""
    x, y = np.empty(_PIXELS, F32), np.empty(_PIXELS, F32)
    for i in range(_PIXELS):
        x[i], y[i] = F32(i % TILE) + HALF, F32(i // TILE) + HALF
    return x, y


@jit
def _start_tile(transmittance, row, tile, height, width):
    """Full transmittance; pixels outside of the picture are done from the start (see `_weigh`)."""
    for i in range(len(transmittance)):
        inside = row * TILE + i // TILE < height and tile * TILE + i % TILE < width
        transmittance[i] = ONE if inside else -ONE


# 2^(e / 8), e in [-8, 0], to 3e-7; `_weigh` takes it to the 8th power. Without tricks on the bits
# of the exponent it is plain SIMD.
_P0, _P1, _P2, _P3, _P4, _P5 = (
    F32(c / 8**k)
    for k, c in enumerate((0.99999994, 0.69314313, 0.24017896, 0.05529812, 0.00920918, 0.00094688))
)


@jit
def _weigh(splat, dx, dy, x, y, alpha, weight, transmittance):
    """One splat on a tile: sets `alpha` (uncapped) and `weight`, moves `transmittance` behind it.

    A pixel that refused a splat keeps its transmittance with the sign turned: it takes no more.
    """
    xx, xy, yy, log2_opacity = splat[XX], splat[XY], splat[YY], splat[LOG2_OPACITY]
    for i in range(len(alpha)):
        u, v = dx - x[i], dy - y[i]
        e = (xx * u + xy * v) * u + (yy * v * v + log2_opacity)
        a = ((((_P5 * e + _P4) * e + _P3) * e + _P2) * e + _P1) * e + _P0
        a *= a
        a *= a
        a *= a
        alpha[i] = a if e >= LOG2_MIN_ALPHA else ZERO
    for i in range(len(alpha)):
        t = transmittance[i]
        a = alpha[i]
        w = (a if a < _MAX_ALPHA else _MAX_ALPHA) * t
        behind = t - w
        weight[i] = w if behind >= _MIN_TRANSMITTANCE else ZERO
        transmittance[i] = behind if behind >= _MIN_TRANSMITTANCE else -abs(t)


@jit
def _all_done(transmittance):
    highest = -ONE
    for i in range(len(transmittance)):
        highest = max(highest, transmittance[i])
    return highest < ZERO


@jit
def _add(total, weight, value):
    for i in range(len(total)):
        total[i] += weight[i] * value


@jit
def _draw_rows(table, row_starts, row_splats, background, images, alphas, depths, worker, workers):
    """Sets every n-th row of tiles of the pictures [3, H, W], [1, H, W] and [1, H, W]."""
    height, width = images.shape[1], images.shape[2]
    tiles = (width + TILE - 1) // TILE
    x, y = _tile_pixels()
    alpha, weight, transmittance = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    red, green, blue, depth = np.empty_like(x), np.empty_like(x), np.empty_like(x), np.empty_like(x)
    for row in range(worker, len(row_starts) - 1, workers):
        starts, splats = _bin_tiles(
            table, row_splats[row_starts[row] : row_starts[row + 1]], row, tiles
        )
        for tile in range(tiles):
            red[:], green[:], blue[:], depth[:] = ZERO, ZERO, ZERO, ZERO
            _start_tile(transmittance, row, tile, height, width)
            for k in range(starts[tile], starts[tile + 1]):
                splat = table[splats[k]]
                dx, dy = splat[X] - F32(tile * TILE), splat[Y] - F32(row * TILE)
                _weigh(splat, dx, dy, x, y, alpha, weight, transmittance)
                _add(red, weight, splat[RED])
                _add(green, weight, splat[GREEN])
                _add(blue, weight, splat[BLUE])
                _add(depth, weight, splat[DEPTH])
                if k & 7 == 7 and _all_done(transmittance):
                    break
            for i in range(_PIXELS):
                v, u = row * TILE + i // TILE, tile * TILE + i % TILE
                if v < height and u < width:
                    t = abs(transmittance[i])
                    images[0, v, u] = red[i] + t * background[0]
                    images[1, v, u] = green[i] + t * background[1]
                    images[2, v, u] = blue[i] + t * background[2]
                    alphas[0, v, u] = ONE - t
                    depths[0, v, u] = depth[i] / (ONE - t) if t < ONE else ZERO


@jit
def _weight_slopes(splat, grads, slope):
    """d loss / d weight at each pixel: the splat's payload times the gradients of the sums."""
    red, green, blue, depth = splat[RED], splat[GREEN], splat[BLUE], splat[DEPTH]
    for i in range(len(slope)):
        slope[i] = (
            red * grads[0, i]
            + green * grads[1, i]
            + blue * grads[2, i]
            + (depth * grads[3, i] + grads[4, i])
        )


@jit
def _exponent_slopes(alpha, weight, transmittance, slope, behind, out):
    """Sets d loss / d ln alpha at each pixel; `behind` is what all that follows adds to the loss.

    More alpha shows more of this splat and dims all behind it: alpha T slope - alpha / (1 - alpha)
    behind, and the transmittance at hand is already T (1 - alpha).
    """
    for i in range(len(alpha)):
        w = weight[i]
        behind[i] -= w * slope[i]
        q = w * (slope[i] - behind[i] / transmittance[i])
        out[i] = q if alpha[i] < _MAX_ALPHA else ZERO


@jit
def _dot(a, b):
    total = ZERO
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@jit
def _add_moments(q, dx, dy, x, y, out):
    """Adds to out[:6] a tile's sums of q times 1, u, v, uu, uv, vv; (u, v) = center - pixel."""
    s, su, sv, suu, suv, svv = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for i in range(len(q)):
        u, v = dx - x[i], dy - y[i]
        qu, qv = q[i] * u, q[i] * v
        s += q[i]
        su += qu
        sv += qv
        suu += qu * u
        suv += qu * v
        svv += qv * v
    out[0] += s
    out[1] += su
    out[2] += sv
    out[3] += suu
    out[4] += suv
    out[5] += svv


@jit
def _draw_rows_backward(
    table, row_starts, row_splats, background, images, alphas, depths,
    grad_images, grad_alphas, grad_depths, moments, worker, workers,
):  # fmt: skip
    """Adds to moments[worker, N, 10]: moments of d loss / d ln alpha, slopes of color and depth.

    It walks front to back once more, knowing what the sums will be, so that only the pictures are
    kept from the forward pass.
    """
    height, width = images.shape[1], images.shape[2]
    tiles = (width + TILE - 1) // TILE
    x, y = _tile_pixels()
    alpha, weight, transmittance = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    slope, behind, exponent_slope = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    grads = np.empty((5, _PIXELS), F32)  # of the sums of weight times red, green, blue, depth, 1
    for row in range(worker, len(row_starts) - 1, workers):
        starts, splats = _bin_tiles(
            table, row_splats[row_starts[row] : row_starts[row + 1]], row, tiles
        )
        for tile in range(tiles):
            _start_tile(transmittance, row, tile, height, width)
            grads[:], behind[:] = ZERO, ZERO
            for i in range(_PIXELS):
                v, u = row * TILE + i // TILE, tile * TILE + i % TILE
                if v < height and u < width:
                    a, z = alphas[0, v, u], depths[0, v, u]
                    grads[3, i] = grad_depths[0, v, u] / a if a > ZERO else ZERO
                    grads[4, i] = grad_alphas[0, v, u] - grads[3, i] * z
                    for c in range(3):
                        grads[c, i] = grad_images[c, v, u]
                        grads[4, i] -= grads[c, i] * background[c]
                        behind[i] += grads[c, i] * (images[c, v, u] - (ONE - a) * background[c])
                    behind[i] += (grads[3, i] * z + grads[4, i]) * a
            for k in range(starts[tile], starts[tile + 1]):
                splat, out = table[splats[k]], moments[worker, splats[k]]
                dx, dy = splat[X] - F32(tile * TILE), splat[Y] - F32(row * TILE)
                _weigh(splat, dx, dy, x, y, alpha, weight, transmittance)
                _weight_slopes(splat, grads, slope)
                _exponent_slopes(alpha, weight, transmittance, slope, behind, exponent_slope)
                _add_moments(exponent_slope, dx, dy, x, y, out)
                for c in range(4):
                    out[6 + c] += _dot(weight, grads[c])
                if k & 7 == 7 and _all_done(transmittance):
                    break
