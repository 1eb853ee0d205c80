"""Every field of a recipe does what it says, and nothing else."""

import random
import re
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from lgm.cameras import orbit_poses
from lgm.network import unet
from lgm.render import render
from lgm.training.batches import drawn as data
from lgm.training.batches.augment import GRID_STEPS, Augmentation
from lgm.training.batches.batch import Batch, Numbers, Share
from lgm.training.batches.drawn import BatchMaker, Draws, draw_cameras
from lgm.training.evaluation_set import heldout
from lgm.training.learning import step as steps_of
from lgm.training.learning.journal import Journal, draw
from lgm.training.learning.losses import log_error
from lgm.training.learning.step import loss_terms, train_step
from lgm.training.recipe import RECIPES, Recipe, beta1, changed, learning_rate, one_cycle

from .small import CORRECTED, CPU, TINY, batch_of, small_run

MANY = 4000  # draws: shares are met to 0.03
CALM = replace(TINY, distortion_chance=0.0, jitter_chance=0.0, key_white=0.0, draft_share=0.0)
LOSSES = {  # field of the weight: term of the loss
    "rgb_weight": "rgb",
    "psnr_weight": "psnr",
    "alpha_weight": "alpha",
    "lpips_weight": "lpips",
    "l1_weight": "l1",
    "ssim_weight": "ssim",
    "edge_weight": "edge",
    "surface_weight": "surface",
    "depth_weight": "depth",
}
ALONE = replace(TINY, **dict.fromkeys(LOSSES, 0.0), blend_twice=False)


@pytest.fixture(scope="module")
def maker() -> BatchMaker:
    return BatchMaker((), replace(TINY, view_count=7), CPU, seed=7, workers=0)


@pytest.fixture(scope="module")
def batch(maker) -> Batch:
    return batch_of(maker, 0.9)


@pytest.fixture(scope="module")
def gaussians(batch):
    with torch.no_grad():
        return small_run().model(batch.inputs, batch.alphas)


def test_the_last_recipe_of_the_included_model_is_the_one_in_its_history():
    """The command in the docs and `--recipe demo_part7` train alike."""
    page = Path(__file__).parents[2] / "docs" / "training-history.md"
    (text,) = re.findall(r"--set '(\{.*?\})'", page.read_text(encoding="utf-8"))
    assert changed(RECIPES["demo"], text) == RECIPES["demo_part7"]


# Batches --------------------------------------------------------------------------------------


def batch_with(**changes) -> list[Batch]:
    return BatchMaker((), replace(CALM, **changes), CPU, 7, workers=0).batches(0, 0, 0.9)


@pytest.fixture(scope="module")
def calm() -> Batch:
    return batch_with()[0]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"distortion_chance": 1.0}, {"inputs", "alphas", "trusted"}),
        ({"jitter_chance": 1.0}, {"inputs"}),
        ({"key_white": 1.0}, {"alphas"}),
        ({"draft_share": 1.0}, {"uncorrected"}),
        ({"augment_from": 1.0, "distortion_chance": 1.0, "jitter_chance": 1.0}, set()),
    ],
)
def test_an_augmentation_changes_its_own_part_of_a_batch(calm, change, parts):
    [batch] = batch_with(**change)
    tensors = {f.name for f in fields(Batch)} - {"names"}
    changed = {n for n in tensors if not torch.equal(getattr(batch, n), getattr(calm, n))}
    assert changed == parts and batch.names == calm.names
    pictures, rays = (not torch.equal(batch.inputs[:, :, part], calm.inputs[:, :, part])
                      for part in (slice(0, 3), slice(3, 9)))  # fmt: skip
    assert pictures == ("distortion_chance" in change and bool(parts))
    assert rays == ("jitter_chance" in change and bool(parts))


