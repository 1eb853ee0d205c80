import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from lgm.cameras import FOVY, focal_length, orbit_poses
from lgm.gaussians import Gaussians, concatenate
from lgm.machine.interrupt import working
from lgm.mesh import Mesh, refine
from lgm.mesh.draw import draw_mesh
from lgm.mesh.texture import bake
from lgm.mesh.unwrap import unwrapped
from lgm.render import render

needs_nvdiffrast = pytest.mark.skipif(
    bool(refine.why_not()), reason="needs an NVIDIA GPU and nvdiffrast"
)

DISTANCE = 2.0  # of the cameras here


def ball(radius: float, size: int = 128) -> Mesh:
    shape = trimesh.creation.icosphere(4, radius)
    vertices = torch.tensor(np.array(shape.vertices), dtype=torch.float32)
    mesh = unwrapped(Mesh(vertices, torch.tensor(np.array(shape.faces), dtype=torch.int64)), size)
    return Mesh(mesh.vertices, mesh.faces, uvs=mesh.uvs, texture=torch.full((size, size, 3), 0.5))


def red_and_blue(radius: float = 0.6, count: int = 20_000) -> Gaussians:
    """A dense shell, red where x > 0, else blue."""
    directions = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    colors = torch.where(
        directions[:, :1] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    )
    return Gaussians(
        positions=(radius * directions)[None],
        opacities=torch.full((1, count, 1), 0.99),
        scales=torch.full((1, count, 3), 0.01),
        rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4).clone(),
        colors=colors[None],
    )


def poses() -> torch.Tensor:
    return orbit_poses([10.0, 130.0, 250.0], torch.tensor([-60.0, 0.0, 60.0]), DISTANCE)


def error(mesh: Mesh, splat: Gaussians) -> float:
    wanted = render(splat, poses(), 128).images[0]
    return (draw_mesh(mesh, poses(), 128)[0] - wanted).square().mean().item()


def outline(splat: Gaussians, size: int) -> float:
    """Radius of the ball that covers as much of pictures with so many pixels as the splat does."""
    covered = render(splat, poses(), size).alphas[0].sum((1, 2, 3)).mean().item()
    tangent = math.sqrt(covered / math.pi) / focal_length(size, FOVY)
    return DISTANCE * tangent / math.sqrt(1 + tangent**2)


def test_a_baked_ball_of_the_outline_s_radius_is_the_best():
    splat, best = red_and_blue(), outline(red_and_blue(), 128)
    assert 0.62 < best < 0.64  # three of the Gaussians' scales outside of their centers
    errors = {}
    for radius in (best - 0.01, best, best + 0.01):
        mesh = ball(radius)
        errors[radius] = error(replace(mesh, texture=bake(mesh, splat, 128, views=16)), splat)
    assert min(errors, key=errors.get) == best
    assert errors[best] < 0.02 * error(ball(best - 0.02), splat)


@needs_nvdiffrast
@pytest.mark.parametrize("inference", [False, True])
def test_a_gray_ball_too_small_grows_and_takes_the_colors(inference):
    wanted = outline(red_and_blue(), refine.SIZE)
    start = wanted - 0.015  # 300 steps move a vertex 0.019; from further off it takes more
    splat, mesh = red_and_blue(), ball(start)
    with torch.inference_mode(inference):
        refined = refine.refine(mesh, splat, steps=300)
    assert torch.equal(refined.faces, mesh.faces) and torch.equal(refined.uvs, mesh.uvs)
    radii = refined.vertices.norm(dim=-1)
    assert abs(radii.mean().item() - wanted) < 0.4 * (wanted - start)
    assert error(refined, splat) < 0.1 * error(mesh, splat)
    outward = torch.nn.functional.normalize(refined.vertices, dim=-1)
    assert (outward * refined.normals).sum(-1).min() > 0.8


@pytest.mark.slow
@needs_nvdiffrast
def test_scale_and_place_do_not_matter():
    splat, mesh = red_and_blue(), ball(0.59)
    near = refine.refine(mesh, splat, steps=50)
    shift = torch.tensor([300.0, -200.0, 100.0])
    moved = Gaussians(
        splat.positions * 100 + shift,
        splat.opacities,
        splat.scales * 100,
        splat.rotations,
        splat.colors,
    )
    far = Mesh(mesh.vertices * 100 + shift, mesh.faces, uvs=mesh.uvs, texture=mesh.texture)
    back = (refine.refine(far, moved, steps=50).vertices - shift) / 100
    assert (back - near.vertices).norm(dim=-1).mean() < 1e-3


@needs_nvdiffrast
def test_it_can_be_stopped():
    class Stop(Exception):
        pass

    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Stop

    with pytest.raises(Stop), working(check):
        refine.refine(ball(0.59), red_and_blue())


@pytest.mark.skipif(not refine.why_not(), reason="needs a machine that lacks nvdiffrast or a GPU")
def test_what_is_missing_is_said_with_what_to_do():
    with pytest.raises(RuntimeError, match=r"nvdiffrast.*pip install.*NVIDIA GPU"):
        refine.refine(ball(0.5), red_and_blue(count=10))
    assert importlib.util.find_spec("nvdiffrast") is None or not torch.cuda.is_available()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"steps": 0}, "one step"),
        ({"mesh": Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))}, "bake one"),
        ({"gaussians": concatenate([red_and_blue(count=9)] * 2)}, "batch of 2"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(settings, words):
    good = {"mesh": ball(0.5), "gaussians": red_and_blue(count=9), "steps": 1}
    with pytest.raises(ValueError, match=words):
        refine.refine(**good | settings)


def test_vertices_stay_where_faces_would_turn_over():
    places = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [2, 0, 0]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [1, 4, 3]])
    offsets = torch.zeros(5, 3)
    offsets[0, 2] = 0.1
    assert torch.equal(refine._without_flips(places, offsets, faces), offsets)
    offsets[4] = torch.tensor([-2.0, 0, 0])  # beyond its own edge
    kept = refine._without_flips(places, offsets, faces)
    assert torch.equal(kept[0], offsets[0]) and not kept[4].any()


def test_the_unit_ball_fits_the_pictures():
    half = np.tan(np.radians(refine._fovy() / 2))
    outline = 1 / np.sqrt(refine.DISTANCE**2 - 1)
    assert 0.95 < outline / half < 1
