import numpy as np
import pytest
import torch

from lgm.machine.interrupt import working
from lgm.mesh import cleanup as cleaning
from lgm.mesh import decimate as decimation
from lgm.mesh.cleanup import filled, large_components
from lgm.mesh.surface_nets import surface_nets

from .shapes import clean


def grid(side: int) -> torch.Tensor:
    axis = torch.linspace(-1, 1, side)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def surface(field: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return surface_nets(field, torch.full((3,), -1.0), 2 / (len(field) - 1))


def ball(radius: float = 0.6, center=(0.0, 0.0, 0.0), side: int = 40):
    return surface((grid(side) - torch.tensor(center)).norm(dim=-1) - radius)


def ring(side: int = 48):
    x, y, z = grid(side).unbind(-1)
    return surface((((x**2 + z**2).sqrt() - 0.6) ** 2 + y**2).sqrt() - 0.25)


def volume(vertices, faces) -> float:
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


def euler(vertices, faces) -> int:
    return len(vertices) + len(faces) - len(faces) * 3 // 2


def joined(*parts) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    faces = [faces + start for (_, faces), start in zip(parts, starts, strict=False)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces)


def is_closed(faces: np.ndarray) -> bool:
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there = edges[:, 0] * (faces.max() + 1) + edges[:, 1]
    back = edges[:, 1] * (faces.max() + 1) + edges[:, 0]
    return len(np.unique(there)) == len(there) and np.array_equal(np.sort(there), np.sort(back))


def decimate(vertices, faces, target: int) -> tuple[np.ndarray, np.ndarray]:
    arrays = map(torch.from_numpy, (vertices, faces))
    return tuple(x.numpy() for x in decimation.decimate(*arrays, target))


def smoothed(vertices, faces, steps: int) -> np.ndarray:
    return cleaning.smoothed(*map(torch.from_numpy, (vertices, faces)), steps).numpy()


@pytest.mark.parametrize("target", [4000, 1000, 200])
@pytest.mark.parametrize("make, genus", [(ball, 0), (ring, 1)])
def test_decimation_keeps_the_shape(make, genus, target):
    vertices, faces = make()
    fewer_vertices, fewer = decimate(vertices, faces, target)
    assert target - 2 <= len(fewer) <= target
    assert is_closed(fewer)
    assert euler(fewer_vertices, fewer) == 2 - 2 * genus
    tolerance = 0.007 if target >= 1000 else 0.04  # a ring of 200 inscribed faces loses 8 %
    assert volume(fewer_vertices, fewer) == pytest.approx(volume(vertices, faces), rel=tolerance)


def test_decimation_flips_no_face_and_spends_faces_where_it_is_curved():
    # A ball whose lower half is a box: flat there.
    x, y, z = grid(48).unbind(-1)
    round_part = (x**2 + y**2 + z**2).sqrt() - 0.7
    box = torch.stack([x.abs() - 0.5, z.abs() - 0.5, -y - 0.8, y]).amax(0)
    start, around = surface(torch.minimum(round_part, box))
    ratios = []
    for seed in range(4):  # the vertices' order decides between equals: 1.21 to 1.43 was seen
        order = np.random.default_rng(seed).permutation(len(start))
        vertices, faces = decimate(start[order], np.argsort(order)[around], 1500)
        a, b, c = (vertices[faces[:, corner]] for corner in range(3))
        normals = np.cross(b - a, c - a)
        middles = (a + b + c) / 3
        up = middles[:, 1] > 0.1
        assert ((normals * middles)[up].sum(1) > 0).all()
        below = (middles[:, 1] < -0.78) & (np.abs(middles[:, [0, 2]]) < 0.4).all(1)
        assert (normals[below, 1] < 0).all()
        area = np.linalg.norm(normals, axis=1)
        ratios.append(area[below].mean() / area[up].mean())
    assert np.mean(ratios) > 1.2


def test_decimation_stops_where_the_surface_would_tear():
    vertices, faces = decimate(*joined(ring(), ball(0.2)), 4)
    assert is_closed(faces)
    assert 8 <= len(faces) <= 400
    assert euler(vertices, faces) == 0 + 2


def test_small_pieces_and_bubbles_go_and_large_ones_stay():
    bubble_vertices, bubble = ball(0.3)
    two = joined(
        ball(0.6),
        (bubble_vertices, bubble[:, ::-1]),
        ball(0.05, center=(0.9, 0.9, 0.9)),
        (ball(0.4)[0] + [3, 0, 0], ball(0.4)[1]),
    )
    vertices, faces = large_components(*two, 0.05)
    assert euler(vertices, faces) == 4
    assert volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * (0.6**3 + 0.4**3), rel=0.02)
    assert len(np.unique(faces)) == len(vertices)
    assert euler(*large_components(*two, 0.0)) == 6
    assert euler(*large_components(*two, 1.0)) == 2


def test_a_thin_rod_is_no_floater():
    x, y, z = grid(64).unbind(-1)
    rod = surface(torch.maximum((x**2 + z**2).sqrt() - 0.04, y.abs() - 0.5))
    floater = ball(0.1, side=64)
    rod, floater = ((vertices + shift, faces) for (vertices, faces), shift in
                    ((rod, [2, 0, 0]), (floater, [0, 2, 0])))  # fmt: skip
    vertices, faces = large_components(*joined(ball(0.9), rod, floater), 0.03)
    assert vertices[:, 0].max() > 1.9 and vertices[:, 1].max() < 1
    assert euler(vertices, faces) == 4


