"""The settings of a training run as data: the paper's, the included model's, and changes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from ..network.presets import MAX_VIEWS, PRESETS, VIEW_COUNT


@dataclass(frozen=True)
class Recipe:
    """One training run. Fractions are of the whole budget; the defaults are the original's."""

    preset: str = "demo"
    learning_rate: float = 4e-4  # Tang et al. 2024
    beta1: tuple[float, float] = (0.95, 0.85)
    """At the ends and at the peak of the schedule; the original's OneCycle overrides its 0.9."""
    beta2: float = 0.95
    weight_decay: float = 0.05
    decay_norms: bool = True  # as in the original: weight decay also on norms and biases
    optimizer: str = "adamw"  # or adamw8bit, paged_adamw8bit: need the package bitsandbytes
    warmup: float = 0.02  # share of the budget in which the rate rises from learning_rate / 25
    gradient_clip: float = 1.0
    accumulation: int = 1  # batches whose gradients make one step
    checkpointing: bool = False  # activations are recomputed in the backward pass: less memory
    ema: float = 0.999  # decay of the moving average of the weights; 0: no average
    batch_sizes: tuple[int, ...] = (8,)  # objects per process, one per stage
    sizes: tuple[int, ...] = (256,)  # side of the input images per stage, pixels
    render_scale: int = 1  # side of the supervised images over the inputs'
    stage_ends: tuple[float, ...] = (1.0,)
    view_count: int = 8  # views drawn of each object, inputs and poles included
    skipped_inputs: int = 0  # number of inputs without loss, by turns: more time for new views
    input_counts: tuple[int, ...] = (VIEW_COUNT,)  # numbers of inputs; each step draws one
    even_inputs: float = 0.0
    """Share of objects from shards whose inputs are evenly spaced, as at inference. The original
    takes any views of the ring in any order. Drawn objects always have even inputs."""
    augment_from: float = 0.0  # progress at which the augmentations start
    distortion_chance: float = 0.5  # per object, for all its inputs but the first, as in the paper
    jitter_chance: float = 0.5
    batches_per_group: int = 4  # rendered together on a GPU
    rgb_weight: float = 1.0
    psnr_weight: float = 0.0  # on each image's ln(squared error), which is PSNR up to a factor
    alpha_weight: float = 1.0
    lpips_weight: float = 1.0
    lpips_from: float = 0.0  # progress at which LPIPS starts; from scratch 0.1, when shapes appear
    blend_twice: bool = True  # as in the original: targets are blended with white twice
    l1_weight: float = 0.0
    ssim_weight: float = 0.0
    edge_weight: float = 0.0
    surface_weight: float = 0.0  # Gaussians' distance to the true surface; decays to a tenth
    depth_weight: float = 0.0  # rendered depth against the true one
    corrector_rate: float = 1.0  # its learning rate over the first network's
    rounds: tuple[int, ...] = (1,)  # correction rounds, by turns of the steps; the last is trained
    draft_share: float = 0.0  # share of objects whose loss is of the draft, before correction
    key_white: float = 0.0  # share of objects whose alpha is guessed from the white background
    mesh_share: float = 0.4  # share of objects from mesh packs; the others are procedural


RECIPES = {
    "paper": Recipe(preset="big", render_scale=2),
    "demo": Recipe(
        learning_rate=6e-4,
        beta1=(0.9, 0.9),
        decay_norms=False,
        ema=0.9995,
        batch_sizes=(32, 16),
        sizes=(128, 256),
        stage_ends=(0.45, 1.0),
        view_count=10,
        even_inputs=0.9,
        augment_from=0.3,
        distortion_chance=0.2,
        jitter_chance=0.2,
        rgb_weight=4.0,
        lpips_weight=0.0,
        blend_twice=False,
        l1_weight=0.5,
        ssim_weight=0.1,
        edge_weight=0.2,
        surface_weight=1.0,
        depth_weight=0.2,
        draft_share=0.1,
        key_white=0.3,
    ),
}
RECIPES["demo_part7"] = replace(  # the last part of the included model, started from the sixth
    RECIPES["demo"],
    learning_rate=1.3e-4,
    corrector_rate=4.0,
    warmup=0.03,
    ema=0.999,
    sizes=(256, 128, 256),
    batch_sizes=(16, 64, 32),
    stage_ends=(0.4, 0.5, 1.0),
    rgb_weight=2.0,
    psnr_weight=0.05,
    surface_weight=0.2,
    mesh_share=0.8,
    augment_from=0.0,
    skipped_inputs=2,
    view_count=10,
    rounds=(1, 2, 1, 3),
)

OPTIMIZERS = ("adamw", "adamw8bit", "paged_adamw8bit")


