"""Gaussians inside a box or a sphere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def box_mask(
    positions: Tensor,
    center: Sequence[float] | Tensor,
    size: Sequence[float] | Tensor,
    rotation_degrees: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> Tensor:
    """Positions [N, 3] in a box, its border included.

    Args:
        center: [3], world units, +y up.
        size: [3], the full lengths of the edges.
        rotation_degrees: [3], turns about the world's x, then y, then z axis through the center.

    Raises:
        ValueError: an edge below 0.
    """
    center, size, angles = (
        torch.as_tensor(value, dtype=torch.float64).cpu()
        for value in (center, size, rotation_degrees)
    )
    if not (size >= 0).all():
        raise ValueError(f"A box needs edges of 0 or longer, got {size.tolist()}.")
    x, y, z = torch.deg2rad(angles).unbind()
    turn = _turn(z, 0, 1) @ _turn(y, 2, 0) @ _turn(x, 1, 2)
    local = (positions.double() - center.to(positions.device)) @ turn.to(positions.device)
    return (local.abs() <= size.to(positions.device) / 2).all(-1)


def _turn(angle: Tensor, first: int, second: int) -> Tensor:
    """[3, 3]: a turn by `angle` radians from axis `first` towards axis `second`."""
    turn = torch.eye(3, dtype=torch.float64)
    turn[first, first] = turn[second, second] = angle.cos()
    turn[second, first], turn[first, second] = angle.sin(), -angle.sin()
    return turn


def sphere_mask(positions: Tensor, center: Sequence[float] | Tensor, radius: float) -> Tensor:
    """Positions [N, 3] in a sphere (center [3], world units, +y up), its border included.

    Raises:
        ValueError: a radius below 0.
    """
    if not radius >= 0:
        raise ValueError(f"A sphere needs a radius of 0 or more, got {radius}.")
    center = torch.as_tensor(center, dtype=torch.float64, device=positions.device)
    return (positions.double() - center).norm(dim=-1) <= radius
