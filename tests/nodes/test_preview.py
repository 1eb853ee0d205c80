"""Preview Splat: what the page gets to show, and what its user did there in the graph."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import comfy.model_management as management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import server
import torch
import trimesh
from PIL import Image

import lgm
import lgm.camera_paths
import lgm.splats.crop
import lgm.splats.extent
import lgm.splats.filters

FIELDS = ("positions", "scales", "rotations", "opacities", "sh")
NAN = float("nan")


@pytest.fixture
def types(pack):
    return pack.border()


@pytest.fixture
def read_state(pack):
    return pack.module("nodes.viewer.state").read_state


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """ComfyUI's folders within tmp_path, and its check of where a path leads."""

    def is_within(folder, target):
        try:
            folder, target = map(os.path.realpath, (folder, target))
        except ValueError:  # a null byte
            return False
        return os.path.commonpath([folder, target]) == folder

    def by_type(kind):
        return str(tmp_path / kind)

    (tmp_path / "input" / "3d").mkdir(parents=True)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: by_type("temp"), raising=False)
    monkeypatch.setattr(folder_paths, "get_directory_by_type", by_type, raising=False)
    monkeypatch.setattr(folder_paths, "is_within_directory", is_within, raising=False)
    return tmp_path


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


@pytest.fixture
def preview(pack):
    """Runs the node with a small picture; returns its outputs and what the page gets."""

    def run(**given):
        given = {"width": 32, "height": 32, **given}
        result = pack.output("LGM_PreviewSplat", **given)
        (payload,) = result.ui["lgm_preview"]
        return *result.args, payload

    return run


def one_of(splat, index):
    """The real rows of a batch item, by field."""
    count = splat.positions.shape[1] if splat.counts is None else int(splat.counts[index])
    return {name: getattr(splat, name)[index, :count] for name in FIELDS}


def same(first, second):
    assert len(first.positions) == len(second.positions)
    for index in range(len(first.positions)):
        ours, theirs = one_of(first, index), one_of(second, index)
        assert all(torch.equal(ours[name], theirs[name]) for name in FIELDS)


def library(types, splat, index=0):
    """An item as the Gaussians of `import lgm`, which is another copy than the pack's own."""
    item = types.gaussians_from_splat(splat, index)
    return lgm.Gaussians(*(getattr(item, name) for name in lgm.Gaussians.__dataclass_fields__))


def camera_at(x, y, z, **more):
    target = {"x": 0.05, "y": -0.1, "z": 0.0}
    place = dict(zip("xyz", (x, y, z), strict=True))
    return {"position": place, "target": target, "fov": 40.0, "zoom": 1.0, **more}


# State --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        {},
        {"version": 1},
        {"version": 7, "new": [1], "edit": {"other": NAN}, "look": {"mode": 3, "wipe": "x"}},
        {"camera": None, "edit": {"crop": None, "min_opacity": 0, "max_scale": 0}, "seen": None},
        {"camera": {"fov": 30}, "edit": None, "look": {"background": None}, "file": None},
    ],
)
def test_what_is_missing_has_its_default(read_state, value):
    state = read_state(value)
    assert state == read_state({})
    assert not state.edits and state.background == "#ffffff"
    assert state.camera is None and state.crop is None and state.file is None


BOX = {"center": [0, 0, 0], "size": [1, 1, 1]}


@pytest.mark.parametrize(
    "value",
    [
        [1],
        "state",
        {"edit": [1]},
        {"edit": {"crop": [1, 2, 3]}},
        {"edit": {"crop": {"center": [0, 0, 0]}}},
        {"edit": {"crop": BOX | {"size": [1, -1, 1]}}},
        {"edit": {"crop": BOX | {"size": [1, NAN, 1]}}},
        {"edit": {"crop": BOX | {"size": "111"}}},
        {"edit": {"crop": BOX | {"center": [0, 0]}}},
        {"edit": {"crop": BOX | {"center": [0, 0, float("inf")]}}},
        {"edit": {"crop": BOX | {"center": [0, 0, True]}}},
        {"edit": {"min_opacity": NAN}},
        {"edit": {"min_opacity": 1.5}},
        {"edit": {"min_opacity": "0.5"}},
        {"edit": {"max_scale": -1}},
        {"camera": "front"},
        {"camera": {"position": [0, 0, 1]}},
        {"camera": camera_at(0, NAN, 1)},
        {"camera": camera_at(0, "1", 1)},
        {"camera": camera_at(0, 0, 1) | {"fov": 200}},
        {"camera": camera_at(0, 0, 1, aspect=-1)},
        {"look": {"background": 7}},
        {"seen": "picture.png"},
        {"seen": {"filename": None, "type": "temp"}},
        {"seen": {"filename": "a.png", "type": "output"}},
        {"file": 3},
    ],
)
def test_nonsense_is_refused_in_a_sentence(read_state, value):
    with pytest.raises(ValueError, match=r"^The viewer's [\w ]+ needs .+ got .+ Reset in the .+$"):
        read_state(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"look": {"background": "red"}}, "color"),
        ({"camera": camera_at(0.05, -0.1, 0)}, "target"),
        ({"camera": camera_at(0, 0, 1, quaternion={"x": 0, "y": 0, "z": 0, "w": 0})}, "length"),
    ],
)
def test_cameras_and_colors_are_refused_as_elsewhere(read_state, value, message):
    with pytest.raises(ValueError, match=message):
        read_state(value)


