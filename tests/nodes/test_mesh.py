"""From a splat to a mesh with a texture, on ComfyUI's own type."""

from __future__ import annotations

import comfy.model_management as management
import comfy.utils
import pytest
import torch


@pytest.fixture(scope="module")
def mesh(pack, splat):
    return pack.run("LGM_SplatToMesh", splat=splat, faces=2000, resolution=64)[0]


def test_the_mesh_is_closed_and_stands_like_the_splat(pack, splat, mesh):
    edges = mesh.faces[0][:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).sort(dim=1).values
    assert (edges.unique(dim=0, return_counts=True)[1] == 2).all()
    assert mesh.faces.shape[1] <= 2000
    seen = splat.positions[0][splat.opacities[0, :, 0] > 0.5] * torch.tensor([1.0, -1, -1])
    for measure in ("amin", "amax"):  # +y up: the avocado is no mirror image of itself
        ours, theirs = getattr(mesh.vertices[0], measure)(0), getattr(seen, measure)(0)
        torch.testing.assert_close(ours, theirs, atol=0.08, rtol=0)


def test_vertex_colors_are_linear(pack, mesh):
    assert mesh.unlit and mesh.vertex_colors.shape == mesh.vertices.shape
    types = pack.border()
    gray = torch.full((3,), 0.5)
    assert types.srgb_to_linear(gray)[0] == pytest.approx(0.2140, abs=1e-3)


def test_texture_comes_with_coordinates(pack, splat, mesh):
    painted, picture = pack.run("LGM_BakeSplatTexture", mesh=mesh, splat=splat, size=256, views=8)
    assert painted.texture.shape == picture.shape == (1, 256, 256, 3)
    assert painted.uvs.min() >= 0 and painted.uvs.max() <= 1
    assert painted.uvs.shape[:2] == painted.vertices.shape[:2]
    assert picture.std() > 0.03
    again = pack.run("LGM_BakeSplatTexture", mesh=painted, splat=splat, size=256, views=8)[0]
    assert torch.equal(again.uvs, painted.uvs)  # coordinates that are there stay


@pytest.mark.slow
def test_input_views_make_it_sharper(pack, splat, views, mesh):
    """The texture then has the pictures' own colors, seen as the picture was taken."""
    cameras, draw = pack.module("lgm.cameras"), pack.module("lgm.mesh.draw")
    types = pack.border()
    given, settings = views[0], {"mesh": mesh, "splat": splat, "size": 512, "views": 8}
    errors = []
    for extra in ({}, {"input_views": given}):
        painted, picture = pack.run("LGM_BakeSplatTexture", **settings, **extra)
        item = types.mesh_from_value(painted, 0)
        item = pack.module("lgm.mesh").Mesh(
            item.vertices, item.faces, uvs=item.uvs, texture=picture[0]
        )
        drawn, alpha = draw.draw_mesh(item, cameras.input_poses(), given.shape[1])
        # Along the outline the pictures show what is behind.
        inside = torch.nn.functional.max_pool2d(1 - alpha, 31, 1, 15) == 0
        errors.append(((drawn - given.movedim(-1, 1)).square() * inside).mean().item())
    assert errors[1] < 0.7 * errors[0]


def test_input_views_on_nothing_and_their_cameras(pack, splat, views, mesh):
    """Alpha is on white, and four cameras of elevation 0 are that elevation."""
    images, masks = views[0], views[1]
    clear = torch.cat([images, masks[..., None]], -1)
    camera_info, poses = pack.border().camera_info, pack.module("lgm.cameras")
    named = {
        f"camera_{side}": camera_info(pose, torch.zeros(3), poses.FOVY)
        for side, pose in zip(("front", "left", "back", "right"), poses.input_poses(), strict=True)
    }
    settings = {"mesh": mesh, "splat": splat, "size": 128, "views": 6}
    results = [
        pack.run("LGM_BakeSplatTexture", **settings, **extra)[1]
        for extra in (
            {"input_views": images},
            {"input_views": clear, **named, "elevation": 25.0},
        )
    ]
    assert (results[0] - results[1]).abs().mean() < 0.01
    with pytest.raises(ValueError, match="Four input views for each"):
        pack.run("LGM_BakeSplatTexture", **settings, input_views=torch.cat([images, images]))
    named.pop("camera_left")
    with pytest.raises(ValueError, match="left"):
        pack.run("LGM_BakeSplatTexture", **settings, input_views=images, **named)


