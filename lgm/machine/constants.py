"""Constants where they are used. Sending them to a GPU anew makes Python wait each time until the
GPU has done all that came before; waiting seldom, it can prepare what comes next meanwhile.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def constant(values: tuple, like: Tensor) -> Tensor:
    """Numbers, nested in tuples or not, in the dtype and on the device of `like`; made once and
    shared, never to be changed in place.
    """
    return _made(values, like.dtype, like.device)


@cache
def _made(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor of inference mode, where ComfyUI runs nodes, could not be used for training later.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor.to(device)`, without waiting for a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
