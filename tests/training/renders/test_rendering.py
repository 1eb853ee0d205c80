"""Meshes to shards: exact cameras, the same result in any order, and no file stops the rest."""

import math

import numpy as np
import pytest
import torch
import trimesh

from lgm.cameras import FOVY, world_to_camera
from lgm.command import dataset
from lgm.training.packs.read import find_meshes
from lgm.training.renders import rendering
from lgm.training.renders.cameras_check import check_cameras
from lgm.training.renders.rendering import Settings, draw_cameras, in_order, render_mesh
from lgm.training.renders.shards import Shards, decode_picture, elevations

pytest.importorskip("numba")
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of nan.obj


def box_of(extents, color=(200, 30, 60, 255)) -> trimesh.Trimesh:
    shape = trimesh.creation.box(extents)
    shape.visual = trimesh.visual.ColorVisuals(shape, face_colors=color)
    return shape


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Objects in every format, and some files that are none."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "deep" / "er").mkdir(parents=True)
    box_of((1, 2, 0.5)).export(folder / "box.glb")
    trimesh.creation.icosphere(2).export(folder / "deep" / "ball.obj")
    trimesh.creation.torus(1, 0.3).export(folder / "deep" / "er" / "ring.ply")
    trimesh.creation.cone(1, 2).export(folder / "deep" / "cone.STL")
    (folder / "damaged.glb").write_bytes(b"glTF but no more")
    (folder / "empty.obj").write_text("# nothing\n")
    (folder / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "notes.txt").write_text("no model")
    return folder


GOOD = ["box.glb", "deep/ball.obj", "deep/cone.STL", "deep/er/ring.ply"]
BAD = ["damaged.glb", "empty.obj", "nan.obj"]


def run(models, out, *more) -> int:
    arguments = ["--meshes", models, "--out", out, "--views", 8, "--size", 32, "--workers", 1]
    return dataset.main([*map(str, arguments), *map(str, more)])


def test_models_of_all_formats_are_found(models):
    assert find_meshes(models) == sorted([*GOOD, *BAD])


