"""One `render()` over four backends that draw the same equations.

`reference` is the specification (slow), `torch` runs on any device, `numba` is the fast one for
CPUs and `gsplat` the fast one for NVIDIA GPUs. numba and gsplat are optional packages: nothing here
imports them before they are needed.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, autocast

from ..cameras import FOVY, world_to_camera
from ..gaussians import Gaussians, colors_toward
from ..machine.constants import sent
from ..machine.interrupt import working
from ..machine.optional import why_no_numba
from .projection import NEAR

Backend = Literal["auto", "reference", "torch", "numba", "gsplat"]

__all__ = [
    "Backend",
    "RenderOutput",
    "available_backends",
    "backend_for",
    "interruptible",
    "render",
    "render_finite",
    "why_not",
]

_MODULES = {
    "gsplat": "gsplat_backend",
    "numba": "numba_tiles",
    "torch": "torch_tiles",
    "reference": "reference",
}
_log = logging.getLogger(__name__)

interruptible = working
"""`with interruptible(check)`: `check()` is called while pictures are drawn; what it raises ends
the drawing."""


@dataclass(frozen=True)
class RenderOutput:
    """V pictures of each of B objects."""

    images: Tensor  # [B, V, 3, H, W] composite on the background, not clamped
    alphas: Tensor  # [B, V, 1, H, W] coverage 0..1
    depths: Tensor  # [B, V, 1, H, W] expected camera z, world units; 0 where nothing is covered


def render(
    gaussians: Gaussians,
    c2w: Tensor,
    size: int | tuple[int, int],
    fovy: float = FOVY,
    background: float | Sequence[float] | Tensor = 1.0,
    backend: Backend = "auto",
    near: float = NEAR,
) -> RenderOutput:
    """Pictures of Gaussians, differentiable with respect to all of their fields and the background.

    Args:
        gaussians: drawn in float32; `reference` and `torch` keep float64. With `sh`, each view
            gets its own colors.
        c2w: [V, 4, 4] shared by the batch, or [B, V, 4, 4]; OpenGL axes.
        size: pixels, (height H, width W), or one number for square pictures. Pixels are square and
            the principal point is in the middle, so a wider picture shows more to the sides.
        fovy: full vertical angle in degrees.
        background: a gray value, a color [3], or colors [B, 3] or [B, V, 3].
        backend: "auto" takes the fastest that works where the Gaussians are.
        near: world units; Gaussians whose center is nearer along the view axis are not drawn.

    Raises:
        ValueError: a value or a shape that can't be drawn.
        RuntimeError: the backend asked for is not available.
    """
    if near != NEAR:
        return _with_near(near, gaussians, c2w, size, fovy, background, backend)
    c2w = _cameras(gaussians, c2w, fovy)
    _refuse_non_finite(gaussians, c2w)
    return render_finite(gaussians, c2w, size, fovy, background, backend)


def render_finite(
    gaussians: Gaussians,
    c2w: Tensor,
    size: int | tuple[int, int],
    fovy: float = FOVY,
    background: float | Sequence[float] | Tensor = 1.0,
    backend: Backend = "auto",
) -> RenderOutput:
    """`render` without checking the numbers, which makes Python wait for a GPU: for Gaussians and
    invertible cameras [B, V, 4, 4] that are finite, or where it is found out later. What is not
    finite is not drawn, or draws pixels that are not.
    """
    size = _height_and_width(size)
    name = _choose(backend, gaussians.device)
    exact = gaussians.positions.dtype == torch.float64 and name in ("reference", "torch")
    dtype = torch.float64 if exact else torch.float32
    with autocast(gaussians.device.type, enabled=False):
        w2c = world_to_camera(c2w.to(dtype)).to(gaussians.device)
        color = _background(background, w2c)
        gaussians, draw = gaussians.to(dtype), _module(name).draw
        if gaussians.sh is None:
            return RenderOutput(*draw(gaussians, w2c, size, fovy, color))
        views = [
            draw(_seen_from(gaussians, eye), w2c[:, [v]], size, fovy, color[:, [v]])
            for v, eye in enumerate(c2w[..., :3, 3].to(w2c).unbind(1))
        ]
        return RenderOutput(*(torch.cat(pictures, dim=1) for pictures in zip(*views, strict=True)))


def available_backends() -> list[str]:
    """The backends that work on this machine, best first."""
    return [name for name in _MODULES if not why_not(name)]


def _with_near(near: float, gaussians: Gaussians, c2w: Tensor, *settings) -> RenderOutput:
    """`render` in a world scaled so that its own near plane lies where it is wanted: nothing else
    in the equations knows what a unit is."""
    if not near > 0:
        raise ValueError(f"The near plane has to lie in front of the camera, got near {near}.")
    scale = NEAR / near
    scaled = replace(
        gaussians, positions=gaussians.positions * scale, scales=gaussians.scales * scale
    )
    c2w = torch.cat([c2w[..., :3], c2w[..., 3:] * c2w.new_tensor([scale] * 3 + [1])[:, None]], -1)
    out = render(scaled, c2w, *settings)
    return replace(out, depths=out.depths / scale)


def backend_for(backend: Backend, device: torch.device) -> Backend:
    """The backend that `render` takes for Gaussians on `device`, by name.

    Raises:
        ValueError: there is none of this name.
        RuntimeError: it is not available.
    """
    return _choose(backend, device)


def _seen_from(gaussians: Gaussians, eye: Tensor) -> Gaussians:
    return replace(gaussians, colors=colors_toward(gaussians, eye), sh=None)


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(
            "A picture needs a whole number of pixels, 1 or more, on a side, or (height, width), "
            f"got size {size}."
        )
    return tuple(sides)


def _cameras(gaussians: Gaussians, c2w: Tensor, fovy: float) -> Tensor:
    """The cameras of each item, [B, V, 4, 4]."""
    if not 0 < fovy < 180:
        raise ValueError(
            f"The field of view has to lie between 0 and 180 degrees, got fovy {fovy}."
        )
    batch = gaussians.batch_size
    cameras = c2w.expand(batch, -1, -1, -1) if c2w.ndim == 3 else c2w
    fits = cameras.ndim == 4 and len(cameras) == batch and cameras.shape[2:] == (4, 4)
    if fits and cameras.numel():
        return cameras
    raise ValueError(
        f"Cameras for {batch} object(s) have to be [V, 4, 4] or [{batch}, V, 4, 4] and not empty, "
        f"got c2w {list(c2w.shape)}."
    )


def _refuse_non_finite(gaussians: Gaussians, c2w: Tensor) -> None:
    # A matrix without an inverse is inverted to infinities.
    tensors = gaussians.tensors() | {"c2w": c2w, "w2c": world_to_camera(c2w)}
    all_finite = torch.stack([_is_finite(t).to(gaussians.device) for t in tensors.values()])
    for name, finite in zip(tensors, all_finite.tolist(), strict=True):  # one wait for a GPU
        if not finite and name == "w2c":
            raise ValueError("A camera in c2w has no inverse: give rigid camera-to-world matrices.")
        if not finite:
            raise ValueError(f"Rendering needs finite numbers, but {name} holds NaN or infinity.")


def _is_finite(tensor: Tensor) -> Tensor:
    if (
        tensor.device.type == "cpu"
    ):  # numpy wakes no threads, which cost more than this on a busy CPU
        return torch.tensor(np.isfinite(tensor.detach().float().numpy()).all())
    return tensor.isfinite().all()


def _background(background: float | Sequence[float] | Tensor, w2c: Tensor) -> Tensor:
    """[B, V, 3] of the cameras' dtype, where they are."""
    batch, views = w2c.shape[:2]
    if isinstance(background, Tensor):
        color = background
    else:
        try:
            color = torch.tensor(background, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"A background needs numbers, got {background!r}.") from error
    if not color.isfinite().all():
        raise ValueError(f"A background needs finite numbers, got {background!r}.")
    color = sent(color.to(w2c.dtype), w2c.device)
    if color.ndim == 2:
        color = color[:, None]  # [B, 3]: the same for each view
    try:
        return color.expand(batch, views, 3)
    except RuntimeError:
        raise ValueError(
            f"A background is one number, [3], [{batch}, 3] or [{batch}, {views}, 3], "
            f"got {list(color.shape)}."
        ) from None


