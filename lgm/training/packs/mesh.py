"""One training mesh: triangles, normals, texture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...cameras import FOVY, RADIUS
from ..rasterize import TriangleSoup

TILE = 128  # pixels a side of one texture in the pack
EVALUATION_FILL = 0.85  # of the frame; the fixed evaluation set and the examples use it
PROJECTED_REPEATS = 0.5  # texture repeats per half-extent where a mesh has no uvs


@dataclass(frozen=True)
class Mesh:
    """One object with its own textures, as numpy arrays."""

    vertices: np.ndarray  # [V, 3] float32, any units
    faces: np.ndarray  # [F, 3] int64
    normals: np.ndarray  # [F, 3, 3] float32, unit, at the corners
    uvs: np.ndarray  # [F, 3, 2] float32, v up
    material_ids: np.ndarray  # [F] int64
    colors: np.ndarray  # [K, 3] float32 0..1
    textures: np.ndarray  # [K] int64, index into images, -1 for plain color
    images: tuple[np.ndarray, ...]  # uint8 [H, W, 3]

    def soup(self, fill: float = EVALUATION_FILL, resolution: int = 512) -> TriangleSoup:
        """The object alone, centered and scaled to `fill` of the frame; textures at
        `resolution`."""
        tiles = [resize(image, resolution) for image in self.images]
        atlas = np.stack(tiles) if tiles else np.zeros((0, resolution, resolution, 3), np.uint8)
        corners = torch.from_numpy(self.vertices[self.faces]).float()
        objects = torch.zeros(len(corners), dtype=torch.int64)
        return TriangleSoup(
            corners=fit(corners, objects, torch.tensor([fill])),
            normals=torch.from_numpy(self.normals).float(),
            uvs=torch.from_numpy(self.uvs).float(),
            colors=torch.from_numpy(self.colors[self.material_ids]).float(),
            textures=torch.from_numpy(self.textures[self.material_ids]),
            objects=objects,
            atlas=torch.from_numpy(atlas).movedim(-1, 1).contiguous(),
            count=1,
        )


def fit(corners: Tensor, objects: Tensor, fill: Tensor) -> Tensor:
    """Center objects and scale each to span `fill` of the frame in the tightest of the four input
    views.

    In the view from azimuth 0 a point (x, y, z) lies at max(|x|, |y|) / ((radius - z) tan(fovy /
    2)) of the frame's half; the view from 180 turns the sign of z, so |z| counts; 90 and 270
    exchange x and z. Asking every point to stay within `fill` after scaling by s gives one upper
    bound on s per point, and the smallest is exact.

    Args:
        corners: [T, 3, 3].
        objects: [T] int64 batch item.
        fill: [B] 0..1.

    Returns:
        [T, 3, 3] inside [-0.685, 0.685]^3.
    """
    size = (len(fill), 3)
    index = objects[:, None].expand(-1, 3)
    low = corners.new_full(size, math.inf).scatter_reduce(0, index, corners.amin(1), "amin")
    high = corners.new_full(size, -math.inf).scatter_reduce(0, index, corners.amax(1), "amax")
    centered = corners - ((low + high) / 2)[objects][:, None]
    slope = fill * math.tan(math.radians(FOVY) / 2)
    x, y, z = centered.abs().unbind(-1)
    steep = slope[objects][:, None]
    reach = torch.maximum(torch.maximum(x, y) + steep * z, torch.maximum(z, y) + steep * x).amax(1)
    reach = corners.new_zeros(len(fill)).scatter_reduce(0, objects, reach, "amax")
    return centered * (RADIUS * slope / reach.clamp(min=1e-12))[objects][:, None, None]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """A picture [H, W, 3] at [size, size, 3]."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(
        Image.fromarray(image).resize(
            (size, size),
            Image.Resampling.BOX if max(image.shape) > size else Image.Resampling.BICUBIC,
        )
    )


def _project_uvs(corners: Tensor) -> Tensor:
    """Coordinates along the two axes a triangle faces least, for surfaces that never had a
    texture."""
    edges = corners[:, 1:] - corners[:, :1]
    axis = torch.linalg.cross(edges[:, 0], edges[:, 1]).abs().argmax(-1)
    choice = torch.tensor([[2, 1], [0, 2], [0, 1]], device=corners.device)[axis]
    return corners.gather(2, choice[:, None].expand(-1, 3, -1)) * PROJECTED_REPEATS
