"""The backends against numbers calculated apart from them, and against each other."""

import dataclasses
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch

from lgm.cameras import FOVY, orbit_poses, world_to_camera
from lgm.gaussians import Gaussians
from lgm.render import render
from lgm.render.projection import JACOBIAN_LIMIT

from .conftest import FIELDS, gradients, leaves, needs_numba, random_gaussians


@pytest.fixture(scope="module")
def recorded(request):
    """The tensors and settings of `render_mini` (see tests/data/README.md)."""
    path = request.config.rootpath / "tests" / "data" / "render_mini.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    return safetensors.torch.load_file(path), meta


@pytest.mark.parametrize(
    ("dtype", "tolerance", "depth_tolerance", "gradient_tolerance"),
    [(torch.float32, 1e-4, 5e-4, 1e-3), (torch.float64, 1e-9, 1e-9, 1e-9)],
    ids=["float32", "float64"],
)
def test_recorded_pictures_and_gradients(
    recorded, backend, dtype, tolerance, depth_tolerance, gradient_tolerance
):
    if backend == "numba" and dtype == torch.float64:
        pytest.skip("numba draws in float32")
    tensors, meta = recorded
    gaussians = leaves(Gaussians(*(tensors[f"in.{name}"][None] for name in FIELDS)).to(dtype))
    out = render(
        gaussians, tensors["c2w"], meta["size"], meta["fovy"], meta["background"], backend=backend
    )
    solid = tensors["fragile"] == 0
    loss = 0.0
    for name, limit in (("images", tolerance), ("alphas", tolerance), ("depths", depth_tolerance)):
        picture = getattr(out, name)[0]
        difference = (picture.double() - tensors[name]).abs()
        assert difference[solid.expand_as(difference)].max() <= limit, name
        loss = loss + (tensors[f"loss.{name}"] * picture).sum()
    for name, grad in gradients(loss, gaussians).items():
        expected = tensors[f"grad.{name}"]
        assert (grad[0].double() - expected).norm() <= gradient_tolerance * expected.norm(), name


@pytest.fixture(scope="module")
def crowd():
    """2,000 Gaussians, a random loss over all outputs, and what the reference makes of them."""
    gaussians, cameras, size = (
        random_gaussians(2000, seed=3),
        orbit_poses([75.0], elevation=-20.0),
        40,
    )
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(channels, size, size, generator=generator) for channels in (3, 1, 1)]

    def outcome(backend):
        leaf = leaves(gaussians)
        out = render(leaf, cameras, size, background=0.2, backend=backend)
        pictures = (out.images[0, 0], out.alphas[0, 0], out.depths[0, 0])
        loss = sum(
            (weight * picture).sum() for weight, picture in zip(weights, pictures, strict=True)
        )
        return torch.cat([picture.detach() for picture in pictures]), gradients(loss, leaf)

    return outcome, outcome("reference")


def test_two_thousand_gaussians_equal_the_reference(crowd, fast_backend):
    """Ties at thresholds may fall either way in float32: 1 pixel in 200, by a single Gaussian."""
    outcome, (expected, expected_gradients) = crowd
    pictures, grads = outcome(fast_backend)
    difference = (pictures - expected).abs()
    assert (difference > 1e-4).float().mean() < 0.005
    assert difference[:4].max() < 0.02
    for name, grad in grads.items():
        assert (grad - expected_gradients[name]).norm() < 5e-3 * expected_gradients[name].norm(), (
            name
        )


def test_reference_gradients_equal_finite_differences():
    gaussians = random_gaussians(3, seed=2, dtype=torch.float64)
    inputs = [getattr(gaussians, name).requires_grad_() for name in FIELDS]
    inputs[2] = (inputs[2].detach() + 0.3).requires_grad_()

    def pictures(*fields):
        out = render(
            Gaussians(*fields), orbit_poses([10.0]), 3, background=0.3, backend="reference"
        )
        return out.images, out.alphas, out.depths

    assert pictures(*inputs)[1].min() > 0.05, (
        "every pixel has to be covered, or a step may cross a threshold"
    )
    assert torch.autograd.gradcheck(pictures, inputs, eps=1e-7, atol=1e-5)


