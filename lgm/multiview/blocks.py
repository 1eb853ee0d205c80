"""Blocks of the multi-view diffusion U-Net, in the order the forward pass meets them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.basic import Conv2d, GroupNorm, Linear, conv3x3

MAX_PERIOD = 10_000  # of the time embedding's slowest wave, steps


class LayerNorm(nn.LayerNorm):
    """A layer norm where its input is and in its precision."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(
            x, self.normalized_shape, self.weight.to(x), self.bias.to(x), eps=self.eps
        )


def attend(q: Tensor, k: Tensor, v: Tensor, head_channels: int) -> Tensor:
    """softmax(q k^T / sqrt(head_channels)) v per head: q [B, T, C], k and v [B, S, C]."""
    q, k, v = (x.unflatten(-1, (-1, head_channels)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class CrossInput:
    """What one cross-attention reads; it depends on the prompt and the picture alone."""

    keys: Tensor  # [B * F, 77, C]
    values: Tensor  # [B * F, 77, C]
    image_keys: Tensor | None = None  # [B * F, ip_dim, C]
    image_values: Tensor | None = None  # [B * F, ip_dim, C]


class SelfAttention(nn.Module):
    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.head_channels = head_channels
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(channels, channels, bias=False)
        self.to_v = Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.to_out(attend(q, k, v, self.head_channels))


class CrossAttention(nn.Module):
    """Attention to the text and, where there is a picture, to its tokens with the same queries; the
    two results are added.
    """

    def __init__(self, channels: int, context_dim: int, head_channels: int, with_image: bool):
        super().__init__()
        self.head_channels = head_channels
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_dim, channels, bias=False)
        self.to_v = Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(Linear(channels, channels))
        if with_image:
            self.to_k_ip = Linear(context_dim, channels, bias=False)
            self.to_v_ip = Linear(context_dim, channels, bias=False)

    def read(self, text: Tensor, image_tokens: Tensor | None, ip_weight: float) -> CrossInput:
        """Attention is linear in its values, so the picture's weight may already go into them."""
        keys, values = self.to_k(text), self.to_v(text)
        if image_tokens is None:
            return CrossInput(keys, values)
        return CrossInput(
            keys, values, self.to_k_ip(image_tokens), ip_weight * self.to_v_ip(image_tokens)
        )

    def forward(self, x: Tensor, given: CrossInput) -> Tensor:
        q = self.to_q(x)
        y = attend(q, given.keys, given.values, self.head_channels)
        if given.image_keys is not None and given.image_values is not None:
            y = y + attend(q, given.image_keys, given.image_values, self.head_channels)
        return self.to_out(y)


class GEGLU(nn.Module):
    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.proj = Linear(channels_in, 2 * channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        # Index 1 was a dropout.
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels), nn.Identity(), Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, context_dim: int, head_channels: int, with_image: bool):
        super().__init__()
        self.attn1 = SelfAttention(channels, head_channels)
        self.ff = FeedForward(channels)
        self.attn2 = CrossAttention(channels, context_dim, head_channels, with_image)
        self.norm1 = LayerNorm(channels)
        self.norm2 = LayerNorm(channels)
        self.norm3 = LayerNorm(channels)

    def forward(self, x: Tensor, given: CrossInput, num_frames: int) -> Tensor:
        """x: [B * F, h * w, C]. All frames of an object see each other, and each the text."""
        rows, tokens, channels = x.shape
        joint = self.norm1(x).view(rows // num_frames, num_frames * tokens, channels)
        x = x + self.attn1(joint).view(rows, tokens, channels)
        x = x + self.attn2(self.norm2(x), given)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(
        self, channels: int, depth: int, context_dim: int, head_channels: int, with_image: bool
    ):
        super().__init__()
        self.norm = GroupNorm(channels, silu=False)
        self.norm.eps = 1e-6  # unlike the other norms
        self.proj_in = Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim, head_channels, with_image) for _ in range(depth)
        )
        self.proj_out = Linear(channels, channels)

    def forward(self, x: Tensor, given: Iterator[CrossInput], num_frames: int) -> Tensor:
        height = x.shape[2]
        tokens = self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens, next(given), num_frames)
        tokens = self.proj_out(tokens).unflatten(1, (height, -1))
        return x + tokens.permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, emb_channels: int):
        super().__init__()
        # Identities stand where the original has SiLU (here part of the norm) and dropout.
        self.in_layers = nn.Sequential(
            GroupNorm(channels_in), nn.Identity(), conv3x3(channels_in, channels_out)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(emb_channels, channels_out))
        self.out_layers = nn.Sequential(
            GroupNorm(channels_out),
            nn.Identity(),
            nn.Identity(),
            conv3x3(channels_out, channels_out),
        )
        self.skip_connection = (
            nn.Identity()
            if channels_in == channels_out
            else Conv2d(channels_in, channels_out, kernel_size=1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = conv3x3(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """[N, channels] float32 of [N]: cosines of ever slower waves, then their sines."""
    half = channels // 2
    waves = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * waves)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def embedding(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        Linear(channels_in, channels_out), nn.SiLU(), Linear(channels_out, channels_out)
    )
