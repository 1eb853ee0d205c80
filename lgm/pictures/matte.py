"""Cutting objects out of their background: where a picture shows the object."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .load import PICTURE_SIDE, load_image
from .resample import (
    BORDER_RATIO,
    composite_on_white,
    framed,
    has_alpha,
    resize_rgba,
    shows_object,
    square,
)
from .views import VIEW_CAPTIONS

log = logging.getLogger(__name__)

Matte = Literal["auto", "none", "rembg"]
Way = Literal["mask", "alpha", "flat background", "rembg", "none"]


class NoObjectError(ValueError):
    """A picture in which everything is background."""


def cut_out(
    rgba: Tensor,
    method: Matte | Way = "auto",
    mask: Tensor | None = None,
    otherwise: Literal["keep", "refuse"] = "refuse",
) -> tuple[Tensor, Way]:
    """The picture with its background transparent, and how the background was told.

    Args:
        rgba: [4, H, W], straight color.
        method: `auto` takes the mask, else an alpha channel that says anything, else removes a flat
            background, else asks rembg if that and its network are on this machine. `none` keeps
            the picture as it is; `rembg` may load its network from the internet.
        mask: [1, H, W], 1 where the object is; replaces the alpha.
        otherwise: what `auto` does where nothing tells object from background: `keep` the picture,
            which is then cut out by "none", or `refuse` it.

    Raises:
        NoObjectError: everything in front of a flat background, or all that rembg sees, is nothing.
        ValueError: the way asked for can't tell, or `auto` can't and refuses.
        RuntimeError: rembg is asked for, but it or its network can't be had.
    """
    way = _best_way(rgba, mask) if method == "auto" else method
    if way is None and otherwise == "keep":
        return rgba, "none"
    if way == "none":
        return rgba, way
    if way == "mask":
        if mask is None:
            raise ValueError("Cutting out by mask needs a mask with something in it: connect one.")
        return torch.cat([rgba[:3], mask]), way
    if way == "alpha":
        if not has_alpha(rgba):
            raise ValueError(
                "Cutting out by alpha needs a picture with four channels: Load Image gives its "
                "alpha as a mask, connect that and choose 'mask'."
            )
        return rgba, way
    if way == "rembg":
        cut = torch.cat([rgba[:3], rembg_alpha(composite_on_white(rgba))])
    elif way is None or flat_background_color(rgba[:3]) is None:
        raise ValueError(
            "A mask, alpha or an even background is needed to tell the object, but the picture's "
            "border shows several colors: give one of these (in ComfyUI, connect a mask of Remove "
            "Background), or choose rembg or 'none'."
        )
    else:
        cut = key_flat_background(rgba[:3])
    if cut is None or not shows_object(cut):
        raise NoObjectError(
            "The picture needs an object, but shows nothing in front of its background: give one "
            "that shows more, or choose 'none' to keep it as it is."
        )
    return cut, way


def _best_way(rgba: Tensor, mask: Tensor | None) -> Way | None:
    """How `auto` tells the object; None where nothing can."""
    if mask is not None:
        return "mask"
    if has_alpha(rgba):
        return "alpha"
    if flat_background_color(rgba[:3]) is not None:
        return "flat background"
    return "rembg" if rembg_is_ready() else None


def object_picture(
    rgba: Tensor,
    mask: Tensor | None = None,
    matte: Matte = "auto",
    border_ratio: float = BORDER_RATIO,
) -> Tensor:
    """The object of a picture as ImageDream wants it: cut out, in the middle, on white.

    Args:
        rgba: [4, H, W].
        mask: [1, H, W], 1 where the object is; wins over all else.
        matte: as `cut_out`'s method.

    Returns:
        [3, S, S].

    Raises:
        ValueError: nothing but background, or a background that nothing here can tell.
    """
    if mask is not None:
        rgba = torch.cat([rgba[:3], mask])
    rgba = _of_moderate_size(rgba)
    if mask is None:
        # An alpha channel that is there says what to show, also where nothing is to be cut out.
        rgba, _ = cut_out(rgba, matte)
    if not shows_object(rgba):
        raise NoObjectError(
            "The picture needs an object, but its mask or alpha leaves nothing: check the mask, or "
            "turn it around."
        )
    rgba = framed(rgba, border_ratio)
    return composite_on_white(square(rgba, max(rgba.shape[-2:])))


def object_pictures(rgba: Tensor, mask: Tensor | None = None, matte: Matte = "auto") -> Tensor:
    """[N, 3, S, S] by `object_picture` from pictures [N, 4, H, W] and masks [N, 1, H, W]."""
    masks = [None] * len(rgba) if mask is None else mask
    return torch.stack([object_picture(*pair, matte) for pair in zip(rgba, masks, strict=True)])


def views_on_white(
    views: Tensor, matte: Matte = "auto", border_ratio: float = BORDER_RATIO
) -> tuple[Tensor, int]:
    """MVDream's views as LGM wants them: each cut out of its grayish background, in the middle, on
    white. ImageDream, which saw a white background, needs none of this.

    As in the original, except that the object is where alpha is above 0: there it is where the red
    of the picture that rembg cut out is, which differs for colors without any red.

    Args:
        views: [4, 3, S, S].
        matte: as `cut_out`'s method; `auto` keeps what it can't tell.

    Returns:
        [4, 3, S, S], and how many of them keep a background that should have been removed.

    Raises:
        NoObjectError: a view that is nothing but background.
    """
    if matte == "none":
        return views, 0
    on_white, kept = views.cpu().clone(), 0
    for number, (view, caption) in enumerate(zip(on_white, VIEW_CAPTIONS, strict=True)):
        opaque = torch.cat([view, torch.ones_like(view[:1])])
        try:
            rgba, way = cut_out(opaque, matte, otherwise="keep")
        except NoObjectError as error:
            raise NoObjectError(
                f"Every view needs the object, but the one at {caption}, shows nothing but "
                "background: try another seed or prompt, or keep the backgrounds with 'none'."
            ) from error
        if way == "none":
            kept += 1
        else:
            on_white[number] = composite_on_white(framed(rgba, border_ratio))
    return on_white.to(views.device), kept


def kept_backgrounds(kept: int, remedy: str = "try another seed") -> str:
    """What is to be said of `kept` views whose background couldn't be removed."""
    return (
        f"{kept} of 4 views keep their background, which is not even: rembg could remove it, or "
        f"{remedy}"
    )


