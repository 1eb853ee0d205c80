"""Procedural objects: set by the seed, inside the frame, closed, and lit near their colors."""

import pickle

import numpy as np
import pytest
import torch

from lgm.cameras import input_poses
from lgm.training.procedural import shapes
from lgm.training.procedural.kinds import KINDS
from lgm.training.procedural.objects import (
    build,
    draw_parameters,
    procedural_objects,
    random_lights,
)
from lgm.training.procedural.sketch import Sketch
from lgm.training.rasterize import rasterize

SEEDS = [0, 1, 2, 7, 1 << 40]
TENSORS = ("corners", "normals", "uvs", "colors", "textures", "objects", "atlas")


@pytest.fixture(scope="module")
def soup():
    return procedural_objects(SEEDS, resolution=16)


@pytest.fixture(scope="module")
def renders(soup):
    pytest.importorskip("numba")
    return rasterize(soup, None, input_poses()[None].expand(len(SEEDS), -1, -1, -1), 48)


def test_a_seed_is_one_object(soup):
    again = build([pickle.loads(pickle.dumps(draw_parameters(s))) for s in SEEDS], resolution=16)
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(soup, name)), name


def test_seeds_differ(soup):
    extents = [soup.corners[soup.objects == i].amax((0, 1)) for i in range(len(SEEDS))]
    assert len({tuple(extent.tolist()) for extent in extents}) == len(SEEDS)


def test_an_object_does_not_depend_on_its_batch(soup):
    index = 3
    alone = procedural_objects(SEEDS[index : index + 1], resolution=16)
    mine = soup.objects == index
    torch.testing.assert_close(alone.corners, soup.corners[mine], atol=1e-5, rtol=0)
    rows = soup.textures[mine]
    assert torch.equal(alone.textures, rows - rows.min())
    difference = alone.atlas.float() - soup.atlas[rows.unique()].float()
    assert (difference.abs() > 1).float().mean() < 1e-3  # a pattern's edge may round either way


def test_the_soup_is_well_formed(soup):
    assert soup.count == len(SEEDS)
    assert (soup.objects.diff() >= 0).all() and len(soup.objects.unique()) == len(SEEDS)
    assert soup.textures.min() == 0 and soup.textures.max() == len(soup.atlas) - 1
    assert soup.atlas.dtype == torch.uint8
    for name in ("corners", "normals", "uvs"):
        assert getattr(soup, name).isfinite().all(), name
    lengths = soup.normals.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-3, rtol=0)


def test_objects_are_centered_and_fill_the_frame_without_leaving_it(soup, renders):
    for index in range(len(SEEDS)):
        points = soup.corners[soup.objects == index].flatten(0, 1)
        middle = (points.amin(0) + points.amax(0)) / 2
        torch.testing.assert_close(middle, torch.zeros(3), atol=1e-4, rtol=0)
        assert points.norm(dim=-1).max() <= 0.96
        covered = renders.alphas[index, :, 0] > 0
        size = covered.shape[-1]
        sides = torch.stack(
            [covered.any(1), covered.any(2)]
        )  # columns and rows that show something
        assert not sides[..., [0, -1]].any()  # a margin all around, at fill <= 0.95
        assert 0.45 * size < sides.sum(-1).max() <= 0.96 * size


@pytest.mark.parametrize("draw", [draw for draw, _ in KINDS], ids=lambda draw: draw.__name__)
def test_every_kind_makes_surfaces_without_holes_in_the_numbers(draw):
    for seed in range(4):
        sketch = Sketch(np.random.default_rng(seed))
        draw(sketch)
        assert 1 <= len(sketch.grids) == len(sketch.materials) == len(sketch.bumps) < 40
        for grid in sketch.grids:
            assert grid.shape == (shapes.N + 1, shapes.N + 1, 3)
            assert np.isfinite(grid).all() and np.abs(grid).max() < 10
            assert np.ptp(grid.reshape(-1, 3), axis=0).max() > 1e-3


CLOSED = {
    "ball": (shapes.ellipsoid((0.5, 0.5, 0.5)), 4 / 3 * np.pi * 0.125),
    "box": (shapes.ellipsoid((0.5, 0.4, 0.3), 60, 60), 8 * 0.5 * 0.4 * 0.3),
    "cylinder": (shapes.prism(shapes.superellipse(), 2.0, bevel=0.0), 2 * np.pi),
    "torus": (shapes.torus(1.0, 0.3), 2 * np.pi**2 * 0.09),
    "tube": (
        shapes.tube([[0, 0, 0], [0, 2, 0]], 0.3),
        np.pi * 0.09 * 2 + 4 / 3 * np.pi * 0.027,
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_surfaces_are_closed_around_the_volume_they_should_have(name):
    grid, expected = CLOSED[name]
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]

    def signed(p, q, r):
        return (p * np.cross(q, r)).sum() / 6

    def volume(offset):
        return signed(a + offset, b + offset, c + offset) + signed(
            a + offset, c + offset, d + offset
        )

    assert abs(volume(0.0)) == pytest.approx(expected, rel=0.06)
    assert volume(5.0) == pytest.approx(volume(0.0), abs=1e-6)  # only closed surfaces don't care


def test_images_replace_some_patterns():
    red = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 255
    records = [draw_parameters(seed) for seed in range(12)]
    plain, textured = build(records, resolution=8), build(records, textures=red, resolution=8)
    changed = (plain.atlas != textured.atlas).flatten(1).any(1)
    assert 0.05 < changed.float().mean() < 0.6
    assert torch.equal(plain.corners, textured.corners)
    colors = textured.atlas[changed].float().mean((2, 3))
    assert (colors[:, 0] > 2 * colors[:, 1:].amax(1)).float().mean() > 0.7  # labels may cover it


def test_lights_are_reproducible_and_near_full_exposure():
    lights, again = random_lights(5, 256), random_lights(torch.Generator().manual_seed(5), 256)
    assert torch.equal(lights.intensities, again.intensities)
    lengths = lights.directions.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    ambient = (lights.ambient_top + lights.ambient_bottom) / 2
    average = ambient + lights.intensities.sum(1) / 4  # over all directions of the normal
    assert 0.75 < average.mean() < 1.1
    assert average.min() > 0.3 and average.max() < 1.5
    unshaded = (lights.intensities == 0).all(-1).all(-1)
    assert 0.1 < unshaded.float().mean() < 0.5


def test_pictures_are_neither_all_white_nor_all_black(renders):
    covered = renders.alphas == 1
    colors = renders.images.mean(2, keepdim=True)[covered]
    assert 0.15 < colors.mean() < 0.9 and colors.std() > 0.05
