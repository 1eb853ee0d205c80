"""The multi-view diffusion U-Net of MVDream (Shi et al. 2023) and ImageDream (Wang and Shi 2023),
in reading order: Stable Diffusion 2.1's, with self-attention over all views of an object at once, a
camera added to the time step, and, for ImageDream, a picture's tokens beside the text's.

Axes: B objects, F frames (4 views; ImageDream has a fifth that holds the given picture), C
channels, h w latent pixels, T tokens. Objects and frames share the first axis, row = b * F + f.
Attribute names are the released checkpoints' keys. Layers calculate in the precision of their
input, wherever and in whatever their weights are stored (see `lgm.unet`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..unet import Conv2d, GroupNorm, Linear, conv3x3

IMAGE_FEATURES = 1280  # width of CLIP ViT-H/14, which looks at ImageDream's picture
RESAMPLER_DEPTH, RESAMPLER_HEADS, RESAMPLER_HEAD_CHANNELS = 4, 12, 64
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


# The given picture -------------------------------------------------------------------------------


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


# Blocks ------------------------------------------------------------------------------------------


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
        if given.image_keys is not None:
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


class Stage(nn.Sequential):
    """Layers in a row, each given what its kind needs."""

    def forward(
        self, x: Tensor, emb: Tensor, given: Iterator[CrossInput], num_frames: int
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, Transformer):
                x = layer(x, given, num_frames)
            else:
                x = layer(x)
        return x


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """[N, channels] float32 of [N]: cosines of ever slower waves, then their sines."""
    half = channels // 2
    waves = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * waves)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


# The network -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constants:
    """What stays the same over all steps of a sampling; made by `UNet.prepare`."""

    camera_emb: Tensor  # [B * F, 4 * model_channels]
    cross: tuple[CrossInput, ...]  # one per transformer block, in the order they run
    num_frames: int
    reference_latents: Tensor | None = None  # [B, 4, h, w], what the last frame really shows


class UNet(nn.Module):
    """Predicts the noise in B * F latent frames. Any h and w divisible by `size_multiple` work.

    Args:
        image_size: side of the latents in training; the network doesn't depend on it.
        attention_resolutions: downsampling factors at which transformers stand.
        ip_dim: tokens that a picture becomes; 0 is MVDream, 16 is ImageDream.
        ip_weight: factor of the picture's part in every cross-attention.
    """

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 4,
        out_channels: int = 4,
        model_channels: int = 320,
        attention_resolutions: tuple[int, ...] = (4, 2, 1),
        num_res_blocks: int = 2,
        channel_mult: tuple[int, ...] = (1, 2, 4, 4),
        num_head_channels: int = 64,
        transformer_depth: int = 1,
        context_dim: int = 1024,
        camera_dim: int = 16,
        ip_dim: int = 0,
        ip_weight: float = 1.0,
    ):
        super().__init__()
        emb_channels = 4 * model_channels
        self.in_channels, self.model_channels = in_channels, model_channels
        self.context_dim, self.camera_dim = context_dim, camera_dim
        self.ip_dim, self.ip_weight = ip_dim, ip_weight
        self.size_multiple = 2 ** (len(channel_mult) - 1)
        self.fast = transformer_depth == 1
        """Whether samplers may run the network of `fast.py` instead, on CUDA in half precision. Its
        graph costs seconds at first and refers to the weights where they are, so whoever moves them
        about sets this to False."""

        def res(channels_in: int, channels_out: int) -> ResBlock:
            return ResBlock(channels_in, channels_out, emb_channels)

        def transformer(channels: int) -> Transformer:
            return Transformer(
                channels, transformer_depth, context_dim, num_head_channels, with_image=ip_dim > 0
            )

        self.time_embed = embedding(model_channels, emb_channels)
        self.camera_embed = embedding(camera_dim, emb_channels)
        if ip_dim > 0:
            self.image_embed = Resampler(context_dim, ip_dim)

        channels = model_channels
        widths = [channels]  # of the outputs that the decoder takes as skips
        self.input_blocks = nn.ModuleList([Stage(conv3x3(in_channels, channels))])
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [res(channels, mult * model_channels)]
                channels = mult * model_channels
                if 2**level in attention_resolutions:
                    layers.append(transformer(channels))
                self.input_blocks.append(Stage(*layers))
                widths.append(channels)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(Stage(Downsample(channels)))
                widths.append(channels)

        self.middle_block = Stage(
            res(channels, channels), transformer(channels), res(channels, channels)
        )

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                layers = [res(channels + widths.pop(), mult * model_channels)]
                channels = mult * model_channels
                if 2**level in attention_resolutions:
                    layers.append(transformer(channels))
                if level > 0 and i == num_res_blocks:
                    layers.append(Upsample(channels))
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(
            GroupNorm(channels), nn.Identity(), conv3x3(channels, out_channels)
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        camera: Tensor,
        num_frames: int,
        image_features: Tensor | None = None,
        reference_latents: Tensor | None = None,
    ) -> Tensor:
        """The predicted noise [B * F, 4, h, w], of sample's dtype. Changes none of its inputs.

        Args:
            sample: [B * F, 4, h, w] noisy latents.
            timestep: [B * F], 0..999.
            encoder_hidden_states: [B * F, 77, context_dim] text.
            camera: [B * F, 16], see `conditioning.camera_rows`.
            image_features: [B * F, 257, 1280], needed by ImageDream only.
            reference_latents: [B, 4, h, w], shown to the network as each object's last frame.
        """
        text, camera = encoder_hidden_states.to(sample), camera.to(sample)
        image_features, reference_latents = (
            None if x is None else x.to(sample) for x in (image_features, reference_latents)
        )
        constants = self.prepare(text, camera, num_frames, image_features, reference_latents)
        return self.denoise(sample, timestep, constants)

    def prepare(
        self,
        encoder_hidden_states: Tensor,
        camera: Tensor,
        num_frames: int,
        image_features: Tensor | None = None,
        reference_latents: Tensor | None = None,
        ip_weight: float | None = None,
    ) -> Constants:
        """What doesn't change over the steps; arguments as in `forward`, all of the dtype to
        calculate in.

        Args:
            ip_weight: how much the picture counts; default as configured.
        """
        self._check(encoder_hidden_states, camera, num_frames, image_features, reference_latents)
        image_tokens = None if image_features is None else self.image_embed(image_features)
        weight = self.ip_weight if ip_weight is None else ip_weight
        return Constants(
            camera_emb=self.camera_embed(camera),
            cross=tuple(
                attention.read(encoder_hidden_states, image_tokens, weight)
                for attention in self.modules()  # registered in the order they run
                if isinstance(attention, CrossAttention)
            ),
            num_frames=num_frames,
            reference_latents=reference_latents,
        )

    def denoise(self, sample: Tensor, timestep: Tensor, constants: Constants) -> Tensor:
        """One step: the predicted noise [B * F, 4, h, w]."""
        frames = constants.num_frames
        self._check_sample(sample, timestep, constants)
        if constants.reference_latents is not None:
            reference = constants.reference_latents[:, None].to(sample)
            shown = torch.cat([sample.unflatten(0, (-1, frames))[:, :-1], reference], dim=1)
            sample = shown.flatten(0, 1)
        waves = timestep_embedding(timestep.to(sample.device), self.model_channels).to(sample)
        emb = self.time_embed(waves) + constants.camera_emb.to(sample)

        given = iter(constants.cross)
        x, skips = sample, []
        for block in self.input_blocks:
            x = block(x, emb, given, frames)
            skips.append(x)
        x = self.middle_block(x, emb, given, frames)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, given, frames)
        return self.out(x)

    def _check(
        self,
        text: Tensor,
        camera: Tensor,
        num_frames: int,
        image_features: Tensor | None,
        reference_latents: Tensor | None,
    ) -> None:
        rows = len(camera)
        if num_frames < 1 or rows % num_frames:
            raise ValueError(
                f"The multi-view U-Net needs whole objects of {num_frames} frames, got {rows} "
                "cameras: give one row per frame, object after object."
            )
        expected = {"camera": (camera, (rows, self.camera_dim))}
        expected["encoder_hidden_states"] = (text, (rows, text.shape[1], self.context_dim))
        if image_features is not None:
            expected["image_features"] = (
                image_features,
                (rows, image_features.shape[1], IMAGE_FEATURES),
            )
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"The multi-view U-Net needs {name} of shape {list(shape)}, got "
                    f"{list(tensor.shape)}."
                )
        if (image_features is not None) != (self.ip_dim > 0):
            raise ValueError(
                "This is ImageDream's U-Net, which needs image_features, but got none: encode a "
                "picture, or load MVDream to work from text alone."
                if self.ip_dim > 0
                else "This is MVDream's U-Net, which knows text only, but got image_features: load "
                "ImageDream to work from a picture."
            )
        if reference_latents is not None and len(reference_latents) != rows // num_frames:
            raise ValueError(
                f"The multi-view U-Net needs one reference latent for each of {rows // num_frames} "
                f"objects, got {len(reference_latents)}."
            )

    def _check_sample(self, sample: Tensor, timestep: Tensor, constants: Constants) -> None:
        rows, step = len(constants.camera_emb), self.size_multiple
        if sample.dim() != 4 or sample.shape[:2] != (rows, self.in_channels):
            raise ValueError(
                f"The multi-view U-Net needs latents [{rows}, {self.in_channels}, h, w], one per "
                f"camera, got {list(sample.shape)}."
            )
        if sample.shape[2] % step or sample.shape[3] % step or sample.numel() == 0:
            raise ValueError(
                f"The multi-view U-Net needs latents whose sides are multiples of {step}, got "
                f"{sample.shape[2]} x {sample.shape[3]}."
            )
        if tuple(timestep.shape) != (rows,):
            raise ValueError(
                f"The multi-view U-Net needs one timestep per frame, [{rows}], got "
                f"{list(timestep.shape)}."
            )
        reference = constants.reference_latents
        if reference is not None and reference.shape[1:] != sample.shape[1:]:
            raise ValueError(
                f"The reference latents must have the size of the sample's {list(sample.shape[1:])}"
                f", got {list(reference.shape[1:])}."
            )


def embedding(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        Linear(channels_in, channels_out), nn.SiLU(), Linear(channels_out, channels_out)
    )
