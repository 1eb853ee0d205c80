"""Run by ComfyUI's own Python: writes a Stable Zero123 with a reduced U-Net and random weights, as
the checkpoint that core's loader knows by its keys.

    python zero123_file.py COMFYUI FILE
"""

import sys
from pathlib import Path

COMFYUI, FILE = (Path(argument).resolve() for argument in sys.argv[1:3])
sys.path.insert(0, str(COMFYUI))
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

# What core's detection looks for; one block a level instead of two, two levels instead of four.
UNET = {
    "image_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [0, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 0, 0],
    "use_spatial_transformer": True,
    "context_dim": 768,
    "num_heads": 8,
    "use_linear_in_transformer": False,
    "legacy": False,
}
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
VISION_WIDTH, VISION_LAYERS, VISION_TOKENS = 1024, 24, 257  # of CLIP ViT-L/14
CROSS, CAMERA = 768, 4


def vision_shapes() -> dict[str, tuple[int, ...]]:
    """Of the picture's encoder, under OpenAI's names."""
    width = VISION_WIDTH
    shapes = {
        "class_embedding": (width,),
        "positional_embedding": (VISION_TOKENS, width),
        "conv1.weight": (width, 3, 14, 14),
        "proj": (width, CROSS),
    }
    norms = ["ln_pre", "ln_post"]
    for layer in range(VISION_LAYERS):
        block = f"transformer.resblocks.{layer}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            shapes |= {f"{block}.{name}weight": (rows, columns), f"{block}.{name}bias": (rows,)}
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return shapes


def random_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Such that signals keep their size; half precision, as the file is long."""
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    fan_in = torch.Size(shape[1:]).numel()
    return torch.randn(shape).mul_(fan_in**-0.5).half()


def main() -> None:
    torch.manual_seed(0)
    parts = {"cond_stage_model.model.visual.": vision_shapes()}
    with torch.device("meta"):
        for prefix, network in (
            ("model.diffusion_model.", UNetModel(**UNET)),
            ("first_stage_model.", AutoencoderKL(embed_dim=4, ddconfig=VAE)),
        ):
            state = network.state_dict()
            parts[prefix] = {name: tuple(tensor.shape) for name, tensor in state.items()}
    parts["cc_projection."] = {"weight": (CROSS, CROSS + CAMERA), "bias": (CROSS,)}
    state = {
        prefix + name: random_weight(name, shape)
        for prefix, shapes in parts.items()
        for name, shape in shapes.items()
    }
    FILE.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state}, FILE)


if __name__ == "__main__":
    main()