def test_sizes_and_counts_are_those_of_the_recipe():
    batches = batch_with(
        batch_sizes=(3,), accumulation=2, sizes=(32,), render_scale=2, view_count=9,
        input_counts=(3,),
    )  # fmt: skip
    assert len(batches) == 2
    for batch in batches:
        assert batch.inputs.shape == (3, 3, 9, 32, 32) and batch.alphas.shape == (3, 3, 1, 32, 32)
        assert batch.images.shape == (3, 9, 3, 64, 64) and batch.c2w.shape == (3, 9, 4, 4)


def test_stages_have_sizes_of_their_own():
    recipe = replace(CALM, batch_sizes=(2, 1), sizes=(64, 32), stage_ends=(0.5, 1.0))
    maker = BatchMaker((), recipe, CPU, 7, workers=0)
    assert [maker.batches(0, stage, 0.9)[0].inputs.shape[::4] for stage in (0, 1)] == [
        (2, 64),
        (1, 32),
    ]


def test_every_number_of_inputs_takes_its_turn():
    recipe = replace(TINY, input_counts=(1, 4, 6))
    found = [data.input_count(recipe, 0, first) for first in range(0, 600, 2)]
    assert {count: found.count(count) > 60 for count in set(found)} == {1: True, 4: True, 6: True}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8, 1.0])
