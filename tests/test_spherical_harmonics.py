"""The basis against its definition by Legendre functions, and what turning an object does to it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import lpmv

from lgm.rotations import rotation_matrices
from lgm.spherical_harmonics import BAND_WIDTHS, SH_C0, half_turn_sh, rotate_sh, sh_basis

HALF_TURN = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(directions: torch.Tensor) -> np.ndarray:
    """Real spherical harmonics of degrees 1 to 3; scipy's P_l^m has the Condon-Shortley phase."""
    x, y, z = directions.numpy().T
    azimuth = np.arctan2(y, x)
    columns = []
    for degree in (1, 2, 3):
        for order in range(-degree, degree + 1):
            m = abs(order)
            norm = (2 * degree + 1) / (4 * math.pi)
            norm *= math.factorial(degree - m) / math.factorial(degree + m)
            wave = np.cos(m * azimuth) if order >= 0 else np.sin(m * azimuth)
            scale = math.sqrt(norm * (2 if order else 1))
            columns.append(scale * lpmv(m, degree, z) * wave)
    return np.stack(columns, axis=-1)


def test_basis_equals_the_definition_by_legendre_functions():
    directions = F.normalize(random(200, 3), dim=-1)
    np.testing.assert_allclose(sh_basis(directions), by_definition(directions), atol=1e-12)


def test_basis_is_orthonormal_on_the_sphere():
    """A product rule that is exact for polynomials of degree 7: no two of 16 functions overlap."""
    heights, weights = np.polynomial.legendre.leggauss(4)
    angles = 2 * np.pi * np.arange(8) / 8
    z, angle = (torch.from_numpy(grid.ravel()) for grid in np.meshgrid(heights, angles))
    weight = torch.from_numpy(np.meshgrid(weights, angles)[0].ravel() * 2 * np.pi / 8)
    ring = (1 - z * z).sqrt()
    basis = sh_basis(torch.stack([ring * angle.cos(), ring * angle.sin(), z], dim=-1))
    basis = torch.cat([torch.full_like(basis[:, :1], SH_C0), basis], dim=-1)
    gram = basis.T @ (weight[:, None] * basis)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", BAND_WIDTHS[1:])
def test_a_turned_object_shows_along_turned_directions_what_it_showed_before(width):
    sh, directions = random(5, width, 3), F.normalize(random(40, 3, seed=1), dim=-1)
    turns = [*rotation_matrices(random(4, 4, seed=2)), HALF_TURN]
    for turn in turns:
        after = sh_basis(directions @ turn.T)[:, None, None, :width] @ rotate_sh(sh, turn)
        before = sh_basis(directions)[:, None, None, :width] @ sh
        torch.testing.assert_close(after, before, atol=1e-12, rtol=0)
    torch.testing.assert_close(half_turn_sh(sh), rotate_sh(sh, HALF_TURN), atol=1e-12, rtol=0)


def test_two_half_turns_are_exactly_none():
    sh = random(5, 15, 3).float()
    assert torch.equal(half_turn_sh(half_turn_sh(sh)), sh)
    assert half_turn_sh(sh).dtype == torch.float32
