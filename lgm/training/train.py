"""Training on one process or many: `python -m lgm train ...`, or
`accelerate launch -m lgm.training ...` on several GPUs or nodes.

A run is a budget of steps or of minutes. With a budget of steps it is the same run whether it is
stopped and goes on, and on how many processes its global batch is spread.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import cli
from ..cli import Parser, number, whole
from ..gaussians import Gaussians
from ..model import LGM
from ..outputs import check_writable
from ..presets import PRESETS
from ..render import render, render_finite
from ..weights import find_model, sha256
from .data import Batch, BatchMaker
from .graphs import graph_networks
from .losses import edge_loss, log_error, psnr, ssim, surface_loss
from .lpips import LPIPS, find_lpips
from .recipe import RECIPES, Recipe, beta1, changed, learning_rate, stage_of
from .run import Run, average_gradients, check_same, describe, for_training, rank, world
from .views import ShardBatches

MAX_FAILURES = 20

log = logging.getLogger(__name__)


def loss_terms(
    gaussians: Gaussians,
    whole: Batch,
    recipe: Recipe,
    progress: float,
    lpips: LPIPS | None,
    step: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss, and its unweighted terms beside PSNR for the log."""
    batch, inputs = whole.supervised(recipe.skipped_inputs, step)
    output = render_finite(gaussians, batch.c2w, batch.images.shape[-1])
    # The original's renderer clamps, and its targets are put on white a second time.
    images, target = output.images.clamp(0, 1), batch.images
    if recipe.blend_twice:
        target = target * batch.masks + (1 - batch.masks)
    terms = {"rgb": (images - target).square().mean()}
    weights = {"rgb": recipe.rgb_weight}

    def add(name: str, weight: float, value) -> None:
        if weight:
            terms[name], weights[name] = value(), weight

    add("psnr", recipe.psnr_weight, lambda: log_error(images, target))
    add("alpha", recipe.alpha_weight, lambda: (output.alphas - batch.masks).square().mean())
    add("l1", recipe.l1_weight, lambda: (images - target).abs().mean())
    add("ssim", recipe.ssim_weight, lambda: 1 - ssim(images, target).mean())
    add("edge", recipe.edge_weight, lambda: edge_loss(images, target))
    if lpips is not None and progress >= recipe.lpips_from:
        add("lpips", recipe.lpips_weight, lambda: lpips(images.flatten(0, 1), target.flatten(0, 1)))
    if batch.depths is not None:
        fade = max(0.1, 1 - progress / 0.6)
        add("surface", recipe.surface_weight * fade, lambda: _surface(gaussians, whole))
        add("depth", recipe.depth_weight, lambda: _depth(output.depths, output.alphas, batch))
    total = sum(weights[name] * value for name, value in terms.items())
    with torch.no_grad():
        quality = psnr(images, target)
        # As the original's metric: of the mean over all pictures.
        terms["metric"] = -10 * terms["rgb"].clamp(min=1e-10).log10()
        terms["psnr_input"] = quality[:, :inputs].mean()
        terms["psnr_novel"] = quality[:, inputs:].mean()
    return total, terms


def _surface(gaussians: Gaussians, batch: Batch) -> Tensor:
    return surface_loss(gaussians.positions, *batch.surface(gaussians.count))


def _depth(depths: Tensor, alphas: Tensor, batch: Batch) -> Tensor:
    solid = ((batch.masks > 0.99) & (alphas > 0.5)).float()
    error = ((depths - batch.depths).abs() * solid).flatten(1).sum(1)
    return (error / solid.flatten(1).sum(1).clamp(min=1)).mean()


@dataclass(frozen=True)
class Outcome:
    """How a step went, which a GPU may still have to find out."""

    finite: Tensor  # [] bool on the CPU, of the gradient; to be read when `known`
    known: torch.cuda.Event | None
    batches: list[Batch]
    losses: list[Tensor]


