"""`lgm train`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..training.recipe import RECIPES
from ..training.train import train
from .options import Parser, number, whole_number


def parser() -> argparse.ArgumentParser:
    p = Parser("lgm train", description="Train or fine-tune a model.")
    p.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[],
        help="mesh packs, each drawn equally often, or a folder of shards, made by `lgm dataset`; "
        "without it all objects are procedural",
    )
    p.add_argument(
        "--out",
        default="runs/latest",
        help="folder for checkpoint, log, pictures and model.safetensors",
    )
    p.add_argument("--recipe", choices=RECIPES, default="demo")
    p.add_argument("--set", default="{}", help="JSON of recipe fields to change")
    p.add_argument(
        "--weights", help="start from this model: a file, demo, or lgm_fixrot_fp16; what fits"
    )
    budget = p.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=number(0.001, 10**6), help="budget in minutes")
    budget.add_argument("--steps", type=whole_number(1, 10**9), help="budget in optimizer steps")
    p.add_argument(
        "--stop-after",
        type=number(0, 10**6),
        default=0.0,
        help="stop after so many minutes; --resume goes on",
    )
    p.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in --out, if there is one"
    )
    p.add_argument(
        "--checkpoint-minutes", type=number(0, 10**6), default=1.0, help="between checkpoints"
    )
    p.add_argument("--seed", type=whole_number(0, 2**31), default=0)
    p.add_argument(
        "--workers", type=whole_number(0, 256), default=4, help="processes that draw objects"
    )
    p.add_argument("--graph", action="store_true", help="CUDA graphs: faster for small networks")
    p.add_argument(
        "--fsdp", action="store_true", help="split weights and optimizer over the processes"
    )
    p.add_argument("--vgg", type=Path, help="VGG-16 ImageNet weights for LPIPS")
    p.add_argument("--lpips-heads", type=Path, help="LPIPS' linear heads, version 0.1")
    p.add_argument("--log-every", type=whole_number(1, 10**6), default=50)
    p.add_argument(
        "--validate-every",
        type=whole_number(0, 10**9),
        default=1000,
        help="steps between tests on held-out objects; 0: never",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    print(train(parser().parse_args(argv)))
    return 0
