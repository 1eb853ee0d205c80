"""IMAGE and MASK <-> the library's pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pictures_from_image(image: Tensor) -> Tensor:
    """[N, C, H, W] from IMAGE [N, H, W, C]; C is 3 or, with straight alpha, 4.

    Raises:
        ValueError: another number of channels.
    """
    if image.dim() != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"An IMAGE of 3 channels (or 4 with alpha) is needed, got {list(image.shape)}: "
            "connect a picture."
        )
    pictures = image.movedim(-1, 1).float().clamp(0, 1)
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures


def image_from_pictures(pictures: Tensor) -> Tensor:
    """IMAGE [N, H, W, C] from [N, C, H, W]."""
    return pictures.movedim(1, -1).contiguous()


def fit_mask(mask: Tensor, count: int, height: int, width: int) -> Tensor:
    """MASK [count, 1, H, W] from [N, h, w]; one mask serves all pictures.

    Raises:
        ValueError: neither one mask nor one for each picture.
    """
    mask = mask[None] if mask.dim() == 2 else mask
    if len(mask) not in (1, count):
        raise ValueError(
            f"One mask, or one for each of {count} pictures, is needed, got {len(mask)}."
        )
    mask = mask[:, None].float().clamp(0, 1)
    if mask.shape[-2:] != (height, width):
        mask = F.interpolate(mask, size=(height, width), mode="bilinear", align_corners=False)
    return mask.expand(count, -1, -1, -1)


def color_from_hex(text: str) -> Tensor:
    """RGB [3], 0..1, from the page's color picker.

    Raises:
        ValueError: not #rrggbb.
    """
    digits = text.strip().removeprefix("#")
    try:
        if len(digits) == 3:
            digits = "".join(2 * digit for digit in digits)
        values = bytes.fromhex(digits)
        if len(values) not in (3, 4):
            raise ValueError
    except ValueError:
        raise ValueError(f"A color like #ffffff is needed, got {text!r}.") from None
    return torch.tensor(list(values[:3])) / 255


def on_color(rgba: Tensor, color: str) -> Tensor:
    """[N, 3, H, W] of straight color and alpha [N, 4, H, W] in front of an even color."""
    behind = color_from_hex(color).to(rgba)[:, None, None]
    return rgba[:, :3] * rgba[:, 3:] + behind * (1 - rgba[:, 3:])


def with_alpha(pictures: Tensor) -> Tensor:
    """[N, 4, H, W], opaque where the pictures [N, C, H, W] have no alpha of their own."""
    if pictures.shape[1] == 4:
        return pictures
    return torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)


def object_mask(mask: Tensor, shows: str = "auto") -> Tensor | None:
    """Coverage [N, 1, H, W] of the object, whichever way round the mask is; None if it is empty, as
    Load Image's of a picture without alpha."""
    if not mask.any():
        return None
    if shows == "auto":
        rim = torch.cat([mask[..., 0, :], mask[..., -1, :], mask[..., 0], mask[..., -1]], dim=-1)
        shows = "background" if rim.mean() > 0.5 else "object"
    return 1 - mask if shows == "background" else mask
