"""Between ComfyUI's values and the library's: laws and round trips."""

from __future__ import annotations

import math

import pytest
import torch

from lgm.gaussians import Gaussians


@pytest.fixture
def types(pack):
    return pack.border()


def random_gaussians(count: int, bands: int | None, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(1, count, *shape, generator=generator)

    return {
        "positions": noise(3),
        "opacities": noise(1).sigmoid(),
        "scales": noise(3).exp(),
        "rotations": torch.nn.functional.normalize(noise(4), dim=-1),
        "colors": noise(3).sigmoid(),
        "sh": None if bands is None else noise(bands, 3),
    }


def make(pack, count, bands=None, seed=0):
    record = pack.module("lgm.gaussians").Gaussians
    return record(**random_gaussians(count, bands, seed))


@pytest.mark.parametrize("bands", [None, 3, 8, 15])
def test_splat_round_trip(pack, types, bands):
    before = make(pack, 7, bands)
    after = types.gaussians_from_splat(types.splat_from_gaussians([before]), 0)
    for name, value in vars(before).items():
        got = getattr(after, name)
        if name == "rotations":  # q and -q are one rotation
            got = got * torch.sign((got * value).sum(-1, keepdim=True))
        if value is None:
            assert got is None
        else:
            torch.testing.assert_close(got, value, atol=1e-6, rtol=1e-5)


def test_splat_is_half_a_turn_about_x(pack, types):
    gaussians = make(pack, 3)
    splat = types.splat_from_gaussians([gaussians])
    expected = gaussians.positions * torch.tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(splat.positions, expected)


def test_batches_of_different_lengths_keep_theirs(pack, types):
    items = [make(pack, 3, None, 1), make(pack, 5, 3, 2), make(pack, 1, 15, 3)]
    splat = types.splat_from_gaussians(items)
    assert splat.counts.tolist() == [3, 5, 1]
    assert splat.positions.shape == (3, 5, 3)
    assert splat.sh.shape == (3, 5, 16, 3)
    for index, item in enumerate(items):
        assert types.gaussians_from_splat(splat, index).count == item.count
    assert (splat.opacities[0, 3:] == 0).all()  # padding is invisible


def test_equal_lengths_need_no_counts(pack, types):
    assert types.splat_from_gaussians([make(pack, 4), make(pack, 4, seed=1)]).counts is None


def test_selecting_touches_no_value(pack, types):
    splat = types.splat_from_gaussians([make(pack, 6, 8), make(pack, 4, 8, seed=1)])
    masks = [torch.tensor([1, 0, 1, 0, 0, 1]).bool(), torch.tensor([0, 1, 0, 0]).bool()]
    chosen = types.select_from_splat(splat, masks)
    assert chosen.counts.tolist() == [3, 1]
    for name in ("positions", "scales", "rotations", "opacities", "sh"):
        before, after = getattr(splat, name), getattr(chosen, name)
        assert torch.equal(after[0, :3], before[0, [0, 2, 5]])
        assert torch.equal(after[1, :1], before[1, [1]])


def test_half_precision_splats_are_read(pack, types):
    splat = types.splat_from_gaussians([make(pack, 4)])
    for name in ("positions", "scales", "rotations", "opacities", "sh"):
        setattr(splat, name, getattr(splat, name).half())
    gaussians = types.gaussians_from_splat(splat, 0)
    assert gaussians.positions.dtype == torch.float32
    torch.testing.assert_close(gaussians.rotations.norm(dim=-1), torch.ones(1, 4))


# Cameras ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("azimuth, elevation", [(0, 0), (90, 0), (200, 35), (10, -80), (0, 90)])
def test_camera_round_trip(pack, types, azimuth, elevation):
    cameras = pack.module("lgm.cameras")
    pose = cameras.orbit_poses([azimuth], elevation, 2.5)[0]
    camera = types.read_camera(types.camera_info(pose, torch.zeros(3), 40.0))
    torch.testing.assert_close(camera.c2w, pose, atol=1e-5, rtol=0)
    assert camera.fov == pytest.approx(40.0)


def test_a_camera_without_quaternion_looks_at_its_target(types):
    info = {"position": {"x": 1, "y": 2, "z": 3}, "target": {"x": 1, "y": 0, "z": 0}}
    camera = types.read_camera(info)
    forward = -camera.c2w[:3, 2]
    expected = torch.tensor([0.0, -2.0, -3.0])
    torch.testing.assert_close(forward, expected / expected.norm(), atol=1e-6, rtol=0)
    assert camera.fov == 35.0


def test_zoom_is_a_longer_lens(types):
    info = {"position": {"z": 2}, "fov": 60, "zoom": 2}
    half = math.tan(math.radians(types.read_camera(info).fov) / 2)
    assert half == pytest.approx(math.tan(math.radians(30)) / 2)


def test_parallel_cameras_show_near_and_far_alike(pack, types):
    info = {"position": {"z": 2}, "fov": 50, "cameraType": "orthographic"}
    camera = types.read_camera(info)
    w2c = pack.module("lgm.cameras").world_to_camera(camera.c2w)
    points = torch.tensor([[0.5, 0.25, z, 1.0] for z in (-1.0, 0.0, 1.0)])
    x, _, depth, _ = (points @ w2c.T).T
    focal = 1 / math.tan(math.radians(camera.fov) / 2)
    # At the target's distance it shows what the perspective camera of its angle would.
    expected = 0.5 / 2 / math.tan(math.radians(25))
    torch.testing.assert_close(focal * x / depth, torch.full((3,), expected), rtol=2e-3, atol=0)
    torch.testing.assert_close(depth - camera.offset, torch.tensor([3.0, 2, 1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "info, needed",
    [
        ("front", "position"),
        ({}, "position"),
        ({"position": {"z": 2}, "fov": 200}, "field of view"),
        ({"position": {"z": float("nan")}, "quaternion": {"w": 1}}, "finite"),
        ({"position": {"z": 2}, "quaternion": {"x": 0, "y": 0, "z": 0, "w": 0}}, "quaternion"),
        ({"position": {"z": 0}, "target": {"z": 0}}, "target"),
    ],
)
def test_bad_cameras_are_named(types, info, needed):
    with pytest.raises(ValueError, match=needed):
        types.read_camera(info)


def test_the_angle_spans_the_shorter_side(types):
    assert types.vertical_fov(50, 300, 600) == 50
    tall = types.vertical_fov(50, 600, 300)
    assert math.tan(math.radians(tall) / 2) == pytest.approx(2 * math.tan(math.radians(25)))


# Colors and masks ---------------------------------------------------------------------------------


def test_colors(types):
    assert types.color_from_hex("#ff8000").tolist() == pytest.approx([1, 128 / 255, 0])
    assert types.color_from_hex("fff").tolist() == [1, 1, 1]
    for bad in ("red", "#12", "#gggggg", ""):
        with pytest.raises(ValueError, match="#ffffff"):
            types.color_from_hex(bad)


def test_one_mask_serves_all_pictures(types):
    mask = torch.rand(1, 8, 8)
    fitted = types.fit_mask(mask, 4, 8, 8)
    assert fitted.shape == (4, 1, 8, 8) and torch.equal(fitted[3, 0], mask[0])
    with pytest.raises(ValueError, match="4 pictures"):
        types.fit_mask(torch.rand(3, 8, 8), 4, 8, 8)


def test_record_of_the_pack_is_the_librarys(pack):
    assert vars(make(pack, 1)).keys() == {f for f in Gaussians.__dataclass_fields__}
