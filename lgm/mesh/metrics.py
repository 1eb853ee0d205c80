"""How near two surfaces are: chamfer distance and F-scores of points seen from outside.

What nobody can see doesn't count: source meshes have inner parts, and a mesh of a splat has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree  # ty: ignore[missing-module-member]
from torch import Tensor

from ..cameras import even_poses, focal_length, transform, world_to_camera
from .zbuffer import visibility

VIEWS, SIZE = 48, 1024  # pictures that decide what can be seen, and their pixels
DISTANCE = 3.0  # of their cameras, in radii
FILLED = 0.95  # of each picture by the sphere around the object
SLACK = 1.5  # pixels that a seen point may lie behind the seen surface: a slope of 65 degrees
POINTS = 400_000  # on each surface: so dense that the gaps between them don't count
QUERIES = 50_000  # of these, whose distances are measured


@dataclass(frozen=True)
class Agreement:
    """How well two surfaces agree, in the units of their points."""

    chamfer: float  # mean of the mean distances there and back
    accuracy: float  # mean distance from what was found to the truth
    completeness: float  # and from the truth to what was found
    f_scores: tuple[float, ...]  # per threshold, 0..1


def compare(
    found: np.ndarray, truth: np.ndarray, thresholds: Sequence[float] = (0.01, 0.02)
) -> Agreement:
    """Distances between two surfaces.

    Args:
        found, truth: points [P, 3] in random order, from `outer_points`; the first QUERIES of each
            are compared with all of the other.
        thresholds: distances up to which a point counts as right; the F-score is the harmonic mean
            of the parts of `found` and of `truth` that are.
    """
    there = cKDTree(truth).query(found[:QUERIES])[0]
    back = cKDTree(found).query(truth[:QUERIES])[0]
    scores = []
    for threshold in thresholds:
        precision, recall = (there < threshold).mean(), (back < threshold).mean()
        scores.append(float(2 * precision * recall / max(precision + recall, 1e-12)))
    accuracy, completeness = float(there.mean()), float(back.mean())
    return Agreement((accuracy + completeness) / 2, accuracy, completeness, tuple(scores))


def outer_points(vertices: Tensor, faces: Tensor, count: int = POINTS, seed: int = 0) -> np.ndarray:
    """Points [count, 3] spread evenly over what can be seen of a surface from around it.

    Args:
        vertices: [V, 3], any scale and place.
        faces: [F, 3]; both sides count.

    Raises:
        ValueError: nothing can be seen, as of a surface without area.
    """
    vertices, faces = vertices.detach().cpu().double(), faces.cpu()
    low, high = vertices[faces].flatten(0, 1).aminmax(dim=0)
    radius = ((high - low).norm() / 2).item() or 1.0
    poses, fovy = outer_cameras((low + high) / 2, radius)
    depths, triangles = visibility(vertices, faces, poses, SIZE, fovy)
    # A triangle that no pixel shows is inside, or so small that leaving it out changes nothing.
    corners = vertices[faces[triangles[triangles >= 0].unique()]]
    edges = corners[:, 1:] - corners[:, :1]
    areas = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=-1)
    if not areas.any():
        raise ValueError("Points on a surface need one that can be seen, but this one has none.")
    generator = torch.Generator().manual_seed(seed)
    parts, missing = [], count
    while missing > 0:
        points = _spread(corners, areas, count, generator)
        parts.append(points[_seen(points, depths, poses, fovy)][:missing])
        missing -= len(parts[-1])
    return torch.cat(parts).numpy()


def outer_cameras(center: Tensor, radius: float) -> tuple[Tensor, float]:
    """Cameras [VIEWS, 4, 4] evenly around a sphere, and the angle (degrees) that takes it in."""
    poses = even_poses(VIEWS, DISTANCE * radius).double()
    poses[:, :3, 3] += center.to(poses)
    return poses, math.degrees(2 * math.atan((DISTANCE**2 - 1) ** -0.5 / FILLED))


def _spread(corners: Tensor, areas: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random points [count, 3] on triangles, as many on each as its area asks for."""
    ends = areas.cumsum(0)
    along_areas = torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1]
    triangle = torch.searchsorted(ends, along_areas, right=True).clamp(max=len(areas) - 1)
    along, across = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    along = along.sqrt()  # fewer near the first corner, where the triangle is narrow
    first, second, third = corners[triangle].unbind(1)
    return first + along * (second - first + across * (third - second))


def _seen(points: Tensor, depths: Tensor, poses: Tensor, fovy: float) -> Tensor:
    """[P] bool: no picture's surface is in front of the point."""
    size = depths.shape[-1]
    focal = focal_length(size, fovy)
    seen = torch.zeros(len(points), dtype=torch.bool)
    for w2c, depth in zip(world_to_camera(poses), depths, strict=True):
        unseen = (~seen).nonzero()[:, 0]
        x, y, z = transform(w2c, points[unseen]).unbind(-1)
        column, row = ((axis / z * focal + size / 2).long().clamp(0, size - 1) for axis in (x, y))
        seen[unseen] = z <= depth[row, column] + SLACK * z / focal
    return seen
