"""Which triangle each pixel of a picture sees, and pictures of textured meshes.

A z-buffer in plain PyTorch for any device; on a CPU numba, where installed, fills it several times
faster. Cameras and frames as in `lgm.cameras`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import FOVY
from .record import Mesh
from .zbuffer import hits, interpolate, visibility


def sample(texture: Tensor, uvs: Tensor) -> Tensor:
    """Bilinear lookups [P, C] in a texture [H, W, C] at uvs [P, 2], clamped at its border."""
    grid = (uvs * 2 - 1)[None, None]
    found = F.grid_sample(
        texture.movedim(-1, 0)[None], grid, padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T


def draw_mesh(
    mesh: Mesh,
    c2w: Tensor,
    size: int,
    fovy: float = FOVY,
    background: float = 1.0,
    supersample: int = 2,
) -> tuple[Tensor, Tensor]:
    """Pictures [V, 3, size, size] and coverages [V, 1, size, size] of an unlit mesh.

    Its texture, else its vertex colors, else a middle gray.

    Args:
        c2w: [V, 4, 4].
        supersample: samples per pixel and axis.
    """
    pictures = [_draw_one(mesh, pose[None], size * supersample, fovy, supersample) for pose in c2w]
    colors, alphas = torch.stack(pictures).split((3, 1), dim=1)
    return colors + background * (1 - alphas), alphas


def _draw_one(mesh: Mesh, c2w: Tensor, size: int, fovy: float, supersample: int) -> Tensor:
    """Means of premultiplied color and coverage, [4, S, S]."""
    _, triangles = visibility(mesh.vertices, mesh.faces, c2w, size, fovy)
    found = hits(mesh.vertices, mesh.faces, triangles, c2w, fovy)
    corners = mesh.faces[found.triangle]
    if mesh.texture is not None:
        assert mesh.uvs is not None  # Mesh sees to it
        colors = sample(mesh.texture, interpolate(found.weights, mesh.uvs[corners]))
    elif mesh.vertex_colors is not None:
        colors = interpolate(found.weights, mesh.vertex_colors[corners])
    else:
        colors = found.weights.new_full((len(corners), 3), 0.5)
    samples = colors.new_zeros(4, size * size)
    samples[:3, found.pixel] = colors.T
    samples[3, found.pixel] = 1
    return F.avg_pool2d(samples.view(1, 4, size, size), supersample)[0]
