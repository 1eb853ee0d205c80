import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgm import LGM, PRESETS, load_model
from lgm.cameras import focal_length, input_poses, world_to_camera
from lgm.command.train import main
from lgm.network.weights import save_model
from lgm.training import train
from lgm.training.batches.batch import Numbers, Share
from lgm.training.batches.drawn import BatchMaker, draw_cameras, merge
from lgm.training.learning.network import for_training
from lgm.training.learning.record import check_same, describe
from lgm.training.learning.run import Run
from lgm.training.learning.start import copy_fitting
from lgm.training.learning.step import MAX_FAILURES, loss_terms, train_step
from lgm.training.procedural.objects import procedural_objects
from lgm.training.recipe import OPTIMIZERS, RECIPES, Recipe, beta1, changed, learning_rate, stage_of
from lgm.training.train import save

from .small import CORRECTED, CPU, SMALL, TINY, batch_of, go, small_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker():
    return BatchMaker((), TINY, CPU, seed=7, workers=0)


def test_one_cycle_starts_low_peaks_and_ends_at_nothing():
    recipe = Recipe(learning_rate=4e-4, warmup=0.1)
    assert math.isclose(learning_rate(0.0, recipe), 1.6e-5)
    assert math.isclose(learning_rate(0.1, recipe), 4e-4)
    assert math.isclose(learning_rate(1.0, recipe), 1.6e-9)
    rates = [learning_rate(i / 100, recipe) for i in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_schedule_is_torchs_one_cycle():
    """Learning rate and momentum, as the original's scheduler sets them."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=4e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-4, total_steps=1001, pct_start=0.1
    )
    recipe = Recipe(learning_rate=4e-4, warmup=0.099)  # torch's peak is at step 0.1 * 1001 - 1
    for step in range(1001):
        if step % 50 == 0:
            group, progress = optimizer.param_groups[0], step / 1000
            assert math.isclose(learning_rate(progress, recipe), group["lr"], abs_tol=2e-6)
            assert math.isclose(beta1(progress, recipe), group["betas"][0], abs_tol=5e-4)
        optimizer.step()
        if step < 1000:
            scheduler.step()


def test_papers_world_is_that_of_the_first_view_and_its_targets_are_larger():
    recipe = replace(TINY, preset="tiny", render_scale=2, distortion_chance=0.0, jitter_chance=0.0)
    batch = batch_of(BatchMaker((), recipe, CPU, 3, workers=0))
    assert batch.inputs.shape[-1] == 64 and batch.images.shape[-1] == 128
    first = input_poses()[0].expand(2, 4, 4)
    torch.testing.assert_close(batch.c2w[:, 0], first, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_lost_loss_names_its_object_and_changes_nothing(maker):
    batch, run = batch_of(maker), small_run()
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    images = batch.images.clone()
    images[1] = float("nan")
    with pytest.raises(RuntimeError, match=f"finite loss.*{batch.names[1]}") as error:
        train_step(run, [replace(batch, images=images)], 0.5, None)
    assert batch.names[0] not in str(error.value)
    assert all(torch.equal(before[k], value) for k, value in run.network.state_dict().items())


@pytest.mark.slow
def test_endless_overflow_stops_with_a_sentence(maker):
    batch, run = batch_of(maker), small_run()
    run.failures = MAX_FAILURES - 1
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    run.parameters[0].register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(RuntimeError, match="finite gradients"):
        train_step(run, [batch], 0.5, None)
    assert all(torch.equal(before[k], value) for k, value in run.network.state_dict().items())


def test_stages_follow_the_budget():
    recipe = replace(TINY, stage_ends=(0.4, 1.0))
    assert [stage_of(p, recipe) for p in (0, 0.39, 0.4, 0.99, 1.0)] == [0, 0, 1, 1, 1]


def test_default_recipe_is_the_papers():
    recipe = RECIPES["paper"]
    assert recipe.preset == "big"
    assert (recipe.rgb_weight, recipe.alpha_weight, recipe.lpips_weight) == (1, 1, 1)
    assert (recipe.learning_rate, recipe.beta1, recipe.beta2) == (4e-4, (0.95, 0.85), 0.95)
    assert recipe.sizes[0] * recipe.render_scale == PRESETS["big"].output_size
    assert (recipe.weight_decay, recipe.decay_norms) == (0.05, True)
    assert (recipe.distortion_chance, recipe.jitter_chance) == (0.5, 0.5)
    assert (recipe.view_count, recipe.gradient_clip) == (8, 1.0)
    assert recipe.blend_twice and recipe.lpips_from == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "JSON object"),
        ('{"lerning_rate": 1}', "no field"),
        ('{"sizes": [100]}', "multiples"),
        ('{"input_counts": [9], "view_count": 12}', "1 to 8"),
        ('{"input_counts": [8], "view_count": 8}', "more views than inputs"),
        ('{"optimizer": "sgd"}', "adamw8bit"),
        ('{"accumulation": 0}', "accumulation"),
        ('{"rounds": [2, 0]}', "1 or more"),
    ],
)
def test_recipes_that_cannot_be_used_get_a_sentence(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        changed(RECIPES["demo"], text)


def test_drawn_objects_need_the_poles_views_too():
    with pytest.raises(ValueError, match="6 views"):
        BatchMaker((), replace(TINY, view_count=5), CPU, 0, 0)


def test_a_frugal_optimizer_says_which_package_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="bitsandbytes"):
        small_run(replace(TINY, optimizer="adamw8bit"))


def test_a_frugal_optimizer_is_not_split_over_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "spread_of", lambda _: "fsdp")
    command = ["--steps", "1", "--out", str(tmp_path), "--set", '{"optimizer": "adamw8bit"}']
    with pytest.raises(ValueError, match="leave --fsdp away"):
        main(command)


def test_cameras_start_with_the_input_ring():
    c2w = draw_cameras(50, 4, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(c2w[..., :3, 3].norm(dim=-1), torch.full((50, 8), 1.5))
    level = c2w[:, 0, 1, 3].abs() < 1e-6
    assert 0.6 < level.float().mean() < 1  # most, not all, look from the horizon


@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 6, 8])
def test_inputs_of_any_number_go_around_the_object_in_order(inputs):
    """The hull looks for a view's neighbors beside it."""
    c2w = draw_cameras(100, inputs, 9, torch.Generator().manual_seed(0))[:, :inputs]
    exact = (c2w[:, 0, 0, 3].abs() < 1e-6) & (c2w[:, 0, 2, 3] > 0)
    azimuths = torch.rad2deg(torch.atan2(c2w[exact][..., 0, 3], c2w[exact][..., 2, 3])) % 360
    expected = torch.arange(inputs) * 360 / max(inputs, 4)
    torch.testing.assert_close(azimuths[0], expected, atol=1e-3, rtol=0)


def test_surface_points_project_to_their_own_pixels(maker):
    batch = batch_of(maker)
    points, known = batch.surface(6 * 32 * 32)
    points, known = points.view(2, 6, -1, 3), known.view(2, 6, -1) > 0
    assert (known.float().mean((0, 2)) > 0.02).all()
    w2c = world_to_camera(batch.c2w[:, :6])
    local = points @ w2c[..., :3, :3].mT + w2c[:, :, None, :3, 3]
    pixels = local[..., :2] / local[..., 2:] * focal_length(32) + 16
    rows, columns = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    expected = torch.stack([columns, rows], dim=-1).view(1, 1, -1, 2).expand(2, 6, -1, -1)
    torch.testing.assert_close(pixels[known], expected[known], atol=1e-3, rtol=0)


def test_distorted_views_are_not_trusted_and_the_first_never_changes(maker):
    batch = batch_of(maker, 0.9)
    assert (batch.trusted[:, 0] == 1).all() and (batch.trusted[:, 1:4] == 0).all()
    assert (batch.trusted[:, 4:] == 1).all()  # no picture of theirs can be distorted


def test_the_poles_that_are_drawn_are_those_the_network_looks_from(maker):
    batch = batch_of(maker, 0.9)
    assert batch.inputs.shape[1] == 4
    guide = LGM(SMALL).guide(batch.inputs, batch.alphas)[0]
    torch.testing.assert_close(batch.c2w[:, 4:6], guide.c2w[:, 4:], atol=2e-5, rtol=0)


def test_targets_are_the_true_views(maker):
    """Augmentation changes what the network is told, never what it is asked to draw."""
    batch = batch_of(maker, 0.9)
    white = batch.images[batch.masks.expand_as(batch.images) == 0]
    torch.testing.assert_close(white, torch.ones_like(white))


def test_merged_objects_keep_their_own_textures():
    first, second = procedural_objects([1]), procedural_objects([2])
    merged = merge([first, second])
    moved = merged.objects == 1
    assert merged.count == 2
    assert torch.equal(merged.corners[moved], second.corners)
    textured = second.textures >= 0
    assert torch.equal(
        merged.atlas[merged.textures[moved][textured]], second.atlas[second.textures[textured]]
    )


def test_shares_of_all_processes_are_a_step():
    """Whatever the split, a step holds the same samples, each once."""
    for world, accumulation in ((1, 4), (2, 2), (4, 1), (2, 1)):
        batch = 8 // (world * accumulation)
        shares = [Share(batch, accumulation, rank, world) for rank in range(world)]
        own = [share.own(torch.arange(8)).view(accumulation, batch) for share in shares]
        steps = torch.stack(own, dim=1).flatten()
        assert steps.tolist() == list(range(8))
        first = iter(Numbers(16, shares[0]))
        assert next(first) == 16


@pytest.mark.slow
def test_a_batch_depends_on_its_number_alone(maker):
    """Not on what was made before it, on how many workers, or on how a step is split."""
    later = maker.batches(4, 0, 0.9)[0]
    again = BatchMaker((), TINY, CPU, seed=7, workers=2).batches(4, 0, 0.9)[0]
    assert torch.equal(later.inputs, again.inputs) and torch.equal(later.images, again.images)
    halves = [
        BatchMaker((), replace(TINY, batch_sizes=(1,)), CPU, 7, 0, rank, 2).batches(4, 0, 0.9)[0]
        for rank in range(2)
    ]
    torch.testing.assert_close(torch.cat([half.inputs for half in halves]), later.inputs)
    torch.testing.assert_close(torch.cat([half.images for half in halves]), later.images)
    assert [name for half in halves for name in half.names] == later.names
    other = BatchMaker((), TINY, CPU, seed=8, workers=0).batches(4, 0, 0.9)[0]
    assert not torch.equal(later.images, other.images)


@pytest.mark.slow
def test_training_lowers_the_loss_on_one_batch(maker):
    recipe = replace(TINY, learning_rate=3e-3)
    run, batch = small_run(recipe), batch_of(maker)
    losses = [float(train_step(run, [batch], 0.1, None)["loss"]) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, maker, optimizer):
    if optimizer != "adamw":
        pytest.importorskip("bitsandbytes")
    recipe = replace(TINY, optimizer=optimizer)

    def begin() -> Run:
        run = small_run(recipe)
        # On a CPU bitsandbytes lays weights out so in its first step, which changes last digits.
        run.network.to(memory_format=torch.contiguous_format)
        return run

    whole, half = begin(), begin()
    expected = go(whole, maker, 4)
    losses = go(half, maker, 2)
    half.save(tmp_path / "checkpoint.pt")
    resumed = begin()
    resumed.load(tmp_path / "checkpoint.pt")
    assert losses + go(resumed, maker, 2) == expected
    assert all(map(torch.equal, whole.parameters, resumed.parameters))
    assert all(map(torch.equal, whole.ema, resumed.ema))


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(maker):
    large, small = small_run(), small_run(replace(TINY, batch_sizes=(1,), accumulation=2))
    go(large, maker, 1)
    go(small, BatchMaker((), small.recipe, CPU, 7, 0), 1)
    assert large.samples == small.samples == 2
    # Adam's first step is the sign of the gradient, nearly: compare the gradients.
    first, second = (torch.cat([p.grad.flatten() for p in r.parameters]) for r in (large, small))
    assert (first - second).norm() < 1e-4 * first.norm()


@pytest.mark.slow
def test_checkpointing_changes_no_gradient(maker):
    batch = batch_of(maker)
    plain, frugal = small_run(), small_run(replace(TINY, checkpointing=True))
    for run in (plain, frugal):
        loss_terms(run.model(batch.inputs, batch.alphas), batch, TINY, 0.1, None)[0].backward()
    for a, b in zip(plain.parameters, frugal.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.slow
def test_inputs_that_are_skipped_take_turns_in_the_loss(maker):
    batch = batch_of(maker)
    assert batch.supervised(0, 1) == (batch, 4)
    seen = []
    for step in range(4):
        part, inputs = batch.supervised(3, step)
        assert inputs == 1 and part.inputs is batch.inputs
        for name in ("c2w", "images", "masks", "depths"):
            whole, chosen = getattr(batch, name), getattr(part, name)
            assert torch.equal(chosen[:, 1:], whole[:, 4:])  # poles and new views stay
            assert torch.equal(chosen[:, 0], whole[:, step])
        seen.append(part)
    gaussians = small_run().model(batch.inputs, batch.alphas)
    recipe = replace(TINY, surface_weight=0.0, ssim_weight=0.0, edge_weight=0.0, l1_weight=0.0,
                     depth_weight=0.0, rgb_weight=1.0, alpha_weight=0.0)  # fmt: skip
    new = batch.c2w.shape[1] - 4
    every, _ = loss_terms(gaussians, batch, recipe, 0.1, None)
    parts = [
        loss_terms(gaussians, batch, replace(recipe, skipped_inputs=3), 0.1, None, step)[0]
        for step in range(4)
    ]
    # Means over 1 + new views each: the inputs' once, the new views' four times.
    only_new, _ = loss_terms(
        gaussians, replace(batch, **{n: getattr(batch, n)[:, 4:] for n in
                                     ("c2w", "images", "masks", "depths")}), recipe, 0.1, None
    )  # fmt: skip
    torch.testing.assert_close(
        (1 + new) * sum(parts), (4 + new) * every + 3 * new * only_new, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [1, 2, 3, 6])
def test_other_numbers_of_inputs_train(inputs):
    recipe = replace(TINY, input_counts=(inputs,), batch_sizes=(1,))
    run, maker = small_run(recipe), BatchMaker((), recipe, CPU, 7, 0)
    assert batch_of(maker, 0.9).inputs.shape[1] == inputs
    assert all(map(math.isfinite, go(run, maker, 1)))


def test_the_average_is_exported_and_the_weights_stay(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", SMALL)
    run = small_run()
    own = [p.clone() for p in run.parameters]
    for average in run.ema:
        average.fill_(0.25)
    run.export(tmp_path / "model.safetensors", {"steps": 0})
    exported = load_model(tmp_path / "model.safetensors")
    assert all((p == 0.25).all() for p in exported.parameters())
    assert all(map(torch.equal, own, run.parameters))


def test_a_full_disk_costs_no_checkpoint(tmp_path, capsys, monkeypatch):
    run, path = small_run(), tmp_path / "checkpoint.pt"
    run.save(path)
    before = path.read_bytes()

    def full(state, file):
        Path(file).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    save(run, path)
    assert "make room" in capsys.readouterr().err
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_what_cannot_be_resumed_says_why(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        small_run().load(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="another version"):
        small_run().load(path)
    small_run().save(path)
    with pytest.raises(ValueError, match="another preset"):
        small_run(preset=CORRECTED).load(path)

    about = tmp_path / "run.json"
    now = describe(TINY, 0, {"name": "a", "sha256": "1"}, "fresh")
    about.write_text(json.dumps(now))
    check_same(about, now)
    for other, complaint in (
        (describe(replace(TINY, sizes=(96,)), 0, now["data"], ""), r"sizes \(\[64\] then, \[96\]"),
        (describe(TINY, 1, now["data"], ""), "seed"),
        (describe(TINY, 0, {"name": "a", "sha256": "2"}, ""), "data"),
    ):
        with pytest.raises(ValueError, match=complaint):
            check_same(about, other)
    about.write_text(json.dumps({**now, "format": 1}))
    with pytest.raises(ValueError, match="another version"):
        check_same(about, now)


@pytest.mark.slow
def test_weights_of_another_preset_start_what_fits(tmp_path):
    torch.manual_seed(0)
    save_model(LGM(PRESETS["demo"]), tmp_path / "demo.safetensors", torch.float32, {})
    model = LGM(SMALL)
    copied = copy_fitting(model, tmp_path / "demo.safetensors")
    assert 0 < copied < len(model.state_dict())
    donor = load_model(tmp_path / "demo.safetensors").state_dict()
    same = [
        key
        for key, value in model.state_dict().items()
        if key in donor and donor[key].shape == value.shape
    ]
    assert len(same) == copied
    assert all(torch.equal(model.state_dict()[key], donor[key]) for key in same)


def test_a_first_layer_that_reads_more_begins_with_what_it_knows(tmp_path):
    torch.manual_seed(0)
    narrow, wide = LGM(replace(SMALL, poles=False)), LGM(SMALL)
    save_model(narrow, tmp_path / "narrow.safetensors", torch.float32, {})
    assert copy_fitting(wide, tmp_path / "narrow.safetensors") == len(wide.state_dict())
    x = torch.rand(2, SMALL.in_channels, 8, 8)
    expected = narrow.unet.conv_in(x[:, : narrow.preset.in_channels])
    torch.testing.assert_close(wide.unet.conv_in(x), expected)


@pytest.fixture
def corrected() -> LGM:
    torch.manual_seed(0)
    return LGM(CORRECTED)


@pytest.mark.slow
def test_a_corrector_has_a_learning_rate_of_its_own(maker, corrected):
    """At none it stays as it is while the first network learns, which has to begin."""
    run = Run(for_training(corrected, CPU), replace(TINY, corrector_rate=0.0, weight_decay=0.0))
    before = run.weights()
    train_step(run, [batch_of(maker)], 0.5, None)
    for name, value in run.weights().items():
        if name.startswith("corrector."):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(run.weights()["conv.weight"], before["conv.weight"])


@pytest.mark.slow
def test_steps_take_turns_with_the_rounds_of_a_corrector(maker, corrected):
    """The loss of each step is that of the splat after so many looks."""
    run = Run(for_training(corrected, CPU), replace(TINY, rounds=(1, 3)))
    batch = batch_of(maker)
    for step, rounds in enumerate((1, 3, 1)):
        gaussians = run.model(batch.inputs, batch.alphas, batch.uncorrected, rounds)
        expected = loss_terms(gaussians, batch, run.recipe, 0.5, None, step)[0].detach()
        torch.testing.assert_close(train_step(run, [batch], 0.5, None)["loss"], expected)


def test_optimizers_of_models_without_a_corrector_have_the_groups_of_before():
    """So that their checkpoints go on."""
    run = small_run()
    assert [sorted(group) for group in run.optimizer.param_groups] == [
        sorted(torch.optim.AdamW([torch.zeros(1)]).param_groups[0])
    ] * 2
    assert run.rates == [1.0, 1.0]


CHANGES = {"sizes": [32], "stage_ends": [1.0], "augment_from": 0.0, "ema": 0.5}
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config: {fsdp_version: 2}
mixed_precision: 'no'
num_machines: 1
num_processes: 2
use_cpu: true
"""


def launch(launcher: tuple[str, ...], out: Path, *options: str, **changes: object) -> list[dict]:
    """The command on one process or by a launcher; the rows of its log."""
    through = ["-m", *launcher] if launcher else []
    done = subprocess.run(
        [sys.executable, *through, "-m", "lgm.training", "--out", str(out), "--workers", "0",
         "--log-every", "1", "--set", json.dumps(CHANGES | changes), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, launch((), folder, "--steps", "3", batch_sizes=[2])


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["ddp", "fsdp"])
def test_two_processes_are_one(tmp_path, alone, spread):
    """The same global batch gives the same curve and weights, however they are spread; and the
    file that FSDP, configured in Accelerate, writes is an ordinary model.
    """
    config = tmp_path / "accelerate.yaml"
    config.write_text(FSDP)
    accelerate = ("accelerate.commands.launch", "--config_file", str(config))
    launcher = accelerate if spread == "fsdp" else TORCHRUN
    rows = launch(launcher, tmp_path, "--steps", "3", batch_sizes=[1])
    assert json.loads((tmp_path / "run.json").read_text())["spread"] == spread
    for ours, theirs in zip(rows, alone[1], strict=True):
        assert (ours["step"], ours["samples"]) == (theirs["step"], theirs["samples"])
        for key in ("loss", "psnr_novel", "gradient"):
            assert math.isclose(float(ours[key]), float(theirs[key]), rel_tol=2e-3), (key, ours)
    model, other = (load_model(path / "model.safetensors") for path in (tmp_path, alone[0]))
    assert model.preset is PRESETS["demo"]
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-3


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, alone):
    launch(TORCHRUN, tmp_path, "--steps", "3", "--stop-after", "0.00001", batch_sizes=[1])
    first = json.loads((tmp_path / "run.json").read_text())
    assert first["processes"] == 2 and first["data"]["name"] == "procedural"
    rows = launch(TORCHRUN, tmp_path, "--steps", "3", "--resume", batch_sizes=[1])
    assert [row["samples"] for row in rows] == [row["samples"] for row in alone[1]]
    assert math.isclose(float(rows[-1]["loss"]), float(alone[1][-1]["loss"]), rel_tol=2e-3)
