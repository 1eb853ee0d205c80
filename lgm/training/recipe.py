"""What a training run does, as data: the paper's recipe, the bundled model's, and changes."""

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
    """At the ends and at the peak of the schedule: the original's scheduler overrides its 0.9."""
    beta2: float = 0.95
    weight_decay: float = 0.05
    decay_norms: bool = True  # the original decays every parameter, norms and biases too
    optimizer: str = "adamw"  # or adamw8bit, paged_adamw8bit: need the package bitsandbytes
    warmup: float = 0.02  # share of the budget, from learning_rate / 25
    gradient_clip: float = 1.0
    accumulation: int = 1  # batches whose gradients make one step
    checkpointing: bool = False  # layers are calculated again for the gradient: less memory
    ema: float = 0.999  # 0 switches the average off
    batch_sizes: tuple[int, ...] = (8,)  # objects per process, one per stage
    sizes: tuple[int, ...] = (256,)  # side of the input pictures per stage, pixels
    render_scale: int = 1  # side of the supervised pictures over the inputs'
    stage_ends: tuple[float, ...] = (1.0,)
    view_count: int = 8  # views drawn of each object, inputs and poles included
    skipped_inputs: int = 0  # so many inputs, by turns, have no loss: more time for new views
    input_counts: tuple[int, ...] = (VIEW_COUNT,)  # of inputs; each step takes one of them
    even_inputs: float = 0.0
    """Share of objects in shards whose inputs go around them in even steps, as at inference; the
    original takes any of the ring in any order. Drawn objects have even ones."""
    augment_from: float = 0.0
    distortion_chance: float = 0.5  # of an object's views but the first, as in the paper
    jitter_chance: float = 0.5
    batches_per_group: int = 4  # rendered together on a GPU
    rgb_weight: float = 1.0
    psnr_weight: float = 0.0  # on the mean of ln(squared error) of each picture: of PSNR itself
    alpha_weight: float = 1.0
    lpips_weight: float = 1.0
    lpips_from: float = 0.0  # from scratch, leave it off until shapes appear: 0.1, say
    blend_twice: bool = True  # the original puts its targets on white twice: soft edges differ
    l1_weight: float = 0.0
    ssim_weight: float = 0.0
    edge_weight: float = 0.0
    surface_weight: float = 0.0  # Gaussians of object pixels at the known surface; fades to a tenth
    depth_weight: float = 0.0  # rendered expected depth against the true one
    corrector_rate: float = 1.0  # its learning rate over the first network's
    rounds: tuple[int, ...] = (1,)  # looks of a corrector, by turns of the steps; the last learns
    draft_share: float = 0.0  # of objects whose loss looks at the splat before its correction
    key_white: float = 0.0  # share of objects whose silhouettes are guessed from white
    mesh_share: float = 0.4  # of objects that come from mesh packs; the rest is procedural


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
    """Whether a JSON value can stand where `example` stands."""
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
    """The original's schedule, over the share of the budget."""
    first = recipe.learning_rate / 25
    return one_cycle(progress, recipe.warmup, first, recipe.learning_rate, first / 1e4)


def beta1(progress: float, recipe: Recipe) -> float:
    """Adam's momentum, low where the learning rate is high."""
    ends, peak = recipe.beta1
    return one_cycle(progress, recipe.warmup, ends, peak, ends)


def input_count(recipe: Recipe, seed: int, first: int) -> int:
    """How many inputs the step takes whose first sample has this number."""
    counts = recipe.input_counts
    return counts[int(np.random.default_rng([seed, first, 2]).integers(len(counts)))]


def input_azimuths(count: int) -> list[float]:
    """Degrees, around the object in order: the first of LGM's four, or more in even steps."""
    return [view * 360 / max(count, VIEW_COUNT) for view in range(count)]


def stage_of(progress: float, recipe: Recipe) -> int:
    return next(
        (i for i, end in enumerate(recipe.stage_ends) if progress < end), len(recipe.stage_ends) - 1
    )
