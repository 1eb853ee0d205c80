"""The U-Net of `unet.py` once more, for CUDA inference: the same weights and numbers, far fewer
passes over memory.

What differs from the readable version:
  * activations and convolution weights are channels-last, as the tensor cores read them;
  * a convolution's bias is added by the GroupNorm or the sum that follows it;
  * skip connections are not concatenated: GroupNorm reads both tensors, the 1x1 shortcut is two
    matrix products;
  * the input is padded to a multiple of 8 channels, one of them constant 1 so that it carries the
    bias; the output convolution and the 1x1 head are one convolution of 16 channels;
  * where several ways lead to the same result, the fastest is measured once per shape and kept:
    convolutions of small maps as matrix products, upsampling as one transposed convolution, and the
    attention kernel.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import norm_kernels
from .cuda_graph import GraphedFunction, cudnn_benchmark, parameter_state
from .fused_norm import channels_last, uses_triton
from .presets import VIEW_COUNT
from .unet import HEADS, SKIP_SCALE, Conv2d, GroupNorm, MVAttention, ResBlock, UNet

# Larger maps fill the GPU as convolutions, and their patches would take much memory.
MAX_PRODUCT_PIXELS = 2048
ATTENTION_BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)

# Nearest upsampling, then taps 0, 1, 2: each of the 4 taps of the equal stride-2 transposed
# convolution sums these.
UPSAMPLE_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))

_runners: weakref.WeakKeyDictionary[nn.Module, GraphedFunction] = weakref.WeakKeyDictionary()


def can_run(model: nn.Module, x: Tensor) -> bool:
    """Whether `features` takes this: CUDA with Triton, inference, input beside the weights."""
    weight = model.conv.weight
    return (
        x.is_cuda
        and weight.device == x.device
        and uses_triton(weight)
        and not torch.is_autocast_enabled("cuda")
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


def features(model: nn.Module, x: Tensor) -> Tensor:
    """Raw channels [B * V, 14, h, w] float32 from [B * V, C, S, S]: model.conv(model.unet(x)), as a
    CUDA graph. The first call for a shape takes seconds."""
    if model not in _runners:
        state = parameter_state(model)
        _runners[model] = GraphedFunction(_Plans(weakref.ref(model), state), state)
    return _runners[model](x)


def release(model: nn.Module) -> None:
    """Free the graphs and rearranged weights of a model, e.g. when it leaves the GPU."""
    _runners.pop(model, None)


class _Plans:
    """Calls the model's current `FastUNet`; a new one is prepared when the weights have changed."""

    def __init__(self, model: weakref.ref[nn.Module], state: Callable[[], object]):
        self.model, self.state = model, state
        self.plan: FastUNet | None = None
        self.prepared_for: object = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.plan is None or self.state() != self.prepared_for:
            model = self.model()
            choices = {} if self.plan is None else self.plan.choices
            self.plan = FastUNet(model.unet, model.conv, choices)
            self.prepared_for = self.state()
        return self.plan(x)


