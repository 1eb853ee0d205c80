"""Laws every backend obeys, edges, and refusals."""

import dataclasses
import logging
import math
import sys

import pytest
import torch
import torch.nn.functional as F

import lgm.render
from lgm.cameras import orbit_poses
from lgm.gaussians import Gaussians, colors_toward, concatenate
from lgm.render import render

from .conftest import FIELDS, gradients, leaves, random_gaussians

CAMERAS = orbit_poses([20.0, 130.0], elevation=15.0)


def one_gaussian(
    position=(0.0, 0.0, 0.0), opacity=0.8, scale=0.1, color=(0.2, 0.5, 0.9)
) -> Gaussians:
    return Gaussians(
        positions=torch.tensor([[position]], dtype=torch.float32),
        opacities=torch.tensor([[[opacity]]]),
        scales=torch.full((1, 1, 3), scale),
        rotations=torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]),
        colors=torch.tensor([[color]]),
    )


def assert_same_picture(actual, expected, atol=1e-5):
    for field in dataclasses.fields(expected):
        torch.testing.assert_close(
            getattr(actual, field.name), getattr(expected, field.name), atol=atol, rtol=0
        )


def assert_almost_same_picture(actual, expected, apart=0.005):
    """Equal but for a few pixels where rounding carries a Gaussian over a threshold."""
    for field in dataclasses.fields(expected):
        difference = (getattr(actual, field.name) - getattr(expected, field.name)).abs()
        assert (difference > 1e-4).float().mean() < apart, field.name


def test_order_of_gaussians_does_not_matter(backend):
    gaussians = random_gaussians(200)
    shuffled = gaussians.select(torch.randperm(200, generator=torch.Generator().manual_seed(1)))
    assert_same_picture(
        render(shuffled, CAMERAS, 24, backend=backend),
        render(gaussians, CAMERAS, 24, backend=backend),
    )


def test_moving_world_and_cameras_together_changes_nothing(backend):
    gaussians = random_gaussians(60, dtype=torch.float64)
    turn = F.normalize(torch.tensor([0.3, -0.8, 0.2, 0.5], dtype=torch.float64), dim=0)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = lgm.render.projection.rotation_matrices(turn)
    motion[:3, 3] = torch.tensor([0.4, -2.0, 1.0])
    w, v = turn[0], turn[1:]
    a, b = gaussians.rotations[..., :1], gaussians.rotations[..., 1:]
    moved = dataclasses.replace(
        gaussians,
        positions=gaussians.positions @ motion[:3, :3].T + motion[:3, 3],
        rotations=torch.cat(
            [
                w * a - (b * v).sum(-1, keepdim=True),
                w * b + a * v + torch.linalg.cross(v.expand_as(b), b),
            ],
            dim=-1,
        ),
    )
    cameras = CAMERAS.double()
    assert_almost_same_picture(
        render(moved, motion @ cameras, 24, backend=backend),
        render(gaussians, cameras, 24, backend=backend),
    )


def test_batches_and_views_equal_single_pictures(backend):
    gaussians = random_gaussians(80, batch=2)
    shared = render(gaussians, CAMERAS, 20, backend=backend)
    own = render(gaussians, torch.stack([CAMERAS, CAMERAS.flip(0)]), 20, backend=backend)
    assert shared.images.shape == (2, 2, 3, 20, 20)
    assert shared.alphas.shape == shared.depths.shape == (2, 2, 1, 20, 20)
    for item in range(2):
        for view in range(2):
            single = render(gaussians.item(item), CAMERAS[view : view + 1], 20, backend=backend)
            for name in ("images", "alphas", "depths"):
                expected = getattr(single, name)[0, 0]
                torch.testing.assert_close(
                    getattr(shared, name)[item, view], expected, atol=1e-6, rtol=0
                )
                own_view = view if item == 0 else 1 - view
                torch.testing.assert_close(
                    getattr(own, name)[item, own_view], expected, atol=1e-6, rtol=0
                )


def test_background_shows_where_nothing_covers(backend):
    gaussians = concatenate([random_gaussians(40, seed=s) for s in (0, 1)])
    black = render(gaussians, CAMERAS, 16, background=0.0, backend=backend)
    per_item = torch.tensor([[0.1, 0.5, 0.9], [1.0, 0.0, 0.3]])
    for background, color in (
        (0.7, torch.full((2, 1, 3), 0.7)),
        ((0.1, 0.5, 0.9), per_item[:1, None].expand(2, -1, -1)),
        (per_item, per_item[:, None]),
        (per_item[:, None].expand(-1, 2, -1), per_item[:, None]),
    ):
        images = render(gaussians, CAMERAS, 16, background=background, backend=backend).images
        torch.testing.assert_close(
            images, black.images + (1 - black.alphas) * color[..., None, None]
        )


