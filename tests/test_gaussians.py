import dataclasses

import pytest
import torch

from lgm.gaussians import Gaussians, colors_toward, concatenate, decode, flip_y_z
from lgm.rotations import quaternion_from_matrix, quaternion_multiply


def random_gaussians(batch=1, count=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return decode(torch.randn(batch, count, 14, generator=generator))


def with_sh(gaussians, width=15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sh = 0.3 * torch.randn(*gaussians.positions.shape[:2], width, 3, generator=generator)
    return dataclasses.replace(gaussians, sh=sh)


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


EYE = torch.tensor([0.4, 1.1, 2.0])


def test_without_bands_colors_are_the_same_from_everywhere():
    g = random_gaussians()
    assert colors_toward(g, EYE) is g.colors
    zeros = dataclasses.replace(g, sh=torch.zeros(1, 50, 8, 3))
    assert torch.equal(colors_toward(zeros, EYE), g.colors)


def test_a_band_along_z_brightens_one_side_and_darkens_the_other():
    """Y(1, 0) = sqrt(3 / 4 pi) z, of the direction from the eye to the Gaussian."""
    g = random_gaussians(1, 1)
    sh = torch.zeros(1, 1, 3, 3)
    sh[0, 0, 1] = torch.tensor([0.1, -0.2, 9.0])
    g = dataclasses.replace(g, colors=torch.full((1, 1, 3), 0.5), sh=sh)
    ahead, behind = (g.positions[0, 0] + torch.tensor([0.0, 0, z]) for z in (2.0, -2.0))
    change = 0.48860251 * sh[0, 0, 1]
    torch.testing.assert_close(colors_toward(g, ahead)[0, 0], (0.5 - change).clamp(min=0))
    torch.testing.assert_close(colors_toward(g, behind)[0, 0], (0.5 + change).clamp(min=0))
    assert colors_toward(g, ahead).min() == 0 and colors_toward(g, behind).max() > 4


@pytest.mark.parametrize("width", [3, 8, 15])
def test_flip_turns_the_bands_with_the_object(width):
    g = with_sh(random_gaussians(2), width)
    turn = torch.tensor([1.0, -1, -1])
    expected = colors_toward(g, EYE)
    assert (expected - g.colors).abs().max() > 0.1
    torch.testing.assert_close(colors_toward(flip_y_z(g), turn * EYE), expected)
    assert torch.equal(flip_y_z(flip_y_z(g)).sh, g.sh)


def test_each_item_has_its_own_eye():
    g = with_sh(random_gaussians(2))
    eyes = torch.stack([EYE, -EYE])
    colors = colors_toward(g, eyes)
    for i in range(2):
        torch.testing.assert_close(colors[i : i + 1], colors_toward(g.item(i), eyes[i]))


def test_colors_at_the_eye_itself_are_the_base_and_have_finite_gradients():
    g = with_sh(random_gaussians(1, 1))
    position = g.positions.clone().requires_grad_()
    colors = colors_toward(dataclasses.replace(g, positions=position), g.positions[0, 0])
    torch.testing.assert_close(colors, g.colors)
    assert torch.autograd.grad(colors.sum(), position)[0].isfinite().all()


def test_bands_go_where_their_gaussians_go():
    g = with_sh(random_gaussians(3, 20))
    mask = torch.arange(20) % 3 == 0
    assert torch.equal(g.select(mask).sh, g.sh[:, mask])
    assert torch.equal(g.item(1).sh, g.sh[1:2])
    assert torch.equal(g.map(lambda t: 2 * t).sh, 2 * g.sh)
    assert g.to(torch.float64).sh.dtype == torch.float64
    one = g.item(0)
    assert torch.equal(one.visible(0.5).sh, one.sh[:, one.opacities[0, :, 0] >= 0.5])
    assert not g.map(lambda t: t.clone().requires_grad_()).detach().sh.requires_grad


@pytest.mark.parametrize("dim", [0, 1])
def test_joined_objects_keep_their_colors_from_every_side(dim):
    parts = [random_gaussians(seed=i) for i in range(3)]
    parts[1:] = [with_sh(parts[1], 3), with_sh(parts[2], 15)]
    joined = concatenate(parts, dim)
    assert (joined.batch_size, joined.count) == ((3, 50) if dim == 0 else (1, 150))
    colors = colors_toward(joined, EYE).split(1 if dim == 0 else 50, dim)
    for part, found in zip(parts, colors, strict=True):
        torch.testing.assert_close(found, colors_toward(part, EYE))
    assert concatenate(parts[:1], dim).sh is None


@pytest.mark.parametrize("shape", [(1, 50, 4, 3), (1, 50, 15), (1, 49, 15, 3), (1, 50, 0, 3)])
def test_bands_of_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"sh of shape \[1, 50, 'M', 3\] with M = 3, 8 or 15"):
        dataclasses.replace(random_gaussians(), sh=torch.zeros(shape))
