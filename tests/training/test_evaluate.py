from pathlib import Path

import pytest
import torch

from lgm import load_model
from lgm.network.presets import VIEW_COUNT
from lgm.training.evaluate import (
    EvaluationSet,
    disturb,
    evaluate,
    hull,
    measure,
    nearest_input,
    predict,
    summarize,
    true_depth,
    white,
)

DATA = Path(__file__).parents[1] / "data" / "evaluation_mini.safetensors"


@pytest.fixture(scope="module")
def data():
    return EvaluationSet.load(DATA)


def test_truth_measures_as_perfect(data):
    views = data.views(0)[VIEW_COUNT:]
    scores = measure(views[:, :3], views[:, 3:], views)
    assert scores["psnr"] > 90 and scores["iou"] == 1 and scores["ssim"] > 0.9999


def test_white_is_the_floor(data):
    views = data.views(0)
    images, alphas = white(views, data.c2w, None)
    scores = measure(images, alphas, views[VIEW_COUNT:])
    assert scores["iou"] == 0 and scores["psnr"] < 16


def test_bundled_weights_beat_every_baseline(data):
    """The promise of the README on the repository's own small set: every object better than its
    visual hull, and their mean by 2 dB."""
    methods = {
        "model": predict(load_model("demo"), data.images.shape[-1]),
        "hull": hull,
        "nearest": nearest_input,
        "depth": true_depth,
    }
    rows = evaluate(data, methods)
    psnr = {m: {r["name"]: r["psnr"] for r in rows if r["method"] == m} for m in methods}
    assert all(psnr["model"][name] > psnr["hull"][name] for name in data.names)
    mean = {m: sum(values.values()) / len(values) for m, values in psnr.items()}
    assert mean["model"] > mean["hull"] + 2 > mean["nearest"] + 2
    table = summarize(rows)
    assert {row["tier"] for row in table} == set(data.tiers)
    assert sum(row["objects"] for row in table) == len(rows)


def test_disturbed_inputs_are_the_papers_and_repeatable(data):
    views, c2w = data.views(0)[:VIEW_COUNT], data.c2w[:VIEW_COUNT]
    for kind, moves, turns in (
        ("exact", False, False), ("distorted", True, False), ("jittered", False, True),
        ("distorted+jittered", True, True),
    ):  # fmt: skip
        pictures, poses = disturb(views, c2w, kind)
        again = disturb(views, c2w, kind)
        assert torch.equal(pictures, again[0]) and torch.equal(poses, again[1])
        rounded = disturb(views * (1 - 1e-7), c2w, kind)
        torch.testing.assert_close(pictures, rounded[0], rtol=0, atol=1e-6)
        assert torch.equal(poses, rounded[1])
        assert torch.equal(pictures[0], views[0]) and torch.equal(poses[0], c2w[0])
        for view in range(1, VIEW_COUNT):
            assert torch.equal(pictures[view], views[view]) != moves
            assert torch.equal(poses[view], c2w[view]) != turns
        # Nothing dark comes in from outside, and cameras stay on their orbits.
        torch.testing.assert_close(pictures[:, :3, 0], torch.ones_like(pictures[:, :3, 0]))
        distances = poses[:, :3, 3].norm(dim=1)
        torch.testing.assert_close(distances, c2w[:, :3, 3].norm(dim=1))
        angles = torch.rad2deg(2 * torch.asin((poses - c2w)[:, :3, 3].norm(dim=1) / 2 / distances))
        assert angles.max() < (18**2 + 9**2) ** 0.5 + 0.1


def test_hull_covers_the_inputs_silhouettes(data):
    """Seen from an input camera, a visual hull fills that input's silhouette and little more."""
    views, c2w = data.views(1), data.c2w
    inputs_twice = torch.cat([views[:VIEW_COUNT], views[:VIEW_COUNT]])
    _, alphas = hull(inputs_twice, torch.cat([c2w[:VIEW_COUNT]] * 2), None)
    drawn, solid = alphas > 0.5, views[:VIEW_COUNT, 3:] > 0.5
    wide = torch.nn.functional.max_pool2d(solid.float(), 9, 1, 4) > 0
    assert (drawn & solid).sum() > 0.97 * solid.sum()
    assert not (drawn & ~wide).any()
