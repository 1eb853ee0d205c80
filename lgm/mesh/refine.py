"""A mesh and its texture fitted to pictures of the splat: the paper's last stage (section 3.5),
with cameras all around instead of near the horizon.

nvdiffrast draws the mesh with gradients at its outlines. It is an optional package under a license
for non-commercial use, for NVIDIA GPUs; nothing else in this project needs it.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import focal_length, orbit_poses, transform, world_to_camera
from ..gaussians import Gaussians
from ..machine.interrupt import between_steps, report
from ..render import render
from .cleanup import vertex_normals
from .record import Mesh
from .texture import DISTANCE, FILLED, GUTTER, fill_gutters, near_surface, sphere_around, texels
from .unwrap import adjacent_faces

STEPS, PICTURES, SIZE = 300, 8, 512  # pictures a step, pixels on a side
OFFSET_RATE, TEXTURE_RATE = 3e-4, 1e-2  # of Adam; offsets in radii of the mesh
COVERAGE = 0.1  # weight of the coverage's error, the paper's
CONSISTENCY, STAY = 1e-3, 0.1  # weights of bent edges and of the offsets' squares, the paper's
NEAR, FAR = 0.1, 10.0  # radii
SEED = 0
GPU = "cuda"  # what nvdiffrast draws on

MISSING = (
    "Refining a mesh needs {what}: install nvdiffrast (github.com/NVlabs/nvdiffrast, for "
    "non-commercial use) into this Python with `pip install --no-build-isolation "
    "git+https://github.com/NVlabs/nvdiffrast`, on an NVIDIA GPU with the CUDA toolkit, or use "
    "the mesh as it is."
)


def why_not() -> str:
    """Why meshes can't be refined here, with what to do about it; empty if they can."""
    if not torch.cuda.is_available():
        return MISSING.format(what="an NVIDIA GPU, but torch finds none")
    if not importlib.util.find_spec("nvdiffrast"):
        return MISSING.format(what="the package nvdiffrast, which is not installed")
    return ""


@dataclass(frozen=True)
class Topology:
    """What stays of a mesh while its vertices move."""

    faces: Tensor  # [F, 3] int32, of vertices without doubles at seams
    uv_faces: Tensor  # [F, 3] int32, of uvs
    uvs: Tensor  # [W, 2]
    edges: Tensor  # [E, 2] faces on both sides of each edge


def refine(mesh: Mesh, gaussians: Gaussians, steps: int = STEPS) -> Mesh:
    """The mesh with its vertices moved and its texture changed towards what the splat looks like;
    faces and uvs stay. On the mesh's device.

    Atomic additions in nvdiffrast make the last digits differ from run to run.

    Args:
        mesh: with a texture.
        gaussians: a batch of one, the splat the mesh was made of.
        steps: of Adam, each with PICTURES pictures from anywhere on a sphere.

    Raises:
        ValueError: no texture, not one object, or no step.
        RuntimeError: nvdiffrast or an NVIDIA GPU is missing.
    """
    if mesh.texture is None:
        raise ValueError("Refining needs a mesh with a texture: bake one first.")
    if gaussians.batch_size != 1:
        raise ValueError(f"A mesh has one splat, got a batch of {gaussians.batch_size}.")
    if steps < 1:
        raise ValueError(f"Refining needs one step or more, got {steps}.")
    if reason := why_not():
        raise RuntimeError(reason)
    # ComfyUI runs nodes in inference mode, whose tensors autograd refuses: clones are free of it.
    device = gaussians.device if gaussians.device.type == GPU else torch.device(GPU)
    with torch.inference_mode(False), torch.enable_grad():
        fitted = _cloned(mesh).to(device)
        splat = Gaussians(**{k: v.detach().clone() for k, v in gaussians.tensors().items()})
        return _fit(fitted, splat.to(device), steps).to(mesh.device)


def _cloned(mesh: Mesh) -> Mesh:
    return replace(mesh, **{k: v.clone() for k, v in vars(mesh).items() if v is not None})


