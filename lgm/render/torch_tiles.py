"""The renderer for any device: 8 x 8 tiles in plain PyTorch, differentiable by autograd.

Tiles advance together, one chunk of their depth-sorted splats at a time; a tile retires when its
list ends or all of its pixels are opaque. Under autograd each chunk is recomputed in the backward
pass instead of stored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..gaussians import Gaussians
from ..machine.interrupt import between_steps
from .projection import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, Splats, draw_each

TILE = 8
_DEPTH_CHUNK = 32  # splats a tile takes in one step
_TILES_AT_ONCE = {"cpu": 256}  # 2 MB a tensor stays in a CPU's cache
_TILES_AT_ONCE_ELSEWHERE = 8192  # 64 MB keeps a GPU busy
_MARGIN = 0.02  # pixels, so that the rounding of an extent never loses a pixel


def draw(
    gaussians: Gaussians, w2c: Tensor, size: tuple[int, int], fovy: float, background: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, alphas and depths by the cameras w2c [B, V, 4, 4] on backgrounds [B, V, 3]."""
    return draw_each(rasterize, gaussians, w2c, size, fovy, background)


def rasterize(splats: Splats, size: tuple[int, int]) -> Tensor:
    """One picture's sums [5, H, W], see `projection.composite`."""
    order = splats.front_to_back()
    height, width = size
    rows, columns = -(-height // TILE), -(-width // TILE)  # of tiles
    members, starts, counts = bin_tiles(splats, order, rows, columns)
    features = _features(splats, order)
    nothing = features[-1, 0]  # 0, but known to autograd even if nothing is drawn
    sums = nothing.expand(rows * columns, 5, TILE * TILE).contiguous()
    at_once = _TILES_AT_ONCE.get(sums.device.type, _TILES_AT_ONCE_ELSEWHERE)

    active = counts.nonzero()[:, 0]
    transmittance = features.new_ones(len(active), TILE * TILE)
    slots = torch.arange(_DEPTH_CHUNK, device=sums.device)
    while len(active):
        place = (starts[active, None] + slots).clamp(max=len(members) - 1)
        indices = torch.where(slots < counts[active, None], members[place], len(order))
        corners = torch.stack([active % columns, active // columns], dim=-1) * TILE
        inputs = (tensor.split(at_once) for tensor in (active, indices, corners, transmittance))
        passed = []
        for tile, index, corner, before in zip(*inputs, strict=True):
            between_steps()
            contribution, behind = _step_recomputed(features, index, corner, before)
            sums.index_add_(0, tile, contribution)  # in place: it can be a GB in all
            passed.append(behind)
        transmittance = torch.cat(passed)
        starts, counts = starts + _DEPTH_CHUNK, counts - _DEPTH_CHUNK
        stays = (counts[active] > 0) & (transmittance.detach().amax(dim=-1) >= MIN_TRANSMITTANCE)
        active, transmittance = active[stays], transmittance[stays]
    grid = sums.unflatten(2, (TILE, TILE)).unflatten(0, (rows, columns))
    picture = grid.permute(2, 0, 3, 1, 4).reshape(5, rows * TILE, columns * TILE)
    return picture[:, :height, :width]


def _features(splats: Splats, order: Tensor) -> Tensor:
    """[M + 1, 11]: mean, conic, ln opacity, color, depth, 1 of the drawn splats; one invisible."""
    columns = (
        splats.means[order],
        splats.conics[order],
        splats.opacities[order, None].log(),
        splats.colors[order],
        splats.depths[order, None],
        torch.ones_like(splats.depths[order, None]),
    )
    features = F.pad(torch.cat(columns, dim=-1), (0, 0, 0, 1))
    invisible = torch.zeros_like(features)
    invisible[-1, 5] = -100.0
    return features + invisible


def _step_recomputed(
    features: Tensor, index: Tensor, corners: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and features.requires_grad:
        return checkpoint(
            _step, features, index, corners, before, use_reentrant=False, preserve_rng_state=False
        )
    return _step(features, index, corners, before)


def _step(
    features: Tensor, index: Tensor, corners: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """A chunk of K splats over T tiles.

    Args:
        features: [M + 1, 11], see `_features`.
        index: [T, K] rows of features, front to back.
        corners: [T, 2] pixels.
        before: [T, 64] transmittance in front of the chunk.

    Returns:
        Weighted sums [T, 5, 64], and the transmittance behind the chunk as if nothing was ever
        refused.
    """
    chunk = features.index_select(0, index.flatten()).unflatten(0, index.shape)
    # The exponent is a quadratic of the pixel's place in the tile: one product for all pixels.
    exponents = _quadratics(chunk, corners).flatten(0, 1) @ _monomials(chunk).T
    exponents = exponents.unflatten(0, index.shape)
    alpha = F.threshold(exponents.exp(), MIN_ALPHA, 0.0).clamp(max=MAX_ALPHA)
    passed = torch.cumprod(torch.cat([before[:, None], 1 - alpha], dim=1), dim=1)
    # `passed` never rises again, so the first splat that is refused refuses all that follow.
    weights = alpha * passed[:, :-1] * (passed[:, 1:] >= MIN_TRANSMITTANCE)
    # A view of the last one would keep all of `passed` in memory for as long.
    return chunk[..., 6:].transpose(1, 2) @ weights, passed[:, -1].contiguous()


def _monomials(like: Tensor) -> Tensor:
    """xx, xy, yy, x, y, 1 of a tile's pixels [64, 6], from its middle: small numbers stay exact."""
    centers = torch.arange(TILE, dtype=like.dtype, device=like.device) + 0.5 - TILE / 2
    y, x = (axis.flatten() for axis in torch.meshgrid(centers, centers, indexing="ij"))
    return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)], dim=-1)


def _quadratics(chunk: Tensor, corners: Tensor) -> Tensor:
    """Coefficients [T, K, 6] of ln(opacity) - d' conic d / 2 in the monomials, d = pixel - mean."""
    x, y = (chunk[..., :2] - (corners[:, None] + TILE / 2)).unbind(-1)
    xx, xy, yy, log_opacity = chunk[..., 2:6].unbind(-1)
    gx, gy = xx * x + xy * y, xy * x + yy * y
    return torch.stack(
        [-0.5 * xx, -xy, -0.5 * yy, gx, gy, log_opacity - 0.5 * (gx * x + gy * y)], dim=-1
    )


@torch.no_grad()
def bin_tiles(
    splats: Splats, order: Tensor, rows: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which splats can be seen in which of rows x columns tiles.

    Returns:
        Ranks in `order`, by tile and front to back in each; where each tile's begin; how many it
        has. The latter two are [rows * columns], row by row.
    """
    (x, y), (half_width, half_height) = splats.means[order].T, (splats.extents[order] + _MARGIN).T
    first, last = _span(y - half_height, y + half_height, rows)
    splat, row = _expand(first, last)
    # The ellipse on one row of tiles. At height h above the center its edges lie at shear h -+
    # chord sqrt(1 - (h / half_height)^2), and farthest right at `tip`; the edge is concave in h, so
    # on the heights of a row it is farthest as near the tip as they come.
    xx, xy, yy = splats.conics[order].T
    chord = (2 * (splats.opacities[order] / MIN_ALPHA).log().clamp(min=0) / xx).sqrt()
    shear, tip = -xy / xx, -xy / yy * half_width
    top = row * TILE + 0.5 - y[splat]
    limit = half_height[splat]
    low, high = torch.maximum(top, -limit), torch.minimum(top + TILE - 1, limit)

    def reach(side: int) -> Tensor:
        height = torch.minimum(torch.maximum(side * tip[splat], low), high)
        half_chord = chord[splat] * (1 - (height / limit) ** 2).clamp(min=0).sqrt()
        return torch.minimum(half_chord + side * shear[splat] * height + _MARGIN, half_width[splat])

    left, right = _span(x[splat] - reach(-1), x[splat] + reach(1), columns)
    entry, column = _expand(left, right)
    tile, by_tile = (row[entry] * columns + column).int().sort(stable=True)
    counts = torch.bincount(tile, minlength=rows * columns)
    return splat[entry[by_tile]], counts.cumsum(0) - counts, counts


def _span(begin: Tensor, end: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    """First and last tile with a pixel center in [begin, end]; last < first if there is none."""
    first = ((begin - TILE + 0.5) / TILE).ceil().clamp(0, tiles)
    last = ((end - 0.5) / TILE).floor().clamp(-1, tiles - 1)
    return first.long(), last.long()


def _expand(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """All (i, value) with first[i] <= value <= last[i], in order."""
    counts = (last - first + 1).clamp(min=0)
    index = torch.repeat_interleave(counts)
    begins = counts.cumsum(0) - counts
    return index, first[index] + torch.arange(len(index), device=index.device) - begins[index]
