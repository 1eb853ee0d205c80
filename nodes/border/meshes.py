"""MESH <-> the library's Mesh."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from comfy_api.latest import Types
from torch import Tensor

from ...lgm.mesh import Mesh

HOLDS_NORMALS = "normals" in inspect.signature(Types.MESH).parameters  # not in ComfyUI 0.28


def mesh_value(meshes: list[Mesh]) -> Types.MESH:
    """A MESH batch, padded with zeros to the longest; +y up on both sides. Vertex colors are linear
    there, textures and colors of `lgm` sRGB, so that Save GLB shows them as they are.
    """
    vertices, vertex_counts = _padded([mesh.vertices for mesh in meshes])
    faces, face_counts = _padded([mesh.faces for mesh in meshes])
    optional = {}
    if meshes[0].uvs is not None:
        optional["uvs"] = _padded([mesh.uvs for mesh in meshes])[0]
    if meshes[0].vertex_colors is not None:
        colors = [srgb_to_linear(mesh.vertex_colors) for mesh in meshes]
        optional["vertex_colors"] = _padded(colors)[0]
    if meshes[0].normals is not None and HOLDS_NORMALS:
        optional["normals"] = _padded([mesh.normals for mesh in meshes])[0]
    if meshes[0].texture is not None:
        optional["texture"] = torch.stack([mesh.texture for mesh in meshes])
    if len(meshes) > 1:
        optional |= {"vertex_counts": vertex_counts, "face_counts": face_counts}
    return Types.MESH(vertices, faces, unlit=True, **optional)


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


def srgb_to_linear(colors: Tensor) -> Tensor:
    return torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def _padded(items: list[Tensor]) -> tuple[Tensor, Tensor]:
    """[B, N, ..] of [N_i, ..], and the N_i."""
    counts = torch.tensor([len(item) for item in items], dtype=torch.int64)
    longest = int(counts.max())
    return torch.stack([F.pad(x, (0, 0, 0, longest - len(x))) for x in items]), counts
