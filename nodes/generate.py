"""Text or one picture to four views in a single node, by the library's own pipeline."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..lgm.multiview.sampling import STEPS
from ..lgm.pictures.encode import contact_sheet
from ..lgm.pictures.matte import kept_backgrounds
from ..lgm.pipeline import NEGATIVE_PROMPT, views_from
from ..lgm.releases.catalog import RELEASES
from ..lgm.releases.places import ReleaseMissingError, available_folders, find_multiview
from .border import host
from .border.models import DOWNLOAD, SAY, fetch
from .border.pictures import (
    fit_mask,
    image_from_pictures,
    object_mask,
    pictures_from_image,
    with_alpha,
)
from .sampling_preview import SHEET, rough_views

if TYPE_CHECKING:
    from ..lgm.multiview import MultiViewPipeline

DIFFUSERS = "diffusers"  # key in folder_paths
AUTO = "auto"
CUT_OUTS = ("auto", "rembg", "none")
WORKING_BYTES = 3 << 29  # beside the weights of a component; estimated

_kept: dict[tuple, MultiViewPipeline] = {}  # the last pipeline, which takes seconds to load


class MultiViewDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_MultiViewDiffusion",
            display_name="Multi-View Diffusion",
            category=host.CATEGORY,
            description="Four views of an object from a prompt (MVDream) or from one picture "
            "(ImageDream), ready for Reconstruct Gaussians. Needs the diffusers package.",
            search_aliases=["mvdream", "imagedream", "text to 3d", "image to 3d", "image to views"],
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The object from its front. It is cut out, centered and put on white. "
                    "Each picture of a batch is an object. Without one the prompt decides.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is object: of Remove Background, Load Image or the mask editor. "
                    "Wins over the picture's alpha.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to make, in a few plain words; with a picture, what it shows, or "
                    "nothing. 75 tokens at most.",
                ),
                io.String.Input(
                    "negative_prompt",
                    default=NEGATIVE_PROMPT,
                    multiline=True,
                    tooltip="What to keep away from; may be empty.",
                ),
                io.Combo.Input(
                    "model",
                    options=model_names(),
                    default=AUTO,
                    tooltip="A folder in models/diffusers. 'auto': ImageDream with a picture, "
                    "MVDream without.",
                ),
                io.Combo.Input(
                    "if_missing",
                    options=[SAY, DOWNLOAD],
                    default=SAY,
                    tooltip="'download' fetches the model from Hugging Face into models/diffusers "
                    "when it isn't there: 2.6 GB for MVDream, 4 GB for ImageDream.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Another seed, another object. The same one makes the same views again "
                    "on the same kind of device.",
                ),
                io.Int.Input(
                    "steps",
                    default=STEPS,
                    min=1,
                    max=1000,
                    tooltip="More takes longer; beyond 50 little changes.",
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=50.0,
                    step=0.5,
                    tooltip="How strongly to follow the prompt or picture. 0 = the model's own: "
                    "7.5 for MVDream, 5 for ImageDream. 1 = no guidance, twice as fast.",
                ),
                io.Float.Input(
                    "elevation",
                    default=0.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Height of the four cameras in degrees; positive = camera above the "
                    "object, looking down. LGM wants 0; set the same in Reconstruct Gaussians.",
                ),
                io.Combo.Input(
                    "cut_out",
                    options=list(CUT_OUTS),
                    default=CUT_OUTS[0],
                    advanced=True,
                    tooltip="Of a picture without mask, or of the views that a prompt alone makes, "
                    "whose background is grayish. 'auto': its alpha, else an even background is "
                    "taken away, else rembg if that and its network are here. 'rembg' may load its "
                    "network from the internet. 'none' takes the pictures as they are.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="views",
                    tooltip="Four pictures of each object on white: front, its own left, back, "
                    "its own right. For Reconstruct Gaussians.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, prompt, negative_prompt, model, if_missing, seed, steps, guidance, elevation, cut_out,
        image=None, mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        if image is None and not prompt.strip():
            raise ValueError("A prompt or a picture is needed, got neither: write or connect one.")
        managed_pipeline()  # says what is not installed, before a download of gigabytes
        pictures, masks = (None, None) if image is None else pictures_and_masks(image, mask)
        progress = host.Progress(steps)
        made = views_from(
            lambda: pipeline_of(model_folder(cls, model, if_missing, image is not None)),
            prompt,
            pictures,
            masks,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance=guidance or None,
            elevation=elevation,
            seed=seed,
            matte=cut_out,
            on_step=lambda step, total, guess: progress.step(preview_of(guess[0])),
        )
        kind = "MVDream" if image is None else "ImageDream"
        precision = str(made.dtype).removeprefix("torch.")
        news = [f"{kind}, {precision} on {host.management.get_torch_device()}"]
        if made.unread:
            news.append(f"too long, this end is ignored: {made.unread}")
        if made.kept:
            news.append(kept_backgrounds(made.kept))
        host.say(cls, "; ".join(news))
        return io.NodeOutput(host.outgoing(image_from_pictures(made.views.flatten(0, 1))))


def pictures_and_masks(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Pictures [N, 4, H, W] and masks [N, 1, H, W] from an IMAGE and a MASK."""
    pictures = with_alpha(pictures_from_image(image)).cpu()
    if mask is None:
        return pictures, None
    return pictures, object_mask(fit_mask(mask.cpu(), len(pictures), *pictures.shape[-2:]))


