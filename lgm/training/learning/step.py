"""One training step: loss, gradients, optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ...gaussians import Gaussians
from ...render import render_finite
from ..batches.batch import Batch
from ..recipe import Recipe, beta1, learning_rate
from .losses import edge_loss, log_error, psnr, ssim, surface_loss
from .lpips import LPIPS
from .processes import average_gradients, world
from .run import Run

MAX_FAILURES = 20


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
