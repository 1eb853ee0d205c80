"""What four views, and the splat of them, will look like, shown while they are sampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..lgm.cameras import input_poses, orbit_poses
from ..lgm.multiview.conditioning import VIEWS
from .border import host
from .border.models import BYTES_PER_PIXEL
from .border.splats import LGMModel
from .multiview_conditioning import CAMERAS

CHOICES = ("both", "views", "splat")
SHEET = 512  # pixels, the side of the 2x2 picture and of the splat's
FAINTEST = 0.005  # opacity of a Gaussian that is drawn
HEIGHT = 11  # in a camera's row: how high it stands, at distance 1
WRAPPER = "lgm_sampling_preview"

# Whatever goes wrong in a preview; not the user's Cancel, which is an exception of its own.
FAILURES = (
    *(ArithmeticError, AttributeError, ImportError, LookupError, MemoryError),
    *(OSError, RuntimeError, TypeError, ValueError),
)


class SamplingPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_SamplingPreview",
            display_name="Multi-View Sampling Preview",
            category=host.CATEGORY,
            description="Shows on KSampler, while it works, all four views of the first object as "
            "they are by then and the splat they would make. The result stays the same.",
            search_aliases=["live preview", "mvdream preview", "splat preview", "sampler preview"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Multi-View Model, after its LoRAs."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the views; a TAESD is much faster than the full VAE. Without "
                    "one the views are small and rough, and there is no splat.",
                ),
                LGMModel.Input(
                    "lgm_model",
                    optional=True,
                    tooltip="From Load LGM Model: makes the splat. The 'demo' model is the "
                    "fastest. Needs a VAE.",
                ),
                io.Int.Input(
                    "every_n",
                    default=1,
                    min=1,
                    max=50,
                    tooltip="A new picture every so many steps. Higher samples faster, since each "
                    "picture takes its time.",
                ),
                io.Combo.Input(
                    "show",
                    options=list(CHOICES),
                    default=CHOICES[0],
                    tooltip="'views': the four views in a square, front and left above back and "
                    "right. 'splat': the splat. 'both': side by side.",
                ),
                io.Float.Input(
                    "yaw",
                    default=30.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    advanced=True,
                    tooltip="From where the splat is seen, in degrees: 0 = the front, 90 = the "
                    "object's own left.",
                ),
                io.Float.Input(
                    "pitch",
                    default=15.0,
                    min=-89.0,
                    max=89.0,
                    step=1.0,
                    advanced=True,
                    tooltip="How high it is seen from, in degrees; positive = from above.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="As before, for KSampler.")],
        )

    @classmethod
    def execute(cls, model, every_n, show, yaw, pitch, vae=None, lgm_model=None) -> io.NodeOutput:
        from comfy.patcher_extension import WrappersMP  # not in the tests' stand-in

        if (lgm_model is not None or show == "splat") and vae is None:
            raise ValueError(
                "A preview of the splat needs a VAE to decode the views, got none: connect one, or "
                "show the views alone, without an LGM model."
            )
        if show == "splat" and lgm_model is None:
            raise ValueError(
                "A preview of the splat needs an LGM model, got none: connect Load LGM Model, or "
                "show the views."
            )
        painter = Painter(vae, None if show == "views" else lgm_model, show, yaw, pitch)
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, WRAPPER, watched(painter, every_n))
        return io.NodeOutput(patched)


def watched(painter: Painter, every_n: int) -> Callable:
    """A wrapper of core's sampling that shows the painter's pictures, after core's own preview."""

    def outer_sample(
        executor, noise, latent_image, sampler, sigmas, mask=None, callback=None, *rest, **named
    ):
        guider = executor.class_obj
        bar, painted, broken = None, None, False

        def after_step(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            nonlocal bar, painted, broken
            if callback is not None:
                callback(step, x0, x, total)
            if broken:
                return
            if painted is None or (step + 1) % every_n == 0 or step + 1 == total:
                try:
                    painted = painter.paint(guider, x0, first=painted is None)
                except FAILURES as error:
                    host.log.warning("The sampling preview is off, since it failed: %s", error)
                    broken = True
                    return
            bar = bar or comfy.utils.ProgressBar(total)
            # In between the same again, or core's own preview would take its place.
            bar.update_absolute(step + 1, total, ("JPEG", painted, max(painted.size)))

        return executor(noise, latent_image, sampler, sigmas, mask, after_step, *rest, **named)

    return outer_sample


@dataclass(frozen=True)
class Painter:
    vae: Any
    lgm_model: Any
    show: str
    yaw: float  # degrees
    pitch: float  # degrees

    def paint(self, guider, x0: Tensor, first: bool) -> Image.Image:
        """What the sampler's guess shows.

        Args:
            guider: core's, which holds the model and the conditioning.
            x0: [4 B, 4, h, w], the latents it expects at the end.
            first: of this sampling, so that the networks must be loaded.
        """
        if x0.dim() != 4 or len(x0) < VIEWS:
            raise ValueError(f"it needs {VIEWS} latents of an object, got {list(x0.shape)}")
        model = guider.model_patcher.model
        latents = x0[:VIEWS].float()
        if self.vae is None:
            return sheet(rough_views(model.latent_format, latents))
        latents = model.process_latent_out(latents)
        if first:
            self.load(latents)
        views = decoded(self.vae, latents)
        if self.lgm_model is None:
            return sheet(views)
        splat = self.splat(views, elevation_of(guider))
        if self.show == "splat":
            return host.to_pil(splat)
        both = Image.new("RGB", (2 * SHEET, SHEET))
        both.paste(sheet(views), (0, 0))
        both.paste(host.to_pil(splat), (SHEET, 0))
        return both

    def load(self, latents: Tensor) -> None:
        """The networks beside those that are sampling, which core might put away else."""
        management = host.management
        needed = self.vae.memory_used_decode(latents.shape, self.vae.vae_dtype)
        patchers = [self.vae.patcher]
        if self.lgm_model is not None:
            network = self.lgm_model.model
            itemsize = network.compute_dtype(self.lgm_model.load_device).itemsize
            needed = max(needed, network.preset.input_size**2 * BYTES_PER_PIXEL * itemsize)
            patchers.append(self.lgm_model)
        in_use = management.loaded_models(only_currently_used=True)
        management.load_models_gpu([*in_use, *patchers], memory_required=needed)

    def splat(self, views: Tensor, elevation: float) -> Tensor:
        """A picture [3, SHEET, SHEET] of the Gaussians these views [4, 3, H, W] make."""
        from ..lgm.render.turntable import draw

        network, device = self.lgm_model.model, self.lgm_model.load_device
        views = views.to(device)
        gaussians = network.reconstruct(views, input_poses(elevation), device=device, rounds=0)
        pose = orbit_poses([self.yaw], self.pitch)
        # The torch renderer needs no getting ready.
        picture = next(draw(gaussians.visible(FAINTEST), pose, SHEET // 2, backend="torch"))
        return F.interpolate(picture[None], size=(SHEET, SHEET), mode="bilinear")[0]


def rough_views(latent_format, latents: Tensor) -> Tensor:
    """Pictures [4, 3, h, w] by one linear map of the latents' channels."""
    factors = latents.new_tensor(latent_format.latent_rgb_factors)
    bias = latents.new_tensor(latent_format.latent_rgb_factors_bias or [0.0] * 3)
    colors = torch.einsum("vchw,ck->vkhw", latents, factors) + bias[:, None, None]
    return colors / 2 + 0.5


def decoded(vae, latents: Tensor) -> Tensor:
    """Pictures [4, 3, H, W]. Core's own way would make room by putting the sampling model away."""
    pixels = vae.first_stage_model.decode(latents.to(vae.device, vae.vae_dtype))
    return vae.process_output(pixels.float().clone())


def elevation_of(guider) -> float:
    """Of the cameras that the conditioning tells, degrees; 0 when it tells none."""
    conditions = getattr(guider, "conds", None) or {}
    for entry in conditions.get("positive") or []:
        if (cameras := entry.get(CAMERAS)) is not None:
            return math.degrees(math.asin(max(-1.0, min(1.0, float(cameras[0, HEIGHT])))))
    return 0.0


def sheet(views: Tensor) -> Image.Image:
    """Front and left above back and right."""
    from ..lgm.pictures.encode import contact_sheet

    resized = F.interpolate(views.float(), size=(SHEET // 2, SHEET // 2), mode="bilinear")
    return host.to_pil(contact_sheet(resized, columns=2))
