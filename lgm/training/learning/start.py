"""The weights that a run starts from."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ...network.model import LGM
from ...network.presets import PRESETS
from ...releases.places import find_model
from ..recipe import Recipe
from .lpips import LPIPS, find_lpips
from .processes import rank


def wanted_lpips(arguments: argparse.Namespace, recipe: Recipe) -> LPIPS | None:
    """LPIPS, if the recipe has a weight for it and its files are found."""
    found = find_lpips(arguments.vgg, arguments.lpips_heads) if recipe.lpips_weight else None
    if recipe.lpips_weight and found is None and int(os.environ.get("RANK", "0")) == 0:
        print(
            "LPIPS is off: it needs torchvision's VGG-16 file (--vgg, or in torch's hub cache) and "
            "its heads (--lpips-heads, or the package lpips or torchmetrics).",
            flush=True,
        )
    return found


def start_model(arguments: argparse.Namespace, recipe: Recipe) -> tuple[LGM, str]:
    """The model in fp32 with fresh weights or those of a file, and a note which."""
    preset = PRESETS[recipe.preset]
    model = LGM(preset)
    if preset.decoding == "hull":  # an untrained network draws about the hull
        torch.nn.init.normal_(model.conv.weight, std=0.02)
        torch.nn.init.zeros_(model.conv.bias)
    if model.corrector is not None:  # an untrained corrector changes nothing
        torch.nn.init.zeros_(model.corrector.conv_out.weight)
        torch.nn.init.zeros_(model.corrector.conv_out.bias)
    if not arguments.weights:
        return model, "fresh"
    path = find_model(arguments.weights)
    copied = copy_fitting(model, path)
    total = len(model.state_dict())
    if not copied:
        raise ValueError(
            f"{path} has no tensor of the preset {recipe.preset}: give a model of this project or "
            "of LGM, or another preset with --set."
        )
    if copied < total and rank() == 0:
        print(f"{path}: {copied} of {total} tensors fit, the rest starts fresh.", flush=True)
    return model, f"{path} ({copied} of {total} tensors)"


def copy_fitting(model: LGM, path: Path) -> int:
    """Copy the tensors of equal name and shape, as the original does; returns how many. If the
    first layer has more input channels than the file, the extra weights start at 0.
    """
    copied = 0
    try:
        with safe_open(path, "pt") as file, torch.no_grad():
            there = set(file.keys())
            for name, value in model.state_dict().items():
                shape = tuple(file.get_slice(name).get_shape()) if name in there else ()
                is_first = name == "unet.conv_in.weight" and len(shape) == 4
                part = value[:, : shape[1]] if is_first else value
                if shape == tuple(part.shape):
                    value.zero_()
                    part.copy_(file.get_tensor(name))
                    copied += 1
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} can't be read as weights ({error}): get it again.") from error
    return copied