def preview_of(latents: Tensor) -> Tensor:
    """[3, SHEET, SHEET], front and left above back and right, from the guess [4, 4, h, w]."""
    from comfy.latent_formats import SD15  # not in the tests' stand-in

    small = contact_sheet(rough_views(SD15(), latents.float()), columns=2)
    return F.interpolate(small[None], size=(SHEET, SHEET), mode="bilinear")[0]


def places() -> list[Path]:
    """ComfyUI's folders for such models; the first gets the downloads."""
    default = Path(folder_paths.models_dir) / DIFFUSERS
    return [Path(place) for place in folder_paths.get_folder_paths(DIFFUSERS)] or [default]


def model_names() -> list[str]:
    """The releases, here or not, and what else is here."""
    released = [release.folder for release in RELEASES.values()]
    others = [name for name in available_folders(places()) if name not in released]
    return [AUTO, *released, *others]


def model_folder(node: type, model: str, if_missing: str, with_image: bool) -> Path:
    """The folder of the model, which is fetched if it is missing and the user wants that.

    Raises:
        ValueError: it is missing, or takes a picture where there is none, or the other way round.
    """
    try:
        return find_multiview(None if model == AUTO else model, with_image, places())
    except ReleaseMissingError as missing:
        if if_missing != DOWNLOAD:
            raise ValueError(f"Choose 'download' in if_missing to fetch it: {missing}") from missing
        release = RELEASES[missing.name]
        what = f"{release.title}, {release.gigabytes:g} GB"
        return fetch(node, missing.name, what, places()[0])


def pipeline_of(folder: Path) -> MultiViewPipeline:
    """The pipeline in a folder; the last one stays in memory, beside the graphics card."""
    device = host.management.get_torch_device()
    dtype = torch.float16 if host.management.should_use_fp16(device) else torch.float32
    newest = max(path.stat().st_mtime_ns for path in folder.glob("*/*.safetensors"))
    key = (folder, newest, dtype, device)
    if key not in _kept:
        _kept.clear()  # before loading, or both would be in memory
        pipeline = managed_pipeline().from_pretrained(folder, dtype)
        pipeline.set_progress_bar_config(disable=True)
        if device.type != "cpu":
            pipeline.enable_model_cpu_offload(device=device)
        _kept[key] = pipeline
    return _kept[key]


@functools.cache
def managed_pipeline() -> type[MultiViewPipeline]:
    """The library's pipeline, asking ComfyUI for room before a component needs it.

    Raises:
        RuntimeError: diffusers or transformers is not installed.
    """
    from ..lgm.multiview import MultiViewPipeline  # needs diffusers

    class ManagedPipeline(MultiViewPipeline):
        @contextmanager
        def on_device(self, name: str) -> Iterator:
            host.check_cancelled()
            weights = sum(t.nbytes for t in getattr(self, name).state_dict().values())
            host.management.free_memory(weights + WORKING_BYTES, self._execution_device)
            with super().on_device(name) as component:
                yield component

    return ManagedPipeline
