"""How long a picture takes to become a splat on an NVIDIA GPU, and how much memory, from the root:

    python benchmarks/generate.py [--steps 30] [--tiny --device cpu]

ImageDream's and LGM's networks in their real sizes and fp16, with random weights: the pictures look
like nothing, the time is the same. Medians of warm runs between synchronizations; then the peak of
one run with every component offloaded as it goes, LGM's network last. --tiny checks the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from render import machine, synchronize
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from lgm import LGM, PRESETS
from lgm.multiview import MultiViewPipeline, MultiViewUNet

WARM_RUNS = 7
START, END = "<|startoftext|>", "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks")
    args = parser.parse_args()
    device = torch.device(args.device)
    print(f"torch {torch.__version__}, {machine(args.device)}, {args.steps} steps")
    torch.manual_seed(0)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pipeline = random_pipeline(args.tiny, device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    with device:
        model = LGM(PRESETS["tiny" if args.tiny else "big"])
    model = model.to(dtype).requires_grad_(False).eval()
    image = torch.rand(3, 256, 256)
    size = 64 if args.tiny else 256

    def views(seed: int = 0) -> torch.Tensor:
        made = pipeline("a cat", image, num_inference_steps=args.steps, size=size, seed=seed)
        return made.views

    def splat(seed: int = 0):
        return model.reconstruct(views(seed), device=device)

    start = time.perf_counter()
    splat()
    synchronize(device)
    print(f"{'first picture after':<24}{1000 * (time.perf_counter() - start):>9.0f} ms")
    report("picture to splat", splat, device)
    report("  to four views", views, device)
    four = views()
    report("  views to splat", lambda: model.reconstruct(four, device=device), device)
    report("  text", lambda: pipeline.encode_prompt(["a cat", ""]), device)
    report("  CLIP's look", lambda: pipeline.encode_features(image[None]), device)
    report("  VAE in", lambda: pipeline.encode_latents(image[None], size), device)
    latents = torch.randn(1, 4, 4, size // 8, size // 8, device=device)
    report("  VAE out", lambda: pipeline.decode(latents), device)
    if device.type == "cuda":
        memory(pipeline, model, splat)


def memory(pipeline: MultiViewPipeline, model: LGM, splat: Callable) -> None:
    print(f"peak, all resident {torch.cuda.max_memory_allocated() / 2**30:>14.2f} GB")
    from lgm.multiview import fast
    from lgm.network import fast_unet

    fast.release(pipeline.unet)
    fast_unet.release(model)
    model.to("cpu")
    model.fast = False
    pipeline.enable_model_cpu_offload()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    print(f"at rest, offloaded {torch.cuda.memory_allocated() / 2**30:>14.2f} GB")

    def offloaded():
        made = pipeline("a cat", torch.rand(3, 256, 256), seed=0)
        gaussians = model.to("cuda").reconstruct(made.views, device=torch.device("cuda"))
        model.to("cpu")
        return gaussians

    start = time.perf_counter()
    offloaded()
    torch.cuda.synchronize()
    print(f"picture to splat, offloaded {1000 * (time.perf_counter() - start):>5.0f} ms")
    print(f"peak, offloaded {torch.cuda.max_memory_allocated() / 2**30:>17.2f} GB")


def report(name: str, call: Callable, device: torch.device) -> None:
    times = []
    for _ in range(WARM_RUNS):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    print(f"{name:<24}{statistics.median(times[1:]):>9.1f} ms", flush=True)


def random_pipeline(tiny: bool, device: torch.device, dtype: torch.dtype) -> MultiViewPipeline:
    """Of the released sizes: SD 2.1's VAE and text encoder, CLIP ViT-H/14, ImageDream's U-Net."""
    unet = {"model_channels": 64, "context_dim": 64} if tiny else {}
    text = (
        {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
        if tiny
        else {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
    )
    vision = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 2 if tiny else 32,
        "num_attention_heads": 16,
        "patch_size": 14,
    }
    widths = (32, 32, 32, 32) if tiny else (128, 256, 512, 512)
    with device:
        parts = {
            "unet": MultiViewUNet(ip_dim=16, **unet),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(num_attention_heads=16, hidden_act="gelu", **text)
            ),
            "image_encoder": CLIPVisionModel(CLIPVisionConfig(hidden_act="gelu", **vision)),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=widths,
                layers_per_block=2,
                scaling_factor=0.18215,
            ),
        }
    parts = {name: part.to(dtype).requires_grad_(False).eval() for name, part in parts.items()}
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return MultiViewPipeline(tokenizer=letters(), scheduler=scheduler, **parts)


def letters() -> CLIPTokenizer:
    """CLIP's kind of tokenizer with a vocabulary of single letters."""
    signs = [*"!abcdefghijklmnopqrstuvwxyz"]
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), START, END]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(
            str(vocabulary), str(merges), bos_token=START, eos_token=END, unk_token=END,
            pad_token="!", model_max_length=77,
        )  # fmt: skip


if __name__ == "__main__":
    main()
