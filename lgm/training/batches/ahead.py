"""Makes groups of scenes on a GPU while the network learns from the group before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..rasterize import Renders

Start = tuple[int, int]
"""The stage of a group of scenes, and the number of its first sample."""


@dataclass(frozen=True)
class Scenes:
    """Rendered objects, before their inputs are augmented."""

    c2w: Tensor  # [K, V, 4, 4]
    renders: Renders
    names: list[str]
    ready: torch.cuda.Event | None = None  # set when the GPU has made them; None on a CPU


class ScenesAhead:
    """Gives groups of scenes; on a GPU the next one is made meanwhile, by a thread on a stream.

    Args:
        make: makes the group with this start.
    """

    def __init__(self, make: Callable[[Start], Scenes], device: torch.device):
        self.make, self.device = make, device
        is_cuda = device.type == "cuda"
        self.executor = ThreadPoolExecutor(1) if is_cuda else None
        self.stream = torch.cuda.Stream(device) if is_cuda else None
        self.pending: tuple[Start, Future[Scenes]] | None = None

    def take(self, start: Start, following: Start) -> Scenes:
        """The scenes at `start`; those at `following` are begun."""
        if self.executor is None:
            return self.make(start)
        if self.pending is None or self.pending[0] != start:
            self.wait_until_idle()
            self.pending = (start, self.executor.submit(self._make_aside, start))
        scenes = self.pending[1].result()
        self.pending = (following, self.executor.submit(self._make_aside, following))
        current = torch.cuda.current_stream(self.device)
        current.wait_event(scenes.ready)
        renders = scenes.renders
        for tensor in (scenes.c2w, renders.images, renders.alphas, renders.depths):
            # The allocator must not reuse this memory before the current stream has read it.
            tensor.record_stream(current)
        return scenes

    def wait_until_idle(self) -> None:
        """Return when the thread has no work, and so leaves the GPU alone."""
        if self.pending is not None:
            self.pending[1].result()

    def _make_aside(self, start: Start) -> Scenes:
        torch.cuda.set_device(self.device)
        with torch.cuda.stream(self.stream):
            scenes = self.make(start)
            ready = torch.cuda.Event()
            ready.record()
            return replace(scenes, ready=ready)
