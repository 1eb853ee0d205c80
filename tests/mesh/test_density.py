from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lgm.gaussians import concatenate
from lgm.machine.interrupt import working
from lgm.mesh.density import BLUR, COARSEST, TILE, WIDE, density, enclose
from lgm.mesh.fuse import fuse
from lgm.mesh.merge import MANY, merged
from lgm.mesh.unit_ball import Grid
from lgm.render import render
from lgm.rotations import rotation_matrices

from .shapes import (
    LOW,
    arrays,
    ball,
    clean,
    directions,
    euler,
    is_closed,
    overlap,
    shell,
    splat,
    square,
    volume,
)

# At quarters of a step h, what is interpolated is off by 3/32 h^2 times its second derivative.
ROUGH = 3 / 32 / WIDE**2


def turned(gaussians, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.randn(gaussians.rotations.shape, generator=generator)
    return replace(gaussians, rotations=F.normalize(rotations, dim=-1))


@pytest.mark.parametrize(
    "scales, error",
    [
        ([0.01, 0.05, 0.1], 0.0),
        ([0.0, 0.0, 0.3], 0.0),
        ([0.15, 0.15, 0.15], ROUGH),
        ([0.5, 0.6, 0.7], ROUGH),
    ],
)
def test_the_field_is_the_sum_of_all_gaussians(scales, error):
    side, voxel = TILE * 2**COARSEST, 0.03
    grid = Grid(torch.tensor([-0.2, -0.3, -0.1]), voxel, (side, 2 * side, side))
    places = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) - 0.3
    gaussians = turned(splat(places, scales, 0.7))
    found = density(gaussians, grid)
    assert found.shape == grid.shape

    points = torch.cartesian_prod(*(torch.arange(n) * voxel for n in grid.shape)) + grid.origin
    axes = rotation_matrices(gaussians.rotations[0])
    along = ((points[:, None, :, None] - places[:, :, None]) * axes).sum(-2)
    squares = (along**2 / (gaussians.scales[0] ** 2 + (BLUR * voxel) ** 2)).sum(-1)
    each = 0.7 * (-squares / 2).exp()
    # What lies beyond three deviations may be left out.
    slack = 1e-4 + error * (each * (3 + squares)).sum(1)
    most, least = each.sum(1) + slack, (each * (squares <= 9)).sum(1) - slack
    most, least = most.view(grid.shape), least.view(grid.shape)
    inner = slice(3, -3)  # a halved grid knows less of the border, which is empty in use
    assert (found <= most)[inner, inner, inner].all() and (found >= least)[
        inner, inner, inner
    ].all()


def test_a_hollow_shell_becomes_a_solid_ball():
    gaussians = ball()
    vertices, faces = arrays(enclose(gaussians, LOW))
    assert vertices.dtype == np.float32 and faces.dtype == np.int64
    assert is_closed(faces)
    vertices, faces, normals = clean(vertices, faces)
    assert euler(vertices, faces) == 2
    radii = np.linalg.norm(vertices, axis=1)
    assert 0.4 < radii.mean() < 0.45
    assert radii.std() < 0.005
    assert (normals * vertices).sum(1).min() > 0
    assert overlap(gaussians, vertices, faces) > 0.97


def bowl(opening: float) -> torch.Tensor:
    """A shell [N, 3] of radius 0.4 without what lies within `opening` of its upper pole."""
    places = shell(count=25000)
    return places[(places - torch.tensor([0.0, 0.4, 0.0])).norm(dim=-1) > opening]


@pytest.mark.parametrize("opening, is_hollow", [(0.04, False), (0.12, True)])
def test_small_gaps_lead_nowhere_and_mouths_inside(opening, is_hollow):
    """Pictures see little of a bottle's inside; here it is as real as the outside."""
    vertices, faces = arrays(enclose(splat(bowl(opening), 0.012), 96))
    assert is_closed(faces)
    solid = 4 / 3 * np.pi * 0.42**3
    assert (volume(vertices, faces) < 0.5 * solid) == is_hollow
    vertices, faces, _ = clean(vertices, faces)
    assert is_closed(faces) and euler(vertices, faces) == 2  # one wall all around the material


@pytest.mark.parametrize("axis", range(3))
def test_a_card_without_thickness_becomes_a_thin_closed_sheet(axis):
    flat = torch.zeros(6000, 3)
    flat[:, [a for a in range(3) if a != axis]] = square()
    scale = torch.full((3,), 0.015)
    scale[axis] = 0
    vertices, faces, _ = clean(*arrays(enclose(splat(flat, scale), LOW)))
    assert is_closed(faces) and euler(vertices, faces) == 2
    size = np.ptp(vertices, axis=0)
    assert size[axis] < 0.08
    assert (np.delete(size, axis) > 0.97).all() and (size < 1.07).all()


