import numpy as np
import pytest
import torch
import trimesh

from lgm.mesh import metrics
from lgm.mesh.metrics import compare, outer_points

COUNT = 20_000


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    monkeypatch.setattr(metrics, "VIEWS", 16)
    monkeypatch.setattr(metrics, "SIZE", 256)
    monkeypatch.setattr(metrics, "QUERIES", 4000)


def points(shape: trimesh.Trimesh, seed: int = 0, count: int = COUNT) -> np.ndarray:
    vertices = torch.from_numpy(np.array(shape.vertices))
    return outer_points(vertices, torch.from_numpy(np.array(shape.faces)), count, seed)


def ball(radius: float, subdivisions: int = 4) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions, radius)


def box(size: float) -> trimesh.Trimesh:
    return trimesh.creation.box((size, size, size))


def test_a_surface_agrees_with_itself_up_to_the_gaps_between_points():
    first, second = points(box(1), seed=0), points(box(1), seed=1)
    found = compare(first, second, (0.05,))
    gap = 0.5 * (6 / COUNT) ** 0.5  # the mean distance to the nearest of evenly random points
    assert found.chamfer == pytest.approx(gap, rel=0.1)
    assert found.f_scores == (1.0,)


def test_the_same_seed_gives_the_same_points():
    np.testing.assert_array_equal(points(ball(1), seed=3), points(ball(1), seed=3))
    assert (points(ball(1), seed=3) != points(ball(1), seed=4)).any()


@pytest.mark.parametrize("apart", [0.05, 0.2])
def test_balls_one_in_the_other_are_apart_by_their_radii(apart):
    found = compare(points(ball(1)), points(ball(1 - apart)), (0.9 * apart, 1.1 * apart))
    assert found.accuracy == pytest.approx(apart, rel=0.03)
    assert found.completeness == pytest.approx(apart, rel=0.03)
    assert found.f_scores == (0.0, 1.0)


def test_a_shifted_plane_is_as_far_away_as_it_was_shifted():
    card = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    shifted = card.copy()
    shifted.apply_translation([0, 0, 0.04])
    found = compare(points(card), points(shifted), (0.039, 0.045))
    assert found.chamfer == pytest.approx(0.04, rel=0.01)
    assert found.f_scores == (0.0, 1.0)


def test_a_lost_part_is_missed_and_a_stray_one_is_wrong():
    one = trimesh.creation.box((1, 1, 1))
    other = one.copy()
    other.apply_translation([3, 0, 0])
    both = trimesh.util.concatenate([one, other])
    lost = compare(points(one), points(both), (0.05,))
    assert lost.accuracy < 0.03 < 0.5 < lost.completeness
    assert lost.f_scores[0] == pytest.approx(2 / 3, abs=0.02)  # all right, half of it there
    stray = compare(points(both), points(one), (0.05,))
    assert (stray.accuracy, stray.completeness) == pytest.approx(
        (lost.completeness, lost.accuracy), rel=0.05
    )
    assert stray.f_scores[0] == pytest.approx(2 / 3, abs=0.02)


def test_what_is_inside_does_not_count():
    hidden = trimesh.util.concatenate([box(1), ball(0.4, 2)])
    assert np.abs(points(hidden)).max(1) == pytest.approx(0.5)


def test_the_inside_of_an_open_box_counts():
    card = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]], [[0, 1, 2], [0, 2, 3]])
    walls = [card.copy() for _ in range(4)]
    for number, wall in enumerate(walls):
        wall.apply_translation([-0.5, -0.5, -0.5])
        wall.apply_transform(trimesh.transformations.rotation_matrix(number * np.pi / 2, [0, 0, 1]))
    floor = trimesh.Trimesh(
        [[-0.3, -0.3, 0], [0.3, -0.3, 0], [0.3, 0.3, 0], [-0.3, 0.3, 0]], [[0, 1, 2], [0, 2, 3]]
    )
    found = points(trimesh.util.concatenate([*walls, floor]))
    on_floor = np.abs(found[:, 2]) < 1e-9
    assert on_floor.mean() == pytest.approx(0.36 / 4.36, rel=0.1)


def test_points_lie_evenly():
    found = points(box(1))
    face = np.abs(found).argmax(1) * 2 + (np.take_along_axis(
        found, np.abs(found).argmax(1)[:, None], 1)[:, 0] > 0)  # fmt: skip
    np.testing.assert_allclose(np.bincount(face) / COUNT, 1 / 6, atol=0.01)
    for axis in range(3):
        np.testing.assert_allclose(np.histogram(found[:, axis], 4, (-0.4, 0.4))[0] / COUNT,
                                   4 / 6 * 0.2, atol=0.01)  # fmt: skip


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_and_place_change_nothing(scale):
    there = ball(1)
    there.apply_scale(scale)
    there.apply_translation([5 * scale, 0, 0])
    moved = points(there) / scale - [5, 0, 0]
    assert compare(moved, points(ball(1)), (0.03,)).f_scores[0] == pytest.approx(1, abs=1e-3)


def test_nothing_to_see_is_told():
    vertices, faces = torch.zeros(3, 3), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match="can be seen"):
        outer_points(vertices, faces)
