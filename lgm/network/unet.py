"""The asymmetric U-Net with cross-view self-attention (Tang et al. 2024, section 3.3), in reading
order.

Axes: B objects, V views (4, others by argument), C channels, H W pixels. View and batch share the
first axis, row = b * V + v.
Attribute names are the released checkpoint's keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers.basic import Conv2d, GroupNorm, Linear, conv3x3
from ..layers.norm import scaled_sum
from .presets import OUTPUT_CHANNELS, VIEW_COUNT, Preset

HEADS = 16  # of every attention, whatever its width
SKIP_SCALE = 0.5**0.5  # keeps the variance of a sum of two branches at one


class Block(nn.Module):
    """A part of the U-Net that training may calculate twice to save memory."""

    recompute = False
    """Keep the input alone, and calculate the rest again when gradients need it."""

    def forward(self, *inputs: Tensor | int) -> Tensor:
        if self.recompute:
            return checkpoint(self.calculate, *inputs, use_reentrant=False)
        return self.calculate(*inputs)


class ResBlock(Block):
    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.norm1 = GroupNorm(channels_in)
        self.conv1 = conv3x3(channels_in, channels_out)
        self.norm2 = GroupNorm(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else Conv2d(channels_in, channels_out, kernel_size=1)
        )

    def calculate(self, x: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.norm2(h))
        return scaled_sum(h, self.shortcut(x), SKIP_SCALE)


class Attention(nn.Module):
    """Multi-head self-attention over tokens [B, T, C]."""

    def __init__(self, channels: int):
        super().__init__()
        self.qkv = Linear(channels, 3 * channels, bias=False)
        self.proj = Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(tokens).unflatten(-1, (3, HEADS, -1))  # [B, T, 3, heads, C / heads]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MVAttention(Block):
    """Self-attention over the pixels of all views of an object at once."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(channels, silu=False)
        self.attn = Attention(channels)

    def calculate(self, x: Tensor, views: int) -> Tensor:
        _, channels, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(-1, views * height * width, channels)
        attended = self.attn(tokens).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        return scaled_sum(attended, x, SKIP_SCALE)


class PassThrough(nn.Module):
    """Stands where a level has no attention; no keys in the state dict."""

    def forward(self, x: Tensor, views: int) -> Tensor:
        return x


def attention_layers(channels: int, count: int, enabled: bool) -> nn.ModuleList:
    return nn.ModuleList(MVAttention(channels) if enabled else PassThrough() for _ in range(count))


class DownBlock(nn.Module):
    """Two layers, then half the resolution. Returns every intermediate map: the decoder's skips."""

    def __init__(self, channels_in: int, channels_out: int, attention: bool, downsample: bool):
        super().__init__()
        self.nets = nn.ModuleList(
            ResBlock(channels, channels_out) for channels in (channels_in, channels_out)
        )
        self.attns = attention_layers(channels_out, 2, attention)
        self.downsample = conv3x3(channels_out, channels_out, stride=2) if downsample else None

    def forward(self, x: Tensor, views: int) -> list[Tensor]:
        outputs = []
        for net, attn in zip(self.nets, self.attns, strict=True):
            x = attn(net(x), views)
            outputs.append(x)
        if self.downsample is not None:
            outputs.append(self.downsample(x))
        return outputs


class MidBlock(nn.Module):
    def __init__(self, channels: int, attention: bool):
        super().__init__()
        self.nets = nn.ModuleList(ResBlock(channels, channels) for _ in range(2))
        self.attns = attention_layers(channels, 1, attention)

    def forward(self, x: Tensor, views: int) -> Tensor:
        return self.nets[1](self.attns[0](self.nets[0](x), views))


class UpBlock(nn.Module):
    """Three layers that each take one skip, then twice the resolution."""

    def __init__(
        self,
        channels_in: int,
        skip_channels: tuple[int, int, int],
        channels_out: int,
        attention: bool,
        upsample: bool,
    ):
        super().__init__()
        widths = (channels_in, channels_out, channels_out)
        self.nets = nn.ModuleList(
            ResBlock(width + skip, channels_out)
            for width, skip in zip(widths, skip_channels, strict=True)
        )
        self.attns = attention_layers(channels_out, 3, attention)
        self.upsample = conv3x3(channels_out, channels_out) if upsample else None

    def forward(self, x: Tensor, skips: list[Tensor], views: int) -> Tensor:
        for net, attn in zip(self.nets, self.attns, strict=True):
            x = attn(net(torch.cat([x, skips.pop()], dim=1)), views)
        if self.upsample is not None:
            x = self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class UNet(nn.Module):
    """[B * V, C_in, S, S] -> [B * V, 14, splat_size, splat_size]. Any S divisible by 2**(down
    blocks - 1) works.
    """

    def __init__(self, preset: Preset):
        super().__init__()
        down, up = preset.down_channels, preset.up_channels
        self.conv_in = conv3x3(preset.in_channels, down[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(down[max(i - 1, 0)], down[i], preset.down_attention[i], i < len(down) - 1)
            for i in range(len(down))
        )
        self.mid_block = MidBlock(down[-1], preset.mid_attention)
        self.up_blocks = nn.ModuleList()
        for i, channels in enumerate(up):
            # The third skip comes from one level further out: the output of that level's down
            # block.
            outer = down[max(-2 - i, -len(down))]
            self.up_blocks.append(
                UpBlock(
                    channels_in=up[i - 1] if i else down[-1],
                    skip_channels=(channels, channels, outer),
                    channels_out=channels,
                    attention=preset.up_attention[i],
                    upsample=i < len(up) - 1,
                )
            )
        self.norm_out = GroupNorm(up[-1])
        self.conv_out = conv3x3(up[-1], OUTPUT_CHANNELS)

    def forward(self, x: Tensor, views: int = VIEW_COUNT) -> Tensor:
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            skips.extend(block(skips[-1], views))
        x = self.mid_block(skips[-1], views)
        # The decoder is shorter than the encoder: the oldest skips stay unused.
        for block in self.up_blocks:
            x = block(x, skips, views)
        return self.conv_out(self.norm_out(x))
