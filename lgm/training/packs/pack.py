"""A mesh pack on the device: textured meshes of one file, given as batches of triangles by index.

Objects are y-up with the front on +z. `lgm dataset` writes the file. A mesh has one material row
per surface color; a row has a color and possibly a tile of the shared texture atlas.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..rasterize import TriangleSoup
from .mesh import EVALUATION_FILL, TILE, _project_uvs, fit
from .pack_file import FORMAT, _octahedral_decode, unsqueeze


@dataclass(frozen=True)
class Augmentation:
    """Random changes of B objects with K materials in all. They are drawn on the CPU, which makes
    them the same on every device.
    """

    linear: Tensor  # [B, 3, 3] rotation, scale, mirror
    fill: Tensor  # [B] part of the frame the object spans in the four input views
    colors: Tensor  # [K, 3] material colors, multiplied with the texture
    textures: Tensor  # [K] int64 rows of the pack's atlas, -1 for plain color
    tints: Tensor  # [K, 3, 3] matrices applied to the texture's colors


@dataclass(frozen=True)
class MeshPack:
    """M objects with T triangles and K materials in all."""

    corners: Tensor  # [T, 3, 3] float32, centered, longest half-extent 1
    normals: Tensor  # [T, 3, 3] float32
    uvs: Tensor  # [T, 3, 2] float32, projected along an axis where the mesh had none
    materials: Tensor  # [T] int64, counted from the object's first material
    atlas: Tensor  # [A, 3, 128, 128] uint8; also a source of real textures for other generators
    colors: Tensor  # [K, 3] float32, on the CPU
    textures: Tensor  # [K] int64 rows of the atlas, -1 for plain color, on the CPU
    triangle_starts: np.ndarray  # [M + 1] int64
    material_starts: np.ndarray  # [M + 1] int64
    entries: list[dict]  # M times name, family, library, creator, license, split

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> MeshPack:
        """Read a pack and unfold it on `device` (about 0.1 GB per million triangles).

        Raises:
            ValueError: the file is not a mesh pack of this version.
        """
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a safetensors file ({error}): build it with `lgm dataset`."
            ) from error
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {metadata.get('format')!r}, needed is {FORMAT!r}: "
                "build it with `lgm dataset`."
            )
        layout = json.loads(metadata.get("arrays", "{}"))
        missing = layout.keys() - stored.keys() or {"jpegs"} - stored.keys()
        if missing or not layout:
            raise ValueError(
                f"{path} lacks {', '.join(sorted(missing)) or 'its arrays'}: build it again with "
                "`lgm dataset`."
            )
        arrays = {name: unsqueeze(stored[name], *layout[name]) for name in layout}
        triangle_starts, material_starts, vertex_starts, atlas_starts = (
            np.concatenate([[0], np.cumsum(arrays[f"{name}_counts"].astype(np.int64))])
            for name in ("triangle", "material", "vertex", "jpeg")
        )
        atlas = [
            np.asarray(Image.open(io.BytesIO(stored["jpegs"][a:b].tobytes())).convert("RGB"))
            for a, b in pairwise(atlas_starts)
        ]
        faces = arrays["faces"].astype(np.int64)
        faces += np.repeat(vertex_starts[:-1], np.diff(triangle_starts))[:, None]
        vertices = torch.from_numpy(arrays["vertices"]).to(device).float() / 32767
        corners = vertices[torch.from_numpy(faces).to(device)]
        textured = torch.from_numpy(arrays["has_uv"]).to(device).bool()
        uvs = _project_uvs(corners)
        uvs[textured] = torch.from_numpy(arrays["uvs"]).to(device).float()
        tiles = np.stack(atlas) if atlas else np.zeros((0, TILE, TILE, 3), np.uint8)
        return cls(
            corners=corners,
            normals=_octahedral_decode(torch.from_numpy(arrays["normals"]).to(device)),
            uvs=uvs,
            materials=torch.from_numpy(arrays["materials"].astype(np.int64)).to(device),
            atlas=torch.from_numpy(tiles).movedim(-1, 1).contiguous().to(device),
            colors=torch.from_numpy(arrays["colors"].astype(np.float32) / 255),
            textures=torch.from_numpy(arrays["textures"].astype(np.int64)),
            triangle_starts=triangle_starts,
            material_starts=material_starts,
            entries=json.loads(metadata["entries"]),
        )

    @classmethod
    def joined(cls, packs: Sequence[MeshPack]) -> MeshPack:
        """The objects of several packs as one, in order; each may take any pack's textures."""
        if len(packs) == 1:
            return packs[0]

        def stacked(name: str) -> Tensor:
            return torch.cat([getattr(pack, name) for pack in packs])

        def starts(name: str) -> np.ndarray:
            counts = [np.diff(getattr(pack, name)) for pack in packs]
            return np.concatenate([[0], np.concatenate(counts).cumsum()])

        fields = ("corners", "normals", "uvs", "materials", "atlas", "colors")
        rows = np.cumsum([0, *(len(pack.atlas) for pack in packs)])
        textures = [
            torch.where(pack.textures < 0, -1, pack.textures + int(first))
            for pack, first in zip(packs, rows, strict=False)
        ]
        return cls(
            **{name: stacked(name) for name in fields},
            textures=torch.cat(textures),
            triangle_starts=starts("triangle_starts"),
            material_starts=starts("material_starts"),
            entries=[entry for pack in packs for entry in pack.entries],
        )

    def __len__(self) -> int:
        return len(self.entries)

    def split_indices(self, split: str) -> list[int]:
        return [i for i, entry in enumerate(self.entries) if entry["split"] == split]

    @property
    def train_indices(self) -> list[int]:
        return self.split_indices("train")

    @property
    def t1_indices(self) -> list[int]:
        return self.split_indices("t1")

    @property
    def t2_indices(self) -> list[int]:
        return self.split_indices("t2")

    def draw_indices(self, count: int, rng: np.random.Generator) -> list[int]:
        """Random training objects; one of a family of n twins comes with weight 1 / sqrt(n)."""
        train = self.train_indices
        families = Counter(self.entries[i]["family"] for i in train)
        weights = np.array([families[self.entries[i]["family"]] ** -0.5 for i in train])
        return rng.choice(train, count, p=weights / weights.sum()).tolist()

    def keep(self, indices: list[int]) -> Augmentation:
        """The objects as they are, at the size of the evaluation set."""
        rows = _ranges(self.material_starts, indices)
        return Augmentation(
            linear=torch.eye(3).expand(len(indices), 3, 3),
            fill=torch.full((len(indices),), EVALUATION_FILL),
            colors=self.colors[rows],
            textures=self.textures[rows],
            tints=torch.eye(3).expand(len(rows), 3, 3),
        )

    def draw_augmentation(self, indices: list[int], rng: np.random.Generator) -> Augmentation:
        """Random pose, proportions, size and surface for the objects at `indices`."""
        rows = _ranges(self.material_starts, indices)
        owner = np.repeat(np.arange(len(indices)), np.diff(self.material_starts)[indices])
        colors, textures = self.colors[rows].numpy().copy(), self.textures[rows].numpy().copy()
        plain = textures < 0

        recolored = (rng.random(len(indices)) < 0.6)[owner] & (rng.random(len(rows)) < 0.7) & plain
        colors[recolored] = _random_colors(rng, len(rows))[recolored]
        # Another surface: some of the materials of some objects get any picture of the atlas.
        swapped = (rng.random(len(indices)) < 0.3)[owner] & (rng.random(len(rows)) < 0.6)
        if len(self.atlas):
            textures[swapped] = rng.integers(len(self.atlas), size=len(rows))[swapped]
            colors[swapped] = rng.uniform(0.85, 1.0, (len(rows), 1))[swapped]
        tints = _random_tints(rng, len(indices))[owner]
        plain = textures < 0
        colors[plain] = np.einsum("kij,kj->ki", tints[plain], colors[plain]).clip(0, 1)
        return Augmentation(
            linear=torch.from_numpy(_random_linear(rng, len(indices))).float(),
            fill=torch.from_numpy(rng.uniform(0.6, 0.95, len(indices))).float(),
            colors=torch.from_numpy(colors),
            textures=torch.from_numpy(textures),
            tints=torch.from_numpy(tints).float(),
        )

    def soup(self, indices: list[int], augmentation: Augmentation | None = None) -> TriangleSoup:
        """The objects at `indices` as a batch, each centered and fitted into the input cameras'
        frame.

        Args:
            indices: B objects; repeats are fine.
            augmentation: from `draw_augmentation` for the same indices; None shows them as they
                are.
        """
        change = augmentation or self.keep(indices)
        device = self.corners.device
        counts = torch.from_numpy(np.diff(self.triangle_starts)[indices])
        materials = np.diff(self.material_starts)[indices]
        total = int(counts.sum())
        shift = torch.from_numpy(self.triangle_starts[:-1][indices]) - (counts.cumsum(0) - counts)
        first_material = torch.from_numpy(np.cumsum(materials) - materials)
        per_object = torch.stack([shift, first_material]).to(device)
        objects = torch.arange(len(indices), device=device).repeat_interleave(
            counts.to(device),
            output_size=total,  # known here, so the device need not be waited for
        )
        rows = torch.arange(total, device=device) + per_object[0][objects]

        linear = change.linear.to(device)
        corners = torch.einsum("tij,tcj->tci", linear[objects], self.corners[rows])
        upright = torch.linalg.inv(change.linear).transpose(-1, -2).to(device)
        normals = torch.einsum("tij,tcj->tci", upright[objects], self.normals[rows])

        textured = change.textures >= 0
        tiles = self.atlas[change.textures[textured].to(device)]
        if augmentation is not None and len(tiles):
            tints = change.tints[textured].to(device)
            mixed = torch.bmm(tints, tiles.flatten(2).float()).clamp_(0, 255).to(torch.uint8)
            tiles = mixed.reshape(tiles.shape)
        slots = torch.where(textured, textured.cumsum(0) - 1, -1).to(device)
        material = self.materials[rows] + per_object[1][objects]
        return TriangleSoup(
            corners=fit(corners, objects, change.fill.to(device)),
            normals=torch.nn.functional.normalize(normals, dim=-1),
            uvs=self.uvs[rows],
            colors=change.colors.to(device)[material],
            textures=slots[material],
            objects=objects,
            atlas=tiles,
            count=len(indices),
        )


