"""Nodes that take any splat: filter, crop, render, save; and camera paths."""

from __future__ import annotations

import math
import sys

import comfy.model_management as management
import comfy.utils
import folder_paths
import pytest
import torch

import lgm


@pytest.fixture
def types(pack):
    return pack.border()


@pytest.fixture
def foreign(pack, types):
    """Two splats of other lengths, with spherical harmonics, as other nodes make them."""
    generator = torch.Generator().manual_seed(3)

    def one(count):
        return pack.module("lgm.gaussians").Gaussians(
            positions=torch.randn(1, count, 3, generator=generator) * 0.3,
            opacities=torch.rand(1, count, 1, generator=generator),
            scales=torch.rand(1, count, 3, generator=generator) * 0.05 + 0.01,
            rotations=torch.nn.functional.normalize(
                torch.randn(1, count, 4, generator=generator), dim=-1
            ),
            colors=torch.rand(1, count, 3, generator=generator),
            sh=torch.randn(1, count, 8, 3, generator=generator) * 0.1,
        )

    return types.splat_from_gaussians([one(200), one(120)])


# Filter -------------------------------------------------------------------------------------------


def test_filter_with_everything_off_changes_nothing(pack, foreign):
    kept, removed = pack.run("LGM_FilterSplat", splat=foreign, min_opacity=0.0)
    assert removed == 0
    for name in ("positions", "scales", "rotations", "opacities", "sh"):
        assert torch.equal(getattr(kept, name), getattr(foreign, name))


def test_filter_by_opacity_keeps_the_rest_to_the_bit(pack, foreign):
    kept, removed = pack.run("LGM_FilterSplat", splat=foreign, min_opacity=0.5)
    expected = [
        foreign.sh[i, :n][foreign.opacities[i, :n, 0] >= 0.5] for i, n in enumerate((200, 120))
    ]
    assert kept.counts.tolist() == [len(item) for item in expected]
    assert removed == 320 - sum(kept.counts.tolist())
    for i, item in enumerate(expected):
        assert torch.equal(kept.sh[i, : len(item)], item)


def test_filter_to_a_budget(pack, foreign):
    kept, _ = pack.run("LGM_FilterSplat", splat=foreign, min_opacity=0.0, max_gaussians=100)
    assert kept.counts is None and kept.positions.shape[:2] == (2, 100)


def test_filter_takes_floaters_away(pack, types, splat):
    item = types.gaussians_from_splat(splat, 0)
    floater = lgm.Gaussians(
        positions=torch.tensor([[[9.0, 9.0, 9.0]]]),
        opacities=torch.ones(1, 1, 1),
        scales=torch.full((1, 1, 3), 0.01),
        rotations=torch.tensor([[[1.0, 0, 0, 0]]]),
        colors=torch.zeros(1, 1, 3),
    )
    both = pack.module("lgm.gaussians").Gaussians(
        *(
            torch.cat([getattr(item, name), getattr(floater, name)], dim=1)
            for name in ("positions", "opacities", "scales", "rotations", "colors")
        )
    )
    dirty = types.splat_from_gaussians([both])
    for option in ({"keep_largest": True}, {"outliers": 8.0}):
        kept, removed = pack.run("LGM_FilterSplat", splat=dirty, min_opacity=0.0, **option)
        assert kept.positions.abs().max() < 2
        assert 1 <= removed < 0.1 * both.count


def test_filter_drops_what_is_not_a_number(pack, foreign):
    foreign.positions[0, 3, 1] = float("nan")
    foreign.sh[1, 5, 0, 0] = float("inf")
    kept, removed = pack.run("LGM_FilterSplat", splat=foreign, min_opacity=0.0)
    assert removed == 2 and kept.counts.tolist() == [199, 119]


def test_filter_never_leaves_nothing(pack, foreign):
    with pytest.raises(ValueError, match="loosen"):
        pack.run("LGM_FilterSplat", splat=foreign, min_opacity=1.0)


# Crop ---------------------------------------------------------------------------------------------


def test_crop_inside_and_outside_make_the_whole(pack, foreign):
    for shape in ({"shape": "sphere", "radius": 0.3}, {"shape": "box", "size_x": 0.4}):
        inside, gone = pack.run("LGM_CropSplat", splat=foreign, shape=shape)
        outside, rest = pack.run("LGM_CropSplat", splat=foreign, shape=shape, keep="outside")
        assert gone + rest == 320 and 0 < gone < 320
        assert (inside.counts + outside.counts).tolist() == [200, 120]


def test_crop_box_is_upright(pack, foreign):
    """The upper half in the preview's axes is the lower in the splat's own (+y down)."""
    shape = {"shape": "box", "size_x": 20, "size_y": 10, "size_z": 20}
    upper, _ = pack.run("LGM_CropSplat", splat=foreign, shape=shape, center_y=5.0)
    count = int(upper.counts[0])
    assert (upper.positions[0, :count, 1] <= 0).all()
    assert count == int((foreign.positions[0, :, 1] <= 0).sum())


