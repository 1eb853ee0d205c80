"""Training losses and picture metrics.

The paper's loss is MSE(rgb) + MSE(alpha) + LPIPS(rgb). The rest supervises geometry and structure
where LPIPS' weights are absent.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VGG_SLICES = (
    (0, 2),
    (5, 7),
    (10, 12, 14),
    (17, 19, 21),
    (24, 26, 28),
)  # convolutions before relu1_2 ... relu5_3
VGG_FILE = "vgg16-397923af.pth"  # torchvision's name in the PyTorch hub cache


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Decibels, from the mean squared error over the last three axes [..., C, H, W]."""
    return -10 * torch.log10((image - target).square().mean((-3, -2, -1)).clamp(min=1e-10))


def ssim(image: Tensor, target: Tensor, window: int = 7) -> Tensor:
    """Structural similarity [...] of pictures [..., C, H, W] in 0..1, uniform window (Wang et al.
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
    """Mean absolute difference of the pictures' horizontal and vertical gradients."""
    difference = image - target
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def surface_loss(positions: Tensor, surface: Tensor, weight: Tensor) -> Tensor:
    """Mean distance (L1) of Gaussians to the surface points of their pixels.

    Args:
        positions, surface: [B, N, 3]. weight: [B, N, 1], 0 where the pixel sees no surface.
    """
    return ((positions - surface).abs() * weight).sum() / (3 * weight.sum()).clamp(min=1)


class LPIPS(nn.Module):
    """Learned perceptual distance, VGG-16, version 0.1 (Zhang et al. 2018), without dropout.

    Args:
        vgg: torchvision's VGG-16 ImageNet weights (.pth or .safetensors).
        heads: the five linear heads, as shipped inside the packages `lpips` and `torchmetrics`.
    """

    def __init__(self, vgg: Path, heads: Path):
        super().__init__()
        features, linear = _load(vgg), _load(heads)
        self.convolutions = nn.ParameterDict()
        for index in (index for group in VGG_SLICES for index in group):
            self.convolutions[f"w{index}"] = features[f"features.{index}.weight"].float()
            self.convolutions[f"b{index}"] = features[f"features.{index}.bias"].float()
        self.heads = nn.ParameterList(linear[f"lin{i}.model.1.weight"].float() for i in range(5))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.requires_grad_(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean distance of pictures [N, 3, H, W] in 0..1, compared at 256 px as in the paper."""
        pair = torch.cat([image, target]) * 2 - 1
        x = (
            F.interpolate(pair, (256, 256), mode="bilinear", align_corners=False) - self.shift
        ) / self.scale
        distance = 0.0
        for level, (group, head) in enumerate(zip(VGG_SLICES, self.heads, strict=True)):
            x = F.max_pool2d(x, 2) if level else x
            for index in group:
                x = F.conv2d(
                    x, self.convolutions[f"w{index}"], self.convolutions[f"b{index}"], padding=1
                ).relu()
            unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
            first, second = unit.chunk(2)
            distance = distance + F.conv2d((first - second) ** 2, head).mean()
        return distance


def find_lpips(vgg: Path | None = None) -> LPIPS | None:
    """LPIPS if its two weight files are on this machine, else None. Nothing is downloaded."""
    vgg = vgg or Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    places = {
        "lpips": "weights/v0.1/vgg.pth",
        "torchmetrics": "functional/image/lpips_models/vgg.pth",
    }
    for package, inside in places.items():
        spec = importlib.util.find_spec(package)
        if spec and spec.origin and vgg.is_file():
            heads = Path(spec.origin).parent / inside
            if heads.is_file():
                return LPIPS(vgg, heads)
    return None


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
