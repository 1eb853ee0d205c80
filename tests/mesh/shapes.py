"""Splats of simple shapes, and measures of surfaces."""

import numpy as np
import torch
import torch.nn.functional as F

from lgm.cameras import orbit_poses
from lgm.gaussians import Gaussians
from lgm.mesh import Mesh
from lgm.mesh.cleanup import cleaned
from lgm.mesh.zbuffer import visibility
from lgm.render import render

LOW = 64  # voxels: fast, and a voxel of a ball of radius 0.4 is 15 mm


def splat(positions: torch.Tensor, scale, opacity: float = 0.9) -> Gaussians:
    count = len(positions)
    scales = torch.as_tensor(scale, dtype=torch.float32).expand(1, count, 3)
    return Gaussians(
        positions=positions[None].float(),
        opacities=torch.full((1, count, 1), opacity),
        scales=scales.contiguous(),
        rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4).contiguous(),
        colors=torch.full((1, count, 3), 0.5),
    )


def directions(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 3, generator=generator), dim=-1)


def shell(radius: float = 0.4, center=(0.0, 0.0, 0.0), count: int = 6000) -> torch.Tensor:
    return radius * directions(count) + torch.tensor(center)


def ball() -> Gaussians:
    return splat(shell(), 0.015)


def square(count: int = 6000) -> torch.Tensor:
    """Places [N, 2] in [-0.5, 0.5]^2."""
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(3)) - 0.5


def arrays(mesh: Mesh) -> tuple[np.ndarray, ...]:
    """Vertices and faces, and normals if it has them."""
    parts = (mesh.vertices, mesh.faces, mesh.normals)
    return tuple(part.numpy() for part in parts if part is not None)


def clean(vertices, faces, *settings, **more) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and normals of what `cleaned` makes of arrays."""
    mesh = Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))
    return arrays(cleaned(mesh, *settings, **more))


def volume(vertices, faces) -> float:
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


def euler(vertices, faces) -> int:
    return len(vertices) - len(faces) // 2


def is_closed(faces: np.ndarray) -> bool:
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there = edges[:, 0] * (faces.max() + 1) + edges[:, 1]
    back = edges[:, 1] * (faces.max() + 1) + edges[:, 0]
    return len(np.unique(there)) == len(there) and np.array_equal(np.sort(there), np.sort(back))


def overlap(gaussians: Gaussians, vertices, faces, size: int = 160) -> float:
    """Mean intersection over union of silhouettes, in views that fusing did not have."""
    poses = orbit_poses([10, 100, 200, 290, 40, 70], torch.tensor([5.0, -25, 40, -60, 85, -88]))
    alphas = render(gaussians, poses, size).alphas[0, :, 0] > 0.5
    drawn = visibility(torch.from_numpy(vertices), torch.from_numpy(faces), poses, size)[1] >= 0
    return ((alphas & drawn).sum((1, 2)) / (alphas | drawn).sum((1, 2))).mean().item()
