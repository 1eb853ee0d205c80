"""Fewer Gaussians with the same surface: those too small for a grid to tell apart become one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..gaussians import Gaussians, concatenate
from ..splats.filters import importance

MANY = 250_000  # as many are drawn, or added up, in seconds
WIDTH = 0.45  # standard deviation of what fills a cell, in cells: neighbors leave no gap
MOST = 0.99  # opacity


def merged(gaussians: Gaussians, cell: float) -> Gaussians:
    """Replace the Gaussians smaller than a cell of a grid, where there are MANY, by one ball per
    cell, in their middle, that covers as much as they do and has their mean color. The same splat
    gives the same balls.

    Args:
        gaussians: a batch of one without sh.
        cell: side of the cells, world units.
    """
    small = gaussians.scales[0].amax(-1) <= cell
    if small.sum() <= MANY:
        return gaussians
    return concatenate([gaussians.select(~small), _balls(gaussians.select(small), cell)], dim=1)


def _balls(gaussians: Gaussians, cell: float) -> Gaussians:
    # On the CPU, where sums have one order.
    positions, scales = (values[0].cpu() for values in (gaussians.positions, gaussians.scales))
    areas = importance(gaussians.opacities[0].cpu(), scales).numpy()
    cell_index = (positions / cell).floor().long()
    cell_index -= cell_index.amin(0)
    _, height, depth = (cell_index.amax(0) + 1).tolist()
    keys = (cell_index[:, 0] * height + cell_index[:, 1]) * depth + cell_index[:, 2]
    owner = keys.unique(return_inverse=True)[1].numpy()

    def total(values: Tensor) -> Tensor:
        return torch.from_numpy(np.bincount(owner, areas * values.double().numpy()))

    area = total(torch.ones(len(owner)))
    middles, colors = (
        torch.stack([total(column) for column in values.unbind(1)], dim=1) / area[:, None]
        for values in (positions, gaussians.colors[0].cpu())
    )
    variance = (WIDTH * cell) ** 2 + total(scales.median(-1).values ** 2) / area
    opacities = (1 - (-area / (torch.pi * variance)).exp()).clamp(max=MOST)
    rotations = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(area), 4)
    fields = {
        "positions": middles,
        "opacities": opacities[:, None],
        "scales": variance.sqrt()[:, None].expand(-1, 3),
        "rotations": rotations,
        "colors": colors,
    }
    like = gaussians.positions
    return replace(gaussians, **{name: value[None].to(like) for name, value in fields.items()})
