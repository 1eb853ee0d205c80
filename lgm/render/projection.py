"""EWA projection: how a camera sees 3D Gaussians as 2D ones (Zwicker 2001; Kerbl et al. 2023).

The equations and constants of the original rasterizer live here; every backend but gsplat draws
what `project` returns.
Pixels: (0, 0) is the outer corner of the top left pixel, pixel centers lie at +0.5, y goes down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import focal_length
from ..gaussians import Gaussians
from ..rotations import rotation_matrices

NEAR = 0.2  # world units; centers at or before this camera z are not drawn
LOW_PASS = 0.3  # px^2, added to the 2D covariance's diagonal
JACOBIAN_LIMIT = 1.3  # half pictures: slopes x/z, y/z beyond would blow up the linearization
MAX_ALPHA = 0.99
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4


@dataclass(frozen=True)
class Splats:
    """N Gaussians as one camera sees them; differentiable, except for the extents."""

    means: Tensor  # [N, 2] pixels
    conics: Tensor  # [N, 3] inverse 2D covariance: xx, xy, yy
    depths: Tensor  # [N] camera z of the center
    opacities: Tensor  # [N]
    colors: Tensor  # [N, 3]
    extents: Tensor  # [N, 2] half width, height in pixels of where alpha >= 1/255; -1: not drawn

    def front_to_back(self) -> Tensor:
        """Indices of the drawn Gaussians by ascending depth; equal depths keep their order."""
        drawn = (self.extents[:, 0] >= 0).nonzero()[:, 0]
        return drawn[self.depths.detach()[drawn].argsort(stable=True)]


def slope_limits(size: tuple[int, int], fovy: float) -> tuple[float, float]:
    """Where the slopes x/z and y/z are clamped in the Jacobian: `JACOBIAN_LIMIT` times the edges of
    the picture, each axis its own, as in the original and in gsplat.
    """
    height, width = size
    limit = JACOBIAN_LIMIT * math.tan(math.radians(fovy) / 2)
    return limit * (width / height), limit


def project(
    gaussians: Gaussians, item: int, w2c: Tensor, size: tuple[int, int], fovy: float
) -> Splats:
    """Batch item `item` as the camera `w2c` [4, 4] (OpenCV axes) sees it.

    Args:
        size: (height, width) in pixels.
        fovy: full vertical angle in degrees.
    """
    rotation, translation = w2c[:3, :3], w2c[:3, 3]
    height, width = size
    focal = focal_length(height, fovy)
    limits = w2c.new_tensor(slope_limits(size, fovy))

    camera = gaussians.positions[item] @ rotation.T + translation
    depths = camera[:, 2]
    in_front = depths > NEAR
    z = torch.where(in_front, depths, 1.0)[:, None]  # a division by 0 would make NaN gradients
    slopes = camera[:, :2] / z
    means = focal * slopes + w2c.new_tensor([width / 2, height / 2])

    # Rows of J W R S: how the unit Gaussian's axes fall on the picture's x and y.
    jacobian = (focal / z)[..., None] * (
        rotation[:2] - slopes.clamp(-limits, limits)[..., None] * rotation[2]
    )
    rotations = rotation_matrices(gaussians.rotations[item])
    axes = (jacobian @ rotations) * gaussians.scales[item, :, None]
    x, y = axes.unbind(1)
    xx, xy, yy = (x * x).sum(-1), (x * y).sum(-1), (y * y).sum(-1)
    # Cauchy-Binet: (xx + l)(yy + l) - xy^2 without the cancellation that ruins needles in float32.
    minors = torch.linalg.cross(x, y)
    determinant = (minors * minors).sum(-1) + LOW_PASS * (xx + yy) + LOW_PASS**2
    conics = torch.stack([yy + LOW_PASS, -xy, xx + LOW_PASS], dim=-1) / determinant[:, None]

    opacities = gaussians.opacities[item, :, 0]
    with torch.no_grad():
        # alpha = opacity exp(-q / 2) reaches 1/255 at this q, sqrt(q) standard deviations away.
        reach = 2 * torch.log(opacities / MIN_ALPHA)
        drawn = in_front & (reach >= 0) & determinant.isfinite()
        extents = (reach[:, None].clamp(min=0) * (torch.stack([xx, yy], dim=-1) + LOW_PASS)).sqrt()
        extents = torch.where(drawn[:, None], extents, -1.0)
    return Splats(means, conics, depths, opacities, gaussians.colors[item], extents)


def draw_each(
    rasterize: Callable[[Splats, tuple[int, int]], Tensor],
    gaussians: Gaussians,
    w2c: Tensor,
    size: tuple[int, int],
    fovy: float,
    background: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every item by each of its cameras `w2c` [B, V, 4, 4], on backgrounds [B, V, 3].

    Args:
        rasterize: draws one picture's sums [5, H, W], see `composite`.
    """
    pictures = [
        rasterize(project(gaussians, item, camera, size, fovy), size)
        for item, cameras in enumerate(w2c)
        for camera in cameras
    ]
    return composite(torch.stack(pictures).unflatten(0, w2c.shape[:2]), background)


def composite(sums: Tensor, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, alphas and expected depths.

    Args:
        sums: [B, V, 5, H, W] over the Gaussians: weight times red, green, blue, camera z, and 1.
        background: [B, V, 3].
    """
    colors, weighted_depths, alphas = sums.split((3, 1, 1), dim=2)
    images = colors + (1 - alphas) * background[..., None, None]
    return images, alphas, weighted_depths / torch.where(alphas > 0, alphas, 1.0)
