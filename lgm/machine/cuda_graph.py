"""Run a function of one CUDA tensor as a CUDA graph: hundreds of small launches become one.

Without a graph the big network's launches take the CPU several times longer than the GPU needs to
carry them out.
"""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import contextmanager

import torch
from torch import Tensor

log = logging.getLogger(__name__)
MAX_GRAPHS = 4  # input shapes kept; each holds the activations of one pass
WARMUP_RUNS = (
    2  # the first lets cuDNN and Triton choose and compile, the second shows that they are done
)


class GraphedFunction:
    """`function(x)` for inference, captured once per input shape, dtype and device.

    Where capturing fails, the function is called directly from then on, and the log says so once.

    Args:
        function: Tensor -> Tensor; the same launches on every call with inputs of one shape, no
            waiting for the GPU.
        state: what the function reads besides its input, e.g. `parameter_state`. A graph remembers
            addresses, so it is thrown away when this changes.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], state: Callable[[], object] = tuple):
        self.function = function
        self.state = state
        self._captured_state: object = None
        self._graphs: OrderedDict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = (
            OrderedDict()
        )
        self._failed = False

    def __call__(self, x: Tensor) -> Tensor:
        """A new tensor: later calls do not overwrite it."""
        if self._failed or not x.is_cuda or torch.cuda.is_current_stream_capturing():
            return self.function(x)
        # Buffers made in inference mode could not be written to outside of it, so it is always on
        # for them.
        with torch.inference_mode():
            entry = self._entry(x)
            if entry is not None:
                graph, static_input, static_output = entry
                static_input.copy_(x)
                graph.replay()
        return self.function(x) if entry is None else static_output.clone()

    def _entry(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None:
        if self.state() != self._captured_state:
            self.reset()
        key = (x.shape, x.dtype, x.device, x.stride())
        if key not in self._graphs:
            try:
                self._graphs[key] = capture(self.function, x)
            except RuntimeError as error:
                self.reset()
                self._failed = True
                log.warning("No CUDA graph, so the network runs slower: %s", error)
                return None
            self._captured_state = self.state()  # the first call may have rearranged the weights
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def reset(self) -> None:
        """Free the graphs and their memory."""
        self._graphs.clear()


def capture(
    function: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
    """Graph of function(x), the tensor it reads x from and the one it writes its result to."""
    with torch.cuda.device(x.device), cudnn_benchmark():
        static_input = x.clone()
        stream = side_stream(x.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_RUNS):
                function(static_input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: only this one's launches are recorded.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            static_output = function(static_input)
    return graph, static_input, static_output


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one for all captures: cuBLAS keeps 32 MiB for every stream that it has met."""
    return torch.cuda.Stream(device)


@contextmanager
def cudnn_benchmark():
    """cuDNN measures its algorithms on first use of a shape, instead of guessing."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def parameter_state(module: torch.nn.Module) -> Callable[[], object]:
    """A function that says where the module's parameters lie and how often they were written to.

    Moving, replacing or training them changes the answer. Built once, since walking the modules
    takes a millisecond.
    """
    slots = [
        (child._parameters, name)
        for child in module.modules()
        for name, parameter in child._parameters.items()
        if parameter is not None
    ]

    def state() -> object:
        parameters = [holder[name] for holder, name in slots]
        try:
            writes = sum([p._version for p in parameters])
        except RuntimeError:  # made under inference mode: not counted, and not trained either
            writes = 0
        return writes, [p.data_ptr() for p in parameters]

    return state
