"""Training losses and image metrics.

The paper's loss is MSE(rgb) + MSE(alpha) + LPIPS(rgb); LPIPS is in `lpips`. The other losses
supervise geometry and structure, for training without LPIPS' weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Decibels, from the mean squared error over the last three axes [..., C, H, W]."""
    return -10 * torch.log10((image - target).square().mean((-3, -2, -1)).clamp(min=1e-10))


def log_error(image: Tensor, target: Tensor) -> Tensor:
    """Mean over images of ln(squared error + 5e-4), which is PSNR up to a factor. Images that are
    nearly right get as much weight as those that are far off.
    """
    return ((image - target).square().mean((-3, -2, -1)) + 5e-4).log().mean()


def ssim(image: Tensor, target: Tensor, window: int = 7) -> Tensor:
    """Structural similarity [...] of images [..., C, H, W] in 0..1, uniform window (Wang et al.
    2004).
    """
    x, y = image.flatten(0, -4), target.flatten(0, -4)

    def mean(value: Tensor) -> Tensor:
        return F.avg_pool2d(value, window, stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = mean(x), mean(y)
    variance_x = unbiased * (mean(x * x) - mean_x**2)
    variance_y = unbiased * (mean(y * y) - mean_y**2)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean((-3, -2, -1)).unflatten(0, image.shape[:-3])


def edge_loss(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the images' horizontal and vertical gradients."""
    difference = image - target
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def surface_loss(positions: Tensor, surface: Tensor, weight: Tensor) -> Tensor:
    """Mean distance (L1) of Gaussians to the surface points of their pixels. It is taken object by
    object: a batch's loss is the mean of its objects', however it is split.

    Args:
        positions, surface: [B, N, 3]. weight: [B, N, 1], 0 where the pixel sees no surface.
    """
    distance = ((positions - surface).abs() * weight).sum((1, 2))
    return (distance / (3 * weight.sum((1, 2))).clamp(min=1)).mean()


def depth_loss(depths: Tensor, alphas: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute difference of rendered and true depths [B, V, 1, H, W] over the pixels that
    are solid in both, object by object.
    """
    solid = ((masks > 0.99) & (alphas > 0.5)).float()
    error = ((depths - target).abs() * solid).flatten(1).sum(1)
    return (error / solid.flatten(1).sum(1).clamp(min=1)).mean()
