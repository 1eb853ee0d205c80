"""Cameras: orbit poses, intrinsics, rays. The project's one page on axes and units.

World: right-handed, +y up, the object's front looks along +z, the object lies inside [-1, 1]^3.
Camera: `c2w` [4, 4] camera-to-world, OpenGL axes (+x right, +y up, looks along -z).
Angles: degrees. Azimuth 0 stands on +z, 90 on +x; elevation is positive *above* the horizon
(the official LGM code counts it downward). `fovy` is the full vertical angle of a picture.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .machine.constants import constant

FOVY = 49.1  # degrees, of every official render
RADIUS = 1.5  # world units from the origin
SIDE_AT = {0: "front", 90: "left", 180: "back", 270: "right"}
"""The model's input views, in order: azimuth in degrees -> the object's own side that it shows."""
INPUT_AZIMUTHS = tuple(map(float, SIDE_AT))


def orbit_poses(
    azimuths: Tensor | list[float] | tuple[float, ...],
    elevation: Tensor | list[float] | float = 0.0,
    radius: float = RADIUS,
) -> Tensor:
    """Camera-to-world matrices of cameras on a sphere that look at the origin.

    Args:
        azimuths: [V] degrees; 0 looks along -z from +z, 90 from +x.
        elevation: degrees above the horizon, one for all or [V].
        radius: distance to the origin, world units.

    Returns:
        [V, 4, 4] float32, OpenGL axes.

    Raises:
        ValueError: the radius is not positive.
    """
    if not radius > 0:
        raise ValueError(f"A camera orbit needs a radius above 0, got {radius}.")
    azimuth = torch.deg2rad(torch.as_tensor(azimuths, dtype=torch.float64).reshape(-1))
    elevation = torch.deg2rad(torch.as_tensor(elevation, dtype=torch.float64)).expand_as(azimuth)
    back = torch.stack(  # the camera's +z axis: from the target to the camera
        [elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()], dim=-1
    )
    # Horizontal by construction, so it is defined at the poles, where cross(up, back) vanishes.
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], dim=-1)
    up = torch.linalg.cross(back, right)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(azimuth), 1, 1)
    poses[:, :3] = torch.stack([right, up, back, radius * back], dim=-1)
    return poses.float()


def even_poses(
    count: int, radius: float = RADIUS, first_azimuth: float | None = None, inset: float = 0.5
) -> Tensor:
    """Cameras [count, 4, 4] that look at the origin from all around: evenly spread over a sphere,
    on a Fibonacci spiral from the top to the bottom.

    Args:
        radius: distance to the origin, world units.
        first_azimuth: degrees, of the topmost camera; default half a step of the spiral.
        inset: how far from the poles the ends are, in steps of height.
    """
    step = 180 * (3 - 5**0.5)  # degrees, the golden angle
    order = torch.arange(count, dtype=torch.float64)
    height = 1 - 2 * (order + inset) / (count - 1 + 2 * inset)
    first = 0.5 * step if first_azimuth is None else first_azimuth
    return orbit_poses(first + order * step, torch.rad2deg(height.asin()), radius)


def input_poses(elevation: float = 0.0) -> Tensor:
    """The model's four input cameras [4, 4, 4]. Training saw elevation 0 only: other values are at
    one's own risk.
    """
    return orbit_poses(INPUT_AZIMUTHS, elevation)


def canonicalize(c2w: Tensor, radius: float = RADIUS) -> Tensor:
    """Poses [..., V, 4, 4] in the world where view 0 is the identity rotation at (0, 0, radius), as
    in training.
    """
    canonical = torch.eye(4, dtype=c2w.dtype, device=c2w.device)
    canonical[2, 3] = radius
    return canonical @ torch.linalg.inv_ex(c2w[..., :1, :, :]).inverse @ c2w


def tan_half(fovy: float = FOVY) -> float:
    """Half of what a picture shows at distance 1."""
    return math.tan(math.radians(fovy) / 2)


def focal_length(size: int, fovy: float = FOVY) -> float:
    """Pixels. The same for both axes; the principal point is size / 2 exactly."""
    return 0.5 * size / tan_half(fovy)


def world_to_camera(c2w: Tensor) -> Tensor:
    """World-to-camera matrices [..., 4, 4] in OpenCV axes (+x right, +y down, +z forward), from
    OpenGL poses. Not finite where a pose has no inverse.
    """
    return torch.linalg.inv_ex(c2w * constant((1, -1, -1, 1), c2w)).inverse


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Points [..., 3] moved by matrices [..., 3 or 4, 4].

    Written out, since a matrix product may be rounded to ten bits on a GPU.
    """
    return turn(matrix, points) + matrix[..., :3, 3]


def turn(matrix: Tensor, directions: Tensor) -> Tensor:
    """Directions [..., 3] turned by matrices [..., 3 or 4, 3 or 4]; see `transform`."""
    return (matrix[..., :3, :3] * directions[..., None, :]).sum(-1)


def project(points: Tensor, c2w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far points [P, 3] lie to the right of one camera's axis, above it, and along it, [P] each
    in world units: seen at x / depth and y / depth.

    Faster than `transform`, and for the same reason without a matrix product.
    """
    offsets = (points - c2w[:3, 3].to(points)).unbind(-1)
    right, up, back = (
        sum(offset * factor for offset, factor in zip(offsets, axis, strict=True))
        for axis in c2w[:3, :3].T.tolist()
    )
    return right, up, -back


def pixel_slopes(
    row: Tensor, column: Tensor, size: int | tuple[int, int], fovy: float = FOVY
) -> tuple[Tensor, Tensor]:
    """x and y of the directions (x, y, -1), in the camera's own axes, through pixels' centers.

    Args:
        row, column: whole numbers, row 0 at the top.
        size: pixels, (height, width), or one number for square pictures.
    """
    height, width = (size, size) if isinstance(size, int) else size
    focal = focal_length(height, fovy)
    return (column + 0.5 - width / 2) / focal, (height / 2 - row - 0.5) / focal


def camera_rays(c2w: Tensor, size: int, fovy: float = FOVY) -> tuple[Tensor, Tensor]:
    """Origins and unit directions through pixel centers.

    Args:
        c2w: [..., 4, 4].

    Returns:
        Two tensors [..., size, size, 3] in world coordinates; row 0 is the top of the picture.
    """
    centers = (torch.arange(size, device=c2w.device, dtype=c2w.dtype) + 0.5) / size * 2 - 1
    centers = centers * tan_half(fovy)
    y, x = torch.meshgrid(-centers, centers, indexing="ij")  # rows go down, y goes up
    local = F.normalize(torch.stack([x, y, -torch.ones_like(x)], dim=-1), dim=-1)
    directions = torch.einsum("...ij,hwj->...hwi", c2w[..., :3, :3], local)
    return c2w[..., None, None, :3, 3].expand_as(directions), directions


def plucker_rays(c2w: Tensor, size: int, fovy: float = FOVY) -> Tensor:
    """Plücker coordinates of every pixel's ray, [..., 6, size, size]: moment o x d, then unit
    direction d.
    """
    origins, directions = camera_rays(c2w, size, fovy)
    rays = torch.cat([torch.linalg.cross(origins, directions), directions], dim=-1)
    return rays.movedim(-1, -3)
