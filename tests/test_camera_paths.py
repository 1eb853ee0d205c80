import math

import pytest
import torch
import torch.nn.functional as F

from lgm.camera_paths import arc, fit_radius, look_at, orbit, spiral
from lgm.cameras import orbit_poses, world_to_camera

CENTER = (0.3, -2.0, 5.0)


def roll(c2w, degrees):
    """The camera turned about its own line of sight."""
    angle = math.radians(degrees)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return c2w @ turn


def pose(azimuth, elevation=0.0, radius=2.0, center=CENTER):
    c2w = orbit_poses([azimuth], elevation, radius)[0]
    c2w[:3, 3] += torch.tensor(center)
    return c2w


def offsets(path, center=CENTER):
    return path[:, :3, 3] - torch.tensor(center)


def steps(path):
    """Angles in degrees between consecutive cameras, seen from the center."""
    directions = F.normalize(offsets(path).double(), dim=1)
    chords = (directions[1:] - directions[:-1]).norm(dim=1)
    return torch.rad2deg(2 * torch.asin(chords / 2))


def rolls(path):
    """How far the cameras' right sides leave the level, and their up sides point down."""
    assert path[:, 1, 1].min() > -1e-6
    return path[:, 1, 0].abs().max()


def assert_near(actual, expected, tolerance=2e-6):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


PATHS = {
    "orbit": orbit(12, 2, 25, CENTER, start_azimuth=40, turns=2),
    "orbit over the pole": orbit(5, 2, 90, CENTER),
    "one frame": orbit(1, 2, 0, CENTER),
    "spiral": spiral(9, 2, -90, 90, 3, CENTER),
    "arc": arc(pose(10, 20), pose(130, -50, 4), 7, CENTER),
    "arc over the pole": arc(pose(10, 60), pose(190, 60), 7, CENTER),
    "arc to the opposite": arc(pose(10, 20), pose(190, -20), 6, CENTER),
    "arc from pole to pole": arc(pose(10, 90), pose(70, -90), 5, CENTER),
    "rolled arc": arc(roll(pose(10, 20), 70), roll(pose(80, -60), -50), 5, CENTER),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_cameras_are_rigid_and_look_at_the_center(path):
    assert path.dtype == torch.float32 and path.shape[1:] == (4, 4)
    rotations = path[:, :3, :3]
    assert_near(rotations @ rotations.mT, torch.eye(3).expand_as(rotations))
    assert_near(torch.linalg.det(rotations), torch.ones(len(path)))
    assert_near(path[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(len(path), 4), 0)
    seen = world_to_camera(path) @ torch.tensor([*CENTER, 1])
    assert_near(seen[:, :2], torch.zeros(len(path), 2), 5e-6)
    assert seen[:, 2].min() > 1.9  # in front


# Orbit and spiral -----------------------------------------------------------------------------


def test_orbit_is_even_and_never_shows_a_frame_twice():
    path = orbit(8, 2, 0, CENTER)
    closed = torch.cat([path, path[:1]])
    torch.testing.assert_close(steps(closed), torch.full((8,), 45.0).double(), atol=1e-3, rtol=0)
    assert_near(path[2], pose(90))
    assert_near(orbit(4, 2, 30, CENTER, start_azimuth=-60)[0], pose(-60, 30))


def test_orbit_turns_back_and_more_than_once():
    there, back = orbit(8, 2, 10), orbit(8, 2, 10, turns=-1)
    assert_near(there[1:], back[1:].flip(0))
    assert_near(orbit(8, 2, 10, turns=2), orbit(4, 2, 10).repeat(2, 1, 1))


def test_spiral_climbs_evenly_from_end_to_end():
    path = spiral(9, 2, -40, 60, 1.5, CENTER, start_azimuth=20)
    heights = torch.rad2deg(torch.asin(offsets(path)[:, 1] / 2))
    torch.testing.assert_close(heights, torch.linspace(-40, 60, 9), atol=1e-3, rtol=0)
    assert_near(path[0], pose(20, -40))
    assert_near(path[-1], pose(20 + 1.5 * 360, 60))
    assert_near(spiral(1, 2, -40, 60, center=CENTER)[0], pose(0, -40))


@pytest.mark.parametrize("make", [orbit, spiral])
def test_paths_need_frames_and_a_radius(make):
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        make(0, 1.0)
    with pytest.raises(ValueError, match="radius above 0"):
        make(3, 0.0)


# Arc ------------------------------------------------------------------------------------------


def test_arc_along_the_equator_is_an_orbit():
    assert_near(arc(pose(0), pose(90), 4, CENTER), torch.stack([pose(a) for a in (0, 30, 60, 90)]))


def test_arc_lies_on_the_great_circle_at_even_steps_and_distances():
    start, end = pose(10, 20, 2), pose(130, -50, 4)
    path = arc(start, end, 9, CENTER)
    assert_near(path[[0, -1]], torch.stack([start, end]))
    normal = F.normalize(torch.linalg.cross(offsets(path)[0], offsets(path)[-1]), dim=0)
    assert (offsets(path) @ normal).abs().max() < 5e-6
    assert_near(offsets(path).norm(dim=1), torch.linspace(2, 4, 9), 5e-6)
    assert steps(path).max() - steps(path).min() < 1e-3
    assert rolls(path) < 1e-6


def test_arc_of_equal_ends_stands_still():
    start = roll(pose(50, 35), 20)
    assert_near(arc(start, start, 4, CENTER), start.expand(4, 4, 4))


def test_arc_of_one_frame_is_its_start():
    for start, end in ((pose(5, 90), pose(40)), (pose(5, 10), pose(40, -90)), (pose(0), pose(180))):
        assert_near(arc(start, end, 1, CENTER)[0], start)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (pose(10, 20, 2), pose(130, -50, 4)),
        (roll(pose(10, 20), 70), roll(pose(80, -60), -50)),
        (pose(0), pose(180)),
        (pose(90), pose(270)),
        (pose(33, 40), pose(213, -40)),
        (pose(15, 90), pose(60, -90)),
        (pose(15, 90), pose(60, 10)),
    ],
)
def test_arc_backwards_is_the_arc_reversed(start, end):
    assert_near(arc(start, end, 6, CENTER), arc(end, start, 6, CENTER).flip(0), 5e-6)