def test_crop_box_turns(pack, foreign):
    shape = {"shape": "box", "size_x": 20, "size_y": 10, "size_z": 20, "rotate_z": 180}
    lower, _ = pack.run("LGM_CropSplat", splat=foreign, shape=shape, center_y=-5.0)
    assert (lower.positions[0, : int(lower.counts[0]), 1] >= 0).all()


# Camera Path --------------------------------------------------------------------------------------


def place(camera):
    return torch.tensor([camera["position"][axis] for axis in "xyz"])


def test_orbit_goes_around_once(pack):
    (cameras,) = pack.run("LGM_CameraPath", path={"path": "orbit", "elevation": 0}, frames=8)
    places = torch.stack([place(camera) for camera in cameras])
    torch.testing.assert_close(places[0], torch.tensor([0.0, 0.0, 1.5]), atol=1e-6, rtol=0)
    torch.testing.assert_close(places[2], torch.tensor([1.5, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(places.norm(dim=1), torch.full((8,), 1.5))


def test_orbit_frames_the_connected_splat(pack, types, splat):
    splat.positions, before = splat.positions + 5.0, splat.positions
    (cameras,) = pack.run("LGM_CameraPath", path={"path": "orbit"}, frames=4, splat=splat)
    masks = pack.run("LGM_RenderSplat", splat=splat, cameras=cameras, width=64, height=64)[1]
    splat.positions = before
    assert (masks.amax(dim=(1, 2)) > 0.9).all()
    rim = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], dim=1)
    assert rim.max() < 0.5 and masks.mean() > 0.1


def test_arc_joins_its_ends(pack, types):
    ends = [
        {"position": {"x": x, "y": 0.5, "z": z}, "target": {}, "fov": fov}
        for x, z, fov in ((0, 2, 30), (3, 0, 60))
    ]
    path = {"path": "arc", "start": ends[0], "end": ends[1]}
    (cameras,) = pack.run("LGM_CameraPath", path=path, frames=5)
    for camera, end in zip((cameras[0], cameras[-1]), ends, strict=True):
        torch.testing.assert_close(place(camera), place(end), atol=1e-5, rtol=0)
        assert camera["fov"] == pytest.approx(end["fov"])
    assert [camera["fov"] for camera in cameras] == pytest.approx([30, 37.5, 45, 52.5, 60])


def test_spiral_climbs(pack):
    path = {"path": "spiral", "elevation_from": -30, "elevation_to": 30, "radius": 2.0}
    (cameras,) = pack.run("LGM_CameraPath", path=path, frames=9)
    heights = [place(camera)[1] for camera in cameras]
    assert heights == sorted(heights)
    assert float(heights[-1]) == pytest.approx(2 * math.sin(math.radians(30)))


# Render -------------------------------------------------------------------------------------------


def test_render_equals_the_library(pack, types, foreign):
    """Of random Gaussians: a network's may be equally far, and another scale's rounding turns
    them."""
    gaussians = types.gaussians_from_splat(foreign, 0)
    pose = lgm.cameras.orbit_poses([40.0], 20.0)
    record = lgm.Gaussians(*(getattr(gaussians, f) for f in lgm.Gaussians.__dataclass_fields__))
    expected = lgm.render.render(record, pose, 64)
    camera = types.camera_info(pose[0], torch.zeros(3), lgm.cameras.FOVY)
    image, mask, depth, _ = pack.run(
        "LGM_RenderSplat", splat=foreign, cameras=camera, width=64, height=64, depth_range="metric"
    )
    close = {"atol": 1e-4, "rtol": 1e-4}  # another near plane, drawn in another scale
    torch.testing.assert_close(image[0], expected.images[0, 0].movedim(0, -1).clamp(0, 1), **close)
    torch.testing.assert_close(mask[0], expected.alphas[0, 0, 0], **close)
    torch.testing.assert_close(depth[0, ..., 0], expected.depths[0, 0, 0], **close)


def test_turntable_without_cameras(pack, foreign):
    image, mask, depth, normal = pack.run(
        "LGM_RenderSplat", splat=foreign, frames=3, width=48, height=32
    )
    assert image.shape == (6, 32, 48, 3) and mask.shape == (6, 32, 48)
    assert depth.shape == normal.shape == image.shape
    for picture in (image, mask, depth, normal):
        assert picture.isfinite().all() and picture.min() >= 0 and picture.max() <= 1 + 1e-6


def test_one_front_frame_looks_along_minus_z(pack, types, splat, views):
    front = pack.run("LGM_RenderSplat", splat=splat, frames=1, width=64, height=64)[0]
    assert front.shape[0] == 1 and front.std() > 0.02


def test_parallel_and_distant_cameras_agree(pack, types, splat):
    near = {"position": {"z": 1.5}, "fov": 49.1, "cameraType": "orthographic"}
    distance = 400 * 1.5
    far = {
        "position": {"z": distance},
        "fov": math.degrees(2 * math.atan(math.tan(math.radians(49.1 / 2)) / 400)),
    }
    run = {"splat": splat, "width": 64, "height": 64, "depth_range": "metric"}
    first = pack.run("LGM_RenderSplat", cameras=near, **run)
    second = pack.run("LGM_RenderSplat", cameras=far, **run)
    # From 600 units away float32 can't tell depths apart that differ by less than 6e-5, so a few
    # Gaussians change places.
    assert (first[0] - second[0]).abs().mean() < 2e-4
    covered = first[1] > 0.9
    assert (first[2][covered] - 1.5).abs().max() < 1.2  # the object is around the target


def test_near_is_white(pack, splat):
    _, mask, depth, _ = pack.run("LGM_RenderSplat", splat=splat, frames=1, width=64, height=64)
    metric = pack.run(
        "LGM_RenderSplat", splat=splat, frames=1, width=64, height=64, depth_range="metric"
    )[2]
    inside = mask[0] > 0.99
    near, far = metric[0][inside], depth[0][inside]
    order = near[:, 0].argsort()
    assert far[order[0], 0] > far[order[-1], 0]
    assert depth[0][mask[0] == 0].max() == 0


def test_normals_of_a_wall_point_at_the_camera(pack, types):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 60), indexing="ij")
    wall = torch.stack([x, y, torch.zeros_like(x)], dim=-1).reshape(1, -1, 3)
    count = wall.shape[1]
    record = pack.module("lgm.gaussians").Gaussians(
        positions=wall,
        opacities=torch.full((1, count, 1), 0.99),
        scales=torch.full((1, count, 3), 0.03),
        rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        colors=torch.full((1, count, 3), 0.5),
    )
    camera = {"position": {"z": 1.5}, "fov": 40}
    normal = pack.run(
        "LGM_RenderSplat",
        splat=types.splat_from_gaussians([record]),
        cameras=camera,
        width=32,
        height=32,
    )[3]
    middle = normal[0, 8:24, 8:24]
    torch.testing.assert_close(
        middle, torch.tensor([0.5, 0.5, 1.0]).expand_as(middle), atol=0.05, rtol=0
    )


