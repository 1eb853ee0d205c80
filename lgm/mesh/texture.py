"""Colors for a mesh, from pictures of its splat taken all around.

Every texel (or vertex) gets its color from the pictures that see it, above all from those that see
it straight on and unhidden. What no picture sees gets the colors of the nearest surface that one
sees, nearest in space and not in the texture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree  # ty: ignore[missing-module-member]
from torch import Tensor

from ..cameras import FOVY, even_poses, focal_length, project
from ..gaussians import Gaussians
from ..machine.interrupt import between_steps, report
from ..render import render
from ..render.threads import drawing_threads, threads
from .cleanup import vertex_normals
from .draw import sample
from .merge import merged
from .record import Mesh
from .zbuffer import covered, interpolate, visibility

VIEWS = 36
DISTANCE = 3.0  # of the cameras, in radii of the mesh
FILLED = 0.97  # of a picture's half side by the mesh's sphere
NEAR = 0.1  # in radii; Gaussians nearer to a camera are not drawn
REACH = 0.1  # in radii; Gaussians further from the surface, and larger than this, are not drawn
LEAST_COSINE = 0.2  # between normal and line of sight; below, a view is too slanted to count
SHARPNESS = 2  # exponent of the cosine
BEST = 0.15  # part of the best picture's weight that others need to count: poor ones would blur
BEHIND = 0.004  # in radii; what lies further behind the surface that a picture sees is hidden
STEEPEST = 2.5  # slope, depth per distance across; steeper ones get no more slack
INPUT_GAIN = 20.0  # weight of given pictures: alone up to about 55 degrees from straight on
INPUT_RIM = 0.015  # part of a given picture's side, along outlines, where background may show
LEAST_WEIGHT = 0.005  # of all pictures together, for a color to count as seen
LEAST_PIXELS, MOST_PIXELS = 256, 512  # on a side of a picture, however few or many the vertices
AT_ONCE = 8  # z-buffers of the mesh, 20 bytes a pixel
GUTTER = 6  # texels around the charts that repeat their rim
TREE_POINTS = 100_000  # seen texels that the unseen take colors from: more change nothing visible
NEIGHBORS = 4  # of these, mixed for each
FACING = 0.1  # in radii: how far away a normal at a right angle counts as


@dataclass(frozen=True)
class Inputs:
    """Pictures of the object itself, sharper than its splat."""

    images: Tensor  # [V, 3, S, S] sRGB values 0..1
    c2w: Tensor  # [V, 4, 4], OpenGL axes
    fovy: float = FOVY  # degrees

    def __post_init__(self) -> None:
        shape = self.images.shape
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            raise ValueError(f"Input pictures have to be [V, 3, S, S], got {list(shape)}.")
        if self.c2w.shape != (shape[0], 4, 4):
            raise ValueError(
                f"{shape[0]} input pictures need cameras [{shape[0]}, 4, 4], got c2w "
                f"{list(self.c2w.shape)}."
            )


@dataclass(frozen=True)
class Cameras:
    """Square pictures of one kind."""

    c2w: Tensor  # [V, 4, 4]
    fovy: float  # degrees
    size: int  # pixels on a side


@dataclass(frozen=True)
class Surface:
    """Points on a mesh that get a color."""

    points: Tensor  # [P, 3]
    normals: Tensor  # [P, 3] unit


def painted(
    mesh: Mesh,
    gaussians: Gaussians,
    size: int | None = 1024,
    views: int = VIEWS,
    inputs: Inputs | None = None,
) -> Mesh:
    """The mesh with a texture of `size` x `size` texels, or with vertex colors if that is None.
    Arguments as of `bake`.
    """
    if size is None:
        return replace(mesh, vertex_colors=vertex_colors(mesh, gaussians, views, inputs))
    texture = bake(mesh, gaussians, size, views, inputs)
    return replace(mesh, texture=texture, vertex_colors=None)


def bake(
    mesh: Mesh,
    gaussians: Gaussians,
    size: int = 1024,
    views: int = VIEWS,
    inputs: Inputs | None = None,
) -> Tensor:
    """The texture [size, size, 3] (sRGB 0..1) of a mesh with uvs, where the mesh is.

    Computed where the Gaussians are.

    Args:
        gaussians: batch of one.
        size: texels on a side; the splat is drawn at half as many pixels.
        views: pictures of the splat, evenly around it.
        inputs: pictures that the splat was made from, preferred where they see the surface well.

    Raises:
        ValueError: no uvs, not one object, or sizes that can't be.
    """
    if mesh.uvs is None:
        raise ValueError("Baking a texture needs a mesh with uvs: unwrap it first.")
    if size < 1:
        raise ValueError(f"A texture needs one texel or more on a side, got {size}.")
    device, mesh = mesh.device, mesh.to(gaussians.device)
    texel, surface = texels(mesh, size)
    if not len(texel):
        raise ValueError(f"No texel of {size} x {size} lies on the mesh: choose a larger texture.")
    pixels = max(size // 2, LEAST_PIXELS)
    with threads(drawing_threads()):
        colors = surface_colors(mesh, surface, gaussians, pixels, views, inputs)
    texture = colors.new_zeros(size * size, 3)
    texture[texel] = colors
    known = torch.zeros(size * size, dtype=torch.bool, device=texture.device)
    known[texel] = True
    return fill_gutters(texture.view(size, size, 3), known.view(size, size)).to(device)


def vertex_colors(
    mesh: Mesh,
    gaussians: Gaussians,
    views: int = VIEWS,
    inputs: Inputs | None = None,
) -> Tensor:
    """Colors [V, 3] (sRGB 0..1) of a mesh's vertices, where the mesh is; otherwise as `bake`."""
    device, mesh = mesh.device, mesh.to(gaussians.device)
    surface = Surface(mesh.vertices, normals_of(mesh))
    pixels = min(max(int(2 * len(mesh.vertices) ** 0.5), LEAST_PIXELS), MOST_PIXELS)
    with threads(drawing_threads()):
        colors = surface_colors(mesh, surface, gaussians, pixels, views, inputs)
    return colors.to(device)


