import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import torch

from lgm import LGM, Gaussians, load_model
from lgm.command import evaluate as command
from lgm.command.evaluate import main
from lgm.network.presets import ROUNDS, VIEW_COUNT
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


@pytest.mark.slow
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


# The figures ----------------------------------------------------------------------------------


def test_figures_of_two_pictures_by_hand():
    """A quarter of the picture is object; errors of 0.1 on it and 0.2 beside it, or the reverse."""
    truth = torch.ones(2, 4, 32, 32)
    truth[:, :3] = 0.5
    truth[:, 3] = 0
    truth[:, 3, :16, :16] = 1
    solid = truth[:, 3:] > 0.5
    error = torch.stack([torch.where(solid[0], 0.1, 0.2), torch.where(solid[1], 0.2, 0.1)])
    alphas = truth[:, 3:].clone()
    alphas[0, :, 8:16, :16] = 0.5  # half the object is missing
    alphas[1, :, 16:, :16] = 0.51  # as much again beside it
    scores = measure(truth[:, :3] + error, alphas, truth)

    def decibel(*squares: float) -> float:
        return float(-10 * torch.tensor(squares).log10().mean())

    assert scores["psnr"] == pytest.approx(decibel(0.0325, 0.0175), abs=1e-3)
    assert scores["object psnr"] == pytest.approx(decibel(0.01, 0.04), abs=1e-3)
    assert scores["iou"] == pytest.approx(0.5)
    assert 0 < scores["ssim"] < 0.9
    # What lies beyond 0..1 is drawn as 0 or 1.
    bright = truth.clone()
    bright[:, :3] = 1
    assert measure(bright[:, :3] + 5, bright[:, 3:], bright)["psnr"] > 90


def test_a_table_of_hand_made_rows():
    rows = [
        {"name": str(i), "tier": tier, "method": method, "psnr": float(offset + i),
         "ssim": i / 100, "iou": i / 50, "object psnr": float(i * i)}
        for tier, count, offset in (("t2", 20, 0), ("t1", 3, 40))
        for method in ("ours", "theirs")
        for i in range(count)
    ]  # fmt: skip
    for row in rows:
        if row["method"] == "theirs":
            row["psnr"] += 100
    table = summarize(list(reversed(rows)))
    assert [(row["tier"], row["method"]) for row in table] == [
        ("t1", "theirs"), ("t1", "ours"), ("t2", "theirs"), ("t2", "ours")
    ]  # fmt: skip
    few, many = table[1], table[3]
    assert many == {
        "tier": "t2", "objects": 20, "method": "ours", "PSNR": 9.5, "median": 9.5,
        "worst 10 %": 0.5, "SSIM": pytest.approx(0.095), "IoU": pytest.approx(0.19),
        "object PSNR": pytest.approx(123.5),
    }  # fmt: skip
    assert (few["objects"], few["PSNR"], few["worst 10 %"]) == (3, 41, 40)  # one at least
    rows[2]["psnr"] = 1000.0  # an outlier moves the mean, not the median
    assert (summarize(rows)[2]["median"], summarize(rows)[2]["PSNR"]) == (10.5, 59.4)


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def model(monkeypatch):
    """A ball, whatever it sees: remembers what it is given, refuses what `LGM` doesn't take."""
    generator = torch.Generator().manual_seed(0)
    ball = Gaussians(
        0.3 * torch.nn.functional.normalize(torch.randn(1, 50, 3, generator=generator), dim=-1),
        torch.full((1, 50, 1), 0.9), torch.full((1, 50, 3), 0.05),
        torch.tensor([1.0, 0, 0, 0]).expand(1, 50, 4), torch.full((1, 50, 3), 0.4),
    )  # fmt: skip
    fake = create_autospec(LGM, instance=True)
    fake.preset = SimpleNamespace(input_size=32)
    fake.reconstruct.return_value = fake.fit.return_value = ball
    loaded = create_autospec(command.load_model, return_value=fake)
    monkeypatch.setattr(command, "load_model", loaded)
    fake.loaded = loaded
    return fake


