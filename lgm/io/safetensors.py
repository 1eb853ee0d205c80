"""Safetensors files and the settings beside them; pickles, which could run code, are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import torch

PICKLE_SIGNATURES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
CONFIG = "config.json"
CLASS_NAMES = ("MultiViewUNetModel", "MultiViewUNet")  # the release's, and ours


def open_safetensors(path: Path):
    """The file, mapped to memory. Opening already finds a file that is cut short.

    Raises:
        ValueError: a pickle, damaged, incomplete, or not readable.
    """
    with reading(path):
        refuse_pickle(path)
        return safe_open(path, framework="pt", device="cpu")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """While a file is opened and read: what goes wrong says what to do.

    Raises:
        ValueError: damaged, incomplete, or not readable.
    """
    try:
        yield
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}): download it again and compare "
            "its size."
        ) from error
    except OSError as error:
        raise ValueError(
            f"{path} can't be read ({error.strerror or error}): check the file and its rights."
        ) from error


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


def read_config(folder: Path) -> dict[str, object]:
    """The U-Net's settings in a component folder, without diffusers' own entries.

    Raises:
        ValueError: no such file, not JSON, or the settings of another class.
    """
    path = folder / CONFIG
    config = read_json(path)
    found = config.get("_class_name", CLASS_NAMES[0])
    if found not in CLASS_NAMES:
        raise ValueError(
            f"{path} must describe a {CLASS_NAMES[0]} but describes a {found}: give the unet "
            "folder of MVDream or ImageDream."
        )
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} can't be read ({error.strerror or error}): download the folder again."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object: download it again.")
    return content
