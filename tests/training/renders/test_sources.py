"""Rendered datasets of others: one set of cameras in every layout, read to the same poses."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lgm.cameras import orbit_poses
from lgm.command import dataset
from lgm.training.evaluation_set import render_pictures
from lgm.training.procedural.objects import procedural_objects
from lgm.training.renders.shards import Shards, decode_picture
from lgm.training.renders.sources import find_renders, read_render

pytest.importorskip("numba")

FOVY = 49.1
SIZE = 64
SEEDS = (0, 7)
# Our world in Blender's: (x, y, z) -> (x, -z, y).
TO_BLENDER = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
FLIP = np.diag([1.0, -1, -1, 1])
NAMES = ["0", "7"]


def poses() -> torch.Tensor:
    return torch.cat([orbit_poses(torch.arange(6) * 60.0, 10.0), orbit_poses([20.0, 130], 50.0)])


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    """[V, S, S, 4] per object."""
    rendered, _ = render_pictures(procedural_objects(SEEDS), SIZE, poses(), 2)
    return {
        str(seed): images.movedim(1, -1).contiguous().numpy()
        for seed, images in zip(SEEDS, rendered, strict=True)
    }


def write_gobjaverse(folder, images):
    for view, (image, pose) in enumerate(zip(images, poses().double().numpy(), strict=True)):
        place = folder / "campos_512_v4" / f"{view:05d}"
        place.mkdir(parents=True)
        Image.fromarray(image).save(place / f"{view:05d}.png")
        Image.fromarray(image).save(place / f"{view:05d}_albedo.png")
        c2w = TO_BLENDER @ pose @ FLIP
        camera = {key: c2w[:3, i].tolist() for i, key in enumerate(("x", "y", "z"))}
        fov = math.radians(FOVY)
        camera |= {"origin": (0.8 * c2w[:3, 3]).tolist(), "x_fov": fov, "y_fov": fov}
        (place / f"{view:05d}.json").write_text(json.dumps(camera))


def write_blender(folder, images, world=TO_BLENDER, **lens):
    (folder / "train").mkdir(parents=True)
    frames = []
    for view, (image, pose) in enumerate(zip(images, poses().double().numpy(), strict=True)):
        Image.fromarray(image).save(folder / "train" / f"r_{view}.png")
        c2w = world @ pose
        c2w[:3, 3] *= 2.7
        frames.append({"file_path": f"./train/r_{view}", "transform_matrix": c2w.tolist()})
    lens = lens or {"camera_angle_x": math.radians(FOVY)}
    for name, part in (("train", frames[:5]), ("test", frames[5:])):
        (folder / f"transforms_{name}.json").write_text(json.dumps({**lens, "frames": part}))


def write_y_up(folder, images):
    write_blender(folder, images, np.eye(4))


def write_focal(folder, images):
    focal = 0.5 * SIZE / math.tan(math.radians(FOVY) / 2)
    write_blender(folder, images, fl_x=focal, fl_y=focal, w=SIZE, h=SIZE, cx=SIZE / 2, cy=SIZE / 2)


def write_lgm(folder, images):
    for part in ("rgb", "pose"):
        (folder / part).mkdir(parents=True)
    for view, (image, pose) in enumerate(zip(images, poses().double().numpy(), strict=True)):
        Image.fromarray(image).save(folder / "rgb" / f"{view:03d}.png")
        np.savetxt(folder / "pose" / f"{view:03d}.txt", (TO_BLENDER @ pose @ FLIP).reshape(1, -1))


LAYOUTS = {
    "gobjaverse": write_gobjaverse, "blender": write_blender, "lgm": write_lgm,
}  # fmt: skip
ORDERS = {"blender": [5, 6, 7, 0, 1, 2, 3, 4]}  # transforms_test comes before transforms_train


@pytest.fixture(scope="module", params=[*LAYOUTS, "y_up", "focal"])
def source(request, pictures, tmp_path_factory):
    """A folder in one layout, the layout's name and --up."""
    folder = tmp_path_factory.mktemp(request.param)
    write = {**LAYOUTS, "y_up": write_y_up, "focal": write_focal}[request.param]
    for name, images in pictures.items():
        write(folder / "some" / name, images)
    layout = request.param if request.param in LAYOUTS else "blender"
    return folder, layout, "y" if request.param == "y_up" else "z"