def _module(name: str):
    return importlib.import_module(f".{_MODULES[name]}", __name__)


def why_not(name: str, asked: bool = False) -> str:
    """Why a backend can't be used, with what to do about it; empty if it can."""
    if name == "numba" and (reason := why_no_numba()):
        return f"{reason}, or use backend 'torch'"
    if name == "gsplat":
        return _module("gsplat").why_not(asked)
    return ""


def _choose(backend: Backend, device: torch.device) -> Backend:
    if backend == "auto":
        return _automatic(device.type)
    if backend not in _MODULES:
        raise ValueError(f"The backend is one of auto, {', '.join(_MODULES)}, got {backend!r}.")
    if reason := why_not(backend, asked=True):
        raise RuntimeError(f"Render backend '{backend}' is not available: {reason}.")
    wanted = {"numba": "cpu", "gsplat": "cuda"}.get(backend, device.type)
    if device.type != wanted:
        raise RuntimeError(
            f"Render backend '{backend}' draws {wanted} tensors, got Gaussians on {device}: "
            f"move them with .to('{wanted}'), or use backend 'auto'."
        )
    return backend


@cache
def _automatic(device_type: str) -> Backend:
    """The fastest backend for a kind of device; said in the log once."""
    faster: dict[str, Backend] = {"cpu": "numba", "cuda": "gsplat"}
    fast = faster.get(device_type)
    reason = why_not(fast) if fast else f"no faster one exists for {device_type}"
    name = fast if fast and not reason else "torch"
    why = f" ({reason})" if reason else ""
    _log.info("Rendering on %s with the %s backend%s.", device_type, name, why)
    return name
