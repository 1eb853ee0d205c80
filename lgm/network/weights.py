"""Finding weights, and loading them strictly: safetensors only, memory-mapped, no weight
initialized twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .model import LGM
from .presets import PRESETS, preset_of

log = logging.getLogger(__name__)

BUNDLED = Path(__file__).parents[1] / "models"
HUB_REPOSITORY = "ashawkey/LGM"
RELEASED = {  # short name -> file name in HUB_REPOSITORY
    "lgm_fixrot_fp16": "model_fp16_fixrot.safetensors",
    "lgm_fixrot": "model_fixrot.safetensors",
    "lgm_legacy_fp16": "model_fp16.safetensors",
}
LEGACY_NAME = "model_fp16.safetensors"
LEGACY_BYTES = 830_126_160  # the fixed fp16 file has the same size, so the hash decides
LEGACY_SHA256 = "5a7ab3128a73dce6d2927d5c7c7ec79a7f7ca885fec960db86d991f272fe2e9d"
FIXED_NAME = RELEASED["lgm_fixrot_fp16"]
PICKLE_SIGNATURES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def model_folders(extra: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Where model files are looked for, in order: `extra`, LGM_MODELS_DIR, the bundled folder,
    ComfyUI's models/lgm.
    """
    from_environment = [
        Path(entry) for entry in os.environ.get("LGM_MODELS_DIR", "").split(os.pathsep) if entry
    ]
    pack = Path(__file__).resolve().parents[2]
    comfyui = [pack.parent.parent / "models" / "lgm"] if pack.parent.name == "custom_nodes" else []
    return [*map(Path, extra), *from_environment, BUNDLED, *comfyui]


def hub_snapshots(repository: str = HUB_REPOSITORY) -> list[Path]:
    """Folders of a repository in the Hugging Face cache, if one exists."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return sorted((cache / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*"))


def available_models(extra: Iterable[str | os.PathLike] = ()) -> dict[str, Path]:
    """Every LGM file found: name without suffix -> path, the first folder winning; `demo` first."""
    found: dict[str, Path] = {}
    for folder in [*model_folders(extra), *hub_snapshots()]:
        for path in sorted(folder.glob("*.safetensors")):
            found.setdefault(path.stem, path)
    return found


def find_model(name: str | os.PathLike, folders: Iterable[str | os.PathLike] = ()) -> Path:
    """The file called `name`: a path, a bundled or released short name, or a file name in a model
    folder.

    Raises:
        ValueError: there is no such file; the message says where it was looked for and what to put
        there.
    """
    path = Path(name)
    if path.is_file():
        return path
    file_name = RELEASED.get(str(name), str(name))
    if not file_name.endswith(".safetensors"):
        file_name += ".safetensors"
    searched = [*model_folders(folders), *hub_snapshots()]
    for folder in searched:
        if (folder / file_name).is_file():
            return folder / file_name
    if path.suffix and path.suffix != ".safetensors":
        raise ValueError(f"LGM weights must be a .safetensors file that exists, got {path}.")
    places = ", ".join(str(folder) for folder in model_folders(folders))
    raise ValueError(
        f"No LGM weights called {str(name)!r}: put {file_name} (from {HUB_REPOSITORY} on Hugging "
        "Face) into one of "
        f"{places}, or give a path."
    )


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
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Offset order: neighbors in the file are read together, and no tensor is read before
            # all are known.
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            model = _empty_model(path, shapes)
            # One tensor at a time: only the mapped file itself is ever in memory beside the result.
            state = {key: file.get_tensor(key).to(device, dtype) for key in shapes}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}): download it again and compare "
            "its size."
        ) from error
    except OSError as error:
        raise ValueError(
            f"{path} can't be read ({error.strerror or error}): check the file and its rights."
        ) from error
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


def refuse_pickle(path: Path) -> None:
    """Raise if the file starts like a pickle, which could run code; safetensors can't."""
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(PICKLE_SIGNATURES):
        raise ValueError(
            f"{path} must be a safetensors file but is a PyTorch pickle, which can run code when "
            "it is opened: "
            "get the .safetensors release of these weights."
        )


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


def check_layout(
    path: Path, model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raise ValueError unless a file with these shapes holds exactly the model's tensors."""
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    problems = (
        [f"{key} is missing" for key in expected.keys() - shapes.keys()]
        + [f"{key} is unknown" for key in shapes.keys() - expected.keys()]
        + [
            f"{key} is {list(shapes[key])} instead of {list(expected[key])}"
            for key in expected.keys() & shapes.keys()
            if shapes[key] != expected[key]
        ]
    )
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{path} must hold exactly the tensors of {what}, but "
            f"{'; '.join(sorted(problems)[:3])}{more}."
        )


def is_legacy(path: Path) -> bool:
    """Whether this is the release whose quaternions were normalized over the wrong axis, by name or
    by content.
    """
    if path.name == LEGACY_NAME:
        return True
    if path.stat().st_size != LEGACY_BYTES or path.name == FIXED_NAME:
        return False
    return sha256(path) == LEGACY_SHA256


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata block of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def save_model(model: LGM, path: Path, dtype: torch.dtype, metadata: dict[str, object]) -> None:
    """Write weights as `dtype`; the file appears whole or not at all."""
    from safetensors.torch import save

    from ..io.files import write_atomically

    state = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in model.state_dict().items()
    }
    write_atomically(path, save(state, {key: json.dumps(value) for key, value in metadata.items()}))
