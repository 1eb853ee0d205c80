import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lgm import cameras

DATA = Path(__file__).parent / "data" / "cameras.safetensors"


@pytest.fixture(scope="module")
def recorded():
    with safe_open(DATA, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()} | {  # noqa: SIM118
            "meta": json.loads(file.metadata()["meta"])
        }


def test_orbit_poses_equal_the_original(recorded):
    azimuths, elevations, radii = recorded["azimuth_elevation_radius"].unbind(-1)
    for i, expected in enumerate(recorded["poses"]):
        pose = cameras.orbit_poses(azimuths[i : i + 1], elevations[i : i + 1], float(radii[i]))
        torch.testing.assert_close(pose[0], expected, atol=1e-6, rtol=0)


def test_rays_equal_the_original(recorded):
    rays = cameras.plucker_rays(recorded["poses"][:6], 256)
    torch.testing.assert_close(
        rays[:, :, ::16, ::16], recorded["rays256_every16"], atol=2e-6, rtol=0
    )
    corners = rays[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, recorded["rays256_corners"], atol=2e-6, rtol=0)
    rays = cameras.plucker_rays(recorded["poses"][4:8], 32, fovy=60.0)
    torch.testing.assert_close(rays, recorded["rays32_fov60"], atol=2e-6, rtol=0)


def test_axes_are_as_the_page_says():
    front, left, above = cameras.orbit_poses([0, 90, 0], elevation=[0, 0, 90])
    torch.testing.assert_close(front[:3, 3], torch.tensor([0, 0, 1.5]))
    torch.testing.assert_close(left[:3, 3], torch.tensor([1.5, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(above[:3, 3], torch.tensor([0, 1.5, 0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("elevation", [-90.0, -30.0, 0.0, 89.9, 90.0])
def test_poses_are_rigid_and_look_at_the_origin(elevation):
    poses = cameras.orbit_poses(torch.linspace(0, 350, 8), elevation, radius=2.0)
    rotations = poses[:, :3, :3]
    identity = torch.eye(3).expand(8, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(8))
    torch.testing.assert_close(poses[:, :3, 3], 2 * rotations[:, :, 2], atol=1e-6, rtol=0)


def test_world_to_camera_inverts_the_pose_and_looks_forward():
    c2w = cameras.orbit_poses([30, 200], elevation=25)
    center = cameras.world_to_camera(c2w) @ torch.tensor([0.0, 0, 0, 1])
    torch.testing.assert_close(center[:, 2], torch.full((2,), 1.5), atol=1e-6, rtol=0)


def test_canonical_world_keeps_relative_poses():
    c2w = cameras.orbit_poses([40, 130, 260], elevation=[20, 0, -10])
    moved = cameras.canonicalize(c2w)
    torch.testing.assert_close(moved[0], cameras.orbit_poses([0])[0], atol=1e-6, rtol=0)
    before = torch.linalg.inv(c2w[0]) @ c2w
    torch.testing.assert_close(torch.linalg.inv(moved[0]) @ moved, before, atol=1e-5, rtol=0)


def test_moments_are_perpendicular_to_unit_directions():
    moment, direction = cameras.plucker_rays(cameras.input_poses(), 16).split(3, dim=1)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(4, 16, 16))
    assert (moment * direction).sum(1).abs().max() < 1e-6


def test_focal_length_of_the_official_sizes():
    assert math.isclose(cameras.focal_length(256), 280.22207, abs_tol=1e-4)
    assert math.isclose(cameras.focal_length(512), 560.44414, abs_tol=1e-4)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_impossible_radius_is_refused(radius):
    with pytest.raises(ValueError, match="radius above 0"):
        cameras.orbit_poses([0], radius=radius)


def test_a_point_is_projected_onto_the_pixel_whose_ray_meets_it():
    size, fovy = 6, 37.0
    pose = cameras.orbit_poses([40.0], 25.0, 2.0)[0]
    origins, directions = cameras.camera_rays(pose, size, fovy)
    right, up, depth = cameras.project((origins + 1.7 * directions).reshape(-1, 3), pose)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    x, y = cameras.pixel_slopes(row.flatten(), column.flatten(), size, fovy)
    torch.testing.assert_close(right / depth, x)
    torch.testing.assert_close(up / depth, y)
    torch.testing.assert_close(depth**2 * (1 + x**2 + y**2), torch.full_like(x, 1.7**2))


def test_what_is_written_out_is_the_matrix_product():
    matrices = cameras.world_to_camera(cameras.orbit_poses([10.0, 130.0], 25.0, 2.0))
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    homogeneous = torch.cat([points, torch.ones(5, 1)], dim=-1)
    expected = (homogeneous @ matrices.mT)[..., :3]
    torch.testing.assert_close(cameras.transform(matrices[:, None], points), expected)
    turned = points @ matrices[:, :3, :3].mT
    torch.testing.assert_close(cameras.turn(matrices[:, None], points), turned)


def test_wide_pictures_have_square_pixels():
    column = torch.tensor([0.0, 9.0])
    x, y = cameras.pixel_slopes(torch.tensor([0.0, 3.0]), column, (4, 10), 60.0)
    edge = math.tan(math.radians(30))  # of the half height
    torch.testing.assert_close(y, torch.tensor([0.75, -0.75]) * edge)
    torch.testing.assert_close(x, torch.tensor([-2.25, 2.25]) * edge)


@pytest.mark.parametrize("count", [12, 48, 200])
def test_even_poses_stand_evenly_all_around(count):
    poses = cameras.even_poses(count, 2.0)
    places, back = poses[:, :3, 3], poses[:, :3, 2]
    torch.testing.assert_close(places, 2 * back)
    apart = (places[:, None] - places).norm(dim=-1) + 9 * torch.eye(count)
    area = 4 * math.pi * 2.0**2 / count  # for each; a hexagonal grid is as sparse as it gets
    assert apart.amin() > 0.86 * area**0.5
    assert apart.amin(1).amax() < (2 / 3**0.5 * area) ** 0.5
    assert places.mean(0).norm() < 2 / count
