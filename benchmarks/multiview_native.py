"""ComfyUI's own way through MVDream and ImageDream against the library's: how the images differ.

    python benchmarks/multiview_native.py [--comfyui DIR] [--python PYTHON] [--steps 5] [--size 128]

From the same files, words, picture and noise, on the CPU in fp32: ComfyUI with its own loaders,
encoders, `ddim` and VAE, and this pack's nodes; the library with diffusers' and transformers'.
Encoders and VAE have their real sizes, the U-Net is reduced, all weights are random. `released` is
the schedule that the models come with, which tests/comfyui/test_same_images.py holds to 1e-2; the
others are KSampler's own, which take other steps. ComfyUI and its Python are those of COMFYUI_DIR
and COMFYUI_PYTHON if nothing else is said; this script's Python needs diffusers, transformers and
pytest. 3 GB on disk, 6 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("diffusers", "transformers", "pytest")
RELEASED = "released"
SCHEDULES = {RELEASED: None} | {name: name for name in ("ddim_uniform", "normal", "simple")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", help="a checkout of ComfyUI; default: COMFYUI_DIR")
    parser.add_argument(
        "--python", help="that runs it; default: COMFYUI_PYTHON, or in or beside it"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="side of the views, pixels")
    args = parser.parse_args()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        parser.error(f"needs the packages {', '.join(missing)}: install them")
    sys.path.insert(0, str(ROOT))
    from tests.comfyui.comfyui import find_comfyui, find_python
    from tests.comfyui.released_files import KINDS

    for name, value in (("COMFYUI_DIR", args.comfyui), ("COMFYUI_PYTHON", args.python)):
        if value:
            os.environ[name] = value
    comfyui = find_comfyui()
    python = comfyui and find_python(comfyui)
    if python is None:
        parser.error("needs a ComfyUI and its Python: give --comfyui and --python")
    versions = f"torch {version(sys.executable, 'torch')} and {version(python, 'torch')} in ComfyUI"
    diffusers = f"diffusers {version(sys.executable, 'diffusers')}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, CPU, {versions}, {diffusers}")
    print(f"{args.steps} steps of ddim, 4 views of {args.size} pixels, images of 0..1, fp32")
    print(f"{'':12s}{'schedule':14s}{'max':>10s}{'mean':>10s}{'spread':>9s}")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            library, native = draw(Path(folder), kind, comfyui, python, args.steps, args.size)
        for name in SCHEDULES:
            difference = (native[name] - library).abs()
            print(
                f"{kind:12s}{name:14s}{difference.max():10.1e}{difference.mean():10.1e}"
                f"{library.std():9.2f}"
            )


def version(python: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def draw(base: Path, kind: str, comfyui: Path, python: str, steps: int, size: int) -> tuple:
    """The library's IMAGE [4, size, size, 3], and ComfyUI's by schedule."""
    from transformers.utils import logging

    from lgm.multiview import MultiViewPipeline
    from lgm.multiview.conditioning import VIEW_ORDER
    from lgm.pictures.load import load_image
    from lgm.pictures.matte import object_picture
    from tests.comfyui import test_same_images as same
    from tests.comfyui.released_files import write_released

    folder = write_released(base / kind, kind)
    picture = same.write_picture(base / "picture.png") if kind == "imagedream" else None
    noise = same.noise(kind, size)
    save_file({"noise": noise[list(VIEW_ORDER)]}, base / "noise.safetensors")
    job = {
        "folder": str(folder), "prompt": same.PROMPT, "negative": same.NEGATIVE, "size": size,
        "picture": picture and str(picture), "prepared": max(same.PICTURE_SIDES),
        "elevation": same.ELEVATION, "guidance": same.GUIDANCE[kind],
        "noise": str(base / "noise.safetensors"), "out": str(base / "out.safetensors"),
        "runs": {name: {"steps": steps, "scheduler": core} for name, core in SCHEDULES.items()},
    }  # fmt: skip
    (base / "job.json").write_text(json.dumps(job))
    command = [python, "-B", same.SCRIPT, comfyui, ROOT, base / "job.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base)
    if done.returncode:
        sys.exit(f"{kind} in ComfyUI failed:\n{done.stderr[-4000:]}")
    native = load_file(job["out"])

    logging.disable_progress_bar()
    pipeline = MultiViewPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        views = pipeline(
            same.PROMPT,
            None if picture is None else object_picture(load_image(picture)),
            negative_prompt=same.NEGATIVE,
            latents=noise[None],
            num_inference_steps=steps,
            guidance_scale=same.GUIDANCE[kind],
            elevation=same.ELEVATION,
            size=size,
        ).views[0]  # fmt: skip
    return views.movedim(1, -1), native


if __name__ == "__main__":
    main()