def test_a_bad_state_ends_the_run_before_anything_is_written(preview, foreign, folders):
    with pytest.raises(ValueError, match="Reset"):
        preview(splat=foreign, viewer={"edit": {"max_scale": NAN}})
    assert not list((folders / "temp").rglob("*"))


# Edits --------------------------------------------------------------------------------------------


def test_without_edits_the_splat_goes_through(preview, foreign):
    for viewer in (None, {}, {"look": {"background": "#123456"}, "camera": camera_at(0, 0, 2)}):
        assert preview(splat=foreign, viewer=viewer)[0] is foreign


def test_a_crop_equals_crop_splat(pack, preview, foreign):
    crop = {"center": [0.1, 0.2, -0.05], "size": [0.5, 0.4, 0.6]}
    shape = {"shape": "box", "size_x": 0.5, "size_y": 0.4, "size_z": 0.6}
    where = {"center_x": 0.1, "center_y": 0.2, "center_z": -0.05}
    expected, removed = pack.run("LGM_CropSplat", splat=foreign, shape=shape, **where)
    edited, *_, payload = preview(splat=foreign, viewer={"edit": {"crop": crop}})
    same(edited, expected)
    assert 0 < removed < 320
    assert (payload["count"], payload["count_kept"]) == (200, len(one_of(edited, 0)["sh"]))


def test_edits_equal_the_librarys_masks(preview, types, foreign):
    crop = {"center": [0.0, 0.1, 0.0], "size": [0.9, 0.8, 1.0]}
    edit = {"crop": crop, "min_opacity": 0.3, "max_scale": 0.055}
    edited = preview(splat=foreign, viewer={"edit": edit})[0]
    for index, count in enumerate((200, 120)):
        gaussians = library(types, foreign, index)
        mask = lgm.splats.crop.box_mask(gaussians.positions[0], crop["center"], crop["size"])
        mask &= lgm.splats.filters.opacity_mask(gaussians.opacities[0], 0.3)
        mask &= (gaussians.scales[0] <= 0.055).all(1)
        assert 0 < mask.sum() < count
        before, after = one_of(foreign, index), one_of(edited, index)
        assert all(torch.equal(after[name], before[name][mask]) for name in FIELDS)


def test_each_filter_works_alone(preview, pack, foreign):
    faint = preview(splat=foreign, viewer={"edit": {"min_opacity": 0.4}})[0]
    same(faint, pack.run("LGM_FilterSplat", splat=foreign, min_opacity=0.4)[0])
    short = preview(splat=foreign, viewer={"edit": {"max_scale": 0.05}})[0]
    kept = one_of(short, 1)["scales"]
    assert kept.max() <= 0.05 and 0 < len(kept) < 120


def test_an_edit_that_leaves_nothing_of_one_splat_is_refused(preview, foreign):
    far = {"crop": {"center": [9, 9, 9], "size": [1, 1, 1]}}
    with pytest.raises(ValueError, match=r"^At least one .+ 200 of splat 1 .+ Reset"):
        preview(splat=foreign, viewer={"edit": far})
    with pytest.raises(ValueError, match="stay"):
        preview(splat=foreign, viewer={"edit": {"crop": BOX | {"size": [0, 0, 0]}}})


