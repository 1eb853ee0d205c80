"""Pictures of a splat from all around, as color, alpha, depth or normals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import FOVY, RADIUS, orbit_poses, pixel_slopes
from ..gaussians import Gaussians
from . import Backend, render

Mode = Literal["color", "depth", "normal", "alpha"]
MODES = ("color", "depth", "normal", "alpha")
CHUNK = 4  # views drawn in one call: enough to keep the renderer busy, little enough memory
SMOOTHING = 1 / 256  # of the picture's height: standard deviation of the blur before normals
DEPTH_RANGE = (RADIUS - 1, RADIUS + 1)  # world units; the object's sphere seen from the orbit


def turntable(
    gaussians: Gaussians,
    frames: int,
    size: int,
    elevation: float = 0.0,
    mode: Mode = "color",
    backend: Backend = "auto",
) -> Iterator[Tensor]:
    """`frames` pictures [3, size, size] on one full turn, azimuth 0 first, upwards."""
    azimuths = torch.arange(frames) * (360 / frames)
    yield from draw(gaussians, orbit_poses(azimuths, elevation), size, mode, backend)


def draw(
    gaussians: Gaussians, c2w: Tensor, size: int, mode: Mode = "color", backend: Backend = "auto"
) -> Iterator[Tensor]:
    """A displayable picture [3, size, size], 0..1, for each camera of [V, 4, 4]; batch of one."""
    for poses in c2w.to(gaussians.device).split(CHUNK):
        with torch.inference_mode():
            out = render(gaussians, poses, size, backend=backend)
            alphas, depths = out.alphas[0], out.depths[0]
            if mode == "color":
                pictures = out.images[0]
            elif mode == "alpha":
                pictures = alphas
            elif mode == "depth":
                near, far = DEPTH_RANGE
                pictures = alphas * (far - depths) / (far - near)  # near is bright, nothing black
            else:
                normals = normals_from_depth(smooth_depths(depths, alphas), poses)
                pictures = 0.5 + 0.5 * normals * (alphas > 0.5)
        yield from pictures.clamp(0, 1).expand(-1, 3, -1, -1).float().cpu()


def normals_from_depth(depths: Tensor, c2w: Tensor, fovy: float = FOVY) -> Tensor:
    """Unit world normals [V, 3, H, W] of the surface behind depths [V, 1, H, W] (camera z)."""
    return torch.einsum("vij,vjhw->vihw", c2w[:, :3, :3], camera_normals(depths, fovy))


def camera_normals(depths: Tensor, fovy: float = FOVY) -> Tensor:
    """The same in the camera's axes: +x right, +y up, +z towards the camera.

    Where the depth jumps, the side with the smaller step is taken: else every outline would get a
    rim of slanted normals.
    """
    height, width = depths.shape[-2:]
    rows, columns = torch.meshgrid(
        *(torch.arange(n, device=depths.device, dtype=depths.dtype) for n in (height, width)),
        indexing="ij",
    )
    x, y = pixel_slopes(rows, columns, (height, width), fovy)
    points = torch.stack([x, y, -torch.ones_like(x)]) * depths  # [V, 3, H, W]
    across = _smaller_step(points, dim=3)
    down = _smaller_step(points, dim=2)
    return F.normalize(torch.linalg.cross(down, across, dim=1), dim=1)


def smooth_depths(depths: Tensor, alphas: Tensor) -> Tensor:
    """Depths [V, 1, H, W] averaged over near pixels by coverage. Expected depths jump from one
    Gaussian to the next, by little, but normals are made of nothing else.
    """
    sigma = SMOOTHING * depths.shape[-2]
    reach = int(3 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=depths.device, dtype=depths.dtype)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    weights = alphas * (depths > 0)
    sums = torch.cat([weights * depths, weights], dim=1)
    channels = kernel.expand(2, 1, -1)
    sums = F.conv2d(sums, channels[:, :, None], padding=(0, reach), groups=2)
    sums = F.conv2d(sums, channels[..., None], padding=(reach, 0), groups=2)
    weighted, total = sums.split(1, dim=1)
    return torch.where(weights > 0, weighted / total.clamp(min=1e-6), depths)


def _smaller_step(points: Tensor, dim: int) -> Tensor:
    """Change of position to the next or from the previous pixel, whichever is shorter."""
    step = points.diff(dim=dim)
    edge = torch.full_like(points.narrow(dim, 0, 1), torch.inf)
    forward, backward = torch.cat([step, edge], dim), torch.cat([edge, step], dim)
    shorter = forward.abs().amax(1, keepdim=True) < backward.abs().amax(1, keepdim=True)
    return torch.where(shorter, forward, backward)