def test_every_layout_gives_the_same_poses_and_pictures(source, pictures):
    folder, layout, up = source
    assert find_renders(folder) == (layout, [f"some/{name}" for name in NAMES])
    order = ORDERS.get(layout, list(range(8)))
    for name in NAMES:
        found = read_render(f"some/{name}", folder, layout, up)
        assert (found.failure, found.name) == ("", f"some/{name}")
        assert found.fovy == pytest.approx(FOVY, abs=1e-4)
        torch.testing.assert_close(found.c2w, poses()[order], atol=1e-5, rtol=0)
        assert [order[view] for view in found.ring] == [v for v in order if v < 6]
        for data, view in zip(found.pictures, order, strict=True):
            image = torch.from_numpy(pictures[name][view]).movedim(-1, 0)
            decoded = decode_picture(data)
            visible = image[3:] > 0
            assert torch.equal(decoded[3], image[3])
            assert torch.equal(decoded * visible, image * visible)


def test_every_layout_becomes_shards(source, tmp_path, capsys):
    folder, _, up = source
    arguments = ["--renders", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"]
    arguments += ["--up", up] if up == "y" else []
    assert dataset.main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 objects\n"
    data = Shards(tmp_path / "out")
    assert data.names == ["some/0", "some/7"]
    assert len(data.inputs(0)) == 6 and data.view_count(0) == 8
    distances = data.read(0, range(8)).c2w[:, :3, 3].norm(dim=1)
    torch.testing.assert_close(distances, torch.full((8,), 1.5), atol=1e-5, rtol=0)
    before = data.digest
    assert dataset.main(arguments) == 0
    assert Shards(tmp_path / "out").digest == before


def test_a_folder_that_is_one_object_is_found(pictures, tmp_path):
    write_lgm(tmp_path / "chair", pictures["0"])
    assert find_renders(tmp_path / "chair") == ("lgm", ["."])
    assert read_render(".", tmp_path / "chair", "lgm").name == "chair"


def test_numbered_objects_are_no_gobjaverse_views(pictures, tmp_path):
    write_lgm(tmp_path / "00000", pictures["0"])
    assert find_renders(tmp_path) == ("lgm", ["00000"])


def test_unknown_and_mixed_folders_are_refused(pictures, tmp_path):
    with pytest.raises(ValueError, match="found are none"):
        find_renders(tmp_path)
    write_lgm(tmp_path / "a", pictures["0"])
    write_blender(tmp_path / "b", pictures["0"])
    with pytest.raises(ValueError, match=r"blender and lgm.*--layout"):
        find_renders(tmp_path)
    assert find_renders(tmp_path, "blender") == ("blender", ["b"])


# What is wrong with an object


def edit(path, change):
    camera = json.loads(path.read_text())
    change(camera)
    path.write_text(json.dumps(camera))


def resave(path, change):
    with Image.open(path) as picture:
        change(picture).save(path)


def opaque(folder):
    for path in folder.rglob("*.png"):
        resave(path, lambda p: p.convert("RGB").convert("RGBA"))


VIEW = "campos_512_v4/00003/00003"
MISTAKES = [
    ("gobjaverse", lambda p: (p / f"{VIEW}.json").unlink(), r"00003\.json is missing"),
    ("gobjaverse", lambda p: (p / f"{VIEW}.png").unlink(), r"00003\.png is missing"),
    ("gobjaverse", lambda p: (p / f"{VIEW}.json").write_text("{"), r"00003\.json is no JSON"),
    ("gobjaverse", lambda p: edit(p / f"{VIEW}.json", lambda c: c.pop("origin")), "no origin"),
    ("gobjaverse", lambda p: (p / f"{VIEW}.png").write_bytes(b"\x89PNG"), "can't be read"),
    ("gobjaverse", lambda p: resave(p / f"{VIEW}.png", lambda i: i.convert("RGB")), "no alpha"),
    ("gobjaverse", lambda p: resave(p / f"{VIEW}.png", lambda i: i.resize((64, 48))), "64x48"),
    ("gobjaverse", lambda p: resave(p / f"{VIEW}.png", lambda i: i.resize((32, 32))), "32 pixels"),
    ("gobjaverse", lambda p: edit(p / f"{VIEW}.json", lambda c: c.update(x_fov=0.5)), "different"),
    ("gobjaverse", lambda p: edit(p / f"{VIEW}.json", lambda c: c.update(x=[2, 0, 0])), "rotation"),
    ("gobjaverse", lambda p: edit(p / f"{VIEW}.json", lambda c: c.update(x=[1, 0])), "shape"),
    ("gobjaverse", lambda p: [shutil.rmtree(f) for f in (p / "campos_512_v4").iterdir()], "views"),
    ("gobjaverse", opaque, "opaque"),
    ("lgm", lambda p: (p / "pose/003.txt").unlink(), "view 003 lacks"),
    ("lgm", lambda p: (p / "rgb/003.png").unlink(), "view 003 lacks"),
    ("lgm", lambda p: (p / "pose/003.txt").write_text("1 2 3"), "3 numbers"),
    ("lgm", lambda p: (p / "pose/003.txt").write_text("a b"), "float"),
]


@pytest.mark.parametrize(("layout", "change", "word"), MISTAKES)
def test_an_object_with_a_mistake_is_named(pictures, tmp_path, layout, change, word):
    LAYOUTS[layout](tmp_path / "a", pictures["0"])
    change(tmp_path / "a")
    failure = read_render("a", tmp_path, layout).failure
    assert word.replace("\\", "") in failure and "\n" not in failure


BLENDER_MISTAKES = [
    (lambda c: c.pop("camera_angle_x"), "camera_angle_x"),
    (lambda c: c.pop("frames"), "no frames"),
    (lambda c: c.update(k1=0.1), "distorted"),
    (lambda c: c.update(w=64, h=64, cx=40), "middle"),
    (lambda c: c.update(w=64, fl_x=70, fl_y=90), "square"),
    (lambda c: c["frames"][0].update(file_path="none"), "none is missing"),
    (lambda c: c["frames"][0].pop("transform_matrix"), "no transform_matrix"),
    (lambda c: c["frames"][0].update(transform_matrix=[1, 2]), "2 numbers"),
    (
        lambda c: [
            f.update(transform_matrix=np.transpose(f["transform_matrix"]).tolist())
            for f in c["frames"]
        ],
        "transposed",
    ),
    (
        lambda c: [
            f.update(transform_matrix=np.array(f["transform_matrix"])[[0, 2, 1, 3]].tolist())
            for f in c["frames"]
        ],
        "mirrored",
    ),
]


@pytest.mark.parametrize(("change", "word"), BLENDER_MISTAKES)
def test_a_mistake_in_transforms_is_named(pictures, tmp_path, change, word):
    write_blender(tmp_path / "a", pictures["0"])
    edit(tmp_path / "a" / "transforms_train.json", change)
    failure = read_render("a", tmp_path, "blender").failure
    assert word in failure and "\n" not in failure


def test_objects_with_mistakes_are_left_out_and_listed(pictures, tmp_path, capsys):
    for name, images in pictures.items():
        write_lgm(tmp_path / "in" / name, images)
    write_lgm(tmp_path / "in" / "broken", pictures["0"])
    (tmp_path / "in" / "broken" / "rgb" / "002.png").unlink()
    out = tmp_path / "out"
    arguments = ["--renders", str(tmp_path / "in"), "--out", str(out), "--workers", "1"]
    assert dataset.main(arguments) == 0
    assert "2 objects, 1 left out" in capsys.readouterr().out
    assert (out / "failures.txt").read_text().startswith("broken: view 002 lacks")
    assert Shards(out).names == NAMES

    Image.fromarray(pictures["0"][2]).save(tmp_path / "in" / "broken" / "rgb" / "002.png")
    assert dataset.main(arguments) == 0
    assert Shards(out).names == [*NAMES, "broken"]
    assert not (out / "failures.txt").exists()


def test_a_dataset_without_a_single_good_object_fails(pictures, tmp_path):
    write_lgm(tmp_path / "in" / "broken", pictures["0"])
    (tmp_path / "in" / "broken" / "rgb" / "002.png").unlink()
    with pytest.raises(ValueError, match="None of the 1 objects can be used: broken: view 002"):
        dataset.main(["--renders", str(tmp_path / "in"), "--out", str(tmp_path / "o")])


@pytest.mark.parametrize(
    ("up", "world", "word"), [("y", TO_BLENDER, "other --up"), ("z", np.eye(4), "other --up")]
)
def test_the_wrong_up_is_refused(pictures, tmp_path, up, world, word):
    write_blender(tmp_path / "in", pictures["0"], world)
    arguments = ["--renders", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--up", up]
    with pytest.raises(ValueError, match=word):
        dataset.main(arguments)
    assert not (tmp_path / "out" / "index.json").exists()


def test_up_is_only_asked_where_it_is_not_known(pictures, tmp_path):
    write_lgm(tmp_path / "in", pictures["0"])
    with pytest.raises(ValueError, match="'lgm' has z up always"):
        dataset.main(["--renders", str(tmp_path / "in"), "--out", str(tmp_path / "o"), "--up", "y"])


def test_wrong_cameras_are_refused_with_a_picture(pictures, tmp_path):
    """OpenCV cameras in a file where OpenGL ones belong."""
    for name, images in pictures.items():
        write_blender(tmp_path / "in" / name, images)
        for path in (tmp_path / "in" / name).glob("*.json"):
            camera = json.loads(path.read_text())
            for frame in camera["frames"]:
                frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ FLIP).tolist()
            path.write_text(json.dumps(camera))
    arguments = ["--renders", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"OpenCV.*cameras_check\.png"):
        dataset.main(arguments)
    assert (tmp_path / "out" / "cameras_check.png").exists()
    assert not (tmp_path / "out" / "index.json").exists()