def test_the_surface_can_be_found_by_density(pack, splat, mesh):
    other = pack.run("LGM_SplatToMesh", splat=splat, method="density", faces=2000, resolution=64)[0]
    assert not torch.equal(other.vertices, mesh.vertices)
    for measure in ("amin", "amax"):
        ours, theirs = (getattr(it.vertices[0], measure)(0) for it in (other, mesh))
        torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)


def test_normals_go_along_where_a_mesh_can_hold_them(pack, mesh, monkeypatch):
    types = pack.module("nodes.border.meshes")

    class Newer:
        def __init__(self, vertices, faces, normals=None, unlit=False):
            self.normals = normals

    item = types.mesh_from_value(mesh, 0)
    normals = torch.nn.functional.normalize(item.vertices, dim=-1)
    item = pack.module("lgm.mesh").Mesh(item.vertices, item.faces, normals)
    types.mesh_value([item])  # ComfyUI 0.28 has no place for them, which is no error
    monkeypatch.setattr(types, "HOLDS_NORMALS", True)
    monkeypatch.setattr(types.Types, "MESH", Newer)
    assert torch.equal(types.mesh_value([item]).normals[0], normals)


def test_batches_keep_their_lengths(pack, two):
    assert two.vertex_counts is not None and len(two.vertices) == 2
    types = pack.border()
    assert types.mesh_from_value(two, 1).face_count == int(two.face_counts[1])


def test_a_batch_of_unlike_meshes_is_refused_in_a_sentence(pack):
    Mesh, types = pack.module("lgm.mesh").Mesh, pack.border()
    triangle = torch.eye(3), torch.tensor([[0, 1, 2]])
    plain = Mesh(*triangle, uvs=torch.rand(3, 2))
    small, large = (
        Mesh(*triangle, uvs=torch.rand(3, 2), texture=torch.rand(side, side, 3)) for side in (4, 8)
    )
    with pytest.raises(ValueError, match=r"textures on all or none, but mesh 1 .* mesh 2 has none"):
        types.mesh_value([small, plain])
    with pytest.raises(ValueError, match=r"textures on all or none, but mesh 2 .* mesh 1 has none"):
        types.mesh_value([plain, small])
    with pytest.raises(ValueError, match="one size, got 4 x 4, 8 x 8"):
        types.mesh_value([small, large])
    assert types.mesh_value([small, small]).texture.shape == (2, 4, 4, 3)


@pytest.fixture(scope="module")
def two(pack, splat):
    types = pack.border()
    item = types.gaussians_from_splat(splat, 0)
    both = types.splat_from_gaussians([item, item])
    return pack.run("LGM_SplatToMesh", splat=both, faces=300, resolution=48)[0]


def test_progress_and_cancel(pack, splat, monkeypatch):
    pack.run("LGM_SplatToMesh", splat=splat, faces=300, resolution=48)
    values = [value for value, _ in comfy.utils.ProgressBar.bars[-1].updates]
    assert values == sorted(values) and values[-1] == comfy.utils.ProgressBar.bars[-1].total
    monkeypatch.setattr(management, "cancelled", True)
    with pytest.raises(management.InterruptProcessingException):
        pack.run("LGM_SplatToMesh", splat=splat)


def test_a_mesh_of_another_batch_is_refused(pack, splat, two):
    with pytest.raises(ValueError, match="One mesh for each splat"):
        pack.run("LGM_BakeSplatTexture", mesh=two, splat=splat)


def test_refining_says_what_it_needs(pack, splat, mesh):
    """On a machine without nvdiffrast; where it is, tests/mesh/test_refine.py runs it."""
    reason = pack.module("lgm.mesh.refine").why_not()
    if not reason:
        pytest.skip("nvdiffrast and a GPU are here")
    with pytest.raises(RuntimeError, match=r"nvdiffrast.*pip install"):
        pack.run("LGM_RefineMesh", mesh=mesh, splat=splat)
