"""MESH <-> the library's Mesh."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from comfy_api.latest import Types
from torch import Tensor

from ...lgm.colors import srgb_to_linear
from ...lgm.mesh import Mesh

HOLDS_NORMALS = "normals" in inspect.signature(Types.MESH).parameters  # not in ComfyUI 0.28

PARTS = {
    "uvs": "texture coordinates",
    "vertex_colors": "vertex colors",
    "normals": "normals",
    "texture": "textures",
}


def mesh_value(meshes: list[Mesh]) -> Types.MESH:
    """A MESH batch, padded with zeros to the longest; +y up on both sides. Vertex colors are linear
    there, textures and colors of `lgm` sRGB, so that Save GLB shows them as they are.

    Raises:
        ValueError: meshes of which some have what others lack, or textures of several sizes.
    """
    _require_alike(meshes)
    vertices, vertex_counts = _padded([mesh.vertices for mesh in meshes])
    faces, face_counts = _padded([mesh.faces for mesh in meshes])
    optional = {}
    if uvs := [mesh.uvs for mesh in meshes if mesh.uvs is not None]:
        optional["uvs"] = _padded(uvs)[0]
    if colors := [mesh.vertex_colors for mesh in meshes if mesh.vertex_colors is not None]:
        optional["vertex_colors"] = _padded([srgb_to_linear(values) for values in colors])[0]
    normals = [mesh.normals for mesh in meshes if mesh.normals is not None]
    if normals and HOLDS_NORMALS:
        optional["normals"] = _padded(normals)[0]
    if textures := [mesh.texture for mesh in meshes if mesh.texture is not None]:
        optional["texture"] = torch.stack(textures)
    if len(meshes) > 1:
        optional |= {"vertex_counts": vertex_counts, "face_counts": face_counts}
    return Types.MESH(vertices, faces, unlit=True, **optional)


def _require_alike(meshes: list[Mesh]) -> None:
    for name, what in PARTS.items():
        has = [getattr(mesh, name) is not None for mesh in meshes]
        if any(has) and not all(has):
            raise ValueError(
                f"The meshes of a batch need {what} on all or none, but mesh {has.index(True) + 1} "
                f"has them and mesh {has.index(False) + 1} has none: make the batch of one kind."
            )
    sizes = [tuple(mesh.texture.shape[:2]) for mesh in meshes if mesh.texture is not None]
    if len(set(sizes)) > 1:
        raise ValueError(
            "The textures of a batch need one size, got "
            f"{', '.join(f'{width} x {height}' for height, width in sizes)}: bake them alike."
        )


def mesh_from_value(value: Types.MESH, index: int) -> Mesh:
    """Geometry and texture coordinates of batch item `index`."""
    vertices = slice(None if value.vertex_counts is None else int(value.vertex_counts[index]))
    faces = slice(None if value.face_counts is None else int(value.face_counts[index]))
    uvs = None if value.uvs is None else value.uvs[index, vertices].float()
    return Mesh(
        value.vertices[index, vertices].float(), value.faces[index, faces].long(), uvs=uvs
    ).to("cpu")


def require_one_mesh_each(mesh: Types.MESH, splat: Types.SPLAT) -> int:
    """The number of meshes, which is that of splats.

    Raises:
        ValueError: it isn't.
    """
    count = len(splat.positions)
    if len(mesh.vertices) != count:
        raise ValueError(
            f"One mesh for each splat is needed, got {len(mesh.vertices)} for {count}: connect the "
            "splat that the mesh was made of."
        )
    return count


def _padded(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    """[B, N, ..] of [N_i, ..], and the N_i."""
    counts = torch.tensor([len(item) for item in items], dtype=torch.int64)
    longest = int(counts.max())
    return torch.stack([F.pad(x, (0, 0, 0, longest - len(x))) for x in items]), counts