def test_what_is_not_a_number_harms_nothing(preview, foreign, types, folders):
    foreign.positions[0, 3, 1] = NAN
    foreign.sh[1, 5, 0, 0] = float("inf")
    edited, image, mask, _, payload = preview(splat=foreign)
    assert edited is foreign and image.isfinite().all() and mask.max() > 0.5
    assert np.isfinite(payload["extent"]["center"] + payload["extent"]["size"]).all()
    edited = preview(splat=foreign, viewer={"edit": {"min_opacity": 1e-6}})[0]
    assert edited.counts.tolist() == [199, 119]


# Camera and picture -------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(48, 32), (32, 48), (40, 40)])
def test_the_picture_is_the_librarys_from_the_same_camera(preview, types, foreign, width, height):
    """A viewer of the picture's shape; its angle is three.js's, always from top to bottom. With
    random Gaussians: a network's may be equally far, and another scale's rounding turns them."""
    camera = camera_at(0.7, 0.5, 1.2, aspect=width / height, near=0.01, far=100)
    image, mask, *_ = preview(splat=foreign, viewer={"camera": camera}, width=width, height=height)[
        1:
    ]
    pose = lgm.camera_paths.look_at((0.7, 0.5, 1.2), (0.05, -0.1, 0.0))
    expected = lgm.render.render(library(types, foreign), pose[None], (height, width), 40.0)
    close = {"atol": 1e-4, "rtol": 1e-4}  # another near plane, drawn in another scale
    torch.testing.assert_close(image[0], expected.images[0, 0].movedim(0, -1).clamp(0, 1), **close)
    torch.testing.assert_close(mask[0], expected.alphas[0, 0, 0], **close)
    assert mask.max() > 0.9 and mask.min() < 0.1


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.5])
def test_other_nodes_see_the_same_with_the_camera(pack, preview, splat, aspect):
    viewer = {"camera": camera_at(-0.5, 0.8, 1.0, aspect=aspect)}
    size = {"width": 56, "height": 32}
    _, image, mask, camera, _ = preview(splat=splat, viewer=viewer, **size)
    others = pack.run("LGM_RenderSplat", splat=splat, cameras=camera, **size)
    torch.testing.assert_close(others[0], image, atol=1e-6, rtol=0)
    torch.testing.assert_close(others[1], mask, atol=1e-6, rtol=0)
    again = preview(splat=splat, camera=camera, **size)
    assert again[3] == camera and torch.equal(again[1], image)


def test_a_quaternion_and_zoom_count(preview, types, splat):
    pose = lgm.cameras.orbit_poses([30.0], 20.0)[0]
    camera = types.camera_info(pose, torch.zeros(3), 40.0)
    turned = camera | {"target": {"x": 9.0, "y": 9.0, "z": 9.0}}
    plain = preview(splat=splat, viewer={"camera": camera})[1]
    assert torch.equal(preview(splat=splat, viewer={"camera": turned})[1], plain)
    zoomed = preview(splat=splat, viewer={"camera": camera | {"zoom": 2.0}})[2]
    assert zoomed.mean() > 1.5 * preview(splat=splat, viewer={"camera": camera})[2].mean()


def test_the_viewers_camera_wins_over_the_connected_one(preview, splat):
    connected, own = camera_at(0, 0, 2), camera_at(1, 1, 1)
    first = preview(splat=splat, camera=connected)
    assert first[3] == connected and first[4]["camera"] == connected
    both = preview(splat=splat, camera=connected, viewer={"camera": own})
    assert both[3]["position"] == own["position"] and both[4]["camera"] == connected
    assert not torch.equal(both[1], first[1])


def test_a_connected_camera_that_is_none_is_refused(preview, splat):
    with pytest.raises(ValueError, match="position"):
        preview(splat=splat, camera={"fov": 20})


def test_without_a_camera_all_of_the_splat_fits(preview, types, splat):
    moved = types.splat_from_gaussians([types.gaussians_from_splat(splat, 0)])
    moved.positions = moved.positions * 3 + 5
    moved.scales = moved.scales * 3
    for which in (splat, moved):
        *_, mask, camera, payload = preview(splat=which, width=64, height=48)
        rim = torch.cat([mask[0, 0], mask[0, -1], mask[0, :, 0], mask[0, :, -1]])
        assert rim.max() < 0.5 and mask.mean() > 0.1 and mask.max() > 0.9
        assert payload["camera"] is None and payload["default_camera"] == camera
        assert camera["position"]["z"] > camera["target"]["z"]
        assert camera["position"]["y"] > camera["target"]["y"]


