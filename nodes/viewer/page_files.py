"""Files for a viewer in the page, in ComfyUI's temp folder, which is emptied when ComfyUI starts.

Their names tell their content: the page never shows a stale one, and what is there already is
neither made nor written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import Types
from torch import Tensor

from ..border import host
from ..border.meshes import mesh_from_value
from ..border.pictures import pictures_from_image
from ..border.splats import finite_rows, gaussians_from_splat, splat_count

SUBFOLDER = "lgm"


def splat_file(splat: Types.SPLAT) -> Path:
    """A .ply of the first splat of a batch."""
    from ...lgm.io import write_ply

    rows = slice(splat_count(splat, 0))
    fields = (splat.positions, splat.scales, splat.rotations, splat.opacities, splat.sh)
    return page_file(
        "ply",
        [field[0, rows] for field in fields],
        lambda: write_ply(None, gaussians_from_splat(splat, 0, finite_rows(splat, 0))),
    )


def mesh_file(value: Types.MESH) -> Path:
    """A .glb of the first mesh of a batch, in the colors that Save GLB gives it."""
    from ...lgm.colors import linear_to_srgb

    mesh, texture, colors = mesh_from_value(value, 0), value.texture, value.vertex_colors
    if texture is not None and mesh.uvs is not None:
        mesh = replace(mesh, texture=texture[0, ..., :3].float().cpu())
    elif colors is not None:
        linear = colors[0, : len(mesh.vertices), :3].float().cpu().clamp(0, 1)
        mesh = replace(mesh, vertex_colors=torch.from_numpy(linear_to_srgb(linear.numpy())))
    unlit = bool(value.unlit)
    content = [x for x in vars(mesh).values() if x is not None]
    return page_file(
        "glb", [*content, torch.tensor([unlit])], lambda: mesh.export(None, unlit=unlit)
    )


def image_files(images: Tensor) -> list[Path]:
    """A .png of each picture of IMAGE [N, H, W, C]."""
    from ...lgm.pictures.encode import png

    pictures = pictures_from_image(images)
    return [page_file("png", [picture], lambda p=picture: png(p)) for picture in pictures]


def page_file(suffix: str, content: list[Tensor], make: Callable[[], bytes]) -> Path:
    """A file of what `make` returns, which follows from `content` alone."""
    from ...lgm.io import write_atomically

    host.check_cancelled()
    digest = hashlib.blake2b(digest_size=16)
    for tensor in content:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    folder = Path(folder_paths.get_temp_directory(), SUBFOLDER)
    path = folder / f"{digest.hexdigest()}.{suffix}"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, make())
    return path


def entry(path: Path) -> dict[str, str]:
    """The query with which the page asks ComfyUI for a file."""
    return {"filename": path.name, "subfolder": SUBFOLDER, "type": "temp"}


def path_within(kind: str, *parts: str) -> Path:
    """A path in ComfyUI's "temp" or "input" folder.

    Raises:
        ValueError: it leads out of that folder, so the workflow was forged.
    """
    folder = folder_paths.get_directory_by_type(kind)
    path = Path(folder, *parts)
    if not folder_paths.is_within_directory(folder, str(path)):
        name = "/".join(filter(None, parts))
        raise ValueError(
            f"A file inside ComfyUI's {kind} folder is needed, got {name!r}: press Reset in the "
            "viewer."
        )
    return path