def test_holes_are_filled():
    vertices, faces = ball()
    rng = np.random.default_rng(0)
    open_faces = np.delete(faces, rng.choice(len(faces), 40, replace=False), axis=0)
    open_faces = open_faces[vertices[open_faces].mean(1)[:, 1] < 0.5]  # and one large one
    assert not is_closed(open_faces)
    closed_vertices, closed = filled(vertices, open_faces)
    assert is_closed(closed)
    assert volume(closed_vertices, closed) == pytest.approx(
        np.pi * (0.6**2 * 1.1 - (0.5**3 + 0.6**3) / 3), rel=0.02
    )
    kept_vertices, kept, _ = clean(vertices, open_faces, 10**7, 0, fill_holes=False)
    assert not is_closed(kept)
    np.testing.assert_allclose(kept_vertices[kept], vertices[open_faces])


def test_smoothing_takes_noise_and_keeps_volume_and_borders():
    vertices, faces = ball()
    noisy = vertices * (1 + 0.03 * np.random.default_rng(1).standard_normal((len(vertices), 1)))
    smooth = smoothed(noisy, faces, 10)
    spread = np.linalg.norm(noisy, axis=1).std(), np.linalg.norm(smooth, axis=1).std()
    assert spread[1] < 0.4 * spread[0]
    assert volume(smooth, faces) == pytest.approx(volume(vertices, faces), rel=0.01)
    half = faces[vertices[faces].mean(1)[:, 1] < 0]
    edges = half[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    pairs, counts = np.unique(np.sort(edges, 1), axis=0, return_counts=True)
    rim = np.unique(pairs[counts == 1])
    np.testing.assert_array_equal(smoothed(noisy, half, 3)[rim], noisy[rim])


def test_normals_are_unit_and_point_out():
    vertices, _, normals = clean(*ball(), target_faces=2000)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    outward = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    assert (normals * outward).sum(1).min() > 0.97
    flat = torch.zeros(3, 3)  # without area, still unit
    normals = cleaning.vertex_normals(flat, torch.tensor([[0, 1, 2]]))
    assert (normals == torch.tensor([0.0, 1.0, 0.0])).all()


def test_all_together_is_closed_within_budget_typed_and_the_same_each_time():
    mesh = joined(ring(), ball(0.02, center=(0.0, 0.5, 0.0)))
    first, second = (clean(*mesh, target_faces=1500) for _ in range(2))
    vertices, faces, normals = first
    assert (vertices.dtype, faces.dtype, normals.dtype) == (np.float32, np.int64, np.float32)
    assert len(faces) <= 1500 and is_closed(faces) and euler(vertices, faces) == 0
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_scale_and_place_do_not_matter():
    vertices, faces = ring()
    _, plain, _ = clean(vertices, faces, 1000)
    for scale, shift in ((1e-4, 0.0), (1e4, 0.0), (1.0, 50.0)):
        moved, same, _ = clean(vertices.astype(np.float64) * scale + shift, faces, 1000)
        assert len(same) == len(plain) and is_closed(same)
        back = (moved.astype(np.float64) - shift) / scale
        assert volume(back, same) == pytest.approx(volume(vertices, faces), rel=0.01)


@pytest.mark.parametrize("target", [4, 10, 10_000_000])
def test_any_budget_gives_a_sensible_mesh(target):
    raw = ball(side=24)
    vertices, faces, _ = clean(*raw, target_faces=target)
    assert is_closed(faces) and len(faces) <= max(target, 40)
    if target > len(raw[1]):
        assert len(faces) == len(raw[1])
    assert volume(vertices, faces) > 0.12 * volume(*raw)  # an inscribed tetrahedron's


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"target_faces": 3}, "4 faces"),
        ({"smoothing": -1}, "0 steps"),
        ({"min_component": 1.5}, "from 0 to 1"),
        ({"vertices": np.zeros((4, 2))}, "vertices"),
        ({"faces": np.array([[0, 1, 99_999]])}, "need vertices 0 to"),
        ({"faces": np.empty((0, 3), int)}, "needs faces, got 0"),
        ({"faces": np.array([[0, 1, 1]])}, "none of the 1"),
        ({"vertices": np.full((5000, 3), np.nan)}, "finite"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(settings, words):
    vertices, faces = ball(side=16)
    with pytest.raises(ValueError, match=words):
        clean(**{"vertices": vertices, "faces": faces} | settings)


def test_it_can_be_stopped_anywhere():
    class Stop(Exception):
        pass

    calls = 0

    def count():
        nonlocal calls
        calls += 1

    mesh = ball()
    with working(count):
        clean(*mesh, target_faces=500)
    assert calls > 15
    for last in range(calls):
        left = last

        def check():
            nonlocal left
            if not left:
                raise Stop
            left -= 1

        with pytest.raises(Stop), working(check):
            clean(*mesh, target_faces=500)
        if last > 3:
            break