def test_render_shows_its_progress(pack, foreign):
    pack.run("LGM_RenderSplat", splat=foreign, frames=2, width=32, height=32)
    bar = comfy.utils.ProgressBar.bars[-1]
    assert bar.total == 4 and [value for value, _ in bar.updates] == [1, 2, 3, 4]
    assert bar.updates[0][1] is not None


def test_too_much_is_refused_before_it_starts(pack, foreign, monkeypatch):
    monkeypatch.setattr(management, "get_free_memory", lambda device=None: 1 << 20)
    with pytest.raises(ValueError, match="GB"):
        pack.run("LGM_RenderSplat", splat=foreign, frames=24)


def test_cancel_between_pictures(pack, foreign, monkeypatch):
    monkeypatch.setattr(management, "cancelled", True)
    with pytest.raises(management.InterruptProcessingException):
        pack.run("LGM_RenderSplat", splat=foreign, frames=24, width=32, height=32)


def test_a_missing_backend_is_one_option_less(pack, foreign, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(RuntimeError, match="gsplat"):
        pack.run("LGM_RenderSplat", splat=foreign, backend="gsplat")


# Save ---------------------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("format", ["ply", "splat", "spz", "glb"])
def test_saved_files_hold_the_splat(pack, types, foreign, output, format):
    result = pack.output("LGM_SaveSplat", splat=foreign, filename_prefix="3d/thing", format=format)
    names = [entry["filename"] for entry in result.ui["3d"]]
    assert names == [f"thing_00001_.{format}", f"thing_00002_.{format}"]
    assert {entry["subfolder"] for entry in result.ui["3d"]} == {"3d"}
    for index, (name, file) in enumerate(zip(names, result.args[0], strict=True)):
        content = (output / "3d" / name).read_bytes()
        assert file.format == format and file.get_bytes() == content
        read = lgm.io.read_splat_file(content, f".{format}")
        expected = types.gaussians_from_splat(foreign, index).visible(0.005)
        assert read.count == expected.count
        torch.testing.assert_close(
            read.positions.sum(1), expected.positions.sum(1), atol=0.2, rtol=0.01
        )


def test_no_file_is_overwritten(pack, splat, output):
    for _ in range(3):
        pack.run("LGM_SaveSplat", splat=splat, filename_prefix="thing")
    assert len(list(output.glob("thing_*.ply"))) == 3


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "C:\\x", "..\\x", "", "\\\\host\\share\\x", "a\0b"]
)
def test_names_stay_in_the_output_folder(pack, splat, output, name):
    with pytest.raises(ValueError, match="inside the output folder"):
        pack.run("LGM_SaveSplat", splat=splat, filename_prefix=name)
    assert list(output.rglob("*")) == []