def test_meshes_become_shards_and_what_is_none_is_listed(models, tmp_path, capsys):
    assert run(models, tmp_path) == 0
    assert "4 objects, 3 left out" in capsys.readouterr().out
    listed = (tmp_path / "failures.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == BAD
    data = Shards(tmp_path)
    assert data.names == GOOD
    assert check_cameras(data) > 0.98
    for index in range(len(data)):
        found = data.read(index, range(8))
        assert (found.images[:, 3].flatten(1).amax(1) == 255).all()
        expected, ring = draw_cameras(data.names[index], 8)
        assert torch.equal(found.c2w, expected)
        assert data.inputs(index) == list(ring)


@pytest.mark.parametrize("count", [4, 5, 16, 100])
def test_views_are_a_near_horizontal_ring_and_a_sphere(count):
    poses, ring = draw_cameras("chair.glb", count)
    high = elevations(poses)
    torch.testing.assert_close(poses[:, :3, 3].norm(dim=1), torch.full((count,), 1.5))
    assert len(ring) >= 4
    assert ((high[list(ring)] >= -10.01) & (high[list(ring)] <= 20.01)).all()
    assert ((high >= -40.01) & (high <= 70.01)).all()
    if count == 100:
        assert ring == tuple(range(36, 72))
        assert (high.abs() < 1e-3).sum() >= 4  # level from front, left, back and right
        level = [v for v in ring if abs(high[v]) < 1e-3]
        azimuths = torch.rad2deg(torch.atan2(poses[level, 0, 2], poses[level, 2, 2])) % 360
        assert azimuths.round().tolist() == [0, 90, 180, 270]
        others = high[[v for v in range(100) if v not in ring]]
        assert others.max() > 45 and others.min() < -20
    # Four views are all on the ring, and level.
    assert torch.equal(poses, draw_cameras("other.glb", count)[0]) == (count == 4)


def test_pictures_show_the_stated_corners(tmp_path):
    """The corners of a box, projected by the stated cameras, bound its silhouettes."""
    extents = np.array([1.0, 0.6, 0.3])
    box_of(extents).export(tmp_path / "box.glb")
    size = 96
    found = render_mesh("box.glb", tmp_path, Settings(12, size))
    corners = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = corners * torch.from_numpy(extents) / 2
    half = float(rendering.FILL * math.tan(math.radians(FOVY) / 2))
    scale = min(1.5 * half / (0.5 + half * 0.15), rendering.MAX_RADIUS / float(corners[0].norm()))
    corners = (corners * scale).float()
    w2c = world_to_camera(found.c2w)
    local = torch.einsum("vij,nj->vni", w2c[:, :3, :3], corners) + w2c[:, None, :3, 3]
    focal = 0.5 * size / math.tan(math.radians(FOVY) / 2)
    projected = local[..., :2] / local[..., 2:] * focal + size / 2
    for data, points in zip(found.pictures, projected, strict=True):
        rows, columns = np.nonzero(decode_picture(data)[3].numpy())
        bounds = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        wanted = torch.cat([points.amin(0), points.amax(0)]).numpy()
        assert np.abs(bounds - wanted).max() < 1.2, (bounds, wanted)
        assert bounds.min() > 0 and bounds.max() < size  # nothing is cut off


def test_z_up_files_are_turned(tmp_path):
    """A tall box that stands along z in its file stands along y in the pictures."""
    box_of((0.3, 0.3, 2)).export(tmp_path / "post.stl")

    def tallness(up):
        found = render_mesh("post.stl", tmp_path, Settings(8, 48, up))
        shown = torch.stack([decode_picture(found.pictures[v])[3] > 0 for v in found.ring])
        return float(shown.any(2).sum() / shown.any(1).sum())

    assert tallness("z") > 2 > 1 > tallness("y")


@pytest.mark.slow
def test_workers_and_interruptions_change_nothing(models, tmp_path):
    assert run(models, tmp_path / "one") == 0
    assert run(models, tmp_path / "two", "--workers", 2) == 0
    make = rendering.mesh_renderer(models, Settings(8, 32))
    with (
        pytest.raises(KeyboardInterrupt),
        dataset.ShardWriter(
            tmp_path / "three", rendering.made_from("meshes", Settings(8, 32))
        ) as writer,
    ):
        for made in in_order(make, GOOD[:2], 1):
            dataset.add(writer, made)
        raise KeyboardInterrupt
    assert run(models, tmp_path / "three") == 0
    first, *others = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two", "three")
    )
    assert all(other == first for other in others)


def test_other_settings_need_another_folder(models, tmp_path):
    assert run(models, tmp_path) == 0
    with pytest.raises(ValueError, match=r"'size': 32.*'size': 16.*another folder"):
        run(models, tmp_path, "--size", 16)


@pytest.mark.slow
def test_a_killed_worker_is_reported(models):
    with pytest.raises(RuntimeError, match="--workers"):
        list(in_order(kill, ["a", "b"], 2))


def kill(name):
    import os

    os._exit(9)


def test_a_sample_needs_no_files(tmp_path, capsys):
    arguments = ["--sample", "3", "--views", "6", "--size", "24", "--workers", "1"]
    assert dataset.main([*arguments, "--out", str(tmp_path)]) == 0
    data = Shards(tmp_path)
    assert data.names == [f"procedural/{seed}" for seed in range(3)]
    assert data.read(0, [0]).images.shape == (1, 4, 24, 24)
    assert capsys.readouterr().out == f"{tmp_path}: 3 objects\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--sample", "3", "--layout", "lgm"], "--layout has no meaning with --sample"),
        (["--sample", "3", "--meshes", "x"], "not allowed"),
        (["--meshes", "x", "--keep-pack"], "--keep-pack has no meaning with --meshes"),
        (["--renders", "x", "--views", "10"], "--views has no meaning with --renders"),
        (["--sample", "0"], "--sample"),
        (["--meshes", "x", "--views", "3"], "--views"),
        (["--renders", "x", "--up", "x"], "--up"),
    ],
)
def test_bad_usage_is_status_2(arguments, word, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        dataset.main([*arguments, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_can_not_work_is_refused_before_anything_is_written(tmp_path):
    for option in ("--meshes", "--renders"):
        with pytest.raises(ValueError, match=f"{option} needs a folder"):
            dataset.main([option, str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="warp"):
        dataset.main(["--sample", "1", "--device", "warp", "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match=r"has no \.glb"):
        dataset.main(["--meshes", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