@pytest.mark.parametrize("frames", [6, 7])
@pytest.mark.parametrize("azimuth", [0, 90, 135, 180, 270])
@pytest.mark.parametrize("elevation", [0, 40])
def test_opposite_ends_are_joined_sideways(azimuth, elevation, frames):
    start, end = pose(azimuth, elevation), pose(azimuth + 180, -elevation)
    path = arc(start, end, frames, CENTER)
    assert_near(path[[0, -1]], torch.stack([start, end]))
    assert rolls(path) < 1e-6
    torch.testing.assert_close(
        steps(path), torch.full((frames - 1,), 180 / (frames - 1)).double(), atol=1e-3, rtol=0
    )
    middle = arc(start, end, 3, CENTER)[1]
    assert middle[1, 3] == pytest.approx(CENTER[1], abs=1e-5)
    assert middle[2, 3] >= CENTER[2] - 1e-5  # never behind the object


@pytest.mark.parametrize("pole", [90.0, -90.0])
@pytest.mark.parametrize("center", [CENTER, (100.0, -100.0, 100.0)])
def test_an_arc_from_a_pole_does_not_turn_on_leaving_it(pole, center):
    elevations = torch.linspace(pole, 0, 10).tolist()
    expected = torch.stack([pose(40, elevation, center=center) for elevation in elevations])
    path = arc(expected[0], expected[-1], 10, center)
    assert_near(path, expected, 1e-5)


