"""`lgm generate` and `lgm download`: text or one picture to a splat."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..io.outputs import check_writable, staged_folder
from ..multiview.sampling import STEPS, OnStep
from ..pictures.matte import kept_backgrounds
from ..pipeline import NEGATIVE_PROMPT, views_from
from ..releases.download import NAMES, download, download_native
from ..releases.places import find_model, find_multiview
from .options import (
    add_model_options,
    load,
    model_places,
    number,
    pick_device,
    progress,
    whole_number,
)
from .results import Stages, write_results

if TYPE_CHECKING:
    from ..multiview import MultiViewPipeline

log = logging.getLogger(__name__)


def add_generate(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("generate", help="a picture or a prompt to a splat and a mesh")
    command.add_argument("--image", type=Path, metavar="FILE", help="the object, from its front")
    command.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="a picture that is white where the object is; wins over alpha and --matte",
    )
    command.add_argument("--prompt", metavar="TEXT", help="what to make; or a word on the picture")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--negative", metavar="TEXT", help="what to keep away from; default ugly, blurry, ..."
    )
    command.add_argument("--seed", type=whole_number(0, 2**64 - 1), default=42, metavar="N")
    command.add_argument("--steps", type=whole_number(1, 1000), default=STEPS, metavar="N")
    command.add_argument(
        "--guidance",
        type=number(0, 100),
        metavar="X",
        help="how strongly to follow the prompt or picture; default the model's own, 7.5 or 5",
    )
    command.add_argument(
        "--elevation",
        type=number(-90, 90),
        default=0.0,
        metavar="DEG",
        help="of the views that are made, above the horizon",
    )
    command.add_argument(
        "--matte",
        choices=("auto", "none", "rembg"),
        default="auto",
        help="background removal, of the picture, or of the views that a prompt alone makes: auto "
        "keeps alpha, else removes a flat background, else asks rembg if it is ready",
    )
    command.add_argument(
        "--multiview",
        metavar="NAME_OR_FOLDER",
        help="default imagedream with a picture, else mvdream; see lgm download",
    )
    command.add_argument(
        "--offload", action="store_true", help="needs less GPU memory: one network there at a time"
    )
    command.add_argument(
        "--mesh",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also mesh.glb",
    )
    add_model_options(command)
    command.set_defaults(run=run_generate, parser=command)


def add_download(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("download", help="fetch a released model from Hugging Face")
    command.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    places = command.add_mutually_exclusive_group()
    places.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="where to; default LGM_MODELS_DIR, else ComfyUI's models, else ~/.cache/lgm",
    )
    places.add_argument(
        "--comfyui",
        type=Path,
        metavar="DIR",
        help="ComfyUI's folder: fetch what its own loaders need, named as in our workflows",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run_download)


def run_generate(options: argparse.Namespace) -> None:
    if options.image is None and not (options.prompt or "").strip():
        options.parser.error("give --image FILE or --prompt TEXT")
    if options.mask and not options.image:
        options.parser.error("--mask says what is object in --image FILE: give that, too")
    # What can be known to fail fails before the minutes of work.
    check_writable(options.out, folder=True)
    folder = find_multiview(options.multiview, options.image is not None, model_places(options))
    find_model(options.model, model_places(options))
    device = pick_device(options.device)
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


def make_views(folder: Path, device: str, stages: Stages, options: argparse.Namespace) -> Tensor:
    """Four views [4, 3, 256, 256]; the multi-view model is gone afterwards: LGM needs the room."""
    from ..pictures.load import PICTURE_SIDE, load_image, load_mask

    picture = mask = None
    if options.image is not None:
        picture = load_image(options.image, longest=PICTURE_SIDE)
        mask = load_mask(options.mask, *picture.shape[1:]) if options.mask else None
    with step_bar(options) as on_step:
        made = views_from(
            lambda: load_multiview(folder, device, options),
            options.prompt or "",
            None if picture is None else picture[None],
            None if mask is None else mask[None],
            negative_prompt=NEGATIVE_PROMPT if options.negative is None else options.negative,
            steps=options.steps,
            guidance=options.guidance,
            elevation=options.elevation,
            seed=options.seed,
            matte=options.matte,
            on_step=on_step,
            stage=stages.stage,
        )
    if made.kept:
        log.warning("%s.", kept_backgrounds(made.kept))
    return made.views[0]


def load_multiview(folder: Path, device: str, options: argparse.Namespace) -> MultiViewPipeline:
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
def step_bar(options: argparse.Namespace) -> Iterator[OnStep]:
    """A bar of sampling steps, which comes with the first; gives the callback that moves it."""
    with ExitStack() as stack:
        bar = None

        def on_step(step: int, total: int, guess: Tensor) -> None:
            nonlocal bar
            if bar is None:
                bar = stack.enter_context(progress(None, options, "steps", total))
            bar.update()

        yield on_step


def run_download(options: argparse.Namespace) -> None:
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
