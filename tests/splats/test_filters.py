from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from lgm.gaussians import Gaussians
from lgm.machine.interrupt import working
from lgm.rotations import quaternion_multiply
from lgm.splats.clusters import cluster_mask
from lgm.splats.crop import box_mask, sphere_mask
from lgm.splats.extent import extent, smallest_ball
from lgm.splats.filters import (
    budget_mask,
    importance,
    keep_mask,
    opacity_mask,
    outlier_mask,
    scale_mask,
)

# From weak to strong.
SETTINGS = {
    "min_opacity": [0, 1e-3, 0.05, 0.3, 0.9, 1.1],
    "max_scale": [0, 10, 0.2, 0.05, 0.02, 1e-4],
    "outliers": [0, 30, 5, 3, 2, 0.5, 1e-9],
    "largest_cluster": [False, True],
    "budget": [0, 10_000, 2500, 1000, 999, 1],
}
STRONG = {
    "min_opacity": 0.2,
    "max_scale": 0.05,
    "outliers": 3.0,
    "largest_cluster": True,
    "budget": 1500,
}


def gaussians_at(positions, opacity=0.8, scale=0.01, colors=0.5) -> Gaussians:
    """One splat of equal round Gaussians at [N, 3]."""
    positions = torch.as_tensor(positions)[None]
    ones = torch.ones_like(positions[..., :1])
    return Gaussians(
        positions=positions,
        opacities=opacity * ones,
        scales=scale * ones.expand(-1, -1, 3),
        rotations=F.pad(ones, (0, 3)),
        colors=colors * ones.expand(-1, -1, 3),
    )