def test_shares_are_the_recipes_and_independent_of_each_other(share):
    def drawn(progress: float) -> dict[str, torch.Tensor]:
        recipe = replace(
            TINY, key_white=share, distortion_chance=share, jitter_chance=share, draft_share=share,
            augment_from=0.5,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(3)
        plan = Augmentation.draw(generator, Share(MANY), recipe, 4, progress)
        assert GRID_STEPS[0] <= plan.grid.shape[2] <= GRID_STEPS[1]
        names = ("keyed", "distorted", "jittered", "uncorrected")
        return {name: getattr(plan, name).double() for name in names}

    late = drawn(0.5)
    for name, chosen in late.items():
        assert chosen.mean() == pytest.approx(share, abs=0.03 if 0 < share < 1 else 0), name
        for other in late.values():
            if other is not chosen:
                assert (chosen * other).mean() == pytest.approx(share**2, abs=0.03)
    early = drawn(0.49)
    assert not early["distorted"].any() and not early["jittered"].any()
    assert torch.equal(early["keyed"], late["keyed"])
    assert torch.equal(early["uncorrected"], late["uncorrected"])


def test_inputs_are_level_and_even_in_most_objects():
    """Three quarters level, nine tenths in even steps, the others by up to 20 degrees uneven."""
    c2w = draw_cameras(MANY, 4, 8, torch.Generator().manual_seed(0))
    place = c2w[:, :4, :3, 3] / 1.5
    elevations = torch.rad2deg(place[..., 1].asin())
    level = (elevations.abs() < 1e-3).all(1).float().mean()
    assert level == pytest.approx(0.75, abs=0.03)
    assert -10.01 < elevations.min() < -8 and 28 < elevations.max() < 30.01
    assert_close(elevations, elevations[:, :1].expand(-1, 4), atol=0.02, rtol=0)  # one height
    azimuths = torch.rad2deg(torch.atan2(place[..., 0], place[..., 2]))
    apart = (azimuths - torch.tensor([0.0, 90, 180, 270]) + 180) % 360 - 180
    even = apart.abs().amax(1) < 0.01
    assert even.float().mean() == pytest.approx(0.9, abs=0.03)
    assert 18 < apart.abs().max() < 20.01
    assert (apart[~even].std(1) > 0.1).all()  # each view by itself


def test_views_from_anywhere_are_from_anywhere():
    c2w = draw_cameras(MANY, 4, 8, torch.Generator().manual_seed(0))[:, 4:]
    place = c2w[..., :3, 3] / 1.5
    elevations = torch.rad2deg(place[..., 1].asin())
    assert -35.01 < elevations.min() < -34 and 59 < elevations.max() < 60.01
    assert elevations.mean() == pytest.approx(12.5, abs=1)
    assert place[..., 0].mean().abs() < 0.03 and place[..., 2].mean().abs() < 0.03


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_meshes_are_drawn_as_often_as_the_recipe_says_and_packs_equally_often(share, monkeypatch):
    monkeypatch.setattr(data, "draw_parameters", lambda seed: None)  # which object is no matter
    counts = (10, 1000)
    draws = islice(Draws(0, Numbers(0, Share(1)), counts, share), MANY // 2)
    found = np.array([draw if isinstance(draw, int) else -1 for draw in draws])
    meshes = found[found >= 0]
    assert len(meshes) / len(found) == pytest.approx(share, abs=0.04 if 0 < share < 1 else 0)
    if share:
        assert (meshes < 10).mean() == pytest.approx(0.5, abs=0.05)
        assert set(meshes[meshes < 10]) == set(range(10)) and meshes.max() > 900
        assert meshes.max() < 1010


def test_the_makers_share_of_meshes_is_the_recipes(monkeypatch):
    shares = []

    class Stopped(Exception):
        pass

    def noted(seed, numbers, mesh_counts, mesh_share):
        shares.append((seed, mesh_share))
        raise Stopped

    monkeypatch.setattr(data, "Draws", noted)
    for share in (0.1, 0.7):
        with pytest.raises(Stopped):
            BatchMaker((), replace(TINY, mesh_share=share), CPU, 5, 0).batches(0, 0, 0.0)
    assert shares == [(5, 0.1), (5, 0.7)]


def test_training_never_draws_an_object_that_validation_or_evaluation_shows(monkeypatch):
    seeds = []
    draw_parameters = data.draw_parameters

    def noted(seed):
        seeds.append(seed)
        return draw_parameters(seed)

    monkeypatch.setattr(data, "draw_parameters", noted)
    maker = BatchMaker((), replace(TINY, sizes=(32,)), CPU, 7, workers=0)
    batches = maker.validation(0)
    reserved = heldout()["t0"]["first_seed"]
    assert seeds == list(range(reserved, reserved + data.VALIDATION_OBJECTS))
    assert [batch.names for batch in batches] == [[f"procedural/{seed}"] for seed in seeds]
    # The largest that training can draw lies below.
    monkeypatch.setattr(random.Random, "randrange", lambda self, stop: stop - 1)
    seeds.clear()
    next(iter(Draws(0, Numbers(0, Share(1)), (), 0.4)))
    assert 10**9 < seeds[0] < reserved


def test_validation_is_not_augmented_and_shows_the_inputs_of_the_recipe():
    recipe = replace(TINY, sizes=(32,), input_counts=(4, 3), jitter_chance=1.0, key_white=1.0)
    first, again = (BatchMaker((), recipe, CPU, seed, 0).validation(0) for seed in (1, 2))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.inputs, b.inputs) and a.inputs.shape == (1, 3, 9, 32, 32)
        assert (a.trusted == 1).all()
        assert_close(a.c2w[0, :3], orbit_poses([0.0, 90, 180]), atol=1e-6, rtol=0)


# The loss -------------------------------------------------------------------------------------


def squared(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """In place of LPIPS."""
    return (images - target).pow(4).mean()


def total(gaussians, batch, recipe, progress=0.0):
    return loss_terms(gaussians, batch, recipe, progress, squared)


@pytest.mark.parametrize(("field", "term"), LOSSES.items())
def test_the_loss_is_each_term_times_its_weight(gaussians, batch, field, term):
    loss, terms = total(gaussians, batch, replace(ALONE, **{field: 0.7}))
    assert terms[term] != 0
    assert_close(loss, 0.7 * terms[term])
    every = replace(ALONE, **dict.fromkeys(LOSSES, 0.3))
    loss, terms = total(gaussians, batch, every)
    assert_close(loss, 0.3 * sum(terms[name] for name in LOSSES.values()))


def test_terms_are_what_their_names_say(gaussians, batch):
    recipe = replace(ALONE, **dict.fromkeys(LOSSES, 1.0))
    _, terms = total(gaussians, batch, recipe)
    drawn = render(gaussians, batch.c2w, 64)
    images = drawn.images.clamp(0, 1)
    error = images - batch.images
    assert_close(terms["rgb"], error.square().mean())
    assert_close(terms["l1"], error.abs().mean())
    assert_close(terms["alpha"], (drawn.alphas - batch.masks).square().mean())
    assert_close(terms["lpips"], error.pow(4).mean())
    assert_close(terms["psnr"], log_error(images, batch.images))
    assert_close(terms["metric"], -10 * error.square().mean().log10())
    quality = -10 * error.square().mean((2, 3, 4)).log10()
    assert_close(terms["psnr_input"], quality[:, :4].mean(), atol=1e-3, rtol=0)
    assert_close(terms["psnr_novel"], quality[:, 4:].mean(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("progress", "left"), [(0.0, 1.0), (0.15, 0.75), (0.3, 0.5), (0.54, 0.1), (1.0, 0.1)]
)
def test_the_surface_loss_fades_to_a_tenth(gaussians, batch, progress, left):
    loss, terms = total(gaussians, batch, replace(ALONE, surface_weight=2.0), progress)
    assert_close(loss, 2 * left * terms["surface"])
    others = replace(ALONE, **dict.fromkeys(set(LOSSES) - {"surface_weight"}, 1.0))
    losses = [float(total(gaussians, batch, others, x)[0]) for x in (0.0, progress)]
    assert losses[0] == losses[1]  # the others stay


def test_lpips_begins_when_the_recipe_says(gaussians, batch):
    recipe = replace(ALONE, lpips_weight=1.0, lpips_from=0.4)
    assert "lpips" not in total(gaussians, batch, recipe, 0.39)[1]
    assert "lpips" in total(gaussians, batch, recipe, 0.4)[1]


def test_targets_are_put_on_white_twice_where_the_recipe_says(gaussians, batch):
    recipe = replace(ALONE, rgb_weight=1.0, blend_twice=True)
    twice = replace(batch, images=batch.images * batch.masks + 1 - batch.masks)
    assert not torch.equal(twice.images, batch.images)
    again = total(gaussians, twice, replace(recipe, blend_twice=False))[0]
    assert_close(total(gaussians, batch, recipe)[0], again)
    assert total(gaussians, batch, replace(recipe, blend_twice=False))[0] != again


def test_what_has_no_known_surface_has_no_loss_of_it(gaussians, batch):
    recipe = replace(ALONE, rgb_weight=1.0, surface_weight=1.0, depth_weight=1.0)
    _, terms = total(gaussians, replace(batch, depths=None), recipe)
    assert "surface" not in terms and "depth" not in terms


def test_a_step_leaves_the_first_inputs_out_of_the_loss_as_the_recipe_says(batch):
    recipe = replace(TINY, skipped_inputs=3)
    steps = small_run(recipe)
    steps.step = 2  # the third input's turn
    with torch.no_grad():
        found = steps_of.batch_loss(steps, batch, 0.0, None)[0]
        made = steps.model(batch.inputs, batch.alphas, batch.uncorrected)
        assert_close(found, loss_terms(made, batch, recipe, 0.0, None, step=2)[0])
        assert found != loss_terms(made, batch, recipe, 0.0, None, step=0)[0]


# The optimizer --------------------------------------------------------------------------------


OPTIMIZED = replace(
    TINY, learning_rate=1e-3, beta1=(0.93, 0.81), beta2=0.97, warmup=0.3, weight_decay=0.2,
    corrector_rate=0.25,
)  # fmt: skip


@pytest.fixture
def quick(monkeypatch) -> None:
    """Steps whose loss needs no pictures."""

    def loss(steps, *_):
        return sum(p.square().sum() for p in steps.parameters), {}

    monkeypatch.setattr(steps_of, "batch_loss", loss)


@pytest.mark.parametrize("progress", [0.0, 0.15, 0.3, 0.8])
def test_a_step_has_the_rates_of_its_progress(quick, batch, progress):
    steps = small_run(OPTIMIZED, CORRECTED)
    train_step(steps, [batch], progress, None)
    rate = learning_rate(progress, OPTIMIZED)
    for group in steps.optimizer.param_groups:
        first = group["params"][0]
        corrects = any(first is p for p in steps.model.corrector.parameters())
        assert group["lr"] == pytest.approx(rate * (0.25 if corrects else 1))
        assert group["betas"] == (beta1(progress, OPTIMIZED), 0.97)
    assert {id(p) for g in steps.optimizer.param_groups for p in g["params"]} == {
        id(p) for p in steps.model.parameters()
    }


def test_rate_and_momentum_pass_the_recipes_values():
    assert learning_rate(0.3, OPTIMIZED) == pytest.approx(1e-3)
    assert learning_rate(0.0, OPTIMIZED) == pytest.approx(1e-3 / 25)
    assert [beta1(x, OPTIMIZED) for x in (0.0, 0.3, 1.0)] == pytest.approx([0.93, 0.81, 0.93])
    assert one_cycle(0.15, 0.3, 2.0, 4.0, 1.0) == pytest.approx(3.0)  # half the way up
    assert one_cycle(0.65, 0.3, 2.0, 4.0, 1.0) == pytest.approx(2.5)  # half the way down


@pytest.mark.parametrize("decay_norms", [True, False])
def test_weights_decay_and_norms_and_biases_where_the_recipe_says(decay_norms):
    """Without gradients a step is the decay alone."""
    steps = small_run(replace(OPTIMIZED, decay_norms=decay_norms, weight_decay=0.5), CORRECTED)
    for parameter in steps.parameters:
        with torch.no_grad():
            parameter.fill_(1.0)
        parameter.grad = torch.zeros_like(parameter)
    for group in steps.optimizer.param_groups:
        group["lr"] = 0.1
    steps.learn(torch.tensor(0.0))
    shrunk = torch.tensor(1 - 0.1 * 0.5)
    for name, parameter in zip(steps.names, steps.parameters, strict=True):
        is_norm = parameter.dim() == 1
        expected = shrunk if decay_norms or not is_norm else torch.tensor(1.0)
        assert_close(parameter.detach(), expected.expand_as(parameter), msg=name)


def test_gradients_are_clipped_to_the_recipes_norm(quick, batch):
    norms = []
    for clip in (1e-3, 1e6):
        steps = small_run(replace(TINY, gradient_clip=clip))
        told = float(train_step(steps, [batch], 0.5, None)["gradient"])
        left = torch.stack([p.grad.norm() for p in steps.parameters]).norm()
        assert left == pytest.approx(min(told, clip), rel=1e-3)
        norms.append(told)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)  # what is told is the norm before


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9999])
def test_the_average_follows_the_weights(decay):
    """By hand, for one number: as slowly as the recipe says, and faster while it is young."""
    steps = small_run(replace(TINY, ema=decay))
    expected = float(steps.parameters[0].detach().flatten()[0])
    own = expected
    for step in range(1, 13):
        own += 1.0
        with torch.no_grad():
            steps.parameters[0].add_(1.0)
        steps.step = step
        steps.update_ema()
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * own
        assert float(steps.ema[0].flatten()[0]) == pytest.approx(expected, rel=1e-4)
    inside = []
    with steps.averaged():
        inside.append(float(steps.parameters[0].detach().flatten()[0]))
    assert inside[0] == pytest.approx(expected, rel=1e-4)
    assert float(steps.parameters[0].detach().flatten()[0]) == pytest.approx(own, rel=1e-4)


