"""glTF 2.0 with KHR_gaussian_splatting (Khronos, ratified): `.glb`, and `.gltf` with embedded data.

A splat is a point primitive with extra attributes: linear scales, opacities 0..1, quaternions
x, y, z, w, spherical harmonics for color. glTF is +y up like our memory, so nothing is turned.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..colors import linear_to_srgb, srgb_to_linear
from ..gaussians import Gaussians, concatenate
from ..rotations import matrix_quaternion, product_matrix, quaternion_matrix
from ..spherical_harmonics import BAND_WIDTHS, SH_C0, rotate_sh
from .columns import Columns, from_columns, require_finite, to_columns
from .files import Source, read_source, write_atomically
from .glb import ARRAY_BUFFER, FLOAT, POINTS, UNSIGNED_BYTE, glb, parse

EXTENSION = "KHR_gaussian_splatting"
ATTRIBUTES = {  # semantic -> accessor type
    "POSITION": "VEC3",
    f"{EXTENSION}:ROTATION": "VEC4",
    f"{EXTENSION}:SCALE": "VEC3",
    f"{EXTENSION}:OPACITY": "SCALAR",
    f"{EXTENSION}:SH_DEGREE_0_COEF_0": "VEC3",
}
HIGHER_BANDS = tuple(  # all of a degree or none, each VEC3
    f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{index}"
    for degree in (1, 2, 3)
    for index in range(2 * degree + 1)
)
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
MIN_GAUSSIAN_BYTES = 26  # with every attribute in its smallest permitted type


def write_gltf(path: str | Path | None, gaussians: Gaussians) -> bytes:
    """The bytes of a `.glb` (+y up, lossless), also written to `path` unless it is None.

    Gaussians fainter than 0.005 are left out; the others keep their order. Viewers that don't know
    the extension show a colored point cloud (COLOR_0).

    Raises:
        ValueError: a batch other than one, values that are not finite, nothing visible.
        RuntimeError: the file can't be written.
    """
    columns = to_columns(gaussians, y_down=False)
    bands = [] if columns.sh is None else columns.sh.swapaxes(0, 1)
    values = (
        columns.positions,
        np.roll(columns.rotations, -1, axis=1),  # wxyz -> xyzw
        columns.scales,
        columns.opacities,
        (columns.colors - 0.5) / SH_C0,
        *bands,
    )
    fallback = np.concatenate([srgb_to_linear(columns.colors), columns.opacities], axis=1)
    blobs = [value.astype("<f4").tobytes() for value in values]
    blobs.append((fallback * 255).round().clip(0, 255).astype(np.uint8).tobytes())
    attributes = ATTRIBUTES | dict.fromkeys(HIGHER_BANDS[: len(bands)], "VEC3")
    data = glb(describe(columns.positions, blobs, attributes), b"".join(blobs))
    if path is not None:
        write_atomically(path, data)
    return data


def describe(
    positions: np.ndarray, blobs: list[bytes], attributes: dict[str, str]
) -> dict[str, Any]:
    """The JSON for a binary chunk of `blobs`: one per splat attribute (semantic -> accessor type),
    then the fallback color.
    """
    count = len(positions)
    accessors = [
        {"bufferView": index, "componentType": FLOAT, "count": count, "type": kind}
        for index, kind in enumerate(attributes.values())
    ]
    accessors[0]["min"] = positions.min(axis=0).tolist()  # required of positions
    accessors[0]["max"] = positions.max(axis=0).tolist()
    color = {"bufferView": len(accessors), "componentType": UNSIGNED_BYTE, "normalized": True}
    accessors.append({**color, "count": count, "type": "VEC4"})
    offsets = np.cumsum([0, *map(len, blobs)]).tolist()
    return {
        "asset": {"version": "2.0", "generator": "lgm"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {
                "primitives": [
                    {
                        "mode": POINTS,
                        "attributes": {
                            key: index for index, key in enumerate([*attributes, "COLOR_0"])
                        },
                        "extensions": {
                            EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
                        },
                    }
                ]
            }
        ],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": len(blob), "target": ARRAY_BUFFER}
            for offset, blob in zip(offsets, blobs, strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1]}],
    }


def read_gltf(source: Source) -> Gaussians:
    """Gaussians [1, N, ..] (float32, CPU, y-up) of all splats of a `.glb` or `.gltf` scene.

    Nodes place the splats, and turn their higher bands with them. Linear colors become sRGB, which
    higher bands can't: of such a splat the base color is used.
    Only data inside the file is read: a file that points to others is refused.

    Raises:
        ValueError: no uncompressed KHR_gaussian_splatting data, or a damaged or oversized entry.
    """
    name, data = read_source(source)
    asset = Asset(name, *parse(name, data))
    splats = list(asset.splats())
    if not splats:
        raise ValueError(f"{name} holds no Gaussian splat: no mesh in its scene uses {EXTENSION}.")
    total = sum(asset.count(primitive) for primitive, _ in splats)
    if total * MIN_GAUSSIAN_BYTES > len(data):  # a few bytes could ask for any number of copies
        raise ValueError(f"{name} says it holds {total:,} Gaussians, too many for its size.")
    parts = [
        decode(name, asset.columns(primitive), is_linear(name, primitive), matrix)
        for primitive, matrix in splats
    ]
    return concatenate(parts, dim=1)


@dataclass(frozen=True)
class Asset:
    """A document nobody vouches for: every lookup checks what it finds."""

    name: str
    document: dict[str, Any]
    binary: bytes
    embedded: dict[int, bytes] = field(default_factory=dict)  # decoded data URIs by buffer

    def entry(self, kind: str, index: Any) -> dict[str, Any]:
        """`document[kind][index]`, an object."""
        entries = as_list(self.document.get(kind))
        if not is_whole(index) or index >= len(entries) or not isinstance(entries[index], dict):
            label = index if is_whole(index) else "?"
            raise self.invalid(f"there is no {kind}[{label}]")
        return entries[index]

    def invalid(self, problem: str) -> ValueError:
        return ValueError(f"{self.name} is not a valid glTF: {problem}.")

    def integer(self, entry: dict[str, Any], key: str, default: int | None = None) -> int:
        value = entry.get(key, default)
        if not is_whole(value):
            raise self.invalid(f"{key} has to be a whole number")
        return value

    def splats(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Splat primitives of the scene with their node-to-world matrices [4, 4]."""
        for mesh, matrix in self.placed_meshes():
            for primitive in as_list(mesh.get("primitives")):
                if EXTENSION in as_dict(as_dict(primitive).get("extensions")):
                    yield primitive, matrix

    def placed_meshes(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        if not as_list(self.document.get("scenes")):  # a library of meshes, nothing placed
            yield from ((as_dict(mesh), np.eye(4)) for mesh in as_list(self.document.get("meshes")))
            return
        scene = self.entry("scenes", self.document.get("scene", 0))
        queue = [(index, np.eye(4)) for index in as_list(scene.get("nodes"))]
        seen = set()
        for index, parent in queue:  # grows while it is read
            node = self.entry("nodes", index)
            if index in seen:  # or a cycle would never end
                raise self.invalid(f"nodes[{index}] has two parents")
            seen.add(index)
            with np.errstate(over="ignore", invalid="ignore"):  # refused where a splat is placed
                matrix = parent @ self.local_matrix(node)
            if "mesh" in node:
                yield self.entry("meshes", node["mesh"]), matrix
            queue += [(child, matrix) for child in as_list(node.get("children"))]

    def local_matrix(self, node: dict[str, Any]) -> np.ndarray:
        if "matrix" in node:
            return (
                self.numbers(node, "matrix", np.eye(4).ravel().tolist()).reshape(4, 4).T
            )  # column-major
        matrix = np.eye(4)
        rotation = quaternion_matrix(self.numbers(node, "rotation", (0, 0, 0, 1)))
        matrix[:3, :3] = rotation * self.numbers(node, "scale", (1, 1, 1))  # scale acts first
        matrix[:3, 3] = self.numbers(node, "translation", (0, 0, 0))
        return matrix

    def numbers(self, node: dict[str, Any], key: str, default: Sequence[float]) -> np.ndarray:
        values = node.get(key, default)
        fits = values is default or (isinstance(values, list) and len(values) == len(default))
        if not fits or not all(is_number(value) and abs(value) < 1e15 for value in values):
            raise self.invalid(f"a node's {key} is not {len(default)} numbers")
        return np.array(values, np.float64)

    def count(self, primitive: dict[str, Any]) -> int:
        """Gaussians that a splat primitive claims."""
        position = as_dict(primitive.get("attributes")).get("POSITION")
        return 0 if position is None else self.integer(self.entry("accessors", position), "count")

    def columns(self, primitive: dict[str, Any]) -> dict[str, np.ndarray]:
        """The attributes of a splat primitive by semantic, [N, ..] float32 each."""
        attributes = as_dict(primitive.get("attributes"))
        missing = [semantic for semantic in ATTRIBUTES if semantic not in attributes]
        compression = as_dict(as_dict(primitive["extensions"][EXTENSION]).get("extensions"))
        if missing and compression:
            raise ValueError(
                f"{self.name} holds a splat compressed with {', '.join(compression)[:80]}, "
                "which is not supported: export it without compression."
            )
        if missing:
            raise ValueError(
                f"{self.name} holds an incomplete splat: it lacks {', '.join(missing)}."
            )
        bands = [semantic for semantic in HIGHER_BANDS if semantic in attributes]
        if len(bands) not in BAND_WIDTHS or bands != list(HIGHER_BANDS[: len(bands)]):
            raise self.invalid(f"{len(bands)} higher bands are not all of degree 1, 1-2 or 1-3")
        columns = {
            semantic: self.attribute(semantic, kind, attributes[semantic])
            for semantic, kind in (ATTRIBUTES | dict.fromkeys(bands, "VEC3")).items()
        }
        counts = {len(column) for column in columns.values()}
        if len(counts) > 1:
            raise self.invalid(f"splat attributes of different counts {sorted(counts)}")
        return columns

    def attribute(self, semantic: str, kind: str, index: Any) -> np.ndarray:
        """[N, width] float32 of an accessor; normalized integers become -1..1 or 0..1."""
        accessor = self.entry("accessors", index)
        code = COMPONENTS.get(self.integer(accessor, "componentType"))
        if code is None or accessor.get("type") != kind:
            raise self.invalid(f"{semantic} is not a {kind} of a known component type")
        if "sparse" in accessor or "bufferView" not in accessor:
            raise ValueError(f"{self.name} stores {semantic} sparsely, which is not supported.")
        view = self.entry("bufferViews", accessor["bufferView"])
        data = self.buffer(self.integer(view, "buffer"))
        dtype, width, count = np.dtype(code), WIDTHS[kind], self.integer(accessor, "count")
        size = dtype.itemsize * width
        stride = self.integer(view, "byteStride", size)
        offset = self.integer(view, "byteOffset", 0)
        view_end = offset + self.integer(view, "byteLength")
        start = offset + self.integer(accessor, "byteOffset", 0)
        end = start + (count - 1) * stride + size
        if count < 1 or stride < size or end > view_end or view_end > len(data):
            raise self.invalid(
                f"{count:,} values of {semantic} end at byte {end:,} of a view that ends at "
                f"{view_end:,} in a buffer of {len(data):,}"
            )
        raw = np.ndarray((count, width), dtype, data, start, (stride, dtype.itemsize))
        values = raw.astype(np.float32)
        if accessor.get("normalized") is True and dtype.kind in "iu":
            most = np.iinfo(dtype).max  # ty: ignore[no-matching-overload]
            values = np.maximum(values / most, -1)
        require_finite(self.name, (semantic,) * width, values)
        return values

    def buffer(self, index: int) -> bytes:
        """A buffer inside the file: the binary chunk, or a base64 data URI."""
        entry = self.entry("buffers", index)
        uri = entry.get("uri")
        if uri is None and index == 0:
            return self.binary
        if not isinstance(uri, str) or not uri.startswith("data:"):
            raise ValueError(
                f"{self.name} keeps data in other files, which are not opened: save it as .glb."
            )
        if index not in self.embedded:
            head, _, payload = uri.partition(",")
            try:
                if not head.endswith(";base64"):
                    raise ValueError("it is not base64")
                self.embedded[index] = base64.b64decode(payload, validate=True)
            except ValueError as error:
                raise self.invalid(f"can't decode buffers[{index}] ({error})") from error
        return self.embedded[index]


def is_linear(name: str, primitive: dict[str, Any]) -> bool:
    """Whether a splat's colors are linear; refuses kernels and color spaces of other extensions."""
    splat = as_dict(primitive["extensions"][EXTENSION])
    kernel, space = splat.get("kernel", "ellipse"), splat.get("colorSpace", "srgb_rec709_display")
    if kernel != "ellipse" or space not in ("srgb_rec709_display", "lin_rec709_display"):
        raise ValueError(
            f"{name} uses a splat kernel or color space that is not part of {EXTENSION}."
        )
    return space == "lin_rec709_display"


def decode(
    name: str, columns: dict[str, np.ndarray], linear: bool, matrix: np.ndarray
) -> Gaussians:
    """One primitive's Gaussians in the world of its scene."""
    positions, xyzw, scales, opacities, dc, *bands = columns.values()
    size, rotation, quaternion = similarity(name, matrix)
    colors = dc * SH_C0 + 0.5
    sh = np.stack(bands, axis=1) if bands and not linear else None
    if sh is not None and not np.array_equal(rotation, np.eye(3)):  # as they are, if nothing turns
        sh = rotate_sh(torch.from_numpy(sh), torch.from_numpy(rotation)).numpy()
    decoded = Columns(
        positions=positions @ (size * rotation).T + matrix[:3, 3],
        opacities=opacities,
        scales=scales * size,
        rotations=np.roll(xyzw, 1, axis=1) @ product_matrix(quaternion).T,
        colors=linear_to_srgb(colors) if linear else colors,
        sh=sh,
    )
    return from_columns(name, decoded, y_down=False)


def similarity(name: str, matrix: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Size, rotation [3, 3] and quaternion wxyz of a node's matrix."""
    size = float(np.linalg.norm(matrix[:3, 0])) if np.isfinite(matrix).all() else 0.0
    rotation = matrix[:3, :3] / (size or 1.0)
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise ValueError(
            f"{name} mirrors a splat or scales it unevenly: apply the transform before export."
        )
    return size, rotation, matrix_quaternion(rotation)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """A non-negative integer that NumPy can count with."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
