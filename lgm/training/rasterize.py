"""Draws true images of textured triangles, by a z-buffer on the CPU (numba) or GPU (Triton).

Frame and cameras are those of `lgm.cameras`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import FOVY, focal_length, world_to_camera

CHUNK = 1 << 22  # subpixels shaded at once: bounds the memory, about 400 bytes each


@dataclass(frozen=True)
class TriangleSoup:
    """B objects as T independent triangles with one shared texture atlas."""

    corners: Tensor  # [T, 3, 3] float32, world positions of the corners
    normals: Tensor  # [T, 3, 3] float32, unit normals at the corners; shading is two-sided
    uvs: Tensor  # [T, 3, 2] float32, texture coordinates (v up), wrapped
    colors: Tensor  # [T, 3] float32 RGB 0..1, multiplied with the texture
    textures: Tensor  # [T] int64 row of `atlas`, -1 for plain color
    objects: Tensor  # [T] int64 batch item of every triangle, ascending
    atlas: Tensor  # [M, 3, R, R] float32 or uint8 RGB, sRGB values; M may be 0
    count: int  # B

    def to(self, device: torch.device | str) -> TriangleSoup:
        tensors = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "count"
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class Lights:
    """Hemisphere ambient plus L directional Lambert lights per object, fixed in the world."""

    ambient_top: Tensor  # [B, 3] light from straight above
    ambient_bottom: Tensor  # [B, 3] light from straight below; blended by the normal's y
    directions: Tensor  # [B, L, 3] unit, from the surface towards the light
    intensities: Tensor  # [B, L, 3]

    def to(self, device: torch.device | str) -> Lights:
        return Lights(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class Renders:
    """Images of B objects in V views each."""

    images: Tensor  # [B, V, 3, S, S] 0..1, composited on white
    alphas: Tensor  # [B, V, 1, S, S] 0..1, supersampled coverage
    depths: Tensor  # [B, V, 1, S, S] camera z, mean of the covered subpixels, 0 where none


def rasterize(
    soup: TriangleSoup,
    lights: Lights | None,
    c2w: Tensor,
    size: int,
    fovy: float = FOVY,
    supersample: int = 2,
) -> Renders:
    """Draw every object from its own cameras.

    Triangles with a corner closer than 0.05 in front of the camera are dropped.

    Args:
        soup: on the device to draw on.
        lights: None shows the plain colors.
        c2w: [B, V, 4, 4] camera-to-world, OpenGL axes.
        size: side of the square images.
        supersample: samples per pixel and axis.

    Raises:
        ValueError: the number of objects differs between `soup` and `c2w`.
    """
    if c2w.ndim != 4 or len(c2w) != soup.count:
        raise ValueError(
            f"Drawing {soup.count} objects needs c2w [{soup.count}, V, 4, 4], "
            f"got {list(c2w.shape)}."
        )
    device = soup.corners.device
    c2w = c2w.to(device, torch.float32)
    fine = size * supersample
    packed = _visibility(soup, c2w, focal_length(fine, fovy), fine)
    pooled = _shade(soup, lights, c2w.flatten(0, 1), packed, supersample, fovy)
    pooled = pooled.unflatten(0, c2w.shape[:2])
    colors, alphas, depths = pooled.split((3, 1, 1), dim=2)
    return Renders(
        images=(colors + 1 - alphas).clamp(0, 1),
        alphas=alphas,
        depths=depths / alphas.clamp(min=0.5 / supersample**2),
    )


def _visibility(soup: TriangleSoup, c2w: Tensor, focal: float, size: int) -> Tensor:
    """[B * V, size, size] int64, see `zbuffer_numba.visibility`."""
    # Double precision, because TF32 settings would change float32 products.
    w2c = world_to_camera(c2w.double())[:, :, :3].float().contiguous()
    if soup.corners.is_cuda:
        from ..mesh.zbuffer_triton import visibility

        with torch.cuda.device(soup.corners.device):
            return visibility(soup.corners, soup.objects, w2c, focal, size)
    try:
        from ..mesh.zbuffer_numba import visibility
    except ImportError as error:
        raise RuntimeError(
            "Drawing meshes on the CPU needs numba, which is missing: pip install numba."
        ) from error

    packed = visibility(soup.corners.cpu(), soup.objects.cpu(), w2c.cpu(), focal, size)
    return packed.to(soup.corners.device)


def _shade(
    soup: TriangleSoup,
    lights: Lights | None,
    c2w: Tensor,
    packed: Tensor,
    supersample: int,
    fovy: float,
) -> Tensor:
    """Means of premultiplied color, coverage and depth, [B * V, 5, S, S], of `packed` samples."""
    count, size = packed.shape[:2]
    views = count // max(soup.count, 1)
    # Channels last: a texel is one read.
    soup = replace(soup, atlas=soup.atlas.permute(0, 2, 3, 1).contiguous())
    pooled = []
    step = max(CHUNK // size**2, 1)
    for first in range(0, count, step):
        chunk = packed[first : first + step]
        image, row, column = (chunk != torch.iinfo(torch.int64).max).nonzero(as_tuple=True)
        triangle = chunk[image, row, column] & 0xFFFFFFFF
        poses = c2w[image + first]
        ray = _ray(poses, row, column, size, fovy)
        item = (image + first) // views
        samples = packed.new_zeros(len(chunk), 5, size, size, dtype=torch.float32)
        samples[image, :, row, column] = _shaded(soup, lights, triangle, item, poses[:, :3, 3], ray)
        pooled.append(F.avg_pool2d(samples, supersample))
    return torch.cat(pooled)


def _ray(poses: Tensor, row: Tensor, column: Tensor, size: int, fovy: float) -> Tensor:
    """Directions [P, 3] through pixel centers, of length 1 along the viewing axis."""
    focal = focal_length(size, fovy)
    x, y = (column + 0.5 - size / 2) / focal, (size / 2 - row - 0.5) / focal
    local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    return (poses[:, :3, :3] * local[:, None]).sum(-1)  # a matrix product might be TF32


def _shaded(
    soup: TriangleSoup,
    lights: Lights | None,
    triangle: Tensor,
    item: Tensor,
    origin: Tensor,
    ray: Tensor,
) -> Tensor:
    """Color, 1 and depth [P, 5] of P samples, each of one triangle seen along one ray."""
    weights, depth, face = _intersect(soup.corners[triangle], origin, ray)
    color = soup.colors[triangle]
    if len(soup.atlas):
        uvs = _mix(weights, soup.uvs[triangle])
        color = color * _sample(soup.atlas, soup.textures[triangle], uvs)
    if lights is not None:
        normal = _mix(weights, soup.normals[triangle])
        color = color * _light(lights, item, _towards(normal, face, ray))
    return torch.cat([color.clamp(0, 1), torch.ones_like(depth), depth], dim=-1)


def _mix(weights: Tensor, values: Tensor) -> Tensor:
    """Barycentric interpolation of [P, 3, C] by [P, 3]."""
    return (weights[..., None] * values).sum(1)


def _intersect(corners: Tensor, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Barycentric weights [P, 3], depth [P, 1] and face normal [P, 3] where rays meet triangles.

    Möller and Trumbore (1997). The z-buffer snaps corners to a grid, so a ray may just miss its
    triangle: weights are clamped, which also bounds the depth. The normal is not normalized.
    """
    first = corners[:, 0]
    edge_1, edge_2 = corners[:, 1] - first, corners[:, 2] - first
    offset = origin - first
    across = torch.linalg.cross(ray, edge_2)
    along = torch.linalg.cross(offset, edge_1)
    determinant = (edge_1 * across).sum(-1)
    determinant = torch.where(determinant.abs() < 1e-20, 1e-20, determinant)
    u = (offset * across).sum(-1) / determinant
    v = (ray * along).sum(-1) / determinant
    weights = torch.stack([1 - u - v, u, v], dim=-1).clamp(0, 1)
    weights = weights / weights.sum(-1, keepdim=True)
    toward = weights[:, 1:2] * edge_1 + weights[:, 2:] * edge_2 - offset  # camera to surface
    # The ray has length 1 along the viewing axis, so this projection is the camera's z.
    depth = (toward * ray).sum(-1, keepdim=True) / (ray * ray).sum(-1, keepdim=True)
    return weights, depth, torch.linalg.cross(edge_1, edge_2)


