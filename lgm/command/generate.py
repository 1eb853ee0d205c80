"""`lgm generate` and `lgm download`: text or one picture to a splat."""

from __future__ import annotations

import argparse
import logging
from contextlib import contextmanager
from pathlib import Path

from .options import load, model_places, pick_device, progress

DOWNLOADS = ("mvdream", "imagedream", "lgm")  # lgm.releases.download.NAMES, which wait for torch


def run_generate(options: argparse.Namespace) -> None:
    if options.image is None and not (options.prompt or "").strip():
        options.parser.error("give --image FILE or --prompt TEXT")
    if options.mask and not options.image:
        options.parser.error("--mask says what is object in --image FILE: give that, too")
    from ..pictures.matte import check_matte
    from ..releases.places import find_model
    from .outputs import check_writable, staged_folder
    from .results import Stages, write_results

    # What can be known to fail fails before the minutes of work.
    check_writable(options.out, folder=True)
    folder = multiview_folder(options)
    find_model(options.model, model_places(options))
    device = pick_device(options.device)
    if options.image is None:
        check_matte(options.matte)
    stages = Stages()
    views = make_views(folder, device, stages, options)
    with stages.stage("load LGM"):
        model = load(options, device)
    with staged_folder(options.out) as staging:
        write_results(
            model,
            views,
            staging,
            stages,
            title=options.prompt or options.image.stem,
            elevation=options.elevation,
            with_mesh=options.mesh,
            progress=lambda it: progress(it, options, "frames"),
        )
    if not options.quiet:
        print(stages.table())
        print(f"Open {options.out / 'index.html'}")


def multiview_folder(options: argparse.Namespace) -> Path:
    """The multi-view model that fits what was given.

    Raises:
        ValueError: it is not here, or is of the other kind.
    """
    from ..releases.catalog import IMAGE, TEXT
    from ..releases.places import find_folder, reads_pictures

    default = TEXT if options.image is None else IMAGE
    folder = find_folder(options.multiview or default, model_places(options))
    if reads_pictures(folder) and options.image is None:
        raise ValueError(
            f"{folder} is ImageDream, which needs a picture: give --image, or --multiview mvdream."
        )
    if options.image is not None and not reads_pictures(folder):
        raise ValueError(
            f"{folder} is MVDream, which works from a prompt alone: leave out --image, or give "
            "--multiview imagedream."
        )
    return folder


def make_views(folder: Path, device: str, stages, options: argparse.Namespace):
    """Four views [4, 3, 256, 256] by the multi-view model, which is gone afterwards: LGM needs the
    room."""
    from ..pictures.matte import kept_backgrounds, views_on_white
    from ..pipeline import NEGATIVE_PROMPT

    picture = None
    if options.image is not None:
        with stages.stage("cut out the object"):
            picture = read_picture(options)
    with stages.stage("load the multi-view model"):
        multiview = load_multiview(folder, device, options)
    with stages.stage("make four views"), step_bar(options) as on_step:
        views = multiview(
            options.prompt or "",
            picture,
            negative_prompt=NEGATIVE_PROMPT if options.negative is None else options.negative,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            elevation=options.elevation,
            seed=options.seed,
            on_step=on_step,
        ).views[0]
    if picture is not None:
        return views
    with stages.stage("cut out the views"):
        views, cut = views_on_white(views, options.matte)
    if kept := kept_backgrounds(cut, options.matte):
        logging.warning("%s.", kept)
    return views


def read_picture(options: argparse.Namespace):
    """The object in --image, [3, S, S] on white."""
    from ..pictures.load import PICTURE_SIDE, load_image, load_mask
    from ..pictures.matte import object_picture

    rgba = load_image(options.image, longest=PICTURE_SIDE)
    mask = load_mask(options.mask, *rgba.shape[1:]) if options.mask else None
    return object_picture(rgba, mask, options.matte)


def load_multiview(folder: Path, device: str, options: argparse.Namespace):
    from ..multiview import MultiViewPipeline

    _silence_other_bars()
    if options.offload and device != "cpu":
        import torch

        dtype = torch.float16 if device.startswith("cuda") else None
        pipeline = MultiViewPipeline.from_pretrained(folder, dtype)
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline = MultiViewPipeline.from_pretrained(folder, device=device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _silence_other_bars() -> None:
    """Of loading weights: ours show what takes time."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for module in (diffusers_logging, transformers_logging):
        module.disable_progress_bar()
        module.set_verbosity_error()


@contextmanager
def step_bar(options: argparse.Namespace):
    """A bar of sampling steps; gives the callback that moves it."""
    with progress(None, options, "steps", options.steps) as bar:
        yield lambda step, total, guess: bar.update()


def run_download(options: argparse.Namespace) -> None:
    from ..releases.download import download, download_native

    bar = progress(None, options, "B", 1, unit_scale=True, unit_divisor=1000)

    def on_bytes(here: int, total: int) -> None:
        bar.total = total
        bar.update(here - bar.n)

    with bar:
        if options.comfyui:
            places = download_native(options.name, options.comfyui, on_bytes)
        else:
            places = [download(options.name, options.models_dir, on_bytes)]
    if not options.quiet:
        print("\n".join(f"{place} is complete." for place in places))
