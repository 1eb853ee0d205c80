"""From picture files to what the network wants: decode, cut out, recenter, square, on white.

Pictures are float32 [4, H, W] tensors, straight sRGB color plus alpha, all 0..1.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor

MAX_SIDE = 20_000  # pixels; a picture this large takes 1.6 GB before anything is done with it
STILL_FORMATS = {"MPO", "PSD"}  # extra frames of these are previews, gain maps or layers

# What Pillow's decoders raise on damaged files, beside OSError.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)

EXACT = 0.6 / 255  # less than one step of an 8-bit picture
MATTE_NOISE = 0.05  # alpha; what networks that cut out objects leave of an empty background

Matte = Literal["auto", "none", "rembg"]


def load_image(path: str | Path, longest: int | None = None) -> Tensor:
    """The picture in a file, upright, as [4, H, W]; without an alpha channel it is opaque.

    Args:
        longest: larger pictures are averaged down by a whole factor, to at least this many pixels
            on the longer side; saves memory on very large ones.

    Raises:
        ValueError: no such file, not a picture, damaged, animated, 1 pixel wide or high, fully
            transparent, or larger than MAX_SIDE.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no news to the user
            with _open(path) as image:
                _check_size(image, path)
                _check_still(image, path)
                rgba = _to_rgba(image, longest)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: give a picture file.") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that can be read: give a PNG or JPEG.") from None
    except DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.strerror:  # of the file system, not of a decoder
            raise ValueError(
                f"{path} can't be read ({error.strerror}): check the file and its rights."
            ) from error
        raise ValueError(f"{path} is damaged or cut short ({error}): save it again.") from error
    if rgba[3].max() == 0:
        raise ValueError(f"{path} is fully transparent, so there is no object in it.")
    return rgba


class _Refused(Exception):
    """A picture that decodes but cannot be used; the message is the whole sentence."""


def _open(path: Path) -> Image.Image:
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, path: Path) -> None:
    if min(image.size) < 2 or max(image.size) > MAX_SIDE:
        raise _Refused(
            f"{path} needs sides of 2 to {MAX_SIDE} pixels, but is "
            f"{image.width} x {image.height}: give a picture of about 512 x 512."
        )


