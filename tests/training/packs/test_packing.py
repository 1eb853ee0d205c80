"""Mesh packs from folders of models."""

from itertools import islice

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from lgm.command import dataset, train
from lgm.training.batches.batch import Numbers, Share
from lgm.training.batches.drawn import BatchMaker, Draws
from lgm.training.packs.pack import MeshPack
from lgm.training.packs.packing import TRIANGLES, usable
from lgm.training.recipe import RECIPES, changed

from .test_meshes import source_of


def colored(shape: trimesh.Trimesh, color: tuple[int, int, int]) -> trimesh.Trimesh:
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[*color, 255])
    shape.visual = trimesh.visual.TextureVisuals(material=material)
    return shape


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "toys"
    (folder / "more").mkdir(parents=True)
    colored(trimesh.creation.box((1, 2, 0.5)), (255, 0, 0)).export(folder / "box.glb")
    colored(trimesh.creation.box((1, 2, 0.5)), (0, 0, 255)).export(folder / "box_blue.glb")
    colored(trimesh.creation.box((1, 1, 0.01)), (0, 255, 0)).export(folder / "flat.glb")
    colored(trimesh.creation.icosphere(5), (0, 255, 0)).export(folder / "more" / "ball.glb")
    colored(trimesh.creation.cone(0.5, 2), (9, 9, 9)).export(folder / "more" / "car.glb")
    (folder / "broken.obj").write_text("v 1 2\nf 1 2 3\n")
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]] * 6)
    cube = trimesh.creation.box((1, 1, 1))
    corners = cube.vertices[cube.faces].reshape(-1, 3)
    picture = Image.fromarray(np.full((300, 200, 3), (200, 40, 90), np.uint8))
    textured = trimesh.Trimesh(
        corners, np.arange(len(corners)).reshape(-1, 3), process=False,
        visual=trimesh.visual.TextureVisuals(uvs[np.arange(len(corners)) % 24], image=picture),
    )  # fmt: skip
    textured.export(folder / "textured.glb")
    return folder


def pack(models, out, *more):
    return dataset.main(["--pack", str(models), "--out", str(out), *more])


def test_a_folder_becomes_a_pack_that_training_reads(models, tmp_path, capsys):
    assert pack(models, tmp_path / "out", "--skip", "/car") == 0
    path = tmp_path / "out" / "meshes.safetensors"
    said = capsys.readouterr().out
    assert said == f"{path}: 1 flat, 3 train, 1 unreadable, 1 with equal triangles\n"
    found = MeshPack.load(path)
    names = ["toys/box", "toys/more/ball", "toys/textured"]
    assert [entry["name"] for entry in found.entries] == names
    listed = (tmp_path / "out" / "failures.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in listed] == ["toys/box_blue", "toys/broken", "toys/flat"]
    assert len(listed[1]) > len("toys/broken: unreadable: ")  # and why
    box, ball, textured = (found.soup([place]) for place in range(3))
    torch.testing.assert_close(box.colors.unique(dim=0), torch.tensor([[1.0, 0.0, 0.0]]))
    size = box.corners.flatten(0, 1).amax(0) - box.corners.flatten(0, 1).amin(0)
    torch.testing.assert_close(size / size[1], torch.tensor([0.5, 1.0, 0.25]), rtol=1e-3, atol=0)
    assert TRIANGLES / 2 < len(ball.corners) <= 2 * TRIANGLES  # of 20,480
    shown = found.atlas[found.textures[textured.count + 1]].float().mean((1, 2))
    torch.testing.assert_close(shown, torch.tensor([200.0, 40.0, 90.0]), rtol=0, atol=3)

    recipe = changed(RECIPES["demo"], '{"mesh_share": 1, "sizes": [32], "batch_sizes": [2], '
                     '"stage_ends": [1]}')  # fmt: skip
    batch = BatchMaker([path], recipe, torch.device("cpu"), 0, 0).batches(0, 0, 0.0)[0]
    assert set(batch.names) <= set(names)
    assert batch.masks.mean() > 0.05


def test_files_with_z_up_are_turned(models, tmp_path):
    pack(models, tmp_path, "--up", "z")
    found = MeshPack.load(tmp_path / "meshes.safetensors")
    corners = found.soup([0]).corners.flatten(0, 1)
    size = corners.amax(0) - corners.amin(0)
    torch.testing.assert_close(size / size[2], torch.tensor([0.5, 0.25, 1.0]), rtol=1e-3, atol=0)


def test_several_folders_are_one_pack(models, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    trimesh.creation.cylinder(0.3, 1).export(other / "rod.stl")
    arguments = ["--pack", str(models / "more"), str(other), "--out", str(tmp_path / "out")]
    assert dataset.main(arguments) == 0
    found = MeshPack.load(tmp_path / "out" / "meshes.safetensors")
    assert [entry["name"] for entry in found.entries] == ["more/ball", "more/car", "other/rod"]
    assert found.train_indices == [0, 1, 2]


def test_several_packs_are_drawn_equally_often(models, tmp_path):
    paths = []
    for name, inside in (("first", models / "more"), ("second", models)):
        out = tmp_path / name
        assert dataset.main(["--pack", str(inside), "--out", str(out)]) == 0
        paths.append(out / "meshes.safetensors")
    more, toys = (MeshPack.load(path) for path in paths)
    counts = [len(more.train_indices), len(toys.train_indices)]
    assert counts == [2, 4]
    both = MeshPack.joined([more, toys])
    assert [e["name"] for e in both.entries] == [e["name"] for e in (*more.entries, *toys.entries)]
    for place in range(4):
        alone, among = toys.soup([place]), both.soup([2 + place])
        for name in ("corners", "normals", "uvs", "colors", "textures", "atlas"):
            assert torch.equal(getattr(alone, name), getattr(among, name)), name

    drawn = list(islice(Draws(3, Numbers(0, Share(1)), counts, 1.0), 400))
    assert set(drawn) == set(range(6))
    assert 160 < sum(place < 2 for place in drawn) < 240  # 200, within four standard deviations


def test_data_that_can_not_be_combined_is_refused(models, tmp_path):
    pack(models, tmp_path)
    arguments = ["--steps", "1", "--out", str(tmp_path / "run"), "--data"]
    with pytest.raises(ValueError, match="one folder of shards, or any number of mesh packs"):
        train.main([*arguments, str(tmp_path / "meshes.safetensors"), str(models)])
    with pytest.raises(ValueError, match=r"there is no .*gone\.safetensors"):
        train.main([*arguments, str(tmp_path / "gone.safetensors")])


def test_what_can_not_be_packed_is_said_and_leaves_nothing(models, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"None of the models can be used: 1 flat\."):
        pack(models, out, "--skip", "box|broken|more|textured")
    with pytest.raises(ValueError, match="None of the models can be used: there are none"):
        pack(models, out, "--skip", ".")
    with pytest.raises(ValueError, match="--skip needs a regular expression"):
        pack(models, out, "--skip", "(")
    with pytest.raises(ValueError, match="--pack needs a folder"):
        pack(tmp_path / "none", out)
    assert not out.exists()


def test_a_model_that_can_not_be_trained_on_is_left_out():
    box = source_of(trimesh.creation.box((1, 1, 1)))
    assert usable(box, {})[1] == ""
    assert usable(box.select(np.arange(12) < 7), {})[1] == "empty"
    assert usable(source_of(trimesh.creation.box((1, 1, 0.02))), {})[1] == "flat"
    assert usable(source_of(trimesh.creation.cylinder(0.016, 1)), {})[1] == "thin"
