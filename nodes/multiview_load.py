"""The node that loads a multi-view diffusion model."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from .border import host

DIFFUSION_MODELS, DIFFUSERS = "diffusion_models", "diffusers"  # keys in folder_paths
RELEASED = "unet/diffusion_pytorch_model*.safetensors"  # in a released model's folder
OTHER_UNET = "UNet2DConditionModel"  # what Stable Diffusion's folders call theirs
DTYPES = {"default": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class LoadMultiViewModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_LoadMultiViewModel",
            display_name="Load Multi-View Model",
            category=host.CATEGORY,
            description="MVDream or ImageDream, which draw an object from four sides at once, as a "
            "model for KSampler. Which of the two it is, the file tells.",
            search_aliases=["mvdream", "imagedream", "multi-view diffusion", "text to 3d"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=unet_names(),
                    tooltip="The multi-view U-Net: a .safetensors file in models/diffusion_models, "
                    "or the unet of a released folder in models/diffusers.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="Precision of the weights. 'default' is what ComfyUI finds best for "
                    "this computer: fp16 on most graphics cards, fp32 elsewhere. fp32 needs twice "
                    "the memory.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For KSampler, LoRA loaders and whatever else takes a model. LoRAs for "
                    "Stable Diffusion 2.1 fit.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, unet_name: str, weight_dtype: str):
        status = unet_path(unet_name).stat()
        return unet_name, weight_dtype, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str) -> io.NodeOutput:
        from . import multiview_model  # needs more of ComfyUI than a schema does

        model = multiview_model.load(str(unet_path(unet_name)), DTYPES[weight_dtype])
        kind = "ImageDream" if model.model.diffusion_model.has_image else "MVDream"
        weights = str(model.model_dtype()).removeprefix("torch.")
        host.say(cls, f"{kind}, {weights} weights, on {model.load_device}")
        return io.NodeOutput(model)


def unet_names() -> list[str]:
    """Files that may be a multi-view U-Net, as ComfyUI lists them."""
    names = folder_paths.get_filename_list(DIFFUSION_MODELS)
    return [*(name for name in names if name.endswith(".safetensors")), *released_unets()]


def released_unets() -> dict[str, Path]:
    """Name -> place of the U-Nets in folders as they are released."""
    found: dict[str, Path] = {}
    for folder in map(Path, folder_paths.get_folder_paths(DIFFUSERS)):
        for path in sorted(folder.glob(f"*/{RELEASED}")):
            if _class_name(path.with_name("config.json")) != OTHER_UNET:
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def unet_path(name: str) -> Path:
    return released_unets().get(name) or Path(
        folder_paths.get_full_path_or_raise(DIFFUSION_MODELS, name)
    )


def _class_name(config: Path) -> str:
    """Of the network that a released folder holds; "" when that can't be read."""
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("_class_name", "")
    except (OSError, ValueError, AttributeError):
        return ""