def test_a_step_moves_the_average(quick, batch):
    steps = small_run(replace(TINY, ema=0.5))
    before = [p.detach().clone() for p in steps.parameters]
    train_step(steps, [batch], 0.3, None)
    kept = 2 / 11
    for old, new, average in zip(before, steps.parameters, steps.ema, strict=True):
        assert_close(average, kept * old + (1 - kept) * new.detach(), atol=1e-6, rtol=1e-5)


def test_layers_are_calculated_again_where_the_recipe_says(batch, monkeypatch):
    calls = []
    checkpoint = unet.checkpoint

    def noted(*arguments, **options):
        calls.append(arguments)
        return checkpoint(*arguments, **options)

    monkeypatch.setattr(unet, "checkpoint", noted)
    for wanted in (False, True):
        steps = small_run(replace(TINY, checkpointing=wanted))
        steps.model(batch.inputs, batch.alphas)
        assert bool(calls) == wanted


@pytest.mark.slow
def test_drafts_are_left_alone_in_a_step(batch):
    """What a corrector did to a draft would change its loss."""
    steps = small_run(TINY, CORRECTED)
    torch.nn.init.normal_(steps.model.corrector.conv_out.bias)
    every = replace(batch, uncorrected=torch.ones(2, dtype=torch.bool))
    none = replace(batch, uncorrected=torch.zeros(2, dtype=torch.bool))
    with torch.no_grad():
        found = [float(steps_of.batch_loss(steps, x, 0.0, None)[0]) for x in (every, none)]
        x, guide = steps.model._guided(batch.inputs, batch.alphas)
        plain = steps.model._decode(steps.model.features(x), guide)
        expected = loss_terms(plain, batch, TINY, 0.0, None)[0]
    assert found[0] == pytest.approx(float(expected)) != found[1]