def texels(mesh: Mesh, size: int) -> tuple[Tensor, Surface]:
    """The texels [P] (row * size + column) inside charts, ascending, and their points in space."""
    assert mesh.uvs is not None  # unwrapped
    owner = torch.full((size * size,), -1, device=mesh.device)
    corners = mesh.vertices.new_zeros(size * size, 3)
    for texel, triangle, weights in covered(mesh.uvs[mesh.faces] * size, size, size):
        owner[texel], corners[texel] = triangle, weights
    texel = (owner >= 0).nonzero()[:, 0]
    vertices, weights = mesh.faces[owner[texel]], corners[texel]
    normals = interpolate(weights, normals_of(mesh)[vertices])
    points = interpolate(weights, mesh.vertices[vertices])
    return texel, Surface(points, F.normalize(normals, dim=-1))


def normals_of(mesh: Mesh) -> Tensor:
    """The mesh's normals, else means [V, 3] over the faces around each vertex."""
    if mesh.normals is not None:
        return mesh.normals
    return vertex_normals(mesh.vertices, mesh.faces)


@torch.no_grad()
def surface_colors(
    mesh: Mesh,
    surface: Surface,
    gaussians: Gaussians,
    pixels: int,
    views: int = VIEWS,
    inputs: Inputs | None = None,
) -> Tensor:
    """Colors [P, 3] of points on a mesh, by pictures of the splat `pixels` on a side."""
    if gaussians.batch_size != 1:
        raise ValueError(
            f"A mesh gets its colors from one object, got a batch of {gaussians.batch_size}: "
            "use item()."
        )
    if views < 1:
        raise ValueError(f"Coloring a mesh needs one view or more, got {views}.")
    center, radius = sphere_around(mesh.vertices)
    around = _around(center, radius, views, pixels)
    near = near_surface(gaussians, mesh, REACH * radius)
    if near.sh is None:
        near = merged(near, 2 * radius / pixels)
    kinds = [(around, 1.0, _splat_pictures(near, around, NEAR * radius))]
    if inputs is not None:
        given = Cameras(inputs.c2w.to(mesh.vertices), inputs.fovy, inputs.images.shape[-1])
        kinds.append((given, INPUT_GAIN, _input_pictures(inputs, mesh, given)))
    seen = [gain * see(mesh, surface, cameras, radius) for cameras, gain, _ in kinds]
    weight = torch.cat(seen)
    weight = (weight - BEST * weight.amax(0)).clamp(min=0)

    sums = surface.points.new_zeros(len(surface.points), 4)
    view = 0
    for cameras, _, pictures in kinds:
        for pose, picture in zip(cameras.c2w, pictures, strict=True):
            between_steps()
            index = weight[view].nonzero()[:, 0]
            uv, _ = _seen_at(surface.points[index], pose, cameras)
            found = sample(picture.movedim(0, -1), uv)
            sums[index] += weight[view, index, None] * found
            view += 1
            report(view / len(weight))
    return _fill(sums, surface, radius)


