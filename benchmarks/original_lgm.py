"""The original LGM's modules for `training_parity.py`, and stand-ins for what they import."""

from __future__ import annotations

import importlib
import io
import math
import sys
import types
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lgm.cameras import FOVY
from lgm.gaussians import Gaussians
from lgm.render import render


def import_original(args):
    """Its `core.models`, `core.options`, `core.provider_objaverse` and `core.utils`."""
    folders = [args.packages, args.original]
    sys.path[:0] = [str(folder) for folder in folders if folder]
    offer("tyro", extras=types.SimpleNamespace(subcommand_type_from_defaults=lambda *_: None))
    offer("roma", rotvec_to_rotmat=rotation_of)
    offer("cv2", imdecode=decode_bgra, IMREAD_UNCHANGED=-1)
    offer("torchvision", __version__="0.13", models=types.SimpleNamespace(vgg16=vgg16))
    offer("torchvision.transforms")
    offer("torchvision.transforms.functional", normalize=normalize)
    if not args.cuda:
        rasterizer = types.ModuleType("diff_gaussian_rasterization")
        rasterizer.GaussianRasterizationSettings = RasterSettings
        rasterizer.GaussianRasterizer = partial(Rasterizer, backend=args.stand_in)
        sys.modules["diff_gaussian_rasterization"] = rasterizer
    names = ("models", "options", "provider_objaverse", "utils")
    return [importlib.import_module(f"core.{name}") for name in names]


def offer(name: str, **contents) -> None:
    """A module of this name, if there is none."""
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        vars(module).update(contents)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def rotation_of(vectors: Tensor) -> Tensor:
    from scipy.spatial.transform import Rotation

    return torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix()).to(vectors)


def decode_bgra(data: np.ndarray, _) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data.tobytes())).convert("RGBA"))[..., [2, 1, 0, 3]]


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    mean, std = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - mean) / std


def vgg16(weights: None = None) -> types.SimpleNamespace:
    """torchvision's order of layers: two or three convolutions, each with ReLU, then pooling."""
    layers, last = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [torch.nn.Conv2d(last, width, 3, padding=1), torch.nn.ReLU(inplace=True)]
            last = width
        layers.append(torch.nn.MaxPool2d(2))
    return types.SimpleNamespace(features=torch.nn.Sequential(*layers))


class RasterSettings(NamedTuple):
    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor  # world to camera, transposed, OpenCV axes
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool


class Rasterizer:
    """Our renderer behind the interface of the original's CUDA extension."""

    def __init__(self, raster_settings: RasterSettings, backend: str):
        self.settings, self.backend = raster_settings, backend

    def __call__(
        self, means3D, means2D, shs, colors_precomp, opacities, scales, rotations, cov3D_precomp
    ):
        at = self.settings
        # Where the extension would put a point that the camera sees at 45 degrees.
        clip = torch.linalg.inv(at.viewmatrix.double()) @ at.projmatrix.double()
        lens = torch.tensor([1.0, 1, 1, 1]).double() @ clip
        assert torch.allclose(lens[:2] / lens[3] * at.tanfovx, torch.ones(2).double(), atol=1e-4)
        assert at.tanfovx == at.tanfovy and shs is None and cov3D_precomp is None
        c2w = torch.linalg.inv(at.viewmatrix.double().mT) * torch.tensor([1, -1, -1, 1])
        values = (means3D, opacities, scales * at.scale_modifier, rotations, colors_precomp)
        fovy = math.degrees(2 * math.atan(at.tanfovy))
        assert abs(fovy - FOVY) < 1e-6
        drawn = render(
            Gaussians(*(value[None] for value in values)), c2w[None].to(means3D),
            (at.image_height, at.image_width), fovy, at.bg, self.backend,
        )  # fmt: skip
        return drawn.images[0, 0], None, drawn.depths[0, 0], drawn.alphas[0, 0]