def test_depth_of_a_single_gaussian_is_its_distance_along_the_axis(backend):
    out = render(one_gaussian((0.1, -0.05, 0.3)), orbit_poses([0.0]), 32, backend=backend)
    covered = out.alphas > 0
    torch.testing.assert_close(out.depths[covered], torch.full_like(out.depths[covered], 1.2))
    assert 50 < covered.sum() < 900
    assert (out.depths[~covered] == 0).all()


def test_picture_is_upright_and_not_mirrored(backend):
    def center(position):
        alphas = render(
            one_gaussian(position, scale=0.02), orbit_poses([0.0]), 64, backend=backend
        ).alphas[0, 0, 0]
        row, column = divmod(int(alphas.argmax()), 64)
        return row, column

    assert center((0.0, 0.3, 0.0))[0] < 20  # +y is up
    assert center((0.3, 0.0, 0.0))[1] > 44  # seen from +z, +x is right


def test_a_gaussian_acts_exactly_where_its_alpha_reaches_1_255(backend):
    """On the axis: a circle of variance (focal s / z)^2 + 0.3, which 3 sigma would cut at 0.009."""
    size, opacity, scale, distance = 63, 0.8, 0.1, 1.5
    alphas = render(
        one_gaussian(opacity=opacity, scale=scale), orbit_poses([0.0]), size, backend=backend
    ).alphas[0, 0, 0]
    focal = 0.5 * size / torch.tan(torch.deg2rad(torch.tensor(49.1 / 2)))
    offset = torch.arange(size) - size // 2
    square = offset[:, None] ** 2 + offset**2
    expected = opacity * torch.exp(-0.5 * square / ((focal * scale / distance) ** 2 + 0.3))
    expected = torch.where(expected >= 1 / 255, expected, 0.0)
    torch.testing.assert_close(alphas, expected, atol=2e-5, rtol=0)


def test_alpha_is_capped_at_99_percent(backend):
    out = render(
        one_gaussian(opacity=1.0, scale=100.0), CAMERAS[:1], 9, background=0.0, backend=backend
    )
    torch.testing.assert_close(out.alphas, torch.full_like(out.alphas, 0.99))
    torch.testing.assert_close(out.images[0, 0, :, 4, 4], 0.99 * torch.tensor([0.2, 0.5, 0.9]))


