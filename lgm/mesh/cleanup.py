"""A raw surface made presentable: no stray pieces, no holes, smooth, with a budget of faces."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ..machine.interrupt import between_steps, report, subtask
from .decimate import decimate, sums_at
from .record import Mesh

FORWARD, BACKWARD = 0.5, -0.53  # Taubin's (1995) pair of steps: noise goes, the volume stays
MIN_FACES = 4  # a tetrahedron's


def cleaned(
    mesh: Mesh,
    target_faces: int = 30_000,
    smoothing: int = 10,
    fill_holes: bool = True,
    min_component: float = 0.002,
) -> Mesh:
    """The mesh in float32 with unit normals, and without uvs and colors, where it was.

    Each edge of a closed surface keeps its two faces; holes that stay open keep their borders.

    Args:
        mesh: of any scale; only its vertices and faces are used.
        target_faces: at most so many, unless that would tear the surface or flip faces.
        smoothing: pairs of steps that take noise away and keep the volume; 0 for none.
        fill_holes: close what is open.
        min_component: separate pieces smaller than this part of the largest one go, 0..1, see
            `large_components`; 0 keeps all but the walls of bubbles inside.

    Raises:
        ValueError: no usable faces, or a setting out of range.
    """
    if not target_faces >= MIN_FACES:
        raise ValueError(
            f"A mesh needs {MIN_FACES} faces or more, got target_faces {target_faces}."
        )
    if not smoothing >= 0:
        raise ValueError(f"Smoothing needs 0 steps (off) or more, got {smoothing}.")
    if not 0 <= min_component <= 1:
        raise ValueError(f"min_component is a part from 0 to 1, got {min_component}.")
    between_steps()
    vertices, faces = large_components(*_usable(mesh), min_component)
    if fill_holes:
        between_steps()
        vertices, faces = filled(vertices, faces)
    report(0.2)
    vertices, faces = (torch.from_numpy(array).to(mesh.device) for array in (vertices, faces))
    vertices = smoothed(vertices, faces, smoothing)
    report(0.3)
    if len(faces) > target_faces:
        with subtask(0.3, 1.0):
            vertices, faces = decimate(vertices, faces, target_faces)
    between_steps()
    normals = vertex_normals(vertices, faces)
    report(1.0)
    return Mesh(vertices.float(), faces, normals.float())


def large_components(
    vertices: np.ndarray, faces: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Remove pieces whose area is less than `share` of the largest one's, unless they are as long
    as a piece of its shape and that area would be: floaters are round, straps and rods are not.
    Inside-out pieces go, too: they are bubbles in the material.
    """
    labels = _labels(len(vertices), faces)[faces[:, 0]]
    normals = face_normals(vertices, faces)
    areas = np.bincount(labels, np.sqrt((normals**2).sum(1)))
    heights = np.einsum("ij,ij->i", normals, vertices[faces[:, 0]] - vertices.mean(0))
    volumes = np.bincount(labels, heights)
    outward = volumes > 0 if (volumes > 0).any() else np.ones(len(volumes), bool)
    largest = np.where(outward, areas, 0).argmax()
    lengths = _lengths(vertices[faces[:, 0]], labels)
    long = lengths >= np.sqrt(share) * lengths[largest]
    good = outward & ((areas >= share * areas[largest]) | long)
    return _compact(vertices, faces[good[labels]])


