"""Pictures cut out, centered and put on white."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lgm.pictures import matte
from ..lgm.pictures import resample as preprocess
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
                    "background is taken away. 'rembg' asks a neural network: an optional package "
                    "that loads its file from the internet the first time. 'none' keeps all. "
                    "'auto, else none' keeps what 'auto' can't tell, instead of stopping.",
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
                    default=0.2,
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
            progress.step(preprocess.composite_on_white(matted))
        host.say(cls, told(ways))
        cut = arrange(torch.stack(cut), center, border_ratio, size)
        image = image_from_pictures(on_color(cut, background))
        return io.NodeOutput(host.outgoing(image), host.outgoing(cut[:, 3]))


def cut_picture(rgba: Tensor, mask: Tensor | None, method: str) -> tuple[Tensor, str]:
    """[4, H, W] with the background transparent, and what told it; `none` where nothing was asked
    or could.

    Raises:
        ValueError: the way asked for can't tell.
        RuntimeError: rembg is asked for and not there.
    """
    if method == AUTO_ELSE_NONE:
        try:
            return cut_picture(rgba, mask, "auto")
        except ValueError:
            return rgba, "none"
    if method == "auto":
        known = "alpha" if preprocess.has_alpha(rgba) else "flat background"
        method = known if mask is None else "mask"
    if method == "mask":
        if mask is None:
            raise ValueError("Cutting out by mask needs a mask with something in it: connect one.")
        return torch.cat([rgba[:3], rgba[3:] * mask]), method
    if method == "alpha":
        if not preprocess.has_alpha(rgba):
            raise ValueError(
                "Cutting out by alpha needs a picture with four channels: Load Image gives its "
                "alpha as a mask, connect that and choose 'mask'."
            )
        return rgba, method
    if method == "flat background":
        keyed = matte.key_flat_background(rgba[:3])
        if keyed is None and matte.flat_background_color(rgba[:3]) is not None:
            raise ValueError(
                "The picture needs an object, but shows nothing in front of its even background: "
                "give one that shows more, or choose 'none' in cut_out."
            )
        if keyed is None:
            raise ValueError(
                "A mask, alpha or an even background is needed to tell the object, but the "
                "picture's border shows several colors: connect a mask (Remove Background), or "
                "choose rembg or 'none' in cut_out."
            )
        return keyed, method
    return matte.cut_out(rgba, "rembg" if method == "rembg" else "none"), method


def told(ways: Sequence[str]) -> str:
    """What is said of pictures, each cut out in its way."""
    cut, whole = sorted({*ways} - {"none"}), ways.count("none")
    parts = [f"cut out by {', '.join(cut)}"] if cut else []
    return "; ".join([*parts, f"{whole} kept whole"] if whole else parts)


def arrange(rgba: Tensor, center: str, border_ratio: float, size: int) -> Tensor:
    """[N, 4, size, size] with the objects centered; a picture that is all object has no border to
    gain."""
    if center == "views together" and (rgba[:, 3] < 1).any():
        rgba = preprocess.recenter_together(rgba, border_ratio)
    elif center == "each picture":
        rgba = torch.stack(
            [
                preprocess.recenter(picture, border_ratio)
                if preprocess.has_alpha(picture)
                else picture
                for picture in rgba
            ]
        )
    return torch.stack([preprocess.square(picture, size) for picture in rgba])
