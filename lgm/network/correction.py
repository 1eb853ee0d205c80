"""Inputs of the corrector network: the draft splat compared with the input images.

The first network never sees what it has made. A second, smaller one does: the draft is drawn from
all views, and each Gaussian is told what every picture shows where it stands, what the draft shows
there instead, whether it lies in front of or behind what is drawn, and where the pictures pull it:
the derivatives of their error. This lets it repair unfamiliar shapes from the mismatch between
draft and pictures, as an optimizer would, but in one step, and knowing what objects look like from
sides that no picture shows (learned descent: Flynn et al. 2019, DeepView; Chen et al. 2024, G3R).
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor, autocast

from ..cameras import FOVY
from ..machine.constants import constant
from ..render import render_finite
from .hull import Guide, decode_hull
from .presets import CORRECTION_PARTS
from .views import looked_at, pole_map, sample

DRAWN_FINER = 2  # than the grid of Gaussians, as the pictures are; then averaged
LOOKED_AT = (0, 1, -1, 2)  # views, from a Gaussian's own on, in the order of CORRECTION_PARTS
LARGEST = 1e4  # of raw features; those of the included model reach 400
MAX_DEPTH_GAP = 0.3  # world units; larger differences are clamped
# Bring typical gradients by offset, opacity, scale, rotation and color to about 1.
GRADIENT_SCALES = (3, 3, 3, 300, 60, 60, 500, 40, 40, 40, 40, 150, 150, 150)


def channels(part: str) -> slice:
    """Where a part of CORRECTION_PARTS lies among a corrector's inputs."""
    start = sum(CORRECTION_PARTS[name] for name in takewhile(part.__ne__, CORRECTION_PARTS))
    return slice(start, start + CORRECTION_PARTS[part])


def correction_inputs(features: Tensor, guide: Guide, pictured: int, fovy: float = FOVY) -> Tensor:
    """[B, V, CORRECTION_CHANNELS, h, w] float32, on the grid of the Gaussians; without gradients.

    Args:
        features: [B, V, 14, h, w], raw, the draft's.
        guide: what they are relative to.
        pictured: how many of the views have pictures; poles don't.
        fovy: full vertical angle of the cameras, degrees.
    """
    # ComfyUI runs nodes in inference mode, whose tensors autograd refuses: clones are free of it.
    with torch.inference_mode(False), autocast(features.device.type, enabled=False):
        # A copy; what overflows is found out later. Whatever is left decodes to finite numbers.
        features = features.detach().nan_to_num().clamp(-LARGEST, LARGEST)
        guide = Guide(*(getattr(guide, field.name).clone() for field in fields(Guide)))
        with torch.enable_grad():
            features.requires_grad_()
            draft = decode_hull(features, guide)
            drawn = render_finite(draft, guide.c2w, DRAWN_FINER * features.shape[-1], fovy)
            colors, alphas = _pooled(drawn.images.clamp(0, 1)), _pooled(drawn.alphas)
            missing = guide.colors[:, :pictured] - colors[:, :pictured]
            uncovered = guide.alphas[:, :pictured] - alphas[:, :pictured]
            error = missing.square().sum() + uncovered.square().sum()
            (gradient,) = torch.autograd.grad(error, features)
        with torch.no_grad():
            scale = constant(GRADIENT_SCALES, gradient)[:, None, None]
            return torch.cat(
                [
                    _seen(
                        features.detach(), guide, draft.positions.detach(), pictured,
                        colors.detach(), alphas.detach(),
                        _pooled(drawn.depths.detach() * drawn.alphas.detach()),
                    ),
                    torch.asinh(gradient * scale),
                ],
                dim=2,
            )  # fmt: skip


def _pooled(x: Tensor) -> Tensor:
    """Pictures [B, V, C, 2h, 2w] on the grid of Gaussians."""
    return F.avg_pool2d(x.flatten(0, 1), DRAWN_FINER).unflatten(0, x.shape[:2])


def _seen(
    features: Tensor,
    guide: Guide,
    positions: Tensor,
    pictured: int,
    colors: Tensor,
    alphas: Tensor,
    covered: Tensor,
) -> Tensor:
    """What each Gaussian and its pixel are, and what the views show where it stands.

    Args:
        colors, alphas: [B, V, 3 and 1, h, w], of the draft as drawn. covered: its depths times
            coverage.
    """
    views, size = features.shape[1], features.shape[-1]
    points = positions.view(len(features), views, size, size, 3)
    own_depth = _camera_points(points, guide.c2w)[..., 2].neg()[:, :, None]
    parts = [
        features,
        2 * guide.colors - 1,
        guide.alphas,
        guide.near - guide.distances,
        guide.far - guide.distances,
        guide.valid,
        2 * colors - 1,
        alphas,
        _gap(covered, alphas, own_depth),
        own_depth - guide.distances,
        pole_map(guide.valid, pictured),
    ]
    truth, silhouettes = guide.colors[:, :pictured], guide.alphas[:, :pictured]
    maps = torch.cat(
        [
            2 * truth - 1,
            truth - colors[:, :pictured],
            silhouettes,
            alphas[:, :pictured],
            covered[:, :pictured],
        ],
        dim=2,
    )
    for shift in LOOKED_AT:
        other = partial(looked_at, shift=shift, views=views, pictured=pictured)
        there = _camera_points(points, other(guide.c2w))
        seen = sample(other(maps), there, other(guide.tan_half))
        depth = -there[..., 2][:, :, None]
        parts += [seen[:, :, :-1], _gap(seen[:, :, -1:], seen[:, :, -2:-1], depth)]
    return torch.cat(parts, dim=2)


def _camera_points(points: Tensor, c2w: Tensor) -> Tensor:
    """World points [B, V, h, w, 3] in the axes of cameras [B, V, 4, 4]."""
    moved = points - c2w[:, :, None, None, :3, 3]
    return torch.einsum("bvji,bvhwj->bvhwi", c2w[..., :3, :3], moved)


def _gap(covered: Tensor, alphas: Tensor, depth: Tensor) -> Tensor:
    """How far what is drawn lies behind a depth; nothing where nothing is drawn."""
    drawn = covered / alphas.clamp(min=1e-3)
    return (drawn - depth).clamp(-MAX_DEPTH_GAP, MAX_DEPTH_GAP) / MAX_DEPTH_GAP * alphas
