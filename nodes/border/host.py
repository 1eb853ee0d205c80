"""The one place that talks to the running ComfyUI: devices, progress, cancel, messages, folders."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from PIL import Image
from torch import Tensor

from ...lgm.machine import interrupt

CATEGORY = "3d/LGM"
MODELS = "lgm"  # key in folder_paths; also in extra_model_paths.yaml
PREVIEW_SIDE = 512  # pixels, at most, of a picture shown while a node works
PREVIEW_SECONDS = 0.25  # between two such pictures: each costs the page a download

log = logging.getLogger(__name__)

check_cancelled = management.throw_exception_if_processing_interrupted
"""Raises ComfyUI's InterruptProcessingException once the user has pressed Cancel."""


def cancellable() -> AbstractContextManager[None]:
    """While it is open, long work of the library ends once the user has pressed Cancel."""
    return interrupt.working(check_cancelled)


def register_model_folder() -> None:
    """Make `models/lgm` known; extra_model_paths.yaml may have added more folders already."""
    default = Path(folder_paths.models_dir) / MODELS
    folder_paths.add_model_folder_path(MODELS, str(default), is_default=True)


def model_files() -> list[str]:
    """Names of the safetensors files in the model folders, as ComfyUI lists them."""
    return [n for n in folder_paths.get_filename_list(MODELS) if n.endswith(".safetensors")]


def model_path(name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise(MODELS, name))


def outgoing(tensor: Tensor) -> Tensor:
    """The tensor where, and as what, ComfyUI keeps what runs between nodes."""
    return tensor.to(management.intermediate_device(), management.intermediate_dtype())


def say(node: type[Any], text: str) -> None:
    """One line of text on the node in the page, and in the log."""
    from server import PromptServer  # the server's own module: not importable before it runs

    log.info("%s: %s", node.__name__.removesuffix("Clone"), text)  # ComfyUI runs copies
    unique_id = node.hidden.unique_id if node.hidden else None
    server = getattr(PromptServer, "instance", None)
    if server is not None and unique_id is not None:
        server.send_progress_text(text, unique_id)


class Progress:
    """The bar of the node that is running. Every step asks whether the user has cancelled."""

    def __init__(self, total: int):
        self._bar = comfy.utils.ProgressBar(total)
        self._done = 0
        self._shown = -PREVIEW_SECONDS

    def step(self, preview: Tensor | None = None) -> None:
        """One step done; `preview` [3, H, W], 0..1, is shown on the node."""
        check_cancelled()
        self._done += 1
        image = None
        if preview is not None and time.monotonic() - self._shown >= PREVIEW_SECONDS:
            image = ("JPEG", to_pil(preview), PREVIEW_SIDE)
            self._shown = time.monotonic()
        self._bar.update_absolute(self._done, preview=image)

    def over(self, items: Iterable) -> Iterator:
        for item in items:
            yield item
            self.step()


class Stages:
    """The bar of a node whose work comes in stages that tell how far they are."""

    PARTS = 100

    def __init__(self, count: int):
        self._bar = comfy.utils.ProgressBar(count * self.PARTS)
        self._begun = 0

    @contextmanager
    def stage(self) -> Iterator[interrupt.Progress]:
        """The next stage: work of the library in it moves the bar, and ends when the user cancels.
        Gives what moves the bar, for other work.
        """
        start = self._begun * self.PARTS
        self._begun += 1
        self._bar.update_absolute(start)

        def show(part: float) -> None:
            self._bar.update_absolute(start + int(part * self.PARTS))

        with interrupt.working(check_cancelled, show):
            yield show
        self._bar.update_absolute(start + self.PARTS)


def to_pil(picture: Tensor) -> Image.Image:
    """8-bit picture of [3, H, W]."""
    pixels = picture.detach().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
