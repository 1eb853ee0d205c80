"""MVDream and ImageDream as files: a released folder, or single files for ComfyUI's model folders.

Encoders and VAE have their real layout and size, since programs tell them by that; the U-Net is
reduced. Values are random, in fp16 as released, and scaled to behave like trained ones: activations
neither fade nor grow, and text and picture change what is drawn. Needs PyTorch and safetensors
alone. Sizes: ImageDream 2.2 GB, MVDream 0.9 GB.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lgm.multiview import UNet

from .comfyui import find_comfyui

KINDS = ("mvdream", "imagedream")
UNET = {
    "model_channels": 64, "attention_resolutions": [2, 1], "num_res_blocks": 1,
    "channel_mult": [1, 2], "context_dim": 1024, "camera_dim": 16,
}  # fmt: skip
IP_DIM = 16  # tokens of ImageDream's picture

TEXT = {
    "model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "hidden_size": 1024,
    "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
    "vocab_size": 49408, "projection_dim": 512, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 1, "torch_dtype": "float16",
}  # fmt: skip
VISION = {
    "model_type": "clip_vision_model", "architectures": ["CLIPVisionModel"], "hidden_size": 1280,
    "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
    "hidden_act": "gelu", "layer_norm_eps": 1e-5, "image_size": 224, "patch_size": 14,
    "num_channels": 3, "projection_dim": 1024, "torch_dtype": "float16",
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32, "sample_size": 256, "scaling_factor": 0.18215, "force_upcast": True,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085,
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}  # fmt: skip

Shapes = dict[str, tuple[int, ...]]
Gain = Callable[[str], float]  # how much a layer's output is to spread if its input spreads by 1


def write_released(
    folder: Path,
    kind: str,
    unet_config: dict = UNET,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> Path:
    """A released folder of MVDream or ImageDream.

    Args:
        unet_config: of `lgm.multiview.UNet`; ImageDream's tokens are added.
        seed: the same one gives the same files here and in `place_in_models`.
        tokenizer: folder with CLIP's vocabulary; default is the one that every ComfyUI has.
    """
    config = unet_config | ({"ip_dim": IP_DIM} if kind == "imagedream" else {})
    unet, text, vae, vision = (
        folder / name for name in ("unet", "text_encoder", "vae", "image_encoder")
    )
    _write_json(unet / "config.json", {"_class_name": "MultiViewUNetModel", **config})
    write_unet(unet / "diffusion_pytorch_model.safetensors", config, seed)
    _write_json(text / "config.json", TEXT)
    write_text_encoder(text / "model.safetensors", seed)
    _write_json(vae / "config.json", VAE)
    write_vae(vae / "diffusion_pytorch_model.safetensors", seed)
    if kind == "imagedream":
        _write_json(vision / "config.json", VISION)
        write_image_encoder(vision / "model.safetensors", seed)
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_tokenizer(folder / "tokenizer", tokenizer)
    index = {"_class_name": ["pipeline_mvdream", "MVDreamPipeline"], "_diffusers_version": "0.25.0"}
    _write_json(folder / "model_index.json", index)
    return folder


def place_in_models(
    models: Path,
    *,
    mvdream: str | None = "mvdream.safetensors",
    imagedream: str | None = "imagedream.safetensors",
    text_encoder: str | None = "mvdream_text_encoder.safetensors",
    vae: str | None = "mvdream_vae.safetensors",
    clip_vision: str | None = "imagedream_image_encoder.safetensors",
    unet_config: dict = UNET,
    seed: int = 0,
) -> None:
    """Single files in ComfyUI's models folder, under these names in `diffusion_models`,
    `text_encoders`, `vae` and `clip_vision`. What is None stays out: the image encoder is 1.3 GB,
    the text encoder 0.7 GB.
    """
    unets, image_config = models / "diffusion_models", unet_config | {"ip_dim": IP_DIM}
    if mvdream:
        write_unet(unets / mvdream, unet_config, seed)
    if imagedream:
        write_unet(unets / imagedream, image_config, seed)
    if text_encoder:
        write_text_encoder(models / "text_encoders" / text_encoder, seed)
    if vae:
        write_vae(models / "vae" / vae, seed)
    if clip_vision:
        write_image_encoder(models / "clip_vision" / clip_vision, seed)


# Single files -------------------------------------------------------------------------------------


def write_text_encoder(path: Path, seed: int = 0) -> None:
    """Stable Diffusion 2.1's."""
    width = TEXT["hidden_size"]
    shapes = {
        "embeddings.token_embedding.weight": (TEXT["vocab_size"], width),
        "embeddings.position_embedding.weight": (TEXT["max_position_embeddings"], width),
        **_encoder_shapes(TEXT),
        **_layer("final_layer_norm", width),
    }
    _save(path, "text_model.", shapes, _gain_in_clip(TEXT), seed)


