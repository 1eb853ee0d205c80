"""Carving the visual hull: where along each ray the silhouettes of all views agree."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras import RADIUS
from ..machine.optional import uses_triton, why_no_numba
from .views import between_views, camera_distances, depth_rays, sample_from_neighbor

DEPTH_RANGE = (0.6, 2.4)  # searched by a camera at RADIUS; others search as far around the origin
NEAREST = 0.05  # world units in front of a camera; nothing closer counts as inside
MARCH_STEPS = 64
MARCH_AT_ONCE = 16  # depths; all of them would not fit in a processor's cache
BISECTIONS = 5  # 1.8 / 64 / 2**5: under a millimeter for an object of one meter
INSIDE = 0.3  # silhouette coverage that counts as object; low, so that thin parts survive


def carve(
    alphas: Tensor, own: Tensor, c2w: Tensor, tan_half: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Depths [B, V, 1, h, w] where rays enter and leave the hull, the camera's distance where they
    miss it; and 1 where they meet it.

    Args:
        alphas: [B, M, 1, h, w], the silhouettes of the first M views.
        own: [B, V, 1, h, w], which rays are asked for.
    """
    farther = camera_distances(c2w) - RADIUS  # [B, V], than a trained camera
    limits = BISECTIONS, INSIDE, NEAREST, RADIUS
    if uses_triton(alphas):
        from .carving_triton import march

        return march(own, c2w, tan_half, farther, DEPTH_RANGE, MARCH_STEPS, *limits)
    depths = torch.linspace(*DEPTH_RANGE, MARCH_STEPS, device=alphas.device)
    if alphas.device.type == "cpu" and alphas.dtype == torch.float32 and not why_no_numba():
        from .carving_numba import march

        cameras = *between_views(c2w), tan_half
        return march(alphas, own, *cameras, farther, depths, *limits)
    return march_plainly(alphas, own, c2w, tan_half, farther, depths)


def march_plainly(
    alphas: Tensor, own: Tensor, c2w: Tensor, tan_half: Tensor, farther: Tensor, depths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`carve` in plain torch: what the kernels are measured by."""
    views, size = alphas.shape[1], alphas.shape[-1]
    rays = depth_rays(c2w, tan_half, size)
    farther = farther[:, :, None, None, None]
    others = range(1, views + (own.shape[1] > views))  # poles look at all; views at themselves, too

    def inside(depths: Tensor) -> Tensor:  # [B, V, D, h, w] bool
        depths = depths + farther
        covered = [
            sample_from_neighbor(alphas, shift, depths, c2w, tan_half, rays)[:, :, 0] > INSIDE
            for shift in others
        ]
        if not covered:  # a single view: all that its frustum holds
            covered = [torch.ones_like(depths + own, dtype=torch.bool)]
        return torch.stack([*covered, (depths > NEAREST).expand_as(covered[0])]).all(0)

    step = float(depths[1] - depths[0])
    parts = [
        inside(part[:, None, None].expand(*own.shape[:2], -1, size, size))
        for part in depths.split(MARCH_AT_ONCE)
    ]
    occupied = torch.cat(parts, dim=2)
    valid = occupied.any(2, keepdim=True) & (own > INSIDE)
    first = occupied.byte().argmax(2, keepdim=True)
    last = MARCH_STEPS - 1 - occupied.flip(2).byte().argmax(2, keepdim=True)

    def refine(edge: Tensor, towards: float) -> Tensor:
        hit, miss = depths[edge], depths[edge] + towards * step
        for _ in range(BISECTIONS):
            middle = (hit + miss) / 2
            is_inside = inside(middle)
            hit, miss = torch.where(is_inside, middle, hit), torch.where(is_inside, miss, middle)
        return torch.where(valid, hit, RADIUS) + farther

    return refine(first, -1.0), refine(last, 1.0), valid.float()
