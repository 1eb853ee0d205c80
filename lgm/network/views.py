"""Geometry of the input views: cameras, rays through depth, one view seen from another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import RADIUS
from ..machine.constants import constant

DISTANCE_TOLERANCE = 1e-4  # world units; within it a camera counts as at RADIUS


def cameras_from_rays(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Poses and half-field tangents that made these Plücker rays.

    Args:
        rays: [..., 6, S, S] as made by `lgm.cameras.plucker_rays`.

    Returns:
        c2w [..., 4, 4] and tan_half [...].
    """
    size = rays.shape[-1]
    corners = (
        rays[..., :: max(size - 1, 1), :: max(size - 1, 1)].flatten(-2).float().movedim(-1, -2)
    )
    moments, directions = corners.split(
        3, dim=-1
    )  # [..., 4, 3]: top-left, top-right, bottom-left, bottom-right
    top_left, top_right, bottom_left, _ = directions.unbind(-2)
    right = F.normalize(top_right - top_left, dim=-1)
    up = F.normalize(top_left - bottom_left, dim=-1)
    back = torch.linalg.cross(right, up)
    tangent = (top_right * right).sum(-1) / -(top_right * back).sum(-1) / (1 - 1 / size)
    # A ray fixes the origin up to its own direction; four rays fix it.
    across = torch.eye(3, device=rays.device) - directions[..., :, None] * directions[..., None, :]
    closest = torch.linalg.cross(directions, moments)
    origin = torch.linalg.solve_ex(across.sum(-3), closest.sum(-2)).result
    c2w = torch.stack([right, up, back, origin], dim=-1)
    bottom = constant((0, 0, 0, 1), c2w).expand(*c2w.shape[:-2], 1, 4)
    return torch.cat([c2w, bottom], dim=-2), tangent


def camera_distances(c2w: Tensor) -> Tensor:
    """Distances [...] of cameras [..., 4, 4] from the origin; RADIUS exactly where only rounding
    makes a difference.
    """
    distances = c2w[..., :3, 3].norm(dim=-1)
    return torch.where((distances - RADIUS).abs() < DISTANCE_TOLERANCE, RADIUS, distances)


def depth_rays(c2w: Tensor, tan_half: Tensor, size: int) -> Tensor:
    """World directions [B, V, size, size, 3] scaled to unit camera depth."""
    centers = (torch.arange(size, device=c2w.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-centers, centers, indexing="ij")
    tangent = tan_half[..., None, None]
    local = torch.stack([x * tangent, y * tangent, -torch.ones_like(x * tangent)], dim=-1)
    return torch.einsum("bvij,bvhwj->bvhwi", c2w[..., :3, :3], local)


def polar_poses(first: Tensor) -> Tensor:
    """Cameras straight above and below the origin [..., 2, 4, 4], as far away as the first view's
    camera [..., 4, 4]; what is nearest to that one is lowest in their pictures.
    """
    position = first[..., :3, 3]
    horizontal = constant((1, 0, 1), first)
    level, upwards = position * horizontal, first[..., :3, 1] * horizontal
    # A first camera that itself looks straight down has its picture's up for a direction.
    is_level = level.norm(dim=-1, keepdim=True) > 1e-3 * position.norm(dim=-1, keepdim=True)
    up = F.normalize(torch.where(is_level, -level, upwards), dim=-1)
    poses = []
    for side in (1.0, -1.0):
        back = constant((0, side, 0), up).expand_as(up)
        place = back * position.norm(dim=-1, keepdim=True)
        pose = torch.stack([torch.linalg.cross(up, back), up, back, place], dim=-1)
        bottom = constant((0, 0, 0, 1), pose).expand(*pose.shape[:-2], 1, 4)
        poses.append(torch.cat([pose, bottom], dim=-2))
    return torch.stack(poses, dim=-3)


def looked_at(x: Tensor, shift: int, views: int, pictured: int) -> Tensor:
    """Of values [B, M, ...] of views those [B, views, ...] of the view with a picture that each
    view looks at: its neighbor by `shift`. Poles, views from `pictured` on, look where view 0 does.
    """
    own = [view if view < pictured else 0 for view in range(views)]
    return torch.stack([x[:, (view + shift) % pictured] for view in own], dim=1)


def sample_from_neighbor(
    maps: Tensor, shift: int, depths: Tensor, c2w: Tensor, tan_half: Tensor, rays: Tensor
) -> Tensor:
    """Maps [B, M, C, h, w] of view v + shift where the points at `depths` [B, V, D, h, w] of view v
    project.

    Returns [B, V, C, D, h, w]. Outside the picture its border is repeated.
    """
    _, views, count, height, _ = depths.shape

    def there(x: Tensor) -> Tensor:
        return looked_at(x, shift, views, maps.shape[1])

    other = there(c2w)
    to_other = other[..., :3, :3].transpose(-1, -2)
    start = torch.einsum("bvij,bvj->bvi", to_other, c2w[..., :3, 3] - other[..., :3, 3])
    step = torch.einsum("bvij,bvhwj->bvhwi", to_other, rays)
    points = start[:, :, None, None, None] + depths[..., None] * step[:, :, None]
    sampled = sample(there(maps), points.flatten(2, 3), there(tan_half))
    return sampled.unflatten(3, (count, height))


def sample(maps: Tensor, points: Tensor, tan_half: Tensor) -> Tensor:
    """Maps [B, V, C, h, w] where points [B, V, H, W, 3] in the cameras' own axes project:
    [B, V, C, H, W]. Outside the picture its border is repeated.
    """
    scale = tan_half[..., None, None] * (-points[..., 2]).clamp(min=0.05)
    grid = torch.stack([points[..., 0] / scale, -points[..., 1] / scale], dim=-1)
    sampled = F.grid_sample(
        maps.flatten(0, 1), grid.flatten(0, 1), padding_mode="border", align_corners=False
    )
    return sampled.unflatten(0, maps.shape[:2])


def pole_map(like: Tensor, pictured: int) -> Tensor:
    """[B, V, 1, h, w]: 1 in the views that have no pictures, which come last."""
    is_pole = torch.arange(like.shape[1], device=like.device) >= pictured
    return is_pole[:, None, None, None].float().expand_as(like)


def between_views(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """From the axes of view v to those of view o: v's place [B, v, o, 3], rotations
    [B, v, o, 3, 3].
    """
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
    apart = position[:, :, None] - position[:, None]
    starts = torch.einsum("boji,bvoj->bvoi", rotation, apart)
    return starts, torch.einsum("boji,bvjk->bvoik", rotation, rotation)
