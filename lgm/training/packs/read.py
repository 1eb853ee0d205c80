"""Reads 3D model files, and finds them in a folder."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from .mesh import Mesh
from .obj import Material, SourceMesh
from .simplify import weld
from .surfaces import read_texture, to_mesh

MODEL_SUFFIXES = (".glb", ".gltf", ".obj")  # these hold materials
MESH_SUFFIXES = (*MODEL_SUFFIXES, ".ply", ".stl")
# What readers of broken files raise.
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError,
    NotImplementedError, OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error,
    zlib.error,
)  # fmt: skip


def find_models(folder: Path) -> list[Path]:
    """The model files below `folder`, sorted; of several in one folder only the first."""
    models: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MODEL_SUFFIXES:
            models.setdefault(path.parent, path)
    return list(models.values())


def find_meshes(folder: Path) -> list[str]:
    """Names of all model files below a folder: their paths in it, sorted."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in MESH_SUFFIXES and not path.name.startswith(".")
    )


def reason_of(error: Exception) -> str:
    """What a reader raised, in one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def read_model(path: Path) -> Mesh:
    """A glTF or OBJ file as a mesh, with its base color textures; y-up, front to +z, as glTF has
    it.

    Raises:
        ValueError: the file holds no triangles.
    """
    return to_mesh(*read_source(path))


def read_source(path: Path) -> tuple[SourceMesh, dict[str, tuple[np.ndarray, float]]]:
    """A model file's welded triangles, and its textures by name with their mean opacity.

    Raises:
        ValueError: the file holds no triangles.
    """
    import trimesh

    scene = trimesh.load_scene(path, process=False)
    vertices, faces, uvs, material_ids, materials = [], [], [], [], []
    textures: dict[str, tuple[np.ndarray, float]] = {}
    base = 0
    for node in scene.graph.nodes_geometry:
        transform, key = scene.graph[node]
        part, name = scene.geometry[key], str(key)
        if not isinstance(part, trimesh.Trimesh) or not len(part.faces):
            continue
        coordinates = getattr(part.visual, "uv", None)
        color, texture = _base_color(part.visual)
        if texture is not None and coordinates is not None:
            file = io.BytesIO()
            texture.convert("RGBA" if "A" in texture.getbands() else "RGB").save(file, "PNG")
            textures.setdefault(name, read_texture(file.getvalue(), 1024))
        vertices.append(trimesh.transform_points(part.vertices, transform))
        faces.append(part.faces + base)
        base += len(part.vertices)
        missing = np.full((len(part.faces), 3, 2), np.nan)
        uvs.append(missing if coordinates is None else np.asarray(coordinates)[part.faces])
        material_ids.append(np.full(len(part.faces), len(materials)))
        materials.append(Material(color, name if name in textures else None))
    if faces:
        columns = (np.concatenate(parts) for parts in (vertices, faces, uvs, material_ids))
        source = weld(SourceMesh(*columns, tuple(materials)))
    if not faces or not len(source.faces):
        raise ValueError(
            f"{path} holds no triangles that can be read: give a mesh without Draco compression."
        )
    return source, textures


def _base_color(visual) -> tuple[tuple[float, float, float], Image.Image | None]:
    """sRGB color and base color picture of a trimesh visual."""
    material = getattr(visual, "material", None)
    if material is None:
        average = np.asarray(visual.vertex_colors)[:, :3].mean(0) / 255
        return tuple(average.tolist()), None
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    factor = getattr(material, "baseColorFactor", None)
    if factor is None:  # white in glTF, where trimesh says gray
        plain = picture is None and not hasattr(material, "baseColorFactor")
        color = np.asarray(material.main_color)[:3] / 255 if plain else np.ones(3)
        return tuple(color.tolist()), picture
    factor = np.asarray(factor)
    # trimesh takes a file's whole numbers 0 and 1 for bytes; an alpha of one byte gives them away.
    in_bytes = factor.dtype == np.uint8 and factor[3] != 1
    linear = factor[:3].astype(float) / (255 if in_bytes else 1)
    encoded = np.where(
        linear < 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055
    )
    return tuple(encoded.clip(0, 1).tolist()), picture
