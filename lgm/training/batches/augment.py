"""The paper's two augmentations of input views: grid distortion and orbital camera jitter (section
3.4).

Both imitate errors of multi-view diffusion, to train a network that tolerates inconsistent views.
`distort` and `jitter` apply them, for drawn batches, for items from shards and in the evaluation.
Random draws are arguments, which makes the rest deterministic; it is tested against the original.
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
# What a distorted grid shows where it leaves the image: color and alpha.
BLACK = (0.0, 0.0, 0.0, 0.0)  # in training, as in the original's data
WHITE = (1.0, 1.0, 1.0, 0.0)  # in the evaluation, whose images are on white


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
    # Both ends belong to a segment, and neighboring segments repeat a knot. Steps are counted from
    # the nearer end, as torch.linspace does, which gives the original's rounding.
    knot = torch.linspace(-1, 1, knots, device=uniforms.device, dtype=uniforms.dtype)
    low, high = knot[segment], knot[segment + 1]
    step = (high - low) / (end - start - 1).clamp(min=1)
    from_start, from_end = column - start, end - 1 - column
    return torch.where(
        from_start < (end - start) / 2, low + step * from_start, high - step * from_end
    )


def grid_distortion(images: Tensor, uniforms: Tensor, strength: float = GRID_STRENGTH) -> Tensor:
    """Images [V, C, H, W] sampled on a distorted grid; 0 outside of the images.

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
        first, second: [V, 1] draws in [0, 1) for the rotations about the camera's y and x axis, by
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


def distort(
    views: Tensor,
    grid: Tensor,
    chosen: Tensor | None = None,
    outside: tuple[float, float, float, float] = BLACK,
) -> Tensor:
    """Grid distortion of all views but the first.

    Args:
        views: [B, V, 4, S, S], color and alpha.
        grid: [B, 2 * (V - 1), n] draws in [0, 1).
        chosen: [B] bool, objects to distort; default: all.
        outside: BLACK or WHITE.
    """
    others = views[:, 1:]
    if not others.shape[1]:
        return views
    fill = views.new_tensor(outside)[:, None, None]
    warped = grid_distortion((others - fill).flatten(0, 1), grid.flatten(0, 1)) + fill
    warped = warped.view_as(others)
    if chosen is not None:
        warped = torch.where(chosen[:, None, None, None, None], warped, others)
    return torch.cat([views[:, :1], warped], dim=1)


def jitter(poses: Tensor, angles: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Orbital jitter of the cameras that the network is given, all but the first.

    Args:
        poses: [B, V, 4, 4].
        angles: [2, B, V - 1, 1] draws in [0, 1).
        chosen: [B] bool, objects whose cameras are jittered; default: all.
    """
    others = poses[:, 1:]
    if not others.shape[1]:
        return poses
    moved = orbital_jitter(others.flatten(0, 1), *angles.flatten(1, 2)).view_as(others)
    if chosen is not None:
        moved = torch.where(chosen[:, None, None, None], moved, others)
    return torch.cat([poses[:, :1], moved], dim=1)


@dataclass(frozen=True)
class Augmentation:
    """The random draws that change the inputs of a drawn batch."""

    inputs: int  # how many input views the step takes
    keyed: Tensor  # [B] bool, silhouettes are guessed from the white background
    distorted: Tensor  # [B] bool
    grid: Tensor  # [B, 2 * (inputs - 1), knots] in [0, 1)
    jittered: Tensor  # [B] bool
    angles: Tensor  # [2, B, inputs - 1, 1] in [0, 1)
    uncorrected: Tensor  # [B] bool, objects without correction: the loss is of their drafts

    @classmethod
    def draw(
        cls,
        generator: torch.Generator,
        share: Share,
        recipe: Recipe,
        inputs: int,
        progress: float,
    ) -> Augmentation:
        """Draw for all samples of a step, and keep this process's."""

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
            self.jittered[some], self.angles[:, some], self.uncorrected[some],
        )  # fmt: skip

    def to(self, device: torch.device) -> Augmentation:
        tensors = {
            f.name: sent(getattr(self, f.name), device) for f in fields(self) if f.name != "inputs"
        }
        return replace(self, **tensors)
