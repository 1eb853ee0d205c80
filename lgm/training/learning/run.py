"""A training run's state: network, optimizer, average of the weights, counters; and its files.

Everything random is drawn from the run's seed and the number of a sample, so that a checkpoint
needs no random states: what comes next depends on how many samples came before, and not on the
number of processes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.utils._pytree import tree_map_only

from ...network.model import LGM, Runner, run_by
from ...network.weights import save_model
from ..batches.batch import Batch
from ..recipe import Recipe
from .network import Network, recalculate_layers
from .optimizer import learning_groups, load_8bit_optimizer, make_optimizer
from .processes import copy_into, full_tensor, local, rank, shard

FORMAT = 2  # of checkpoints and run.json


@dataclass(frozen=True)
class Outcome:
    """What a step resulted in. On a GPU it is known only when the GPU has got there."""

    finite: Tensor  # [] bool on the CPU, whether the gradient is finite; valid once `known` is over
    known: torch.cuda.Event | None
    batches: list[Batch]
    losses: list[Tensor]


class Run:
    """Everything a run has to remember.

    Args:
        model: where and as it is to be trained (`for_training`). From here on this run
            calculates its layers (`run_by`).
        spread: `ddp`, `fsdp` or empty, over the processes of torch.distributed.
    """

    def __init__(self, model: LGM, recipe: Recipe, spread: str = ""):
        self.model, self.recipe, self.spread = model, recipe, spread
        if recipe.checkpointing:
            recalculate_layers(model)
        self.network = Network(model)
        self.parallel: nn.Module = self.network
        if spread == "fsdp":
            shard(self.network)
        elif spread == "ddp":
            self.parallel = nn.parallel.DistributedDataParallel(
                self.network, gradient_as_bucket_view=True
            )
        run_by(model, Runner(self._calculated, partial(self._calculated, correct=True)))
        self.names = [name for name, _ in self.network.named_parameters()]
        self.parameters = list(self.network.parameters())
        groups, self.rates = learning_groups(self.names, self.parameters, recipe)
        self.optimizer = make_optimizer(groups, recipe)
        self.ema = [local(p).detach().clone() for p in self.parameters]
        self.step, self.seconds, self.samples = 0, 0.0, 0
        self.failures = 0  # steps without a finite gradient, in a row
        self.outcome: Outcome | None = None  # of the last step, until it is checked
        self.guarded = recipe.optimizer == "adamw" and spread != "fsdp"
        """The optimizer itself leaves out a step without a finite gradient."""
        self.fresh_gradients = True  # between steps they may be None

    def _calculated(self, x: Tensor, correct: bool = False) -> Tensor:
        batch = x.shape[:2]
        network = self.parallel if torch.is_grad_enabled() else self.network
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return network(x, batch[1], correct).unflatten(0, batch)

    def without_sync(self, last: bool):
        """While gradients of all but the last batch of a step are collected."""
        if self.spread == "fsdp":
            self.network.set_requires_gradient_sync(last)
        return self.parallel.no_sync() if self.spread == "ddp" and not last else nullcontext()

    def learn(self, norm: Tensor) -> None:
        """One step of the optimizer; nothing changes where the gradients' norm is not finite: an
        accidental overflow costs one step, not the run.
        """
        if self.guarded:  # Python need not wait for the number
            found_inf = (~norm.isfinite()).to(norm.dtype)
            self.optimizer.found_inf = found_inf  # ty: ignore[missing-attribute]
        if self.guarded or norm.isfinite():
            self.optimizer.step()
        self.step += 1
        self.update_ema()

    @torch.no_grad()
    def update_ema(self) -> None:
        # A young average forgets its random start quickly.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [local(p) for p in self.parameters], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the network has the averaged weights."""
        with torch.no_grad():
            own = [local(p).clone() for p in self.parameters]
            for parameter, average in zip(self.parameters, self.ema, strict=True):
                local(parameter).copy_(average)
            try:
                yield
            finally:
                for parameter, value in zip(self.parameters, own, strict=True):
                    local(parameter).copy_(value)

    def weights(self) -> dict[str, Tensor]:
        """A copy of all weights on the CPU. Collective: call it on every rank."""
        return {
            name: full_tensor(parameter).detach().to("cpu", copy=True)
            for name, parameter in zip(self.names, self.parameters, strict=True)
        }

    def save(self, path: Path) -> None:
        """Write the checkpoint beside and rename it; every process has to ask, the first writes.

        Raises:
            RuntimeError, OSError: it can't be written; the last one is still there.
        """
        state = {"format": FORMAT, "weights": self.weights(), "optimizer": self._optimizer_state()}
        with self.averaged():
            state["average"] = self.weights()
        counters = ("step", "seconds", "samples")
        state["counters"] = {name: getattr(self, name) for name in counters}
        if rank() == 0:
            unfinished = path.with_suffix(".part")
            try:
                torch.save(state, unfinished)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, also one of another number of processes.

        Raises:
            ValueError: it is damaged, or from another version or preset.
        """
        if not zipfile.is_zipfile(path):  # what torch.save writes is one
            raise ValueError(f"{path} is damaged or no checkpoint: train without --resume.")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("format") != FORMAT:
            raise ValueError(
                f"{path} is of another version ({state.get('format', 1)}, needed is {FORMAT}): "
                "start anew with --weights and the model.safetensors beside it."
            )
        if list(state["weights"]) != self.names:
            raise ValueError(f"{path} is of another preset: train without --resume.")
        with torch.no_grad():
            for name, parameter, average in zip(self.names, self.parameters, self.ema, strict=True):
                copy_into(parameter, state["average"][name])
                average.copy_(local(parameter))
                copy_into(parameter, state["weights"][name])
        if self.recipe.optimizer == "adamw":
            set_optimizer_state_dict(
                self.network,
                self.optimizer,
                optim_state_dict=state["optimizer"],
                options=StateDictOptions(full_state_dict=True),
            )
        else:
            load_8bit_optimizer(self.optimizer, state["optimizer"])
        for name, value in state["counters"].items():
            setattr(self, name, value)

    def _optimizer_state(self) -> dict:
        if self.recipe.optimizer != "adamw":
            # Its numbers have other shapes than the weights. Paged ones are on no one device, and
            # carry an attribute that says so, which a copy drops and a file would keep.
            return tree_map_only(
                Tensor, lambda x: x.to("cpu", copy=True), self.optimizer.state_dict()
            )
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.network, self.optimizer, options=options)

    def export(self, path: Path, note: Mapping[str, object]) -> None:
        """Write the averaged weights as an fp16 model file. Collective: call it on every rank."""
        with self.averaged():
            weights = self.weights()
        if rank() == 0:
            with torch.device("meta"):
                averaged = LGM(self.model.preset)
            averaged.load_state_dict(weights, assign=True)
            save_model(averaged, path, torch.float16, {"recipe": asdict(self.recipe), **note})
