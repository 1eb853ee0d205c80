"""The multi-view U-Net of `unet.py` once more, for CUDA inference: the same weights and numbers,
far fewer passes over memory. As in `lgm.fast_unet`, and

  * a channels-last map is a matrix of tokens already: transformers need no copies;
  * biases along a transformer's residual stream are summed up beforehand and added where the stream
    is read, so a residual sum is part of its matrix product;
  * queries, keys and values come from one product, so does what the time step adds to all blocks;
  * the prompt's keys and values stay in place, and one step is one CUDA graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass

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
from . import kernels
from .blocks import CrossInput, Downsample, ResBlock, Transformer, Upsample, timestep_embedding
from .unet import Constants, Stage, UNet

OUTPUT_MULTIPLE = 8  # channels that tensor cores write at once

_denoisers: weakref.WeakKeyDictionary[nn.Module, FastDenoiser] = weakref.WeakKeyDictionary()


def can_run(unet: UNet, sample: Tensor) -> bool:
    """Whether `denoise` takes this: CUDA with Triton, inference, half precision, one place."""
    weight = unet.input_blocks[0][0].weight
    return (
        sample.is_cuda
        and weight.device == sample.device
        and weight.dtype in (torch.float16, torch.bfloat16)
        and sample.dtype == weight.dtype
        and uses_triton(weight)
        and not torch.is_autocast_enabled("cuda")
        and not (torch.is_grad_enabled() and (sample.requires_grad or weight.requires_grad))
    )


def denoise(unet: UNet, sample: Tensor, timestep: Tensor, constants: Constants) -> Tensor:
    """`unet.denoise`, as a CUDA graph. The first call for a shape takes seconds."""
    if unet not in _denoisers:
        _denoisers[unet] = FastDenoiser(unet)
    return _denoisers[unet](sample, timestep, constants)


def release(unet: UNet) -> None:
    """Free the graphs and rearranged weights of a network, e.g. when it leaves the GPU. What was
    measured to find the fastest ways is kept for its return.
    """
    if unet in _denoisers:
        _denoisers[unet].release()


class FastDenoiser:
    """Keeps a plan, and a copy of the constants where its graph reads them."""

    def __init__(self, unet: UNet):
        self._unet = weakref.ref(unet)
        self._state = parameter_state(unet)
        self._given: Constants | None = None
        self._own: Constants | None = None
        self._timestep = torch.empty(0)
        self._plan: FastUNet | None = None
        self._planned_for: object = None
        self._choices: dict[Hashable, int] | None = None
        self._graph = GraphedFunction(
            self._step, lambda: (self._state(), id(self._own), id(self._timestep))
        )

    def __call__(self, sample: Tensor, timestep: Tensor, constants: Constants) -> Tensor:
        with torch.inference_mode():
            if constants is not self._given:
                self._take(constants)
            if self._timestep.shape != timestep.shape:
                self._timestep = sample.new_empty(timestep.shape, dtype=torch.float32)
            self._timestep.copy_(timestep)
        return self._graph(sample)

    def release(self) -> None:
        self._graph.reset()
        self._given = self._own = self._plan = None

    def _take(self, constants: Constants) -> None:
        """Copy the constants to where the graph reads them, or begin anew if they don't fit."""
        if self._own is None or _layout(self._own) != _layout(constants):
            self._own = _map(constants, lambda t: t.contiguous().clone())
        else:
            torch._foreach_copy_(_tensors(self._own), _tensors(constants))
        self._given = constants

    def _step(self, sample: Tensor) -> Tensor:
        if self._plan is None or self._planned_for != self._state():
            unet = self._unet()
            assert unet is not None  # whoever calls holds it
            self._plan = FastUNet(unet, self._choices)
            self._choices = self._plan.ways.choices
            self._planned_for = self._state()
        assert self._own is not None  # taken before each step
        return self._plan(sample, self._timestep, self._own)