def test_the_picture_shows_the_edits(preview, foreign):
    edit = {"crop": {"center": [0, 0.5, 0], "size": [9, 1, 9]}}  # the upper half
    camera = camera_at(0, 0, 3, target={})
    mask = preview(splat=foreign, viewer={"edit": edit, "camera": camera})[2]
    upper, lower = mask[:, :14].mean(), mask[:, 20:].mean()
    assert upper > 0.05 and lower < 0.01 * upper


@pytest.mark.parametrize(
    ("background", "color"),
    [("#204060", (0x20, 0x40, 0x60)), ("checker", (255,) * 3), ("transparent", (255,) * 3)],
)
def test_the_background_is_the_viewers(preview, splat, background, color):
    _, image, mask, *_ = preview(splat=splat, viewer={"look": {"background": background}})
    assert mask[0, 0, 0] == 0
    torch.testing.assert_close(image[0, 0, 0], torch.tensor(color) / 255)


def test_a_batch_is_drawn_whole_and_shown_first(preview, types, foreign):
    _, image, mask, _, payload = preview(splat=foreign)
    assert image.shape == (2, 32, 32, 3) and mask.shape == (2, 32, 32)
    assert payload["count"] == 200 and payload["notes"] == ["the first of 2 splats is shown"]
    assert payload["notes"][0] in server.PromptServer.texts[-1][1]
    second = types.splat_from_gaussians([types.gaussians_from_splat(foreign, 1)])
    alone = preview(splat=second, camera=payload["default_camera"])[1]
    torch.testing.assert_close(image[1:], alone, atol=1e-4, rtol=0)  # each has its near plane


# As seen ------------------------------------------------------------------------------------------


@pytest.fixture
def seen(folders):
    """A picture that the page sent, and how the state names it."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 4), np.uint8)
    (folders / "temp" / "shots").mkdir()
    Image.fromarray(pixels).save(folders / "temp" / "shots" / "a.png")
    name = {"filename": "a.png", "subfolder": "shots", "type": "temp"}
    return torch.from_numpy(pixels).float() / 255, name


def test_as_seen_is_the_pages_picture(preview, splat, seen):
    rgba, name = seen
    viewer = {"seen": name, "look": {"background": "#ff0000"}, "camera": camera_at(0, 0, 2)}
    _, image, mask, camera, payload = preview(splat=splat, picture="as seen", viewer=viewer)
    behind = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(
        image[0], rgba[..., :3] * rgba[..., 3:] + behind * (1 - rgba[..., 3:])
    )
    assert torch.equal(mask[0], rgba[..., 3])
    assert camera["position"]["z"] == 2 and payload["notes"] == []


def test_rendered_does_not_look_at_what_was_seen(preview, splat, seen):
    assert preview(splat=splat, viewer={"seen": seen[1]})[1].shape == (1, 32, 32, 3)


@pytest.mark.parametrize("name", [None, {"filename": "gone.png", "subfolder": "", "type": "temp"}])
def test_without_a_seen_picture_it_is_rendered_and_said(preview, splat, name):
    rendered = preview(splat=splat)
    result = preview(splat=splat, picture="as seen", viewer={"seen": name})
    assert torch.equal(result[1], rendered[1]) and torch.equal(result[2], rendered[2])
    assert len(result[4]["notes"]) == 1 and "rendered" in result[4]["notes"][0]
    assert result[4]["notes"][0] in server.PromptServer.texts[-1][1]


def test_a_broken_picture_is_told(preview, splat, folders):
    (folders / "temp" / "a.png").write_bytes(b"not a picture")
    viewer = {"seen": {"filename": "a.png", "subfolder": "", "type": "temp"}}
    with pytest.raises(ValueError, match="can't be read"):
        preview(splat=splat, picture="as seen", viewer=viewer)


# Names that the page sent -------------------------------------------------------------------------

OUTSIDE = ["../secret/{}", "3d/../../secret/{}", "{root}/secret/{}", "link/{}"]


@pytest.fixture
def secret(folders, splat, types):
    """Files that are there, beside ComfyUI's folders."""
    (folders / "secret").mkdir()
    Image.new("RGBA", (4, 4)).save(folders / "secret" / "a.png")
    lgm.io.write_ply(folders / "secret" / "a.ply", library(types, splat))
    for kind in ("temp", "input"):
        try:
            (folders / kind / "link").symlink_to(folders / "secret")
        except OSError:  # Windows lets only some users
            pytest.skip("needs links")
    return folders


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["temp", "input"])
def test_pictures_elsewhere_are_not_read(preview, splat, secret, name, kind):
    path = name.format("a.png", root=secret)
    folder, _, file = path.rpartition("/")
    for subfolder, filename in ((folder, file), ("", path)):
        viewer = {"seen": {"filename": filename, "subfolder": subfolder, "type": kind}}
        with pytest.raises(ValueError, match="inside ComfyUI's"):
            preview(splat=splat, picture="as seen", viewer=viewer)


