"""LGM: four posed views to 3D Gaussians (Tang et al. 2024)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, autocast, nn

from ..cameras import FOVY, tan_half
from ..gaussians import Gaussians, decode
from ..layers.basic import Conv2d
from ..machine.constants import constant
from ..machine.optional import uses_triton
from .correction import correction_inputs
from .fit import STEPS, fit_to_pictures
from .hull import Guide, decode_hull, guide_inputs, key_white, pole_pictures, visual_hull
from .inputs import (
    Views,
    _batched_poses,
    _batched_views,
    _normalized,
    _resize,
    framing,
    in_scaled_world,
    seen_pictures,
)
from .presets import MAX_VIEWS, OUTPUT_CHANNELS, ROUNDS, VIEW_COUNT, Preset
from .unet import UNet
from .views import cameras_from_rays

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runner:
    """How training runs the layers of an LGM: see `run_by`."""

    features: Callable[[Tensor], Tensor]
    corrections: Callable[[Tensor], Tensor]


def run_by(model: LGM, runner: Runner) -> None:
    """Let `LGM.features` and `LGM.corrections` call these from now on."""
    model.runner = runner


class LGM(nn.Module):
    """The network. Its state dict has exactly the keys and shapes of the released files."""

    def __init__(self, preset: Preset):
        super().__init__()
        self.preset = preset
        self.unet = UNet(preset)
        self.conv = Conv2d(OUTPUT_CHANNELS, OUTPUT_CHANNELS, kernel_size=1)
        self.corrector = UNet(preset.corrector) if preset.corrector else None
        self.identity_rotations = False
        """The legacy weights learned quaternions of almost no length, drawn as no rotation at all.
        """

        self.runner: Runner | None = None
        """Who calculates the layers; None: this model itself. Training sets it by `run_by`."""
        self.precision: torch.dtype | None = None
        """What the layers calculate in; None: what their weights are stored in."""
        self.fast = True
        """On CUDA with Triton, run as a CUDA graph (`fast_unet`): several times faster, but seconds
        to get ready, memory that stays taken, and all weights on the GPU. Not worth it for a
        single object.
        """

    def compute_dtype(self, device: torch.device) -> torch.dtype:
        """What the layers calculate in on `device`. Half precision has no fast kernels on the CPU:
        weights stay small, math is fp32.
        """
        dtype = self.precision or self.conv.weight.dtype
        return torch.float32 if device.type == "cpu" and dtype == torch.float16 else dtype

    def features(self, x: Tensor) -> Tensor:
        """Raw channels before activation, float32 [B, 4, 14, h, w], from [B, 4, C, S, S]."""
        if self.runner is not None:
            return self.runner.features(x)
        batch, x = x.shape[:2], x.flatten(0, 1)  # B, V
        dtype = self.compute_dtype(x.device)
        weight = self.conv.weight
        if self.fast and x.is_cuda and dtype == weight.dtype and uses_triton(weight):
            from . import fast_unet  # imports Triton

            if batch[1] == self.preset.map_count and fast_unet.can_run(self, x):
                return fast_unet.features(self, x).unflatten(0, batch)
        x = x.to(dtype, memory_format=torch.channels_last)
        return self.conv(self.unet(x, batch[1])).float().unflatten(0, batch)

    def corrections(self, x: Tensor) -> Tensor:
        """What to add to `features`, float32 [B, V, 14, h, w], from [B, V, C, h, w]."""
        if self.runner is not None:
            return self.runner.corrections(x)
        dtype = self.compute_dtype(x.device)
        flat = x.flatten(0, 1).to(dtype, memory_format=torch.channels_last)
        return self.corrector(flat, x.shape[1]).float().unflatten(0, x.shape[:2])

    def forward(
        self,
        inputs: Tensor,
        alphas: Tensor | None = None,
        uncorrected: Tensor | None = None,
        rounds: int = 1,
    ) -> Gaussians:
        """Gaussians of B objects, as they are trained.

        Args:
            inputs: [B, 4, 9, S, S] float32: normalized RGB on white, ray moment, ray direction
                (`prepare`).
            alphas: [B, 4, 1, S, S], silhouettes. Only hull decoding looks at them; without them,
                what isn't white is object.
            uncorrected: [B] bool, objects that a corrector leaves as drafts; default: none.
            rounds: correction rounds. The last alone has gradients: what came before is given,
                as the first network's output is given to the first.

        Returns:
            B x (4 * h * w) Gaussians, index n = view * h * w + row * w + column.
        """
        x, guide = self._guided(inputs, alphas)
        features = self.features(x)
        rounds = rounds if self.corrector is not None else 0
        for number in range(1, rounds + 1):
            assert guide is not None  # correctors are of hull presets only
            with torch.set_grad_enabled(torch.is_grad_enabled() and number == rounds):
                change = self.corrections(correction_inputs(features, guide, inputs.shape[1]))
                if uncorrected is not None:
                    change = change * ~uncorrected[:, None, None, None, None]
            features = features + change
        return self._decode(features, guide)

    def _guided(self, inputs: Tensor, alphas: Tensor | None) -> tuple[Tensor, Guide | None]:
        """What the U-Net reads, and what its output is relative to."""
        if self.preset.decoding != "hull":
            return inputs, None
        return self._with_guide(inputs, *self.guide(inputs, alphas))

    def _guided_views(self, views: Views) -> tuple[Tensor, Guide | None]:
        """As `_guided`, of views whose cameras are known."""
        inputs = views.inputs()
        if self.preset.decoding != "hull":
            return inputs, None
        slopes = inputs.new_full(inputs.shape[:2], tan_half(views.fovy))
        return self._with_guide(inputs, *self._hull(views.images, views.alphas, views.c2w, slopes))

    def _with_guide(self, inputs: Tensor, guide: Guide, extra: Tensor) -> tuple[Tensor, Guide]:
        """The inputs with the guide's channels, and with the views from the poles."""
        if self.preset.poles:
            pictures, rays = pole_pictures(guide, inputs.shape[1], inputs.shape[-1])
            inputs = torch.cat([inputs, torch.cat([_normalized(pictures), rays], dim=2)], dim=1)
        return torch.cat([inputs, extra], dim=2), guide

    def _decode(self, features: Tensor, guide: Guide | None) -> Gaussians:
        if guide is not None:
            return decode_hull(features, guide)
        gaussians = decode(
            features.permute(0, 1, 3, 4, 2).reshape(len(features), -1, OUTPUT_CHANNELS)
        )
        if self.identity_rotations:
            gaussians.rotations.copy_(constant((1, 0, 0, 0), gaussians.rotations))
        return gaussians

    def guide(self, inputs: Tensor, alphas: Tensor | None = None) -> tuple[Guide, Tensor]:
        """The visual hull these inputs imply, and its channels [B, 4, HULL_CHANNELS, S, S] for the
        network.
        """
        with autocast(inputs.device.type, enabled=False):
            return self._hull(seen_pictures(inputs), alphas, *cameras_from_rays(inputs[:, :, 3:]))

    def _hull(
        self, images: Tensor, alphas: Tensor | None, c2w: Tensor, slopes: Tensor
    ) -> tuple[Guide, Tensor]:
        """As `guide`, of images on white, cameras, and tan(fovy / 2) [B, V]."""
        alphas = key_white(images) if alphas is None else alphas
        levels = len(self.preset.down_channels) - len(self.preset.up_channels)
        pool = (1, 2**levels, 2**levels)
        pooled = F.avg_pool3d(images, pool), F.avg_pool3d(alphas, pool)
        guide = visual_hull(*pooled, c2w, slopes, self.preset.poles)
        return guide, guide_inputs(guide, alphas)

    @torch.inference_mode()
    def reconstruct(
        self,
        views: Tensor | Views,
        c2w: Tensor | None = None,
        size: int | None = None,
        fovy: float = FOVY,
        device: torch.device | None = None,
        rounds: int = ROUNDS,
    ) -> Gaussians:
        """Gaussians of one or more objects from pictures of any size.

        Where half precision overflows, the calculation is repeated in float32, and stays there.

        Args:
            views: [4, 3, H, W] or [B, 4, 3, H, W], 0..1, on white, at azimuth 0, 90, 180, 270; or
                with a fourth channel, straight color plus alpha, which is composited on white here.
                With cameras, also 1 to 8 views, going around the object; training saw four.
                Or what `prepare` made of them, with which c2w, size and fovy went.
            c2w: [4, 4, 4] or [B, 4, 4, 4] cameras of the views; default: elevation 0.
                They may stand 1.05 to 100 from the origin; the splat is as large as they say.
            size: side the views are resized to; default the preset's input size. `demo` also works
                at 128.
            fovy: full vertical angle of the cameras, degrees, 2 to 100. Training saw the default at
                distance 1.5 only; in other pictures the object should fill as much of the frame.
            device: where to calculate; default: where the weights are.
            rounds: correction rounds; 0 is fastest. Without one: of no effect.

        Raises:
            ValueError: views or cameras of another shape, or not finite; cameras too near, too far,
                too narrow or too wide; fewer than no rounds.
            RuntimeError: the network gave NaN or infinity even in float32.
        """
        if rounds < 0:
            raise ValueError(f"Corrections need 0 rounds or more, got {rounds}.")
        if not isinstance(views, Views):
            views = torch.as_tensor(views, device=device or self.conv.weight.device)
            views = self.prepare(views, c2w, size, fovy)
        x, guide = self._guided_views(views)
        features = self._finite(self.features, x)
        for _ in range(rounds if self.corrector is not None else 0):
            assert guide is not None  # correctors are of hull presets only
            seen = correction_inputs(features, guide, views.images.shape[1], views.fovy)
            features = features + self._finite(self.corrections, seen)
        return self._decode(features, guide).scaled(1 / views.scale)

    def fit(
        self,
        gaussians: Gaussians,
        views: Tensor | Views,
        c2w: Tensor | None = None,
        size: int | None = None,
        fovy: float = FOVY,
        steps: int = STEPS,
        progress: Callable[[float], None] | None = None,
    ) -> Gaussians:
        """What `reconstruct` made of these views, moved closer to them in `steps` steps: sharper,
        and better from sides that no view shows where the views agree on one object; where they
        don't, worse. Not part of LGM as published.

        Args:
            gaussians: of as many objects as the views show; it happens on their device.
            views, c2w, size, fovy: as for `reconstruct`.
            steps, progress: see `lgm.network.fit.fit_to_pictures`.

        Raises:
            ValueError: as `reconstruct`, or other objects than the views show.
        """
        if not steps:
            return gaussians
        if not isinstance(views, Views):
            views = torch.as_tensor(views, device=gaussians.device)
            views = self.prepare(views, c2w, size, fovy)
        objects = len(views.images)
        if objects != gaussians.batch_size:
            raise ValueError(
                f"Fitting needs the views of each of {gaussians.batch_size} splats, got views of "
                f"{objects} objects."
            )
        fitted = fit_to_pictures(
            gaussians.scaled(views.scale), views.images, views.alphas, views.c2w, views.fovy, steps,
            progress=progress,
        )  # fmt: skip
        return fitted.scaled(1 / views.scale)

    def _finite(self, layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`layers(x)`, in float32 if the chosen precision overflows (GTX 16xx cards do, LGM#92)."""
        output, dtype = layers(x), self.compute_dtype(x.device)
        if output.isfinite().all():
            return output
        if dtype == torch.float32:
            raise RuntimeError(
                "The network needs to give finite numbers but gave NaN or infinity in float32 on "
                f"{x.device}: try the CPU, or load the weights again."
            )
        log.warning("LGM gave NaN or infinity in %s on %s: using float32.", dtype, x.device)
        self.precision = torch.float32
        return self._finite(layers, x)

    def prepare(
        self,
        views: Tensor,
        c2w: Tensor | None = None,
        size: int | None = None,
        fovy: float = FOVY,
    ) -> Views:
        """What the network is given of these views; arguments and errors as of `reconstruct`."""
        views = _batched_views(views, MAX_VIEWS if c2w is not None else VIEW_COUNT)
        size = size or self.preset.input_size
        step = 2 ** (len(self.preset.down_channels) - 1)
        if not isinstance(size, int) or size % step or size < 2 * step:
            raise ValueError(
                f"The network's input side must be a multiple of {step}, at least {2 * step}; "
                f"got {size}."
            )
        alphas = None
        if views.shape[2] == 4:
            colors, alphas = views.split((3, 1), dim=2)
            views = torch.cat([colors * alphas + (1 - alphas), alphas], dim=2)
        views = _resize(views, size)
        if alphas is not None:
            views, alphas = views.split((3, 1), dim=2)
        poses = _batched_poses(c2w, views)
        scale = framing(poses, fovy)
        return Views(views, alphas, in_scaled_world(poses, scale), fovy, scale)
