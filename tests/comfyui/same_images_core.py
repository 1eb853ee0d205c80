"""Run by ComfyUI's own Python: views from a released folder's files by core's loaders, text
encoder, sampler and VAE, with our nodes between them, on the CPU.

    python same_images_core.py COMFYUI REPOSITORY JOB

JOB is a JSON file:
    folder: released
    prompt, negative: texts
    picture: a file, or null
    prepared: side of the prepared picture, pixels
    size: side of the views, pixels
    elevation, guidance: numbers
    noise: a file with `noise` [4, 4, h, w], the views in the order of `lgm`
    runs: by name, see `sampled`
    out: the file that is written, with IMAGEs [4, size, size, 3] by the names of the runs, and what
        the encoders gave
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path

COMFYUI, ROOT, JOB = (Path(argument).resolve() for argument in sys.argv[1:4])
sys.path.insert(0, str(COMFYUI))
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import nodes as core  # noqa: E402

PACK = "lgm_pack"
WEIGHTS = "diffusion_pytorch_model.safetensors"
COMPONENTS = {"text_encoders": "text_encoder", "vae": "vae", "clip_vision": "image_encoder"}


def load_pack() -> None:
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


load_pack()
ours = importlib.import_module(f"{PACK}.nodes")
keys = importlib.import_module(f"{PACK}.nodes.multiview_conditioning")
prepare = importlib.import_module(f"{PACK}.nodes.prepare")


def offer(folder: Path) -> None:
    """Make the folder's components known to core's loaders."""
    for models, component in COMPONENTS.items():
        folder_paths.add_model_folder_path(models, str(folder / component), is_default=True)
    folder_paths.add_model_folder_path("diffusers", str(folder.parent), is_default=True)


def conditioning(job: dict, vae) -> tuple:
    """positive, negative and latent, as a workflow makes them."""
    (clip,) = core.CLIPLoader().load_clip("model.safetensors", type="stable_diffusion")
    texts = {
        name: core.CLIPTextEncode().encode(clip, job[key])[0]
        for name, key in (("positive", "prompt"), ("negative", "negative"))
    }
    common = {
        "elevation": job["elevation"], "azimuth_start": 0.0, "width": job["size"],
        "height": job["size"], "batch_size": 1,
    }  # fmt: skip
    if job["picture"] is None:
        return ours.TextConditioning.execute(**texts, **common).args
    (clip_vision,) = core.CLIPVisionLoader().load_clip("model.safetensors")
    return ours.ImageConditioning.execute(
        **texts, clip_vision=clip_vision, vae=vae, ip_strength=1.0,
        image=prepared(Path(job["picture"]), job["prepared"]), **common,
    ).args  # fmt: skip


def prepared(picture: Path, size: int) -> torch.Tensor:
    folder_paths.set_input_directory(str(picture.parent))
    image, mask = core.LoadImage().load_image(picture.name)
    options = {
        "cut_out": "auto", "mask_shows": "auto", "center": "each picture", "border_ratio": 0.2,
        "background": "#ffffff", "size": size,
    }  # fmt: skip
    return prepare.PrepareImage.execute(image=image, mask=mask, **options).args[0]


def sampled(model, told: tuple, noise: torch.Tensor, guidance: float, run: dict) -> torch.Tensor:
    """Latents, by core's `ddim`.

    Args:
        run: `steps`, and `scheduler` of core, or none for the released schedule, which core hasn't:
            it begins below the highest noise, where core mixes a little less of the noise in, and
            ends at training step 0, above none, where core leaves the latents unscaled.
    """
    positive, negative, latent = told
    if run["scheduler"]:
        return comfy.sample.sample(
            model, noise, run["steps"], guidance, "ddim", run["scheduler"], positive, negative,
            latent["samples"], seed=0, disable_pbar=True,
        )  # fmt: skip
    steps = run["steps"]
    timesteps = torch.arange(steps).flip(0) * (1000 // steps) + 1
    schedule = model.get_model_object("model_sampling")
    sigmas = torch.cat([schedule.sigma(timesteps), schedule.sigma(torch.zeros(1))])
    over = (sigmas**2 + 1).sqrt()
    latents = comfy.sample.sample_custom(
        model, noise * over[0] / sigmas[0], guidance, comfy.samplers.sampler_object("ddim"),
        sigmas, positive, negative, latent["samples"], seed=0, disable_pbar=True,
    )  # fmt: skip
    return latents / over[-1]


def main(job: dict) -> None:
    folder = Path(job["folder"])
    offer(folder)
    (vae,) = core.VAELoader().load_vae(WEIGHTS)
    told = conditioning(job, vae)
    (text, shown), (negative, _) = told[0][0], told[1][0]
    found = {"text": text, "negative text": negative}
    found |= {name: shown[name] for name in (keys.FEATURES, keys.REFERENCE) if name in shown}
    unet_name = f"{folder.name}/unet/{WEIGHTS}"
    (model,) = ours.LoadMultiViewModel.execute(unet_name, "default").args
    noise = load_file(job["noise"])["noise"]
    for name, run in job["runs"].items():
        latents = sampled(model, told, noise, job["guidance"], run)
        (found[name],) = core.VAEDecode().decode(vae, {"samples": latents})
    save_file({name: values.contiguous() for name, values in found.items()}, job["out"])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with torch.inference_mode():
        main(json.loads(JOB.read_text(encoding="utf-8")))
