"""The specification: every pixel against every Gaussian, in plain PyTorch and any float type.

Kerbl et al. 2023, eq. 3, with the constants of the original rasterizer (`projection.py`). Far too
slow for anything but tests: the other backends are held against this one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..gaussians import Gaussians
from .projection import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE, Splats, draw_each

_CHUNK = 1 << 22  # pixel-Gaussian pairs at a time, some 100 MB in float64


def draw(
    gaussians: Gaussians, w2c: Tensor, size: tuple[int, int], fovy: float, background: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, alphas and depths by the cameras w2c [B, V, 4, 4] on backgrounds [B, V, 3]."""
    return draw_each(rasterize, gaussians, w2c, size, fovy, background)


def rasterize(splats: Splats, size: tuple[int, int]) -> Tensor:
    """One picture's sums [5, H, W], see `projection.composite`."""
    order = splats.front_to_back()
    payload = torch.cat(
        [splats.colors, splats.depths[:, None], torch.ones_like(splats.depths[:, None])], -1
    )
    rows, columns = (
        torch.arange(side, dtype=payload.dtype, device=payload.device) + 0.5 for side in size
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 2)
    sums = [
        weights(chunk, splats.means[order], splats.conics[order], splats.opacities[order])
        @ payload[order]
        for chunk in pixels.split(max(1, _CHUNK // max(1, len(order))))
    ]
    return torch.cat(sums).T.reshape(5, *size)


def weights(pixels: Tensor, means: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
    """Weights [P, N] of front to back Gaussians in pixels: alpha times transmittance in front."""
    dx, dy = (pixels[:, None] - means).unbind(-1)
    xx, xy, yy = conics.unbind(-1)
    alpha = opacities * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
    alpha = torch.where(alpha >= MIN_ALPHA, alpha.clamp(max=MAX_ALPHA), 0.0)
    behind = torch.cumprod(1 - alpha, dim=-1)
    in_front = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], dim=-1)
    # `behind` never rises again, so the first Gaussian that is refused refuses all that follow.
    return torch.where(behind >= MIN_TRANSMITTANCE, alpha * in_front, 0.0)
