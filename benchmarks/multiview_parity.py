"""Do our multi-view U-Net and pipeline compute what the original does?
`python benchmarks/multiview_parity.py --original DIR [--kinds mvdream imagedream] [--side 16]`

DIR is a checkout of github.com/3DTopia/LGM, whose `mvdream` folder runs here beside ours:
  1. the U-Nets in full size on random weights and inputs;
  2. both pipelines from text or picture to views, in small, from the same seed.
Needs diffusers, transformers, einops and kiui (`pip install --no-deps kiui==0.2.8 lazy_loader`);
plain attention stands in for xformers, which runs on CUDA only. CPU, fp32; full size takes 4 GB of
memory and a few minutes on two cores.
"""

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from lgm.multiview import MultiViewPipeline, MultiViewUNet, camera_rows

UNET_BAR = 5e-4  # largest difference allowed in an output of standard deviation about 0.8
PIPELINE_BAR = 1e-3  # and in a latent (of standard deviation above 10) or picture of the small ones
FRAMES = {"mvdream": 4, "imagedream": 5}
SMALL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "camera_dim": 16,
    "transformer_depth": 1,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "attention_resolutions": (2, 1),
    "num_res_blocks": 1,
    "num_head_channels": 16,
    "context_dim": 16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, required=True, help="checkout of 3DTopia/LGM")
    parser.add_argument("--kinds", nargs="+", default=list(FRAMES), choices=list(FRAMES))
    parser.add_argument("--side", type=int, default=16, help="of the full-size latents; 32 is real")
    args = parser.parse_args()
    unets, pipelines = import_original(args.original)
    for elevation in (0, 20):  # degrees; the original counts them downward
        theirs = unets.get_camera(4, elevation=elevation, extra_view=True)
        difference = largest(camera_rows(-elevation, with_image=True), theirs)
        print(f"cameras at elevation {elevation}: largest difference {difference:.1e}")
    print(f"torch {torch.__version__}, CPU, fp32: largest differences\n")
    print(
        f"| full size, latents of {args.side} | parameters | output | its std |\n"
        "|---|---:|---:|---:|"
    )
    good = [compare_unets(kind, unets.MultiViewUNetModel, args.side) for kind in args.kinds]
    print("\n| small pipelines, 30 steps | latents | their std | pictures |\n|---|---:|---:|---:|")
    good += [compare_pipelines(kind, unets, pipelines) for kind in args.kinds]
    sys.exit(not all(good))


def import_original(checkout: Path) -> tuple[ModuleType, ModuleType]:
    sys.path.insert(0, str(checkout))
    xformers = ModuleType("xformers")
    xformers.ops = ModuleType("xformers.ops")
    # Its tensors are [batch * heads, tokens, channels].
    xformers.ops.memory_efficient_attention = lambda q, k, v, attn_bias=None, op=None: (
        F.scaled_dot_product_attention(q, k, v)
    )
    sys.modules |= {"xformers": xformers, "xformers.ops": xformers.ops}
    for name in ("cv2", "roma"):  # imported by kiui, unused here
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = MagicMock()
    return tuple(
        importlib.import_module(f"mvdream.{name}") for name in ("mv_unet", "pipeline_mvdream")
    )


def config_of(kind: str) -> dict:
    keys = Path(__file__).resolve().parents[1] / "tests" / "data" / f"{kind}_keys.json"
    return json.loads(keys.read_text())["config"]


@torch.no_grad()
def unet_pair(config: dict, original: type) -> tuple[MultiViewUNet, torch.nn.Module]:
    """Both networks on the same memory of random weights."""
    with torch.device("meta"):
        ours, theirs = MultiViewUNet(**config).eval(), original(**config).eval()
    ours.to_empty(device="cpu")
    for key, tensor in ours.state_dict().items():
        tensor.copy_(random_weights(key, tensor))
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    return ours, theirs


def random_weights(key: str, like: torch.Tensor) -> torch.Tensor:
    """Weights that keep a map's variance; norms and biases away from 1 and 0, which hide errors."""
    if like.dim() > 1:
        return torch.randn_like(like) / like[0].numel() ** 0.5
    scales = ("norm", "in_layers.0", "out_layers.0", "out.0", ".1.0.weight")
    return 0.2 * torch.randn_like(like) + (
        key.endswith("weight") and any(part in key for part in scales)
    )


