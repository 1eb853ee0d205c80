"""Meshes as glTF 2.0 in one `.glb` file. glTF is +y up like our memory, so nothing is turned."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..colors import srgb_to_linear
from .glb import ARRAY_BUFFER, FLOAT, glb

ELEMENT_ARRAY_BUFFER, TRIANGLES = 34963, 4
UNSIGNED_SHORT, UNSIGNED_INT = 5123, 5125
MAX_SHORT_VERTICES = 65535  # index 65535 would restart the primitive
SAMPLER = {  # linear, between mipmaps too; the charts end before the border, so nothing wraps
    "magFilter": 9729,
    "minFilter": 9987,
    "wrapS": 33071,
    "wrapT": 33071,
}
PNG_LEVEL = 4  # of 9: half the default level's time, 2 % larger


def mesh_glb(
    vertices: Tensor,
    faces: Tensor,
    normals: Tensor | None = None,
    uvs: Tensor | None = None,
    texture: Tensor | None = None,
    vertex_colors: Tensor | None = None,
    unlit: bool = True,
    double_sided: bool = True,
) -> bytes:
    """The bytes of a `.glb` of the tensors of one `Mesh`, as its fields describe them.

    Vertex colors are left out where there is a texture, which glTF would multiply with them.
    """
    textured = texture is not None
    attributes = {"POSITION": _floats(vertices)}
    if normals is not None:
        attributes["NORMAL"] = _unit(_floats(normals))
    if uvs is not None:
        attributes["TEXCOORD_0"] = _floats(uvs)
    if vertex_colors is not None and not textured:
        colors = _floats(vertex_colors).clip(0, 1)
        attributes["COLOR_0"] = srgb_to_linear(colors).astype("<f4")  # glTF's are linear
    short = len(vertices) <= MAX_SHORT_VERTICES
    indices = faces.reshape(-1).cpu().numpy().astype("<u2" if short else "<u4")

    blobs = [_padded(values.tobytes()) for values in (*attributes.values(), indices)]
    document = _describe(attributes, indices, blobs)
    surface: dict[str, Any] = {"metallicFactor": 0, "roughnessFactor": 1}
    material: dict[str, Any] = {
        "pbrMetallicRoughness": surface,
        "doubleSided": double_sided,
    }
    if unlit:
        material["extensions"] = {"KHR_materials_unlit": {}}
        document["extensionsUsed"] = ["KHR_materials_unlit"]
    if textured:
        image = _png(texture)
        offset = document["buffers"][0]["byteLength"]
        document["bufferViews"].append(
            {"buffer": 0, "byteOffset": offset, "byteLength": len(image)}
        )
        blobs.append(_padded(image))
        document["buffers"][0]["byteLength"] = offset + len(blobs[-1])
        document["images"] = [{"bufferView": len(blobs) - 1, "mimeType": "image/png"}]
        document["samplers"] = [SAMPLER]
        document["textures"] = [{"source": 0, "sampler": 0}]
        surface["baseColorTexture"] = {"index": 0}
    document["materials"] = [material]
    return glb(document, b"".join(blobs))


def _describe(
    attributes: dict[str, np.ndarray], indices: np.ndarray, blobs: list[bytes]
) -> dict[str, Any]:
    """The JSON for a binary chunk of `blobs`, one per attribute and the indices at the end."""
    accessors: list[dict[str, Any]] = [
        {"bufferView": view, "componentType": FLOAT, "count": len(values), "type": kind}
        for view, values in enumerate(attributes.values())
        for kind in [f"VEC{values.shape[1]}"]
    ]
    positions = attributes["POSITION"]
    accessors[0] |= {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    index_type = UNSIGNED_SHORT if indices.itemsize == 2 else UNSIGNED_INT
    accessors.append(
        {
            "bufferView": len(attributes),
            "componentType": index_type,
            "count": len(indices),
            "type": "SCALAR",
        }
    )
    primitive = {
        "mode": TRIANGLES,
        "attributes": {name: index for index, name in enumerate(attributes)},
        "indices": len(attributes),
        "material": 0,
    }
    offsets = np.cumsum([0, *map(len, blobs)]).tolist()
    sizes = [values.nbytes for values in (*attributes.values(), indices)]
    targets = [ARRAY_BUFFER] * len(attributes) + [ELEMENT_ARRAY_BUFFER]
    return {
        "asset": {"version": "2.0", "generator": "lgm"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": size, "target": target}
            for offset, size, target in zip(offsets, sizes, targets, strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1]}],
    }


def _floats(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype("<f4")


def _unit(normals: np.ndarray) -> np.ndarray:
    """Scale normals to length 1, as glTF demands; those of length 0 become an axis."""
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, normals / np.maximum(lengths, 1e-6), [0, 0, 1]).astype("<f4")


def _png(texture: Tensor) -> bytes:
    pixels = (texture.detach().float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
