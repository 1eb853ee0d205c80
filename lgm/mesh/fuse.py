"""A closed surface by what is seen from outside: depth maps from all around, fused on a grid.

A depth map says where the surface is, coverage where it ends. The expected depth of half
transparent Gaussians lies between the front and what shines through; so the first three powers of
the depth are rendered instead of colors. They separate two layers, and the front one counts.

A point of the grid is outside if it lies in front of what is seen there, on a weighted mean of all
views, or where several views show nothing at all. What no view sees is inside: the surface has no
holes, and a hollow shell becomes solid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import even_poses, focal_length, pixel_slopes, project
from ..gaussians import Gaussians
from ..machine.interrupt import between_steps, report, subtask
from ..render import render
from ..render.threads import threads
from ..rotations import rotation_matrices
from .merge import merged
from .record import Mesh
from .surface_nets import surface_nets
from .unit_ball import NOTHING_OPAQUE, OPAQUE, REACH, Grid, check_resolution, in_unit_ball

VIEWS = 48
PIXELS = 2  # per voxel
MAX_SIZE = 1024  # pixels on a side
FIRST_AZIMUTH = 77.0  # degrees; then no camera stands in a plane of two axes
FOVY = 40.0  # degrees
FRONT = 0.2  # coverage from which on a layer in front of another is the surface
LAYERS_APART = 0.05  # radii; two layers that are nearer are one thick one
INSIDE_PRIOR = 1.0  # weight of the prior "inside", in views: fills pits that almost no view sees
IN_FRONT, BEHIND = 2.6, 1.6  # voxels; distances are clamped to the first, count up to the second
BLANK_VIEWS = 3  # so many views have to show nothing: one may see a thin part edge-on
HALF_DEPTH = 0.8  # deviations, along the line of sight, from a Gaussian's center to its front
INFLATE = 0.6  # voxels: a sheet without thickness has to hold a value of the grid inside
COARSE = 4  # voxels between the values that decide away from the surface
MARGIN = 4  # voxels of outside around the object


@dataclass(frozen=True)
class DepthMaps:
    """V views of a splat that fills the unit ball."""

    c2w: Tensor  # [V, 4, 4], on the CPU
    depths: Tensor  # [V, S, S] camera z of the front, infinite where nothing is
    weights: Tensor  # [V, S, S] cosine between surface and line of sight
    alphas: Tensor  # [V, S, S]


def fuse(gaussians: Gaussians, resolution: int = 192) -> Mesh:
    """A closed surface, each edge of which has two faces, where the Gaussians are.

    Bubbles and stray pieces are still there, see `cleanup.cleaned`. The same splat gives the same
    surface.

    Args:
        gaussians: a batch of one, of any scale and anywhere; the work is done on its device.
        resolution: voxels along the longest side.

    Raises:
        ValueError: a resolution below 16, more than one object, or nothing that pictures show.
    """
    check_resolution(resolution)
    with torch.no_grad(), threads(1) as before:
        visible, center, radius = in_unit_ball(gaussians)
        visible = merged(visible, 1 / resolution)
        between_steps()
        with subtask(0.0, 0.5):
            views = _observe(visible, min(PIXELS * resolution, MAX_SIZE), before)
        points = _seen_points(views)
        grid = _grid_around(points, resolution)
        with subtask(0.5, 0.9):
            values = _field(grid, points, views)
        between_steps()
        vertices, faces = surface_nets(values, grid.origin, grid.voxel)
    if not len(faces):
        raise ValueError(NOTHING_OPAQUE)
    report(1.0)
    vertices = vertices * np.float32(radius) + center.numpy()
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)).to(gaussians.device)


def poses_around() -> tuple[Tensor, float]:
    """Cameras [VIEWS, 4, 4] spread evenly over the sphere, down to 8 degrees from the poles, and
    their distance.

    On a spiral: cameras on rings would look at a flat card edge-on several at a time.
    """
    distance = REACH / math.sin(math.radians(FOVY / 2))
    return even_poses(VIEWS, distance, FIRST_AZIMUTH, inset=0.36), distance


def _observe(gaussians: Gaussians, size: int, workers: int) -> DepthMaps:
    c2w, distance = poses_around()
    axes = rotation_matrices(gaussians.rotations) * gaussians.scales[..., None, :]
    depths, alphas = [], []
    for number, pose in enumerate(c2w):
        between_steps()
        back = pose[:3, 2].to(gaussians.positions)
        half_depths = (axes * back[:, None]).sum(-2).norm(dim=-1)
        # Relative to the middle, so that the third power keeps its digits.
        offset = -(gaussians.positions * back).sum(-1) - HALF_DEPTH * half_depths
        powers = replace(gaussians, colors=torch.stack([offset, offset**2, offset**3], dim=-1))
        with threads(workers):
            picture = render(powers, pose[None], size, FOVY, background=0.0)
        alpha = picture.alphas[0, 0, 0]
        front = front_depth(picture.images[0, 0] / alpha.clamp(min=1e-6), alpha)
        depths.append(torch.where(alpha >= OPAQUE, front + distance, torch.inf))
        alphas.append(alpha)
        report((number + 1) / VIEWS)
    depths = torch.stack(depths)
    return DepthMaps(c2w, depths, _cosines(depths), torch.stack(alphas))


def front_depth(moments: Tensor, alpha: Tensor) -> Tensor:
    """Depth of the first layer with a coverage of FRONT, from the mean, square and cube [3, S, S].

    Two layers have just these three moments (the nodes of Gauss' quadrature with two points).
    """
    mean, square, cube = moments
    deviation = (square - mean**2).clamp(min=1e-12).sqrt()
    half_skew = (cube - 3 * mean * square + 2 * mean**3) / (2 * deviation**3)
    reach = (1 + half_skew**2).sqrt()
    near, far = (mean + deviation * (half_skew + sign * reach) for sign in (-1, 1))
    share = 0.5 * (1 + half_skew / reach)  # of the near layer
    front = torch.where(share * alpha >= FRONT, near, far)
    return torch.where(2 * deviation * reach > LAYERS_APART, front, mean)


def _cosines(depths: Tensor) -> Tensor:
    """Cosines [V, S, S] between line of sight and surface normal, from the slopes of the depth."""
    _, distance = poses_around()
    z = torch.where(depths.isfinite(), depths, distance)
    pixel = z / focal_length(z.shape[-1], FOVY)
    across = F.pad((z[:, :, 2:] - z[:, :, :-2]) / 2, (1, 1))
    down = F.pad((z[:, 2:] - z[:, :-2]) / 2, (0, 0, 1, 1))
    return (1 + (across / pixel) ** 2 + (down / pixel) ** 2).rsqrt()


def _seen_points(views: DepthMaps) -> Tensor:
    """Points [P, 3] of the surface under the pixels of all views."""
    size = views.depths.shape[-1]
    parts = []
    for pose, depth in zip(views.c2w.to(views.depths), views.depths, strict=True):
        row, column = depth.isfinite().nonzero().unbind(1)
        z = depth[row, column]
        right, up = (slope * z for slope in pixel_slopes(row, column, size, FOVY))
        x_axis, y_axis, z_axis, eye = pose[:3].unbind(1)
        parts.append(eye + right[:, None] * x_axis + up[:, None] * y_axis - z[:, None] * z_axis)
    points = torch.cat(parts)
    if not len(points):
        raise ValueError(NOTHING_OPAQUE)
    return points.clamp(-REACH, REACH)


def _grid_around(points: Tensor, resolution: int) -> Grid:
    low, high = points.amin(0), points.amax(0)
    size = (high - low).tolist()
    voxel = max(*size, 1e-3) / max(resolution - 2 * MARGIN, 1)
    shape = (math.ceil((side / voxel + 2 * MARGIN) / COARSE) * COARSE for side in size)
    return Grid(low - (MARGIN - 0.5) * voxel, voxel, tuple(shape))


def _field(grid: Grid, points: Tensor, views: DepthMaps) -> Tensor:
    """Signed distances [X, Y, Z] to the surface in voxels near it, below 0 inside; elsewhere only
    the sign counts.
    """
    device = points.device
    coarse_shape = tuple(side // COARSE for side in grid.shape)
    coarse = torch.ones(coarse_shape, device=device).nonzero() * COARSE + (COARSE - 1) / 2
    fine = _band(grid, points).nonzero()
    samples = torch.cat([coarse, fine]) * grid.voxel + grid.origin
    chunk = 1 << (22 if samples.is_cuda else 16)  # a CPU's cache holds it
    values, done = [], 0
    for part in samples.split(chunk):
        between_steps()
        values.append(_distances(part, views, grid.voxel))
        done += len(part)
        report(done / len(samples))
    values = torch.cat(values)
    field = values[: len(coarse)].reshape(coarse_shape).sign()
    for axis in range(3):
        field = field.repeat_interleave(COARSE, axis)
    field[fine.unbind(1)] = values[len(coarse) :]
    return field


def _band(grid: Grid, points: Tensor) -> Tensor:
    """Which values [X, Y, Z] of the grid are within two to four voxels of what is seen."""
    half = torch.zeros([side // 2 for side in grid.shape], device=points.device)
    cell = ((points - grid.origin) / grid.voxel + 0.5).div(2).long()
    half[cell.unbind(1)] = 1.0
    band = F.max_pool3d(half[None, None], 3, stride=1, padding=1)[0, 0] > 0
    for axis in range(3):
        band = band.repeat_interleave(2, axis)
    return band


def _distances(points: Tensor, views: DepthMaps, voxel: float) -> Tensor:
    """Signed distances [N], in voxels, of points [N, 3].

    In front of what it sees, a view counts fully; behind it ever less, since it can't see past a
    thin part.
    """
    total, weight = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
    blank = [torch.full_like(total, -1.0) for _ in range(BLANK_VIEWS)]  # largest first
    for pose, depths, weights, alphas in zip(
        views.c2w, views.depths, views.weights, views.alphas, strict=True
    ):
        pixel, z = _pixels(points, pose, depths.shape[-1])
        distance = (depths.view(-1)[pixel] - z) / voxel
        share = weights.view(-1)[pixel] * (1 + distance / BEHIND).clamp(0, 1)
        share = torch.where(distance.isinf(), 0.0, share)  # the blank decides there
        total += share * distance.clamp(max=IN_FRONT)
        weight += share
        empty = 2 * (OPAQUE - alphas.view(-1)[pixel])
        for rank in range(BLANK_VIEWS):
            empty, blank[rank] = (
                torch.minimum(empty, blank[rank]),
                torch.maximum(empty, blank[rank]),
            )
    mean = (total - INSIDE_PRIOR * BEHIND) / (weight + INSIDE_PRIOR)
    return torch.maximum(mean - INFLATE, blank[-1])


def _pixels(points: Tensor, pose: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The pixels, as indices into a flattened picture, and depths where points [N, 3] are seen."""
    right, up, depth = project(points, pose)
    scale = focal_length(size, FOVY) / depth
    column = (right * scale + size / 2).long().clamp_(0, size - 1)
    row = (size / 2 - up * scale).long().clamp_(0, size - 1)
    return row * size + column, depth
