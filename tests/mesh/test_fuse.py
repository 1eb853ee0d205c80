from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lgm.cameras import focal_length, world_to_camera
from lgm.gaussians import Gaussians
from lgm.machine.interrupt import working
from lgm.mesh.fuse import front_depth, fuse, poses_around

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


def test_a_hollow_shell_becomes_a_solid_ball():
    gaussians = ball()
    vertices, faces = arrays(fuse(gaussians, LOW))
    assert vertices.dtype == np.float32 and faces.dtype == np.int64
    assert is_closed(faces)
    vertices, faces, normals = clean(vertices, faces)
    assert euler(vertices, faces) == 2
    radii = np.linalg.norm(vertices, axis=1)
    assert 0.4 < radii.mean() < 0.435  # where coverage ends, a standard deviation further out
    assert radii.std() < 0.005
    assert (normals * vertices).sum(1).min() > 0
    assert overlap(gaussians, vertices, faces) > 0.97


def test_thin_parts_and_concave_places_match_unseen_silhouettes():
    # A bowl on a stick with a wire handle.
    angle = 2 * torch.pi * torch.rand(9000, 2, generator=torch.Generator().manual_seed(1))
    cup = shell(0.3, count=12000)
    cup = cup[cup[:, 1] < 0.1]
    stick = 0.02 * directions(3000, 1) * torch.tensor([1.0, 0, 1.0])
    stick[:, 1] = torch.linspace(-0.75, -0.3, 3000)
    u, v = angle.unbind(1)
    tube = 0.15 + 0.015 * v.cos()
    handle = torch.stack([0.42 + tube * u.cos(), -0.05 + tube * u.sin(), 0.015 * v.sin()], 1)
    gaussians = splat(torch.cat([cup, stick, handle]), 0.008)
    vertices, faces = arrays(fuse(gaussians, 96))
    assert is_closed(faces)
    vertices, faces, normals = clean(vertices, faces, target_faces=8000)
    assert is_closed(faces)
    assert overlap(gaussians, vertices, faces) > 0.94
    middle = np.hypot(vertices[:, 0], vertices[:, 2]) < 0.1
    floor = vertices[middle & (normals[:, 1] > 0.7) & (vertices[:, 1] > -0.4)]
    assert len(floor) and floor[:, 1].max() < -0.25  # the bowl is not filled up


@pytest.mark.parametrize("axis", range(3))
def test_a_card_without_thickness_becomes_a_thin_closed_sheet(axis):
    flat = torch.zeros(6000, 3)
    flat[:, [a for a in range(3) if a != axis]] = square()
    scale = torch.full((3,), 0.015)
    scale[axis] = 0
    vertices, faces, _ = clean(*arrays(fuse(splat(flat, scale), LOW)))
    assert is_closed(faces) and euler(vertices, faces) == 2
    size = np.ptp(vertices, axis=0)
    assert size[axis] < 0.08
    assert (np.delete(size, axis) > 0.97).all() and (size < 1.06).all()


def test_two_objects_both_stay_and_strays_go():
    strays = 0.7 * directions(5, 2)
    places = [shell(0.2, (0.35, 0, 0), 3000), shell(0.15, (-0.4, 0, 0), 2000), strays]
    raw = arrays(fuse(splat(torch.cat(places), 0.012), LOW))
    vertices, faces, _ = clean(*raw)
    assert euler(vertices, faces) == 4
    assert vertices[:, 0].max() < 0.6 and vertices[:, 0].min() > -0.6


@pytest.mark.slow
def test_scale_and_place_do_not_matter():
    plain = arrays(fuse(ball(), LOW))
    for scale, shift in ((1e-4, 0.0), (300.0, 1000.0)):
        gaussians = ball()
        moved = replace(
            gaussians,
            positions=gaussians.positions * scale + shift,
            scales=gaussians.scales * scale,
        )
        vertices, faces = arrays(fuse(moved, LOW))
        assert is_closed(faces)
        assert volume((vertices.astype(np.float64) - shift) / scale, faces) == pytest.approx(
            volume(*plain), rel=0.01
        )