# What a run tells -----------------------------------------------------------------------------


def test_its_picture_shows_truth_above_prediction_and_upright(tmp_path, batch):
    steps = small_run()
    with Journal(tmp_path, steps, None, every=1000, validate=0) as journal:
        journal.picture()
        assert not (tmp_path / "latest.png").exists()  # nothing to show yet
        journal.batch = batch
        journal.picture()
    pixels = torch.from_numpy(np.asarray(Image.open(tmp_path / "latest.png")).copy())
    with torch.no_grad():
        drawn = draw(steps, batch)
    for item in range(2):
        for row, pictures in enumerate((batch.images, drawn)):
            top = (2 * item + row) * 64
            shown = pixels[top : top + 64].view(64, -1, 64, 3).permute(1, 3, 0, 2)
            assert_close(shown, (pictures[item] * 255).byte(), atol=1, rtol=0)


def test_validation_is_of_the_average_and_of_new_views_alone(tmp_path, batch):
    steps = small_run()
    for average in steps.ema:
        average.mul_(0.9)

    class Maker:
        def validation(self, stage):
            assert stage == 1
            return [batch]

    with Journal(tmp_path, steps, Maker(), every=1000, validate=3) as journal:
        for step in range(1, 5):
            steps.step = step
            journal.add({"loss": torch.tensor(0.0)}, batch, 1, 0.0)
    with torch.no_grad(), steps.averaged():
        error = (draw(steps, batch) - batch.images)[:, 4:].square().mean((2, 3, 4))
    step, score = (tmp_path / "validation.csv").read_text().strip().split(",")
    assert step == "3"
    assert float(score) == pytest.approx(float(-10 * error.log10().mean()), abs=1e-3)


def test_no_field_is_without_a_law():
    """Whoever adds one adds what it does to a test here, or says where that is."""
    here = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {
        "preset": "test_train: the paper's world",
        "optimizer": "test_train: a resumed run, for each",
        "rounds": "test_train: steps take turns",
        "even_inputs": "batches/test_rendered: even inputs",
        "batches_per_group": "on a GPU alone, and of no effect on what a batch holds",
    }
    for field in fields(Recipe):
        assert field.name in here.partition("def test_no_field")[0] or field.name in elsewhere
