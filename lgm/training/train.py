"""Training on one process or many: `python -m lgm train ...` or `accelerate launch -m
lgm.training.train ...`.

Everything is drawn fresh on the device: objects, cameras, light, pictures. A run is a budget of
minutes or of steps; a checkpoint every minute lets it go on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import signal
import sys
import time
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, autocast

from .. import cli
from ..cli import Parser, number, whole
from ..gaussians import Gaussians
from ..model import LGM
from ..outputs import check_writable
from ..presets import PRESETS, VIEW_COUNT
from ..render import render
from ..weights import load_model, save_model
from .data import Batch, BatchMaker
from .losses import LPIPS, edge_loss, find_lpips, psnr, ssim, surface_loss

MAX_FAILURES = 20


@dataclass(frozen=True)
class Recipe:
    """One training run. Fractions are of the whole budget."""

    preset: str = "demo"
    learning_rate: float = 4e-4  # Tang et al. 2024
    beta1: tuple[float, float] = (0.95, 0.85)
    """At the ends and at the peak of the schedule: the original's scheduler overrides its 0.9."""
    beta2: float = 0.95
    weight_decay: float = 0.05
    decay_norms: bool = True  # the original decays every parameter, norms and biases too
    warmup: float = 0.02  # share of the budget, from learning_rate / 25
    gradient_clip: float = 1.0
    ema: float = 0.999  # 0 switches the average off
    batch_sizes: tuple[int, ...] = (8,)  # objects per process, one per stage
    sizes: tuple[int, ...] = (256,)  # side of the input pictures per stage, pixels
    render_scale: int = 1  # side of the supervised pictures over the inputs'
    stage_ends: tuple[float, ...] = (1.0,)
    view_count: int = 8  # supervised views per object, the four inputs included
    augment_from: float = 0.0
    distortion_chance: float = 0.5  # of an object's views 1-3, as in the paper
    jitter_chance: float = 0.5
    batches_per_group: int = 4  # rendered together on a GPU
    rgb_weight: float = 1.0
    alpha_weight: float = 1.0
    lpips_weight: float = 1.0
    l1_weight: float = 0.0
    ssim_weight: float = 0.0
    edge_weight: float = 0.0
    surface_weight: float = 0.0  # Gaussians of object pixels at the known surface; fades to a tenth
    depth_weight: float = 0.0  # rendered expected depth against the true one
    key_white: float = 0.0  # share of objects whose silhouettes are guessed from white
    mesh_share: float = 0.4  # of objects that come from the mesh pack; the rest is procedural


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
        augment_from=0.3,
        distortion_chance=0.2,
        jitter_chance=0.2,
        rgb_weight=4.0,
        lpips_weight=0.0,
        l1_weight=0.5,
        ssim_weight=0.1,
        edge_weight=0.2,
        surface_weight=1.0,
        depth_weight=0.2,
        key_white=0.3,
    ),
}


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
    if recipe.preset not in PRESETS:
        raise ValueError(f"The preset is one of {', '.join(PRESETS)}, got {recipe.preset!r}.")
    step = 2 ** (len(PRESETS[recipe.preset].down_channels) - 1)
    if any(size % step or size < 2 * step for size in recipe.sizes):
        raise ValueError(f"sizes need multiples of {step} from {2 * step}, got {recipe.sizes}.")
    if not len(recipe.batch_sizes) == len(recipe.sizes) == len(recipe.stage_ends):
        raise ValueError("batch_sizes, sizes and stage_ends need one value per stage each.")
    if recipe.render_scale < 1 or len(recipe.beta1) != 2:
        raise ValueError(
            "render_scale is 1 or more, and beta1 has two values; "
            f"got {recipe.render_scale} and {recipe.beta1}."
        )
    if recipe.view_count <= VIEW_COUNT or min(recipe.batch_sizes) < 1:
        raise ValueError(
            f"A batch needs one object or more, and more than {VIEW_COUNT} views; "
            f"got batch_sizes {recipe.batch_sizes} and view_count {recipe.view_count}."
        )
    return recipe


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


def stage_of(progress: float, recipe: Recipe) -> int:
    return next(
        (i for i, end in enumerate(recipe.stage_ends) if progress < end), len(recipe.stage_ends) - 1
    )


