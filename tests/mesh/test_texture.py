from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh

from lgm.cameras import orbit_poses
from lgm.gaussians import Gaussians, concatenate
from lgm.machine.interrupt import working
from lgm.mesh import STAGES, Mesh, extract, texture
from lgm.mesh.draw import draw_mesh
from lgm.mesh.unwrap import unwrap
from lgm.render import render

SIZE = 128


def coated(vertices: np.ndarray, faces: np.ndarray, colors, count: int = 8000) -> Gaussians:
    """A splat that covers a mesh, `colors` a function of the place or one color."""
    shape = trimesh.Trimesh(vertices, faces, process=False)
    points, _ = trimesh.sample.sample_surface(shape, count, seed=0)
    positions = torch.tensor(points, dtype=torch.float32)[None]
    spacing = (shape.area / count) ** 0.5
    colors = colors(positions) if callable(colors) else torch.tensor(colors).expand_as(positions)
    return Gaussians(
        positions,
        torch.full((1, count, 1), 0.95),
        torch.full((1, count, 3), 0.7 * spacing),
        F.normalize(torch.ones(1, count, 4), dim=-1),
        colors,
    )


def smooth(points: torch.Tensor) -> torch.Tensor:
    """Colors that change slowly over the unit ball."""
    return 0.5 + 0.4 * torch.sin(3 * points + torch.tensor([0.0, 1, 2]))


def unwrapped(shape: trimesh.Trimesh, size: int = SIZE) -> Mesh:
    vertices, faces = np.array(shape.vertices, np.float32), np.array(shape.faces, np.int64)
    uvs, origin, faces = unwrap(vertices, faces, size)
    normals = np.array(shape.vertex_normals, np.float32)
    parts = map(torch.from_numpy, (vertices[origin], faces, normals[origin], uvs))
    return Mesh(*parts)