def write_image_encoder(path: Path, seed: int = 0) -> None:
    """CLIP ViT-H/14."""
    width, patch = VISION["hidden_size"], VISION["patch_size"]
    tokens = (VISION["image_size"] // patch) ** 2 + 1
    shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.position_embedding.weight": (tokens, width),
        **_layer("pre_layrnorm", width),  # spelled so
        **_encoder_shapes(VISION),
        **_layer("post_layernorm", width),
    }
    _save(path, "vision_model.", shapes, _gain_in_clip(VISION), seed)


def write_vae(path: Path, seed: int = 0) -> None:
    """Stable Diffusion's."""
    widths, blocks = VAE["block_out_channels"], VAE["layers_per_block"]
    last = widths[-1]
    shapes = _layer("encoder.conv_in", widths[0], 3, 3, 3)
    width = widths[0]
    for level, wider in enumerate(widths):
        for block in range(blocks):
            shapes |= _res_block(f"encoder.down_blocks.{level}.resnets.{block}", width, wider)
            width = wider
        if level < len(widths) - 1:
            place = f"encoder.down_blocks.{level}.downsamplers.0.conv"
            shapes |= _layer(place, width, width, 3, 3)
    shapes |= _middle("encoder", last) | _layer("encoder.conv_norm_out", last)
    shapes |= _layer("encoder.conv_out", 8, last, 3, 3) | _layer("quant_conv", 8, 8, 1, 1)
    shapes |= _layer("post_quant_conv", 4, 4, 1, 1) | _layer("decoder.conv_in", last, 4, 3, 3)
    shapes |= _middle("decoder", last)
    for level, narrower in enumerate(reversed(widths)):
        for block in range(blocks + 1):
            shapes |= _res_block(f"decoder.up_blocks.{level}.resnets.{block}", width, narrower)
            width = narrower
        if level < len(widths) - 1:
            place = f"decoder.up_blocks.{level}.upsamplers.0.conv"
            shapes |= _layer(place, width, width, 3, 3)
    shapes |= _layer("decoder.conv_norm_out", width) | _layer("decoder.conv_out", 3, width, 3, 3)

    def gain(name: str) -> float:
        if name == "post_quant_conv":
            return VAE["scaling_factor"]
        if name == "decoder.conv_out":
            return 0.6  # most pixels stay between black and white
        return 0.5 if ".conv2" in name or ".to_out" in name else 1.4

    def like_trained(state: dict[str, Tensor]) -> None:
        mean, log_variance = state["quant_conv.weight"].chunk(2)
        mean.mul_(1 / VAE["scaling_factor"])
        # What a trained VAE encodes is all but certain.
        log_variance.mul_(0.1)
        state["quant_conv.bias"][4:] -= 17

    _save(path, "", shapes, gain, seed, like_trained)


def write_unet(path: Path, config: dict = UNET, seed: int = 0) -> None:
    """A multi-view U-Net. Without a `config.json` beside it, its attention heads count as 64 wide,
    as the released ones are.
    """
    with torch.device("meta"):
        shapes = {key: tuple(x.shape) for key, x in UNet(**config).state_dict().items()}

    def gain(name: str) -> float:
        if name.startswith("image_embed."):
            return 1.0
        branch_end = ("out_layers.3", "proj_out", "to_out.0", "net.2")
        return 0.7 if name.endswith(branch_end) else 1.4

    _save(path, "", shapes, gain, seed, _predict_noise)


def write_tokenizer(folder: Path, source: Path | None = None) -> None:
    """CLIP's, told to pad with "!" as Stable Diffusion 2 does."""
    source = source or find_comfyui() / "comfy" / "sd1_tokenizer"
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(source / name, folder / name)
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": "!"}
    _write_json(folder / "special_tokens_map.json", special)
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", special | about)


# Layouts: names and shapes ------------------------------------------------------------------------


