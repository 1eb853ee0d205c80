"""The paper's two augmentations of input views: grid distortion and orbital camera jitter (section
3.4).

Both imitate what multi-view diffusion gets wrong, so that the network learns to live with views
that disagree. The random draws are arguments: what is left is deterministic and tested against the
original.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...machine.constants import sent
from ..recipe import Recipe
from .batch import Share

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


@dataclass(frozen=True)
class Augmentation:
    """Drawn changes of a batch's inputs; the first view never changes."""

    inputs: int  # how many input views the step takes
    keyed: Tensor  # [B] bool, silhouettes are guessed from white
    distorted: Tensor  # [B] bool
    grid: Tensor  # [B, 2 * (inputs - 1), knots] in [0, 1)
    jittered: Tensor  # [B] bool
    angles: Tensor  # [2, B, inputs - 1, 1] in [0, 1)
    drafts: Tensor  # [B] bool, the corrector leaves them alone

    @classmethod
    def draw(
        cls,
        generator: torch.Generator,
        share: Share,
        recipe: Recipe,
        inputs: int,
        progress: float,
    ) -> Augmentation:
        """For one process's part of a step."""

        def uniform(*shape: int) -> Tensor:
            return share.own(torch.rand(share.total, *shape, generator=generator))

        knots = int(torch.randint(GRID_STEPS[0], GRID_STEPS[1] + 1, (), generator=generator))
        on = progress >= recipe.augment_from
        return cls(
            inputs,
            uniform() < recipe.key_white,
            uniform() < recipe.distortion_chance * on,
            uniform(2 * (inputs - 1), knots),
            uniform() < recipe.jitter_chance * on,
            uniform(2, inputs - 1, 1).movedim(1, 0),
            uniform() < recipe.draft_share,
        )

    def part(self, start: int, stop: int) -> Augmentation:
        some = slice(start, stop)
        return Augmentation(
            self.inputs, self.keyed[some], self.distorted[some], self.grid[some],
            self.jittered[some], self.angles[:, some], self.drafts[some],
        )  # fmt: skip

    def to(self, device: torch.device) -> Augmentation:
        tensors = {
            f.name: sent(getattr(self, f.name), device) for f in fields(self) if f.name != "inputs"
        }
        return replace(self, **tensors)

    def distort(self, views: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Grid distortion of views [B, V, 3, S, S] and alphas; and which pictures are as they were
        [B, V].
        """
        trusted = torch.ones(views.shape[:2], device=views.device)
        chosen = torch.cat([views, alphas], dim=2)[:, 1:]
        if not chosen.shape[1]:
            return views, alphas, trusted
        warped = grid_distortion(chosen.flatten(0, 1), self.grid.flatten(0, 1)).view_as(chosen)
        mixed = torch.where(self.distorted[:, None, None, None, None], warped, chosen)
        colors, mask = mixed.split((3, 1), dim=2)
        trusted[:, 1:] *= (~self.distorted)[:, None].float()
        return torch.cat([views[:, :1], colors], 1), torch.cat([alphas[:, :1], mask], 1), trusted

    def jitter(self, poses: Tensor) -> Tensor:
        """Orbital jitter of poses [B, V, 4, 4]; the rendering cameras stay exact."""
        if poses.shape[1] == 1:
            return poses
        moved = poses[:, 1:].flatten(0, 1)
        jittered = orbital_jitter(moved, *self.angles.flatten(1, 2)).view_as(poses[:, 1:])
        apply = self.jittered[:, None, None, None]
        return torch.cat([poses[:, :1], torch.where(apply, jittered, poses[:, 1:])], dim=1)
