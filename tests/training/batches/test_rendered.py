"""Training on rendered objects: items as the paper has them, from shards."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lgm.cameras import input_poses, orbit_poses
from lgm.command.train import main
from lgm.network.inputs import IMAGENET_MEAN, IMAGENET_STD, seen_pictures
from lgm.training.batches.rendered import (
    ShardBatches,
    choose_views,
    facing,
    make_item,
    read_views,
    split,
)
from lgm.training.evaluation_set import render_pictures
from lgm.training.procedural.objects import procedural_objects
from lgm.training.recipe import RECIPES
from lgm.training.renders.shard_writer import ShardWriter
from lgm.training.renders.shards import Shards

CPU = torch.device("cpu")
RING, ALL = 6, 10
RECIPE = replace(
    RECIPES["paper"], preset="demo", batch_sizes=(2,), sizes=(32,), stage_ends=(1.0,),
    render_scale=1, view_count=6, lpips_weight=0.0,
)  # fmt: skip
PAPER = RECIPES["paper"]
WORLD = replace(RECIPE, preset="big")


def poses() -> torch.Tensor:
    ring = orbit_poses([i * 360 / RING for i in range(RING)])
    return torch.cat([ring, orbit_poses([30.0, 120, 200, 310], elevation=40)]).float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    c2w = poses()
    with ShardWriter(path) as writer:
        for seed in range(5):
            images, _ = render_pictures(procedural_objects([seed]), 64, c2w, supersample=1)
            writer.add(f"object {seed}", images[0], c2w, 49.1, ring=range(RING))
    return path


@pytest.fixture
def shards(folder) -> Shards:
    return Shards(folder)


def test_inputs_come_from_the_ring_and_the_rest_from_anywhere():
    ring, seen = [2, 3, 5, 7, 8], set()
    scattered = orbit_poses(list(range(0, 360, 18))).float()
    for seed in range(50):
        order = choose_views(ring, scattered, PAPER, 4, np.random.default_rng(seed))
        assert len(set(order[:4])) == 4 and set(order[:4]) <= set(ring)
        assert sorted(order[4:]) == list(range(20))
        seen |= set(order[4:8])
    assert seen == set(range(20))
    assert choose_views([1], scattered[:3], PAPER, 4, np.random.default_rng(0))[:4] == [1] * 4


def test_even_inputs_go_around_the_object_in_order():
    """Whatever the order of the ring's views in the dataset, and wherever they begin."""
    azimuths = torch.randperm(24, generator=torch.Generator().manual_seed(0)) * 15.0
    c2w, starts = orbit_poses(azimuths).float(), set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        order = choose_views(list(range(24)), c2w, replace(PAPER, even_inputs=1.0), 4, rng)
        found = azimuths[order[:4]]
        assert ((found - found[0]) % 360).tolist() == [0, 90, 180, 270]
        starts.add(float(found[0]))
    assert len(starts) > 10


def test_a_network_that_sees_a_hull_gets_an_upright_world_and_its_front():
    c2w = orbit_poses([70.0, 160, 250, 340], elevation=25).float()
    turned = facing(c2w)
    torch.testing.assert_close(turned[0], orbit_poses([0.0], elevation=25)[0].float())
    expected = orbit_poses([0.0, 90, 180, 270], elevation=25).float()
    torch.testing.assert_close(turned, expected, atol=1e-6, rtol=0)