class FastUNet:
    """`unet`, then 1x1 convolution `head`. Gives unet's weights channels-last strides in place."""

    def __init__(self, unet: UNet, head: Conv2d, choices: dict[Hashable, int] | None = None):
        self.unet = unet
        self.choices = {} if choices is None else choices
        """Index of the fastest candidate by shape."""
        self.times: dict[Hashable, list[float]] = {}
        """Microseconds of every candidate, for the curious."""
        # Weights rearranged in inference mode could never be trained again.
        with torch.inference_mode(False), torch.no_grad():
            for module in unet.modules():
                if isinstance(module, Conv2d):
                    module.weight.data = channels_last(module.weight.data)
            self.conv_in = _padded_input_weight(unet.conv_in)
            self.conv_out = _merged_output_weights(unet.conv_out, head)
            self.biases = {
                net: net.conv2.bias + net.shortcut.bias
                for net in unet.modules()
                if isinstance(net, ResBlock) and isinstance(net.shortcut, Conv2d)
            }
            self.upsample = {
                block: _transposed_weight(block.upsample.weight)
                for block in unet.up_blocks
                if block.upsample is not None
            }
        self.output_channels = head.out_channels

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        x = self._input(x)
        skips = [x]
        for block in self.unet.down_blocks:
            for net, attn in zip(block.nets, block.attns, strict=True):
                x = self._attention(attn, self._resblock(net, x))
                skips.append(x)
            if block.downsample is not None:
                x = channels_last(block.downsample(x))
                skips.append(x)
        mid = self.unet.mid_block
        x = self._resblock(
            mid.nets[1], self._attention(mid.attns[0], self._resblock(mid.nets[0], x))
        )
        for block in self.unet.up_blocks:
            for net, attn in zip(block.nets, block.attns, strict=True):
                x = self._attention(attn, self._resblock(net, x, skips.pop()))
            if block.upsample is not None:
                x = self._upsample(block, x)
        x = F.conv2d(_norm(self.unet.norm_out, x), *self.conv_out, padding=1)
        return x[:, : self.output_channels].float()

    def _input(self, x: Tensor) -> Tensor:
        """conv_in of x [N, C, S, S] of any dtype and layout."""
        count, channels, height, width = x.shape
        padded = torch.empty(
            (count, self.conv_in.shape[1], height, width),
            dtype=self.conv_in.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        padded[:, :channels] = x
        padded[:, channels:] = 1  # the first of them meets the bias, the others zero weights
        return channels_last(F.conv2d(padded, self.conv_in, padding=1))

    def _resblock(self, net: ResBlock, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """`net` of x, or of x and skip concatenated."""
        h = self._conv3x3(net.conv1, _norm(net.norm1, x, skip=skip))
        h = self._conv3x3(net.conv2, _norm(net.norm2, h, offset=net.conv1.bias))
        if net not in self.biases:
            x = x if skip is None else torch.cat([x, skip], dim=1)
            return norm_kernels.scaled_sum(h, x, SKIP_SCALE, net.conv2.bias)
        weight = net.shortcut.weight.flatten(1)
        width = x.shape[1]
        shortcut = F.linear(_rows(x), weight[:, :width], self.biases[net])
        if skip is not None:
            shortcut.addmm_(_rows(skip), weight[:, width:].t())
        return norm_kernels.scaled_sum(h, _picture(shortcut, x), SKIP_SCALE)

    def _attention(self, block: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(block, MVAttention):
            return x
        _, channels, height, width = x.shape
        tokens = _rows(_norm(block.norm, x)).view(-1, VIEW_COUNT * height * width, channels)
        qkv = F.linear(tokens, block.attn.qkv.weight).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)

        def attend(backend: SDPBackend) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        attended = self._fastest(
            ("attention", *q.shape),
            lambda: F.scaled_dot_product_attention(q, k, v),
            *(lambda backend=backend: attend(backend) for backend in ATTENTION_BACKENDS),
        )
        rows = attended.transpose(1, 2).reshape(-1, channels)
        rows = F.linear(rows, block.attn.proj.weight, block.attn.proj.bias)
        return norm_kernels.scaled_sum(_picture(rows, x), x, SKIP_SCALE)

    def _conv3x3(self, conv: Conv2d, x: Tensor) -> Tensor:
        """Without the bias, which whoever reads the result adds."""

        def convolution() -> Tensor:
            return channels_last(F.conv2d(x, conv.weight, padding=1))

        def product() -> Tensor:
            weight = conv.weight.permute(0, 2, 3, 1).reshape(conv.out_channels, -1)
            return _picture(norm_kernels.patches(x) @ weight.t(), x)

        if x.numel() // x.shape[1] > MAX_PRODUCT_PIXELS:
            return convolution()
        return self._fastest(("conv", *x.shape, conv.out_channels), convolution, product)

    def _upsample(self, block: nn.Module, x: Tensor) -> Tensor:
        def plain() -> Tensor:
            return block.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))

        def transposed() -> Tensor:
            return F.conv_transpose2d(
                x, self.upsample[block], block.upsample.bias, stride=2, padding=1
            )

        return channels_last(self._fastest(("upsample", *x.shape), plain, transposed))

    def _fastest(self, key: Hashable, *candidates: Callable[[], Tensor]) -> Tensor:
        """Result of the candidate that was fastest when this key first came."""
        if key not in self.choices:
            self.times[key] = [_microseconds(candidate) for candidate in candidates]
            self.choices[key] = min(range(len(candidates)), key=self.times[key].__getitem__)
        return candidates[self.choices[key]]()


def _rows(x: Tensor) -> Tensor:
    """Channels-last [N, C, H, W] as a matrix [N * H * W, C], without a copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _picture(rows: Tensor, like: Tensor) -> Tensor:
    """Inverse of `_rows`, with the batch and size of `like`."""
    return rows.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


def _norm(
    norm: GroupNorm, x: Tensor, skip: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    y, _, _ = norm_kernels.normalize(
        x, norm.weight, norm.bias, norm.num_groups, norm.eps, norm.silu, skip, offset
    )
    return y


def _padded_input_weight(conv: Conv2d) -> Tensor:
    """[out, in', 3, 3], in' a multiple of 8 above in; channel `in`, constant 1, has the bias."""
    channels_out, channels_in = conv.weight.shape[:2]
    weight = conv.weight.new_zeros(channels_out, channels_in // 8 * 8 + 8, 3, 3)
    weight[:, :channels_in] = conv.weight
    weight[:, channels_in, 1, 1] = conv.bias  # the middle tap never meets the zero padding
    return channels_last(weight)


def _merged_output_weights(conv: Conv2d, head: Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of `conv`, then `head` (1x1), zero-padded to a multiple of 8 channels."""
    mix = head.weight.flatten(1).float()
    weight = torch.einsum("om,mikl->oikl", mix, conv.weight.float())
    bias = mix @ conv.bias.float() + head.bias.float()
    missing = -len(weight) % 8
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)).to(conv.weight.dtype)
    return channels_last(weight), F.pad(bias, (0, missing)).to(conv.weight.dtype)


def _transposed_weight(weight: Tensor) -> Tensor:
    """[in, out, 4, 4]: with stride 2, padding 1 the same as nearest upsampling, then `weight`."""
    taps = torch.tensor(UPSAMPLE_TAPS, dtype=torch.float32, device=weight.device)
    sums = torch.einsum("ak,bl,oikl->ioab", taps, taps, weight.float())
    return channels_last(sums.to(weight.dtype))


def _microseconds(function: Callable[[], Tensor], repeats: int = 10) -> float:
    """Device time of one call without launch gaps; infinite where the function can't run."""
    stream = torch.cuda.Stream()
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