def train_step(
    run: Run, batches: list[Batch], progress: float, lpips: LPIPS | None
) -> dict[str, Tensor]:
    """One optimizer step. On a GPU it is looked at in the next one: see `settle`.

    Raises:
        RuntimeError: from `settle`.
    """
    for group, rate in zip(run.optimizer.param_groups, run.rates, strict=True):
        group["lr"] = learning_rate(progress, run.recipe) * rate
        group["betas"] = (beta1(progress, run.recipe), run.recipe.beta2)
    run.optimizer.zero_grad(set_to_none=run.fresh_gradients)
    collected: list[dict[str, Tensor]] = []
    for place, batch in enumerate(batches):
        with run.without_sync(last=place == len(batches) - 1):
            loss, terms = batch_loss(run, batch, progress, lpips)
            settle(run)  # drawing has waited for the last step's end already
            (loss / len(batches)).backward()
        collected.append({"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}})
    if not run.spread:
        average_gradients(run.parameters)
    norm = torch.nn.utils.clip_grad_norm_(run.parameters, run.recipe.gradient_clip)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    run.learn(norm)
    run.samples += sum(len(batch.names) for batch in batches) * world()
    finite = norm.isfinite().to("cpu", non_blocking=True)
    known = torch.cuda.current_stream().record_event() if norm.is_cuda else None
    run.outcome = Outcome(finite, known, batches, [terms["loss"] for terms in collected])
    if known is None:
        settle(run)
    means = {key: torch.stack([terms[key] for terms in collected]).mean() for key in collected[0]}
    return {**means, "gradient": norm}


def settle(run: Run) -> None:
    """Look at how the last step went.

    Raises:
        RuntimeError: a loss is not a finite number, or no gradient was for many steps; the weights
            are as they were before.
    """
    outcome, run.outcome = run.outcome, None
    if outcome is None:
        return
    if outcome.known is not None:
        outcome.known.synchronize()
    if outcome.finite:
        run.failures = 0
        return
    refuse_bad_items(run, outcome.batches, outcome.losses)
    run.failures += 1
    if run.failures == MAX_FAILURES:
        raise RuntimeError(
            f"Training needs finite gradients, got none in {MAX_FAILURES} steps up to step "
            f"{run.step}: go on from the last checkpoint with a lower learning_rate."
        )


def batch_loss(
    run: Run, batch: Batch, progress: float, lpips: LPIPS | None
) -> tuple[Tensor, dict[str, Tensor]]:
    rounds = run.recipe.rounds[run.step % len(run.recipe.rounds)]
    gaussians = run.model(batch.inputs, batch.alphas, batch.drafts, rounds)
    loss, terms = loss_terms(gaussians, batch, run.recipe, progress, lpips, run.step)
    # What is not finite is not drawn, but makes the loss and all gradients so.
    finite = torch.stack([x.isfinite().all() for x in gaussians.tensors().values()]).all()
    return loss * torch.where(finite, 1.0, torch.nan), terms


def refuse_bad_items(run: Run, batches: list[Batch], losses: list[Tensor]) -> None:
    """
    Raises:
        RuntimeError: a batch of some process has no finite loss; names its objects.
    """
    bad = [
        ", ".join(_suspects(batch))
        for batch, loss in zip(batches, losses, strict=True)
        if not loss.isfinite()
    ]
    everywhere = [bad]
    if dist.is_initialized():
        everywhere = [None] * world()
        dist.all_gather_object(everywhere, bad)
    found = [names for process in everywhere for names in process]
    if found:
        raise RuntimeError(
            f"Training needs a finite loss, got none at step {run.step} with {'; '.join(found)}: "
            "look at these objects' pictures and cameras. The last checkpoint is good."
        )


def _suspects(batch: Batch) -> list[str]:
    """The objects whose own data are not finite, or else all of the batch."""
    tensors = (batch.inputs, batch.alphas, batch.c2w, batch.images, batch.masks)
    fine = torch.stack([x.isfinite().flatten(1).all(1) for x in tensors]).all(0).tolist()
    bad = [name for name, is_fine in zip(batch.names, fine, strict=True) if not is_fine]
    return bad or batch.names


def train(arguments: argparse.Namespace) -> Path:
    """Run until the budget is spent; returns the exported model's path."""
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
    maker, data = make_batches(arguments, recipe, device)
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
        graph_networks(run, maker.rest)
    with Journal(out, run, maker, arguments.log_every, arguments.validate_every) as journal:
        loop(arguments, run, maker, lpips, checkpoint, journal)
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
    maker: BatchMaker | ShardBatches,
    lpips: LPIPS | None,
    checkpoint: Path,
    journal: Journal,
) -> None:
    """Steps until the budget is spent, `--stop-after` or SIGTERM, with a checkpoint in between."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    # A clock that all share on their CPUs: reading it on GPUs would wait for them.
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
            settle(run)
        if finished:
            return
        if due:
            save(run, checkpoint)
            journal.picture()
            saved = time.monotonic()
        stage = stage_of(progress, run.recipe)
        batches = maker.batches(run.samples, stage, progress)
        journal.add(train_step(run, batches, progress, lpips), batches[0], stage, progress)


def _agreed(values: list[float], clock: dist.ProcessGroup | None) -> list[float]:
    """The first process's values: one clock for all, so that schedule and end agree."""
    if clock is None:
        return values
    shared = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(shared, 0, group=clock)
    return shared.tolist()


def save(run: Run, checkpoint: Path) -> None:
    """Write a checkpoint; where that fails, training goes on and the last one stays."""
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


class Journal:
    """What a run tells: log.csv, the terminal, latest.png; TensorBoard where it is installed."""

    def __init__(
        self, out: Path, run: Run, maker: BatchMaker | ShardBatches, every: int, validate: int
    ):
        self.out, self.run, self.maker = out, run, maker
        self.every, self.validate = every, validate
        self.history: list[dict[str, Tensor]] = []
        self.batch: Batch | None = None
        self.file = self.board = None

    def __enter__(self) -> Journal:
        if rank() == 0:
            self.file = (self.out / "log.csv").open("a", newline="")
            with contextlib.suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(self.out / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.file, self.board):
            if file is not None:
                file.close()

    def add(self, terms: dict[str, Tensor], batch: Batch, stage: int, progress: float) -> None:
        run, self.batch = self.run, batch
        self.history.append(terms)
        if len(self.history) >= self.every:
            self._report(progress)
        if self.validate and run.step % self.validate == 0:
            self._validate(stage)

    def _report(self, progress: float) -> None:
        keys = list(self.history[-1])
        rows = [h for h in self.history if list(h) == keys]  # LPIPS may have begun in between
        self.history = []
        means = torch.stack([torch.stack([h[k].float() for h in rows]).mean() for k in keys])
        if dist.is_initialized():
            dist.all_reduce(means)
            means /= world()
        if self.file is None:
            return
        run, values = self.run, dict(zip(keys, means.tolist(), strict=True))
        writer = csv.writer(self.file)
        if self.file.tell() == 0:
            writer.writerow(["step", "samples", "seconds", "progress", *keys])
        row = [run.step, run.samples, f"{run.seconds:.1f}", f"{progress:.4f}"]
        writer.writerow([*row, *(f"{value:.6g}" for value in values.values())])
        self.file.flush()
        print(*row, *(f"{key} {value:.4f}" for key, value in values.items()), flush=True)
        if self.board:
            for key, value in values.items():
                self.board.add_scalar(f"train/{key}", value, run.step)

    @torch.no_grad()
    def _validate(self, stage: int) -> None:
        """PSNR of the averaged weights on objects that are held out, new views alone; with a
        corrector, of its drafts, too.
        """
        names = ["psnr_novel", "psnr_draft"][: 1 + (self.run.model.corrector is not None)]

        def score(batch: Batch, drafts: bool) -> Tensor:
            quality = psnr(draw(self.run, batch, drafts), batch.images)
            return quality[:, batch.inputs.shape[1] :].mean()

        with self.run.averaged():
            scores = [
                [score(batch, name == "psnr_draft") for name in names]
                for batch in self.maker.validation(stage)
            ]
        means = torch.tensor(scores).mean(0).tolist()
        if rank() == 0:
            told = ", drafts ".join(f"{score:.2f} dB" for score in means)
            print(f"step {self.run.step}: validation {told}", flush=True)
            with (self.out / "validation.csv").open("a") as file:
                file.write(",".join([str(self.run.step), *(f"{m:.4f}" for m in means)]) + "\n")
            if self.board:
                for name, score in zip(names, means, strict=True):
                    self.board.add_scalar(f"validation/{name}", score, self.run.step)

    def picture(self) -> None:
        """Ground truth above, prediction below, for the first four objects."""
        if self.batch is None:
            return
        from PIL import Image

        with torch.no_grad():
            output = draw(self.run, self.batch)[:4]
        rows = torch.stack([self.batch.images[:4], output], dim=1)  # [4, 2, V, 3, S, S]
        grid = rows.permute(0, 1, 4, 2, 5, 3).reshape(-1, rows.shape[2] * rows.shape[-1], 3)
        pixels = (grid * 255).byte().cpu().numpy()
        if rank() == 0:
            Image.fromarray(pixels).save(self.out / "latest.png")
            if self.board:
                self.board.add_image("train/latest", pixels, self.run.step, dataformats="HWC")


def draw(run: Run, batch: Batch, drafts: bool = False) -> Tensor:
    """The network's pictures of all of a batch's views, 0..1, of drafts or as corrected."""
    left = torch.full((len(batch.names),), drafts, device=batch.inputs.device)
    gaussians = run.model(batch.inputs, batch.alphas, left)
    return render(gaussians, batch.c2w, batch.images.shape[-1]).images.clamp(0, 1)


def spread_of(arguments: argparse.Namespace) -> str:
    """How the network is spread over processes: FSDP if asked for here or in Accelerate's
    configuration, else DDP; graphs average their gradients themselves.
    """
    if world() == 1:
        return ""
    if arguments.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1", "yes"):
        return "fsdp"
    return "" if arguments.graph and torch.cuda.is_available() else "ddp"


def make_batches(
    arguments: argparse.Namespace, recipe: Recipe, device: torch.device
) -> tuple[BatchMaker | ShardBatches, dict[str, str]]:
    """What makes this process's batches, and what the data is, for run.json.

    Raises:
        ValueError: the data isn't there, or isn't fit.
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
    maker = ShardBatches(path, *settings)
    known = recipe.surface_weight or recipe.depth_weight
    if known and rank() == 0:
        print("Shards hold no depths: the recipe's surface and depth losses are off.", flush=True)
    if rank() == 0:
        from .cameras_check import check_cameras

        Path(arguments.out).mkdir(parents=True, exist_ok=True)
        check_cameras(maker.shards, picture=Path(arguments.out) / "cameras_check.png")
    return maker, {"name": str(path), "sha256": maker.shards.digest}


def wanted_lpips(arguments: argparse.Namespace, recipe: Recipe) -> LPIPS | None:
    found = find_lpips(arguments.vgg, arguments.lpips_heads) if recipe.lpips_weight else None
    if recipe.lpips_weight and found is None and int(os.environ.get("RANK", "0")) == 0:
        print(
            "LPIPS is off: it needs torchvision's VGG-16 file (--vgg, or in torch's hub cache) and "
            "its heads (--lpips-heads, or the package lpips or torchmetrics).",
            flush=True,
        )
    return found


def start_model(arguments: argparse.Namespace, recipe: Recipe) -> tuple[LGM, str]:
    """Fresh weights, or those of a file as fp32 master weights; and which."""
    preset = PRESETS[recipe.preset]
    model = LGM(preset)
    if preset.decoding == "hull":  # begin at the hull itself
        torch.nn.init.normal_(model.conv.weight, std=0.02)
        torch.nn.init.zeros_(model.conv.bias)
    if model.corrector is not None:  # begin without corrections
        torch.nn.init.zeros_(model.corrector.conv_out.weight)
        torch.nn.init.zeros_(model.corrector.conv_out.bias)
    if not arguments.weights:
        return model, "fresh"
    path = find_model(arguments.weights)
    copied = copy_fitting(model, path)
    total = len(model.state_dict())
    if not copied:
        raise ValueError(
            f"{path} has no tensor of the preset {recipe.preset}: give a model of this project or "
            "of LGM, or another preset with --set."
        )
    if copied < total and rank() == 0:
        print(f"{path}: {copied} of {total} tensors fit, the rest starts fresh.", flush=True)
    return model, f"{path} ({copied} of {total} tensors)"


def copy_fitting(model: LGM, path: Path) -> int:
    """Copy the tensors of equal name and shape, as the original does; returns how many. A first
    layer that reads more than the file's begins deaf to the rest.
    """
    copied = 0
    try:
        with safe_open(path, "pt") as file, torch.no_grad():
            there = set(file.keys())
            for name, value in model.state_dict().items():
                shape = tuple(file.get_slice(name).get_shape()) if name in there else ()
                is_first = name == "unet.conv_in.weight" and len(shape) == 4
                part = value[:, : shape[1]] if is_first else value
                if shape == tuple(part.shape):
                    value.zero_()
                    part.copy_(file.get_tensor(name))
                    copied += 1
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} can't be read as weights ({error}): get it again.") from error
    return copied


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
    budget.add_argument("--steps", type=whole(1, 10**9), help="budget in optimizer steps")
    p.add_argument(
        "--stop-after",
        type=number(0, 10**6),
        default=0.0,
        help="leave after so many minutes; --resume goes on",
    )
    p.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in --out, if there is one"
    )
    p.add_argument(
        "--checkpoint-minutes", type=number(0, 10**6), default=1.0, help="between checkpoints"
    )
    p.add_argument("--seed", type=whole(0, 2**31), default=0)
    p.add_argument("--workers", type=whole(0, 256), default=4, help="processes that draw objects")
    p.add_argument("--graph", action="store_true", help="CUDA graphs: faster for small networks")
    p.add_argument(
        "--fsdp", action="store_true", help="split weights and optimizer over the processes"
    )
    p.add_argument("--vgg", type=Path, help="VGG-16 ImageNet weights for LPIPS")
    p.add_argument("--lpips-heads", type=Path, help="LPIPS' linear heads, version 0.1")
    p.add_argument("--log-every", type=whole(1, 10**6), default=50)
    p.add_argument(
        "--validate-every",
        type=whole(0, 10**9),
        default=1000,
        help="steps between tests on held-out objects; 0: never",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    print(train(parser().parse_args(argv)))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main(["train", *sys.argv[1:]]))
