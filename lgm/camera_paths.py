"""Paths of cameras around a splat: orbit, spiral, arc; and how far away a camera needs to stand.

Cameras are `c2w` [F, 4, 4] float32 on the CPU, with the axes and angles of `lgm.cameras`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from .cameras import orbit_poses

Vector = Sequence[float] | Tensor  # [3]

ORIGIN = (0.0, 0.0, 0.0)
UP = (0.0, 1.0, 0.0)
POLE = 1e-4  # sine of the angle to the vertical below which an azimuth is rounding


def orbit(
    frames: int,
    radius: float,
    elevation: float = 0.0,
    center: Vector = ORIGIN,
    start_azimuth: float = 0.0,
    turns: float = 1.0,
) -> Tensor:
    """A circle around `center`, [F, 4, 4]. The frame after the last would be the first again, so
    that a video of whole turns loops.

    Args:
        turns: rounds in all; below 0 the other way round.
    """
    azimuths = start_azimuth + 360 * turns * torch.arange(_at_least_one(frames)).double() / frames
    return _around(center, orbit_poses(azimuths, elevation, radius))


def spiral(
    frames: int,
    radius: float,
    elevation_from: float = -30.0,
    elevation_to: float = 60.0,
    turns: float = 2.0,
    center: Vector = ORIGIN,
    start_azimuth: float = 0.0,
) -> Tensor:
    """[F, 4, 4]: turns around `center` that climb evenly from one elevation to the other, both
    included.
    """
    t = _steps(frames)
    elevations = torch.lerp(t.new_tensor(elevation_from), t.new_tensor(elevation_to), t)
    return _around(center, orbit_poses(start_azimuth + 360 * turns * t, elevations, radius))


def arc(start: Tensor, end: Tensor, frames: int, target: Vector = ORIGIN) -> Tensor:
    """[F, 4, 4] from camera `start` to camera `end` ([4, 4]), both included, along the great circle
    around `target`, while the distance changes evenly.

    Up stays up, so an arc past a pole turns around quickly there. What an end camera has beyond a
    plain look at the target (roll, a look to the side) goes over evenly into what the other has.
    Ends opposite to each other are joined sideways, past the front (+z) where there is a choice.

    Raises:
        ValueError: an end stands on the target, or less than one frame.
    """
    t = _steps(frames)
    ends, target = torch.stack([start, end]).detach().cpu().double(), _vector(target)
    offsets = ends[:, :3, 3] - target
    if not _apart(offsets, target):
        raise ValueError(
            "An arc needs cameras away from its target, but one stands on it: move either."
        )
    radii = offsets.norm(dim=1)
    first, last = offsets / radii[:, None]
    way = [first, last]
    if (first + last).norm() < 1e-3:
        way = [first, _sideways(first), last]
    leg = (t * (len(way) - 1)).long().clamp(max=len(way) - 2)
    corners = torch.stack(way)
    directions = _along_great_circle(
        corners[leg], corners[leg + 1], (t * (len(way) - 1) - leg)[:, None]
    )
    positions = target + torch.lerp(radii[0], radii[1], t)[:, None] * directions

    # Over a pole, up is where the path goes on: anything else would turn in the very next frame.
    ups = _vector(UP).repeat(len(t), 1)
    for frame, pole, onwards in ((-1, last, way[-2]), (0, first, way[1])):
        level = onwards * onwards.new_tensor([1, 0, 1])
        if _is_vertical(pole) and not _is_vertical(onwards):
            ups[frame] = -pole[1].sign() * level
    poses = _look_at(positions, target, ups)
    residues = poses[[0, -1], :3, :3].mT @ ends[:, :3, :3]
    slerp = Slerp([0, 1], Rotation.from_matrix(residues.numpy()))
    poses[:, :3, :3] = poses[:, :3, :3] @ torch.from_numpy(slerp(t.numpy()).as_matrix())
    return poses.float()


def look_at(position: Vector, target: Vector = ORIGIN, up: Vector = UP) -> Tensor:
    """[4, 4]: the camera at `position` that sees `target` in its middle and `up` upwards.

    Where it looks along `up`, its right is +x, as on an orbit at azimuth 0 (+z, if +x is up).

    Raises:
        ValueError: the position is the target.
    """
    position, target, up = _vector(position), _vector(target), _vector(up)
    if not _apart((position - target)[None], target):
        raise ValueError(
            f"A camera at {position.tolist()} can't look at its own place: move the target."
        )
    return _look_at(position[None], target, up[None])[0].float()


def fit_radius(
    extent_radius: float, fovy: float, margin: float = 1.1, aspect: float = 1.0
) -> float:
    """How far a camera must stand from the center of a sphere to see all of it.

    Args:
        extent_radius: of the sphere, world units.
        fovy: full vertical angle, degrees.
        margin: how much larger a sphere must fit; 1 touches the picture's border.
        aspect: width / height of the picture; the narrower side counts.

    Raises:
        ValueError: a size, margin or aspect that isn't above 0, or an angle outside 0 to 180.
    """
    if not (extent_radius > 0 and margin > 0 and aspect > 0 and 0 < fovy < 180):
        raise ValueError(
            "Fitting a sphere needs a radius, margin and aspect above 0 and a fovy between 0 and "
            f"180 degrees, got {extent_radius}, {margin}, {aspect} and {fovy}."
        )
    half = math.radians(fovy) / 2
    narrower = min(half, math.atan(aspect * math.tan(half)))
    return extent_radius * margin / math.sin(narrower)


def _at_least_one(frames: int) -> int:
    if frames < 1:
        raise ValueError(f"A camera path needs at least 1 frame, got {frames}.")
    return frames


def _steps(frames: int) -> Tensor:
    """[F] from 0 to 1, both included."""
    return torch.linspace(0, 1, _at_least_one(frames), dtype=torch.float64)


def _vector(value: Vector) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu()


def _around(center: Vector, poses: Tensor) -> Tensor:
    poses[:, :3, 3] += _vector(center)
    return poses


def _apart(offsets: Tensor, target: Tensor) -> bool:
    """Whether no camera stands on its target, but for rounding."""
    return bool((offsets.norm(dim=1) > 1e-7 * target.norm()).all())


def _is_vertical(direction: Tensor) -> bool:
    return bool(direction[[0, 2]].norm() < POLE * direction.norm())


def _sideways(direction: Tensor) -> Tensor:
    """The level direction across a unit `direction` that is nearer to the front, else to +x."""
    if _is_vertical(direction):
        return direction.new_tensor([0, 0, 1])
    x, _, z = F.normalize(torch.linalg.cross(_vector(UP), direction), dim=0).tolist()
    sign = -1 if z < -POLE or (z < POLE and x < 0) else 1
    return direction.new_tensor([sign * x, 0, sign * z])


def _along_great_circle(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Unit directions [F, 3] at the parts t [F, 1] of the way between unit directions [F, 3]."""
    cosine = (start * end).sum(1, keepdim=True)
    across = end - cosine * start
    angle = t * torch.atan2(across.norm(dim=1, keepdim=True), cosine)
    return angle.cos() * start + angle.sin() * F.normalize(across, dim=1)


def _look_at(positions: Tensor, target: Tensor, ups: Tensor) -> Tensor:
    """[F, 4, 4] float64 from [F, 3], [3] and [F, 3]."""
    back = F.normalize(positions - target, dim=1)
    right = torch.linalg.cross(F.normalize(ups, dim=1), back)
    for axis in ([1.0, 0, 0], [0, 0, 1.0]):
        axis = back.new_tensor(axis).expand_as(back)
        level = axis - (axis * back).sum(1, keepdim=True) * back
        right = torch.where(right.norm(dim=1, keepdim=True) < POLE, level, right)
    right = F.normalize(right, dim=1)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(back), 1, 1)
    poses[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, positions], dim=-1)
    return poses
