"""sRGB and linear color values."""

from __future__ import annotations

import numpy as np


def srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    return np.where(colors <= 0.04045, colors / 12.92, ((colors.clip(0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(colors: np.ndarray) -> np.ndarray:
    return np.where(
        colors <= 0.0031308, colors * 12.92, 1.055 * colors.clip(0) ** (1 / 2.4) - 0.055
    )
