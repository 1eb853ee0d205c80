"""What the multi-view U-Net is told: cameras, text, and the given picture.

Axes: N objects, F frames (4, or 5 with a picture), S pixels. Functions of tensors; the encoders are
callables that any framework can give.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..cameras import INPUT_AZIMUTHS, orbit_poses

VIEWS = len(INPUT_AZIMUTHS)
VIEW_ORDER = (1, 2, 3, 0)
"""Frames of the diffusion models at LGM's azimuths 0, 90, 180, 270: their front is frame 1."""

TOKENS = 77  # of a prompt, with start and end
PAD_ID = 0  # "!", as Stable Diffusion 2 was trained, whatever a tokenizer's file says

CLIP_SIZE = 224  # pixels
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BLANK = 1 / 255  # a picture with no channel further from white than this shows nothing

log = logging.getLogger(__name__)


def camera_rows(
    elevation: float = 0.0, azimuth: float = 0.0, with_image: bool = False, views: int = VIEWS
) -> Tensor:
    """Cameras of the frames, [4, 16], or [5, 16] with a picture, whose frame has no camera: zeros.

    Rows are camera-to-world matrices 4x4, OpenGL axes, at distance 1, in Blender's +z-up world.

    Args:
        elevation: degrees above the horizon (the original counts downward).
        azimuth: of frame 0, degrees; the others follow in equal steps around the object.
    """
    azimuths = azimuth + torch.arange(views) * (360 / views)
    c2w = orbit_poses(azimuths, elevation, radius=1.0)
    x, y, z, w = c2w.unbind(dim=1)
    rows = torch.stack([x, -z, y, w], dim=1).flatten(1)
    return F.pad(rows, (0, 0, 0, 1)) if with_image else rows


@dataclass(frozen=True)
class Tokens:
    ids: Tensor  # [N, 77] int64
    cut: tuple[str, ...]  # per prompt, the end that didn't fit; "" where all did


def tokenize(tokenizer, prompts: Sequence[str]) -> Tokens:
    """Token ids by a CLIP tokenizer of transformers; what is cut off is logged, too."""
    rows, cut = [], []
    for prompt in prompts:
        start, *words, end = tokenizer(prompt, truncation=False, verbose=False).input_ids
        kept, rest = words[: TOKENS - 2], words[TOKENS - 2 :]
        ids = [start, *kept, end]
        rows.append(ids + [PAD_ID] * (TOKENS - len(ids)))
        cut.append(tokenizer.decode(rest).strip() if rest else "")
        if rest:
            log.warning(
                "A prompt can have %d tokens but has %d: this end is ignored: %r",
                TOKENS - 2,
                len(words),
                cut[-1],
            )
    return Tokens(torch.tensor(rows), tuple(cut))


def check_image(image: Tensor) -> Tensor:
    """Pictures [N, 3, S, S] on white from [3, S, S], [N, 3, S, S] or either with alpha.

    Raises:
        ValueError: another shape, not square, not in 0..1, or nothing but white.
    """
    images = image[None] if image.dim() == 3 else image
    if images.dim() != 4 or images.shape[1] not in (3, 4) or images.numel() == 0:
        raise ValueError(
            f"ImageDream needs a picture [3, S, S] or pictures [N, 3, S, S], got "
            f"{list(image.shape)}."
        )
    if images.shape[2] != images.shape[3]:
        raise ValueError(
            f"ImageDream needs a square picture, got {images.shape[3]} x {images.shape[2]}: cut "
            "the object out and recenter it first (lgm.pictures.matte)."
        )
    if not images.is_floating_point():
        raise ValueError(f"The picture must be floats 0..1, got {images.dtype}: divide by 255.")
    images = images.float()
    if not (images.isfinite().all() and images.amin() > -0.01 and images.amax() < 1.01):
        raise ValueError("The picture must hold finite values 0..1: rescale it.")
    images = images.clamp(0, 1)
    if images.shape[1] == 4:
        color, alpha = images.split((3, 1), dim=1)
        images = color * alpha + (1 - alpha)
    blank = (images > 1 - BLANK).flatten(1).all(1)
    if blank.any():
        raise ValueError(
            f"Picture {int(blank.nonzero()[0]) + 1} is all white background, so there is no object "
            "to see: check the mask or the background removal."
        )
    return images


def clip_pixels(images: Tensor) -> Tensor:
    """What CLIP's image encoder reads, [N, 3, 224, 224], from [N, 3, H, W] in 0..1: 8-bit pixels,
    the shorter side resampled to 224 by Pillow's bicubic filter, the center, normalized.
    """
    pixels = (images.float() * 255).byte()  # truncates, as the original does
    cropped = torch.stack([_resize_and_crop(picture) for picture in pixels.cpu()])
    mean, std = (torch.tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
    return ((cropped.float() / 255 - mean) / std).to(images.device)


def _resize_and_crop(pixels: Tensor) -> Tensor:
    """[3, 224, 224] uint8 from [3, H, W]. torch's own bicubic filter is off by one or two steps."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    short = min(picture.size)
    width, height = (CLIP_SIZE * side // short for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - CLIP_SIZE) // 2, (height - CLIP_SIZE) // 2
    picture = picture.crop((left, top, left + CLIP_SIZE, top + CLIP_SIZE))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def latent_pixels(images: Tensor, size: int) -> Tensor:
    """What the VAE encodes, [N, 3, size, size] in -1..1, from [N, 3, H, W] in 0..1."""
    return F.interpolate(2 * images - 1, (size, size), mode="bilinear", align_corners=False)


def per_frame(rows: Tensor, num_frames: int) -> Tensor:
    """[N * F, ...]: what all frames of an object share, once for each."""
    return rows.repeat_interleave(num_frames, dim=0)
