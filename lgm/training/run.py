"""A training run's state: network, optimizer, average of the weights, counters; and its files.

Everything random is drawn from the run's seed and the number of a sample, so that a checkpoint
needs no random states: what comes next depends on how many samples came before, and not on the
number of processes.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, autocast, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from ..model import LGM
from ..unet import MVAttention, ResBlock
from ..weights import save_model
from .recipe import Recipe

FORMAT = 2  # of checkpoints and run.json


class Network(nn.Module):
    """What learns: `LGM.features` and `LGM.corrections` as a module of their own, with LGM's names
    for its weights.
    """

    def __init__(self, model: LGM):
        super().__init__()
        self.unet, self.conv, self.corrector = model.unet, model.conv, model.corrector

    def forward(self, x: Tensor, views: int, correct: bool = False) -> Tensor:
        """[B * V, 14, h, w] float32 from [B * V, C, S, S]."""
        with autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            return self.layers(x, views, correct)

    def layers(self, x: Tensor, views: int, correct: bool) -> Tensor:
        """`forward` in the precision that is set around it."""
        return (self.corrector(x, views) if correct else self.conv(self.unet(x, views))).float()


class Run:
    """Everything a run has to remember.

    Args:
        model: where and as it is to be trained (`for_training`). From here on its `features` and
            `corrections` are the trained network's.
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
        model.features = self._calculated
        model.corrections = partial(self._calculated, correct=True)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.parameters = list(self.network.parameters())
        groups, self.rates = learning_groups(self.names, self.parameters, recipe)
        self.optimizer = make_optimizer(groups, recipe)
        self.ema = [local(p).detach().clone() for p in self.parameters]
        self.step, self.seconds, self.samples = 0, 0.0, 0
        self.failures = 0  # steps without a finite gradient, in a row
        self.outcome: object = None  # of the last step, until it is looked at
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
            self.optimizer.found_inf = (~norm.isfinite()).to(norm.dtype)
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
        """A copy of all weights, on the CPU; every process has to ask."""
        return {
            name: whole(parameter).detach().to("cpu", copy=True)
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
                place(state["average"][name], parameter)
                average.copy_(local(parameter))
                place(state["weights"][name], parameter)
        if self.recipe.optimizer == "adamw":
            set_optimizer_state_dict(
                self.network,
                self.optimizer,
                optim_state_dict=state["optimizer"],
                options=StateDictOptions(full_state_dict=True),
            )
        else:
            load_frugal(self.optimizer, state["optimizer"])
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

    def export(self, path: Path, note: dict[str, object]) -> None:
        """The averaged weights as an fp16 model file; every process has to ask."""
        with self.averaged():
            weights = self.weights()
        if rank() == 0:
            with torch.device("meta"):
                averaged = LGM(self.model.preset)
            averaged.load_state_dict(weights, assign=True)
            save_model(averaged, path, torch.float16, {"recipe": asdict(self.recipe), **note})


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def place(value: Tensor, parameter: Tensor) -> None:
    """Copy a whole tensor into a parameter, of which this process may have a part only."""
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(
            value.to(local(parameter).device), parameter.device_mesh, parameter.placements
        )
    local(parameter).copy_(local(value))


def shard(network: Network) -> None:
    """Split weights, gradients and optimizer over the processes, layer by layer (FSDP)."""
    from torch.distributed.fsdp import fully_shard

    network.to(memory_format=torch.contiguous_format)  # all that it can split
    for module in network.modules():
        if isinstance(module, (ResBlock, MVAttention)):
            fully_shard(module)
    fully_shard(network)


def recalculate_layers(model: LGM) -> None:
    """Keep the layers' inputs alone and calculate the rest again when gradients need it."""
    for module in model.modules():
        if isinstance(module, (ResBlock, MVAttention)):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


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


def for_training(model: LGM, device: torch.device) -> LGM:
    """The model where and as it trains fastest. cuDNN's search for algorithms stays off: on an H100
    it took half a minute and chose slower ones.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return model.to(device, memory_format=torch.channels_last).train()


def average_gradients(parameters: list[Tensor]) -> None:
    """The mean of all processes' gradients, in one message."""
    if world() == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= world()
    parts = flat.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad.copy_(part.view_as(parameter))


def describe(
    recipe: Recipe, seed: int, data: dict[str, str], start: str, spread: str = ""
) -> dict[str, object]:
    """What is run, for run.json."""
    return {
        "format": FORMAT,
        "recipe": asdict(recipe),
        "seed": seed,
        "data": data,
        "start": start,
        "commit": commit(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "processes": world(),
        "spread": spread,
        "began": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def commit() -> str:
    """The checkout's commit, with a plus where files differ from it; empty outside of one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except OSError:
        return ""


def check_same(path: Path, now: dict[str, object]) -> None:
    """A run goes on as it began, or not at all.

    Raises:
        ValueError: says what differs from run.json.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read ({error}): train without --resume.") from error
    if before.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of another version ({before.get('format')}, needed is {FORMAT}): start "
            "anew with --weights."
        )
    now = json.loads(json.dumps(now))
    differences = [key for key in ("seed", "data") if before.get(key) != now[key]]
    # Fields that were added since that run began have their defaults.
    old = json.loads(json.dumps(asdict(Recipe()))) | before.get("recipe", {})
    for name, value in now["recipe"].items():
        if old[name] != value:
            differences.append(f"{name} ({old[name]} then, {value} now)")
    if differences:
        raise ValueError(
            f"--resume goes on with what {path} says, but these differ: {', '.join(differences)}. "
            "Repeat the first command, or start anew with --weights."
        )
