import numpy as np
import pytest
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from lgm.machine.interrupt import working
from lgm.mesh.unwrap import PADDING, STEEPEST, unwrap

SIZE = 192


def spiral_stairs() -> trimesh.Trimesh:
    """A ramp of three turns, one above the other, which all face up and hang together."""
    angle = np.linspace(0, 6 * np.pi, 150)
    rim = np.stack([np.cos(angle), np.sin(angle), angle / 10], axis=1)
    vertices = np.concatenate([rim * [0.4, 0.4, 1], rim])
    first = np.arange(149)
    faces = np.concatenate(
        [
            np.stack([first, first + 150, first + 151], axis=1),
            np.stack([first, first + 151, first + 1], axis=1),
        ]
    )
    return trimesh.Trimesh(vertices, faces, process=False)


def noise() -> trimesh.Trimesh:
    """A sphere so rough that its faces point everywhere and hide each other."""
    mesh = trimesh.creation.icosphere(3)
    rng = np.random.default_rng(0)
    return trimesh.Trimesh(
        mesh.vertices * rng.uniform(0.5, 1.0, (len(mesh.vertices), 1)), mesh.faces, process=False
    )


MESHES = {
    "sphere": trimesh.creation.icosphere(3),
    "torus": trimesh.creation.torus(1, 0.4, 32, 16),
    "cube": trimesh.creation.box(),
    "stairs": spiral_stairs(),
    "noise": noise(),
    "two": trimesh.util.concatenate(
        [
            trimesh.creation.icosphere(2),
            trimesh.creation.icosphere(2, 1e-3).apply_translation([5] * 3),
        ]
    ),
    "triangle": trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]),
}


@pytest.fixture(params=MESHES)
def name(request) -> str:
    return request.param


def parts(name: str):
    mesh = MESHES[name]
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int64)
    return vertices, faces, *unwrap(vertices, faces, SIZE)


def doubled_areas(corners: np.ndarray) -> np.ndarray:
    (ux, uy), (vx, vy) = ((corners[:, i] - corners[:, 0]).T for i in (1, 2))
    return ux * vy - uy * vx


def texels_of(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texels [K, 2] with their center inside a triangle, and which, one triangle at a time."""
    texels, owners = [], []
    for number, triangle in enumerate(corners.astype(np.float64)):
        low, high = np.floor(triangle.min(0)).astype(int), np.ceil(triangle.max(0)).astype(int)
        grid = np.stack(np.meshgrid(*map(np.arange, low, high + 1)), axis=-1).reshape(-1, 2)
        sides = [
            (b[0] - a[0]) * (grid[:, 1] + 0.5 - a[1]) - (b[1] - a[1]) * (grid[:, 0] + 0.5 - a[0])
            for a, b in zip(triangle, np.roll(triangle, -1, axis=0), strict=True)
        ]
        inside = (np.stack(sides) > 1e-2).all(axis=0)  # corners are snapped to 1/256
        texels.append(grid[inside])
        owners.append(np.full(inside.sum(), number))
    return np.concatenate(texels), np.concatenate(owners)


def test_every_face_keeps_its_corners(name):
    _, faces, uvs, origin, new_faces = parts(name)
    np.testing.assert_array_equal(origin[new_faces], faces)
    assert len(uvs) == len(origin) == new_faces.max() + 1 >= len(np.unique(faces))
    assert uvs.dtype == np.float32 and new_faces.dtype == origin.dtype == np.int64


def test_uvs_lie_inside_the_texture_and_nothing_is_flipped(name):
    _, _, uvs, _, faces = parts(name)
    assert uvs.min() >= 0 and uvs.max() <= 1
    assert (doubled_areas(uvs[faces].astype(np.float64)) > -1e-9).all()


def test_no_texel_has_two_triangles(name):
    *_, uvs, _, faces = parts(name)
    texels, _ = texels_of(uvs[faces] * SIZE)
    assert len(texels) == len(np.unique(texels, axis=0))


def test_charts_keep_their_distance(name):
    *_, uvs, _, faces = parts(name)
    texels, owners = texels_of(uvs[faces] * SIZE)
    links = faces[:, [0, 1, 1, 2]].reshape(-1, 2).T
    graph = coo_array((np.ones(links.shape[1]), links), shape=(len(uvs), len(uvs)))
    _, part = connected_components(graph, directed=False)
    chart = part[faces[:, 0]][owners]
    for number in np.unique(chart):
        mine = chart == number
        if mine.all():
            continue
        distance, _ = cKDTree(texels[~mine]).query(texels[mine], p=np.inf)
        assert distance.min() > PADDING


def test_all_of_a_smooth_surface_has_about_the_same_density():
    for name in ("sphere", "torus", "cube"):
        vertices, faces, uvs, _, new_faces = parts(name)
        flat = doubled_areas(uvs[new_faces].astype(np.float64))
        full = 2 * trimesh.triangles.area(vertices[faces].astype(np.float64))
        ratio = flat / full
        assert ratio.min() / ratio.max() > STEEPEST - 0.01


def test_flat_faces_are_whole():
    _, _, uvs, *_ = parts("cube")
    assert len(uvs) == 6 * 4


def test_hanging_together_stays_so():
    """A sphere's few charts: far fewer seams than edges."""
    vertices, _, uvs, *_ = parts("sphere")
    assert len(uvs) < 1.35 * len(vertices)


def test_same_mesh_same_charts():
    for first, second in zip(parts("noise"), parts("noise"), strict=True):
        np.testing.assert_array_equal(first, second)


def test_scale_changes_nothing():
    mesh = MESHES["noise"]
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    for large, small in zip(
        unwrap(vertices * 1024, faces, SIZE), unwrap(vertices, faces, SIZE), strict=True
    ):
        np.testing.assert_array_equal(large, small)


def test_degenerate_faces_are_harmless():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0]], np.float32)
    uvs, _, faces = unwrap(vertices, np.array([[0, 1, 2], [0, 1, 3], [1, 1, 1]]), SIZE)
    assert np.isfinite(uvs).all() and len(faces) == 3


def test_cancel_works():
    class Cancelled(Exception):
        pass

    def check():
        raise Cancelled

    with pytest.raises(Cancelled), working(check):
        unwrap(np.asarray(MESHES["sphere"].vertices), MESHES["sphere"].faces, SIZE)


def test_refuses_what_does_not_fit():
    mesh = MESHES["noise"]
    with pytest.raises(ValueError, match="too small for a surface in"):
        unwrap(np.asarray(mesh.vertices), np.asarray(mesh.faces), 32)
    with pytest.raises(ValueError, match="16 texels or more on a side, got 8"):
        unwrap(np.asarray(mesh.vertices), np.asarray(mesh.faces), 8)
    with pytest.raises(ValueError, match="faces, got none"):
        unwrap(np.zeros((3, 3)), np.zeros((0, 3), int), SIZE)
