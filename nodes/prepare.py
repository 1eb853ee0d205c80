"""Pictures cut out, centered and put on white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lgm.pictures import matte, resample
from .border import host
from .border.pictures import (
    fit_mask,
    image_from_pictures,
    object_mask,
    on_color,
    pictures_from_image,
    with_alpha,
)

AUTO_ELSE_NONE = "auto, else none"
CUT_OUTS = ("auto", "mask", "alpha", "flat background", "rembg", "none", AUTO_ELSE_NONE)
CENTERINGS = ("each picture", "views together", "off")
MASK_MEANINGS = ("auto", "object", "background")


class PrepareImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_PrepareImage",
            display_name="Prepare Image",
            category=host.CATEGORY,
            description="Cuts objects out, centers them and puts them on white, the way LGM's "
            "training pictures look.",
            search_aliases=["remove background", "recenter", "cut out", "matte", "rembg"],
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What is object: of Remove Background, Load Image or the mask editor.",
                ),
                io.Combo.Input(
                    "cut_out",
                    options=list(CUT_OUTS),
                    default="auto",
                    tooltip="'auto': the mask if connected, else the picture's alpha, else an even "
                    "background is taken away, else rembg if that and its network are here. "
                    "'rembg' asks a neural network: an optional package that loads its file from "
                    "the internet the first time. 'none' keeps all. 'auto, else none' keeps what "
                    "'auto' can't tell, instead of stopping.",
                ),
                io.Combo.Input(
                    "mask_shows",
                    options=list(MASK_MEANINGS),
                    default="auto",
                    advanced=True,
                    tooltip="Load Image's mask marks the transparent background, Remove "
                    "Background's the object. 'auto' takes what touches the picture's border for "
                    "background.",
                ),
                io.Combo.Input(
                    "center",
                    options=list(CENTERINGS),
                    default=CENTERINGS[0],
                    tooltip="'each picture': every object fills its picture. 'views together': "
                    "for photos of one object from several sides, which all get the same height. "
                    "'off': pictures of known cameras stay where they are.",
                ),
                io.Float.Input(
                    "border_ratio",
                    default=resample.BORDER_RATIO,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    tooltip="Part of the picture that stays free around the object. LGM was "
                    "trained with 0.2; less cuts corners off, more wastes detail.",
                ),
                io.Color.Input(
                    "background",
                    default="#ffffff",
                    tooltip="Color behind the object. LGM wants white.",
                ),
                io.Int.Input(
                    "size",
                    default=256,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Side of the square result in pixels. LGM reads 256; take more for "
                    "steps in between, such as an upscaler.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="Square, on the background."),
                io.Mask.Output(display_name="mask", tooltip="1 where the object is."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, image, cut_out, mask_shows, center, border_ratio, background, size, mask=None
    ) -> io.NodeOutput:
        pictures = pictures_from_image(image).cpu()
        rgba = with_alpha(pictures)
        if mask is not None:
            mask = object_mask(fit_mask(mask.cpu(), len(rgba), *rgba.shape[-2:]), mask_shows)
        progress, cut, ways = host.Progress(len(rgba)), [], []
        for number, picture in enumerate(rgba):
            matted, way = cut_picture(picture, None if mask is None else mask[number], cut_out)
            cut.append(matted)
            ways.append(way)
            progress.step(resample.composite_on_white(matted))
        host.say(cls, summary(ways))
        cut = arrange(torch.stack(cut), center, border_ratio, size)
        image = image_from_pictures(on_color(cut, background))
        return io.NodeOutput(host.outgoing(image), host.outgoing(cut[:, 3]))


def cut_picture(rgba: Tensor, mask: Tensor | None, method: Any) -> tuple[Tensor, matte.Way]:
    """[4, H, W] with the background transparent, and what told it."""
    if method != AUTO_ELSE_NONE:
        return matte.cut_out(rgba, method, mask)
    try:
        return matte.cut_out(rgba, "auto", mask, otherwise="keep")
    except matte.NoObjectError:
        return rgba, "none"


def summary(ways: Sequence[str]) -> str:
    """One line about all pictures: how they were cut out."""
    cut, kept = sorted({*ways} - {"none"}), ways.count("none")
    parts = [f"cut out by {', '.join(cut)}"] if cut else []
    return "; ".join([*parts, f"{kept} kept whole"] if kept else parts)


def arrange(rgba: Tensor, center: str, border_ratio: float, size: int) -> Tensor:
    """[N, 4, size, size] with the objects centered; a picture that is all object has no border to
    gain."""
    if center == "views together" and (rgba[:, 3] < 1).any():
        rgba = resample.recenter_together(rgba, border_ratio)
    elif center == "each picture":
        rgba = torch.stack([resample.framed(picture, border_ratio) for picture in rgba])
    return torch.stack([resample.square(picture, size) for picture in rgba])
