"""Triton kernels, interpreted, and the hull for numba, against plain torch; CUDA graphs, on a GPU.

Triton decides at import whether to interpret: a second process runs this file as a script.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgm import LGM, Preset
from lgm.cameras import FOVY, camera_rays, orbit_poses
from lgm.network import carving, hull
from lgm.training.learning.lpips import EPSILON, map_distance
from lgm.training.recipe import Recipe

needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs numba")
MAPS = [(2, 64, 7, 5), (1, 64, 13, 11), (2, 512, 3, 5), (1, 128, 1, 1)]  # N, C, H, W
HULLS = [  # B, V, side, depths, poles
    (2, 2, 17, 64, False),
    (1, 3, 15, 16, False),
    (1, 4, 15, 16, False),
    (1, 4, 15, 16, True),
    (1, 8, 11, 8, False),
]
ZERO = (0, slice(None), 0, 0)  # a pixel where ReLU left nothing
SMALL = Preset(
    down_channels=(32, 32, 32),
    down_attention=(False, False, True),
    up_channels=(32, 32),
    up_attention=(False, False),
    splat_size=32,
    input_size=64,
    decoding="hull",
    poles=True,
    corrector=Preset(
        down_channels=(32, 32),
        down_attention=(False, True),
        up_channels=(32, 32),
        up_attention=(True, False),
        splat_size=64,
        input_size=64,
        decoding="correction",
    ),
)


@pytest.fixture(scope="module")
def interpreted():
    """What the kernels got, by case; see `interpret`."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, str(Path(__file__).resolve())]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("shape", MAPS)
def test_distance_of_maps_and_its_gradient_agree_with_float64(interpreted, shape):
    value, gradient, at_zero = interpreted[f"{shape}"]
    assert value < 1e-6 and gradient < 1e-6
    assert at_zero == 0  # no direction, no gradient: nothing comes through the ReLU there


def test_distance_of_bfloat16_maps_is_summed_in_float32(interpreted):
    value, gradient, _ = interpreted["bfloat16"]
    assert value < 1e-6
    assert gradient < 8e-3  # rounded once: the interpreter truncates to bfloat16


def test_distance_without_kernels_agrees_with_float64():
    value, gradient, _ = distance_errors((2, 64, 7, 5))
    assert value < 1e-6 and gradient < 1e-6


@pytest.mark.parametrize("shape", HULLS)
@pytest.mark.parametrize("kernel", ["triton", pytest.param("numba", marks=needs_numba)])
def test_kernel_finds_the_hull_of_plain_torch(kernel, shape, request):
    if kernel == "triton":
        found = request.getfixturevalue("interpreted")[f"hull {shape}"]
    else:
        found = hull_errors(hull, *shape)
    assert 0.02 < found["share"] < 0.9  # some rays meet the hull, some don't
    assert found["valid"] == 0
    assert max(found["near"], found["far"]) < 1e-5
    assert found["order"] >= 0  # rays leave after they enter


