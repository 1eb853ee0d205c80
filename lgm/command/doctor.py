"""What works on this machine, and why the rest doesn't."""

from __future__ import annotations

import argparse
import importlib.util
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__, render
from ..releases.catalog import HUB_REPOSITORY, RELEASED, RELEASES
from ..releases.places import (
    available_folders,
    available_models,
    find_folder,
    model_folders,
    own_folder,
    reads_pictures,
    search_places,
)

OPTIONAL = {  # import name -> distribution, what it is for
    "numba": ("numba", "fast rendering on the CPU"),
    "gsplat": ("gsplat", "fast rendering on NVIDIA GPUs"),
    "triton": ("triton", "fused kernels on NVIDIA GPUs"),
    "huggingface_hub": ("huggingface_hub", "downloading released models"),
    "diffusers": ("diffusers", "text or one picture to four views"),
    "transformers": ("transformers", "text or one picture to four views"),
    "rembg": ("rembg", "background removal"),
    "accelerate": ("accelerate", "training on several devices"),
    "nvdiffrast": ("nvdiffrast", "refining meshes on NVIDIA GPUs"),
    "gaussforge": ("gaussforge", "more splat formats"),
}


def add_doctor(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("doctor", help="what works on this machine, and why not")
    command.add_argument("--models-dir", type=Path, metavar="DIR")
    command.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> None:
    print("\n".join(report_lines([options.models_dir] if options.models_dir else [])))


def report_lines(extra_folders: Iterable[Path] = ()) -> list[str]:
    extra_folders = list(extra_folders)
    rows = [
        ("lgm", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", torch.__version__),
        ("device", _device()),
        *_backends(),
        *_models(extra_folders),
        *_multiview_models(extra_folders),
        *((f"package {name}", _package(*about)) for name, about in OPTIONAL.items()),
    ]
    width = max(len(name) for name, _ in rows) + 2
    return [f"{name:<{width}}{finding}" for name, finding in rows]


def _device() -> str:
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    reason = "torch has no CUDA in it" if torch.version.cuda is None else "no NVIDIA GPU answers"
    mps = "; --device mps is there" if torch.backends.mps.is_available() else ""
    return f"cpu, {torch.get_num_threads()} threads ({reason}{mps})"


def _backends() -> list[tuple[str, str]]:
    reasons = {name: render.why_not(name) for name in ("gsplat", "numba", "torch", "reference")}
    return [(f"backend {name}", f"no: {why}" if why else "yes") for name, why in reasons.items()]


def _models(extra_folders: list[Path]) -> list[tuple[str, str]]:
    extra_folders = [*extra_folders, own_folder()]
    found = available_models(extra_folders)
    rows = [(f"model {name}", str(path)) for name, path in found.items()]
    for name, file_name in RELEASED.items():
        if Path(file_name).stem not in found and "legacy" not in name:
            remedy = "; run `lgm download lgm`" if name == "lgm_fixrot_fp16" else ""
            missing = f"no: {file_name} of {HUB_REPOSITORY} is not here{remedy}"
            rows.append((f"model {name}", missing))
    return rows + [("models are sought in", str(folder)) for folder in model_folders(extra_folders)]


def _multiview_models(extra_folders: list[Path]) -> list[tuple[str, str]]:
    """MVDream and ImageDream: where each is, or what is missing."""
    rows = []
    for name in RELEASES:
        try:
            rows.append((f"views {name}", str(find_folder(name, extra_folders))))
        except ValueError as error:
            rows.append((f"views {name}", f"no: {error}"))
    released = {release.folder for release in RELEASES.values()}
    for name, folder in available_folders(extra_folders).items():
        if name not in released:
            kind = "ImageDream" if reads_pictures(folder) else "MVDream"
            rows.append((f"views {name}", f"{folder} ({kind})"))
    places = search_places(extra_folders)
    return rows + [("views are sought in", str(folder)) for folder in places]


def _package(distribution: str, purpose: str) -> str:
    if importlib.util.find_spec(distribution) is None:
        return f"no ({purpose})"
    try:
        return f"{version(distribution)} ({purpose})"
    except PackageNotFoundError:
        return f"yes ({purpose})"
