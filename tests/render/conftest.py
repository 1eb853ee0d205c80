import importlib.util

import pytest
import torch
import torch.nn.functional as F

from lgm.gaussians import Gaussians

FIELDS = ("positions", "opacities", "scales", "rotations", "colors")

needs_numba = pytest.mark.skipif(
    not importlib.util.find_spec("numba"), reason="numba is not installed"
)


@pytest.fixture(params=["reference", "torch", pytest.param("numba", marks=needs_numba)])
def backend(request) -> str:
    return request.param


@pytest.fixture(params=["torch", pytest.param("numba", marks=needs_numba)])
def fast_backend(request) -> str:
    return request.param


def random_gaussians(
    count: int, seed: int = 0, batch: int = 1, dtype: torch.dtype = torch.float32
) -> Gaussians:
    """A ball of blobs, needles and plates of all sizes; a few lie behind an orbit camera."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(width):
        return torch.rand(batch, count, width, generator=generator, dtype=torch.float64)

    positions = 1.2 * (uniform(3) - 0.5)
    positions[:, ::50] *= 5
    return Gaussians(
        positions=positions,
        opacities=uniform(1) ** 0.5,
        scales=0.005 * 40 ** uniform(3),
        rotations=F.normalize(uniform(4) - 0.5, dim=-1),
        colors=uniform(3),
    ).to(dtype)


def leaves(gaussians: Gaussians) -> Gaussians:
    return gaussians.map(lambda tensor: tensor.clone().requires_grad_())


def gradients(loss: torch.Tensor, gaussians: Gaussians) -> dict[str, torch.Tensor]:
    return dict(
        zip(
            FIELDS,
            torch.autograd.grad(loss, [getattr(gaussians, name) for name in FIELDS]),
            strict=True,
        )
    )
