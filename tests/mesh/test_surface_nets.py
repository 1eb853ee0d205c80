import numpy as np
import pytest
import torch

from lgm.mesh.surface_nets import surface_nets


def ball(side: int = 32, radius: float = 10.0, center: tuple = (15.3, 15.6, 15.1)):
    axis = torch.arange(side, dtype=torch.float32)
    places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    return (places - torch.tensor(center)).norm(dim=-1) - radius


def assert_closed(faces: np.ndarray) -> None:
    """Each edge is there once in each direction: no border, nothing shared by three faces."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there = edges[:, 0] * (faces.max() + 1) + edges[:, 1]
    back = edges[:, 1] * (faces.max() + 1) + edges[:, 0]
    assert len(np.unique(there)) == len(there)
    np.testing.assert_array_equal(np.sort(there), np.sort(back))


def fans(faces: np.ndarray) -> int:
    """How many closed fans of faces lie around the vertices: as many as vertices on a manifold."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Two corners at the same vertex are neighbors if their faces share an edge there.
    corner = np.arange(faces.size).reshape(-1, 3)
    start, end = faces, np.roll(faces, -1, 1)
    nxt = np.roll(corner, -1, 1)
    size = faces.max() + 1
    forward = np.argsort((start * size + end).ravel())
    backward = np.argsort((end * size + start).ravel())
    one = np.concatenate([corner.ravel()[forward], nxt.ravel()[forward]])
    other = np.concatenate([nxt.ravel()[backward], corner.ravel()[backward]])
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(faces.size, faces.size))
    return connected_components(graph, directed=False)[0]


def test_a_ball_is_found_to_a_fraction_of_a_voxel():
    origin, voxel = torch.tensor([1.0, -2.0, 3.0]), 0.1
    vertices, faces = surface_nets(ball(), origin, voxel)
    center = origin.numpy() + voxel * np.array([15.3, 15.6, 15.1])
    offsets = vertices - center
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), 1.0, atol=0.02)
    a, b, c = (offsets[faces[:, corner]] for corner in range(3))
    outward = (np.cross(b - a, c - a) * (a + b + c)).sum(1)
    assert (outward > 0).all()
    assert len(vertices) - len(faces) // 2 == 2
    assert_closed(faces)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("level", [-0.8, 0.0, 0.8])
def test_any_field_gives_a_closed_manifold(seed, level):
    field = torch.randn(14, 15, 16, generator=torch.Generator().manual_seed(seed)) + level
    vertices, faces = surface_nets(field, torch.zeros(3), 1.0)
    assert_closed(faces)
    assert fans(faces) == len(vertices) == len(np.unique(faces))
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    assert (np.linalg.norm(np.cross(b - a, c - a), axis=1) > 0).all()


def test_two_corners_that_touch_diagonally_are_joined():
    for step in ([1, 1, 0], [1, 1, 1]):
        field = torch.ones(6, 6, 6)
        field[2, 2, 2] = field[tuple(2 + s for s in step)] = -1
        _, faces = surface_nets(field, torch.zeros(3), 1.0)
        assert_closed(faces)


def test_values_at_the_grids_end_are_closed_off_and_the_scale_does_not_matter():
    full = torch.full((4, 5, 6), -1.0)
    vertices, faces = surface_nets(full, torch.zeros(3), 1.0)
    assert_closed(faces)
    assert (vertices.min(0) < 0).all() and (vertices.max(0) > [3, 4, 5]).all()
    torch.testing.assert_close(
        surface_nets(ball() * 7, torch.zeros(3), 1.0)[0],
        surface_nets(ball(), torch.zeros(3), 1.0)[0],
        rtol=0,
        atol=1e-4,
    )


def test_nothing_inside_gives_nothing():
    vertices, faces = surface_nets(torch.ones(4, 4, 4), torch.zeros(3), 1.0)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)
