"""MVDream and ImageDream as a diffusers pipeline: a prompt, or a picture, to four views.

Axes: N objects, F frames (4, or 5 with a picture), V = 4 views, h w latent pixels, S pixels.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel

from .components import (
    check_components,
    check_folder,
    check_scheduler,
    load_component,
    load_scheduler,
)
from .conditioning import (
    VIEW_ORDER,
    VIEWS,
    camera_rows,
    check_image,
    clip_pixels,
    latent_pixels,
    tokenize,
)
from .model import MultiViewUNet
from .sampling import (
    IMAGE_GUIDANCE,
    STEPS,
    TEXT_GUIDANCE,
    Conditions,
    OnStep,
    guess_clean,
    predict_noise,
    prepare,
    release,
)

SIZE = 256  # pixels
MAX_SEED = 2**64

Generators = torch.Generator | list[torch.Generator] | None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MultiViewOutput:
    views: Tensor  # [N, 4, 3, S, S] float32 0..1, on the device they were made on
    cut: tuple[str, ...]  # per prompt, the end that was too long to be read; "" where none was


class MultiViewPipeline(DiffusionPipeline):
    """Four views of an object from a prompt (MVDream) or from one picture (ImageDream).

    Which of the two is told by the U-Net. `scheduler` may be any scheduler of diffusers that works
    with predicted noise.
    """

    _optional_components = ["image_encoder"]  # noqa: RUF012 (diffusers' way)

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: MultiViewUNet,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: SchedulerMixin,
        image_encoder: CLIPVisionModel | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            image_encoder=image_encoder,
        )
        check_components(self)
        self.latent_factor = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels per latent
        self._offload_device: torch.device | None = None
        self._resident: tuple[str, list[Slot]] | None = None

    # Loading -------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> MultiViewPipeline:
        """The pipeline in a released folder on this machine. Its Python files are never run.

        Args:
            folder: with `unet`, `vae`, `text_encoder`, `tokenizer`, `scheduler`, and for ImageDream
                `image_encoder`.
            torch_dtype: default float16 on CUDA, else float32.
            device: where the components go; "cpu" to call `enable_model_cpu_offload` afterwards.

        Raises:
            ValueError: something is missing, damaged, or of another model.
        """
        device = torch.device(device)
        dtype = torch_dtype or (torch.float16 if device.type == "cuda" else torch.float32)
        folder = Path(folder)
        check_folder(folder)
        unet = MultiViewUNet.from_pretrained(folder, "unet", dtype, device)
        image_encoder = None
        if unet.ip_dim > 0:
            image_encoder = load_component(CLIPVisionModel, folder / "image_encoder", dtype, device)
        return cls(
            unet=unet,
            vae=load_component(AutoencoderKL, folder / "vae", dtype, device),
            text_encoder=load_component(CLIPTextModel, folder / "text_encoder", dtype, device),
            image_encoder=image_encoder,
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            scheduler=load_scheduler(folder / "scheduler"),
        )

    # Where the components are --------------------------------------------------------------------

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str = "cuda"
    ) -> None:
        """Keep the components on the CPU, and at most one at a time on `device` while it works."""
        self.to("cpu", silence_dtype_warnings=True)
        device = torch.device(device)
        self._offload_device = device if gpu_id is None else torch.device(device.type, gpu_id)

    @property
    def _execution_device(self) -> torch.device:
        return self._offload_device or next(self.unet.parameters()).device

    @contextmanager
    def on_device(self, name: str) -> Iterator[nn.Module]:
        """The component, where it can work. Whoever manages memory differently overrides this."""
        outer = self._resident
        try:
            self._make_resident(name)
            yield getattr(self, name)
        finally:
            self._make_resident(outer and outer[0])

    def _make_resident(self, name: str | None) -> None:
        """With offload: put back the component that is on the device, and bring this one."""
        if self._offload_device is None or name == (self._resident and self._resident[0]):
            return
        if self._resident is not None:
            # The weights at rest were kept: dropping the copies is faster than moving them back.
            left, slots = self._resident
            for store, key, tensor in slots:
                store[key] = tensor
            if left == "unet":
                release(self.unet)
            self._resident = None
        if name is not None:
            slots = _tensor_slots(getattr(self, name))
            self._resident = (name, slots)
            for store, key, tensor in slots:
                copy_there = tensor.data.to(self._offload_device)
                is_parameter = isinstance(tensor, nn.Parameter)
                store[key] = nn.Parameter(copy_there, False) if is_parameter else copy_there

    # The whole way -------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] = "",
        image: Tensor | None = None,
        *,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int = STEPS,
        guidance_scale: float | None = None,
        elevation: float = 0.0,
        azimuth: float = 0.0,
        size: int = SIZE,
        num_images: int = 1,
        seed: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        eta: float = 0.0,
        order: Literal["lgm", "model"] = "lgm",
        on_step: OnStep | None = None,
    ) -> MultiViewOutput:
        """Views of one object per prompt or picture, `num_images` times.

        Args:
            prompt: one, or one per object; may be empty with a picture.
            image: [3, S, S] or [N, 3, S, S] (or with alpha), the recentered object on white, 0..1;
                needed by ImageDream only.
            negative_prompt: what to stay away from; one, or one per prompt.
            guidance_scale: how strongly to follow the prompt; default 7.5 for text, 5 for pictures.
                At 1 or below it is off, which halves the work.
            elevation: of the cameras, degrees above the horizon.
            azimuth: of the first frame, degrees.
            size: side of the views, pixels; training saw 256.
            seed: object n draws its noise from a generator with seed + n, as the original does from
                the global one.
            generator: instead of a seed, one generator for all objects or a list of one for each.
            latents: [N, F, 4, h, w] standard normal, instead of drawing the initial noise.
            eta: 0 is deterministic DDIM, 1 is DDPM.
            order: `lgm` is azimuth 0, 90, 180, 270 of an object that looks at the first camera;
                `model` is the frames as they come.

        Raises:
            ValueError: arguments that don't fit each other or the model.
            RuntimeError: not enough memory for a single object, or NaN in half precision.
        """
        prompts, negatives, images = self._objects(prompt, negative_prompt, image, num_images)
        self._check_call(size, num_inference_steps, eta)
        generator = self._generators(seed, generator, len(prompts))
        guidance = guidance_scale
        if guidance is None:
            guidance = TEXT_GUIDANCE if images is None else IMAGE_GUIDANCE

        text, cut = self.encode_prompt(prompts)
        conditions = Conditions(
            text=text,
            # Without guidance nothing looks at the negative prompt.
            negative=self.encode_prompt(negatives)[0] if guidance > 1 else text,
            camera=camera_rows(elevation, azimuth, images is not None)
            .to(text)
            .expand(len(prompts), -1, -1),
            features=None if images is None else self.encode_features(images),
            reference=None if images is None else self.encode_latents(images, size, generator),
        )
        latents = self.initial_latents(conditions, size, generator, latents)
        latents = self.denoise(
            conditions, latents, num_inference_steps, guidance, eta, generator, on_step
        )
        views = self.decode(latents[:, VIEW_ORDER if order == "lgm" else slice(VIEWS)])
        if not views.isfinite().all():
            raise RuntimeError(
                f"The views need to be finite but hold NaN or infinity in {self._dtype}: load the "
                "pipeline with torch_dtype=torch.float32."
            )
        return MultiViewOutput(views, cut)

    def encode_prompt(self, prompts: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
        """Text [N, 77, C] for the U-Net, and of each prompt the end that was cut off."""
        unique = list(dict.fromkeys(prompts))
        tokens = tokenize(self.tokenizer, unique)
        with self.on_device("text_encoder") as encoder:
            hidden = encoder(tokens.ids.to(self._execution_device))[0].to(self._dtype)
        rows = [unique.index(prompt) for prompt in prompts]
        return hidden[rows], tuple(tokens.cut[row] for row in rows)

    def encode_features(self, images: Tensor) -> Tensor:
        """CLIP's view of the pictures [N, 3, S, S]: [N, 257, 1280], before its last layer."""
        with self.on_device("image_encoder") as encoder:
            pixels = clip_pixels(images).to(self._execution_device, encoder.dtype)
            hidden = encoder(pixels, output_hidden_states=True).hidden_states[-2]
        return hidden.to(self._dtype)

    def encode_latents(self, images: Tensor, size: int, generator: Generators = None) -> Tensor:
        """The VAE's view of the pictures, [N, 4, h, w]; a sample, for which noise is drawn."""
        with self.on_device("vae") as vae:
            pixels = latent_pixels(images, size).to(self._execution_device, vae.dtype)
            latents = vae.encode(pixels).latent_dist.sample(generator)
        return (latents * vae.config.scaling_factor).to(self._dtype)

    def initial_latents(
        self,
        conditions: Conditions,
        size: int,
        generator: Generators = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Standard normal noise [N, F, 4, h, w] float32."""
        side = size // self.latent_factor
        shape = (*conditions.camera.shape[:2], self.unet.in_channels, side, side)
        if noise is None:
            return randn_tensor(shape, generator, self._execution_device, torch.float32)
        if tuple(noise.shape) != shape:
            raise ValueError(f"The latents must be {list(shape)}, got {list(noise.shape)}.")
        return noise.to(self._execution_device, torch.float32)

    # Sampling ------------------------------------------------------------------------------------

    def denoise(
        self,
        conditions: Conditions,
        noise: Tensor,
        num_inference_steps: int = STEPS,
        guidance_scale: float = TEXT_GUIDANCE,
        eta: float = 0.0,
        generator: Generators = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Finished latents [N, F, 4, h, w] from standard normal noise. Where the GPU is too small
        for all objects together, they are done in parts, for which `on_step` starts again.
        """
        generators = [] if generator is None else generator
        generators = generators if isinstance(generators, list) else [generators]
        states = [g.get_state() for g in generators]
        options = (num_inference_steps, guidance_scale, eta)
        try:
            return self._denoise(conditions, noise, *options, generator, on_step)
        except torch.cuda.OutOfMemoryError as error:
            half = len(noise) // 2
            if half == 0:
                raise RuntimeError(
                    f"Sampling one object of {noise.shape[1]} frames needs more memory than "
                    f"{self._execution_device} has free: close other programs, call "
                    "enable_model_cpu_offload, or choose a smaller size."
                ) from error
        release(self.unet)  # graphs of earlier calls hold memory, too
        torch.cuda.empty_cache()
        log.warning("Not enough GPU memory for %d objects at once: in two parts.", len(noise))
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)
        parts = []
        for part in (slice(half), slice(half, None)):
            own = generator[part] if isinstance(generator, list) else generator
            parts.append(self.denoise(conditions[part], noise[part], *options, own, on_step))
        return torch.cat(parts)

    def _denoise(
        self,
        conditions: Conditions,
        noise: Tensor,
        num_inference_steps: int,
        guidance_scale: float,
        eta: float,
        generator: Generators,
        on_step: OnStep | None,
    ) -> Tensor:
        scheduler = self._schedule(num_inference_steps)
        options = {"eta": eta, "generator": generator}
        accepted = inspect.signature(scheduler.step).parameters
        options = {name: value for name, value in options.items() if name in accepted}
        latents = noise * scheduler.init_noise_sigma
        guided = guidance_scale > 1
        total = len(scheduler.timesteps)
        with self.on_device("unet") as unet, self.progress_bar(total=total) as bar:
            constants = prepare(unet, conditions, guided)
            for step, timestep in enumerate(scheduler.timesteps, start=1):
                scaled = scheduler.scale_model_input(latents, timestep)
                predicted = predict_noise(
                    unet, scaled.to(self._dtype), timestep, constants, guidance_scale, guided
                )
                latents = scheduler.step(predicted, timestep, latents, **options).prev_sample
                if on_step is not None:
                    guess = guess_clean(scheduler.alphas_cumprod, scaled, predicted, timestep)
                    on_step(step, total, guess[:, VIEW_ORDER])
                bar.update()
        return latents

    def _schedule(self, num_inference_steps: int) -> SchedulerMixin:
        """A scheduler of our own, as it keeps state while it runs."""
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(num_inference_steps)  # on the CPU, or every step would wait for it
        last = scheduler.config.num_train_timesteps - 1
        if scheduler.timesteps.max() > last:
            raise ValueError(
                f"{num_inference_steps} steps start beyond the last of training, {last}, with this "
                f"{type(scheduler).__name__}: take fewer."
            )
        return scheduler

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [N, V, 3, S, S] float32 0..1 of [N, V, 4, h, w]; one object at a time."""
        with self.on_device("vae") as vae:
            latents = latents.to(self._execution_device, vae.dtype) / vae.config.scaling_factor
            views = torch.stack([vae.decode(frames).sample.float() for frames in latents])
        return (views / 2 + 0.5).clamp(0, 1)

    # Arguments -----------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        """What the U-Net calculates in. Half precision has no fast kernels on the CPU."""
        stored = next(self.unet.parameters()).dtype
        on_cpu = self._execution_device.type == "cpu"
        return torch.float32 if on_cpu and stored == torch.float16 else stored

    def _objects(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str],
        image: Tensor | None,
        num_images: int,
    ) -> tuple[list[str], list[str], Tensor | None]:
        """One prompt, negative prompt and picture per object."""
        if (image is not None) != (self.unet.ip_dim > 0):
            raise ValueError(
                "This is ImageDream, which needs a picture: give one, or load MVDream to work from "
                "a prompt alone."
                if image is None
                else "This is MVDream, which works from a prompt alone: leave out the picture, or "
                "load ImageDream."
            )
        if num_images < 1:
            raise ValueError(f"num_images must be 1 or more, got {num_images}.")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt] if isinstance(negative_prompt, str) else [*negative_prompt]
        images = None if image is None else check_image(image)
        count = max(len(prompts), 1 if images is None else len(images))
        kinds = {"prompts": prompts, "negative prompts": negatives, "pictures": images}
        for name, given in kinds.items():
            if given is not None and len(given) not in (1, count):
                raise ValueError(f"{count} objects need {count} or 1 {name}, got {len(given)}.")
        rows = [row for row in range(count) for _ in range(num_images)]
        return (
            [prompts[row % len(prompts)] for row in rows],
            [negatives[row % len(negatives)] for row in rows],
            None if images is None else images[[row % len(images) for row in rows]],
        )

    def _check_call(self, size: int, steps: int, eta: float) -> None:
        multiple = self.latent_factor * self.unet.size_multiple
        if size < multiple or size % multiple:
            below = max(multiple, size // multiple * multiple)
            raise ValueError(
                f"The views' size must be a multiple of {multiple} pixels, got {size}: try {below} "
                f"or {below + multiple}."
            )
        last = self.scheduler.config.num_train_timesteps
        if not 1 <= steps <= last:
            raise ValueError(f"Sampling needs 1 to {last} steps, got {steps}.")
        if eta and "eta" not in inspect.signature(self.scheduler.step).parameters:
            raise ValueError(
                f"eta works with DDIM, but the scheduler is {type(self.scheduler).__name__}: leave "
                "eta at 0, or change the scheduler."
            )
        check_scheduler(self.scheduler)

    def _generators(self, seed: int | None, generator: Generators, count: int) -> Generators:
        if seed is not None and generator is not None:
            raise ValueError("Noise needs either a seed or generators, got both: leave one out.")
        if isinstance(generator, list | tuple) and len(generator) != count:
            raise ValueError(
                f"{count} objects need {count} generators, or one that is not in a list, got "
                f"{len(generator)}."
            )
        if seed is None:
            return list(generator) if isinstance(generator, tuple) else generator
        return [
            torch.Generator(self._execution_device).manual_seed((seed + n) % MAX_SEED)
            for n in range(count)
        ]


Slot = tuple[dict[str, Tensor | None], str, Tensor]  # where a module keeps a tensor, and the tensor


def _tensor_slots(module: nn.Module) -> list[Slot]:
    return [
        (store, key, tensor)
        for part in module.modules()
        for store in (part._parameters, part._buffers)
        for key, tensor in store.items()
        if tensor is not None
    ]