def changed(recipe: Recipe, text: str) -> Recipe:
    """The recipe with the fields that a JSON object gives.

    Raises:
        ValueError: not a JSON object, an unknown field, or a value that can't be used.
    """
    try:
        changes = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--set needs a JSON object, got {text!r}: {error}.") from error
    if not isinstance(changes, dict):
        raise ValueError(f"--set needs a JSON object of recipe fields, got {text!r}.")
    known = asdict(Recipe())
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"--set has no field {name!r}: known are {', '.join(known)}.")
        if not _is_like(value, known[name]):
            raise ValueError(f"--set needs {name} like {json.dumps(known[name])}, got {value!r}.")
    lists = {name: tuple(value) for name, value in changes.items() if isinstance(value, list)}
    recipe = replace(recipe, **(changes | lists))
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    if recipe.preset not in PRESETS:
        raise ValueError(f"The preset is one of {', '.join(PRESETS)}, got {recipe.preset!r}.")
    step = 2 ** (len(PRESETS[recipe.preset].down_channels) - 1)
    if any(size % step or size < 2 * step for size in recipe.sizes):
        raise ValueError(f"sizes need multiples of {step} from {2 * step}, got {recipe.sizes}.")
    if not len(recipe.batch_sizes) == len(recipe.sizes) == len(recipe.stage_ends):
        raise ValueError("batch_sizes, sizes and stage_ends need one value per stage each.")
    if recipe.render_scale < 1 or recipe.accumulation < 1 or len(recipe.beta1) != 2:
        raise ValueError(
            "render_scale and accumulation are 1 or more, and beta1 has two values; "
            f"got {recipe.render_scale}, {recipe.accumulation} and {recipe.beta1}."
        )
    if not all(1 <= count <= MAX_VIEWS for count in recipe.input_counts):
        raise ValueError(f"input_counts are 1 to {MAX_VIEWS}, got {recipe.input_counts}.")
    if recipe.view_count <= max(recipe.input_counts) or min(recipe.batch_sizes) < 1:
        raise ValueError(
            "A batch needs one object or more, and more views than inputs "
            f"({max(recipe.input_counts)}); got batch_sizes {recipe.batch_sizes} and view_count "
            f"{recipe.view_count}."
        )
    if min(recipe.rounds) < 1:
        raise ValueError(f"rounds are 1 or more, got {recipe.rounds}.")
    if not 0 <= recipe.skipped_inputs < MAX_VIEWS:
        raise ValueError(f"skipped_inputs is 0 to {MAX_VIEWS - 1}, got {recipe.skipped_inputs}.")
    if recipe.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer is one of {', '.join(OPTIMIZERS)}, got {recipe.optimizer!r}.")


def _is_like(value: object, example: object) -> bool:
    """Whether a JSON value has the type of `example`."""
    if isinstance(example, tuple):
        return (
            isinstance(value, list)
            and bool(value)
            and all(_is_like(item, example[0]) for item in value)
        )
    if isinstance(example, float):
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is type(example)


def one_cycle(progress: float, warmup: float, first: float, peak: float, last: float) -> float:
    """From `first` to `peak` at `warmup`, then to `last`, cosine both ways (Smith & Topin 2018)."""
    if progress < warmup:
        start, stop, along = first, peak, progress / warmup
    else:
        start, stop, along = peak, last, min(1.0, (progress - warmup) / (1 - warmup))
    return stop + (start - stop) * (1 + math.cos(math.pi * along)) / 2


def learning_rate(progress: float, recipe: Recipe) -> float:
    """The learning rate at a share of the budget, by the original's schedule."""
    first = recipe.learning_rate / 25
    return one_cycle(progress, recipe.warmup, first, recipe.learning_rate, first / 1e4)


def beta1(progress: float, recipe: Recipe) -> float:
    """Adam's momentum at a share of the budget: low when the learning rate is high."""
    ends, peak = recipe.beta1
    return one_cycle(progress, recipe.warmup, ends, peak, ends)


def input_count(recipe: Recipe, seed: int, first: int) -> int:
    """The number of inputs of the step whose first sample has the number `first`."""
    counts = recipe.input_counts
    return counts[int(np.random.default_rng([seed, first, 2]).integers(len(counts)))]


def input_azimuths(count: int) -> list[float]:
    """Azimuths in degrees, in order: the first ones of LGM's four, or more in even steps."""
    return [view * 360 / max(count, VIEW_COUNT) for view in range(count)]


def stage_of(progress: float, recipe: Recipe) -> int:
    return next(
        (i for i, end in enumerate(recipe.stage_ends) if progress < end), len(recipe.stage_ends) - 1
    )