def _lengths(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[L] diagonals of the boxes around the points [P, 3] with each label."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    low, high = (f.reduceat(points[order], starts) for f in (np.minimum, np.maximum))
    return np.linalg.norm(high - low, axis=1)


def filled(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Close each hole with a fan of triangles around the middle of its border."""
    border = _border(faces)
    if not len(border):
        return vertices, faces
    middles, fans = [], []
    for loop in _loops(border):
        middle = np.full(len(loop), len(vertices) + len(middles))
        fans.append(np.stack([loop, np.roll(loop, -1), middle], axis=1))
        middles.append(vertices[loop].mean(0))
    if not fans:
        return vertices, faces
    return np.concatenate([vertices, middles]), np.concatenate([faces, *fans])


def _loops(edges: np.ndarray) -> list[list[int]]:
    """Join directed edges [E, 2] to closed loops that pass no vertex twice."""
    following: dict[int, list[int]] = {}
    for start, end in edges.tolist():
        following.setdefault(start, []).append(end)
    loops = []
    for start in list(following):
        path, step_of, current = [], {}, start
        while following.get(current):
            step_of[current] = len(path)
            path.append(current)
            current = following[current].pop()
            if current in step_of:  # where holes touch, one is done
                loop = path[step_of[current] :]
                loops.append(loop)
                del path[step_of[current] :]
                for vertex in loop:
                    del step_of[vertex]
    return [loop for loop in loops if len(loop) > 2]


def smoothed(vertices: Tensor, faces: Tensor, steps: int) -> Tensor:
    """Vertices [V, 3] moved `steps` times towards the mean of their neighbors and back. The border
    of a hole stays.
    """
    if not steps:
        return vertices
    count = len(vertices)
    one, other = faces[:, [0, 1, 1, 2, 2, 0]].view(-1, 2).unbind(1)
    keys = torch.cat([one * count + other, other * count + one]).unique()  # both ways, each once
    neighbors, degrees = keys % count, torch.bincount(keys // count, minlength=count)
    weights = 1 / degrees.clamp(min=1)[:, None]
    free = (degrees > 0)[:, None].to(vertices)
    border = torch.from_numpy(_border(faces.cpu().numpy()).ravel()).to(faces)
    weights[border], free[border] = 0, 0
    for _ in range(steps):
        between_steps()
        for factor in (FORWARD, BACKWARD):
            around = torch.segment_reduce(  # ty: ignore[missing-attribute]
                vertices.index_select(0, neighbors), "sum", lengths=degrees, axis=0, unsafe=True
            )
            vertices = vertices + factor * (weights * around - free * vertices)
    return vertices


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals [V, 3]: means over the faces around, by area."""
    a, b, c = (vertices[corner] for corner in faces.unbind(1))
    normals = torch.linalg.cross(b - a, c - a)
    sums = sums_at(faces.reshape(-1), normals.repeat_interleave(3, 0), len(vertices))
    lengths = sums.norm(dim=-1, keepdim=True)
    up = sums.new_tensor([0.0, 1.0, 0.0])  # for what has no area: glTF wants unit normals
    return torch.where(lengths > 0, sums / torch.where(lengths > 0, lengths, 1), up)


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals [F, 3] with the length of twice the area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _usable(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] float64 and faces [F, 3] with three different corners."""
    vertices, faces = mesh.vertices.cpu().double().numpy(), mesh.faces.cpu().numpy()
    a, b, c = faces.T
    good = (a != b) & (b != c) & (c != a)
    if not good.any():
        raise ValueError(
            f"Cleaning needs a mesh with faces, but none of the {len(faces)} has three different "
            "corners."
        )
    return _compact(vertices, faces[good])


def _compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove vertices that no face needs."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces]


def _edges(faces: np.ndarray) -> np.ndarray:
    """[3F, 2] in the direction of their faces."""
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def _labels(count: int, faces: np.ndarray) -> np.ndarray:
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = csr_array((np.ones(len(edges), bool), tuple(edges.T)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _border(faces: np.ndarray) -> np.ndarray:
    """Edges [E, 2] without a face on their other side, in the direction this one would have."""
    edges = _edges(faces)
    size = faces.max() + 1
    there, back = edges[:, 0] * size + edges[:, 1], edges[:, 1] * size + edges[:, 0]
    ordered = np.sort(there)
    if np.array_equal(ordered, np.sort(back)):
        return edges[:0]
    found = ordered[np.searchsorted(ordered, back).clip(max=len(ordered) - 1)]
    return edges[found != back][:, ::-1]