def test_the_same_splat_gives_the_same_surface_whatever_its_colors():
    gaussians = ball()
    sh = torch.ones(1, gaussians.count, 15, 3)
    other = replace(gaussians, colors=1 - gaussians.colors, sh=sh)
    for one, two in zip(arrays(fuse(gaussians, 32)), arrays(fuse(other, 32)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_invisible_and_broken_gaussians_change_nothing():
    gaussians = ball()
    extra = splat(torch.cat([shell(0.9, count=50), torch.full((50, 3), torch.nan)]), 0.5)
    extra = replace(extra, opacities=torch.where(extra.positions.isnan()[..., :1], 0.9, 1e-4))
    both = Gaussians(
        **{k: torch.cat([v, extra.tensors()[k]], 1) for k, v in gaussians.tensors().items()}
    )
    for one, two in zip(arrays(fuse(gaussians, 32)), arrays(fuse(both, 32)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_one_gaussian_becomes_its_own_ellipsoid():
    gaussians = splat(torch.zeros(1, 3), [0.2, 0.1, 0.05])
    vertices, faces, _ = clean(*arrays(fuse(gaussians, LOW)))
    assert is_closed(faces) and euler(vertices, faces) == 2
    np.testing.assert_allclose(np.ptp(vertices, axis=0) / 2, [0.2, 0.1, 0.05], rtol=0.25)


def test_the_front_of_two_layers_is_told_from_three_moments():
    generator = torch.Generator().manual_seed(0)
    near, far = -torch.rand(500, generator=generator), torch.rand(500, generator=generator)
    share = 0.05 + 0.9 * torch.rand(500, generator=generator)
    moments = torch.stack([share * near**k + (1 - share) * far**k for k in (1, 2, 3)])
    front = front_depth(moments[:, None], torch.ones(1, 500))[0]
    apart = (far - near > 0.1) & ((share - 0.2).abs() > 0.01)
    expected = torch.where(share > 0.2, near, far)
    torch.testing.assert_close(front[apart], expected[apart], atol=2e-3, rtol=0)
    # Layers at one place are that place.
    single = torch.stack([near, near**2, near**3])
    torch.testing.assert_close(
        front_depth(single[:, None], torch.ones(1, 500))[0], near, atol=1e-5, rtol=0
    )


def test_cameras_see_the_whole_ball_from_everywhere():
    poses, _ = poses_around()
    assert len(poses) >= 40
    points = directions(500)
    camera = torch.einsum("vij,nj->vni", world_to_camera(poses)[:, :3, :3], points)
    camera = camera + world_to_camera(poses)[:, None, :3, 3]
    image = camera[..., :2] / camera[..., 2:] * focal_length(2, 40.0)
    assert image.abs().max() < 1
    toward = F.normalize(poses[:, :3, 3], dim=-1)
    assert (points @ toward.T).amax(1).min() > 0.93  # a camera within 21 degrees of any direction
    # No plane through the middle has several cameras in it, which would all see a card edge-on.
    planes = torch.cat([torch.eye(3), points])
    assert ((planes @ toward.T).abs() < 0.005).sum(1).max() < 4
    assert ((torch.eye(3) @ toward.T).abs() < 0.005).sum() == 0


@pytest.mark.parametrize(
    "gaussians, words",
    [
        (splat(torch.zeros(0, 3), 0.1), "visible Gaussians"),
        (splat(shell(), 0.1, opacity=0.001), "visible Gaussians"),
        (splat(shell() * torch.nan, 0.1), "not finite"),
        (splat(torch.zeros(9, 3), 0.0), "no size"),
        (splat(shell(count=30), 0.01, opacity=0.3), "50%"),
        (ball().map(lambda tensor: tensor.expand(2, -1, -1)), "batch of 2"),
    ],
)
def test_nothing_to_see_is_said_in_a_sentence(gaussians, words):
    with pytest.raises(ValueError, match=words):
        fuse(gaussians, 32)


def test_a_resolution_too_low_is_refused():
    with pytest.raises(ValueError, match="resolution of 16"):
        fuse(ball(), 8)


def test_it_tells_its_progress_and_can_be_stopped_in_every_stage():
    class Stop(Exception):
        pass

    done, calls = [], []
    gaussians = splat(shell(count=800), 0.04)
    with working(lambda: calls.append(len(done)), done.append):
        fuse(gaussians, 32)
    assert done == sorted(done) and done[-1] == 1.0 and 0 < done[0] < 0.05
    assert sum(part <= 0.5 for part in done) >= 40
    assert len(set(calls)) >= len(done) - 3  # between any two steps
    for stage in (0.0, 0.25, 0.5):
        reached = [0.0]

        def check(reached=reached, stage=stage):
            if reached[-1] >= stage:
                raise Stop

        with pytest.raises(Stop), working(check, reached.append):
            fuse(gaussians, 32)
        assert reached[-1] <= stage + 0.02


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    with torch.inference_mode():  # as ComfyUI calls it
        fuse(splat(shell(count=800), 0.04), 32)
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError):
        fuse(splat(shell(count=30), 0.01, opacity=0.3), 32)
    assert torch.get_num_threads() == before
