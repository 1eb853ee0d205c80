"""Loading weights strictly: safetensors only, memory-mapped, no weight initialized twice."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open

from ..io.safetensors import check_layout, reading, refuse_pickle, sha256
from ..releases.catalog import FIXED_NAME
from ..releases.places import find_model
from .model import LGM
from .presets import PRESETS, preset_of

log = logging.getLogger(__name__)

LEGACY_NAME = "model_fp16.safetensors"
LEGACY_BYTES = 830_126_160  # the fixed fp16 file has the same size, so the hash decides
LEGACY_SHA256 = "5a7ab3128a73dce6d2927d5c7c7ec79a7f7ca885fec960db86d991f272fe2e9d"


def load_model(
    path_or_name: str | os.PathLike = "demo",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    folders: Iterable[str | os.PathLike] = (),
) -> LGM:
    """The network with the weights of a file, in evaluation mode.

    Args:
        path_or_name: see `find_model`.
        device: where the weights go.
        dtype: what they are stored in; default as in the file. Half-precision weights calculate in
            fp32 on the CPU.
        folders: searched before the standard ones.

    Raises:
        ValueError: not a safetensors file, damaged, or not exactly one preset's tensors; names the
        file and tensor.
    """
    path = find_model(path_or_name, folders)
    refuse_pickle(path)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "Device cuda needs an NVIDIA GPU, and torch finds none: use device='cpu'."
        )
    with reading(path), safe_open(path, framework="pt", device="cpu") as file:
        # Offset order: neighbors in the file are read together, and no tensor is read before
        # all are known.
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        model = _empty_model(path, shapes)
        # One tensor at a time: only the mapped file itself is ever in memory beside the result.
        state = {key: file.get_tensor(key).to(device, dtype) for key in shapes}
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise ValueError(
                f"{path}: tensor {key} must hold floating-point weights, got {tensor.dtype}."
            )
        if not tensor.isfinite().all():
            raise ValueError(
                f"{path}: tensor {key} holds NaN or infinite values: download the file again, or "
                "take an earlier checkpoint."
            )
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(False).eval()
    model.identity_rotations = is_legacy(path)
    if model.identity_rotations:
        log.warning(
            "%s is the legacy LGM release: rotations are ignored; %s is better.",
            path.name,
            FIXED_NAME,
        )
    if torch.device(device).type == "cuda":
        model.to(memory_format=torch.channels_last)
    return model


def _empty_model(path: Path, shapes: dict[str, tuple[int, ...]]) -> LGM:
    """A model on the meta device whose layout is exactly that of `shapes`."""
    try:
        name = preset_of(shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with torch.device("meta"):
        model = LGM(PRESETS[name])
    check_layout(path, model, shapes, f"LGM {name!r}")
    return model


def is_legacy(path: Path) -> bool:
    """Whether this is the release whose quaternions were normalized over the wrong axis, by name or
    by content.
    """
    if path.name == LEGACY_NAME:
        return True
    if path.stat().st_size != LEGACY_BYTES or path.name == FIXED_NAME:
        return False
    return sha256(path) == LEGACY_SHA256


def save_model(model: LGM, path: Path, dtype: torch.dtype, metadata: dict[str, object]) -> None:
    """Write weights as `dtype`; the file appears whole or not at all."""
    from safetensors.torch import save

    from ..io.files import write_atomically

    state = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in model.state_dict().items()
    }
    write_atomically(path, save(state, {key: json.dumps(value) for key, value in metadata.items()}))