def asked(model) -> list[tuple]:
    """Of each reconstruction: views, what they are like (by a sum), side, rounds, steps of fit."""
    found = []
    for call, fit in zip(model.reconstruct.call_args_list, model.fit.call_args_list, strict=True):
        views, poses, size = call.args
        assert torch.equal(fit.args[1], views) and torch.equal(fit.args[2], poses)
        assert fit.args[3] == size and len(views) == len(poses)
        found.append((len(views), size, call.kwargs["rounds"], fit.kwargs["steps"]))
    return found


PLAIN = (4, 32, ROUNDS, 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [PLAIN]),
        (["--size", "64", "48"], [(4, 64, ROUNDS, 0), (4, 48, ROUNDS, 0)]),
        (["--views", "1", "3"], [(1, 32, ROUNDS, 0), (3, 32, ROUNDS, 0)]),
        (["--fit", "0", "7"], [PLAIN, (4, 32, ROUNDS, 7)]),
        (["--rounds", "0", "2"], [(4, 32, 0, 0), (4, 32, 2, 0)]),
    ],
)
def test_options_of_the_command_reach_the_model(model, data, capsys, options, expected):
    assert main(["--data", str(DATA), "--no-baselines", *options]) == 0
    assert asked(model) == expected * len(data.names)
    rows = [line for line in capsys.readouterr().out.splitlines()[2:]]
    methods = {line.split("|")[3].strip() for line in rows}
    assert len(methods) == len(expected)  # each by a name of its own
    assert "white" not in methods


def test_inputs_are_disturbed_as_asked(model, data, capsys):
    kinds = ["exact", "distorted", "jittered"]
    assert main(["--data", str(DATA), "--no-baselines", "--inputs", *kinds]) == 0
    for index in range(len(data.names)):
        calls = model.reconstruct.call_args_list[3 * index : 3 * index + 3]
        views = data.views(index)[:VIEW_COUNT]
        for kind, call in zip(kinds, calls, strict=True):
            pictures, poses = disturb(views, data.c2w[:VIEW_COUNT], kind)
            torch.testing.assert_close(call.args[1], poses)
            given = call.args[0]
            on_white = given[:, :3] * given[:, 3:] + 1 - given[:, 3:]
            torch.testing.assert_close(given[:, 3:], pictures[:, 3:])
            assert (on_white - pictures[:, :3]).abs().mean() < 0.01


@pytest.mark.slow
def test_the_model_is_the_one_that_is_asked_for_and_baselines_stand_beside_it(
    model, capsys, monkeypatch
):
    monkeypatch.setattr(command, "hull", white)  # which takes seconds
    assert main(["--data", str(DATA), "--model", "other.safetensors", "--device", "cpu"]) == 0
    model.loaded.assert_called_once_with("other.safetensors", "cpu")
    table = capsys.readouterr().out
    for name in ("other 32 px", "white", "nearest input", "visual hull", "true depth"):
        assert f"| {name} |" in table
    with pytest.raises(ValueError, match="'warp'"):
        main(["--data", str(DATA), "--device", "warp"])


def test_only_the_tiers_asked_for(model, data, capsys):
    tier = data.tiers[-1]
    assert main(["--data", str(DATA), "--no-baselines", "--tiers", tier]) == 0
    assert len(model.reconstruct.call_args_list) == data.tiers.count(tier)
    with pytest.raises(ValueError, match="choose among"):
        main(["--data", str(DATA), "--tiers", "t9"])


def test_its_folder_holds_rows_and_the_worst_objects_first(model, data, tmp_path, monkeypatch):
    shown = []
    save_sheet = create_autospec(command.save_sheet)
    save_sheet.side_effect = lambda path, data, pictures, indices: shown.append((path, indices))
    monkeypatch.setattr(command, "save_sheet", save_sheet)
    out = tmp_path / "out"
    assert main(["--data", str(DATA), "--no-baselines", "--worst", "2", "--out", str(out)]) == 0
    rows = json.loads((out / "rows.json").read_text())
    scores = {row["name"]: row["psnr"] for row in rows}
    [worst] = [indices for path, indices in shown if path.name == "worst.png"]
    assert [data.names[i] for i in worst] == sorted(scores, key=scores.get)[:2]