def sphere(radius: float = 0.5, at=(0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(3, radius).apply_translation(at)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return unwrapped(trimesh.creation.torus(0.5, 0.22, 32, 16))


@pytest.fixture(scope="module")
def gaussians(mesh) -> Gaussians:
    return coated(mesh.vertices.numpy(), mesh.faces.numpy(), smooth)


def at_texels(mesh: Mesh, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Colors and places of the texels on the mesh."""
    texel, surface = texture.texels(mesh, len(picture))
    return picture.view(-1, 3)[texel], surface.points


def test_texels_get_the_color_of_their_place(mesh, gaussians):
    colors, points = at_texels(mesh, texture.bake(mesh, gaussians, SIZE))
    error = (colors - smooth(points)).abs()
    # The torus' hole is only seen at a slant, past the fuzzy rim of its other side.
    assert error.mean() < 0.01 and error.quantile(0.98) < 0.1


def test_vertices_get_the_color_of_their_place(mesh, gaussians):
    error = (texture.vertex_colors(mesh, gaussians) - smooth(mesh.vertices)).abs()
    assert error.mean() < 0.01 and error.quantile(0.98) < 0.1


def test_textured_mesh_looks_like_its_splat(mesh, gaussians):
    """From where no picture was taken, seams included."""
    textured = replace(mesh, texture=texture.bake(mesh, gaussians, SIZE))
    poses = orbit_poses([20, 100, 200, 300], [70, 5, -30, -80])
    pictures, alphas = draw_mesh(textured, poses, 128)
    splat = render(gaussians, poses, 128)
    inside = (alphas > 0.99) & (splat.alphas[0] > 0.97)
    error = ((pictures - splat.images[0].clamp(0, 1)) * inside).square().sum()
    assert (
        -10 * torch.log10(error / inside.sum() / 3) > 27
    )  # rims: the splat is wider than the mesh


def test_what_is_hidden_keeps_its_own_color():
    """Two balls nearly touch: neither's color gets onto the other, but where the gap is narrow."""
    left, right = sphere(0.3, (-0.31, 0, 0)), sphere(0.3, (0.31, 0, 0))
    mesh = unwrapped(trimesh.util.concatenate([left, right]))
    splat = concatenate(
        [
            coated(left.vertices, left.faces, [1.0, 0, 0]),
            coated(right.vertices, right.faces, [0.0, 0, 1]),
        ],
        dim=1,
    )
    colors, points = at_texels(mesh, texture.bake(mesh, splat, SIZE))
    wrong = torch.where(points[:, 0] < 0, colors[:, 2], colors[:, 0])
    wrong = wrong[points[:, 1:].norm(dim=-1) + points[:, 0].abs() > 0.2]
    assert wrong.mean() < 0.01 and (wrong > 0.3).float().mean() < 0.01


def test_unseen_texels_get_the_nearest_seen_color():
    """A ball inside a ball: no picture sees it, and outwards of each place lies its color."""
    shell = sphere(0.5)
    mesh = unwrapped(trimesh.util.concatenate([shell, sphere(0.4)]))
    splat = coated(shell.vertices, shell.faces, smooth)
    colors, points = at_texels(mesh, texture.bake(mesh, splat, SIZE))
    inner = points.norm(dim=-1) < 0.45
    expected = smooth(points[inner] / points[inner].norm(dim=-1, keepdim=True) * 0.5)
    assert inner.any() and (colors[inner] - expected).abs().mean() < 0.03


def test_stray_gaussians_do_not_color_what_is_behind_them(mesh, gaussians):
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(100)
    directions = F.normalize(torch.randn(1, 100, 3, generator=generator), dim=-1)
    stray = replace(
        gaussians.select(index),
        positions=1.5 * directions,
        colors=torch.zeros(1, 100, 3),
        scales=torch.full((1, 100, 3), 0.05),
    )
    both = concatenate([gaussians, stray], dim=1)
    torch.testing.assert_close(
        texture.bake(mesh, both, SIZE, 8), texture.bake(mesh, gaussians, SIZE, 8)
    )


def test_scale_and_place_change_nothing(mesh, gaussians):
    shift = torch.tensor([300.0, -100, 50])
    moved = texture.bake(
        replace(mesh, vertices=mesh.vertices * 128 + shift),
        replace(
            gaussians, positions=gaussians.positions * 128 + shift, scales=gaussians.scales * 128
        ),
        SIZE,
        views=8,
    )
    still = texture.bake(mesh, gaussians, SIZE, views=8)
    assert (moved - still).abs().mean() < 2e-3


def test_same_splat_same_texture(mesh, gaussians):
    first, second = (texture.bake(mesh, gaussians, SIZE, views=8) for _ in range(2))
    assert first.equal(second)


def test_given_pictures_decide_where_they_see_well(mesh, gaussians):
    """One green picture from the front: green in front, untouched behind."""
    green = torch.tensor([0.0, 1, 0]).view(1, 3, 1, 1).expand(1, 3, 128, 128)
    inputs = texture.Inputs(green, orbit_poses([0.0]))
    colors, _ = at_texels(mesh, texture.bake(mesh, gaussians, SIZE, 12, inputs))
    _, surface = texture.texels(mesh, SIZE)
    front, back = surface.normals[:, 2] > 0.9, surface.normals[:, 2] < -0.3
    assert (colors[front] - torch.tensor([0.0, 1, 0])).abs().mean() < 0.05
    plain, _ = at_texels(mesh, texture.bake(mesh, gaussians, SIZE, 12))
    torch.testing.assert_close(colors[back], plain[back], atol=0.02, rtol=0)


def test_the_background_of_given_pictures_stays_off_the_mesh(mesh, gaussians):
    """A mesh is a little wider than what its pictures show: there they show what is behind."""
    poses = orbit_poses([0.0, 90, 180, 270], 30.0)
    _, alphas = draw_mesh(replace(mesh, vertex_colors=torch.ones_like(mesh.vertices)), poses, 256)
    shown = 1 - F.max_pool2d((alphas < 0.5).float(), 5, 1, 2)  # narrower by two pixels
    green, magenta = (torch.tensor(c).view(3, 1, 1) for c in ([0.0, 1, 0], [1.0, 0, 1]))
    inputs = texture.Inputs(green * shown + magenta * (1 - shown), poses)
    blue = replace(gaussians, colors=torch.tensor([0.0, 0, 0.5]).expand_as(gaussians.colors))
    colors, _ = at_texels(mesh, texture.bake(mesh, blue, SIZE, 12, inputs))
    assert (colors[:, 1] > 0.5).float().mean() > 0.3  # the pictures are there
    assert colors[:, 0].max() < 0.1  # and nothing red, which their background alone has


def test_gutters_repeat_their_chart():
    known = torch.zeros(40, 40, dtype=torch.bool)
    known[10:20, 5:15] = True
    known[10:20, 27:40] = True
    picture = torch.rand(40, 40, 3)
    picture[:, :20], picture[:, 20:] = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
    filled = texture.fill_gutters(torch.where(known[..., None], picture, torch.nan), known)
    assert filled.isfinite().all()
    grown = F.max_pool2d(known[None, None].float(), 9, 1, 4)[0, 0] > 0  # four texels
    torch.testing.assert_close(filled[grown], picture[grown])


def test_progress_rises_to_one_and_cancel_works(mesh, gaussians):
    parts = []
    with working(progress=parts.append):
        texture.bake(mesh, gaussians, 64, views=4)
    assert parts == sorted(parts) and parts[-1] == 1

    class Cancelled(Exception):
        pass

    def check():
        raise Cancelled

    with pytest.raises(Cancelled), working(check):
        texture.bake(mesh, gaussians, 64, views=4)


def test_broken_gaussians_are_left_out(mesh, gaussians):
    positions = gaussians.positions.clone()
    positions[0, :5] = torch.nan
    broken = texture.bake(mesh, replace(gaussians, positions=positions), 64, views=4)
    whole = texture.bake(mesh, gaussians.select(torch.arange(5, gaussians.count)), 64, views=4)
    assert broken.equal(whole)


def test_refuses_what_cannot_be_baked(mesh, gaussians):
    with pytest.raises(ValueError, match="needs a mesh with uvs"):
        texture.bake(replace(mesh, uvs=None), gaussians)
    with pytest.raises(ValueError, match="a batch of 2"):
        texture.bake(mesh, concatenate([gaussians, gaussians]), 64)
    with pytest.raises(ValueError, match="this splat has none"):
        faint = replace(gaussians, opacities=torch.zeros_like(gaussians.opacities))
        texture.bake(mesh, faint, 64)
    with pytest.raises(ValueError, match="one view or more, got 0"):
        texture.bake(mesh, gaussians, 64, views=0)
    with pytest.raises(ValueError, match=r"\[V, 3, S, S\], got \[1, 3, 8, 9\]"):
        texture.Inputs(torch.zeros(1, 3, 8, 9), orbit_poses([0.0]))
    with pytest.raises(ValueError, match=r"cameras \[1, 4, 4\]"):
        texture.Inputs(torch.zeros(1, 3, 8, 8), orbit_poses([0.0, 1.0]))


def test_extract_goes_all_the_way(gaussians):
    seen = []
    mesh = extract(
        gaussians, faces=1000, texture_size=128, resolution=48, views=8,
        progress=lambda stage, part: seen.append((stage, part)),
    )  # fmt: skip
    assert mesh.face_count <= 1000 and mesh.texture.shape == (128, 128, 3)
    assert list(dict.fromkeys(stage for stage, _ in seen)) == list(STAGES)
    colors, points = at_texels(mesh, mesh.texture)
    assert (colors - smooth(points)).abs().mean() < 0.05
    plain = extract(gaussians, faces=1000, texture_size=None, resolution=48, views=8)
    assert plain.texture is None and len(plain.vertex_colors) == len(plain.vertices)
    # No seams: fewer vertices.
    assert len(plain.vertices) < len(mesh.vertices)


@pytest.mark.parametrize("count", [0, 1])
def test_extract_of_next_to_nothing_is_a_sentence_or_a_mesh(gaussians, count):
    few = gaussians.select(torch.arange(count))
    if count == 0:
        with pytest.raises(ValueError, match="visible Gaussians"):
            extract(few, faces=200, texture_size=64, resolution=32, views=4)
        return
    assert extract(few, faces=200, texture_size=64, resolution=32, views=4).face_count <= 200
