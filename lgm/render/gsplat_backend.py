"""The renderer on NVIDIA GPUs: gsplat (Apache-2.0), an optional package.

Same equations with one difference that stays: gsplat 1.5.3 caps alpha at 0.999, the original and
the other backends at 0.99 (as does gsplat 1.6.0). Only pixels within 0.14 standard deviations of
the center of a Gaussian with opacity above 0.99 can tell, and by 0.01 at most. Lowering such
opacities to 0.99 first would cap right but thin the Gaussian out over its whole reach, and cut its
gradient, so nothing is lowered.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..cameras import FOVY, focal_length, orbit_poses, world_to_camera
from ..gaussians import Gaussians
from ..machine.constants import sent
from .projection import LOW_PASS, NEAR, composite

_BUILD_VARIABLE = "LGM_GSPLAT_BUILD"
# What gsplat raises without a working CUDA extension, depending on its version and the toolkit.
_FAILURES = (ImportError, AttributeError, RuntimeError, TypeError, OSError)


def draw(
    gaussians: Gaussians, w2c: Tensor, size: tuple[int, int], fovy: float, background: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, alphas and depths by the cameras w2c [B, V, 4, 4] on backgrounds [B, V, 3]."""
    if not gaussians.count:
        nothing = gaussians.positions.sum()  # 0, but known to autograd
        return composite(nothing.expand(*w2c.shape[:2], 5, *size), background)
    from gsplat import rasterization

    height, width = size
    focal = focal_length(height, fovy)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    intrinsics = sent(intrinsics.to(w2c.dtype), w2c.device)
    colors_and_depths, alphas, _ = rasterization(
        means=gaussians.positions,
        quats=gaussians.rotations,
        scales=gaussians.scales,
        opacities=gaussians.opacities[..., 0],
        colors=gaussians.colors,
        viewmats=w2c,
        Ks=intrinsics.expand(*w2c.shape[:2], 3, 3),
        width=width,
        height=height,
        near_plane=NEAR,
        eps2d=LOW_PASS,
        packed=False,
        rasterize_mode="classic",  # "antialiased" dims small Gaussians, which the original does not
        render_mode="RGB+D",
    )
    sums = torch.cat([colors_and_depths, alphas], dim=-1).movedim(-1, 2).contiguous()
    return composite(sums, background)


def why_not(asked: bool = False) -> str:
    """Why gsplat can't be used, with what to do about it; empty if it can.

    gsplat compiles itself at first use, which takes minutes and a CUDA toolkit. That is started
    only if `asked`, or if the user set LGM_GSPLAT_BUILD=1.
    """
    if not torch.cuda.is_available():
        return "it needs an NVIDIA GPU, and torch finds none: use backend 'auto'"
    if not importlib.util.find_spec("gsplat"):
        return "the package gsplat is not installed: pip install gsplat (and a CUDA toolkit)"
    if not (asked or os.environ.get(_BUILD_VARIABLE) == "1" or _is_built()):
        return f"gsplat is installed but not compiled: set {_BUILD_VARIABLE}=1, it takes minutes"
    return _probe()


def _is_built() -> bool:
    """Whether gsplat finds itself compiled, in its package or in torch's cache of extensions."""
    try:
        if importlib.util.find_spec("gsplat.csrc"):
            return True
    except _FAILURES:
        return False  # gsplat itself does not import
    from torch.utils.cpp_extension import get_default_build_root

    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    abi = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    cuda = f"cu{(torch.version.cuda or '').replace('.', '')}"
    folder = Path(root) if root else Path(get_default_build_root()) / f"{abi}_{cuda}"
    return any(
        (folder / "gsplat_cuda" / f"gsplat_cuda.{suffix}").is_file() for suffix in ("so", "lib")
    )


@cache
def _probe() -> str:
    """Why a small picture can't be drawn, empty if it can: gsplat imports even without CUDA."""
    angle = torch.arange(8, device="cuda") * (torch.pi / 4)
    positions = 0.3 * torch.stack([angle.cos(), angle.sin(), 0 * angle], dim=-1)[None]
    ring = Gaussians(
        positions=positions,
        opacities=torch.full_like(positions[..., :1], 0.9),
        scales=torch.full_like(positions, 0.1),
        rotations=torch.nn.functional.pad(torch.ones_like(positions[..., :1]), (0, 3)),
        colors=torch.full_like(positions, 0.5),
    )
    try:
        w2c = world_to_camera(orbit_poses([0.0]))[None].to(positions)
        _, alphas, _ = draw(ring, w2c, (16, 16), FOVY, w2c.new_zeros(1, 1, 3))
        works = bool(alphas.isfinite().all()) and float(alphas.max()) > 0.5
    except _FAILURES as error:
        reason = str(error).partition("\n")[0]
        return f"gsplat does not work here ({type(error).__name__}: {reason})"
    return "" if works else "gsplat drew a wrong picture: reinstall it for this version of torch"
