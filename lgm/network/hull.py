"""The visual hull of four silhouettes, as seen from each view: the hull presets (`demo`) refine it.

A pixel's ray crosses the hull in an interval of depths; the surface lies inside it. A network that
corrects the hull's near side needs far less training, and its mistakes are smaller, than one that
has to find absolute positions by matching views 90 degrees apart.

Frames and units as in `lgm.cameras`; depth is the camera's z distance, not the length along the
ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gaussians import Gaussians
from ..machine.constants import constant
from ..rotations import quaternion_from_matrix, quaternion_multiply
from .carving import carve
from .presets import POLES
from .views import camera_distances, depth_rays, polar_poses, pole_map, sample_from_neighbor

COLOR_FRACTIONS = (
    0.0,
    0.1,
    0.25,
    0.5,
)  # of the interval, where the neighbors' colors are looked up
NEIGHBORS = (1, -1)  # next and previous view; the opposite one never sees the same surface
FROM_POLES = (1, -1, 2, 0)  # seen from above and below, any view may be near
POLE_OPACITY = 0.12  # low where training starts: it is raised where unseen surfaces need it
KEY_SOFTNESS = (
    8 / 255
)  # how far from white a pixel must be to count as object when no alpha is given


@dataclass(frozen=True)
class Guide:
    """The visual hull and its neighbors' colors, without learned weights, on the splat grid h x w.

    With poles, V counts the views from above and below, too; they come last, and their colors are
    looked up in the rest.
    """

    c2w: Tensor  # [B, V, 4, 4]
    tan_half: Tensor  # [B, V], tangent of half the field of view
    colors: Tensor  # [B, V, 3, h, w], 0..1 on white
    alphas: Tensor  # [B, V, 1, h, w]
    near: Tensor  # [B, V, 1, h, w], depth where the ray enters the hull
    far: Tensor  # [B, V, 1, h, w], depth where it leaves; where it misses, both are the distance
    valid: Tensor  # [B, V, 1, h, w], 1 where the ray meets the hull

    @property
    def distances(self) -> Tensor:
        """Of the cameras from the origin [B, V, 1, 1, 1], which the networks count depths from."""
        return camera_distances(self.c2w)[..., None, None, None]


def key_white(images: Tensor) -> Tensor:
    """Alpha [..., 1, H, W] of pictures [..., 3, H, W] on pure white: how far each pixel is from
    white.
    """
    return ((1 - images).amax(-3, keepdim=True) / KEY_SOFTNESS).clamp(0, 1)


@torch.no_grad()
def visual_hull(
    colors: Tensor, alphas: Tensor, c2w: Tensor, tan_half: Tensor, poles: bool = False
) -> Guide:
    """March every pixel's ray through the other views' silhouettes.

    Args:
        colors: [B, V, 3, h, w], 0..1 on white. alphas: [B, V, 1, h, w].
        c2w: [B, V, 4, 4]. tan_half: [B, V].
        poles: look at the hull from above and below, too.
    """
    if not poles:
        return Guide(c2w, tan_half, colors, alphas, *carve(alphas, alphas, c2w, tan_half))
    c2w = torch.cat([c2w, polar_poses(c2w[:, 0])], dim=1)
    tan_half = torch.cat([tan_half, tan_half[:, :1].expand(-1, POLES)], dim=1)
    everywhere = torch.cat(
        [alphas, torch.ones_like(alphas[:, :1]).expand(-1, POLES, -1, -1, -1)], 1
    )
    near, far, valid = carve(alphas, everywhere, c2w, tan_half)
    rays = depth_rays(c2w, tan_half, alphas.shape[-1])
    below_edge = near + COLOR_FRACTIONS[1] * (far - near)  # pictures' edges are half white
    seen = [
        sample_from_neighbor(colors, view, below_edge, c2w, tan_half, rays)[:, -POLES:, :, 0]
        for view in range(colors.shape[1])
    ]
    hull = valid[:, -POLES:]
    guessed = torch.stack(seen).mean(0) * hull + 1 - hull
    return Guide(
        c2w,
        tan_half,
        torch.cat([colors, guessed], dim=1),
        torch.cat([alphas, POLE_OPACITY * hull], dim=1),
        near,
        far,
        valid,
    )


@torch.no_grad()
def guide_inputs(guide: Guide, alphas: Tensor) -> Tensor:
    """The guide as extra network inputs [B, V, HULL_CHANNELS, S, S], with poles POLE_CHANNELS more.

    Args:
        alphas: [B, M, 1, S, S] at the network's own resolution, of the views that have pictures.
    """
    pictured, total = alphas.shape[1], guide.near.shape[1]
    colors = guide.colors[:, :pictured]
    rays = depth_rays(guide.c2w, guide.tan_half, guide.near.shape[-1])
    fractions = constant(COLOR_FRACTIONS, guide.near)[:, None, None]
    depths = guide.near + fractions * (guide.far - guide.near)
    neighbors = [
        (
            sample_from_neighbor(colors, shift, depths, guide.c2w, guide.tan_half, rays) * 2 - 1
        ).flatten(2, 3)
        for shift in (FROM_POLES if total > pictured else NEIGHBORS)
    ]
    coarse = [guide.near - guide.distances, guide.far - guide.distances, guide.valid, *neighbors]
    if total > pictured:
        coarse.append(pole_map(guide.valid, pictured))
    fine = F.interpolate(torch.cat(coarse, 2).flatten(0, 1), size=alphas.shape[-2:], mode="nearest")
    fine = fine.unflatten(0, guide.near.shape[:2])
    return torch.cat([torch.cat([alphas, fine[:, pictured:, 2:3]], dim=1), fine], dim=2)


def pole_pictures(guide: Guide, pictured: int, size: int) -> tuple[Tensor, Tensor]:
    """What the poles' views stand for as network inputs: colors [B, 2, 3, S, S] on white, and
    Plücker rays [B, 2, 6, S, S].
    """
    colors = guide.colors[:, pictured:]
    colors = F.interpolate(colors.flatten(0, 1), (size, size), mode="bilinear")
    c2w, tan_half = guide.c2w[:, pictured:], guide.tan_half[:, pictured:]
    directions = F.normalize(depth_rays(c2w, tan_half, size), dim=-1)
    origins = c2w[:, :, None, None, :3, 3].expand_as(directions)
    rays = torch.cat([torch.linalg.cross(origins, directions), directions], dim=-1)
    return colors.unflatten(0, c2w.shape[:2]), rays.movedim(-1, 2)


def decode_hull(features: Tensor, guide: Guide) -> Gaussians:
    """Gaussians from the raw map [B, V, 14, h, w]; an all-zero map gives the colored visual hull.

    Offsets, scales and rotations are in the camera's own axes, so the network need not know where a
    view stands.
    """
    size = features.shape[-1]
    offset, opacity, scale, rotation, color = features.movedim(2, -1).split((3, 1, 3, 4, 3), dim=-1)
    near, alphas, colors = (x.movedim(2, -1) for x in (guide.near, guide.alphas, guide.colors))
    axes = guide.c2w[..., :3, :3]
    surface = guide.c2w[:, :, None, None, :3, 3] + near * depth_rays(
        guide.c2w, guide.tan_half, size
    )
    positions = surface + torch.einsum("bvij,bvhwj->bvhwi", axes, 0.3 * offset)
    pixel = 2 * guide.tan_half[:, :, None, None, None] * near / size  # its side in world units
    white = (2 * colors - 1).clamp(-0.98, 0.98)
    local = F.normalize(rotation + constant((1, 0, 0, 0), rotation), dim=-1)
    view = quaternion_from_matrix(axes)[:, :, None, None].expand_as(local)
    return Gaussians(
        *(
            value.flatten(1, 3)
            for value in (
                positions.clamp(-1, 1),
                torch.sigmoid(opacity + alphas.clamp(0.004, 0.98).logit()),
                pixel * torch.exp(scale.clamp(-4, 4) - 0.6),  # about half a pixel to begin with
                quaternion_multiply(view, local),
                0.5 * torch.tanh(color + torch.atanh(white)) + 0.5,
            )
        )
    )
