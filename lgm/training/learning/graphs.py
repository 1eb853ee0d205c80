"""The networks' forward and backward passes as CUDA graphs.

A small network in eager mode waits for Python: thousands of launches take longer than their work.
What comes before, between and after the networks changes its shapes from step to step and stays as
it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, autocast

from ...machine.cuda_graph import side_stream
from ...network.model import Runner, run_by
from .network import Network
from .run import Run

MAX_SHAPES = 2  # recordings kept of each network: each holds the activations of one pass
WARMUP_RUNS = 3


class _Recording:
    """One network's pass forth and back for one shape of its input, which has no gradient.

    The backward pass ends with adding to the parameters' own gradients, within the graph:
    autograd would add them one by one, on the stream that recorded.
    """

    def __init__(self, network: Network, x: Tensor, views: int, correct: bool):
        self.x = x.clone()
        chosen = [
            parameter
            for name, parameter in network.named_parameters()
            if name.startswith("corrector.") == correct
        ]

        def forward() -> Tensor:
            # Without the cache: a cached cast would live in one recording and be missed by another.
            with autocast("cuda", torch.bfloat16, cache_enabled=False):
                return network.layers(self.x, views, correct)

        stream = side_stream(x.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_RUNS):
                output = forward()
                torch.autograd.grad(output, chosen, torch.zeros_like(output))
        del output
        torch.cuda.synchronize()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, stream=stream):
            output = forward()
        self.gradient = torch.zeros_like(output)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), stream=stream):
            gradients = torch.autograd.grad(output, chosen, self.gradient)
            torch._foreach_add_([parameter.grad for parameter in chosen], gradients)
        self.output = output.detach()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, recording: _Recording, anchor: Tensor) -> Tensor:
        ctx.recording = recording
        recording.x.copy_(x)
        recording.forward.replay()
        return recording.output.detach()

    @staticmethod
    def backward(ctx, gradient: Tensor):  # ty: ignore[incompatible-method-override]
        ctx.recording.gradient.copy_(gradient)
        ctx.recording.backward.replay()
        return None, None, None


def graph_networks(run: Run, be_quiet: Callable[[], None]) -> None:
    """Let the run's networks train as CUDA graphs, recorded anew when their input's shape changes.
    Calls without gradients stay as they were.

    The recorded backward passes add to the gradients that the parameters have now: these must be
    changed in place from here on, never replaced or set to None.

    Args:
        be_quiet: called before recording; other threads of this process must leave the GPU alone
            until their next task.
    """
    run.fresh_gradients = False
    for parameter in run.parameters:
        parameter.grad = torch.zeros_like(parameter)
    plain = run.model.runner
    features = _graphed(run, plain.features, False, be_quiet)
    run_by(run.model, Runner(features, _graphed(run, plain.corrections, True, be_quiet)))


def _graphed(
    run: Run, plain: Callable[[Tensor], Tensor], correct: bool, be_quiet: Callable[[], None]
) -> Callable[[Tensor], Tensor]:
    recorded: dict[tuple[int, ...], _Recording] = {}
    # What has no gradient of its own asks autograd for none, nor for the backward pass.
    anchor = torch.zeros((), device=run.parameters[0].device, requires_grad=True)

    def calculated(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(x)
        shape, batch = tuple(x.shape), x.shape[:2]
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        if shape not in recorded:
            if len(recorded) == MAX_SHAPES:
                recorded.clear()  # frees their memory
            be_quiet()
            torch.cuda.synchronize()
            recorded[shape] = _Recording(run.network, x, batch[1], correct)
        return _Replay.apply(x, recorded[shape], anchor).unflatten(0, batch)

    return calculated