@pytest.mark.parametrize("name", OUTSIDE)
def test_splats_elsewhere_are_not_read(preview, secret, name):
    with pytest.raises(ValueError, match="inside ComfyUI's input folder"):
        preview(viewer={"file": name.format("a.ply", root=secret)})


# Dropped files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["ply", "splat", "spz", "glb"])
def test_a_dropped_file_is_the_splat(preview, types, splat, folders, suffix):
    path = folders / "input" / "3d" / f"thing.{suffix}"
    lgm.io.write_splat_file(path, library(types, splat))
    dropped, image, *_, payload = preview(viewer={"file": f"3d/thing.{suffix}"})
    read = lgm.io.read_splat_file(path)
    torch.testing.assert_close(library(types, dropped).positions, read.positions)
    assert payload["count"] == read.count and image.std() > 0.02


def test_the_connected_splat_wins_over_the_dropped_file(preview, splat):
    assert preview(splat=splat, viewer={"file": "3d/gone.ply"})[0] is splat


def test_a_splat_is_needed(preview, folders):
    with pytest.raises(ValueError, match="connect one, or drop"):
        preview()
    with pytest.raises(ValueError, match=r"3d/gone\.ply is not in the input folder"):
        preview(viewer={"file": "3d/gone.ply"})
    trimesh.creation.box().export(folders / "input" / "3d" / "box.glb")
    with pytest.raises(ValueError, match="splat"):
        preview(viewer={"file": "3d/box.glb"})


# Files for the page -------------------------------------------------------------------------------


def file_of(folders: Path, entry: dict) -> Path:
    assert set(entry) == {"filename", "subfolder", "type"} and entry["type"] == "temp"
    path = folders / "temp" / entry["subfolder"] / entry["filename"]
    assert path.is_file()
    return path


def test_the_pages_splats_are_the_inputs_unedited(preview, types, foreign, splat, folders):
    edit = {"crop": BOX, "min_opacity": 0.5}
    *_, payload = preview(splat=foreign, splat_b=splat, viewer={"edit": edit})
    for name, expected in (("splat", foreign), ("splat_b", splat)):
        path = file_of(folders, payload[name])
        read, expected = lgm.io.read_ply(path), library(types, expected).visible(0.005)
        assert (read.sh is None) == (expected.sh is None)
        for field, value in expected.tensors().items():
            if field != "rotations":  # of either sign
                torch.testing.assert_close(getattr(read, field), value, atol=1e-5, rtol=1e-4)
        turns = (read.rotations * expected.rotations).sum(-1).abs()
        torch.testing.assert_close(turns, torch.ones_like(turns))
    assert payload["bytes"] == file_of(folders, payload["splat"]).stat().st_size


def test_the_extent_is_the_boxs_of_what_is_visible(preview, types, splat):
    gaussians = library(types, splat).visible(1 / 255)
    low, high = gaussians.positions[0].aminmax(dim=0)
    clean = preview(splat=splat)[4]["extent"]
    assert (torch.tensor(clean["size"]) <= high - low + 1e-5).all()
    part = lgm.splats.crop.box_mask(gaussians.positions[0], clean["center"], clean["size"])
    assert gaussians.opacities[0][part].sum() > 0.97 * gaussians.opacities.sum()

    floater = types.splat_from_gaussians([types.gaussians_from_splat(splat, 0)])
    floater.positions[0, 0] = 50.0
    dirty = preview(splat=floater)[4]["extent"]
    torch.testing.assert_close(
        torch.tensor(dirty["size"]), torch.tensor(clean["size"]), atol=0.05, rtol=0
    )


