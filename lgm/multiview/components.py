"""The components of the pipeline: loading each from its released folder, and whether they fit."""

from __future__ import annotations

import inspect
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers import SchedulerMixin
from torch import nn

from ..io.safetensors import open_safetensors, read_config, read_json
from .resampler import IMAGE_FEATURES
from .unet import UNet

CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "scheduler": "scheduler_config.json",
}
TOKENIZER = ("vocab.json", "merges.txt")


def check_folder(folder: Path) -> None:
    """Raise ValueError naming the components that a released folder lacks."""
    files = [f"{name}/{config}" for name, config in CONFIGS.items()]
    if not (folder / "tokenizer" / "tokenizer.json").is_file():  # transformers 5 saves this instead
        files += [f"tokenizer/{name}" for name in TOKENIZER]
    if (folder / "unet" / "config.json").is_file() and read_config(folder / "unet").get("ip_dim"):
        files.append("image_encoder/config.json")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} must be a downloaded MVDream or ImageDream, but lacks {', '.join(missing)}: "
            "download these into there."
        )


def check_components(pipeline: DiffusionPipeline) -> None:
    """Raise ValueError where the components can't work together."""
    unet, text_encoder = pipeline.unet, pipeline.text_encoder
    if not isinstance(unet, UNet):
        raise ValueError(
            f"The pipeline needs a MultiViewUNet, got a {type(unet).__name__}: load the unet of "
            "MVDream or ImageDream."
        )
    if unet.ip_dim > 0 and pipeline.image_encoder is None:
        raise ValueError(
            "ImageDream needs its image_encoder, which is missing: load it, too, or use MVDream."
        )
    width = text_encoder.config.hidden_size
    if width != unet.context_dim:
        raise ValueError(
            f"The U-Net reads text of width {unet.context_dim}, but the text encoder's is {width}: "
            "use the text_encoder of the same folder (that of Stable Diffusion 2.1)."
        )
    image_encoder = pipeline.image_encoder
    if unet.ip_dim > 0 and image_encoder.config.hidden_size != IMAGE_FEATURES:
        raise ValueError(
            f"ImageDream needs image features of width {IMAGE_FEATURES}, but the image encoder's "
            f"are {image_encoder.config.hidden_size} wide: use CLIP ViT-H/14, of the same folder."
        )
    channels = pipeline.vae.config.latent_channels
    if channels != unet.in_channels:
        raise ValueError(
            f"The U-Net works on {unet.in_channels} latent channels, but the VAE has {channels}: "
            "use the vae of the same folder."
        )
    check_scheduler(pipeline.scheduler)


def check_scheduler(scheduler: SchedulerMixin) -> None:
    kind = scheduler.config.get("prediction_type", "none")
    if kind != "epsilon" or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"The U-Net predicts noise, which needs a scheduler with prediction_type 'epsilon', "
            f"got a {type(scheduler).__name__} with {kind!r}: make it with "
            "from_config(pipeline.scheduler.config)."
        )


def load_component(
    kind: type[nn.Module], folder: Path, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A component of diffusers or transformers, whole, from safetensors.

    Raises:
        ValueError: a file is missing or damaged, or doesn't hold this component.
    """
    read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} needs .safetensors weights, found none: download them there.")
    for path in weights:
        with open_safetensors(path):
            pass
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if issubclass(kind, diffusers.ModelMixin):
        options["torch_dtype"] = dtype  # transformers calls this differently in every version
    try:
        module, report = kind.from_pretrained(folder, **options)
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{folder} must hold a {kind.__name__}, but it can't be loaded ({error}): download it "
            "again."
        ) from error
    missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if missing:
        raise ValueError(
            f"{folder} must hold a {kind.__name__}, but {len(missing)} of its tensors are missing "
            f"or have another shape ({', '.join(missing[:3])}): download it again."
        )
    module = module if module.dtype == dtype else module.to(dtype)
    return module.to(device).requires_grad_(False).eval()


def load_scheduler(folder: Path) -> SchedulerMixin:
    """The scheduler that the folder's settings name, if it is one of diffusers'."""
    path = folder / "scheduler_config.json"
    name = read_json(path).get("_class_name", "DDIMScheduler")
    kind = getattr(diffusers, str(name), None)
    if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
        raise ValueError(f"{path} must name a scheduler of diffusers, got {name!r}.")
    return kind.from_pretrained(folder, local_files_only=True)
