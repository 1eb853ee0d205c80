"""Loading the multi-view U-Net from a released folder or a single file: safetensors only, strictly,
without running code that lies beside the weights, and without a second copy in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..io.safetensors import CONFIG, check_layout, open_safetensors, read_config
from .unet import UNet

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
CHECKPOINT_PREFIX = "model.diffusion_model."  # of the U-Net inside a whole checkpoint
HEAD_CHANNELS = 64  # of both releases; shapes don't tell it

Shapes = Mapping[str, tuple[int, ...]]
Network = TypeVar("Network", bound=UNet)


def load_unet(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    network: type[Network] = UNet,  # ty: ignore[invalid-parameter-default]
) -> Network:
    """The network with the weights of a file, in evaluation mode.

    Args:
        path: a folder with `config.json` and the weights, as released, or a .safetensors file, of
            the network alone or a whole checkpoint. A file's configuration is the `config` in its
            metadata (JSON), else that of a `config.json` of this network beside it, else it is
            told from the shapes.
        device: where the weights go.
        dtype: what they are stored in; default as in the file.
        network: the class to make.

    Raises:
        ValueError: missing, damaged, or another model; the message says which and what to do.
    """
    path = Path(path)
    folder_config = read_config(path) if path.is_dir() else None
    file = weights_file(path)
    with open_safetensors(file) as opened:
        names = tensor_names(opened)
        shapes = {key: tuple(opened.get_slice(name).get_shape()) for key, name in names.items()}
        refuse_others(file, shapes)
        config = folder_config or _file_config(file, opened.metadata() or {}, shapes)
        model = _empty_network(file, config, shapes, network)
        state = {}
        for key, name in names.items():
            tensor = opened.get_tensor(name)
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise ValueError(
                    f"{file}: tensor {name} must hold finite floating-point weights: download the "
                    "file again."
                )
            state[key] = tensor.to(device, dtype)
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def weights_file(path: Path) -> Path:
    """The weights in a component folder, or the file itself."""
    if path.is_file():
        return path
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise ValueError(f"{path} needs {WEIGHTS[0]}, which is missing: download it into there.")
    raise ValueError(f"{path} does not exist: give a multi-view U-Net's folder or file.")


def tensor_names(opened) -> dict[str, str]:
    """Key in the network -> name in the file, of the network's part of a checkpoint."""
    names = list(opened.keys())
    inside = [name for name in names if name.startswith(CHECKPOINT_PREFIX)]
    return {name.removeprefix(CHECKPOINT_PREFIX): name for name in inside or names}


def _file_config(file: Path, metadata: Mapping[str, str], shapes: Shapes) -> dict[str, object]:
    if "config" in metadata:
        return json.loads(metadata["config"])
    beside = file.parent / CONFIG
    if file.name in WEIGHTS and beside.is_file():
        return read_config(file.parent)
    return config_of(shapes)


def refuse_others(file: Path, shapes: Shapes) -> None:
    """Raise ValueError, saying what it is instead, unless these are a multi-view U-Net's keys."""
    if "camera_embed.0.weight" in shapes and "input_blocks.0.0.weight" in shapes:
        return
    if "input_blocks.0.0.weight" in shapes:
        found = "holds a Stable Diffusion U-Net without cameras"
    elif any(key.startswith("down_blocks.") for key in shapes):
        found = "holds a Stable Diffusion U-Net in diffusers' layout, without cameras"
    elif "unet.conv_in.weight" in shapes:
        found = "is an LGM file, which turns views into Gaussians"
    else:
        found = "holds none of its tensors"
    raise ValueError(
        f"{file} must hold the multi-view U-Net of MVDream or ImageDream, but {found}: choose "
        "another file."
    )


def config_of(shapes: Shapes) -> dict[str, object]:
    """The configuration that has these shapes, with the releases' width of attention heads."""
    width, in_channels = shapes["input_blocks.0.0.weight"][:2]
    channel_mult: list[int] = []
    attention: set[int] = set()
    blocks_per_level: list[int] = [0]
    index = 1
    while any(key.startswith(f"input_blocks.{index}.0.") for key in shapes):
        if f"input_blocks.{index}.0.op.weight" in shapes:
            blocks_per_level.append(0)
        else:
            level = len(blocks_per_level) - 1
            channels = shapes.get(f"input_blocks.{index}.0.in_layers.2.weight", (0,))[0]
            channel_mult[level:] = [channels // width]
            blocks_per_level[level] += 1
            if f"input_blocks.{index}.1.proj_in.weight" in shapes:
                attention.add(2**level)
        index += 1
    block = "middle_block.1.transformer_blocks."
    return {
        "in_channels": in_channels,
        "out_channels": shapes.get("out.2.weight", (in_channels,))[0],
        "model_channels": width,
        "attention_resolutions": sorted(attention, reverse=True),
        "num_res_blocks": blocks_per_level[0],
        "channel_mult": channel_mult,
        "num_head_channels": HEAD_CHANNELS,
        "transformer_depth": len({k[len(block) :].split(".")[0] for k in shapes if block in k}),
        "context_dim": shapes.get(f"{block}0.attn2.to_k.weight", (0, 1024))[1],
        "camera_dim": shapes["camera_embed.0.weight"][1],
        "ip_dim": shapes.get("image_embed.latents", (1, 0))[1],
    }


def _empty_network(
    file: Path, config: Mapping[str, Any], shapes: Shapes, network: type[Network]
) -> Network:
    """A network on the meta device whose layout is exactly that of `shapes`."""
    try:
        with torch.device("meta"):
            model = network(**config)
    except TypeError as error:
        raise ValueError(
            f"The configuration of {file} is not a multi-view U-Net's ({error}): download "
            f"{CONFIG} again."
        ) from error
    check_layout(file, model, shapes, "its multi-view U-Net")
    return model