def loss_terms(
    gaussians: Gaussians, batch: Batch, recipe: Recipe, progress: float, lpips: LPIPS | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss, and its unweighted terms beside PSNR for the log."""
    output = render(gaussians, batch.c2w, batch.images.shape[-1])
    terms = {"rgb": (output.images - batch.images).square().mean()}
    weights = {"rgb": recipe.rgb_weight}

    def add(name: str, weight: float, value) -> None:
        if weight:
            terms[name], weights[name] = value(), weight

    add("alpha", recipe.alpha_weight, lambda: (output.alphas - batch.masks).square().mean())
    add("l1", recipe.l1_weight, lambda: (output.images - batch.images).abs().mean())
    add("ssim", recipe.ssim_weight, lambda: 1 - ssim(output.images, batch.images).mean())
    add("edge", recipe.edge_weight, lambda: edge_loss(output.images, batch.images))
    if lpips is not None:
        views = (output.images.flatten(0, 1), batch.images.flatten(0, 1))
        add("lpips", recipe.lpips_weight, lambda: lpips(*views))
    fade = max(0.1, 1 - progress / 0.6)
    if recipe.surface_weight:
        points, seen = batch.surface(gaussians.count)
        add(
            "surface",
            recipe.surface_weight * fade,
            lambda: surface_loss(gaussians.positions, points, seen),
        )
    solid = ((batch.masks > 0.99) & (output.alphas > 0.5)).float()
    add(
        "depth",
        recipe.depth_weight,
        lambda: ((output.depths - batch.depths).abs() * solid).sum() / solid.sum().clamp(min=1),
    )
    total = sum(weights[name] * value for name, value in terms.items())
    with torch.no_grad():
        quality = psnr(output.images.clamp(0, 1), batch.images)
        terms["psnr_input"], terms["psnr_novel"] = quality[:, :4].mean(), quality[:, 4:].mean()
    return total, terms


def make_optimizer(model: LGM, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": recipe.weight_decay if recipe.decay_norms else 0.0},
    ]
    fused = next(model.parameters()).is_cuda
    betas = (recipe.beta1[0], recipe.beta2)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=fused)


def average_gradients(parameters: list[Tensor]) -> None:
    """The mean of all processes' gradients, in one message."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad.copy_(part.view_as(parameter))


class Run:
    """Everything a run has to remember: what a checkpoint holds."""

    def __init__(self, model: LGM, recipe: Recipe):
        self.model, self.recipe = model, recipe
        self.optimizer = make_optimizer(model, recipe)
        self.ema = {key: value.detach().clone() for key, value in model.state_dict().items()}
        self.step, self.seconds, self.samples = 0, 0.0, 0
        self.failures = 0  # steps without a finite gradient, in a row

    def update_ema(self) -> None:
        # A young average forgets its random start quickly.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        state = self.model.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), [state[key] for key in self.ema], 1 - decay)

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "counters": {"step": self.step, "seconds": self.seconds, "samples": self.samples},
        }
        partial = path.with_suffix(".part")
        try:
            torch.save(state, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        device = next(self.model.parameters()).device
        if not zipfile.is_zipfile(path):  # what torch.save writes is one
            raise ValueError(f"{path} is damaged or no checkpoint: train without --resume.")
        state = torch.load(path, map_location=device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["counters"].items():
            setattr(self, name, value)

    def export(self, path: Path, note: dict[str, object]) -> None:
        """The averaged weights as an fp16 model file."""
        with torch.device("meta"):
            averaged = LGM(self.model.preset)
        averaged.load_state_dict(self.ema, assign=True)
        save_model(averaged, path, torch.float16, {"recipe": asdict(self.recipe), **note})


def train_step(run: Run, batch: Batch, progress: float, lpips: LPIPS | None) -> dict[str, Tensor]:
    """One optimizer step."""
    parameters = list(run.model.parameters())
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(progress, run.recipe)
        group["betas"] = (beta1(progress, run.recipe), run.recipe.beta2)
    with autocast(batch.images.device.type, torch.bfloat16, enabled=batch.images.is_cuda):
        gaussians = run.model(batch.inputs, batch.alphas)
    loss, terms = loss_terms(gaussians, batch, run.recipe, progress, lpips)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, run.recipe.gradient_clip)
    if norm.isfinite():  # an accidental overflow costs one step, not the run
        run.optimizer.step()
        run.step += 1
        run.failures = 0
        run.update_ema()
    else:
        run.failures += 1
        if run.failures == MAX_FAILURES:
            raise RuntimeError(
                f"Training needs finite gradients, got none in {MAX_FAILURES} steps after step "
                f"{run.step}: go on from the last checkpoint with a lower learning_rate."
            )
    run.samples += len(batch.images) * (dist.get_world_size() if dist.is_initialized() else 1)
    return {"loss": loss.detach(), "gradient": norm, **{k: v.detach() for k, v in terms.items()}}


def train(arguments: argparse.Namespace) -> Path:
    """Run until the budget is spent; returns the exported model's path."""
    recipe = changed(RECIPES[arguments.recipe], arguments.set)
    out = Path(arguments.out)
    check_writable(out, folder=True)
    if arguments.data and not arguments.data.is_file():
        raise ValueError(
            f"--data needs a mesh pack made by `lgm dataset`; no file {arguments.data}."
        )
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    device, rank, world = state.device, state.process_index, state.num_processes
    torch.manual_seed(arguments.seed)  # the same initial weights everywhere
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    model = start_model(arguments, recipe).to(device, memory_format=torch.channels_last).train()
    run = Run(model, recipe)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if arguments.resume and checkpoint.is_file():
        run.load(checkpoint)
    lpips = find_lpips(arguments.vgg) if recipe.lpips_weight else None
    if lpips is not None:
        lpips.to(device)
    elif rank == 0 and recipe.lpips_weight:
        print(
            "LPIPS is off: it needs torchvision's VGG-16 file (--vgg) and the package lpips or "
            "torchmetrics."
        )
    maker = BatchMaker(
        arguments.data, recipe, device, arguments.seed + 1000 * run.step + rank, arguments.workers
    )
    if arguments.compile:
        model.features = torch.compile(model.features)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    log = (out / "log.csv").open("a", newline="") if rank == 0 else None
    writer = csv.writer(log) if log else None
    started, saved, before = time.monotonic(), time.monotonic(), run.seconds
    history: list[dict[str, Tensor]] = []
    while True:
        spent = before + time.monotonic() - started
        progress = (
            spent / (60 * arguments.minutes) if arguments.minutes else run.step / arguments.steps
        )
        limit = arguments.stop_after and time.monotonic() - started > 60 * arguments.stop_after
        done = torch.tensor(
            [float(progress >= 1 or bool(limit) or bool(stop)), progress], device=device
        )
        if world > 1:  # one clock for all, so that schedule and end agree
            dist.broadcast(done, 0)
        finished, progress = done.tolist()
        if finished:
            break
        batch = maker.batch(stage_of(progress, recipe), progress)
        history.append(train_step(run, batch, progress, lpips))
        run.seconds = spent
        if rank == 0 and len(history) >= arguments.log_every:
            means = {k: float(torch.stack([h[k] for h in history]).mean()) for k in history[0]}
            if log.tell() == 0:
                writer.writerow(["step", "samples", "seconds", "progress", *means])
            row = [run.step, run.samples, f"{spent:.1f}", f"{progress:.4f}"]
            writer.writerow([*row, *(f"{v:.5f}" for v in means.values())])
            log.flush()
            print(*row, *(f"{k} {v:.4f}" for k, v in means.items()), flush=True)
        if len(history) >= arguments.log_every:
            history.clear()
        if rank == 0 and time.monotonic() - saved > 60:
            run.save(checkpoint)
            save_grid(out / "latest.png", model, batch)
            saved = time.monotonic()
    exported = out / "model.safetensors"
    if rank == 0:
        run.save(checkpoint)
        run.export(
            exported, {"steps": run.step, "samples": run.samples, "seconds": round(run.seconds)}
        )
        log.close()
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()
    return exported


def start_model(arguments: argparse.Namespace, recipe: Recipe) -> LGM:
    """Fresh weights, or those of a file, as fp32 master weights."""
    if arguments.weights:
        return load_model(arguments.weights, dtype=torch.float32).requires_grad_(True)
    model = LGM(PRESETS[recipe.preset])
    if model.preset.decoding == "hull":  # begin at the hull itself
        torch.nn.init.normal_(model.conv.weight, std=0.02)
        torch.nn.init.zeros_(model.conv.bias)
    return model


@torch.no_grad()
def save_grid(path: Path, model: LGM, batch: Batch) -> None:
    """Ground truth above, prediction below, for the first four objects."""
    from PIL import Image

    # Under autocast, as in training: without it the inference path would prepare itself for weights
    # about to change.
    with autocast(batch.images.device.type, torch.bfloat16, enabled=batch.images.is_cuda):
        gaussians = model(batch.inputs[:4], batch.alphas[:4])
    output = render(gaussians, batch.c2w[:4], batch.images.shape[-1]).images.clamp(0, 1)
    rows = torch.stack([batch.images[:4], output], dim=1)  # [4, 2, V, 3, S, S]
    grid = rows.permute(0, 1, 4, 2, 5, 3).reshape(-1, rows.shape[2] * rows.shape[-1], 3)
    Image.fromarray((grid * 255).byte().cpu().numpy()).save(path)


def parser() -> argparse.ArgumentParser:
    p = Parser("lgm train", description="Train or fine-tune a model.")
    p.add_argument(
        "--data",
        type=Path,
        help="mesh pack made by `lgm dataset`; without it all objects are procedural",
    )
    p.add_argument(
        "--out",
        default="runs/latest",
        help="folder for checkpoint, log, pictures and model.safetensors",
    )
    p.add_argument("--recipe", choices=RECIPES, default="demo")
    p.add_argument("--set", default="{}", help="JSON of recipe fields to change")
    p.add_argument("--weights", help="start from this model file")
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
    p.add_argument("--seed", type=whole(0, 2**31), default=0)
    p.add_argument("--workers", type=whole(0, 256), default=4, help="processes that draw objects")
    p.add_argument(
        "--compile", action="store_true", help="torch.compile the network (a minute, then faster)"
    )
    p.add_argument("--vgg", type=Path, help="VGG-16 ImageNet weights for LPIPS")
    p.add_argument("--log-every", type=whole(1, 10**6), default=50)
    return p


def main(argv: list[str] | None = None) -> int:
    print(train(parser().parse_args(argv)))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.main(["train", *sys.argv[1:]]))
