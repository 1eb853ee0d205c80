"""The network's forward and backward pass as CUDA graphs.

A small network in eager mode waits for Python: 1,500 launches take longer than their work. What
comes before and after the network changes its shapes from step to step and stays as it is. So does
the corrector: recorded beside the first network, some of that one's gradients were NaN on an H200
(torch 2.11), in the recordings alone and for no reason that was found.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, autocast, nn

from .run import Network, Run

MAX_SHAPES = 2  # recordings kept: each holds the activations of one pass


class _Recorded(nn.Module):
    """What is recorded takes tensors alone, and has no weights but those it uses."""

    def __init__(self, network: Network, views: int):
        super().__init__()
        self.unet, self.conv, self.views = network.unet, network.conv, views

    def forward(self, x: Tensor) -> Tensor:
        # Without the cache: a cached cast would live in one recording and be missed by the next.
        with autocast("cuda", torch.bfloat16, cache_enabled=False):
            return self.conv(self.unet(x, self.views)).float()


def graph_features(run: Run, be_quiet: Callable[[], None]) -> None:
    """Let the run's network train as CUDA graphs, recorded anew when its input's shape changes.
    Calls without gradients stay as they were.

    The recorded backward pass writes to buffers of its own: gradients must not be set to None
    between steps, or autograd would take those buffers for the gradients themselves.

    Args:
        be_quiet: called before recording; other threads of this process must leave the GPU alone
            until their next task.
    """
    plain = run.model.features
    recorded: dict[tuple[int, ...], nn.Module] = {}
    run.fresh_gradients = False
    for parameter in run.parameters:
        parameter.grad = torch.zeros_like(parameter)

    def features(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(x)
        shape, batch = tuple(x.shape), x.shape[:2]
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        if shape not in recorded:
            if len(recorded) == MAX_SHAPES:
                recorded.clear()  # frees their memory
            be_quiet()
            torch.cuda.synchronize()
            module = _Recorded(run.network, batch[1]).train()
            with autocast("cuda", enabled=False):
                recorded[shape] = torch.cuda.make_graphed_callables(module, (x.clone(),))
        return recorded[shape](x).unflatten(0, batch)

    run.model.features = features