@torch.inference_mode()
def compare_unets(kind: str, original: type, side: int) -> bool:
    torch.manual_seed(0)
    config, frames = config_of(kind), FRAMES[kind]
    ours, theirs = unet_pair(config, original)
    with_image = kind == "imagedream"
    sample = torch.randn(2 * frames, 4, side, side)
    timestep = torch.tensor([701.0, 34.0]).repeat_interleave(frames)
    text = torch.randn(2, 77, config["context_dim"]).repeat_interleave(frames, 0)
    camera = camera_rows(with_image=with_image).repeat(2, 1)
    picture = [torch.randn(2 * frames, 257, 1280), torch.randn(2, 4, side, side)] * with_image
    out = ours(sample, timestep, text, camera, frames, *picture)
    names = dict(zip(("ip", "ip_img"), (x.clone() for x in picture), strict=False))
    expected = theirs(sample.clone(), timestep, text, num_frames=frames, camera=camera, **names)
    error, count = largest(out, expected), sum(p.numel() for p in ours.parameters())
    print(f"| {kind} | {count:,} | {error:.1e} | {expected.std():.2f} |", flush=True)
    return error <= UNET_BAR


@torch.no_grad()
def compare_pipelines(kind: str, unets: ModuleType, pipelines: ModuleType) -> bool:
    torch.manual_seed(0)
    with_image = kind == "imagedream"
    config = SMALL | ({"ip_dim": 4} if with_image else {})
    ours, theirs = unet_pair(config, unets.MultiViewUNetModel)
    parts = small_components(with_image)
    extractor = CLIPImageProcessor() if with_image else None
    original = pipelines.MVDreamPipeline(
        unet=theirs, feature_extractor=extractor, requires_safety_checker=False, **parts
    )
    pipeline = MultiViewPipeline(unet=ours, **parts)
    for each in (original, pipeline):
        each.set_progress_bar_config(disable=True)
    picture = torch.ones(3, 200, 200)
    picture[:, 40:160, 40:160] = torch.rand(3, 120, 120)
    shared = {"negative_prompt": "dull", "guidance_scale": 5.0, "num_inference_steps": 30}
    given = {"image": picture.permute(1, 2, 0).numpy()} if with_image else {}
    finished: list[torch.Tensor] = []  # latents
    decode = original.decode_latents
    original.decode_latents = lambda latents: finished.append(latents) or decode(latents)
    torch.manual_seed(42)
    frames = original(
        "a cat", num_frames=4, device=torch.device("cpu"), output_type="numpy", **shared, **given
    )
    decode_ours = pipeline.decode
    pipeline.decode = lambda latents: finished.append(latents[0]) or decode_ours(latents)
    given = {"image": picture} if with_image else {}
    views = pipeline("a cat", seed=42, order="model", **shared, **given).views[0]
    expected = torch.as_tensor(frames[:4]).permute(0, 3, 1, 2)
    latents, error = largest(finished[1], finished[0][:4]), largest(views, expected)
    print(f"| {kind} | {latents:.1e} | {finished[0].std():.2f} | {error:.1e} |", flush=True)
    return max(latents, error) <= PIPELINE_BAR


def small_components(with_image: bool) -> dict:
    size = {"intermediate_size": 32, "num_hidden_layers": 2}
    text = CLIPTextConfig(vocab_size=64, hidden_size=16, num_attention_heads=2, **size)
    vision = CLIPVisionConfig(hidden_size=1280, num_attention_heads=20, patch_size=14, **size)
    blocks = {"block_out_channels": (8,) * 4, "norm_num_groups": 4}
    blocks |= {"down_block_types": ("DownEncoderBlock2D",) * 4}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 4}
    return {
        "vae": AutoencoderKL(**blocks).eval(),
        "text_encoder": CLIPTextModel(text).eval(),
        "tokenizer": small_tokenizer(),
        "image_encoder": CLIPVisionModel(vision).eval() if with_image else None,
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }


def small_tokenizer() -> CLIPTokenizer:
    letters = "!abcdefghijklmnopqrstuvwxyz"
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), start, end]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {token: index for index, token in enumerate(tokens)}
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "!"}
        config = special | {"model_max_length": 77}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        return CLIPTokenizer.from_pretrained(folder)


def largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


if __name__ == "__main__":
    main()
