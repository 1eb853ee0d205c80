"""Wavefront OBJ and MTL files -> triangles with corner uvs and flat materials. Positions keep the
file's axes and units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

OPAQUE_BACKDROP = 0.85  # gray behind glass, which is drawn opaque in the resulting color


@dataclass(frozen=True)
class Material:
    color: tuple[float, float, float]  # 0..1, multiplied with the texture
    texture: str | None = None  # file name beside the MTL file
    opacity: float = 1.0


@dataclass(frozen=True)
class SourceMesh:
    """Triangles as numpy arrays: what every importer returns and `usable` takes."""

    vertices: np.ndarray  # [V, 3] float64
    faces: np.ndarray  # [F, 3] int64
    uvs: np.ndarray  # [F, 3, 2] float64 corner coordinates (v up), NaN where the file has none
    material_ids: np.ndarray  # [F] int64, index into materials
    materials: tuple[Material, ...]

    def select(self, mask: np.ndarray) -> SourceMesh:
        """The triangles at `mask`, with all vertices."""
        return replace(
            self, faces=self.faces[mask], uvs=self.uvs[mask], material_ids=self.material_ids[mask]
        )


def read_mtl(text: str) -> dict[str, Material]:
    """Diffuse color, diffuse texture and opacity of every material."""
    materials: dict[str, dict] = {}
    current: dict = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        value = value.strip()
        if key == "newmtl":
            current = materials.setdefault(value, {})
        elif key == "Kd":
            current["color"] = tuple(min(max(float(x), 0.0), 1.0) for x in value.split()[:3])
        elif key == "d":
            current["opacity"] = float(value.split()[-1])
        elif key == "map_Kd" and not value.startswith("-"):
            current["texture"] = value
    return {name: Material(**{"color": (0.8,) * 3, **m}) for name, m in materials.items()}


def read_obj(text: str, read_text: Callable[[str], str]) -> SourceMesh:
    """Parse an OBJ file; `read_text(name)` gives the text of its MTL files.

    Polygons become triangles (concave ones by ear clipping); points and lines are ignored.
    """
    positions: list[str] = []
    coordinates: list[str] = []
    corners: list[str] = []
    sizes: list[int] = []
    face_materials: list[int] = []
    names = {"": 0}
    library: dict[str, Material] = {}
    material = 0
    for line in text.splitlines():
        if line.startswith("v "):
            positions.append(line[2:])
        elif line.startswith("f "):
            tokens = line[2:].split()
            if len(tokens) > 2:
                corners += tokens
                sizes.append(len(tokens))
                face_materials.append(material)
        elif line.startswith("vt "):
            coordinates.append(line[3:])
        elif line.startswith("usemtl "):
            material = names.setdefault(line[7:].strip(), len(names))
        elif line.startswith("mtllib "):
            library |= read_mtl(read_text(line[7:].strip()))
    vertices = _table(positions, 3)
    texture_coordinates = _table(coordinates, 2)
    parts = [token.split("/") for token in corners]
    vertex_ids = _resolve([p[0] for p in parts], len(vertices))
    uv_ids = _resolve(
        [p[1] if len(p) > 1 and p[1] else "0" for p in parts], len(texture_coordinates)
    )
    triangles, polygon_of = _triangulate(vertices, vertex_ids, np.array(sizes, dtype=np.int64))
    padded = np.vstack([texture_coordinates, np.full((1, 2), np.nan)])  # row -1: no coordinates
    default = Material((0.8, 0.8, 0.8))
    return SourceMesh(
        vertices=vertices,
        faces=vertex_ids[triangles],
        uvs=padded[uv_ids[triangles]],
        material_ids=np.array(face_materials, dtype=np.int64)[polygon_of],
        materials=tuple(library.get(name, default) for name in names),
    )


def _table(lines: list[str], width: int) -> np.ndarray:
    return np.array([line.split()[:width] for line in lines], dtype=np.float64).reshape(-1, width)


def _resolve(ids: list[str], count: int) -> np.ndarray:
    """OBJ numbers (from 1, or negative from the end, 0 for absent) as indices from 0, -1 for
    absent."""
    numbers = np.array(ids, dtype=np.int64)
    return np.where(numbers < 0, numbers + count, numbers - 1)


def _triangulate(
    vertices: np.ndarray, ids: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corner indices [F, 3] of the triangles of polygons with `sizes` corners, and each one's
    polygon [F]."""
    starts = np.cumsum(sizes) - sizes
    triangles, polygons = [], []

    three = np.flatnonzero(sizes == 3)
    triangles.append(starts[three, None] + np.arange(3))
    polygons.append(three)

    four = np.flatnonzero(sizes == 4)
    quads = starts[four, None] + np.arange(4)
    points = vertices[ids[quads]]
    normals = np.cross(
        np.roll(points, -1, 1) - points, np.roll(points, 1, 1) - points
    )  # at every corner; a reflex corner's points the other way
    reflex = (normals * normals.sum(1, keepdims=True)).sum(-1) < 0
    swap = reflex[:, 1] | reflex[:, 3]  # the diagonal has to start at the reflex corner
    quads[swap] = np.roll(quads[swap], -1, axis=1)
    triangles += [quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]
    polygons += [four, four]

    clipped, owners = [], []
    for polygon in np.flatnonzero(sizes > 4):
        corners = np.arange(starts[polygon], starts[polygon] + sizes[polygon])
        ears = _clip_ears(vertices[ids[corners]])
        clipped.append(corners[ears])
        owners.append(np.full(len(ears), polygon))
    if clipped:
        triangles.append(np.concatenate(clipped))
        polygons.append(np.concatenate(owners))
    return np.concatenate(triangles), np.concatenate(polygons)


def _clip_ears(points: np.ndarray) -> np.ndarray:
    """Triangles [n - 2, 3] of one planar polygon [n, 3], convex or not."""
    count = len(points)
    fan = np.stack([np.zeros(count - 2, int), np.arange(1, count - 1), np.arange(2, count)], 1)
    normal = np.cross(points[fan[:, 1]] - points[0], points[fan[:, 2]] - points[0]).sum(0)
    drop = np.abs(normal).argmax()
    flat = np.delete(points, drop, axis=1)
    if normal[drop] * (-1 if drop == 1 else 1) < 0:  # make it run counter-clockwise
        flat = flat * [1, -1]

    def cross(a, b, c):
        return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
            c[..., 0] - a[..., 0]
        )

    if (cross(flat, np.roll(flat, -1, 0), np.roll(flat, -2, 0)) >= 0).all():
        return fan
    ring, triangles = list(range(count)), []
    while len(ring) > 3:
        for k in range(len(ring)):
            ear = [ring[k - 1], ring[k], ring[(k + 1) % len(ring)]]
            a, b, c = flat[ear]
            others = flat[[i for i in ring if i not in ear]]
            inside = (
                (cross(a, b, others) > 0) & (cross(b, c, others) > 0) & (cross(c, a, others) > 0)
            )
            if cross(a, b, c) > 0 and not inside.any():
                break
        else:
            k = 0  # degenerate or self-crossing: any cut is as good
        triangles.append([ring[k - 1], ring[k], ring[(k + 1) % len(ring)]])
        del ring[k]
    return np.array([*triangles, ring])