def test_an_arc_over_a_pole_turns_there_and_only_there():
    path = arc(pose(10, 60), pose(190, 60), 7, CENTER)
    headings = torch.atan2(-path[:, 2, 0], path[:, 0, 0]).rad2deg()  # of the right side
    torch.testing.assert_close(headings[:3], torch.full((3,), 10.0), atol=1e-2, rtol=0)
    torch.testing.assert_close(headings[4:], torch.full((3,), -170.0), atol=1e-2, rtol=0)


def test_roll_goes_over_evenly():
    path = arc(roll(pose(0), 40), roll(pose(90), -20), 4, CENTER)
    expected = [roll(pose(a), r) for a, r in ((0, 40), (30, 20), (60, 0), (90, -20))]
    assert_near(path, torch.stack(expected))


def test_ends_that_look_elsewhere_are_kept():
    start, end = look_at((3, 1, 2), (1, 1, 1)).clone(), look_at((-2, 4, 2), (0, 0, 1))
    path = arc(start, end, 5, (0, 0, 0))
    assert_near(path[[0, -1]], torch.stack([start, end]))


def test_a_turned_world_turns_the_arc():
    turn = orbit_poses([70])[0].clone()
    turn[:3, 3] = 0
    start, end = roll(pose(10, 20, 2, (0, 0, 0)), 15), pose(130, -50, 4, (0, 0, 0))
    assert_near(turn @ arc(start, end, 5), arc(turn @ start, turn @ end, 5), 5e-6)


def test_an_arc_needs_ends_away_from_the_target():
    with pytest.raises(ValueError, match="away from its target"):
        arc(pose(0), look_at((0, 0, 0), (1, 0, 0)), 5, (0, 0, 0))
    with pytest.raises(ValueError, match="at least 1 frame"):
        arc(pose(0), pose(1), 0)


# Single cameras -------------------------------------------------------------------------------


@pytest.mark.parametrize("elevation", [-90, -80, 0, 30, 90])
def test_look_at_is_an_orbit_camera(elevation):
    azimuth = 0 if abs(elevation) == 90 else 77
    c2w = pose(azimuth, elevation)
    assert_near(look_at(c2w[:3, 3], CENTER), c2w)


@pytest.mark.parametrize(
    "up", [(0.0, 1.0, 0.0), (0.0, 0.0, 2.0), (-1.0, 0.0, 0.0), (1.0, 2.0, 3.0)]
)
def test_look_at_is_defined_along_up(up):
    up = torch.tensor(up)
    for sign in (1, -1):
        c2w = look_at(sign * up, up=up)
        assert_near(c2w[:3, :3] @ c2w[:3, :3].mT, torch.eye(3))
        assert_near(c2w[:3, 2], F.normalize(sign * up, dim=0))
    across = look_at((3.0, -1.0, 0.5), up=up)
    assert across[:3, 1] @ up > 0 and (across[:3, 0] @ up).abs() < 1e-6


def test_look_at_needs_two_places():
    with pytest.raises(ValueError, match="its own place"):
        look_at((1, 2, 3), (1, 2, 3))


@pytest.mark.parametrize("fovy", [10.0, 49.1, 120.0])
@pytest.mark.parametrize("aspect", [0.4, 1.0, 16 / 9])
def test_a_sphere_just_fits(fovy, aspect):
    distance = fit_radius(0.7, fovy, margin=1, aspect=aspect)
    # Oracle: the largest slope x/z or y/z of points on the sphere in front of a camera.
    angle = torch.linspace(0, 2 * math.pi, 200_001, dtype=torch.float64)
    slope = (0.7 * angle.sin() / (distance - 0.7 * angle.cos())).max().item()
    half = math.tan(math.radians(fovy) / 2)
    assert slope == pytest.approx(half * min(1, aspect), rel=1e-6)
    assert fit_radius(0.7, fovy, 1.25, aspect) == pytest.approx(1.25 * distance)


@pytest.mark.parametrize("bad", [(0, 49), (1, 0), (1, 180), (1, 49, 0), (1, 49, 1, 0)])
def test_impossible_fits_are_refused(bad):
    with pytest.raises(ValueError, match="Fitting a sphere needs"):
        fit_radius(*bad)