def _ranges(starts: np.ndarray, indices: list[int]) -> np.ndarray:
    """The rows of several items, concatenated; item i has the rows starts[i] to starts[i + 1]."""
    counts = np.diff(starts)[indices]
    return np.arange(counts.sum()) + np.repeat(
        starts[:-1][indices] - (np.cumsum(counts) - counts), counts
    )


def _random_linear(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 3, 3]: proportions 0.7 to 1.4, maybe mirrored, turned about y, tilted a little."""
    scale = np.exp(rng.uniform(math.log(0.7), math.log(1.4), (count, 3)))
    scale[:, 0] *= np.where(rng.random(count) < 0.5, -1, 1)
    # Half of the objects face an input camera, as in real use; the others have any azimuth.
    quarter = rng.integers(4, size=count) * (math.pi / 2) + rng.normal(0, math.radians(4), count)
    turn = np.where(rng.random(count) < 0.5, quarter, rng.uniform(0, 2 * math.pi, count))
    tilt = rng.normal(0, math.radians(6), (count, 2)).clip(-0.3, 0.3)
    return _rotation(tilt[:, 0], 0) @ _rotation(tilt[:, 1], 2) @ _rotation(turn, 1) * scale[:, None]


def _rotation(angles: np.ndarray, axis: int) -> np.ndarray:
    """Rotations [N, 3, 3] about a coordinate axis, radians."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.tile(np.eye(3), (len(angles), 1, 1))
    matrices[:, a, a] = matrices[:, b, b] = np.cos(angles)
    matrices[:, b, a], matrices[:, a, b] = np.sin(angles), -np.sin(angles)
    return matrices


def _random_colors(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 3] from gray to vivid, dark and light."""
    hue = rng.random((count, 1)) * 6 + np.array([0, 4, 2])
    pure = (np.abs(hue % 6 - 3) - 1).clip(0, 1)
    saturation, value = rng.random((count, 1)) ** 0.8, 0.08 + 0.92 * rng.random((count, 1)) ** 0.6
    return (value * (1 - saturation * (1 - pure))).astype(np.float32)


def _random_tints(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 3, 3] float32: for half of them a turn of the hue with other saturation and
    brightness, else identity."""
    angle = rng.uniform(-math.pi, math.pi, count)
    axis = np.full(3, 1 / math.sqrt(3))
    gray = np.outer(axis, axis)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    hue = gray + rng.uniform(0.5, 1.3, (count, 1, 1)) * (cos * (np.eye(3) - gray) + sin * across)
    hue *= rng.uniform(0.75, 1.2, (count, 1, 1))
    changed = (rng.random(count) < 0.5)[:, None, None]
    return np.where(changed, hue, np.eye(3)).astype(np.float32)