def distance_errors(shape, dtype=torch.float32):
    """Relative errors of value and gradient; the largest gradient at the pixel without length."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).relu().to(dtype) for _ in range(2))
    if a[0, 0].numel() > 1:
        a[ZERO] = 0
    weights = torch.rand(shape[1], generator=generator)
    a = a.contiguous(memory_format=torch.channels_last).requires_grad_()
    value = map_distance(a, b, weights)
    (3 * value).backward()  # a factor, so that the incoming gradient counts

    exact = a.detach().double().requires_grad_()
    units = [
        x / (x.square().sum(1, keepdim=True).clamp(min=1e-300).sqrt() + EPSILON)
        for x in (exact, b.double())
    ]
    difference = (units[0] - units[1]).square()
    reference = (difference * weights.double()[:, None, None]).sum(1).mean()
    (3 * reference).backward()
    somewhere = (exact.detach() != 0).any(1, keepdim=True).expand_as(a)
    ours, theirs = a.grad.double()[somewhere], exact.grad[somewhere]
    at_zero = a.grad[~somewhere].abs().sum()
    errors = (value.double() / reference - 1).abs(), (ours - theirs).norm() / theirs.norm(), at_zero
    return [float(error.detach()) for error in errors]


def hull_errors(hull, batch, views, side, depths, poles):
    """The kernel's hull against plain torch's, of three spheres seen from uneven cameras."""
    generator = torch.Generator().manual_seed(views)
    around = torch.arange(batch * views) % views * 360 / views + 10 * torch.rand(
        batch * views, generator=generator
    )
    c2w = orbit_poses(around, 40 * torch.rand(batch * views, generator=generator) - 10)
    c2w = c2w.view(batch, views, 4, 4)
    c2w[..., :3, 3] *= 0.8 + torch.rand(batch, views, 1, generator=generator)  # distances
    centers = 0.6 * torch.rand(3, 3, generator=generator) - 0.3
    origins, directions = camera_rays(c2w, side)
    across = torch.linalg.cross(centers - origins[..., None, :], directions[..., None, :])
    alphas = torch.sigmoid((0.25 - across.norm(dim=-1)) / 0.05).amax(-1)[:, :, None]
    tan_half = torch.full((batch, views), math.tan(math.radians(FOVY) / 2))
    tan_half = tan_half * (1 + 0.1 * torch.rand(batch, views, generator=generator))
    arguments = (alphas.expand(-1, -1, 3, -1, -1), alphas, c2w, tan_half, poles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carving, "MARCH_STEPS", depths)  # fewer take less of the interpreter's time
        found = hull.visual_hull(*arguments)
        patch.setattr(carving, "uses_triton", lambda x: False)
        patch.setattr(carving, "why_no_numba", lambda: "it is to be compared with")
        expected = hull.visual_hull(*arguments)

    def largest(name):
        return float((getattr(found, name) - getattr(expected, name)).abs().max())

    errors = {name: largest(name) for name in ("valid", "near", "far")}
    order = float((found.far - found.near).min())
    return errors | {"share": float(expected.valid.mean()), "order": order}


def interpret() -> dict:
    from lgm.network import carving_triton
    from lgm.training.learning import lpips

    assert lpips.uses_triton(torch.ones(1)) and carving.uses_triton(torch.ones(1))
    carving_triton.BLOCK = 256  # the interpreter's time goes by operations, not by numbers
    results = {f"{shape}": distance_errors(shape) for shape in MAPS}
    results["bfloat16"] = distance_errors((1, 64, 7, 5), torch.bfloat16)
    return results | {f"hull {shape}": hull_errors(hull, *shape) for shape in HULLS}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_graphed_gradients_are_eager_ones_and_accumulate():
    """Of a network and its corrector, in the order of a step: forth and forth, back and back."""
    from lgm.training.learning.graphs import graph_networks
    from lgm.training.learning.network import for_training
    from lgm.training.learning.run import Run

    torch.manual_seed(0)
    device = torch.device("cuda", torch.cuda.current_device())
    run = Run(for_training(LGM(SMALL), device), Recipe())
    channels = (SMALL.in_channels, SMALL.corrector.in_channels)
    batches = [
        [torch.randn(2, views, c, 64, 64, device=device) for c in channels] for views in (6, 5, 6)
    ]

    def step(x, seen):
        change = run.model.corrections(seen)[..., ::2, ::2]
        (run.model.features(x) + change).square().mean().backward()

    def gradients(batch, steps: int = 1):
        run.optimizer.zero_grad(set_to_none=run.fresh_gradients)
        for _ in range(steps):
            step(*batch)
        return torch.cat([parameter.grad.flatten() for parameter in run.parameters])

    eager = [gradients(batch) for batch in batches]
    with torch.no_grad():
        output = run.model.features(batches[0][0])
    calls = []
    graph_networks(run, lambda: calls.append(True))
    for batch, expected in zip(batches, eager, strict=True):
        assert (gradients(batch) - expected).norm() / expected.norm() < 1e-2
    assert len(calls) == 4  # each recorded once for each shape
    once, twice = gradients(batches[0]), gradients(batches[0], steps=2)
    assert (twice - 2 * once).norm() / once.norm() < 1e-2
    with torch.no_grad():
        assert torch.equal(run.model.features(batches[0][0]), output)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("graph", [False, True])
def test_a_step_does_not_wait_for_the_gpu_and_a_lost_one_is_found_in_the_next(graph):
    """gsplat alone waits, for how much it has to draw."""
    from lgm.training.batches.drawn import BatchMaker
    from lgm.training.learning.graphs import graph_networks
    from lgm.training.learning.network import for_training
    from lgm.training.learning.run import Run
    from lgm.training.learning.step import train_step
    from lgm.training.recipe import RECIPES

    device = torch.device("cuda", torch.cuda.current_device())
    recipe = replace(RECIPES["demo"], batch_sizes=(2,), sizes=(64,), stage_ends=(1.0,), rounds=(2,))
    maker = BatchMaker((), recipe, device, seed=1, workers=0)
    model = LGM(SMALL)
    torch.nn.init.normal_(model.conv.weight, std=0.02)
    run = Run(for_training(model, device), recipe)
    if graph:
        graph_networks(run, maker.wait_until_idle)
    batch = maker.batches(0, 0, 0.5)[0]
    for _ in range(3):  # records, compiles, and sends constants
        train_step(run, [batch], 0.5, None)
    maker.wait_until_idle()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        train_step(run, [batch], 0.5, None)
        torch.cuda.set_sync_debug_mode("default")
    assert not [f"{w.filename}:{w.lineno}" for w in waits if "/lgm/" in w.filename]

    def state():
        moments = [x for values in run.optimizer.state.values() for x in values.values()]
        return torch.cat([x.detach().flatten() for x in [*run.parameters, *moments]])

    before, images = state(), batch.images.clone()
    images[1] = float("nan")
    train_step(run, [replace(batch, images=images)], 0.5, None)
    assert torch.equal(before, state())
    with pytest.raises(RuntimeError, match=f"finite loss.*{batch.names[1]}"):
        train_step(run, [batch], 0.5, None)
    assert torch.equal(before, state())
    train_step(run, [batch], 0.5, None)
    assert run.failures == 0 and state().isfinite().all() and not torch.equal(before, state())


if __name__ == "__main__":
    print(json.dumps(interpret()))