def test_reference_gradients_of_bands_equal_finite_differences():
    """Positions too: they move the direction that a Gaussian is seen from."""
    gaussians = random_gaussians(3, seed=2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    sh = 0.1 * torch.randn(1, 3, 15, 3, generator=generator, dtype=torch.float64)
    fields = gaussians.tensors() | {"scales": gaussians.scales + 0.3}

    def pictures(positions, colors, sh):
        changed = fields | {"positions": positions, "colors": colors, "sh": sh}
        return render(
            Gaussians(**changed), orbit_poses([10.0, 100.0]), 3, backend="reference"
        ).images

    inputs = [t.requires_grad_() for t in (gaussians.positions, gaussians.colors + 0.5, sh)]
    assert torch.autograd.gradcheck(pictures, inputs, eps=1e-7, atol=1e-5)


def test_gradients_of_bands_equal_the_reference(fast_backend):
    gaussians = random_gaussians(200, seed=4)
    sh = 0.2 * torch.randn(1, 200, 8, 3, generator=torch.Generator().manual_seed(1))
    results = {}
    for name in (fast_backend, "reference"):
        leaf = leaves(dataclasses.replace(gaussians, sh=sh))
        out = render(leaf, orbit_poses([0.0, 120.0]), (17, 30), backend=name)
        loss = (out.images * torch.linspace(-1, 1, 30)).sum()
        results[name] = torch.autograd.grad(loss, list(leaf.tensors().values()))
    for found, expected in zip(*results.values(), strict=True):
        assert (found - expected).norm() < 1e-3 * expected.norm()
        assert expected.any()


def test_length_of_a_quaternion_does_not_matter(backend):
    gaussians = random_gaussians(50)
    longer = Gaussians(
        *(getattr(gaussians, name) * (3 if name == "rotations" else 1) for name in FIELDS)
    )
    cameras = orbit_poses([0.0])
    torch.testing.assert_close(
        render(longer, cameras, 16, backend=backend).images,
        render(gaussians, cameras, 16, backend=backend).images,
    )


def test_background_has_a_gradient(backend):
    background = torch.full((3,), 0.5, requires_grad=True)
    out = render(
        random_gaussians(20), orbit_poses([0.0]), 9, background=background, backend=backend
    )
    (grad,) = torch.autograd.grad(out.images.sum(), background)
    torch.testing.assert_close(grad, (1 - out.alphas).sum().expand(3))


@needs_numba
def test_numba_is_deterministic_and_does_not_depend_on_the_threads():
    leaf, cameras = leaves(random_gaussians(500)), orbit_poses([0.0])

    def picture_and_gradients():
        images = render(leaf, cameras, 48, backend="numba").images
        return images.detach(), gradients(images.square().sum(), leaf)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        (images, grads), (again, grads_again) = picture_and_gradients(), picture_and_gradients()
        torch.set_num_threads(1)
        alone, grads_alone = picture_and_gradients()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(images, again)
    assert torch.equal(images, alone)
    for name in FIELDS:
        assert torch.equal(grads[name], grads_again[name])
        torch.testing.assert_close(
            grads[name], grads_alone[name], rtol=1e-4, atol=1e-5 * float(grads[name].abs().max())
        )


@needs_numba
def test_numba_can_be_called_from_many_threads():
    gaussians, cameras = random_gaussians(200), orbit_poses([0.0, 90.0])
    expected = render(gaussians, cameras, 24, backend="numba").images
    with ThreadPoolExecutor(4) as pool:
        for images in pool.map(
            lambda _: render(gaussians, cameras, 24, backend="numba").images, range(8)
        ):
            assert torch.equal(images, expected)


@needs_numba
def test_kernels_compile_where_no_cache_can_be_written(monkeypatch):
    from lgm.machine import numba_jit

    def njit(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return "compiled"

    monkeypatch.setattr(numba_jit, "njit", njit)
    assert numba_jit.jit(lambda: None) == "compiled"


@pytest.mark.parametrize("backend", ["torch", pytest.param("numba", marks=needs_numba)])
def test_position_gradient_where_the_slope_is_limited(backend):
    """Far off the axis the projection's slope stays at its limit, and what it is multiplied with
    still grows with depth. The original's rasterizer counts that twice.
    """
    camera = orbit_poses([0.0])
    position = torch.tensor([[[1.0, 0.1, 0.2]]], dtype=torch.float64, requires_grad=True)
    others = [
        torch.tensor([[values]], dtype=torch.float64)
        for values in ([0.9], [0.5, 0.4, 0.6], [0.9, 0.3, 0.2, 0.1], [0.9, 0.4, 0.2])
    ]
    seen = world_to_camera(camera.double())[0] @ torch.cat([position[0, 0].detach(), torch.ones(1)])
    assert (seen[0] / seen[2]).abs() > JACOBIAN_LIMIT * math.tan(math.radians(FOVY) / 2)

    def pictures(positions, backend):
        drawn = render(Gaussians(positions, *others), camera, 8, background=0.3, backend=backend)
        return drawn.images, drawn.alphas

    def gradient(backend):
        return torch.autograd.grad(pictures(position, backend)[0].square().sum(), position)[0]

    assert pictures(position, "reference")[1].min() > 0.005
    assert torch.autograd.gradcheck(
        lambda x: pictures(x, "reference"), [position], eps=1e-7, atol=1e-5
    )
    expected = gradient("reference")
    assert (gradient(backend) - expected).norm() < 1e-4 * expected.norm()