def test_two_objects_both_stay():
    places = [shell(0.2, (0.35, 0, 0), 3000), shell(0.15, (-0.4, 0, 0), 2000)]
    vertices, faces, _ = clean(*arrays(enclose(splat(torch.cat(places), 0.012), LOW)))
    assert is_closed(faces) and euler(vertices, faces) == 4


@pytest.mark.slow
def test_scale_and_place_do_not_matter():
    plain = arrays(enclose(ball(), LOW))
    for scale, shift in ((1e-4, 0.0), (300.0, 1000.0)):
        gaussians = ball()
        moved = replace(
            gaussians,
            positions=gaussians.positions * scale + shift,
            scales=gaussians.scales * scale,
        )
        vertices, faces = arrays(enclose(moved, LOW))
        assert volume((vertices.astype(np.float64) - shift) / scale, faces) == pytest.approx(
            volume(*plain), rel=0.01
        )


def test_the_same_splat_gives_the_same_surface_whatever_its_colors():
    gaussians = ball()
    sh = torch.ones(1, gaussians.count, 15, 3)
    other = replace(gaussians, colors=1 - gaussians.colors, sh=sh)
    for one, two in zip(arrays(enclose(gaussians, 32)), arrays(enclose(other, 32)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_one_gaussian_becomes_its_own_ellipsoid():
    gaussians = splat(torch.zeros(1, 3), [0.2, 0.1, 0.05])
    vertices, faces, _ = clean(*arrays(enclose(gaussians, LOW)))
    assert is_closed(faces) and euler(vertices, faces) == 2
    np.testing.assert_allclose(np.ptp(vertices, axis=0) / 2, [0.2, 0.1, 0.05], rtol=0.25)


@pytest.mark.parametrize("opacity", [0.15, 0.95])
def test_the_level_follows_what_pictures_show(opacity):
    """Faint Gaussians that overlap much look like opaque ones that overlap little."""
    gaussians = splat(shell(count=24000), 0.015, opacity)
    vertices, faces, _ = clean(*arrays(enclose(gaussians, LOW)))
    assert overlap(gaussians, vertices, faces) > 0.96


@pytest.mark.parametrize(
    "gaussians, words",
    [
        (splat(torch.zeros(0, 3), 0.1), "empty"),
        (splat(shell(), 0.1, opacity=0.001), "visible Gaussians"),
        (splat(shell(), 0.015, opacity=0.02), "50%"),
        (splat(shell(count=30), 0.01, opacity=0.3), "50%"),
        (ball().map(lambda tensor: tensor.expand(2, -1, -1)), "batch of 2"),
    ],
)
def test_nothing_to_see_is_said_in_a_sentence(gaussians, words):
    with pytest.raises(ValueError, match=words):
        enclose(gaussians, 32)


def test_it_tells_its_progress_and_can_be_stopped_anywhere():
    class Stop(Exception):
        pass

    done = []
    gaussians = splat(shell(count=800), 0.04)
    with working(progress=done.append):
        enclose(gaussians, 32)
    assert done == sorted(done) and done[-1] == 1.0 and len(done) >= 5
    for calls in (1, 2, 5, 10):
        left = [calls]

        def check(left=left):
            left[0] -= 1
            if not left[0]:
                raise Stop

        with pytest.raises(Stop), working(check):
            enclose(gaussians, 32)


# Merging --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense():
    """More Gaussians than MANY, far smaller than a voxel, without gaps between them."""
    return splat(shell(count=MANY + 50_000), 0.0025)


def test_merged_gaussians_look_the_same(dense):
    few = merged(dense, 1 / 64)
    assert few.count < dense.count / 5
    pose = torch.eye(4)
    pose[2, 3] = 2
    one, two = (render(g, pose[None], 64).alphas[0, 0] for g in (dense, few))
    lowest, highest = -F.max_pool2d(-one, 3, 1, 1), F.max_pool2d(one, 3, 1, 1)
    outline = highest - lowest > 0.01
    assert ((one - two).abs()[~outline] < 0.02).all() and outline.float().mean() < 0.2
    # The outline moves by less than a third of a cell.
    assert (one.sum() - two.sum()).abs() < 2 * (1 / 64 / 3) / 0.4 * one.sum()


def test_merging_leaves_few_and_large_ones_alone(dense):
    few = ball()
    assert merged(few, 1.0) is few
    large = splat(directions(100), 0.1)
    kept = merged(concatenate([large, dense], dim=1), 1 / 64)
    torch.testing.assert_close(kept.positions[:, :100], large.positions, atol=0, rtol=0)


@pytest.mark.parametrize("find", [fuse, enclose])
def test_many_gaussians_make_the_surface_of_fewer(find, dense):
    vertices, faces, _ = clean(*arrays(find(dense, 48)))
    assert is_closed(faces) and euler(vertices, faces) == 2
    radii = np.linalg.norm(vertices, axis=1)
    assert 0.4 < radii.mean() < 0.43 and radii.std() < 0.005