def ball_surface(count, seed=0, center=(0.0, 0, 0), radius=1.0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return F.normalize(directions, dim=1) * radius + torch.tensor(center, dtype=torch.float64)


def splat(count=3000, seed=0) -> Gaussians:
    """A bumpy surface of flat Gaussians with a small second part, strays, a veil and needles."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    positions = ball_surface(count, seed)
    positions *= 1 + 0.2 * torch.sin(4 * positions[:, :1]) + 0.003 * normal(count, 1)
    positions *= torch.tensor([1.0, 0.7, 0.5])
    positions[:100] = 0.1 * positions[:100] + torch.tensor([0.2, 1.1, 0.1])
    positions[100:120] = 2 * normal(20, 3)
    scales = 0.03 * torch.exp(0.3 * normal(count, 3)) * torch.tensor([1, 0.6, 0.05])
    scales[120:160, 0] *= 10
    opacities = torch.sigmoid(1 + 2 * normal(count, 1))
    opacities[160:400] *= 0.02
    rotations = F.normalize(normal(count, 4), dim=1)
    colors = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return Gaussians(*(t[None] for t in (positions, opacities, scales, rotations, colors)))


def random_turn(seed) -> Rotation:
    return Rotation.from_quat(np.random.default_rng(seed).normal(size=4))


def similar(gaussians, seed=1, scale=37.0, shift=(400.0, -900.0, 77.0)) -> Gaussians:
    """The same splat turned, scaled and moved."""
    turn = random_turn(seed)
    x, y, z, w = torch.from_numpy(turn.as_quat())
    return replace(
        gaussians,
        positions=scale * gaussians.positions @ torch.from_numpy(turn.as_matrix()).mT
        + torch.tensor(shift, dtype=torch.float64),
        scales=scale * gaussians.scales,
        rotations=quaternion_multiply(torch.stack([w, x, y, z]), gaussians.rotations),
    )


# Laws of every option -------------------------------------------------------------------------


def each_option(test):
    return pytest.mark.parametrize("options", [*({k: v} for k, v in STRONG.items()), STRONG])(test)


def test_nothing_asked_nothing_removed():
    gaussians = splat()
    gaussians.positions[0, 3] = torch.nan
    assert keep_mask(gaussians).all()
    off = {name: values[0] for name, values in SETTINGS.items()}
    assert keep_mask(gaussians, **off).all()


@each_option
def test_every_option_removes_something_but_not_everything(options):
    keep = keep_mask(splat(), **options)
    assert keep.dtype == torch.bool and keep.shape == (3000,)
    assert 0 < keep.sum() < 3000


@each_option
def test_order_does_not_matter(options):
    gaussians = splat()
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(7))
    assert torch.equal(
        keep_mask(gaussians.select(order), **options), keep_mask(gaussians, **options)[order]
    )


@each_option
@pytest.mark.parametrize(("seed", "scale"), [(1, 37.0), (2, 1e-4), (3, 1.0)])
def test_place_turn_and_size_do_not_matter(options, seed, scale):
    gaussians = splat()
    moved = similar(gaussians, seed, scale, shift=(400 * scale, -900 * scale, 77 * scale))
    assert torch.equal(keep_mask(moved, **options), keep_mask(gaussians, **options))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stronger_setting_removes_no_less(name):
    gaussians = splat()
    masks = [keep_mask(gaussians, **{name: value}) for value in SETTINGS[name]]
    for weaker, stronger in pairwise(masks):
        assert (weaker | ~stronger).all()


@each_option
def test_what_is_not_finite_goes_and_disturbs_nothing(options):
    gaussians, broken = splat(), splat()
    bad = torch.tensor([5, 700, 2000, 2500])
    broken.positions[0, 5, 1] = torch.nan
    broken.positions[0, 700, 0] = torch.inf
    broken.scales[0, 2000, 2] = torch.inf
    broken.opacities[0, 2500] = torch.nan
    others = torch.ones(3000, dtype=torch.bool)
    others[bad] = False
    keep = keep_mask(broken, **options)
    assert not keep[bad].any()
    assert torch.equal(keep[others], keep_mask(gaussians.select(others), **options))


@each_option
@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_tiny_splats_are_cleaned_too(options, count):
    keep = keep_mask(splat().select(torch.arange(200, 200 + count)), **options)
    assert keep.shape == (count,)


@each_option
def test_a_pile_in_one_place_takes_no_time(options):
    positions = ball_surface(4000).clamp(-0.3, 0.3)  # most end in the corners and on the sides
    positions[2000:] = 1
    keep = keep_mask(gaussians_at(positions, scale=1e-3), **options)
    assert len(keep) == 4000
    assert len(keep_mask(gaussians_at(torch.zeros(30_000, 3)), **options)) == 30_000


@each_option
def test_single_precision_gives_nearly_the_same(options):
    gaussians = splat()
    keep, single = (
        keep_mask(gaussians, **options),
        keep_mask(gaussians.to(torch.float32), **options),
    )
    assert (keep != single).sum() <= 3


def test_cleaning_can_be_given_up_at_every_step():
    gaussians, calls = splat(), []
    with working(lambda: calls.append(None)):
        keep_mask(gaussians, **STRONG)
    assert len(calls) > len(STRONG)
    for last in range(len(calls)):
        left = iter(range(last))

        def check(left=left):
            if next(left, None) is None:
                raise InterruptedError

        with pytest.raises(InterruptedError), working(check):
            keep_mask(gaussians, **STRONG)


def test_clumsy_settings_are_refused():
    pair = gaussians_at(torch.zeros(4, 3)).map(lambda tensor: tensor.expand(2, -1, -1))
    with pytest.raises(ValueError, match="one object at a time, got a batch of 2"):
        keep_mask(pair)
    with pytest.raises(ValueError, match="one object at a time, got a batch of 2"):
        extent(pair)
    for name in ("min_opacity", "max_scale", "outliers", "budget"):
        with pytest.raises(ValueError, match=f"needs {name} of 0 "):
            keep_mask(splat(), **{name: -1})
    with pytest.raises(ValueError, match=r"outliers of 0 .* got nan"):
        keep_mask(splat(), outliers=float("nan"))


def test_steps_follow_each_other():
    g = splat()
    kept = torch.arange(g.count)
    for name, value in STRONG.items():
        kept = kept[keep_mask(g.select(kept), **{name: value})]
    assert torch.equal(keep_mask(g, **STRONG).nonzero()[:, 0], kept)


# Single rules ---------------------------------------------------------------------------------


def test_opacity_and_scale_are_what_they_say():
    g = splat()
    positions, opacities, scales = g.positions[0], g.opacities[0], g.scales[0]
    assert torch.equal(opacity_mask(opacities, 0.3), opacities[:, 0] >= 0.3)
    _, radius = extent(g)
    expected = scales.amax(1) <= 0.05 * radius
    assert torch.equal(scale_mask(positions, opacities, scales, 0.05), expected)
    assert not expected[120:160].any() and expected[400:].float().mean() > 0.9


def outliers_by_hand(positions, deviations, neighbors=16):
    distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
    means = distances.sort(dim=1).values[:, 1 : neighbors + 1].mean(1)
    logs = means.log()
    offset = logs - np.median(logs.numpy())
    spread = max(1.4826 * float(np.median(offset.abs().numpy())), 0.2)
    return offset <= deviations * spread


@pytest.mark.parametrize("deviations", [4.0, 2.5, 1.0])
def test_outliers_equal_the_definition(deviations):
    positions = splat().positions[0]
    assert torch.equal(outlier_mask(positions, deviations), outliers_by_hand(positions, deviations))


def test_outliers_are_the_strays():
    keep = outlier_mask(splat().positions[0], 3.0)
    assert keep[100:120].sum() <= 3  # some strays lie on the surface by chance
    assert keep[120:].float().mean() > 0.99


def test_an_even_grid_has_no_outliers():
    axis = torch.arange(12, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    assert outlier_mask(grid, 3.0).all()
    stray = torch.tensor([[30.0, 30, 30]], dtype=torch.float64)
    assert outlier_mask(torch.cat([grid, stray]), 3.0).nonzero()[-1] == len(grid) - 1


def test_a_pile_of_strays_is_as_far_out_as_one():
    positions = torch.cat([ball_surface(2000), torch.full((50, 3), 4.0, dtype=torch.float64)])
    assert outlier_mask(positions, 3.0).tolist() == [True] * 2000 + [False] * 50


def clusters(*parts, scale=0.01, opacity=0.8):
    g = gaussians_at(torch.cat(parts), opacity, scale)
    return cluster_mask(g.positions[0], g.opacities[0], g.scales[0], g.rotations[0])


def test_floaters_near_the_object_go_and_parts_that_touch_stay():
    body = ball_surface(20_000)
    touching = ball_surface(2000, seed=1, center=(1.3, 0, 0), radius=0.3)
    floater = ball_surface(300, seed=2, center=(0, 1.18, 0), radius=0.1)  # a gap of 8 %
    assert clusters(body, touching).all()
    assert clusters(body, floater).tolist() == [True] * 20_000 + [False] * 300
    assert clusters(floater, body).tolist() == [False] * 300 + [True] * 20_000


@pytest.mark.parametrize("seed", range(6))
def test_the_gap_that_parts_is_between_one_and_four_cells(seed):
    """However the parts lie; a cell is 1/64 of the radius here."""
    turn = torch.from_numpy(random_turn(seed).as_matrix())
    zero = torch.zeros(1, dtype=torch.float64)
    sheet = torch.cartesian_prod(
        torch.arange(250) / 250 + zero, torch.arange(75) / 250 + zero, zero
    )
    half = sheet[sheet[:, 0] < 0.45]
    for cells, is_one in ((0.9, True), (4.0, False)):
        gap = torch.tensor([0, 0, cells * 0.52 / 64], dtype=torch.float64)
        keep = clusters(sheet @ turn, (half + gap) @ turn, scale=1e-4)
        assert keep[: len(sheet)].all()
        assert keep[len(sheet) :].all() if is_one else not keep[len(sheet) :].any()
    assert clusters(sheet @ turn, (half + gap) @ turn, scale=0.02).all()  # their Gaussians touch


def test_sparse_points_hang_together():
    """Fewer Gaussians than cells, and far too small to touch."""
    body, stray = ball_surface(800), ball_surface(20, seed=1, center=(1.6, 0, 0), radius=0.05)
    keep = clusters(body, stray, scale=1e-4)
    assert keep.tolist() == [True] * 800 + [False] * 20


def test_sparse_large_gaussians_are_one_surface():
    """A dense figure on a floor of few flat discs, three cells apart, as trained splats have."""
    axis = torch.arange(-10, 11, dtype=torch.float64) / 10
    floor = torch.cartesian_prod(axis, torch.zeros(1, dtype=torch.float64), axis)
    figure = ball_surface(5000, center=(0, 0.3, 0), radius=0.3)
    g = gaussians_at(torch.cat([figure, floor]), scale=0.004)
    g.scales[0, 5000:] = torch.tensor([0.05, 1e-3, 0.05], dtype=torch.float64)

    def keep(record):
        return cluster_mask(
            record.positions[0], record.opacities[0], record.scales[0], record.rotations[0]
        )

    assert keep(g).all()
    assert torch.equal(keep(similar(g)), keep(g))
    # On edge the same discs don't touch, across the rows.
    g.scales[0, 5000:] = torch.tensor([1e-3, 0.05, 1e-3], dtype=torch.float64)
    assert keep(g)[:5000].all() and keep(g)[5000:].sum() < 20


def test_the_most_opaque_cluster_wins_not_the_largest():
    haze = ball_surface(1500, radius=2.0, center=(6.0, 0, 0))
    figure = ball_surface(1000, seed=1, radius=0.5)
    g = gaussians_at(torch.cat([haze, figure]), scale=0.15)
    g.opacities[0, :1500] = 0.2
    keep = cluster_mask(g.positions[0], g.opacities[0], g.scales[0], g.rotations[0])
    assert keep.tolist() == [False] * 1500 + [True] * 1000


def test_of_equal_clusters_the_middle_one_stays():
    middle, left, right = (ball_surface(800, center=(x, 0, 0)) for x in (0.3, -4.0, 4.0))
    expected = {0: [True, False, False], 1: [False, True, False], 2: [False, False, True]}
    for place, parts in enumerate(
        ((middle, left, right), (left, middle, right), (right, left, middle))
    ):
        assert clusters(*parts).view(3, 800).all(1).tolist() == expected[place]


def test_what_nobody_sees_is_no_bridge():
    ends = ball_surface(500, radius=0.3), ball_surface(400, center=(2.0, 0, 0), radius=0.3)
    bridge = torch.linspace(0.3, 1.7, 400, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0, 0])
    g = gaussians_at(torch.cat([*ends, bridge]))
    columns = g.positions[0], g.opacities[0], g.scales[0], g.rotations[0]
    assert cluster_mask(*columns).all()
    g.opacities[0, 900:] = 0.001
    assert cluster_mask(*columns).tolist() == [True] * 500 + [False] * 800


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 1, 0), (1, 0, 0.1), (3, 1, 0.2), (1, 1e-3, 1e-3)])
def test_importance_is_the_mean_shadow(axes):
    directions = ball_surface(200_000)
    a, b, c = axes
    sides = torch.tensor([b * c, a * c, a * b], dtype=torch.float64)
    shadow = torch.pi * (sides * directions).norm(dim=1).mean()
    ours = importance(torch.tensor([[0.25]]), torch.tensor([axes], dtype=torch.float64))
    assert ours[0] == pytest.approx(0.25 * shadow.item(), rel=0.02, abs=1e-12)


@pytest.mark.parametrize("count", [1, 10, 2999, 3000, 5000])
def test_the_budget_goes_to_the_most_important(count):
    g = splat()
    keep = budget_mask(g.positions[0], g.opacities[0], g.scales[0], count)
    values = importance(g.opacities[0], g.scales[0])
    best = values.argsort(descending=True)[:count]
    assert torch.equal(keep.nonzero()[:, 0], best.sort().values)


def test_equals_are_thinned_out_evenly_whatever_their_order():
    g = gaussians_at(ball_surface(4000, center=(9.0, 0, 0)) * torch.tensor([1.0, 0.6, 0.3]))
    keep = keep_mask(g, budget=1000)
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    assert keep.sum() == 1000
    assert torch.equal(keep_mask(g.select(order), budget=1000), keep[order])
    assert torch.equal(keep_mask(similar(g), budget=1000), keep)
    for axis in range(3):  # a quarter of each end
        ranks = g.positions[0, :, axis].argsort()
        assert abs(keep[ranks[:1000]].sum() - 250) < 50
        assert abs(keep[ranks[-1000:]].sum() - 250) < 50


# Crops ----------------------------------------------------------------------------------------


def test_box_follows_its_turns():
    positions = ball_surface(500) * 2 + 1
    center, size, angles = (1.0, 0.5, 1.2), (2.0, 1.0, 3.0), (20.0, -40.0, 75.0)
    turn = Rotation.from_euler("xyz", angles, degrees=True)  # about fixed axes
    local = turn.inv().apply(positions.numpy() - center)
    expected = (np.abs(local) <= np.array(size) / 2).all(1)
    keep = box_mask(positions, center, size, angles)
    assert 10 < keep.sum() < 490
    assert keep.tolist() == expected.tolist()


def test_borders_belong_to_the_inside():
    positions = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [1, 2, 3], [1.001, 0, 0]])
    inside = [True] * 4 + [False]
    assert box_mask(positions, (0, 0, 0), (2, 4, 6)).tolist() == inside
    assert box_mask(positions - 5, torch.full((3,), -5), (2, 4, 6), (0, 180, 360)).tolist()[4] == 0
    assert sphere_mask(positions, (0, 0, 0), 1).tolist() == [True] + [False] * 4
    around = sphere_mask(positions, torch.tensor([0, 0, 2]), 2.3)
    assert around.tolist() == [True, False, True, False, True]


def test_lost_centers_are_outside():
    positions = torch.full((1, 3), torch.nan)
    assert not box_mask(positions, (0, 0, 0), (1, 1, 1)).any()
    assert not sphere_mask(positions, (0, 0, 0), 1).any()


def test_impossible_crops_are_refused():
    with pytest.raises(ValueError, match="edges of 0 or longer"):
        box_mask(torch.zeros(1, 3), (0, 0, 0), (1, -1, 1))
    with pytest.raises(ValueError, match="radius of 0 or more, got -1"):
        sphere_mask(torch.zeros(1, 3), (0, 0, 0), -1)


# Extent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ball", "box", "flat", "line", "one", "two", "equal", "grid"])
def test_the_smallest_ball_holds_all_and_can_not_shrink(kind):
    generator = np.random.default_rng(3)
    points = {
        "ball": generator.normal(size=(2000, 3)),
        "box": generator.random((500, 3)) * [3, 2, 1] + 50,
        "flat": generator.random((500, 3)) * [3, 2, 0],
        "line": generator.random((500, 1)) * [[1, 2, 3]],
        "one": np.ones((1, 3)),
        "two": np.array([[1.0, 2, 3], [5, 2, 3]]),
        "equal": np.ones((40, 3)),
        "grid": np.argwhere(np.ones((4, 5, 6))).astype(float),
    }[kind]
    center, radius = smallest_ball(points)
    distances = np.linalg.norm(points - center, axis=1)
    assert distances.max() <= radius * (1 + 1e-8) + 1e-12
    # Optimal if and only if the center is a convex combination of points on the surface.
    surface = points[distances >= radius * (1 - 1e-8)] - center
    _, misfit = nnls(np.vstack([surface.T, np.ones(len(surface))]), np.array([0, 0, 0, 1.0]))
    assert misfit < 1e-6 * max(radius, 1)


def test_extent_of_a_surface_is_its_sphere():
    center, radius = extent(gaussians_at(ball_surface(3000, center=(1, 2, 3), radius=0.5)))
    torch.testing.assert_close(center, torch.tensor([1.0, 2, 3]), atol=2e-3, rtol=0)
    assert radius == pytest.approx(0.5 + 2 * 0.01, abs=2e-3)


def test_extent_is_of_the_outline_not_of_the_mass():
    """A heavy foot doesn't pull the picture down, and a thin tip isn't cut off."""
    foot = ball_surface(1500, center=(0, -0.8, 0), radius=0.2)
    pole = torch.linspace(-0.6, 1, 700, dtype=torch.float64)[:, None] * torch.tensor([0, 1.0, 0])
    center, radius = extent(gaussians_at(torch.cat([foot, pole]), scale=1e-4))
    torch.testing.assert_close(center, torch.zeros(3), atol=0.01, rtol=0)
    assert radius == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("floaters", "distance"), [(1, 100), (1, 1e6), (30, 100), (30, 3)])
def test_floaters_do_not_blow_up_the_extent(floaters, distance):
    body = ball_surface(2000, center=(1, 0, 0))
    far = ball_surface(floaters, seed=1, radius=distance)
    center, radius = extent(gaussians_at(body))
    center_with, radius_with = extent(gaussians_at(torch.cat([body, far])))
    torch.testing.assert_close(center_with, center, atol=0.02, rtol=0)
    assert radius_with == pytest.approx(radius, rel=0.02)


def test_a_floater_far_away_does_not_hide_a_nearer_one():
    far = torch.tensor([[1e6, 0, 0], [0, 50.0, 0]], dtype=torch.float64)
    center, radius = extent(gaussians_at(torch.cat([ball_surface(2000), far])))
    assert center.norm() < 0.01 and radius == pytest.approx(1.02, abs=0.01)


def test_many_floaters_do_not_blow_up_the_extent_either():
    body = ball_surface(2000)
    _, radius = extent(gaussians_at(torch.cat([body, ball_surface(400, seed=1, radius=100)])))
    assert radius == pytest.approx(1.02, abs=0.01)


def test_a_veil_and_huge_gaussians_do_not_count():
    body, veil = ball_surface(2000), ball_surface(1000, seed=1, radius=1.2)
    g = gaussians_at(torch.cat([body, veil]))
    g.opacities[0, 2000:] = 0.01
    g.scales[0, :200] = 5
    assert extent(g)[1] == pytest.approx(1.02, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_extent_moves_along(seed):
    g = splat(seed=seed)
    center, radius = extent(g)
    moved_center, moved_radius = extent(similar(g, seed, 5.0, (1.0, -2.0, 3.0)))
    turn = torch.from_numpy(random_turn(seed).as_matrix()).float()
    expected = 5 * turn @ center + torch.tensor([1.0, -2, 3])
    torch.testing.assert_close(moved_center, expected, atol=1e-5, rtol=0)
    assert moved_radius == pytest.approx(5 * radius)
    shuffled = extent(g.select(torch.randperm(g.count)))
    torch.testing.assert_close(shuffled[0], center)
    assert shuffled[1] == pytest.approx(radius)


def test_extent_of_one_of_none_and_of_the_invisible():
    center, radius = extent(gaussians_at([[1.0, 2.0, 3.0]], scale=0.1))
    assert center.tolist() == [1, 2, 3] and radius == pytest.approx(0.2)
    assert extent(gaussians_at(ball_surface(900), opacity=0))[1] == pytest.approx(1.02, abs=0.01)
    for empty in (torch.zeros(0, 3), torch.full((2, 3), torch.nan)):
        with pytest.raises(ValueError, match="one Gaussian at least"):
            extent(gaussians_at(empty))
