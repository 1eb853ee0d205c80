"""The paper's two augmentations of input views: grid distortion and orbital camera jitter (section
3.4).

Both imitate what multi-view diffusion gets wrong, so that the network learns to live with views
that disagree. The random draws are arguments: what is left is deterministic and tested against the
original.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

GRID_STEPS = (8, 16)  # knots per axis, both ends included
GRID_STRENGTH = 0.5  # of the distance between knots
JITTER_STRENGTH = 0.1  # of half a turn about the camera's y axis; half as much about its x axis


def warped_coordinates(uniforms: Tensor, size: int, strength: float = GRID_STRENGTH) -> Tensor:
    """Sampling coordinates [R, size] in [-1, 1], piecewise linear between displaced knots.

    Args:
        uniforms: [R, n] draws in [0, 1), one row per warped axis, n knots.
    """
    rows, knots = uniforms.shape
    index = torch.arange(knots, device=uniforms.device)
    fractions = index / (knots - 1) + strength * (uniforms - 0.5) / (knots - 1)
    pixels = (fractions.clamp(0, 1) * size).floor()
    pixels[:, 0], pixels[:, -1] = 0, size
    column = (
        torch.arange(size, device=uniforms.device, dtype=uniforms.dtype)
        .expand(rows, -1)
        .contiguous()
    )
    segment = (torch.searchsorted(pixels.contiguous(), column, right=True) - 1).clamp(0, knots - 2)
    start, end = pixels.gather(1, segment), pixels.gather(1, segment + 1)
    # Both ends of a segment belong to it, so neighboring segments repeat the knot. Counted from the
    # nearer end,
    # as torch.linspace does: the original's rounding, too.
    knot = torch.linspace(-1, 1, knots, device=uniforms.device, dtype=uniforms.dtype)
    low, high = knot[segment], knot[segment + 1]
    step = (high - low) / (end - start - 1).clamp(min=1)
    from_start, from_end = column - start, end - 1 - column
    return torch.where(
        from_start < (end - start) / 2, low + step * from_start, high - step * from_end
    )


def grid_distortion(images: Tensor, uniforms: Tensor, strength: float = GRID_STRENGTH) -> Tensor:
    """Views [V, C, H, W] sampled on a distorted grid; outside is black, as in the original's data.

    Args:
        uniforms: [2 * V, n] draws in [0, 1): view 0 x, view 0 y, view 1 x, ...
    """
    height, width = images.shape[-2:]
    x = warped_coordinates(uniforms[0::2], width, strength)[:, None, :].expand(-1, height, -1)
    y = warped_coordinates(uniforms[1::2], height, strength)[:, :, None].expand(-1, -1, width)
    return F.grid_sample(images, torch.stack([x, y], dim=-1), align_corners=False)


def orbital_jitter(
    c2w: Tensor, first: Tensor, second: Tensor, strength: float = JITTER_STRENGTH
) -> Tensor:
    """Cameras [V, 4, 4] orbited about the world's origin by small random angles.

    Args:
        first, second: [V, 1] draws in [0, 1) for the rotation about the camera's own y and x axis:
            up to 18 and 9 degrees at the paper's strength.
    """
    about_y = axis_angle(c2w[:, :3, 1], strength * math.pi * (first * 2 - 1))
    about_x = axis_angle(c2w[:, :3, 0], strength / 2 * math.pi * (second * 2 - 1))
    jittered = c2w.clone()
    jittered[:, :3] = about_y @ about_x @ c2w[:, :3]
    return jittered


def axis_angle(axes: Tensor, angles: Tensor) -> Tensor:
    """Rotation matrices [V, 3, 3] about unit axes [V, 3] by angles [V, 1], radians (Rodrigues)."""
    x, y, z = axes.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
    sine, cosine = angles.sin()[..., None], angles.cos()[..., None]
    return torch.eye(3, device=axes.device) + sine * cross + (1 - cosine) * (cross @ cross)