def _layer(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _encoder_shapes(config: dict) -> Shapes:
    """Layers of CLIP's transformers."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {}
    for layer in (f"encoder.layers.{i}" for i in range(config["num_hidden_layers"])):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _layer(f"{layer}.self_attn.{name}", width, width)
        shapes |= _layer(f"{layer}.layer_norm1", width) | _layer(f"{layer}.layer_norm2", width)
        shapes |= _layer(f"{layer}.mlp.fc1", hidden, width)
        shapes |= _layer(f"{layer}.mlp.fc2", width, hidden)
    return shapes


def _res_block(place: str, width: int, width_out: int) -> Shapes:
    shapes = _layer(f"{place}.norm1", width) | _layer(f"{place}.norm2", width_out)
    shapes |= _layer(f"{place}.conv1", width_out, width, 3, 3)
    shapes |= _layer(f"{place}.conv2", width_out, width_out, 3, 3)
    if width != width_out:
        shapes |= _layer(f"{place}.conv_shortcut", width_out, width, 1, 1)
    return shapes


def _middle(half: str, width: int) -> Shapes:
    """Of the VAE's encoder or decoder."""
    place = f"{half}.mid_block"
    attention = f"{place}.attentions.0"
    shapes = _layer(f"{attention}.group_norm", width)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes |= _layer(f"{attention}.{name}", width, width)
    return shapes | {
        key: shape
        for block in range(2)
        for key, shape in _res_block(f"{place}.resnets.{block}", width, width).items()
    }


# Values -------------------------------------------------------------------------------------------


def _gain_in_clip(config: dict) -> Gain:
    """All layers together add about as much as the embeddings bring."""
    branch_end = config["num_hidden_layers"] ** -0.5

    def gain(name: str) -> float:
        return branch_end if name.endswith(("out_proj", "fc2")) else 1.4

    return gain


def _save(
    path: Path,
    prefix: str,
    shapes: Shapes,
    gain: Gain,
    seed: int,
    adjust: Callable[[dict[str, Tensor]], None] = lambda state: None,
) -> None:
    made = torch.Generator().manual_seed(seed)
    state = {key: _values(key, shape, gain, made) for key, shape in shapes.items()}
    adjust(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{prefix}{key}": x for key, x in state.items()}, path, {"format": "pt"})


def _values(key: str, shape: tuple[int, ...], gain: Gain, made: torch.Generator) -> Tensor:
    layer = key.removesuffix(".weight").removesuffix(".bias")
    values = torch.randn(shape, generator=made)
    if ("embedding" in key and len(shape) < 3) or key == "image_embed.latents":
        return values.half()
    if len(shape) > 1:
        return values.mul_(gain(layer) / prod(shape[1:]) ** 0.5).half()
    return values.mul_(0.1).add_(key.endswith(".weight")).half()  # of norms, and biases


def _predict_noise(state: dict[str, Tensor]) -> None:
    """Let the U-Net predict what it sees, scaled to spread 1, and only in addition its random
    function of it. A trained one does so where there is much noise, and it keeps the latents
    ordinary through all steps.

    x goes beside all blocks by channels of its own, as x and -x: SiLU(x) - SiLU(-x) = x.
    """
    blocks = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("output_blocks."))
    last = f"output_blocks.{blocks - 1}"
    enter, leave = state["input_blocks.0.0.weight"], state["out.2.weight"]
    width = len(enter)
    group = max(2, width // 32)  # a channel of x has a group of the norm for itself and its twin
    channels = enter.shape[1]
    own = slice(channels * group)
    for name in (f"{last}.0.out_layers.3", f"{last}.0.skip_connection", f"{last}.1.proj_out"):
        for part in ("weight", "bias"):
            if f"{name}.{part}" in state:
                state[f"{name}.{part}"][own] = 0
    enter[own] = 0
    state["input_blocks.0.0.bias"][own] = 0
    state["out.0.weight"][own], state["out.0.bias"][own] = 1, 0
    leave.mul_(0.3)[:, own] = 0
    passes = state[f"{last}.0.skip_connection.weight"]
    for channel in range(channels):
        for twin, sign in enumerate((1, -1)):
            place = channel * group + twin
            enter[place, channel, 1, 1] = sign
            passes[place, place - width] = 1  # the first block's output comes last
            leave[channel, place, 1, 1] = sign * (2 / group) ** 0.5


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
