"""Layers for CUDA inference that both networks share: channels-last maps, matrices of tokens, and
the fastest of several equal ways, measured once per shape and kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..machine.cuda_graph import cudnn_benchmark, side_stream
from . import norm_triton, patches_triton
from .basic import Conv2d, GroupNorm
from .norm import channels_last

# Larger maps fill the GPU as convolutions, and their patches would take much memory.
MAX_PRODUCT_PIXELS = 2048
ATTENTION_BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)

# Nearest upsampling, then taps 0, 1, 2: each of the 4 taps of the equal stride-2 transposed
# convolution sums these.
UPSAMPLE_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


class Ways:
    """Layers that come in several ways; which one is fastest is found out where a shape first
    comes up.
    """

    def __init__(self, choices: dict[Hashable, int] | None = None):
        self.choices = {} if choices is None else choices
        """Index of the fastest candidate by shape."""
        self.times: dict[Hashable, list[float]] = {}
        """Microseconds of every candidate, for the curious."""

    def conv3x3(self, weight: Tensor, x: Tensor) -> Tensor:
        """Without a bias, which whoever reads the result adds."""

        def convolution() -> Tensor:
            return channels_last(F.conv2d(x, weight, padding=1))

        def product() -> Tensor:
            flat = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
            return picture(patches_triton.patches(x) @ flat.t(), x)

        if x.numel() // x.shape[1] > MAX_PRODUCT_PIXELS:
            return convolution()
        return self.fastest(("conv", *x.shape, len(weight)), convolution, product)

    def upsample(self, conv: Conv2d, transposed_weight: Tensor, x: Tensor) -> Tensor:
        """`conv` of x, twice as large."""

        def plain() -> Tensor:
            return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

        def transposed() -> Tensor:
            return F.conv_transpose2d(x, transposed_weight, conv.bias, stride=2, padding=1)

        return channels_last(self.fastest(("upsample", *x.shape), plain, transposed))

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of heads [B, heads, T, C]."""

        def attend(backend: SDPBackend) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return self.fastest(
            ("attention", *q.shape),
            lambda: F.scaled_dot_product_attention(q, k, v),
            *(lambda backend=backend: attend(backend) for backend in ATTENTION_BACKENDS),
        )

    def fastest(self, key: Hashable, *candidates: Callable[[], Tensor]) -> Tensor:
        """Result of the candidate that was fastest when this key first came."""
        if key not in self.choices:
            self.times[key] = [_microseconds(candidate) for candidate in candidates]
            self.choices[key] = min(range(len(candidates)), key=self.times[key].__getitem__)
        return candidates[self.choices[key]]()


def rows(x: Tensor) -> Tensor:
    """Channels-last [N, C, H, W] as a matrix [N * H * W, C], without a copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def picture(matrix: Tensor, like: Tensor) -> Tensor:
    """Inverse of `rows`, with the batch and size of `like`."""
    return matrix.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


def normalized(
    norm: GroupNorm, x: Tensor, skip: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    """`norm` of x and skip along channels, plus offset [C] or [N, C]."""
    y, _, _ = norm_triton.normalize(
        x, norm.weight, norm.bias, norm.num_groups, norm.eps, norm.silu, skip, offset
    )
    return y


def first_convolution(weight: Tensor, x: Tensor) -> Tensor:
    """Of x [N, C, H, W], of any dtype and layout, with a `padded_input_weight`."""
    count, channels, height, width = x.shape
    padded = torch.empty(
        (count, weight.shape[1], height, width),
        dtype=weight.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    padded[:, :channels] = x
    padded[:, channels:] = 1  # the first of them meets the bias, the others zero weights
    return channels_last(F.conv2d(padded, weight, padding=1))


def padded_input_weight(conv: Conv2d) -> Tensor:
    """[out, in', 3, 3], in' a multiple of 8 above in; channel `in`, constant 1, has the bias."""
    channels_out, channels_in = conv.weight.shape[:2]
    weight = conv.weight.new_zeros(channels_out, channels_in // 8 * 8 + 8, 3, 3)
    weight[:, :channels_in] = conv.weight
    weight[:, channels_in, 1, 1] = conv.bias  # the middle tap never meets the zero padding
    return channels_last(weight)


def transposed_weight(weight: Tensor) -> Tensor:
    """[in, out, 4, 4]: with stride 2, padding 1 the same as nearest upsampling, then `weight`."""
    taps = torch.tensor(UPSAMPLE_TAPS, dtype=torch.float32, device=weight.device)
    sums = torch.einsum("ak,bl,oikl->ioab", taps, taps, weight.float())
    return channels_last(sums.to(weight.dtype))


def _microseconds(function: Callable[[], Tensor], repeats: int = 10) -> float:
    """Device time of one call without launch gaps; infinite where the function can't run."""
    stream = side_stream(torch.device("cuda", torch.cuda.current_device()))
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), cudnn_benchmark(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # an attention kernel that refuses gives its reasons as warnings
        try:
            function()
        except RuntimeError:
            return float("inf")
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        for _ in range(repeats):
            function()
        graph.capture_end()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graph.replay()
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
    return start.elapsed_time(stop) * 1000 / repeats
