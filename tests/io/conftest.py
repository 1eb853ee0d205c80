"""Gaussians to write, and what any reader may do with any bytes."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
import torch.nn.functional as F

from lgm.gaussians import Gaussians

MEMORY_LIMIT = 100 << 20


def random_gaussians(count: int = 300, seed: int = 0, batch: int = 1, bands: int = 0) -> Gaussians:
    """Every Gaussian visible, so that files keep all rows; with bands, some base colors lie outside
    0..1.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, width: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, count, width, generator=generator)

    return Gaussians(
        positions=uniform(-1, 1, 3),
        opacities=uniform(0.02, 0.98, 1),
        scales=uniform(0.002, 0.1, 3),
        rotations=F.normalize(torch.randn(batch, count, 4, generator=generator), dim=-1),
        colors=uniform(-0.1, 1.1, 3) if bands else uniform(0, 1, 3),
        sh=uniform(-0.9, 0.9, 3 * bands).unflatten(-1, (bands, 3)) if bands else None,
    )


def rotation_matrices(quaternions: torch.Tensor) -> torch.Tensor:
    """[..., 4] wxyz -> [..., 3, 3]; q and -q are one rotation, so matrices are what to compare."""
    w, x, y, z = quaternions.double().unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def assert_same(
    found: Gaussians,
    expected: Gaussians,
    *,
    positions: float = 1e-6,
    opacities: float = 1e-6,
    scales: float = 1e-5,
    rotations: float = 1e-6,
    colors: float = 1e-6,
    sh: float = 1e-6,
) -> None:
    """Tolerances are absolute, that of the scales is relative."""
    assert found.count == expected.count
    close = torch.testing.assert_close
    close(found.positions, expected.positions, atol=positions, rtol=0)
    close(found.opacities, expected.opacities, atol=opacities, rtol=0)
    close(found.scales, expected.scales, atol=0, rtol=scales)
    close(
        rotation_matrices(found.rotations),
        rotation_matrices(expected.rotations),
        atol=rotations,
        rtol=0,
    )
    close(found.colors, expected.colors, atol=colors, rtol=0)
    assert (found.sh is None) == (expected.sh is None)
    if found.sh is not None:
        close(found.sh, expected.sh, atol=sh, rtol=0)


def read_or_refuse(read, data: bytes) -> Gaussians | None:
    """Valid Gaussians, or None after a ValueError with a name; in little memory either way."""
    tracemalloc.start()
    try:
        gaussians = read(data)
    except ValueError as error:
        assert str(error).startswith("the data "), error
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_LIMIT, f"{peak:,} bytes for an input of {len(data):,}"
    for name, value in gaussians.tensors().items():
        assert value.dtype == torch.float32 and value.isfinite().all(), name
    assert gaussians.batch_size == 1 and gaussians.count > 0
    assert ((gaussians.opacities >= 0) & (gaussians.opacities <= 1)).all()
    assert gaussians.sh is not None or ((gaussians.colors >= 0) & (gaussians.colors <= 1)).all()
    assert (gaussians.scales >= 0).all()
    lengths = gaussians.rotations.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-5, rtol=0)
    return gaussians


@pytest.fixture(scope="session")
def gaussians() -> Gaussians:
    return random_gaussians()


@pytest.fixture(scope="session", name="random_gaussians")
def random_gaussians_fixture():
    return random_gaussians


@pytest.fixture(scope="session", name="assert_same")
def assert_same_fixture():
    return assert_same


@pytest.fixture(scope="session", name="read_or_refuse")
def read_or_refuse_fixture():
    return read_or_refuse


@pytest.fixture(scope="session", name="rotation_matrices")
def rotation_matrices_fixture():
    return rotation_matrices