def _map(constants: Constants, change: Callable[[Tensor], Tensor]) -> Constants:
    def changed(x: Tensor | None) -> Tensor | None:
        return None if x is None else change(x)

    def cross(given: CrossInput) -> CrossInput:
        return CrossInput(
            change(given.keys),
            change(given.values),
            changed(given.image_keys),
            changed(given.image_values),
        )

    return Constants(
        change(constants.camera_emb),
        tuple(map(cross, constants.cross)),
        constants.num_frames,
        changed(constants.reference_latents),
    )


def _tensors(constants: Constants) -> list[Tensor]:
    found: list[Tensor] = []
    _map(constants, lambda t: found.append(t) or t)
    return found


def _layout(constants: Constants) -> Hashable:
    return constants.num_frames, tuple((t.shape, t.dtype) for t in _tensors(constants))


@dataclass(frozen=True)
class TransformerWeights:
    """Of one transformer of a single block. Offsets are what the residual stream lacks so far."""

    qkv: Tensor  # [3 C, C]
    offsets: tuple[Tensor, Tensor, Tensor]  # [C] each, before the block's three norms
    output_bias: Tensor  # [C], of proj_out and all offsets


class FastUNet:
    """Gives the network's convolution weights channels-last strides in place."""

    def __init__(self, unet: UNet, choices: dict[Hashable, int] | None = None):
        self._unet = weakref.ref(unet)  # whoever keeps this for a network must not keep it alive
        self.ways = Ways(choices)
        blocks = [m for m in unet.modules() if isinstance(m, ResBlock)]
        with torch.inference_mode(False), torch.no_grad():
            for module in unet.modules():
                if isinstance(module, Conv2d):
                    module.weight.data = channels_last(module.weight.data)
            self.conv_in = padded_input_weight(unet.input_blocks[0][0])
            self.conv_out = _padded_output(unet.out[2])
            layers = [block.emb_layers[1] for block in blocks]
            self.emb_weight = torch.cat([layer.weight for layer in layers])
            # The first convolution's bias goes along with what the time step adds.
            self.emb_bias = torch.cat(
                [
                    block.in_layers[2].bias + layer.bias
                    for block, layer in zip(blocks, layers, strict=True)
                ]
            )
            self.emb_widths = [layer.out_features for layer in layers]
            self.skip_bias = {
                block: block.out_layers[3].bias
                + (block.skip_connection.bias if _has_shortcut(block) else 0)
                for block in blocks
            }
            self.transformers = {
                m: _prepared(m) for m in unet.modules() if isinstance(m, Transformer)
            }
            self.upsample = {
                m: transposed_weight(m.conv.weight)
                for m in unet.modules()
                if isinstance(m, Upsample)
            }

    @torch.no_grad()
    def __call__(self, sample: Tensor, timestep: Tensor, constants: Constants) -> Tensor:
        unet, frames = self._unet(), constants.num_frames
        assert unet is not None  # whoever calls holds it
        if constants.reference_latents is not None:
            sample = sample.unflatten(0, (-1, frames)).clone()
            sample[:, -1] = constants.reference_latents
            sample = sample.flatten(0, 1)
        waves = timestep_embedding(timestep, unet.model_channels).to(self.conv_in)
        emb = unet.time_embed(waves) + constants.camera_emb
        added = F.linear(F.silu(emb), self.emb_weight, self.emb_bias)
        added = iter(part.contiguous() for part in added.split(self.emb_widths, dim=1))
        cross = iter(constants.cross)

        x = first_convolution(self.conv_in, sample)
        skips = [x]
        for block in unet.input_blocks[1:]:
            x = self._stage(block, x, None, added, cross, frames)
            skips.append(x)
        x = self._stage(unet.middle_block, x, None, added, cross, frames)
        for block in unet.output_blocks:
            x = self._stage(block, x, skips.pop(), added, cross, frames)
        weight, bias = self.conv_out
        x = F.conv2d(normalized(unet.out[0], x), weight, bias, padding=1)
        return x[:, : unet.out[2].out_channels].contiguous()

    def _stage(self, stage: Stage, x: Tensor, skip: Tensor | None, added, cross, frames) -> Tensor:
        for layer in stage:
            if isinstance(layer, ResBlock):
                x, skip = self._resblock(layer, x, skip, next(added)), None
            elif isinstance(layer, Transformer):
                x = self._transformer(layer, x, next(cross), frames)
            elif isinstance(layer, Downsample):
                x = channels_last(layer(x))
            else:
                x = self.ways.upsample(layer.conv, self.upsample[layer], x)
        return x

    def _resblock(self, block: ResBlock, x: Tensor, skip: Tensor | None, added: Tensor) -> Tensor:
        h = self.ways.conv3x3(block.in_layers[2].weight, normalized(block.in_layers[0], x, skip))
        h = normalized(block.out_layers[0], h, offset=added)
        h = self.ways.conv3x3(block.out_layers[3].weight, h)
        bias = self.skip_bias[block]
        if not _has_shortcut(block):
            return norm_triton.scaled_sum(h, x, 1.0, bias)
        weight, width = block.skip_connection.weight.flatten(1), x.shape[1]
        total = torch.addmm(rows(h), rows(x), weight[:, :width].t())
        if skip is not None:
            total.addmm_(rows(skip), weight[:, width:].t())
        return picture(total.add_(bias), h)

    def _transformer(self, layer: Transformer, x: Tensor, given: CrossInput, frames: int) -> Tensor:
        prepared, block = self.transformers[layer], layer.transformer_blocks[0]
        samples, channels, height, width = x.shape
        heads = channels // block.attn1.head_channels

        def norm(module: nn.LayerNorm, offset: Tensor) -> Tensor:
            return kernels.layer_norm(stream, offset, module.weight, module.bias, module.eps)

        stream = rows(normalized(layer.norm, x)) @ layer.proj_in.weight.t()
        joint = norm(block.norm1, prepared.offsets[0]) @ prepared.qkv.t()
        joint = joint.view(samples // frames, frames * height * width, 3, heads, -1)
        attended = self.ways.attention(*joint.permute(2, 0, 3, 1, 4))
        attended = attended.transpose(1, 2).reshape(-1, channels)
        stream.addmm_(attended, block.attn1.to_out[0].weight.t())
        q = norm(block.norm2, prepared.offsets[1]) @ block.attn2.to_q.weight.t()
        attended = kernels.cross_attention(
            q.view(samples, height * width, channels), given.keys, given.values,
            given.image_keys, given.image_values, block.attn2.head_channels,
        )  # fmt: skip
        stream.addmm_(attended.view(-1, channels), block.attn2.to_out[0].weight.t())
        gate, _, out = block.ff.net
        hidden = norm(block.norm3, prepared.offsets[2]) @ gate.proj.weight.t()
        stream.addmm_(kernels.geglu(hidden, gate.proj.bias), out.weight.t())
        stream = picture(stream @ layer.proj_out.weight.t(), x)
        return norm_triton.scaled_sum(stream, x, 1.0, prepared.output_bias)


def _has_shortcut(block: ResBlock) -> bool:
    return isinstance(block.skip_connection, Conv2d)


def _prepared(layer: Transformer) -> TransformerWeights:
    if len(layer.transformer_blocks) != 1:
        raise ValueError("The fast multi-view U-Net knows transformers of one block only.")
    block = layer.transformer_blocks[0]
    attention = block.attn1
    steps = (
        layer.proj_in.bias,
        attention.to_out[0].bias,
        block.attn2.to_out[0].bias,
        block.ff.net[2].bias,
    )
    *offsets, total = torch.stack(steps).float().cumsum(0)
    like = layer.proj_out.bias
    return TransformerWeights(
        qkv=torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]),
        offsets=tuple(offset.to(like) for offset in offsets),
        output_bias=(layer.proj_out.weight.float() @ total + like.float()).to(like),
    )


def _padded_output(conv: Conv2d) -> tuple[Tensor, Tensor]:
    missing = -conv.out_channels % OUTPUT_MULTIPLE
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, missing))
    return channels_last(weight), F.pad(conv.bias, (0, missing))
