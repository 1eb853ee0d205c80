"""From pictures and cameras to the input tensor of the U-Net."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import FOVY, RADIUS, input_poses, plucker_rays, tan_half
from ..machine.constants import constant
from .presets import MAX_VIEWS, VIEW_COUNT
from .views import DISTANCE_TOLERANCE, camera_distances

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DISTANCES = (1.05, 100.0)  # world units, of cameras from the origin
FIELDS_OF_VIEW = (2.0, 100.0)  # degrees


@dataclass(frozen=True)
class Views:
    """What the network is given of B objects, checked and resized once (`LGM.prepare`)."""

    images: Tensor  # [B, V, 3, S, S], 0..1 sRGB, on white
    alphas: Tensor | None  # [B, V, 1, S, S]; None: what isn't white is object
    c2w: Tensor  # [B, V, 4, 4], where they show as much as the cameras of training
    fovy: float  # degrees, the full vertical angle
    scale: Tensor  # [B], by how much the world of c2w is larger than the caller's

    def inputs(self) -> Tensor:
        """[B, V, 9, S, S], as the paper's U-Net reads them; nothing else makes rays of the images.
        Hull presets add the guide's channels and the pole views."""
        return network_inputs(self.images, self.c2w, self.fovy)


def framing(c2w: Tensor, fovy: float) -> Tensor:
    """How much larger [B] the world has to be for cameras [B, V, 4, 4] to show as much of it as the
    trained ones do. Their perspective stays: those with a narrow angle then stand farther away.

    Raises:
        ValueError: cameras too near, too far, of too narrow or too wide an angle.
    """
    low, high = FIELDS_OF_VIEW
    if not low <= fovy <= high:
        raise ValueError(
            f"The cameras need a vertical field of view of {low:g} to {high:g} degrees, got "
            f"{fovy:g}: set the angle the pictures were taken with, or crop them to a narrower one."
        )
    distances = camera_distances(c2w)
    (low, high), nearest, farthest = DISTANCES, float(distances.amin()), float(distances.amax())
    if not (low - DISTANCE_TOLERANCE <= nearest and farthest <= high + DISTANCE_TOLERANCE):
        wrong = nearest if nearest < low else farthest
        raise ValueError(
            f"The cameras need to stand {low:g} to {high:g} from the origin, where the object is, "
            f"got {wrong:g}: scale the world or move the cameras."
        )
    factors = RADIUS * tan_half(FOVY) / tan_half(fovy) / distances.mean(dim=1)
    return torch.where((factors - 1).abs() < DISTANCE_TOLERANCE, 1.0, factors)


def in_scaled_world(c2w: Tensor, factors: Tensor) -> Tensor:
    """Cameras [B, V, 4, 4] in a world `factors` [B] times as large."""
    scaled = c2w.clone()
    scaled[..., :3, 3] *= factors[:, None, None]
    return scaled


def network_inputs(images: Tensor, c2w: Tensor, fovy: float = FOVY) -> Tensor:
    """[B, 4, 9, S, S] from pictures on white [B, 4, 3, S, S] and their cameras [B, 4, 4, 4]."""
    return torch.cat([_normalized(images), plucker_rays(c2w, images.shape[-1], fovy)], dim=2)


def _normalized(images: Tensor) -> Tensor:
    return (images - _channel(IMAGENET_MEAN, images)) / _channel(IMAGENET_STD, images)


def seen_pictures(inputs: Tensor) -> Tensor:
    """Pictures on white [B, 4, 3, S, S], 0..1, that network inputs [B, 4, 9, S, S] were made of."""
    colors = inputs[:, :, :3]
    return colors * _channel(IMAGENET_STD, colors) + _channel(IMAGENET_MEAN, colors)


def _channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return constant(values, like)[:, None, None]


def _resize(views: Tensor, size: int) -> Tensor:
    """Bilinear, as the original; smaller copies of larger pictures are antialiased, which it never
    had to do.
    """
    if views.shape[-2:] == (size, size):
        return views
    shrink = max(views.shape[-2:]) > size
    resized = F.interpolate(
        views.flatten(0, 1),
        size=(size, size),
        mode="bilinear",
        align_corners=False,
        antialias=shrink,
    )
    return resized.unflatten(0, views.shape[:2]).clamp(0, 1)


def _batched_views(views: Tensor, most: int) -> Tensor:
    views = views[None] if views.dim() == 4 else views
    fits = views.dim() == 5 and views.shape[2] in (3, 4)
    if not fits or not (views.shape[1] == VIEW_COUNT or 1 <= views.shape[1] <= most != VIEW_COUNT):
        raise ValueError(
            "LGM needs 4 views as [4, 3, H, W] or [B, 4, 3, H, W] (or 4 channels with alpha), or "
            f"1 to {MAX_VIEWS} with their cameras c2w, got {list(views.shape)}."
        )
    if not views.numel():
        raise ValueError(f"LGM needs views with pixels, got {list(views.shape)}.")
    if not views.is_floating_point():
        raise ValueError(f"The views must be floats 0..1, got {views.dtype}: divide bytes by 255.")
    if not views.isfinite().all():
        raise ValueError("The views hold NaN or infinite values: check the step that made them.")
    low, high = float(views.amin()), float(views.amax())
    if low < -0.01 or high > 1.01:  # resampling overshoots a little
        raise ValueError(f"The views must lie in 0..1, got {low:.3g}..{high:.3g}: rescale them.")
    return views.float().clamp(0, 1)


def _batched_poses(c2w: Tensor | None, views: Tensor) -> Tensor:
    c2w = input_poses() if c2w is None else torch.as_tensor(c2w)
    c2w = (c2w[None] if c2w.dim() == 3 else c2w).to(views.device, torch.float32)
    count = views.shape[1]
    if c2w.dim() != 4 or c2w.shape[1:] != (count, 4, 4) or c2w.shape[0] not in (1, len(views)):
        raise ValueError(
            f"LGM needs cameras c2w of shape [{count}, 4, 4] or [{len(views)}, {count}, 4, 4], "
            f"got {list(c2w.shape)}."
        )
    rotations = c2w[..., :3, :3]
    error = (rotations @ rotations.mT - torch.eye(3, device=c2w.device)).abs().amax()
    if not (c2w.isfinite().all() and error < 1e-2):  # a comparison with NaN is false, too
        raise ValueError(
            "The cameras must be rigid camera-to-world matrices: finite, with a pure rotation."
        )
    return c2w.expand(len(views), -1, -1, -1)
