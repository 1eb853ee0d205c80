"""Reading picture files."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from .resample import resize_area

PICTURE_SIDE = 1024  # pixels; larger pictures are averaged down to at least this

ROUNDING = 0.02  # of a mask's aspect ratio, when it has other pixels than its picture


def load_mask(path: str | Path, height: int, width: int) -> Tensor:
    """The picture's mask [1, height, width], 1 where the object is, from a file of any size.

    Raises:
        ValueError: not a picture, or of another shape than the one it belongs to.
    """
    rgba = load_image(path, longest=PICTURE_SIDE)
    aspect, wanted = rgba.shape[2] / rgba.shape[1], width / height
    if abs(aspect / wanted - 1) > ROUNDING:
        raise ValueError(
            f"{path} needs to be as wide for its height as the picture, {wanted:.3g} : 1, but is "
            f"{aspect:.3g} : 1: give a mask of the whole picture."
        )
    return resize_area(rgba[:3].mean(0, keepdim=True) * rgba[3:], height, width)


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