def test_an_unaugmented_item_is_its_pictures_and_their_cameras(shards):
    found = read_views(shards, 0, RECIPE, 4, None)
    item = make_item(found, RECIPE, 64, 4, None)
    truth = found.images.float() / 255
    on_white = truth[:, :3] * truth[:, 3:] + 1 - truth[:, 3:]
    torch.testing.assert_close(item.images, on_white)
    torch.testing.assert_close(item.masks, truth[:, 3:])
    torch.testing.assert_close(seen_pictures(item.inputs[None])[0], on_white[:4])
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    expected = (on_white[:4] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(item.inputs[:, :3], expected)


def test_the_first_view_is_the_canonical_camera_and_all_others_keep_their_place(shards):
    found = read_views(shards, 1, RECIPE, 4, np.random.default_rng(3))
    item = make_item(found, WORLD, 32, 4, None)
    torch.testing.assert_close(item.c2w[0], input_poses()[0].float(), atol=1e-6, rtol=0)
    relative = torch.linalg.inv(found.c2w[0]) @ found.c2w
    torch.testing.assert_close(torch.linalg.inv(item.c2w[0]) @ item.c2w, relative)


def test_augmentation_changes_the_inputs_but_never_the_first_nor_the_targets(shards):
    found = read_views(shards, 0, RECIPE, 4, None)
    always = replace(RECIPE, distortion_chance=1.0, jitter_chance=1.0)
    plain = make_item(found, RECIPE, 64, 4, None)
    item = make_item(found, always, 64, 4, np.random.default_rng(0))
    assert torch.equal(item.images, plain.images) and torch.equal(item.c2w, plain.c2w)
    assert torch.equal(item.inputs[0], plain.inputs[0])
    for view in range(1, 4):
        assert not torch.allclose(item.inputs[view, :3], plain.inputs[view, :3], atol=0.1)
        assert not torch.allclose(item.inputs[view, 3:], plain.inputs[view, 3:], atol=1e-3)
    never = replace(RECIPE, distortion_chance=0.0, jitter_chance=0.0)
    untouched = make_item(found, never, 64, 4, np.random.default_rng(0))
    assert torch.equal(untouched.inputs, plain.inputs)


def test_every_round_shows_every_object_once_in_a_new_order(folder):
    maker = ShardBatches(folder, RECIPE, CPU, 3, workers=0)
    trained = split(5)[0]
    assert (list(trained), list(split(5)[1])) == ([0, 1, 2, 3], [4])
    names = [name for first in range(0, 8, 2) for name in maker.batches(first, 0, 1.0)[0].names]
    assert sorted(names[:4]) == sorted(names[4:]) == [f"object {i}" for i in trained]
    assert [batch.names for batch in maker.validation(0)] == [["object 4"]]
    assert all(batch.inputs.shape == (1, 4, 9, 32, 32) for batch in maker.validation(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_what_one_would_see(folder, workers):
    """Whatever the workers and processes, and also when going on in the middle."""
    whole = ShardBatches(folder, RECIPE, CPU, 3, workers=0).batches(6, 0, 1.0)[0]
    half = replace(RECIPE, batch_sizes=(1,))
    parts = [
        ShardBatches(folder, half, CPU, 3, workers, rank, 2).batches(6, 0, 1.0)[0]
        for rank in range(2)
    ]
    assert [name for part in parts for name in part.names] == whole.names
    for name in ("inputs", "images", "masks", "c2w"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_views_that_cannot_be_read_are_replaced_or_repeated(tmp_path, shards, caplog):
    path, c2w = tmp_path / "damaged", poses()
    images = shards.read(0, range(ALL)).images
    with ShardWriter(path) as writer:
        writer.add("object", images, c2w, 49.1, ring=range(RING))
        writer.add("other", images, c2w, 49.1, ring=range(RING))
    damaged = Shards(path)
    shard = path / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    for view in range(ALL):
        if view not in (0, 3):
            start, size = damaged.samples[0].byte_range(1 + view)
            data[start : start + size] = bytes(size)
    shard.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        found = read_views(Shards(path), 0, RECIPE, 4, np.random.default_rng(0))
    assert len(found.images) == RECIPE.view_count and set(found.ids) <= {0, 3}
    assert "object" in caplog.text


def test_another_field_of_view_is_refused(tmp_path, shards):
    with ShardWriter(tmp_path / "wide") as writer:
        writer.add("object", shards.read(0, range(ALL)).images, poses(), 60.0, ring=range(RING))
    found = read_views(Shards(tmp_path / "wide"), 0, RECIPE, 4, None)
    with pytest.raises(ValueError, match=r"60\.0 degrees"):
        make_item(found, RECIPE, 32, 4, None)


@pytest.mark.slow
def test_the_command_trains_on_a_folder_of_shards(tmp_path, folder, capsys):
    changes = {"batch_sizes": [1], "sizes": [32], "stage_ends": [1.0], "view_count": 5}
    options = ["--data", str(folder), "--out", str(tmp_path), "--steps", "2", "--workers", "0"]
    options += ["--log-every", "1", "--validate-every", "2", "--set", json.dumps(changes)]
    assert main(options) == 0
    said = capsys.readouterr().out
    assert "no depths" in said and "validation" in said
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["data"]["sha256"] == Shards(folder).digest
    assert (tmp_path / "model.safetensors").is_file()


def test_wrong_cameras_are_refused_before_training(tmp_path, shards):
    wrong = torch.linalg.inv(poses())
    with ShardWriter(tmp_path / "wrong") as writer:
        for index in range(3):
            pictures = shards.read(index, range(ALL)).images
            writer.add(f"object {index}", pictures, wrong, 49.1, ring=range(RING))
    options = ["--data", str(tmp_path / "wrong"), "--out", str(tmp_path / "run"), "--steps", "1"]
    with pytest.raises(ValueError, match="camera"):
        main([*options, "--workers", "0"])
    assert (tmp_path / "run" / "cameras_check.png").is_file()
