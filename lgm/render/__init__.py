"""One `render()` over four backends that draw the same equations.

`reference` is the specification (slow), `torch` runs on any device, `numba` is the fast one for
CPUs and `gsplat` the fast one for NVIDIA GPUs. numba and gsplat are optional packages: nothing here
imports them before they are needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..cameras import FOVY, world_to_camera
from ..gaussians import Gaussians

Backend = Literal["auto", "reference", "torch", "numba", "gsplat"]

_MODULES = {
    "gsplat": "gsplat_backend",
    "numba": "numba_tiles",
    "torch": "torch_tiles",
    "reference": "reference",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RenderOutput:
    """V pictures of each of B objects."""

    images: Tensor  # [B, V, 3, S, S] composite on the background, not clamped
    alphas: Tensor  # [B, V, 1, S, S] coverage 0..1
    depths: Tensor  # [B, V, 1, S, S] expected camera z, world units; 0 where nothing is covered


def render(
    gaussians: Gaussians,
    c2w: Tensor,
    size: int,
    fovy: float = FOVY,
    background: float | Sequence[float] | Tensor = 1.0,
    backend: Backend = "auto",
) -> RenderOutput:
    """Pictures of Gaussians, differentiable with respect to all of their fields and the background.

    Args:
        gaussians: drawn in float32; `reference` and `torch` keep float64.
        c2w: [V, 4, 4] shared by the batch, or [B, V, 4, 4]; OpenGL axes.
        size: S, side of the square pictures in pixels.
        fovy: full vertical angle in degrees.
        background: a gray value, a color [3], or colors [B, 3] or [B, V, 3].
        backend: "auto" takes the fastest that works where the Gaussians are.

    Raises:
        ValueError: a value or a shape that can't be drawn.
        RuntimeError: the backend asked for is not available.
    """
    c2w = _cameras(gaussians, c2w, size, fovy)
    _refuse_non_finite(gaussians, c2w)
    name = _choose(backend, gaussians.device)
    exact = gaussians.positions.dtype == torch.float64 and name in ("reference", "torch")
    dtype = torch.float64 if exact else torch.float32
    with torch.autocast(gaussians.device.type, enabled=False):
        w2c = _inverse(c2w.to(dtype)).to(gaussians.device)
        color = _background(background, *c2w.shape[:2]).to(w2c)
        return RenderOutput(*_module(name).draw(gaussians.to(dtype), w2c, size, fovy, color))


def available_backends() -> list[str]:
    """The backends that work on this machine, best first."""
    return [name for name in _MODULES if not _why_not(name)]


def _cameras(gaussians: Gaussians, c2w: Tensor, size: int, fovy: float) -> Tensor:
    """The cameras of each item, [B, V, 4, 4]."""
    if not isinstance(size, int) or size < 1:
        raise ValueError(
            f"A picture needs a whole number of pixels, 1 or more, on a side, got size {size}."
        )
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


def _inverse(c2w: Tensor) -> Tensor:
    try:
        return world_to_camera(c2w)
    except torch.linalg.LinAlgError:
        raise ValueError(
            "A camera in c2w has no inverse: give rigid camera-to-world matrices."
        ) from None


def _refuse_non_finite(gaussians: Gaussians, c2w: Tensor) -> None:
    tensors = {field.name: getattr(gaussians, field.name) for field in fields(gaussians)}
    tensors["c2w"] = c2w
    all_finite = torch.stack([_is_finite(t).to(gaussians.device) for t in tensors.values()])
    for name, finite in zip(tensors, all_finite.tolist(), strict=True):  # one wait for a GPU
        if not finite:
            raise ValueError(f"Rendering needs finite numbers, but {name} holds NaN or infinity.")


def _is_finite(tensor: Tensor) -> Tensor:
    if (
        tensor.device.type == "cpu"
    ):  # numpy wakes no threads, which cost more than this on a busy CPU
        return torch.tensor(np.isfinite(tensor.detach().float().numpy()).all())
    return tensor.isfinite().all()


def _background(background: float | Sequence[float] | Tensor, batch: int, views: int) -> Tensor:
    color = background
    if not isinstance(background, Tensor):
        try:
            color = torch.tensor(background, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"A background needs numbers, got {background!r}.") from error
    if not color.isfinite().all():
        raise ValueError(f"A background needs finite numbers, got {background!r}.")
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


def _why_not(name: str, asked: bool = False) -> str:
    """Why a backend can't be used, with what to do about it; empty if it can."""
    if name == "numba" and not importlib.util.find_spec("numba"):
        return "the package numba is not installed: pip install numba, or use backend 'torch'"
    if name == "gsplat":
        return _module("gsplat").why_not(asked)
    return ""


def _choose(backend: Backend, device: torch.device) -> str:
    if backend == "auto":
        return _automatic(device.type)
    if backend not in _MODULES:
        raise ValueError(f"The backend is one of auto, {', '.join(_MODULES)}, got {backend!r}.")
    if reason := _why_not(backend, asked=True):
        raise RuntimeError(f"Render backend '{backend}' is not available: {reason}.")
    wanted = {"numba": "cpu", "gsplat": "cuda"}.get(backend, device.type)
    if device.type != wanted:
        raise RuntimeError(
            f"Render backend '{backend}' draws {wanted} tensors, got Gaussians on {device}: "
            f"move them with .to('{wanted}'), or use backend 'auto'."
        )
    return backend


@cache
def _automatic(device_type: str) -> str:
    """The fastest backend for a kind of device; said in the log once."""
    fast = {"cpu": "numba", "cuda": "gsplat"}.get(device_type)
    reason = _why_not(fast) if fast else f"no faster one exists for {device_type}"
    name = "torch" if reason else fast
    why = f" ({reason})" if reason else ""
    _log.info("Rendering on %s with the %s backend%s.", device_type, name, why)
    return name
