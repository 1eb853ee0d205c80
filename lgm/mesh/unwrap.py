"""Texture coordinates: a surface cut into charts that lie flat in one square without overlaps.

Our own, since packages for this hang or panic on some closed meshes, take many seconds, or exist
for some Pythons only.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..machine.interrupt import between_steps, report
from .record import Mesh
from .zbuffer import covered

PADDING = 4  # texels around each chart: two mipmaps stay clean
AXES = np.concatenate([np.eye(3), -np.eye(3)])  # charts are seen along one of these
STEEPEST = 0.4  # cosine; a chart's faces are stretched by its inverse at most
NEIGHBOR_WEIGHT = 0.35  # of a neighbor in the same chart, as a cosine: smooth outlines
VOTES = 8  # times that neighbors agree on a chart
PEELS = 4  # layers that a chart is taken apart into; what is hidden then is single triangles
FILL = 0.97  # the step of the texel density in the search for what fits

ANGLES = 8  # of a quarter turn, that a chart's smallest box is sought in


def unwrap(
    vertices: np.ndarray,
    faces: np.ndarray,
    size: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of a mesh in a texture of `size` x `size` texels, the same for the same mesh.

    A chart is what faces one axis and hangs together, seen along that axis; what it hides of itself
    becomes charts of its own. Charts lie in rows, `PADDING` texels apart.

    Args:
        vertices: [V, 3].
        faces: [F, 3]; each keeps its place and the order of its corners.
        device: where the larger part of the work is done.

    Returns:
        uvs [W, 2] float32 in 0..1, v = 0 at the texture's top row; the vertex map [W] int64, from
        new to old vertices; the faces [F, 3] int64 of new vertices.

    Raises:
        ValueError: no faces, or a texture too small for them.
    """
    if not len(faces):
        raise ValueError("Unwrapping needs a mesh with faces, got none.")
    if size < 4 * PADDING:
        raise ValueError(f"A texture needs {4 * PADDING} texels or more on a side, got {size}.")
    corners = vertices.astype(np.float64)[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1) / 2
    normals /= np.maximum(2 * areas, 1e-30)[:, None]
    pairs = adjacent_faces(faces)
    axis = _choose_axes(normals, pairs)
    flat, depth = _project(corners, axis)
    flat[areas <= 0] = 0  # without area there is nothing to place
    flat, depth = (torch.from_numpy(array).to(device) for array in (flat, depth))

    layer = np.zeros(len(faces), np.int64)
    everything = np.arange(len(faces))
    suspects, peel = everything, 0
    while True:
        between_steps()
        charts = _connected(pairs, axis + len(AXES) * layer)
        placed = _pack(flat, charts, size)
        some = torch.from_numpy(suspects).to(device)
        hidden = suspects[_hidden(placed[some], depth[some], size)]
        if not len(hidden) and len(suspects) == len(everything):
            break
        # Only charts that hide something are checked again, and all of them at the end.
        suspects = np.flatnonzero(np.isin(charts, charts[hidden])) if len(hidden) else everything
        peel += 1
        report(peel / (peel + 1))  # how many there will be is not known
        layer[hidden] = layer.max() + 1 + (np.arange(len(hidden)) if peel > PEELS else 0)
    report(1.0)
    uvs = (placed / size).reshape(-1, 2).cpu().numpy()
    # Corners of one old vertex in one chart are one new vertex.
    key = faces.astype(np.int64) * (charts.max() + 1) + charts[:, None]
    _, first, inverse = np.unique(key.ravel(), return_index=True, return_inverse=True)
    return (
        uvs[first].astype(np.float32),
        faces.ravel()[first].astype(np.int64),
        inverse.reshape(-1, 3).astype(np.int64),
    )


def unwrapped(mesh: Mesh, size: int = 1024) -> Mesh:
    """The mesh with uvs for a texture of `size` x `size` texels, and without colors, where it was;
    vertices on the seams of its charts are there once per chart. See `unwrap`.
    """
    arrays = unwrap(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy(), size, mesh.device)
    uvs, origin, faces = (torch.from_numpy(array).to(mesh.device) for array in arrays)
    normals = None if mesh.normals is None else mesh.normals[origin]
    return Mesh(mesh.vertices[origin], faces, normals, uvs)


def adjacent_faces(faces: np.ndarray) -> np.ndarray:
    """Pairs [E, 2] of faces that share an edge."""
    ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    order = np.lexsort(ends.T)
    same = (ends[order[1:]] == ends[order[:-1]]).all(axis=1)
    owner = order // 3
    return np.stack([owner[:-1][same], owner[1:][same]], axis=1)