def see(mesh: Mesh, surface: Surface, cameras: Cameras, radius: float) -> Tensor:
    """Weights [V, P] of each picture for each point: 0 where it is hidden or turned away, 1 where
    it is seen straight on.
    """
    weights = surface.points.new_zeros(len(cameras.c2w), len(surface.points))
    pictures = (
        depths
        for poses in cameras.c2w.split(AT_ONCE)
        for depths in visibility(mesh.vertices, mesh.faces, poses, cameras.size, cameras.fovy)[0]
    )
    for weight, pose, depths in zip(weights, cameras.c2w, pictures, strict=True):
        between_steps()
        # The nearest of 3 x 3 pixels: what lies beside an outline may show what is before it.
        depths = -F.max_pool2d(-depths[None], 3, stride=1, padding=1)[0]
        toward = F.normalize(pose[:3, 3] - surface.points, dim=-1)
        cosine = (toward * surface.normals).sum(-1)
        index = (cosine > LEAST_COSINE).nonzero()[:, 0]
        cosine = cosine[index]
        uv, depth = _seen_at(surface.points[index], pose, cameras)
        column, row = (uv * cameras.size).floor().long().unbind(-1)
        last = cameras.size - 1
        inside = ((uv >= 0) & (uv < 1)).all(-1) & (depth > 0)
        nearest = depths[row.clamp(0, last), column.clamp(0, last)]
        # A slanted surface is nearer at the next pixel by itself.
        pixel = depth / focal_length(cameras.size, cameras.fovy)
        slope = (1 / cosine**2 - 1).clamp(min=0, max=STEEPEST**2).sqrt()
        slack = BEHIND * radius + 1.5 * pixel * slope
        in_sight = (3 - 2 * (depth - nearest) / slack).clamp(0, 1)  # gradual: no seams
        weight[index] = inside * in_sight * cosine**SHARPNESS
    return weights


