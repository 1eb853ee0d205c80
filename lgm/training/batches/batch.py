"""One training batch, what makes batches, and which process makes which samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras import FOVY, focal_length
from ...network.views import depth_rays
from ..recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """The inputs of B objects, and the supervised views that the loss compares with the splats."""

    inputs: Tensor  # [B, 4, 9, S, S]; 4 or as many inputs as the recipe says
    alphas: Tensor  # [B, 4, 1, S, S], silhouettes that the network is given
    c2w: Tensor  # [B, V, 4, 4], exact cameras; the first ones are the inputs', then the poles'
    images: Tensor  # [B, V, 3, R, R], targets on white
    masks: Tensor  # [B, V, 1, R, R]
    depths: Tensor | None  # [B, V, 1, R, R], camera z, 0 where nothing is; None: unknown
    trusted: Tensor
    """[B, 4], or [B, 6] with pole views: 1 for each view whose pixels show the object's true
    surface, 0 for distorted images."""
    names: list[str]
    uncorrected: Tensor | None = None  # [B] bool, objects that the corrector leaves alone

    def supervised(self, skipped_inputs: int, step: int) -> tuple[Batch, int]:
        """The batch without the inputs that have no loss in this step, and how many inputs remain.
        The skipped ones, all but one at most, take turns from step to step.
        """
        inputs = self.inputs.shape[1]
        kept = max(1, inputs - skipped_inputs)
        if kept == inputs:
            return self, inputs
        turns = [(step + turn) % inputs for turn in range(kept)]

        def chosen(x: Tensor) -> Tensor:
            return torch.cat([*(x[:, turn : turn + 1] for turn in turns), x[:, inputs:]], dim=1)

        names = ("c2w", "images", "masks", "depths")
        views = {n: chosen(x) for n in names if (x := getattr(self, n)) is not None}
        return replace(self, **views), kept

    def surface(self, gaussian_count: int) -> tuple[Tensor, Tensor]:
        """The true surface points [B, N, 3] of the Gaussians' pixels, and weights [B, N, 1]: 1
        where the point is known, else 0.
        """
        assert self.depths is not None  # `loss_terms` asks for no surface without
        maps = self.trusted.shape[1]
        size = int((gaussian_count // maps) ** 0.5)
        factor = self.masks.shape[-1] // size
        masks = F.avg_pool2d(self.masks[:, :maps].flatten(0, 1), factor)
        depths = F.avg_pool2d(self.depths[:, :maps].flatten(0, 1), factor)
        c2w = self.c2w[:, :maps]
        tangent = torch.full(c2w.shape[:2], 0.5 / focal_length(1, FOVY), device=c2w.device)
        rays = depth_rays(c2w, tangent, size)
        depths = depths.view(*c2w.shape[:2], size, size, 1)
        points = c2w[:, :, None, None, :3, 3] + depths * rays
        # In half-covered pixels the depth is a mean of the object's and the background's 0.
        known = (masks > 0.99).view(*c2w.shape[:2], size, size, 1) * self.trusted[
            :, :, None, None, None
        ]
        return points.flatten(1, 3), known.flatten(1, 3)


class BatchSource(Protocol):
    """Makes one process's batches. A batch depends on the seed and its samples' numbers alone."""

    def batches(self, first: int, stage: int, progress: float) -> list[Batch]:
        """A step's batches, one per accumulation; `first` is the step's first sample's number,
        counted over all processes.
        """
        ...

    def validation(self, stage: int) -> list[Batch]:
        """Held-out objects, one per batch, without augmentation."""
        ...

    def wait_until_idle(self) -> None:
        """Return when no thread of this process uses the GPU until the next call of `batches`."""
        ...


@dataclass(frozen=True)
class Share:
    """The samples of a step that one process makes: `batch` of each of its `accumulation`
    batches.
    """

    batch: int
    accumulation: int = 1
    rank: int = 0
    world: int = 1

    @classmethod
    def of(cls, recipe: Recipe, stage: int, rank: int, world: int) -> Share:
        return cls(recipe.batch_sizes[stage], recipe.accumulation, rank, world)

    @property
    def total(self) -> int:
        """Samples of a step, over all processes."""
        return self.batch * self.accumulation * self.world

    def own(self, values: Tensor) -> Tensor:
        """This process's rows [accumulation * batch, ...] of values of all samples of a step."""
        split = values.view(self.accumulation, self.world, self.batch, *values.shape[1:])
        return split[:, self.rank].flatten(0, 1)


@dataclass(frozen=True)
class Numbers:
    """An endless iterator over the numbers of one process's samples, starting at `first`."""

    first: int
    share: Share

    def __iter__(self) -> Iterator[int]:
        own = self.share.own(torch.arange(self.share.total)).tolist()
        for step in count():
            yield from (self.first + step * self.share.total + number for number in own)
