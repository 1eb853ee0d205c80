"""One step of the sampling, whatever framework runs the loop.

Axes: N objects, F frames (4, or 5 with a picture), h w latent pixels.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..machine.optional import uses_triton
from .conditioning import per_frame
from .unet import Constants, UNet

STEPS = 30
TEXT_GUIDANCE, IMAGE_GUIDANCE = 7.5, 5.0  # LGM's choices for MVDream and ImageDream

# Called after every step with its number from 1, how many there are, and the current guess of the
# finished latents [N, 4, 4, h, w] in the views' order. What it raises ends the sampling.
OnStep = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Conditions:
    """All that decides on the pictures, beside the noise."""

    text: Tensor  # [N, 77, C]
    negative: Tensor  # [N, 77, C]
    camera: Tensor  # [N, F, 16]
    features: Tensor | None = None  # [N, 257, 1280]
    reference: Tensor | None = None  # [N, 4, h, w]

    def __getitem__(self, objects: slice) -> Conditions:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v[objects] for k, v in values.items() if v is not None})


def prepare(unet: UNet, conditions: Conditions, guided: bool) -> Constants:
    """The U-Net's constants for all frames: with guidance, first those without prompt and picture,
    then those with.
    """
    frames = conditions.camera.shape[1]

    def both(given: Tensor, absent: Tensor | None = None) -> Tensor:
        if not guided:
            return given
        return torch.cat([torch.zeros_like(given) if absent is None else absent, given])

    features, reference = conditions.features, conditions.reference
    return unet.prepare(
        per_frame(both(conditions.text, conditions.negative), frames),
        both(conditions.camera, conditions.camera).flatten(0, 1),
        frames,
        None if features is None else per_frame(both(features), frames),
        None if reference is None else both(reference),
    )


def predict_noise(
    unet: UNet,
    latents: Tensor,
    timestep: Tensor,
    constants: Constants,
    guidance_scale: float,
    guided: bool,
) -> Tensor:
    """Predicted noise [N, F, 4, h, w] float32, with classifier-free guidance (Ho and Salimans 2022)
    if `guided`."""
    sample = torch.cat([latents, latents]) if guided else latents
    rows = sample.flatten(0, 1)
    noise = _denoiser(unet, rows)(rows, timestep.expand(len(rows)), constants)
    noise = noise.float().unflatten(0, sample.shape[:2])
    if not guided:
        return noise
    absent, given = noise.chunk(2)
    return absent + guidance_scale * (given - absent)


def _denoiser(unet: UNet, sample: Tensor) -> Callable[..., Tensor]:
    """`unet.denoise`, by the fused network where it can run and `unet.fast` allows it."""
    if unet.fast and uses_triton(sample) and sample.is_cuda:
        from . import fast  # waits for Triton

        if fast.can_run(unet, sample):
            return functools.partial(fast.denoise, unet)
    return unet.denoise


def release(unet: UNet) -> None:
    """Free what the fused network keeps on the GPU beside the weights, if it has run."""
    if fast := sys.modules.get(f"{__package__}.fast"):
        fast.release(unet)


def guess_clean(
    alphas_cumprod: Tensor, scaled: Tensor, predicted: Tensor, timestep: Tensor
) -> Tensor:
    """What the latents would be if the predicted noise were all of it: (x - sqrt(1 - a) e) /
    sqrt(a).

    Args:
        alphas_cumprod: [1000], a of every training step.
        scaled: latents as the U-Net sees them. All schedulers show it the same: variance one.
    """
    # Some schedulers run at fractions of a training step.
    signal = alphas_cumprod[timestep.round().long()]
    return (scaled - (1 - signal).sqrt() * predicted) / signal.sqrt()