def _check_still(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in STILL_FORMATS:
        raise _Refused(f"{path} needs to be one picture, but holds {frames} frames: save one.")


def _to_rgba(image: Image.Image, longest: int | None) -> Tensor:
    image.load()
    image = ImageOps.exif_transpose(image)
    factor = max(1, max(image.size) // longest) if longest else 1
    if image.mode[0] in "IF":  # Pillow's own conversion of deep gray clips at 255
        gray = torch.from_numpy(_deep_gray(image))[None]
        gray = F.avg_pool2d(gray, factor, ceil_mode=True)
        return torch.cat([gray, gray, gray, torch.ones_like(gray)])
    image = image.convert("RGBA")
    if factor > 1:
        image = image.reduce(factor)  # weights colors by alpha
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).float().div_(255)


def _deep_gray(image: Image.Image) -> np.ndarray:
    """[H, W] float32 0..1 from 16-bit, 32-bit or float gray."""
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite pixels")
    if image.mode == "F":
        full = 1 if values.max() <= 1 else 255
    else:  # 16-bit files arrive in mode "I" too, depending on format and Pillow's version
        full = 65535 if values.max() <= 65535 else 2**31 - 1
    return values.clip(0, full) / full


def has_alpha(rgba: Tensor) -> bool:
    """Whether the alpha channel says anything."""
    return bool((rgba[3] < 1).any())


def composite_on_white(rgba: Tensor) -> Tensor:
    """[..., 3, H, W] on white, from straight color and alpha [..., 4, H, W]."""
    color, alpha = rgba.split((3, 1), dim=-3)
    return color * alpha + (1 - alpha)


# Resampling ---------------------------------------------------------------------------------


def resize_area(x: Tensor, height: int, width: int) -> Tensor:
    """[..., H, W] resampled as OpenCV's INTER_AREA does, the filter LGM's pictures went through.

    Smaller: the exact mean over each new pixel's footprint. Larger in either direction: a linear
    filter that keeps the old pixels as flat areas.
    """
    if (height, width) == tuple(x.shape[-2:]):
        return x
    shrinks = height <= x.shape[-2] and width <= x.shape[-1]
    axis = _mean_last_axis if shrinks else _enlarge_last_axis
    rows = axis(x.double().transpose(-1, -2), height).transpose(-1, -2)
    return axis(rows, width).to(x.dtype)


def _mean_last_axis(x: Tensor, size: int) -> Tensor:
    """Mean over `size` equal stretches, from differences of the running sum."""
    total = F.pad(x.cumsum(-1), (1, 0))
    edges = torch.arange(size + 1, dtype=x.dtype) * (x.shape[-1] / size)
    left = edges.long().clamp(max=x.shape[-1] - 1)
    at_edges = total[..., left] + x[..., left] * (edges - left)
    return at_edges.diff(dim=-1) * (size / x.shape[-1])


def _enlarge_last_axis(x: Tensor, size: int) -> Tensor:
    step = x.shape[-1] / size
    target = torch.arange(size, dtype=x.dtype)
    left = (target * step).floor()
    weight = (target + 1) - (left + 1) / step
    weight = torch.where(weight <= 0, 0.0, weight - weight.floor())
    left = left.long().clamp(max=x.shape[-1] - 1)
    right = (left + 1).clamp(max=x.shape[-1] - 1)
    return x[..., left] * (1 - weight) + x[..., right] * weight


def resize_rgba(rgba: Tensor, height: int, width: int) -> Tensor:
    """[4, H, W] resampled with colors weighted by alpha, so hidden colors don't bleed in."""
    color, alpha = rgba.split((3, 1))
    resized = resize_area(torch.cat([color * alpha, alpha]), height, width)
    color, alpha = resized.split((3, 1))
    return torch.cat([color / alpha.clamp(min=1e-6), alpha]).clamp(0, 1)


def square(rgba: Tensor, size: int) -> Tensor:
    """[4, size, size]: padded with transparency around the center, then resampled."""
    height, width = rgba.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = rgba.new_zeros(4, side, side)
    padded[:, top : top + height, left : left + width] = rgba
    return resize_rgba(padded, size, size)


def recenter(rgba: Tensor, border_ratio: float = 0.2) -> Tensor:
    """The object moved to the middle of a square, with a border, as the official LGM does.

    Args:
        rgba: [4, H, W]; the object is where alpha is above 0. All four channels are resampled as
            they are (not weighted by alpha), and the box's last row and column are left out: both
            as in the original, whose training never saw anything else.
        border_ratio: part of the side that stays free.

    Returns:
        [4, S, S] with S = max(H, W).

    Raises:
        ValueError: no object.
    """
    rows = (rgba[3] > 0).any(1).nonzero()
    columns = (rgba[3] > 0).any(0).nonzero()
    if len(rows) < 2 or len(columns) < 2:
        raise ValueError(
            "The mask is empty, so there is no object to center: check the background removal."
        )
    top, bottom = int(rows[0]), int(rows[-1])
    left, right = int(columns[0]), int(columns[-1])
    side = max(rgba.shape[-2:])
    scale = int(side * (1 - border_ratio)) / max(bottom - top, right - left)
    height = max(1, int((bottom - top) * scale))
    width = max(1, int((right - left) * scale))
    y, x = (side - height) // 2, (side - width) // 2
    result = rgba.new_zeros(4, side, side)
    result[:, y : y + height, x : x + width] = resize_area(
        rgba[:, top:bottom, left:right], height, width
    )
    return result


def recenter_together(rgba: Tensor, border_ratio: float = 0.2) -> Tensor:
    """Pictures of one object from several sides, scaled so that its height is the same in all, and
    moved to the middle.

    Cameras at one height see an object equally high, and a car wider from the side than from the
    front: `recenter`, which fills the square with each picture, would show the front of the car
    larger, and so four objects of different sizes. Here the largest height or width of any picture
    fills what the border leaves. The object is where alpha is above MATTE_NOISE.

    Args:
        rgba: [V, 4, H, W], straight color, on any device.
        border_ratio: part of the side that stays free, 0 to below 1.

    Returns:
        [V, 4, S, S] with S = max(H, W), transparent outside the objects' boxes.

    Raises:
        ValueError: another shape or ratio, or a picture without an object.
    """
    if rgba.ndim != 4 or rgba.shape[1] != 4:
        raise ValueError(
            f"Recentering needs pictures [V, 4, H, W] with alpha, got {list(rgba.shape)}."
        )
    if not 0 <= border_ratio < 1:
        raise ValueError(f"A border needs a ratio from 0 to below 1, got {border_ratio}.")
    boxes = [_object_box(picture, index) for index, picture in enumerate(rgba.float().cpu())]
    side = max(rgba.shape[-2:])
    # In heights of the object, which is the unit that the pictures share.
    widest = max([1.0, *(box.shape[2] / box.shape[1] for box in boxes)])
    height = side * (1 - border_ratio) / widest
    result = torch.zeros(len(boxes), 4, side, side)
    for square_, box in zip(result, boxes, strict=True):
        rows, columns = (
            max(1, min(side, round(length * height / box.shape[1]))) for length in box.shape[1:]
        )
        y, x = (side - rows) // 2, (side - columns) // 2
        square_[:, y : y + rows, x : x + columns] = resize_rgba(box, rows, columns)
    return result.to(rgba)


def _object_box(rgba: Tensor, index: int) -> Tensor:
    """The part of [4, H, W] that the object fills."""
    solid = rgba[3] > MATTE_NOISE
    if not solid.any():
        raise ValueError(
            f"Picture {index + 1} shows no object (alpha is {rgba[3].max():.2f} at most, needed is "
            f"more than {MATTE_NOISE}): check its mask or the background removal."
        )
    rows, columns = solid.any(1).nonzero()[:, 0], solid.any(0).nonzero()[:, 0]
    return rgba[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


# Cutting out ----------------------------------------------------------------------------------


def cut_out(rgba: Tensor, method: Matte = "auto") -> Tensor:
    """[4, H, W] with the background transparent, as far as it can be told.

    Args:
        method: `auto` keeps an alpha that is there, else removes a flat background; `none` leaves
            the picture alone; `rembg` asks that package's network, whatever the alpha is.
    """
    if method == "rembg":
        return torch.cat([rgba[:3], rembg_alpha(composite_on_white(rgba))])
    if method == "none" or has_alpha(rgba):
        return rgba
    keyed = key_flat_background(rgba[:3])
    return rgba if keyed is None else keyed


def flat_background_color(image: Tensor, tolerance: float = 0.06) -> Tensor | None:
    """RGB [3] of a background all of one color, told from the border of [3, H, W]; else None."""
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    color = border.median(dim=1).values
    same = (border - color[:, None]).abs().amax(0) <= tolerance
    return color if same.float().mean() >= 0.8 else None  # the object may touch the border


def flat_background_alpha(image: Tensor, tolerance: float = 0.06) -> Tensor | None:
    """Coverage [1, H, W] of the object in front of a flat background, else None; see below."""
    keyed = key_flat_background(image, tolerance)
    return None if keyed is None else keyed[3:]


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


def rembg_alpha(image: Tensor, model: str = "u2net") -> Tensor:
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
        session = rembg.new_session(model)
    except OSError as error:  # requests' connection errors are OSErrors
        raise RuntimeError(
            f"rembg could not fetch its network {model}.onnx ({error}): put that file into "
            f"{Path.home() / '.rembg' / 'models' / model}, or give pictures with alpha."
        ) from error
    mask = rembg.remove(pixels, session=session, only_mask=True)
    return torch.from_numpy(np.array(mask, dtype=np.float32) / 255).reshape(1, *image.shape[1:])


# Views ----------------------------------------------------------------------------------------


def load_views(paths: Sequence[str | Path], size: int, matte: Matte = "auto") -> Tensor:
    """Posed pictures of one object, ready for `LGM.reconstruct`.

    They are squared and resized, each around its own center, and never recentered: where the
    object stands in the picture is part of what its camera says.

    Returns:
        [V, 4, size, size], or [V, 3, size, size] on white when the outline of some view is
        unknown (no alpha, no flat background).

    Raises:
        ValueError: what `load_image` refuses, or nothing but one color in all of them.
    """
    pictures = [cut_out(load_image(path, longest=2 * size), matte) for path in paths]
    if all(torch.equal(picture, picture[:, :1, :1].expand_as(picture)) for picture in pictures):
        raise ValueError(f"{paths[0]} and the other views show one even color: no object to see.")
    views = torch.stack([square(picture, size) for picture in pictures])
    outlines_known = all(map(has_alpha, pictures))
    return views if outlines_known else composite_on_white(views)
