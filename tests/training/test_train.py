import csv
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lgm import LGM, PRESETS, Preset, load_model
from lgm.cameras import focal_length, input_poses, world_to_camera
from lgm.training.data import BatchMaker, draw_cameras, merge
from lgm.training.procedural import procedural_objects
from lgm.training.train import (
    MAX_FAILURES,
    RECIPES,
    Recipe,
    Run,
    beta1,
    learning_rate,
    loss_terms,
    stage_of,
    train_step,
)

ROOT = Path(__file__).parents[2]
TINY = replace(
    RECIPES["demo"], batch_sizes=(2,), sizes=(64,), stage_ends=(1.0,), distortion_chance=1.0
)


SMALL = Preset(
    down_channels=(32, 32, 32),
    down_attention=(False, False, False),
    up_channels=(32, 32),
    up_attention=(False, False),
    splat_size=32,
    input_size=64,
    decoding="hull",
)


@pytest.fixture(scope="module")
def maker():
    return BatchMaker(None, TINY, torch.device("cpu"), seed=7, workers=0)


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
    batch = BatchMaker(None, recipe, torch.device("cpu"), 3, workers=0).batch(0, progress=0.0)
    assert batch.inputs.shape[-1] == 64 and batch.images.shape[-1] == 128
    first = input_poses()[0].expand(2, 4, 4)
    torch.testing.assert_close(batch.c2w[:, 0], first, atol=1e-5, rtol=0)


def test_endless_overflow_stops_with_a_sentence(maker):
    batch = maker.batch(0, progress=0.0)
    model = LGM(SMALL)
    run = Run(model, TINY)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    broken = replace(batch, images=torch.full_like(batch.images, float("nan")))
    run.failures = MAX_FAILURES - 1
    with pytest.raises(RuntimeError, match="finite gradients"):
        train_step(run, broken, 0.5, None)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


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


def test_cameras_start_with_the_input_ring():
    generator = torch.Generator().manual_seed(0)
    c2w = draw_cameras(50, 8, torch.device("cpu"), generator)
    torch.testing.assert_close(c2w[..., :3, 3].norm(dim=-1), torch.full((50, 8), 1.5))
    level = c2w[:, 0, 1, 3].abs() < 1e-6
    assert 0.6 < level.float().mean() < 1  # most, not all, look from the horizon


def test_surface_points_project_to_their_own_pixels(maker):
    batch = maker.batch(0, progress=0.0)
    points, known = batch.surface(4 * 32 * 32)
    points, known = points.view(2, 4, -1, 3), known.view(2, 4, -1) > 0
    assert known.float().mean() > 0.02
    w2c = world_to_camera(batch.c2w[:, :4])
    local = points @ w2c[..., :3, :3].mT + w2c[:, :, None, :3, 3]
    pixels = local[..., :2] / local[..., 2:] * focal_length(32) + 16
    rows, columns = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    expected = torch.stack([columns, rows], dim=-1).view(1, 1, -1, 2).expand(2, 4, -1, -1)
    torch.testing.assert_close(pixels[known], expected[known], atol=1e-3, rtol=0)


def test_distorted_views_are_not_trusted_and_the_first_never_changes(maker):
    batch = maker.batch(0, progress=0.9)
    assert (batch.trusted[:, 0] == 1).all() and (batch.trusted[:, 1:] == 0).all()


def test_targets_are_the_true_views(maker):
    """Augmentation changes what the network is told, never what it is asked to draw."""
    batch = maker.batch(0, progress=0.9)
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


def test_training_lowers_the_loss_on_one_batch(maker):
    torch.manual_seed(0)
    model = LGM(SMALL)
    torch.nn.init.zeros_(model.conv.weight)
    torch.nn.init.zeros_(model.conv.bias)
    recipe = replace(TINY, learning_rate=3e-3)
    run, batch = Run(model, recipe), maker.batch(0, progress=0.0)
    losses = []
    for _ in range(8):
        loss, _ = loss_terms(model(batch.inputs, batch.alphas), batch, recipe, 0.1, None)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_two_processes_train_stop_and_go_on(tmp_path):
    """The command itself, as started on several processes; then again from its checkpoint."""
    arguments = ["--out", str(tmp_path), "--workers", "0", "--log-every", "1", "--resume"]
    changes = '{"batch_sizes": [1], "sizes": [32], "stage_ends": [1.0]}'
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launcher += ["-m", "lgm.training.train"]
    for steps in (2, 3):
        subprocess.run(
            [sys.executable, *launcher, "--steps", str(steps), "--set", changes, *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            check=True,
            capture_output=True,
            timeout=240,
        )
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    assert [int(row["samples"]) for row in rows] == [2, 4, 6]
    model = load_model(tmp_path / "model.safetensors")
    assert model.preset is PRESETS["demo"]
    assert all(p.isfinite().all() for p in model.parameters())
