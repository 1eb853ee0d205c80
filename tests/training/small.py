"""A network of 32 px maps, and a recipe that makes small batches for it."""

from dataclasses import replace

import torch

from lgm import LGM, Preset
from lgm.training.batches.batch import Batch
from lgm.training.batches.drawn import BatchMaker
from lgm.training.learning.network import for_training
from lgm.training.learning.run import Run
from lgm.training.learning.step import train_step
from lgm.training.recipe import RECIPES, Recipe

CPU = torch.device("cpu")
TINY = replace(
    RECIPES["demo"], batch_sizes=(2,), sizes=(64,), stage_ends=(1.0,), distortion_chance=1.0
)
SMALL = Preset(
    down_channels=(32, 32, 32),
    down_attention=(False, False, True),
    up_channels=(32, 32),
    up_attention=(False, False),
    splat_size=32,
    input_size=64,
    decoding="hull",
    poles=True,  # as the preset of the recipe that makes the batches
)
CORRECTED = replace(
    SMALL,
    corrector=Preset(
        down_channels=(32, 32), down_attention=(False, False),
        up_channels=(32, 32), up_attention=(False, False),
        splat_size=32, input_size=32, decoding="correction",
    ),
)  # fmt: skip


def batch_of(maker: BatchMaker, progress: float = 0.0) -> Batch:
    return maker.batches(0, 0, progress)[0]


def small_run(recipe: Recipe = TINY, preset: Preset = SMALL) -> Run:
    torch.manual_seed(0)
    model = LGM(preset)
    torch.nn.init.normal_(model.conv.weight, std=0.02)
    torch.nn.init.zeros_(model.conv.bias)
    return Run(for_training(model, CPU), recipe)


def go(run: Run, maker: BatchMaker, steps: int, total: int = 4) -> list[float]:
    losses = []
    for _ in range(steps):
        progress = run.step / total
        batches = maker.batches(run.samples, 0, progress)
        losses.append(float(train_step(run, batches, progress, None)["loss"]))
    return losses
