"""One training step: forward pass, loss, gradients, optimizer."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ...gaussians import Gaussians
from ...render import render_finite
from ..batches.batch import Batch
from ..recipe import Recipe, beta1, learning_rate
from .losses import depth_loss, edge_loss, log_error, psnr, ssim, surface_loss
from .lpips import LPIPS
from .processes import average_gradients, full_tensor, world
from .run import Outcome, Run

MAX_FAILURES = 20  # steps in a row without a finite gradient, after which training stops


def loss_terms(
    gaussians: Gaussians,
    all_views: Batch,
    recipe: Recipe,
    progress: float,
    lpips: LPIPS | None,
    step: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss; and its unweighted terms and PSNR, for the log."""
    batch, inputs = all_views.supervised(recipe.skipped_inputs, step)
    output = render_finite(gaussians, batch.c2w, batch.images.shape[-1])
    # The original clamps what it renders, and blends its targets with white a second time.
    images, target = output.images.clamp(0, 1), batch.images
    if recipe.blend_twice:
        target = target * batch.masks + (1 - batch.masks)
    use_lpips = lpips is not None and progress >= recipe.lpips_from
    surface_weight = recipe.surface_weight * max(0.1, 1 - progress / 0.6)
    has_depths = batch.depths is not None
    # The third column is a function because a term of weight 0 is left out: it costs time, and its
    # data may be missing.
    table = (
        ("psnr", recipe.psnr_weight, lambda: log_error(images, target)),
        ("alpha", recipe.alpha_weight, lambda: (output.alphas - batch.masks).square().mean()),
        ("l1", recipe.l1_weight, lambda: (images - target).abs().mean()),
        ("ssim", recipe.ssim_weight, lambda: 1 - ssim(images, target).mean()),
        ("edge", recipe.edge_weight, lambda: edge_loss(images, target)),
        ("lpips", recipe.lpips_weight * use_lpips,
         lambda: lpips(  # ty: ignore[not-callable]
             images.flatten(0, 1), target.flatten(0, 1))),
        ("surface", surface_weight * has_depths,
         lambda: surface_loss(gaussians.positions, *all_views.surface(gaussians.count))),
        ("depth", recipe.depth_weight * has_depths,
         lambda: depth_loss(
             output.depths, output.alphas,
             batch.depths,  # ty: ignore[invalid-argument-type]
             batch.masks)),
    )  # fmt: skip
    terms = {"rgb": (images - target).square().mean()}  # always, for the log
    total = recipe.rgb_weight * terms["rgb"]
    for name, weight, term in table:
        if weight:
            terms[name] = term()
            total = total + weight * terms[name]
    with torch.no_grad():
        quality = psnr(images, target)
        # PSNR of the mean error of all images: the original's metric.
        terms["metric"] = -10 * terms["rgb"].clamp(min=1e-10).log10()
        terms["psnr_input"] = quality[:, :inputs].mean()
        terms["psnr_novel"] = quality[:, inputs:].mean()
    return total, terms


def train_step(
    run: Run, batches: list[Batch], progress: float, lpips: LPIPS | None
) -> dict[str, Tensor]:
    """One optimizer step. On a GPU the next step checks whether this one was finite, since waiting
    for the result would leave the GPU idle.

    Raises:
        RuntimeError: from `check_last_step`.
    """
    for group, rate in zip(run.optimizer.param_groups, run.rates, strict=True):
        group["lr"] = learning_rate(progress, run.recipe) * rate
        group["betas"] = (beta1(progress, run.recipe), run.recipe.beta2)
    run.optimizer.zero_grad(set_to_none=run.fresh_gradients)
    collected: list[dict[str, Tensor]] = []
    for index, batch in enumerate(batches):
        with run.without_sync(last=index == len(batches) - 1):
            loss, terms = batch_loss(run, batch, progress, lpips)
            check_last_step(run)  # costs nothing: rendering has waited for the last step already
            (loss / len(batches)).backward()
        collected.append({"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}})
    if not run.spread:
        average_gradients(run.parameters)
    norm = torch.nn.utils.clip_grad_norm_(run.parameters, run.recipe.gradient_clip)
    norm = full_tensor(norm)
    run.learn(norm)
    run.samples += sum(len(batch.names) for batch in batches) * world()
    finite = norm.isfinite().to("cpu", non_blocking=True)
    known = torch.cuda.current_stream().record_event() if norm.is_cuda else None
    run.outcome = Outcome(finite, known, batches, [terms["loss"] for terms in collected])
    if known is None:
        check_last_step(run)
    means = {key: torch.stack([terms[key] for terms in collected]).mean() for key in collected[0]}
    return {**means, "gradient": norm}


def check_last_step(run: Run) -> None:
    """Raise if the last step's loss or gradient was not finite. Does nothing if it was checked.

    Raises:
        RuntimeError: a loss was not finite, or MAX_FAILURES gradients in a row were not; the
            weights are as they were before that step.
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
    """The loss and its terms; the loss is NaN if any of the network's outputs is not finite."""
    rounds = run.recipe.rounds[run.step % len(run.recipe.rounds)]
    gaussians = run.model(batch.inputs, batch.alphas, batch.uncorrected, rounds)
    loss, terms = loss_terms(gaussians, batch, run.recipe, progress, lpips, run.step)
    # `render_finite` leaves out Gaussians that are not finite; the step must fail all the same.
    finite = torch.stack([x.isfinite().all() for x in gaussians.tensors().values()]).all()
    return loss * torch.where(finite, 1.0, torch.nan), terms


def refuse_bad_items(run: Run, batches: list[Batch], losses: list[Tensor]) -> None:
    """Raise if a batch of any process has no finite loss. Collective: call it on every rank.

    Raises:
        RuntimeError: names the batch's objects.
    """
    bad = [
        ", ".join(_suspects(batch))
        for batch, loss in zip(batches, losses, strict=True)
        if not loss.isfinite()
    ]
    everywhere = [bad] * world()
    if dist.is_initialized():
        dist.all_gather_object(everywhere, bad)
    found = [names for process in everywhere for names in process]
    if found:
        raise RuntimeError(
            f"Training needs a finite loss, got none at step {run.step} with {'; '.join(found)}: "
            "look at these objects' pictures and cameras. The last checkpoint is good."
        )


def _suspects(batch: Batch) -> list[str]:
    """Names of the objects whose own data are not finite; of the whole batch if there are none."""
    tensors = (batch.inputs, batch.alphas, batch.c2w, batch.images, batch.masks)
    fine = torch.stack([x.isfinite().flatten(1).all(1) for x in tensors]).all(0).tolist()
    bad = [name for name, is_fine in zip(batch.names, fine, strict=True) if not is_fine]
    return bad or batch.names
