"""Real spherical harmonics of degrees 1 to 3: how a color depends on the direction of sight.

Basis, order and signs are those of 3DGS (Kerbl et al. 2023) and KHR_gaussian_splatting: Cartesian
polynomials as in Sloan 2008, "Stupid Spherical Harmonics (SH) Tricks", appendix A2, with the
Condon-Shortley phase (odd orders negated); degree by degree, each from order -l to l.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .cameras import even_poses

SH_C0 = 0.28209479177387814  # the function of degree 0, 1 / (2 sqrt(pi))
BAND_WIDTHS = (0, 3, 8, 15)  # functions above degree 0, by the highest degree


def sh_basis(directions: Tensor) -> Tensor:
    """The 15 functions of degrees 1 to 3, [..., 15], of unit vectors [..., 3]."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z

    def norm(numerator: int, denominator: int) -> float:
        return math.sqrt(numerator / (denominator * math.pi))

    functions = (
        -norm(3, 4) * y,
        norm(3, 4) * z,
        -norm(3, 4) * x,
        norm(15, 4) * x * y,
        -norm(15, 4) * y * z,
        norm(5, 16) * (2 * zz - xx - yy),
        -norm(15, 4) * x * z,
        norm(15, 16) * (xx - yy),
        -norm(35, 32) * y * (3 * xx - yy),
        norm(105, 4) * x * y * z,
        -norm(21, 32) * y * (4 * zz - xx - yy),
        norm(7, 16) * z * (2 * zz - 3 * xx - 3 * yy),
        -norm(21, 32) * x * (4 * zz - xx - yy),
        norm(105, 16) * z * (xx - yy),
        -norm(35, 32) * x * (xx - 3 * yy),
    )
    return torch.stack(functions, dim=-1)


def half_turn_sh(sh: Tensor) -> Tensor:
    """Coefficients [..., K - 1, 3] after half a turn about x; exact, and its own inverse.

    Such a turn maps each function to itself or its negative, so one direction in which none
    vanishes tells the signs.
    """
    direction = torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64)
    turned = direction * direction.new_tensor([1, -1, -1])
    signs = (sh_basis(direction) * sh_basis(turned)).sign()
    return sh * signs[: sh.shape[-2], None].to(sh)


def rotate_sh(sh: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients [..., K - 1, 3] after `rotation` [3, 3] of the object.

    Seen along d, the turned object has the color that it had along rotation' d. Rotations mix
    functions of one degree only, so the matrix that does it follows from a few directions.
    """
    directions = even_poses(32)[:, :3, 2].double()  # of cameras' own z axes: all around
    width = sh.shape[-2]
    before = sh_basis(directions @ rotation.to(directions))[:, :width]
    matrix = torch.linalg.lstsq(sh_basis(directions)[:, :width], before).solution
    return matrix.to(sh) @ sh
