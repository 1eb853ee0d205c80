"""sRGB and linear color values."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

# What the checker infers of numpy's and torch's operators is wider than either.
Colors = TypeVar("Colors", np.ndarray, torch.Tensor)


def srgb_to_linear(colors: Colors) -> Colors:
    high = ((colors.clip(0) + 0.055) / 1.055) ** 2.4
    return _where(colors <= 0.04045, colors / 12.92, high)  # ty: ignore


def linear_to_srgb(colors: Colors) -> Colors:
    high = 1.055 * colors.clip(0) ** (1 / 2.4) - 0.055
    return _where(colors <= 0.0031308, colors * 12.92, high)  # ty: ignore


def _where(chosen: Colors, low: Colors, high: Colors) -> Colors:
    return (torch if isinstance(low, torch.Tensor) else np).where(chosen, low, high)  # ty: ignore
