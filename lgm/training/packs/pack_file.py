"""The file format of a mesh pack."""

from __future__ import annotations

import io
import json
import lzma
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .mesh import TILE, Mesh, resize

FORMAT = "lgm-meshpack-1"


def save_pack(path: str | Path, meshes: list[Mesh], entries: list[dict]) -> None:
    """Write a pack; equal textures are stored once. Coordinates are rounded to 1/32767 of the
    half-extent."""
    columns: dict[str, list[np.ndarray]] = {}
    counts: dict[str, list[int]] = {"triangle": [], "material": [], "vertex": []}
    jpegs: dict[bytes, int] = {}

    def add(name: str, values: np.ndarray, dtype: type) -> None:
        columns.setdefault(name, []).append(values.astype(dtype))

    for mesh in meshes:
        if len(mesh.vertices) > 65535:
            raise ValueError(
                f"A mesh in a pack needs at most 65,535 vertices, "
                f"got {len(mesh.vertices)}: simplify it."
            )
        low, high = mesh.vertices.min(0), mesh.vertices.max(0)
        unit = (mesh.vertices - (low + high) / 2) / ((high - low).max() / 2)
        textured = mesh.textures[mesh.material_ids] >= 0
        tiles = [jpegs.setdefault(_jpeg(resize(image, TILE)), len(jpegs)) for image in mesh.images]
        uvs = mesh.uvs[textured]
        uvs = (
            uvs - np.floor(uvs.min(axis=(1, 2), keepdims=False))[:, None, None]
        )  # small numbers keep their bits
        add("vertices", np.round(unit * 32767), np.int16)
        add("faces", mesh.faces, np.uint16)
        add("normals", _octahedral_encode(mesh.normals), np.int8)
        add("has_uv", textured, np.uint8)
        add("uvs", uvs.clip(0, 2048), np.float16)
        add("materials", mesh.material_ids, np.uint8)
        add("colors", np.round(mesh.colors * 255), np.uint8)
        add("textures", np.array([tiles[t] if t >= 0 else -1 for t in mesh.textures]), np.int16)
        counts["triangle"].append(len(mesh.faces))
        counts["material"].append(len(mesh.colors))
        counts["vertex"].append(len(mesh.vertices))
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    arrays |= {f"{name}_counts": np.array(values, np.int32) for name, values in counts.items()}
    arrays["jpeg_counts"] = np.array([len(jpeg) for jpeg in jpegs], np.int32)
    tensors = {name: torch.from_numpy(squeeze(array)) for name, array in arrays.items()}
    tensors["jpegs"] = torch.from_numpy(np.frombuffer(b"".join(jpegs), np.uint8).copy())
    metadata = {
        "format": FORMAT,
        "arrays": json.dumps({name: [a.dtype.str, list(a.shape)] for name, a in arrays.items()}),
        "entries": json.dumps(entries),
    }
    write_tensors(path, tensors, metadata)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    Raises:
        RuntimeError: it could not be written; names the file.
    """
    try:
        save_file(tensors, str(path), metadata)
    except SafetensorError as error:
        raise RuntimeError(f"Can't write {path} ({error}): is the disk full?") from error


def squeeze(array: np.ndarray) -> np.ndarray:
    """Bytes compressed plane by plane: first all low bytes, then all high ones, column after
    column."""
    planes = np.ascontiguousarray(array.reshape(len(array), math.prod(array.shape[1:])).T)
    raw = planes.view(np.uint8).reshape(-1, array.itemsize).T
    return np.frombuffer(lzma.compress(raw.tobytes(), preset=6), np.uint8).copy()


def unsqueeze(data: np.ndarray, dtype: str, shape: list[int]) -> np.ndarray:
    item = np.dtype(dtype).itemsize
    raw = np.frombuffer(lzma.decompress(data.tobytes()), np.uint8).reshape(item, -1).T
    planes = np.ascontiguousarray(raw).view(dtype).reshape(math.prod(shape[1:]), shape[0])
    return planes.T.reshape(shape).copy()  # writable, as torch wants it


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=88)
    return file.getvalue()


def _octahedral_encode(normals: np.ndarray) -> np.ndarray:
    """Unit vectors [..., 3] as two numbers in -127..127 [..., 2]: the octahedron's faces unfolded
    into a square."""
    flat = normals / np.maximum(np.abs(normals).sum(-1, keepdims=True), 1e-12)
    x, y, z = np.moveaxis(flat, -1, 0)
    folded = np.stack(
        [(1 - np.abs(y)) * np.where(x < 0, -1, 1), (1 - np.abs(x)) * np.where(y < 0, -1, 1)], -1
    )
    return np.round(np.where(z[..., None] < 0, folded, flat[..., :2]) * 127)


def _octahedral_decode(encoded: Tensor) -> Tensor:
    xy = encoded.float() / 127
    z = 1 - xy.abs().sum(-1, keepdim=True)
    xy = torch.where(z < 0, (1 - xy.flip(-1).abs()) * torch.where(xy < 0, -1.0, 1.0), xy)
    return torch.nn.functional.normalize(torch.cat([xy, z], -1), dim=-1)