def test_drawing_stops_before_transmittance_falls_under_1e_4(backend):
    """Walls of alpha 0.99, 0.9 and 0.95 would leave 5e-5: the last is refused, not shrunk."""
    walls = [one_gaussian((0, 0, z), opacity=o, scale=50.0, color=c) for z, o, c in (
        (0.2, 0.99, (1.0, 0.0, 0.0)), (0.0, 0.9, (0.0, 1.0, 0.0)), (-0.2, 0.95, (0.0, 0.0, 1.0)),
    )]  # fmt: skip
    stack = Gaussians(*(torch.cat([getattr(w, name) for w in walls], dim=1) for name in FIELDS))
    out = render(stack, orbit_poses([0.0]), 8, background=0.0, backend=backend)
    torch.testing.assert_close(
        out.images[0, 0, :, 4, 4], torch.tensor([0.99, 0.009, 0.0]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(out.alphas[0, 0, 0, 4, 4], torch.tensor(0.999), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 7, 8, 33])
def test_any_size_equals_the_reference(fast_backend, size):
    gaussians = random_gaussians(100)
    assert_same_picture(
        render(gaussians, CAMERAS, size, backend=fast_backend),
        render(gaussians, CAMERAS, size, backend="reference"),
    )


@pytest.mark.parametrize("size", [(24, 40), (41, 23), (9, 1), (1, 63)])
def test_a_rectangle_is_cut_from_the_middle_of_a_larger_square(backend, size):
    """Of the same focal length; gradients too. No center lies 1.3 half pictures or more from the
    middle, where slopes are clamped by the size of the picture (in smaller squares as well).
    """
    gaussians = random_gaussians(150)
    positions = 0.29 * gaussians.positions.clamp(-0.6, 0.6)  # no slope above 0.26
    whole, part = (leaves(dataclasses.replace(gaussians, positions=positions)) for _ in range(2))
    height, width = size
    square = max(size) + 10  # an even number more, so that the middles agree
    tangent = 0.2 * height / min(size)
    fovy, square_fovy = (
        2 * math.degrees(math.atan(t)) for t in (tangent, tangent * square / height)
    )
    top, left = (square - height) // 2, (square - width) // 2
    larger = render(whole, CAMERAS, square, square_fovy, background=0.4, backend=backend)
    rectangle = render(part, CAMERAS, size, fovy, background=0.4, backend=backend)
    assert rectangle.alphas.max() > 0.5
    expected_loss, loss = 0.0, 0.0
    for field in dataclasses.fields(rectangle):
        cut = getattr(larger, field.name)[..., top : top + height, left : left + width]
        found = getattr(rectangle, field.name)
        torch.testing.assert_close(found, cut, atol=1e-5, rtol=0)
        expected_loss, loss = expected_loss + cut.square().sum(), loss + found.square().sum()
    expected, found = gradients(expected_loss, whole), gradients(loss, part)
    for name in FIELDS:
        assert (found[name] - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


@pytest.mark.parametrize("size", [(9, 33), (33, 9)])
def test_rectangles_equal_the_reference_also_for_what_lies_far_outside(fast_backend, size):
    gaussians = random_gaussians(100)
    assert_same_picture(
        render(gaussians, CAMERAS, size, backend=fast_backend),
        render(gaussians, CAMERAS, size, backend="reference"),
    )


def test_one_number_is_a_square(backend):
    gaussians = random_gaussians(50)
    assert_same_picture(
        render(gaussians, CAMERAS, (20, 20), backend=backend),
        render(gaussians, CAMERAS, 20, backend=backend),
        atol=0,
    )


def test_no_gaussians_show_the_background(backend):
    out = render(random_gaussians(0), CAMERAS, (10, 7), background=0.3, backend=backend)
    torch.testing.assert_close(out.images, torch.full((1, 2, 3, 10, 7), 0.3))
    assert not out.alphas.any()
    assert not out.depths.any()


def with_sh(gaussians: Gaussians, width: int = 15) -> Gaussians:
    generator = torch.Generator().manual_seed(9)
    shape = (*gaussians.positions.shape[:2], width, 3)
    return dataclasses.replace(gaussians, sh=0.3 * torch.randn(shape, generator=generator))


@pytest.mark.parametrize("width", [3, 8, 15])
def test_each_view_sees_its_own_colors(backend, width):
    gaussians = with_sh(random_gaussians(60, batch=2), width)
    cameras = torch.stack([CAMERAS, CAMERAS.flip(0)])
    out = render(gaussians, cameras, 16, background=0.4, backend=backend)
    for item in range(2):
        for view in range(2):
            one, camera = gaussians.item(item), cameras[item, view]
            colors = colors_toward(one, camera[:3, 3])
            plain = dataclasses.replace(one, colors=colors, sh=None)
            single = render(plain, camera[None], 16, background=0.4, backend=backend)
            for name in ("images", "alphas", "depths"):
                found, expected = getattr(out, name)[item, view], getattr(single, name)[0, 0]
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    base = render(dataclasses.replace(gaussians, sh=None), cameras, 16, backend=backend)
    assert (out.images - base.images).abs().max() > 0.05


def test_bands_of_zeros_change_nothing(backend):
    gaussians = random_gaussians(60)
    zeros = dataclasses.replace(gaussians, sh=torch.zeros(1, 60, 8, 3))
    assert_same_picture(
        render(zeros, CAMERAS, 16, backend=backend),
        render(gaussians, CAMERAS, 16, backend=backend),
        atol=0,
    )


def test_bands_in_half_precision_are_drawn_in_float32(backend):
    gaussians = with_sh(random_gaussians(30)).to(torch.float16)
    out = render(gaussians, CAMERAS, 12, backend=backend)
    assert_same_picture(out, render(gaussians.to(torch.float32), CAMERAS, 12, backend=backend))


@pytest.mark.parametrize(
    "gaussian",
    [
        one_gaussian((0.0, 0.0, 3.0)),
        one_gaussian((0.0, 0.0, 1.5)),
        one_gaussian((0.0, 0.0, 1.31)),
        one_gaussian((9.0, 0.0, 0.0)),
        one_gaussian(opacity=0.0),
        one_gaussian(opacity=0.0039),
        one_gaussian(scale=1e30),
    ],
    ids=[
        "behind",
        "at the camera",
        "before the near plane",
        "beside",
        "opacity 0",
        "below 1/255",
        "overflowing",
    ],
)
def test_what_can_not_be_seen_changes_nothing_and_has_no_gradient(backend, gaussian):
    gaussian = leaves(gaussian)
    out = render(gaussian, orbit_poses([0.0]), 12, background=0.5, backend=backend)
    assert (out.images == 0.5).all()
    assert not out.alphas.any()
    loss = out.images.sum() + out.alphas.sum() + out.depths.sum()
    if gaussian.scales.max() < 1e30:
        assert all(not grad.any() for grad in gradients(loss, gaussian).values())


def test_just_past_the_near_plane_is_drawn(backend):
    out = render(one_gaussian((0.0, 0.0, 1.29)), orbit_poses([0.0]), 12, backend=backend)
    assert out.alphas[0, 0, 0, 6, 6] > 0.7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_drawn_in_float32(backend, dtype):
    gaussians = random_gaussians(30).to(dtype)
    out = render(leaves(gaussians), CAMERAS, 12, backend=backend)
    assert out.images.dtype == torch.float32
    assert_same_picture(out, render(gaussians.to(torch.float32), CAMERAS, 12, backend=backend))


def test_autocast_does_not_reach_the_renderer(backend):
    gaussians = random_gaussians(30)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = render(gaussians, CAMERAS, 12, backend=backend)
    assert_same_picture(inside, render(gaussians, CAMERAS, 12, backend=backend), atol=0)


@pytest.mark.parametrize("name", [*FIELDS, "sh"])
def test_nan_is_refused_by_name(name):
    gaussians = with_sh(random_gaussians(5))
    getattr(gaussians, name)[0, 2, 0] = float("nan")
    with pytest.raises(ValueError, match=name):
        render(gaussians, CAMERAS, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"c2w": torch.eye(4)}, r"\[V, 4, 4\]"),
        ({"c2w": torch.zeros(2, 3, 4)}, r"\[V, 4, 4\]"),
        ({"c2w": torch.zeros(0, 4, 4)}, r"\[V, 4, 4\]"),
        ({"c2w": CAMERAS.expand(3, 2, 4, 4)}, r"\[1, V, 4, 4\]"),
        ({"c2w": CAMERAS * float("nan")}, "c2w"),
        ({"size": 0}, "size 0"),
        ({"size": 2.5}, "size 2.5"),
        ({"size": (8, 0)}, r"size \(8, 0\)"),
        ({"size": (8, 8, 3)}, r"size \(8, 8, 3\)"),
        ({"size": (8, 2.5)}, r"\(height, width\), got size \(8, 2.5\)"),
        ({"fovy": 180.0}, "fovy 180"),
        ({"background": (1.0, 0.0)}, "background"),
        ({"background": torch.ones(2, 3)}, "background"),
        ({"backend": "vulkan"}, "vulkan"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(**({"gaussians": random_gaussians(5), "c2w": CAMERAS, "size": 8} | arguments))


def test_missing_numba_is_said_and_auto_does_without(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "numba", None)
    lgm.render._automatic.cache_clear()
    monkeypatch.setattr(lgm.render, "_automatic", lgm.render._automatic.__wrapped__)
    with pytest.raises(RuntimeError, match="pip install numba"):
        render(random_gaussians(5), CAMERAS, 8, backend="numba")
    assert "numba" not in lgm.render.available_backends()
    with caplog.at_level(logging.INFO):
        render(random_gaussians(5), CAMERAS, 8)
    assert "torch backend" in caplog.text


def test_the_choice_is_logged_once(caplog):
    lgm.render._automatic.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            render(random_gaussians(5), CAMERAS, 8)
    assert len(caplog.records) == 1


def test_available_backends_all_draw():
    names = lgm.render.available_backends()
    assert names[-2:] == ["torch", "reference"]
    device = {"gsplat": "cuda"}
    for name in names:
        assert render(
            random_gaussians(5).to(device.get(name, "cpu")), CAMERAS, 8, backend=name
        ).alphas.any()


def test_the_near_plane_is_all_that_near_changes(backend):
    gaussians = random_gaussians(60).map(lambda t: t[:, :49])  # those around the origin
    bands = torch.randn(1, 49, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.2
    for seen in (gaussians, dataclasses.replace(gaussians, sh=bands)):
        expected = render(seen, CAMERAS, 24, backend=backend)
        for near in (0.05, 0.4):
            out = render(seen, CAMERAS, 24, backend=backend, near=near)
            torch.testing.assert_close(out.images, expected.images, atol=2e-4, rtol=0)
            torch.testing.assert_close(out.depths, expected.depths, atol=2e-4, rtol=1e-4)


def test_near_decides_what_is_too_close(backend):
    close = one_gaussian((0.0, 0.0, 1.4))  # 0.1 in front of the camera
    assert render(close, orbit_poses([0.0]), 8, backend=backend).alphas.max() == 0
    assert render(close, orbit_poses([0.0]), 8, backend=backend, near=0.05).alphas.max() > 0.5
    with pytest.raises(ValueError, match="near"):
        render(close, orbit_poses([0.0]), 8, backend=backend, near=0.0)


def test_a_long_drawing_can_be_given_up():
    class GivenUp(Exception):
        pass

    def ask():
        raise GivenUp

    with pytest.raises(GivenUp), lgm.render.interruptible(ask):
        render(random_gaussians(50), CAMERAS, 16, backend="torch")
    assert render(random_gaussians(50), CAMERAS, 16, backend="torch").alphas.max() > 0


def test_the_backend_is_told_before_drawing(backend):
    assert lgm.render.backend_for(backend, torch.device("cpu")) == backend
    assert lgm.render.backend_for("auto", torch.device("cpu")) in ("numba", "torch")
