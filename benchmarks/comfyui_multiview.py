"""MVDream and ImageDream as a MODEL in ComfyUI's memory management: prompt or picture to splat.

    python benchmarks/comfyui_multiview.py --comfyui DIR [--steps 30] [--tiny]

Each row is a fresh process with ComfyUI's own loaders, sampler and memory management, this pack's
nodes, and random weights in the released sizes; --tiny reduces the U-Net. The pictures look like
nothing, the time is the same. `step`: of the sampler, with guidance; `peak`: memory of the GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from comfyui_modes import MODES, ROOT, load_nodes, use_comfyui, write_weights

KINDS = ("mvdream", "imagedream")
GUIDANCE = {"mvdream": 7.5, "imagedream": 5.0}
RELEASED_UNET = {
    "model_channels": 320, "attention_resolutions": [4, 2, 1], "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4], "context_dim": 1024, "camera_dim": 16,
}  # fmt: skip
RUNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", required=True, help="a checkout of ComfyUI")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tiny", action="store_true", help="small networks, to check this script")
    parser.add_argument("--mode", choices=MODES, help="one mode and kind, in this process")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(run(args)))
        return
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else "no GPU"
    print(f"{name}, torch {torch.__version__}, {args.steps} steps of ddim")
    print(f"{'':12s}{'mode':10s}{'first s':>9s}{'next s':>9s}{'step ms':>9s}{'peak MB':>9s}")
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), args.tiny)
        for kind in KINDS:
            for mode in ("default", "--novram") if cuda else ("--cpu",):
                command = [sys.executable, __file__, "--comfyui", args.comfyui, f"--mode={mode}"]
                command += ["--kind", kind, "--folder", folder, "--steps", str(args.steps)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(
                        f"{kind:12s}{mode:10s}failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
                    )
                    continue
                row = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"{kind:12s}{mode:10s}{row['first']:9.2f}{row['next']:9.2f}"
                    f"{row['step']:9.1f}{row['peak']:9.0f}"
                )


def write_models(folder: Path, tiny: bool) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.comfyui.released_files import UNET, place_in_models

    place_in_models(folder, unet_config=UNET if tiny else RELEASED_UNET)
    write_weights("tiny" if tiny else "big", folder)


def run(args: argparse.Namespace) -> dict[str, float]:
    """One kind in one mode."""
    use_comfyui(args.comfyui, args.mode)
    import comfy.clip_vision
    import comfy.sample
    import comfy.sd
    import comfy.utils
    import folder_paths

    nodes = load_nodes()
    folder_paths.add_model_folder_path("lgm", str(args.folder))
    folder_paths.add_model_folder_path("diffusion_models", str(args.folder / "diffusion_models"))
    clip = comfy.sd.load_clip([str(next((args.folder / "text_encoders").iterdir()))])
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(next((args.folder / "vae").iterdir()))))
    seeing = comfy.clip_vision.load(str(next((args.folder / "clip_vision").iterdir())))
    views = {"elevation": 0.0, "azimuth_start": 0.0, "width": 256, "height": 256, "batch_size": 1}
    picture = torch.ones(1, 256, 256, 3)
    picture[:, 64:192, 64:192] = torch.rand(128, 128, 3)
    steps: list[float] = []

    def splat(model, lgm):
        texts = [clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in ("a cat", "blurry")]
        if args.kind == "imagedream":
            told = nodes["ImageConditioning"].execute(
                *texts, seeing, vae, picture, *views.values(), 1.0
            )
        else:
            told = nodes["TextConditioning"].execute(*texts, *views.values())
        positive, negative, latent = told.args
        noise = comfy.sample.prepare_noise(latent["samples"], 1, None)
        steps.clear()
        samples = comfy.sample.sample(
            model, noise, args.steps, GUIDANCE[args.kind], "ddim", "ddim_uniform", positive,
            negative, latent["samples"], seed=1, disable_pbar=True,
            callback=lambda *_: steps.append(time.perf_counter()),
        )  # fmt: skip
        images = vae.decode(samples)
        result = nodes["Reconstruct"].execute(lgm, images, 0.0, 0.0).args[0]
        assert result.positions.isfinite().all()

    seconds = []
    with torch.inference_mode():
        model = nodes["LoadMultiViewModel"].execute(f"{args.kind}.safetensors", "default").args[0]
        lgm = nodes["LoadModel"].execute("random.safetensors", "auto").args[0]
        for _ in range(RUNS):
            start = time.perf_counter()
            splat(model, lgm)
            seconds.append(time.perf_counter() - start)
    cuda = torch.cuda.is_available() and args.mode != "--cpu"
    return {
        "first": seconds[0],
        "next": min(seconds[1:]),
        "step": 1000 * (steps[-1] - steps[0]) / (len(steps) - 1),
        "peak": torch.cuda.max_memory_allocated() / 2**20 if cuda else 0,
    }


if __name__ == "__main__":
    main()
