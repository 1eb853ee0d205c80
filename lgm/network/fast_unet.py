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

import weakref
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import norm_triton
from ..layers.basic import Conv2d
from ..layers.fast import (
    Ways,
    first_convolution,
    normalized,
    padded_input_weight,
    picture,
    rows,
    transposed_weight,
)
from ..layers.norm import channels_last
from ..machine.cuda_graph import GraphedFunction, parameter_state
from ..machine.optional import uses_triton
from .unet import HEADS, SKIP_SCALE, MVAttention, ResBlock, UNet

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
            assert model is not None  # it is calling us
            choices = {} if self.plan is None else self.plan.ways.choices
            self.plan = FastUNet(model.unet, model.conv, model.preset.map_count, choices)
            self.prepared_for = self.state()
        return self.plan(x)


class FastUNet:
    """`unet`, then 1x1 convolution `head`. Gives unet's weights channels-last strides in place.

    Args:
        views: of one object, which attend to each other.
    """

    def __init__(
        self, unet: UNet, head: Conv2d, views: int, choices: dict[Hashable, int] | None = None
    ):
        self.unet, self.views = unet, views
        self.ways = Ways(choices)
        # Weights rearranged in inference mode could never be trained again.
        with torch.inference_mode(False), torch.no_grad():
            for module in unet.modules():
                if isinstance(module, Conv2d):
                    module.weight.data = channels_last(module.weight.data)
            self.conv_in = padded_input_weight(unet.conv_in)
            self.conv_out = _merged_output_weights(unet.conv_out, head)
            self.biases = {
                net: net.conv2.bias + net.shortcut.bias
                for net in unet.modules()
                if isinstance(net, ResBlock) and isinstance(net.shortcut, Conv2d)
            }
            self.upsample = {
                block: transposed_weight(block.upsample.weight)
                for block in unet.up_blocks
                if block.upsample is not None
            }
        self.output_channels = head.out_channels

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        x = first_convolution(self.conv_in, x)
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
                x = self.ways.upsample(block.upsample, self.upsample[block], x)
        x = F.conv2d(normalized(self.unet.norm_out, x), *self.conv_out, padding=1)
        return x[:, : self.output_channels].float()

    def _resblock(self, net: ResBlock, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """`net` of x, or of x and skip concatenated."""
        h = self.ways.conv3x3(net.conv1.weight, normalized(net.norm1, x, skip=skip))
        h = self.ways.conv3x3(net.conv2.weight, normalized(net.norm2, h, offset=net.conv1.bias))
        if net not in self.biases:
            x = x if skip is None else torch.cat([x, skip], dim=1)
            return norm_triton.scaled_sum(h, x, SKIP_SCALE, net.conv2.bias)
        weight = net.shortcut.weight.flatten(1)
        width = x.shape[1]
        shortcut = F.linear(rows(x), weight[:, :width], self.biases[net])
        if skip is not None:
            shortcut.addmm_(rows(skip), weight[:, width:].t())
        return norm_triton.scaled_sum(h, picture(shortcut, x), SKIP_SCALE)

    def _attention(self, block: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(block, MVAttention):
            return x
        _, channels, height, width = x.shape
        tokens = rows(normalized(block.norm, x)).view(-1, self.views * height * width, channels)
        qkv = F.linear(tokens, block.attn.qkv.weight).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)

        attended = self.ways.attention(q, k, v).transpose(1, 2).reshape(-1, channels)
        attended = F.linear(attended, block.attn.proj.weight, block.attn.proj.bias)
        return norm_triton.scaled_sum(picture(attended, x), x, SKIP_SCALE)


def _merged_output_weights(conv: Conv2d, head: Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of `conv`, then `head` (1x1), zero-padded to a multiple of 8 channels."""
    mix = head.weight.flatten(1).float()
    weight = torch.einsum("om,mikl->oikl", mix, conv.weight.float())
    bias = mix @ conv.bias.float() + head.bias.float()
    missing = -len(weight) % 8
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)).to(conv.weight.dtype)
    return channels_last(weight), F.pad(bias, (0, missing)).to(conv.weight.dtype)
