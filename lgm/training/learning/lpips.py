"""LPIPS, VGG-16, version 0.1 (Zhang et al. 2018): the perceptual distance of two images.

The original's training leaves dropout on by accident; this is its expected value. On CUDA the
convolutions run in bfloat16 and channels-last, and two feature maps are compared in one pass
(`lpips_triton`). Activations are kept for one image only, since the target needs no gradient.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, autocast, nn

from ...machine.optional import uses_triton

VGG_SLICES = (
    (0, 2),
    (5, 7),
    (10, 12, 14),
    (17, 19, 21),
    (24, 26, 28),
)  # convolutions before relu1_2 ... relu5_3
VGG_FILE = "vgg16-397923af.pth"  # torchvision's name in the PyTorch hub cache
SIZE = 256  # pixels a side at which images are compared, as in the paper
EPSILON = 1e-10  # added to a feature's length, not squared


class LPIPS(nn.Module):
    """The distance, from weights of torchvision's and the release's layout; frozen.

    Args:
        vgg: torchvision's VGG-16 ImageNet weights (.pth or .safetensors).
        heads: the five linear heads, as shipped inside the packages `lpips` and `torchmetrics`.

    Raises:
        ValueError: a file is not what it should be.
    """

    def __init__(self, vgg: Path, heads: Path):
        super().__init__()
        features, linear = _load(vgg), _load(heads)
        self.convolutions = nn.ParameterDict()
        for index in (index for group in VGG_SLICES for index in group):
            for letter, name in (("w", "weight"), ("b", "bias")):
                key = f"features.{index}.{name}"
                value = _tensor(features, key, vgg, "VGG-16")
                if letter == "w":  # once, not in every step
                    value = value.contiguous(memory_format=torch.channels_last)
                self.convolutions[f"{letter}{index}"] = value
        self.heads = nn.ParameterList(
            _tensor(linear, f"lin{i}.model.1.weight", heads, "LPIPS' heads") for i in range(5)
        )
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.requires_grad_(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean distance of images [N, 3, H, W] in 0..1; only `image` gets a gradient."""
        with torch.no_grad():
            truth = list(self.features(target))
        distance = torch.zeros((), device=image.device)
        for map, true, head in zip(self.features(image), truth, self.heads, strict=True):
            distance = distance + map_distance(map, true, head.flatten())
        return distance

    def features(self, image: Tensor) -> Iterator[Tensor]:
        """The five feature maps, finest first."""
        x = F.interpolate(image * 2 - 1, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = (x - self.shift) / self.scale
        half = x.is_cuda  # the original runs it under autocast
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast(x.device.type, torch.bfloat16, enabled=half):
            for level, group in enumerate(VGG_SLICES):
                x = F.max_pool2d(x, 2) if level else x
                for index in group:
                    weight, bias = (self.convolutions[f"{letter}{index}"] for letter in "wb")
                    x = F.conv2d(x, weight, bias, padding=1).relu_()
                yield x


def map_distance(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Mean over pixels of sum_c w_c (a_c / |a| - b_c / |b|)^2, float32.

    Args:
        a, b: [N, C, H, W]; only a gets a gradient. weights: [C].
    """
    if uses_triton(a):
        return _MapDistance.apply(a, b, weights)
    first, second = (x.float() / (x.float().norm(dim=1, keepdim=True) + EPSILON) for x in (a, b))
    return F.conv2d((first - second) ** 2, weights.float().view(1, -1, 1, 1)).mean()


class _MapDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, weights):
        from .lpips_triton import distance

        a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
        ctx.save_for_backward(a, b, weights)
        return distance(a, b, weights)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        from .lpips_triton import distance_backward

        return distance_backward(*ctx.saved_tensors, grad), None, None


def find_lpips(vgg: Path | None = None, heads: Path | None = None) -> LPIPS | None:
    """LPIPS if its two weight files are on this machine, else None. Nothing is downloaded.

    Args:
        vgg: torchvision's VGG-16 file; default: where the PyTorch hub keeps it.
        heads: the linear heads' file; default: the one inside the package lpips or torchmetrics.

    Raises:
        ValueError: a file that was named is missing or is something else.
    """
    for file, what in ((vgg, "--vgg"), (heads, "--lpips-heads")):
        if file is not None and not file.is_file():
            raise ValueError(f"{what} needs a file of weights, and {file} is none.")
    vgg = vgg or Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    heads = heads or next((path for path in _packaged_heads() if path.is_file()), None)
    return LPIPS(vgg, heads) if heads and vgg.is_file() else None


def _packaged_heads() -> Iterator[Path]:
    places = {
        "lpips": "weights/v0.1/vgg.pth",
        "torchmetrics": "functional/image/lpips_models/vgg.pth",
    }
    for package, inside in places.items():
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            yield Path(spec.origin).parent / inside


def _load(path: Path) -> dict[str, Tensor]:
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise ValueError(f"{path} can't be read as weights ({error}): get it again.") from error


def _tensor(weights: dict[str, Tensor], key: str, path: Path, what: str) -> Tensor:
    if key not in weights:
        raise ValueError(f"{path} is not {what}: it has no {key}.")
    return weights[key].float()