def _fit(mesh: Mesh, gaussians: Gaussians, steps: int) -> Mesh:
    import nvdiffrast.torch as dr

    center, radius = sphere_around(mesh.vertices)
    gaussians = _moved(near_surface(gaussians, mesh, 0.1 * radius), center, radius)
    places, corner = ((mesh.vertices - center) / radius).unique(dim=0, return_inverse=True)
    edges = torch.from_numpy(adjacent_faces(corner[mesh.faces].cpu().numpy())).to(places.device)
    assert mesh.uvs is not None and mesh.texture is not None  # checked above
    topology = Topology(corner[mesh.faces].int(), mesh.faces.int(), mesh.uvs, edges)
    offsets = torch.zeros_like(places, requires_grad=True)
    texture = mesh.texture.contiguous().requires_grad_()
    groups = [
        {"params": [offsets], "lr": OFFSET_RATE},
        {"params": [texture], "lr": TEXTURE_RATE},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / steps)
    )
    context = dr.RasterizeCudaContext(places.device)
    for step, poses in enumerate(_poses(steps)):
        between_steps()
        with torch.no_grad():
            target = render(gaussians, poses, SIZE, _fovy(), background=1.0, near=NEAR)
            target = torch.cat([target.images[0].clamp(0, 1), target.alphas[0]], dim=1)
        moved = places + offsets
        drawn = _draw(dr, context, moved, texture, topology, poses)
        error = (drawn - target.movedim(1, -1)).square()
        loss = error[..., :3].mean() + COVERAGE * error[..., 3].mean()
        loss = loss + CONSISTENCY * _bend(moved, topology) + STAY * offsets.square().sum(-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        report((step + 1) / steps)
    with torch.no_grad():
        moved = places + _without_flips(places, offsets, topology.faces.long())
        vertices = moved[corner] * radius + center
        known = torch.zeros(texture.shape[:2], dtype=torch.bool, device=texture.device)
        known.view(-1)[texels(mesh, len(texture))[0]] = True
        texture = fill_gutters(texture.detach().clamp(0, 1), known, GUTTER)
        mesh = replace(mesh, vertices=vertices, texture=texture, normals=None)
        return replace(mesh, normals=vertex_normals(moved, topology.faces.long())[corner])


def _fovy() -> float:
    """Degrees: the unit ball fits tightly, seen from DISTANCE."""
    return math.degrees(2 * math.atan(1 / math.sqrt(DISTANCE**2 - 1) / FILLED))


def _poses(steps: int):
    """Cameras [PICTURES, 4, 4] anywhere on the sphere around the unit ball, for each step."""
    generator = torch.Generator().manual_seed(SEED)
    azimuth, height = torch.rand(2, steps * PICTURES, generator=generator, dtype=torch.float64)
    elevation = torch.rad2deg((2 * height - 1).asin())
    return orbit_poses(360 * azimuth, elevation, DISTANCE).split(PICTURES)


def _moved(gaussians: Gaussians, center: Tensor, radius: float) -> Gaussians:
    return replace(
        gaussians,
        positions=(gaussians.positions - center) / radius,
        scales=gaussians.scales / radius,
    )


def _draw(dr, context, vertices: Tensor, texture: Tensor, topology: Topology, poses) -> Tensor:
    """Pictures on white and their coverage [V, S, S, 4], row 0 at the top, which is y = -1 in
    nvdiffrast.
    """
    w2c = world_to_camera(poses.double()).float().to(vertices)
    x, y, z = transform(w2c[:, None], vertices).unbind(-1)  # z forward
    scale = 2 * focal_length(SIZE, _fovy()) / SIZE
    depth = (z * (FAR + NEAR) - 2 * FAR * NEAR) / (FAR - NEAR)
    clip = torch.stack([x * scale, y * scale, depth, z], dim=-1)
    rast, _ = dr.rasterize(context, clip, topology.faces, (SIZE, SIZE))
    uvs, _ = dr.interpolate(topology.uvs, rast, topology.uv_faces)
    colors = dr.texture(texture[None], uvs, filter_mode="linear", boundary_mode="clamp")
    covered = (rast[..., 3:] > 0).float()
    picture = torch.cat([torch.lerp(torch.ones_like(colors), colors, covered), covered], dim=-1)
    return dr.antialias(picture.contiguous(), rast, clip, topology.faces)


def _face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    a, b, c = (vertices[corner] for corner in faces.long().unbind(1))
    return torch.linalg.cross(b - a, c - a)


def _bend(vertices: Tensor, topology: Topology) -> Tensor:
    """Mean of 1 - cosine over the edges."""
    normals = F.normalize(_face_normals(vertices, topology.faces), dim=-1, eps=1e-12)
    one, other = topology.edges.unbind(1)
    return 1 - (normals[one] * normals[other]).sum(-1).mean()


def _without_flips(places: Tensor, offsets: Tensor, faces: Tensor) -> Tensor:
    """The offsets, none at the corners of faces that they would turn over."""
    offsets = offsets.detach().clone()
    before = _face_normals(places, faces)
    while True:
        turned = (_face_normals(places + offsets, faces) * before).sum(-1) <= 0
        turned &= (before.abs().sum(-1) > 0) & (offsets[faces].abs().sum((1, 2)) > 0)
        if not turned.any():
            return offsets
        offsets[faces[turned]] = 0
