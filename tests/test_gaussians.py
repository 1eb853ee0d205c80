import pytest
import torch

from lgm.gaussians import Gaussians, concatenate, decode, flip_y_z
from lgm.hull import quaternion_from_matrix, quaternion_multiply


def random_gaussians(batch=1, count=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return decode(torch.randn(batch, count, 14, generator=generator))


def rotation_matrix(q):
    w, x, y, z = q.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def test_decoded_values_are_in_range():
    g = random_gaussians(2, 500)
    assert g.positions.abs().max() <= 1
    assert g.opacities.min() >= 0 and g.opacities.max() <= 1
    assert g.scales.min() > 0
    assert g.colors.min() >= 0 and g.colors.max() <= 1
    torch.testing.assert_close(g.rotations.norm(dim=-1), torch.ones(2, 500))


def test_flip_is_half_a_turn_about_x():
    g = random_gaussians()
    flipped = flip_y_z(g)
    turn = torch.diag(torch.tensor([1.0, -1, -1]))
    torch.testing.assert_close(flipped.positions, g.positions @ turn)
    expected = turn @ rotation_matrix(g.rotations)
    torch.testing.assert_close(rotation_matrix(flipped.rotations), expected, atol=1e-6, rtol=0)


def test_flip_twice_is_identity():
    g = random_gaussians()
    twice = flip_y_z(flip_y_z(g))
    torch.testing.assert_close(twice.positions, g.positions)
    torch.testing.assert_close(rotation_matrix(twice.rotations), rotation_matrix(g.rotations))


def test_quaternion_product_is_the_matrix_product():
    a, b = random_gaussians(seed=1).rotations, random_gaussians(seed=2).rotations
    product = rotation_matrix(quaternion_multiply(a, b))
    torch.testing.assert_close(product, rotation_matrix(a) @ rotation_matrix(b), atol=1e-6, rtol=0)


def test_quaternion_from_matrix_inverts():
    half_turns = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    q = torch.cat([random_gaussians().rotations[0], half_turns])
    matrix = rotation_matrix(q)
    torch.testing.assert_close(
        rotation_matrix(quaternion_from_matrix(matrix)), matrix, atol=2e-6, rtol=0
    )


def test_items_concatenate_to_the_batch():
    g = random_gaussians(3)
    again = concatenate([g.item(i) for i in range(3)])
    torch.testing.assert_close(again.positions, g.positions)


def test_wrong_shapes_are_named():
    g = random_gaussians()
    with pytest.raises(ValueError, match=r"scales of shape \[1, 50, 3\]"):
        Gaussians(g.positions, g.opacities, g.scales[:, :-1], g.rotations, g.colors)


def test_pruning_keeps_the_threshold_itself():
    g = random_gaussians(1, 3)
    opacities = torch.tensor([0.004999, 0.005, 0.5]).view(1, 3, 1)
    g = Gaussians(g.positions, opacities, g.scales, g.rotations, g.colors)
    assert g.visible().count == 2