def _choose_axes(normals: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Choose which of `AXES` each face is seen along: near its normal, its neighbors' if it can."""
    cosines = normals @ AXES.T
    axis = cosines.argmax(axis=1)
    allowed = (cosines >= STEEPEST) | (cosines == cosines.max(axis=1, keepdims=True))
    count = len(normals)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    neighbors = coo_array((np.ones(len(both)), both.T), shape=(count, count)).tocsr()
    for _ in range(VOTES):
        votes = neighbors @ np.eye(len(AXES))[axis]
        axis = np.where(allowed, cosines + NEIGHBOR_WEIGHT * votes, -np.inf).argmax(axis=1)
    return axis


def _project(corners: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners [F, 3, 2] as seen along each face's axis, and their heights [F, 3] towards the eye.

    What is counterclockwise from outside turns from +u to +v.
    """
    side = np.where(axis < 3, 1.0, -1.0)[:, None]
    order = (axis[:, None] % 3 + [1, 2, 0]) % 3
    u, v, height = (np.take_along_axis(corners, o[:, None, None], 2)[..., 0] for o in order.T)
    return np.stack([u * side, v], axis=-1), height * side


def _connected(pairs: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Chart [F] of each face: neighbors with the same label are in one."""
    joined = pairs[label[pairs[:, 0]] == label[pairs[:, 1]]]
    graph = coo_array((np.ones(len(joined), bool), joined.T), shape=(len(label), len(label)))
    return connected_components(graph, directed=False)[1]


def _pack(flat: Tensor, charts: np.ndarray, size: int) -> Tensor:
    """Corners [F, 3, 2] in texels: the charts in rows, the tall ones first, as large as fits."""
    chart = torch.from_numpy(charts).to(flat.device, torch.int64)
    angle = torch.arange(ANGLES, device=flat.device, dtype=flat.dtype) * (math.pi / 2 / ANGLES)
    cosine, sine = angle.cos(), angle.sin()
    # Not a matrix product, which may be rounded to ten bits on a GPU.
    u, v = flat[..., :1], flat[..., 1:]
    turned = torch.stack([u * cosine + v * sine, v * cosine - u * sine])  # [2, F, 3, ANGLES]
    low, high = _boxes(turned, chart)
    spans = high - low  # [2, C, ANGLES]
    best = spans.prod(0).argmin(-1)  # [C]
    index = best.expand(2, -1)[..., None]
    low, sides = low.gather(2, index)[..., 0].T, spans.gather(2, index)[..., 0].T  # [C, 2]
    turned = turned.gather(3, best[chart].expand(2, 3, -1).transpose(1, 2)[..., None])[..., 0]
    turned = turned.movedim(0, -1)
    # Lying charts make flatter rows. A quarter turn: (u, v) -> (-v, u).
    tall = sides[:, 1] > sides[:, 0]
    quarter = torch.stack([-turned[..., 1], turned[..., 0]], dim=-1)
    turned = torch.where(tall[chart][:, None, None], quarter, turned)
    quarter = torch.stack([-low[:, 1] - sides[:, 1], low[:, 0]], dim=-1)
    low = torch.where(tall[:, None], quarter, low)
    sides = torch.where(tall[:, None], sides.flip(1), sides).cpu().numpy()

    density = size / np.sqrt(max(sides.prod(axis=1).sum(), 1e-30))
    while (places := _rows(np.ceil(sides * density).astype(np.int64), size)) is None:
        density *= FILL
        if density * sides.max() < 1:
            raise ValueError(
                f"A texture of {size} x {size} texels is too small for a surface in {len(sides)} "
                "pieces: choose a larger one."
            )
    places = torch.from_numpy(places).to(flat)
    return (turned - low[chart][:, None]) * density + places[chart][:, None]


def _boxes(points: Tensor, chart: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest coordinates [2, C, A] of charts of corners [2, F, 3, A], for A turns."""
    order = chart.argsort(stable=True)
    lengths = torch.bincount(chart)
    low, high = points.amin(2), points.amax(2)
    rows = [x.transpose(0, 1)[order].flatten(1) for x in (low, high)]
    low, high = (
        torch.segment_reduce(  # ty: ignore[missing-attribute]
            row, kind, lengths=lengths, axis=0, unsafe=True
        )
        for row, kind in zip(rows, ("min", "max"), strict=True)
    )
    return tuple(x.view(len(lengths), 2, -1).transpose(0, 1) for x in (low, high))


def _rows(sides: np.ndarray, size: int) -> np.ndarray | None:
    """Place rectangles [C, 2] of texels in rows: their corners [C, 2], or None if they don't fit.

    The tall ones first, each in the first row with room: what comes later is never taller.
    """
    places = np.empty(sides.shape)
    rows: list[list[int]] = []  # where its next chart begins and its top
    bottom = PADDING
    for chart in np.argsort(-sides[:, 1], kind="stable").tolist():
        width, height = sides[chart].tolist()
        row = next((row for row in rows if row[0] + width + PADDING <= size), None)
        if row is None:
            row = [PADDING, bottom]
            rows.append(row)
            bottom += height + PADDING
            if bottom > size or width + 2 * PADDING > size:
                return None
        places[chart] = row
        row[0] += width + PADDING
    return places


def _hidden(placed: Tensor, height: Tensor, size: int) -> np.ndarray:
    """Faces with texels where another face of their chart is higher."""
    found = [
        (pixel, triangle, (weights * height[triangle]).sum(-1))
        for pixel, triangle, weights in covered(placed, size, size)
    ]
    pixel, triangle, level = (torch.cat(part) for part in zip(*found, strict=True))
    top = level.new_full((size * size,), -torch.inf).scatter_reduce_(0, pixel, level, "amax")
    highest = level == top[pixel]
    winner = triangle.new_full((size * size,), len(placed))
    winner.scatter_reduce_(0, pixel[highest], triangle[highest], "amin")
    return triangle[winner[pixel] != triangle].unique().cpu().numpy()