def fill_gutters(texture: Tensor, known: Tensor, rounds: int = GUTTER) -> Tensor:
    """A texture [S, S, 3] whose charts (`known` [S, S]) grow outwards by `rounds` texels; what is
    beyond gets the mean color, so that small mipmaps don't darken.
    """
    texture = torch.where(known[..., None], texture, texture[known].mean(0))
    size = len(known)
    offsets = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    for _ in range(rounds):
        near = F.max_pool2d(known[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
        row, column = (near & ~known).nonzero(as_tuple=True)
        sums = texture.new_zeros(len(row), 4)
        for down, right in offsets:
            y, x = row + down, column + right
            inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
            y, x = y.clamp(0, size - 1), x.clamp(0, size - 1)
            weight = (inside & known[y, x]).to(texture)[:, None]
            sums += torch.cat([texture[y, x] * weight, weight], dim=-1)
        texture[row, column] = sums[:, :3] / sums[:, 3:]
        known = near
    return texture


def sphere_around(vertices: Tensor) -> tuple[Tensor, float]:
    """Center [3] and radius around all vertices."""
    low, high = vertices.aminmax(dim=0)
    center = (low + high) / 2
    radius = (vertices - center).norm(dim=-1).amax().item()
    if not radius > 0:
        raise ValueError("Coloring a mesh needs one with an extent, got all vertices in one point.")
    return center, radius


def _around(center: Tensor, radius: float, views: int, size: int) -> Cameras:
    """Cameras all around that fit the mesh tightly."""
    c2w = even_poses(views, DISTANCE * radius).to(center)
    c2w[:, :3, 3] += center
    # The sphere's outline lies where a ray touches it.
    tangent = 1 / math.sqrt(DISTANCE**2 - 1)
    return Cameras(c2w, math.degrees(2 * math.atan(tangent / FILLED)), size)


def near_surface(gaussians: Gaussians, mesh: Mesh, reach: float) -> Gaussians:
    """Leave out Gaussians that are faint or not finite, and stray ones that would color the surface
    behind them."""
    gaussians = gaussians.visible()
    finite = [tensor[0].isfinite().flatten(1).all(1) for tensor in gaussians.tensors().values()]
    gaussians = gaussians.select(torch.stack(finite).all(0))
    if not gaussians.count:
        raise ValueError("Coloring a mesh needs visible Gaussians, but this splat has none.")
    tree = cKDTree(mesh.vertices.cpu().numpy())
    distance, _ = tree.query(
        gaussians.positions[0].cpu().numpy(), distance_upper_bound=reach, workers=-1
    )
    near = torch.from_numpy(distance < reach).to(gaussians.device)
    return gaussians.select(near) if near.any() else gaussians


def _splat_pictures(gaussians: Gaussians, cameras: Cameras, near: float) -> Iterator[Tensor]:
    """Premultiplied colors and coverage [4, S, S], drawn when asked for."""
    for pose in cameras.c2w:
        out = render(gaussians, pose[None], cameras.size, cameras.fovy, background=0.0, near=near)
        yield torch.cat([out.images[0, 0].clamp(0, 1), out.alphas[0, 0]])


def _input_pictures(inputs: Inputs, mesh: Mesh, cameras: Cameras) -> Iterator[Tensor]:
    """Premultiplied colors and trust [4, S, S]: none along the mesh's outline, where the picture
    may show the background."""
    rim = max(round(INPUT_RIM * cameras.size), 1)
    for pose, image in zip(cameras.c2w, inputs.images.to(mesh.vertices), strict=True):
        depths, _ = visibility(mesh.vertices, mesh.faces, pose[None], cameras.size, cameras.fovy)
        outside = depths.isinf().to(image)
        trust = 1 - F.max_pool2d(outside, 2 * rim + 1, stride=1, padding=rim)
        yield torch.cat([image.clamp(0, 1) * trust, trust])


def _seen_at(points: Tensor, pose: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Coordinates [P, 2] of points [P, 3] in a picture, 0 at its top left to 1, and depths [P]."""
    right, up, depth = project(points, pose)
    scale = focal_length(cameras.size, cameras.fovy) / cameras.size / depth
    return torch.stack([0.5 + right * scale, 0.5 - up * scale], dim=-1), depth


def _fill(sums: Tensor, surface: Surface, radius: float) -> Tensor:
    """Colors [P, 3] from sums [P, 4] of premultiplied colors and weights; where the weight is
    missing, a mixture of the nearest points that have one. White if there are none.
    """
    colors = sums[:, :3] / sums[:, 3:].clamp(min=LEAST_WEIGHT)
    known = sums[:, 3] >= LEAST_WEIGHT
    unknown = (~known).nonzero()[:, 0]
    known = known.nonzero()[:, 0]
    if not len(known):
        return torch.ones_like(colors)
    if len(unknown):
        # What faces another way is another surface, across a gap or behind a thin wall.
        keys = torch.cat([surface.points, FACING * radius * surface.normals], dim=-1).cpu().numpy()
        chosen = known[:: max(len(known) // TREE_POINTS, 1)]
        count = min(NEIGHBORS, len(chosen))
        tree = cKDTree(keys[chosen.cpu().numpy()])
        distance, nearest = tree.query(
            keys[unknown.cpu().numpy()], list(range(1, count + 1)), workers=-1
        )
        weight = 1 / torch.from_numpy(distance).to(colors).clamp(min=1e-12)
        mixed = colors[chosen[torch.from_numpy(nearest).to(chosen.device)]]
        colors[unknown] = (weight[..., None] * mixed).sum(1) / weight.sum(1, keepdim=True)
    return colors.clamp(0, 1)
