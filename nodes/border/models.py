"""Choices and loading that the model nodes share."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management as management
import torch

from ...lgm.network.model import LGM
from . import host

SAY, DOWNLOAD = "say so", "download"
DTYPES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Bytes beside the weights for one object, per pixel of its four input pictures and byte of the
# compute type: the highest of all presets. `benchmarks/memory.py` measured 2600 for big; demo with
# its six views takes 2579 in fp32, counted on a CPU, and about 2950 in fp16: inputs stay float32.
BYTES_PER_PIXEL = 3000


def fetch(node: type, name: str, what: str, place: Path) -> Path:
    """Download a release into `place`, shown on the node, until Cancel."""
    from ...lgm.releases.download import download

    host.say(node, f"downloading {what}, to {place}")
    with host.Stages(1).stage() as show:

        def on_bytes(here: int, total: int) -> None:
            host.check_cancelled()
            show(here / total)

        return download(name, place, on_bytes)


def load_to_device(patcher, size: int) -> LGM:
    """The network ready to run on `patcher.load_device` for one object with `size` px views."""
    network: LGM = patcher.model
    itemsize = network.compute_dtype(patcher.load_device).itemsize
    management.load_models_gpu([patcher], memory_required=size**2 * BYTES_PER_PIXEL * itemsize)
    return network


def dtype_name(dtype: torch.dtype) -> str:
    return next(name for name, value in DTYPES.items() if value == dtype)
