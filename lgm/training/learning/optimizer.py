"""Parameter groups and the optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..recipe import Recipe


def learning_groups(
    names: list[str], parameters: list[Tensor], recipe: Recipe
) -> tuple[list[dict], list[float]]:
    """The optimizer's parameter groups, and the factor of the learning rate for each group."""
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
    """AdamW, or its 8-bit versions, which need less memory.

    Raises:
        ValueError: the 8-bit versions need bitsandbytes, which is missing.
    """
    settings: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "betas": (recipe.beta1[0], recipe.beta2),
    }
    if recipe.optimizer == "adamw":
        first = groups[0]["params"][0]
        # The fused CPU kernel doesn't take sharded parameters.
        fused = first.is_cuda or not isinstance(first, DTensor)
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


def load_8bit_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restore the state of a bitsandbytes optimizer; paged moments go back to paged memory."""
    optimizer.load_state_dict(state)
    new_buffer = optimizer.get_state_buffer  # ty: ignore[missing-attribute]
    moments = [
        (values, name, new_buffer(parameter, dtype=values[name].dtype))
        for parameter, values in optimizer.state.items()
        for name in ("state1", "state2")
    ]
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the new buffers are still being filled with zeros
    for values, name, buffer in moments:
        values[name] = buffer.copy_(values[name])
