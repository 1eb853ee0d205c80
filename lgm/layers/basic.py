"""Layers that LGM's and the multi-view diffusion's U-Nets are made of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .norm import group_norm_silu

GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm with an optional SiLU in the same pass over memory."""

    def __init__(self, channels: int, silu: bool = True):
        super().__init__(GROUPS, channels, eps=1e-5)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.device), self.bias.to(x.device)
        return group_norm_silu(x, weight, bias, self.num_groups, self.eps, self.silu)


class Conv2d(nn.Conv2d):
    """A convolution where its input is and in its precision, wherever and in whatever its weights
    are stored: fp16 files run in fp32 on the CPU, and weights that don't fit on a GPU may stay
    behind.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight.to(x), self.bias.to(x))


class Linear(nn.Linear):
    """A linear layer where its input is and in its precision."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x)
        return F.linear(x, self.weight.to(x), bias)


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> Conv2d:
    return Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1)
