from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lgm.training.batches.augment import (
    axis_angle,
    grid_distortion,
    orbital_jitter,
    warped_coordinates,
)


@pytest.fixture(scope="module")
def recorded():
    return load_file(Path(__file__).parents[2] / "data" / "augment.safetensors")


def test_jitter_equals_the_original(recorded):
    jittered = orbital_jitter(
        recorded["jitter.in"], recorded["jitter.u_first"], recorded["jitter.u_second"]
    )
    torch.testing.assert_close(jittered, recorded["jitter.out"], atol=1e-6, rtol=0)


def test_distortion_equals_the_original(recorded):
    distorted = grid_distortion(recorded["grid.in_u8"] / 255.0, recorded["grid.u"])
    torch.testing.assert_close(distorted, recorded["grid.out"], atol=1e-6, rtol=0)


def test_jitter_orbits_the_origin(recorded):
    poses = recorded["jitter.in"]
    jittered = orbital_jitter(poses, torch.rand(3, 1), torch.rand(3, 1))
    torch.testing.assert_close(jittered[:, :3, 3].norm(dim=1), poses[:, :3, 3].norm(dim=1))
    identity = torch.eye(3).expand(3, 3, 3)
    rotations = jittered[:, :3, :3]
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-5, rtol=0)


def test_middle_draws_leave_cameras_alone(recorded):
    half = torch.full((3, 1), 0.5)
    torch.testing.assert_close(
        orbital_jitter(recorded["jitter.in"], half, half), recorded["jitter.in"]
    )


@pytest.mark.parametrize("size", [40, 64, 97])
def test_coordinates_rise_from_edge_to_edge(size):
    coordinates = warped_coordinates(torch.rand(6, 8), size)
    assert coordinates.shape == (6, size)
    assert (coordinates.diff(dim=1) >= 0).all()
    torch.testing.assert_close(coordinates[:, 0], torch.full((6,), -1.0))


def test_axis_angle_turns_the_right_way():
    quarter = axis_angle(torch.tensor([[0.0, 0, 1]]), torch.tensor([[torch.pi / 2]]))
    turned = quarter[0] @ torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
