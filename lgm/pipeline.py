"""The whole way, one readable function per task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cameras import input_poses
from .gaussians import Gaussians
from .multiview.sampling import STEPS, OnStep
from .network.presets import ROUNDS
from .pictures.matte import Matte, check_matte, load_views, object_pictures, views_on_white

if TYPE_CHECKING:
    from .multiview import MultiViewPipeline
    from .network.model import LGM

NEGATIVE_PROMPT = (
    "ugly, blurry, pixelated obscure, unnatural colors, poor lighting, dull, unclear, cropped, "
    "lowres, low quality, artifacts, duplicate"
)
"""What the official demo keeps away from."""


@dataclass(frozen=True)
class GeneratedViews:
    views: Tensor  # [N, 4, 3, S, S], 0..1, ready for `LGM.reconstruct`
    dtype: torch.dtype  # of the multi-view model
    unread: str  # the prompt's end, if it is too long; the log says so, too
    kept: int  # views that keep a background, since nothing could tell it


def views_from(
    load: Callable[[], MultiViewPipeline],
    prompt: str = "",
    pictures: Tensor | None = None,
    masks: Tensor | None = None,
    *,
    negative_prompt: str = NEGATIVE_PROMPT,
    steps: int = STEPS,
    guidance: float | None = None,
    elevation: float = 0.0,
    seed: int | None = None,
    matte: Matte = "auto",
    on_step: OnStep | None = None,
    stage: Callable[[str], AbstractContextManager] = nullcontext,
) -> GeneratedViews:
    """Four views of each object: of every picture by ImageDream, or of the prompt by MVDream.

    Args:
        load: gives the multi-view model. Called when the pictures are cut out, so that a bad one is
            refused before gigabytes are loaded.
        prompt: what to make, or a word on the pictures.
        pictures: [N, 4, H, W], each an object from its front; cut out and centered here.
        masks: [N, 1, H, W], 1 where the objects are; win over alpha and `matte`.
        negative_prompt: what to stay away from.
        guidance: how strongly to follow the prompt or picture; default the model's own.
        elevation: of the views' cameras, degrees above the horizon.
        matte: how the pictures are cut out, or the views that a prompt alone makes, whose
            background is grayish; see `lgm.pictures.matte.cut_out`.
        on_step: see `lgm.multiview.sampling`.
        stage: a context for each part of the work, given its name.
    """
    objects = None
    if pictures is None:
        check_matte(matte)
    else:
        with stage("cut out the object"):
            objects = object_pictures(pictures, masks, matte)
    with stage("load the multi-view model"):
        multiview = load()
    with stage("make four views"):
        output = multiview(
            prompt,
            objects,
            negative_prompt=negative_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
            elevation=elevation,
            seed=seed,
            on_step=on_step,
        )
    views, kept = output.views, 0
    if objects is None:
        with stage("cut out the views"):
            on_white, kept = views_on_white(views[0], matte)
        views = on_white[None]
    return GeneratedViews(views, multiview.dtype, output.cut[0], kept)


def reconstruct_files(
    model: LGM,
    paths: Sequence[str | Path],
    elevation: float = 0.0,
    matte: Matte = "auto",
    fit: int = 0,
    rounds: int = ROUNDS,
) -> Gaussians:
    """Gaussians of the object in four pictures at azimuth 0, 90, 180, 270.

    Args:
        elevation: degrees above the horizon the pictures were taken from.
        fit: steps that fit the Gaussians to the pictures, see `LGM.fit`.
        rounds: of the corrector, see `LGM.reconstruct`.
    """
    views = load_views(paths, model.preset.input_size, matte)
    poses = input_poses(elevation)
    gaussians = model.reconstruct(views, poses, rounds=rounds)
    return model.fit(gaussians, views, poses, steps=fit)
