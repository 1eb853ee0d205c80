"""ImageDream's resampler: CLIP image features to tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers.basic import Linear
from .blocks import LayerNorm, attend

IMAGE_FEATURES = 1280  # width of CLIP ViT-H/14, which looks at ImageDream's picture
RESAMPLER_DEPTH, RESAMPLER_HEADS, RESAMPLER_HEAD_CHANNELS = 4, 12, 64


class PerceiverAttention(nn.Module):
    """Learned tokens read the picture's tokens and each other."""

    def __init__(self, channels: int):
        super().__init__()
        inner = RESAMPLER_HEADS * RESAMPLER_HEAD_CHANNELS
        self.norm1 = LayerNorm(channels)
        self.norm2 = LayerNorm(channels)
        self.to_q = Linear(channels, inner, bias=False)
        self.to_kv = Linear(channels, 2 * inner, bias=False)
        self.to_out = Linear(inner, channels, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        features, latents = self.norm1(features), self.norm2(latents)
        k, v = self.to_kv(torch.cat([features, latents], dim=1)).chunk(2, dim=-1)
        return self.to_out(attend(self.to_q(latents), k, v, RESAMPLER_HEAD_CHANNELS))


class Resampler(nn.Module):
    """Image features [N, 257, 1280] -> [N, tokens, channels], like one word each."""

    def __init__(self, channels: int, tokens: int):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, tokens, channels) / channels**0.5)
        self.proj_in = Linear(IMAGE_FEATURES, channels)
        self.proj_out = Linear(channels, channels)
        self.norm_out = LayerNorm(channels)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(channels),
                    nn.Sequential(
                        LayerNorm(channels),
                        Linear(channels, 4 * channels, bias=False),
                        nn.GELU(),
                        Linear(4 * channels, channels, bias=False),
                    ),
                ]
            )
            for _ in range(RESAMPLER_DEPTH)
        )

    def forward(self, features: Tensor) -> Tensor:
        features = self.proj_in(features)
        latents = self.latents.to(features).expand(len(features), -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(features, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))
