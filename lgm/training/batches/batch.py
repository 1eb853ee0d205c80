"""One training batch, and how many of its objects come from where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras import FOVY, focal_length
from ...network.views import depth_rays
from ..recipe import Recipe


@dataclass(frozen=True)
class Batch:
    inputs: Tensor  # [B, 4, 9, S, S]; 4 or as many inputs as the recipe says
    alphas: Tensor  # [B, 4, 1, S, S], silhouettes as the network is told
    c2w: Tensor  # [B, V, 4, 4], exact cameras; the first ones are the inputs', then the poles'
    images: Tensor  # [B, V, 3, R, R], targets on white
    masks: Tensor  # [B, V, 1, R, R]
    depths: Tensor | None  # [B, V, 1, R, R], camera z, 0 where nothing is; None: unknown
    trusted: Tensor
    """[B, 4], of each map of Gaussians 1 where its pixels' surface is known: not where an input
    picture is distorted. With poles [B, 6]."""
    names: list[str]
    drafts: Tensor | None = None  # [B] bool, objects that the corrector leaves alone

    def supervised(self, skipped_inputs: int, step: int) -> tuple[Batch, int]:
        """The batch with the views whose pictures the loss looks at alone; how many are inputs. The
        inputs that are left out, all but one at most, take turns from step to step.
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
        """Surface points [B, N, 3] of the splat grid; weights [B, N, 1], 1 where known."""
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
        # Half-covered pixels mix the depths of object and nothing.
        known = (masks > 0.99).view(*c2w.shape[:2], size, size, 1) * self.trusted[
            :, :, None, None, None
        ]
        return points.flatten(1, 3), known.flatten(1, 3)


@dataclass(frozen=True)
class Share:
    """Which samples of a step are one process's: of `accumulation` batches, its `batch` of each."""

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
        """This process's part [accumulation * batch, ...] of values of all of a step's samples."""
        split = values.view(self.accumulation, self.world, self.batch, *values.shape[1:])
        return split[:, self.rank].flatten(0, 1)


@dataclass(frozen=True)
class Numbers:
    """The numbers of one process's samples from `first` on, endless."""

    first: int
    share: Share

    def __iter__(self) -> Iterator[int]:
        own = self.share.own(torch.arange(self.share.total)).tolist()
        for step in count():
            yield from (self.first + step * self.share.total + number for number in own)