def check_matte(matte: Matte) -> None:
    """Raise now what rembg would raise after minutes of other work.

    Raises:
        RuntimeError: it is asked for, but it or its network can't be had.
    """
    if matte == "rembg":
        rembg_alpha(torch.ones(3, 16, 16))


def _of_moderate_size(rgba: Tensor) -> Tensor:
    """ImageDream sees 256 pixels; cutting out takes long on the millions of a photo."""
    height, width = rgba.shape[-2:]
    factor = max(height, width) // PICTURE_SIDE
    return resize_rgba(rgba, height // factor, width // factor) if factor > 1 else rgba


def rembg_is_ready() -> bool:
    """Whether rembg can work without loading anything from the internet."""
    network = Path.home() / ".rembg" / "models" / REMBG_MODEL / f"{REMBG_MODEL}.onnx"
    return importlib.util.find_spec("rembg") is not None and network.is_file()


EXACT = 0.6 / 255  # less than one step of an 8-bit picture
REMBG_MODEL = "u2net"


def flat_background_color(image: Tensor, tolerance: float = 0.06) -> Tensor | None:
    """RGB [3] of a background all of one color, told from the border of [3, H, W]; else None."""
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    color = border.median(dim=1).values
    same = (border - color[:, None]).abs().amax(0) <= tolerance
    return color if same.float().mean() >= 0.8 else None  # the object may touch the border


def key_flat_background(image: Tensor, tolerance: float = 0.06) -> Tensor | None:
    """[4, H, W] with the flat background made transparent.

    Background is what has the border's color and is connected to the border, so parts of the
    object in that color survive. In a picture without noise, as renderers make them, enclosed
    pixels of exactly that color are background, too: a handle's hole is far more common there than
    a surface that is lit to exactly the background's value. Pixels along the outline are mixtures:
    their object color is taken from just inside, and their alpha is how far they lie from
    background to object color.

    Args:
        image: [3, H, W].
        tolerance: largest channel difference that still counts as background (JPEG noise).

    Returns:
        None when the background isn't flat, or nothing but background is there.
    """
    background = flat_background_color(image, tolerance)
    if background is None:
        return None
    offset = (image - background[:, None, None]).numpy()
    labels, _ = ndimage.label(np.abs(offset).max(0) <= tolerance)
    touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    outside = np.isin(labels, touching[touching > 0])
    rim = np.concatenate([offset[:, 0], offset[:, -1], offset[:, :, 0], offset[:, :, -1]], axis=1)
    if (np.abs(rim).max(0) < EXACT).mean() > 0.9:
        outside |= np.abs(offset).max(0) < EXACT
    if outside.mean() > 0.999:
        return None

    inside = ~ndimage.binary_dilation(outside, iterations=2)  # sure to be unmixed
    if not inside.any():
        inside = ~outside
    distance, nearest = ndimage.distance_transform_edt(~inside, return_indices=True)
    outline = (distance > 0) & (distance <= 4)  # thin parts have no unmixed core: stay as they are
    object_offset = offset[:, nearest[0], nearest[1]]
    mixture = (offset * object_offset).sum(0) / np.maximum((object_offset**2).sum(0), 1e-3)
    alpha = np.where(outline, mixture.clip(0, 1), ~outside)
    color = np.where(outline & (alpha < 1), object_offset, offset)
    straight = torch.from_numpy(color.astype(np.float32)) + background[:, None, None]
    return torch.cat([straight, torch.from_numpy(alpha.astype(np.float32))[None]]).clamp(0, 1)


def rembg_alpha(image: Tensor) -> Tensor:
    """Coverage [1, H, W] of the object in [3, H, W] by the optional `rembg` package."""
    try:
        import rembg
    except ImportError as error:
        raise RuntimeError(
            f"Removing this background needs the rembg package ({error}): "
            'pip install "rembg[cpu]", or give pictures with alpha or on a flat background.'
        ) from error
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    try:
        session = rembg.new_session(REMBG_MODEL)
    except OSError as error:  # requests' connection errors are OSErrors
        raise RuntimeError(
            f"rembg could not fetch its network {REMBG_MODEL}.onnx ({error}): put that file into "
            f"{Path.home() / '.rembg' / 'models' / REMBG_MODEL}, or give pictures with alpha."
        ) from error
    mask = rembg.remove(pixels, session=session, only_mask=True)
    return torch.from_numpy(np.array(mask, dtype=np.float32) / 255).reshape(1, *image.shape[1:])


def load_views(paths: Sequence[str | Path], size: int, matte: Matte = "auto") -> Tensor:
    """Posed pictures of one object, ready for `LGM.reconstruct`.

    They are squared and resized, each around its own center, and never recentered: where the
    object stands in the picture is part of what its camera says. Backgrounds that `cut_out` can't
    tell are kept, with a warning.

    Returns:
        [V, 4, size, size], or [V, 3, size, size] on white when the outline of some view is
        unknown (no alpha, no flat background).

    Raises:
        ValueError: what `load_image` refuses, or nothing but one color in all of them.
    """
    pictures, kept = [], 0
    for path in paths:
        picture = load_image(path, longest=2 * size)
        try:
            picture, way = cut_out(picture, matte, otherwise="keep")
            kept += way == "none" and matte != "none"
        except NoObjectError:  # a thin object that is seen from its edge
            pass
        pictures.append(picture)
    if all(torch.equal(picture, picture[:, :1, :1].expand_as(picture)) for picture in pictures):
        raise ValueError(f"{paths[0]} and the other views show one even color: no object to see.")
    if kept:
        log.warning("%s.", kept_backgrounds(kept, "give pictures with alpha"))
    views = torch.stack([square(picture, size) for picture in pictures])
    outlines_known = all(map(has_alpha, pictures))
    return views if outlines_known else composite_on_white(views)
