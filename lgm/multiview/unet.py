"""The multi-view diffusion U-Net of MVDream (Shi et al. 2023) and ImageDream (Wang and Shi 2023),
in reading order: Stable Diffusion 2.1's, with self-attention over all views of an object at once, a
camera added to the time step, and, for ImageDream, a picture's tokens beside the text's.

Axes: B objects, F frames (4 views; ImageDream has a fifth that holds the given picture), C
channels, h w latent pixels, T tokens. Objects and frames share the first axis, row = b * F + f.
Attribute names are the released checkpoints' keys. Layers calculate in the precision of their
input, wherever and in whatever their weights are stored (see `lgm.network.unet`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.basic import GroupNorm, conv3x3
from .blocks import (
    CrossAttention,
    CrossInput,
    Downsample,
    ResBlock,
    Transformer,
    Upsample,
    embedding,
    timestep_embedding,
)
from .resampler import IMAGE_FEATURES, Resampler


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