def test_an_edit_writes_no_file_again(preview, foreign, splat, folders, pack, monkeypatch):
    images = torch.rand(3, 8, 8, 3)
    given = {"splat": foreign, "splat_b": splat, "images": images}
    first = preview(**given)[4]
    files = {path: path.stat().st_mtime_ns for path in (folders / "temp").rglob("*.*")}
    assert len(files) == 5

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(pack.module("lgm.io"), "write_ply", refuse)
    monkeypatch.setattr(pack.module("lgm.pictures.encode"), "png", refuse)
    second = preview(**given, viewer={"edit": {"min_opacity": 0.5}})[4]
    assert files == {path: path.stat().st_mtime_ns for path in (folders / "temp").rglob("*.*")}
    assert second["count_kept"] < first["count_kept"]
    assert {k: second[k] for k in ("splat", "splat_b", "images", "extent")} == {
        k: first[k] for k in ("splat", "splat_b", "images", "extent")
    }


def test_other_content_has_another_name(preview, foreign):
    name = preview(splat=foreign)[4]["splat"]["filename"]
    foreign.sh[0, 7, 3, 1] += 0.01
    assert preview(splat=foreign)[4]["splat"]["filename"] != name


def test_images_arrive_as_they_are(preview, splat, folders):
    images = torch.rand(2, 6, 9, 3)
    payload = preview(splat=splat, images=images)[4]
    for entry, image in zip(payload["images"], images, strict=True):
        pixels = np.asarray(Image.open(file_of(folders, entry)))
        assert np.array_equal(pixels, (image * 255).round().byte().numpy())
    many = preview(splat=splat, images=torch.rand(20, 4, 4, 3))[4]
    assert len(many["images"]) == 16 and many["notes"] == ["16 of 20 pictures are shown"]


def vertex_colors(data: bytes) -> tuple[dict, np.ndarray]:
    """The JSON of a .glb, and the colors [V, 3] of its only mesh."""
    size = struct.unpack_from("<I", data, 12)[0]
    document, binary = json.loads(data[20 : 20 + size]), data[28 + size :]
    place = document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    view = document["bufferViews"][document["accessors"][place]["bufferView"]]
    count = view["byteLength"] // 4
    return document, np.frombuffer(binary, "<f4", count, view["byteOffset"]).reshape(-1, 3)


def test_a_mesh_arrives_with_its_colors(preview, types, splat, folders, pack):
    box = trimesh.creation.box()
    record = pack.module("lgm.mesh").Mesh
    vertices = torch.tensor(box.vertices, dtype=torch.float32)
    parts = {"vertices": vertices, "faces": torch.tensor(box.faces)}
    colors = torch.rand(len(vertices), 3)
    value = types.mesh_value([record(**parts, vertex_colors=colors)])
    path = file_of(folders, preview(splat=splat, mesh=value)[4]["mesh"])
    loaded = trimesh.load(path, force="mesh", process=False)
    assert np.allclose(loaded.vertices, box.vertices) and np.array_equal(loaded.faces, box.faces)
    document, found = vertex_colors(path.read_bytes())
    assert np.allclose(found, types.srgb_to_linear(colors).numpy(), atol=1e-5)  # as glTF has them
    assert document["extensionsUsed"] == ["KHR_materials_unlit"]

    value.unlit = False
    path = file_of(folders, preview(splat=splat, mesh=value)[4]["mesh"])
    assert "extensionsUsed" not in vertex_colors(path.read_bytes())[0]

    texture = torch.rand(4, 4, 3)
    value = types.mesh_value([record(**parts, uvs=torch.rand(len(vertices), 2), texture=texture)])
    path = file_of(folders, preview(splat=splat, mesh=value)[4]["mesh"])
    painted = trimesh.load(path, force="mesh", process=False)
    image = np.asarray(painted.visual.material.baseColorTexture.convert("RGB"))
    assert np.array_equal(image, (texture * 255).round().byte().numpy())


# Running ------------------------------------------------------------------------------------------


def test_progress_ends(preview, foreign, seen):
    for given, total in (
        ({}, 3),
        ({"picture": "as seen", "viewer": {"seen": seen[1]}}, 1),
    ):
        preview(splat=foreign, **given)
        bar = comfy.utils.ProgressBar.bars[-1]
        assert [value for value, _ in bar.updates] == list(range(1, total + 1))
        assert bar.total == total


def test_cancel_ends_it(preview, foreign, monkeypatch):
    monkeypatch.setattr(management, "cancelled", True)
    with pytest.raises(management.InterruptProcessingException):
        preview(splat=foreign)


def test_too_large_a_picture_is_refused(preview, splat, monkeypatch):
    monkeypatch.setattr(management, "get_free_memory", lambda device=None: 1 << 20)
    with pytest.raises(ValueError, match="GB"):
        preview(splat=splat, width=4096, height=4096)
