"""Fewer triangles per object, with material borders, uvs and hard edges kept; only the pack's
builder needs this file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .obj import SourceMesh

CREASE_DEGREES = 50.0  # sharper edges stay hard; decimated round shapes still look round
PATIENCE = 2  # times the wanted number of triangles
MIN_SHARE = 0.08  # of a closed surface's triangles that stay
NEIGHBORS = 12  # candidate triangles when a corner looks for its old place in the texture


def weld(mesh: SourceMesh, tolerance: float = 1e-5) -> SourceMesh:
    """One vertex per position, without degenerate triangles and without doubles (both windings
    count as one)."""
    extent = max(float(np.ptp(mesh.vertices[mesh.faces.reshape(-1)], axis=0).max()), 1e-12)
    keys = np.round(mesh.vertices / (extent * tolerance)).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    faces = inverse.reshape(-1)[mesh.faces]
    vertices = mesh.vertices[first]
    area = np.linalg.norm(face_normals(vertices, faces), axis=1)
    _, kept = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    mask = np.zeros(len(faces), bool)
    mask[kept] = True
    return replace(mesh, vertices=vertices, faces=faces).select(mask & (area > 1e-12 * extent**2))


def simplify(mesh: SourceMesh, limit: int) -> SourceMesh:
    """A welded mesh with about `limit` triangles, or up to `PATIENCE` times as many where less
    would harm it.

    Every material is simplified by itself with its border locked, so that parts meet without
    cracks. Foliage and gratings then lose some of their loose pieces; what is still too large is
    simplified with free borders, which can eat open surfaces (the caller checks).
    """
    if len(mesh.faces) > limit:
        mesh = _simplify_materials(mesh, limit, lock_border=True)
    if len(mesh.faces) > PATIENCE * limit:
        mesh = _thin_out(mesh, PATIENCE * limit)
    if len(mesh.faces) > PATIENCE * limit:
        mesh = _simplify_materials(mesh, limit, lock_border=False)
    return mesh


def crease_normals(
    vertices: np.ndarray, faces: np.ndarray, degrees: float = CREASE_DEGREES
) -> np.ndarray:
    """Unit corner normals [F, 3, 3]: a mean over neighbors bent by less than `degrees`.

    Windings may be inconsistent, so a neighbor counts with the sign that agrees.
    """
    normals = face_normals(vertices, faces)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    units = normals / np.maximum(lengths, 1e-20)
    order = np.argsort(faces.reshape(-1), kind="stable")
    degree = np.bincount(faces.reshape(-1), minlength=len(vertices))
    starts = np.cumsum(degree) - degree
    per_corner = degree[faces.reshape(-1)]
    corner = np.repeat(np.arange(faces.size), per_corner)
    within = np.arange(len(corner)) - np.repeat(np.cumsum(per_corner) - per_corner, per_corner)
    neighbor = order[starts[faces.reshape(-1)[corner]] + within] // 3
    cosine = (units[corner // 3] * units[neighbor]).sum(1)
    weight = np.where(np.abs(cosine) > np.cos(np.radians(degrees)), np.sign(cosine), 0.0)
    summed = np.stack(
        [np.bincount(corner, weight * normals[neighbor, k], faces.size) for k in range(3)], axis=1
    )
    summed = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-20)
    return summed.reshape(-1, 3, 3)


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals with the length of twice the area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _simplify_materials(mesh: SourceMesh, limit: int, lock_border: bool) -> SourceMesh:
    try:
        import fast_simplification
    except ImportError as error:
        raise RuntimeError(
            "Building the pack needs fast-simplification, which is missing: "
            "pip install fast-simplification."
        ) from error

    counts = np.bincount(mesh.material_ids, minlength=len(mesh.materials))
    # Small parts keep more of their triangles than their share: they are details.
    weights = counts**0.8
    targets = limit * weights / weights.sum()
    vertices, faces, uvs, material_ids = [], [], [], []
    base = 0
    for material in np.flatnonzero(counts):
        part = mesh.select(mesh.material_ids == material)
        used, local = np.unique(part.faces, return_inverse=True)
        points, triangles = part.vertices[used], local.reshape(-1, 3)
        target = max(int(targets[material]), 12)
        if (
            lock_border
        ):  # what can't be reduced must not be paid for by the rest, which would be crushed
            fixed = _border_faces(triangles)
            target = max(target, int(fixed + MIN_SHARE * (len(triangles) - fixed)))
        corner_uvs = part.uvs
        if len(triangles) > target:
            new_points, new_triangles = fast_simplification.simplify(
                points, triangles.astype(np.int32), target_count=target, preserve_border=lock_border
            )
            new_triangles = new_triangles.astype(np.int64)
            if np.isfinite(corner_uvs).any():
                corner_uvs = _transfer_uvs(points, triangles, corner_uvs, new_points, new_triangles)
            else:
                corner_uvs = np.full((len(new_triangles), 3, 2), np.nan)
            points, triangles = new_points, new_triangles
        vertices.append(points)
        faces.append(triangles + base)
        uvs.append(corner_uvs)
        material_ids.append(np.full(len(triangles), material))
        base += len(points)
    return weld(
        replace(
            mesh,
            vertices=np.concatenate(vertices),
            faces=np.concatenate(faces),
            uvs=np.concatenate(uvs),
            material_ids=np.concatenate(material_ids),
        )
    )


def _border_faces(triangles: np.ndarray) -> int:
    """How many triangles touch an open border."""
    edges = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    return int(np.isin(triangles, unique[counts == 1]).any(1).sum())


def _transfer_uvs(
    points: np.ndarray,
    triangles: np.ndarray,
    uvs: np.ndarray,
    new_points: np.ndarray,
    new_triangles: np.ndarray,
) -> np.ndarray:
    """Corner uvs for the simplified triangles: each takes one chart of the old surface and looks
    its corners up there."""
    from scipy.spatial import cKDTree  # ty: ignore[missing-module-member]

    charts = _charts(triangles, uvs)
    old = points[triangles]
    normals = face_normals(points, triangles)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    extent = float(np.ptp(points, axis=0).max())
    # Samples: corners pulled inwards a little, edge middles and the centroid, so that large
    # triangles are found too.
    blend = np.array(
        [[8, 1, 1], [1, 8, 1], [1, 1, 8], [5, 5, 1], [1, 5, 5], [5, 1, 5], [1, 1, 1]], float
    )
    blend /= blend.sum(1, keepdims=True)
    samples = np.einsum("sk,tkd->tsd", blend, old).reshape(-1, 3)
    owner = np.repeat(np.arange(len(triangles)), len(blend))

    new = new_points[new_triangles]
    new_normals = face_normals(new_points, new_triangles)
    new_normals /= np.maximum(np.linalg.norm(new_normals, axis=1, keepdims=True), 1e-20)
    tree = cKDTree(np.hstack([samples, 0.1 * extent * normals[owner]]))
    _, nearest = tree.query(np.hstack([new.mean(1), 0.1 * extent * new_normals]))
    chart = charts[owner[nearest]]

    # The chart's number as a fourth coordinate keeps the search inside the chart.
    tree = cKDTree(np.hstack([samples, 10 * extent * charts[owner, None]]))
    corners = new.reshape(-1, 3)
    count = min(NEIGHBORS, len(samples))
    _, found = tree.query(np.hstack([corners, 10 * extent * np.repeat(chart, 3)[:, None]]), k=count)
    candidates = owner[found.reshape(len(corners), -1)]
    weights, distance = _closest(corners[:, None], old[candidates])
    distance = np.where(charts[candidates] == np.repeat(chart, 3)[:, None], distance, np.inf)
    best = distance.argmin(1)
    rows = np.arange(len(corners))
    return np.einsum("nk,nkd->nd", weights[rows, best], uvs[candidates[rows, best]]).reshape(
        -1, 3, 2
    )


def _charts(triangles: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """Connected pieces in the texture: triangles that share a corner with the same position and
    the same uv."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    keys = np.hstack(
        [
            triangles.reshape(-1, 1),
            np.round(np.nan_to_num(uvs.reshape(-1, 2)) * 4096).astype(np.int64),
        ]
    )
    _, wedge = np.unique(keys, axis=0, return_inverse=True)
    wedge = wedge.reshape(-1, 3)
    count = int(wedge.max()) + 1
    edges = np.vstack([wedge[:, :2], wedge[:, 1:]])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1][wedge[:, 0]]


