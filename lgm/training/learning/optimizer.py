"""Parameter groups and the optimizer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..recipe import Recipe


def learning_groups(
    names: list[str], parameters: list[Tensor], recipe: Recipe
) -> tuple[list[dict], list[float]]:
    """An optimizer's groups, and at which multiple of the learning rate each of them learns."""
    decayed = recipe.weight_decay if recipe.decay_norms else 0.0
    groups, rates = [], []
    for corrects, rate in ((False, 1.0), (True, recipe.corrector_rate)):
        for is_norm, decay in ((False, recipe.weight_decay), (True, decayed)):
            chosen = [
                parameter
                for name, parameter in zip(names, parameters, strict=True)
                if (name.startswith("corrector."), parameter.dim() <= 1) == (corrects, is_norm)
            ]
            if chosen:
                groups.append({"params": chosen, "weight_decay": decay})
                rates.append(rate)
    return groups, rates


def make_optimizer(groups: list[dict], recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, or one of its frugal versions.

    Raises:
        ValueError: that needs bitsandbytes, which is missing.
    """
    settings = {"lr": recipe.learning_rate, "betas": (recipe.beta1[0], recipe.beta2)}
    if recipe.optimizer == "adamw":
        first = groups[0]["params"][0]
        # Split over CPUs, it has no such kernel.
        fused = first.is_cuda or not hasattr(first, "device_mesh")
        return torch.optim.AdamW(groups, **settings, fused=fused)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"The optimizer {recipe.optimizer} needs the package bitsandbytes, which is missing: "
            "pip install bitsandbytes, or leave the recipe's optimizer at adamw."
        ) from error
    kinds = {
        "adamw8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw8bit": bitsandbytes.optim.PagedAdamW8bit,
    }
    return kinds[recipe.optimizer](groups, **settings)


def load_frugal(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Give an optimizer of bitsandbytes its state again; moments that were in paged memory lie
    there again.
    """
    optimizer.load_state_dict(state)
    moments = [
        (values, name, optimizer.get_state_buffer(parameter, dtype=values[name].dtype))
        for parameter, values in optimizer.state.items()
        for name in ("state1", "state2")
    ]
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # new pages are being filled with zeros
    for values, name, buffer in moments:
        values[name] = buffer.copy_(values[name])
