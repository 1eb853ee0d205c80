"""Makes a mesh pack of 3D models: simplifies them, and leaves out what training can't use.

Training draws the pack's objects anew in every step, in other colors, proportions, light and from
other cameras (`pack.py`). A few thousand triangles of each are enough.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .mesh import TILE, Mesh, resize
from .obj import SourceMesh
from .pack_file import save_pack
from .read import UNREADABLE, find_meshes, read_source, reason_of
from .simplify import face_normals, simplify
from .surfaces import to_mesh

TRIANGLES = 4000
MAX_MATERIALS = 255  # of one object: the pack stores their numbers in bytes


@dataclass(frozen=True)
class Packed:
    """One object for a pack, or the reason why it is left out."""

    name: str
    mesh: Mesh | None
    reason: str  # empty, or why it is left out: a kind of reason, and details after a colon
    about: dict[str, str]  # family, library, creator, ... and the split


def write_pack(path: Path, objects: Iterable[Packed]) -> tuple[Counter[str], list[str]]:
    """Write the objects that can be used.

    Returns:
        The number of objects per split or reason, and a line for each that is left out.

    Raises:
        ValueError: none can be used.
    """
    meshes, entries, outcome, left_out = [], [], Counter(), []
    for item in objects:
        if item.mesh is None:
            outcome[item.reason.partition(":")[0]] += 1
            left_out.append(f"{item.name}: {item.reason}")
        else:
            meshes.append(item.mesh)
            entries.append({"name": item.name, **item.about})
            outcome[entries[-1]["split"]] += 1
    if not meshes:
        raise ValueError(f"None of the models can be used: {summary(outcome) or 'there are none'}.")
    save_pack(path, meshes, entries)
    return outcome, left_out


def summary(outcome: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(outcome.items()))


def folder_objects(folder: Path, up: str = "y", skip: str = "") -> Iterator[Packed]:
    """The models below a folder, sorted by name. Of models with equal triangles (color variants,
    which are usual in game packs) only the first is kept.

    Args:
        up: axis that points up in the files, y or z.
        skip: regular expression, case-insensitive; models with a match in their path are skipped.
    """
    seen: set[bytes] = set()
    for name in find_meshes(folder):
        if skip and re.search(skip, name, re.IGNORECASE):
            continue
        title = f"{folder.resolve().name}/{Path(name).with_suffix('').as_posix()}"
        about = {"family": title, "library": folder.resolve().name, "split": "train"}
        try:
            source, textures = read_source(folder / name)
            shape = np.unique(source.vertices.round(4), axis=0).tobytes()
            if shape in seen:
                yield Packed(title, None, "with equal triangles", about)
                continue
            seen.add(shape)
            mesh, reason = usable(_upright(source) if up == "z" else source, textures)
        except UNREADABLE as error:
            mesh, reason = None, f"unreadable: {reason_of(error)}"
        if mesh is not None:  # as large as the pack keeps them
            mesh = replace(mesh, images=tuple(resize(image, TILE) for image in mesh.images))
        yield Packed(title, mesh, reason, about)


def _upright(source: SourceMesh) -> SourceMesh:
    x, y, z = source.vertices.T
    return replace(source, vertices=np.stack([x, z, -y], axis=1))


def usable(
    source: SourceMesh, textures: dict[str, tuple[np.ndarray, float]], limit: int = TRIANGLES
) -> tuple[Mesh | None, str]:
    """A welded, upright model as a mesh fit for training, or None and the reason why not.

    Args:
        textures: pictures by name and their mean opacity, as `read_texture` gives them.
    """
    if len(source.faces) < 8 or not np.isfinite(source.vertices).all():
        return None, "empty"
    extents = np.ptp(source.vertices[np.unique(source.faces)], axis=0)
    if extents.min() < 0.03 * extents.max():
        return None, "flat"
    before = silhouettes(source)
    for factor in (1, 1.5, 2):
        less = simplify(source, int(factor * limit))
        after = silhouettes(less)
        if (before & after).sum() > 0.85 * (before | after).sum():
            break
    else:
        return None, "lost in simplification"
    mesh = to_mesh(less, textures)
    if len(mesh.colors) > MAX_MATERIALS:
        return None, "with too many materials"
    area = np.linalg.norm(face_normals(less.vertices, less.faces), axis=1)
    cut_out = [
        textures[m.texture][1] < 0.8 if m.texture in textures else False for m in less.materials
    ]
    if area[np.array(cut_out)[less.material_ids]].sum() > 0.2 * area.sum():
        return None, "cut-out textures"
    coverage = after.mean((1, 2))
    if coverage.mean() < 0.03 or coverage.min() < 0.01:
        return None, "thin"
    return mesh, ""


def silhouettes(mesh: SourceMesh, size: int = 64) -> np.ndarray:
    """Silhouettes bool [2, size, size] from the front and from the side, at 85 % of the frame."""
    rng = np.random.default_rng(0)
    area = np.linalg.norm(face_normals(mesh.vertices, mesh.faces), axis=1)
    face = rng.choice(len(area), 40_000, p=area / area.sum())
    points = np.einsum(
        "nk,nkd->nd", rng.dirichlet(np.ones(3), len(face)), mesh.vertices[mesh.faces[face]]
    )
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = used.min(0), used.max(0)
    x, y, z = (((points - (low + high) / 2) / (high - low).max() * 0.85 + 0.5) * size).astype(int).T
    grid = np.zeros((2, size, size), bool)
    grid[0, y, x] = grid[1, y, z] = True
    return grid
