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
    types = pack.module("nodes.types")
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


def test_batches_keep_their_lengths(pack, two):
    assert two.vertex_counts is not None and len(two.vertices) == 2
    types = pack.module("nodes.types")
    assert types.mesh_from_value(two, 1).face_count == int(two.face_counts[1])


@pytest.fixture(scope="module")
def two(pack, splat):
    types = pack.module("nodes.types")
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