def _closest(points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric weights and squared distance of (nearly) the closest point of each triangle.

    Outside a triangle the projection's weights are clamped: not exact, but continuous and good
    enough for uvs.
    """
    a, b, c = (triangles[..., k, :] for k in range(3))
    e1, e2, d = b - a, c - a, points - a
    d11, d12, d22 = (e1 * e1).sum(-1), (e1 * e2).sum(-1), (e2 * e2).sum(-1)
    p1, p2 = (d * e1).sum(-1), (d * e2).sum(-1)
    determinant = np.maximum(d11 * d22 - d12**2, 1e-30)
    v = (d22 * p1 - d12 * p2) / determinant
    w = (d11 * p2 - d12 * p1) / determinant
    weights = np.clip(np.stack([1 - v - w, v, w], axis=-1), 0, 1)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-20)
    nearest = np.einsum("...k,...kd->...d", weights, triangles)
    return weights, ((points - nearest) ** 2).sum(-1)


def _thin_out(mesh: SourceMesh, limit: int) -> SourceMesh:
    """Fewer but larger small loose pieces (leaves, bars), drawn at random, with their total area
    kept where possible."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.vstack([mesh.faces[:, :2], mesh.faces[:, 1:]])
    size = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(size, size))
    count, label = connected_components(graph, directed=False)
    piece = label[mesh.faces[:, 0]]
    triangles = np.bincount(piece, minlength=count)
    area = np.bincount(
        piece, np.linalg.norm(face_normals(mesh.vertices, mesh.faces), axis=1), count
    )
    small = area < 0.01 * area.sum()
    room = limit - triangles[~small].sum()
    order = np.random.default_rng(0).permutation(np.flatnonzero(small))
    chosen = order[np.cumsum(triangles[order]) <= room]
    grow = min(np.sqrt(area[small].sum() / max(area[chosen].sum(), 1e-12)), 2.0)
    occurrences = np.maximum(np.bincount(label, minlength=count), 1)
    centers = np.stack(
        [np.bincount(label, mesh.vertices[:, k], count) / occurrences for k in range(3)], 1
    )
    factor = np.where(small, grow, 1.0)[label, None]
    vertices = centers[label] + (mesh.vertices - centers[label]) * factor
    return replace(mesh, vertices=vertices).select(~small[piece] | np.isin(piece, chosen))
