"""Converts an importer's triangles to a training mesh: textures, opaque colors, normals."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .mesh import Mesh
from .obj import OPAQUE_BACKDROP, SourceMesh
from .simplify import crease_normals


def read_texture(data: bytes, limit: int = 512) -> tuple[np.ndarray, float]:
    """RGB picture and mean opacity; transparent texels take the mean color of the opaque ones."""
    image = Image.open(io.BytesIO(data))
    image.thumbnail((limit, limit))
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float32)
    color, alpha = pixels[..., :3], pixels[..., 3:] / 255
    mean = (color * alpha).sum((0, 1)) / max(float(alpha.sum()), 1e-6)
    return np.round(color * alpha + mean * (1 - alpha)).astype(np.uint8), float(alpha.mean())


def to_mesh(source: SourceMesh, textures: dict[str, tuple[np.ndarray, float]]) -> Mesh:
    """A training mesh: opaque, with crease normals, equal materials merged and unused vertices
    dropped.
    """
    used, faces = np.unique(source.faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    vertices = source.vertices[used]
    has_uv = np.isfinite(source.uvs).all(axis=(1, 2))
    slots: dict[tuple, int] = {}
    images: dict[str, int] = {}
    slot_of: dict[tuple[int, bool], int] = {}
    for material_id, with_uv in {
        (int(m), bool(u)) for m, u in zip(source.material_ids, has_uv, strict=True)
    }:
        material = source.materials[material_id]
        texture = material.texture if with_uv and material.texture in textures else None
        color = np.array(material.color)
        if (
            texture is not None
        ):  # many exporters leave a dim gray here, which would darken the picture
            color = color / color.max() if color.max() > 0.05 else np.ones(3)
            images.setdefault(texture, len(images))
        color = color * material.opacity + OPAQUE_BACKDROP * (1 - material.opacity)
        key = (*np.round(color, 3), images[texture] if texture is not None else -1)
        slot_of[material_id, with_uv] = slots.setdefault(key, len(slots))
    table = np.array(list(slots), dtype=np.float64).reshape(-1, 4)
    material_ids = [
        slot_of[int(m), bool(u)] for m, u in zip(source.material_ids, has_uv, strict=True)
    ]
    return Mesh(
        vertices=vertices.astype(np.float32),
        faces=faces,
        normals=crease_normals(vertices, faces).astype(np.float32),
        uvs=np.nan_to_num(source.uvs).astype(np.float32),
        material_ids=np.array(material_ids, dtype=np.int64),
        colors=table[:, :3].astype(np.float32).clip(0, 1),
        textures=table[:, 3].astype(np.int64),
        images=tuple(textures[name][0] for name in images),
    )
