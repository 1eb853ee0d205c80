"""Sizes and framing of pictures: resampled, squared, centered, put on white.

Pictures are float32 [4, H, W] tensors, straight sRGB color plus alpha, all 0..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MATTE_NOISE = 0.05  # alpha; what networks that cut out objects leave of an empty background
BORDER_RATIO = 0.2  # part of a picture's side that stays free around the object, as in training


def has_alpha(rgba: Tensor) -> bool:
    """Whether the alpha channel says anything."""
    return bool((rgba[3] < 1).any())


def shows_object(rgba: Tensor) -> bool:
    """Whether [4, H, W] has more than a few pixels that are not transparent."""
    return int((rgba[3] > MATTE_NOISE).sum()) >= 4


def composite_on_white(rgba: Tensor) -> Tensor:
    """[..., 3, H, W] on white, from straight color and alpha [..., 4, H, W]."""
    color, alpha = rgba.split((3, 1), dim=-3)
    return color * alpha + (1 - alpha)


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


def recenter(rgba: Tensor, border_ratio: float = BORDER_RATIO) -> Tensor:
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


def framed(rgba: Tensor, border_ratio: float = BORDER_RATIO) -> Tensor:
    """`recenter`, except that a picture that is all object, which has no border to gain, stays."""
    return recenter(rgba, border_ratio) if has_alpha(rgba) else rgba


def recenter_together(rgba: Tensor, border_ratio: float = BORDER_RATIO) -> Tensor:
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
