"""The Mesh record: a textured or colored surface, and its way into a `.glb` file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..io.files import write_atomically
from ..io.mesh_glb import mesh_glb


@dataclass(frozen=True)
class Mesh:
    """One triangle mesh, +y up (see `lgm.cameras`), on any one device.

    A texture comes with uvs. Vertices on its seams are there once per chart.
    """

    vertices: Tensor  # [V, 3] float, world units
    faces: Tensor  # [F, 3] int64, counterclockwise seen from outside
    normals: Tensor | None = None  # [V, 3] unit, outward
    uvs: Tensor | None = None  # [V, 2] 0..1 as in glTF: v = 0 is the texture's top row
    texture: Tensor | None = None  # [H, W, 3] sRGB values 0..1
    vertex_colors: Tensor | None = None  # [V, 3] sRGB values 0..1

    def __post_init__(self) -> None:
        count = self.vertices.shape[0] if self.vertices.ndim else 0
        _require("vertices", self.vertices, (count, 3))
        for name, width in (("normals", 3), ("uvs", 2), ("vertex_colors", 3)):
            if (value := getattr(self, name)) is not None:
                _require(name, value, (count, width))
        if self.texture is not None:
            _require("texture", self.texture, (*self.texture.shape[:2], 3))
            if self.uvs is None:
                raise ValueError("A mesh with a texture needs uvs: unwrap it first.")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or self.faces.dtype != torch.int64:
            raise ValueError(
                f"A mesh needs faces [F, 3] of int64, got {list(self.faces.shape)} of "
                f"{self.faces.dtype}."
            )
        if not count or not len(self.faces):
            raise ValueError(f"A mesh needs faces, got {len(self.faces)} on {count} vertices.")
        first, last = self.faces.aminmax()
        if first < 0 or last >= count:
            raise ValueError(
                f"A mesh's faces need vertices 0 to {count - 1}, got {int(first)} to {int(last)}."
            )

    @property
    def face_count(self) -> int:
        return len(self.faces)

    @property
    def device(self) -> torch.device:
        return self.vertices.device

    def to(self, device: torch.device | str) -> Mesh:
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)

    def export(
        self, path: str | Path | None, unlit: bool = True, double_sided: bool = True
    ) -> bytes:
        """The bytes of a `.glb`, also written to `path` unless it is None.

        Args:
            unlit: show the colors as they are, as a splat does: they hold its light already.
            double_sided: show the back of faces too.

        Raises:
            ValueError: the name of another format.
            RuntimeError: the file can't be written.
        """
        if path is not None and Path(path).suffix.lower() != ".glb":
            raise ValueError(f"A mesh is written as .glb, got the name {Path(path).name}.")
        data = mesh_glb(**vars(self), unlit=unlit, double_sided=double_sided)
        if path is not None:
            write_atomically(path, data)
        return data


def _require(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape or not value.is_floating_point():
        raise ValueError(
            f"A mesh needs {name} {list(shape)} of floating point, got {list(value.shape)} of "
            f"{value.dtype}."
        )
    if not value.isfinite().all():
        raise ValueError(f"A mesh needs finite numbers, but {name} holds NaN or infinity.")