def _towards(normal: Tensor, face: Tensor, ray: Tensor) -> Tensor:
    """Unit normals on the visible side.

    The face normal decides which side that is, since an interpolated normal may point away near a
    silhouette.
    """
    face = F.normalize(face, dim=-1, eps=1e-20)
    face = torch.where((face * ray).sum(-1, keepdim=True) > 0, -face, face)
    length = normal.norm(dim=-1, keepdim=True)
    normal = torch.where(length > 1e-6, normal / length.clamp(min=1e-6), face)
    return torch.where((normal * face).sum(-1, keepdim=True) < 0, -normal, normal)


def _sample(atlas: Tensor, textures: Tensor, uvs: Tensor) -> Tensor:
    """Bilinear, wrapped lookup [P, 3] in an atlas [M, R, R, 3]; white where `textures` is -1."""
    resolution = atlas.shape[1]
    x = (uvs[:, 0] - uvs[:, 0].floor()) * resolution - 0.5
    y = (uvs[:, 1].floor() + 1 - uvs[:, 1]) * resolution - 0.5  # row 0 is the top, v = 1
    left, top = x.floor(), y.floor()
    fraction_x, fraction_y = (x - left)[:, None], (y - top)[:, None]
    left, top = left.long() % resolution, top.long() % resolution
    right, bottom = (left + 1) % resolution, (top + 1) % resolution
    texels = atlas.reshape(-1, 3)
    start = textures.clamp(min=0) * resolution**2

    def fetch(row: Tensor, column: Tensor) -> Tensor:
        found = texels[start + row * resolution + column]
        return found.float() / 255 if found.dtype == torch.uint8 else found

    upper = torch.lerp(fetch(top, left), fetch(top, right), fraction_x)
    lower = torch.lerp(fetch(bottom, left), fetch(bottom, right), fraction_x)
    return torch.where((textures < 0)[:, None], 1.0, torch.lerp(upper, lower, fraction_y))


def _light(lights: Lights, items: Tensor, normals: Tensor) -> Tensor:
    """Light [P, 3] arriving at surfaces with unit `normals` [P, 3]."""
    blend = 0.5 + 0.5 * normals[:, 1:2]
    arriving = torch.lerp(lights.ambient_bottom[items], lights.ambient_top[items], blend)
    for index in range(lights.directions.shape[1]):
        cosine = (normals * lights.directions[items, index]).sum(-1, keepdim=True).clamp(min=0)
        arriving = arriving + cosine * lights.intensities[items, index]
    return arriving
