"""Training on one process or many: `python -m lgm train ...`, or
`accelerate launch -m lgm.training ...` on several GPUs or nodes.

A run has a budget of steps or of minutes. With a budget of steps the result does not depend on
whether the run was stopped and resumed, nor on the number of processes that share its batches.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ..io.outputs import check_writable
from ..io.safetensors import sha256
from .batches.batch import BatchSource
from .batches.drawn import BatchMaker
from .batches.rendered import ShardBatches
from .learning.graphs import graph_networks
from .learning.journal import Journal
from .learning.lpips import LPIPS
from .learning.network import for_training
from .learning.processes import rank, world
from .learning.record import check_same, describe
from .learning.run import Run
from .learning.start import start_model, wanted_lpips
from .learning.step import check_last_step, train_step
from .recipe import RECIPES, Recipe, changed, stage_of

log = logging.getLogger(__name__)


def train(arguments: argparse.Namespace) -> Path:
    """Train until the budget is spent; returns the path of the exported model."""
    recipe = changed(RECIPES[arguments.recipe], arguments.set)
    out = Path(arguments.out)
    check_writable(out, folder=True)
    lpips = wanted_lpips(arguments, recipe)
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    device = state.device
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(arguments.seed)  # the same initial weights everywhere
    spread = spread_of(arguments)
    if spread == "fsdp" and recipe.optimizer != "adamw":
        raise ValueError(
            f"The optimizer {recipe.optimizer} can't be split over processes: leave --fsdp away, "
            "or the recipe's optimizer at adamw."
        )
    model, start = start_model(arguments, recipe)
    run = Run(for_training(model, device), recipe, spread)
    source, data = make_batches(arguments, recipe, device)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, about = out / "checkpoint.pt", out / "run.json"
    description = describe(recipe, arguments.seed, data, start, spread)
    if arguments.resume and checkpoint.is_file():
        if about.is_file():
            check_same(about, description)
        run.load(checkpoint)
    elif rank() == 0:
        about.write_text(json.dumps(description, indent=1), encoding="utf-8")
    if lpips is not None:
        lpips.to(device)
    if arguments.graph and device.type == "cuda" and not spread:
        graph_networks(run, source.wait_until_idle)
    with Journal(out, run, source, arguments.log_every, arguments.validate_every) as journal:
        loop(arguments, run, source, lpips, checkpoint, journal)
    exported = out / "model.safetensors"
    save(run, checkpoint)
    note = {"steps": run.step, "samples": run.samples, "seconds": round(run.seconds)}
    run.export(exported, note)
    state.wait_for_everyone()
    if dist.is_initialized():
        dist.destroy_process_group()
    return exported


def loop(
    arguments: argparse.Namespace,
    run: Run,
    source: BatchSource,
    lpips: LPIPS | None,
    checkpoint: Path,
    journal: Journal,
) -> None:
    """Make steps until the budget is spent, `--stop-after` is over or SIGTERM comes, and write
    checkpoints in between.
    """
    stop = []  # filled by SIGTERM: unlike in other commands, the step in work is finished
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    # Progress is agreed on over the CPUs, because a message between GPUs would wait for their work.
    clock = dist.new_group(backend="gloo") if world() > 1 else None
    started, saved, before = time.monotonic(), time.monotonic(), run.seconds
    while True:
        run.seconds = before + time.monotonic() - started
        if arguments.minutes:
            progress = run.seconds / (60 * arguments.minutes)
        else:
            progress = run.step / arguments.steps
        limit = arguments.stop_after and time.monotonic() - started > 60 * arguments.stop_after
        due = time.monotonic() - saved > 60 * arguments.checkpoint_minutes
        finished, progress, due = _agreed(
            [float(progress >= 1 or bool(limit) or bool(stop)), progress, float(due)], clock
        )
        if finished or due:
            check_last_step(run)
        if finished:
            return
        if due:
            save(run, checkpoint)
            journal.picture()
            saved = time.monotonic()
        stage = stage_of(progress, run.recipe)
        batches = source.batches(run.samples, stage, progress)
        journal.add(train_step(run, batches, progress, lpips), batches[0], stage, progress)


def _agreed(values: list[float], clock: dist.ProcessGroup | None) -> list[float]:
    """The values of rank 0, which keep schedule and end the same everywhere. Collective: call it
    on every rank.
    """
    if clock is None:
        return values
    shared = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(shared, 0, group=clock)
    return shared.tolist()


def save(run: Run, checkpoint: Path) -> None:
    """Write a checkpoint; if that fails, training goes on and the last one stays. Collective: call
    it on every rank.
    """
    try:
        run.save(checkpoint)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        print(
            f"The checkpoint {checkpoint} could not be written ({reason}): make room on the disk. "
            "The last one is still there.",
            file=sys.stderr,
            flush=True,
        )


def spread_of(arguments: argparse.Namespace) -> str:
    """How the network is spread over processes: `fsdp` if asked for here or in Accelerate's
    configuration, else `ddp`; empty for one process, and for CUDA graphs, whose gradients
    `train_step` averages.
    """
    if world() == 1:
        return ""
    if arguments.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1", "yes"):
        return "fsdp"
    return "" if arguments.graph and torch.cuda.is_available() else "ddp"


def make_batches(
    arguments: argparse.Namespace, recipe: Recipe, device: torch.device
) -> tuple[BatchSource, dict[str, str]]:
    """The source of this process's batches, and the data's name and hash for run.json.

    Raises:
        ValueError: the data is missing, or its cameras are wrong.
    """
    paths = arguments.data
    settings = (recipe, device, arguments.seed, arguments.workers, rank(), world())
    for path in paths:
        if not path.exists():
            raise ValueError(
                "--data needs mesh packs, or a folder of shards, made by `lgm dataset`; there is "
                f"no {path}."
            )
    if all(path.is_file() for path in paths):
        name = " ".join(str(path) for path in paths) or "procedural"
        digests = " ".join(sha256(path) for path in paths)
        return BatchMaker(paths, *settings), {"name": name, "sha256": digests}
    if len(paths) > 1:
        raise ValueError(
            "--data takes one folder of shards, or any number of mesh packs, got "
            f"{' '.join(str(path) for path in paths)}: convert the renders into one folder."
        )
    (path,) = paths
    source = ShardBatches(path, *settings)
    known = recipe.surface_weight or recipe.depth_weight
    if known and rank() == 0:
        print("Shards hold no depths: the recipe's surface and depth losses are off.", flush=True)
    if rank() == 0:
        from .renders.cameras_check import check_cameras

        Path(arguments.out).mkdir(parents=True, exist_ok=True)
        check_cameras(source.shards, picture=Path(arguments.out) / "cameras_check.png")
    return source, {"name": str(path), "sha256": source.shards.digest}
