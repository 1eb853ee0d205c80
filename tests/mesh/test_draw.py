import pytest
import torch
import trimesh

from lgm.cameras import orbit_poses
from lgm.mesh import Mesh, draw, zbuffer
from lgm.training.rasterize import TriangleSoup, rasterize

SIZE = 96
VIEWS = orbit_poses([10, 130, 250, 0], [5, -40, 80, -90])


@pytest.fixture
def mesh() -> Mesh:
    """A torus whose texture is a chessboard with soft edges."""
    shape = trimesh.creation.torus(0.5, 0.2, 24, 12)
    vertices = torch.tensor(shape.vertices, dtype=torch.float32)
    uvs = 0.5 + 0.5 * vertices[:, :2]  # away from the border, where that one wraps
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    texture = board[..., None] * torch.tensor([0.2, 0.5, 0.9])
    return Mesh(vertices, torch.tensor(shape.faces), uvs=uvs, texture=texture)


def test_picture_agrees_with_the_training_rasterizer(mesh):
    pictures, alphas = draw.draw_mesh(mesh, VIEWS, SIZE)
    corners, count = mesh.vertices[mesh.faces], mesh.face_count
    soup = TriangleSoup(
        corners=corners,
        normals=torch.zeros_like(corners),
        uvs=mesh.uvs[mesh.faces] * torch.tensor([1, -1]) + torch.tensor([0, 1]),  # v up there
        colors=torch.ones(count, 3),
        textures=torch.zeros(count, dtype=torch.int64),
        objects=torch.zeros(count, dtype=torch.int64),
        atlas=mesh.texture.movedim(-1, 0)[None],
        count=1,
    )
    expected = rasterize(soup, None, VIEWS[None], SIZE)
    torch.testing.assert_close(alphas, expected.alphas[0])
    torch.testing.assert_close(pictures, expected.images[0], atol=1e-3, rtol=0)


def test_torch_and_numba_see_the_same(mesh, monkeypatch):
    pytest.importorskip("numba")
    fast = zbuffer.visibility(mesh.vertices, mesh.faces, VIEWS, SIZE)
    monkeypatch.setattr(zbuffer, "why_no_numba", lambda: "it is to be compared with")
    slow = zbuffer.visibility(mesh.vertices, mesh.faces, VIEWS, SIZE)
    assert (fast[1] != slow[1]).float().mean() < 1e-3  # snapped after other roundings
    same = fast[1] == slow[1]
    torch.testing.assert_close(fast[0][same], slow[0][same], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_scale_changes_nothing(mesh, scale):
    poses = VIEWS.clone()
    poses[:, :3, 3] *= scale
    depths, triangles = zbuffer.visibility(mesh.vertices * scale, mesh.faces, poses, SIZE)
    expected, same = zbuffer.visibility(mesh.vertices, mesh.faces, VIEWS, SIZE)
    assert (triangles != same).float().mean() < 1e-3
    seen = (triangles == same) & (same >= 0)
    torch.testing.assert_close(depths[seen] / scale, expected[seen], atol=0, rtol=1e-3)


def test_covered_pixels_of_a_tiling_are_each_covered_once():
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(torch.arange(9.0), torch.arange(9.0)).view(9, 9, 2) * 4
    grid[1:-1, 1:-1] += torch.rand(7, 7, 2, generator=generator) * 3 - 1.5
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    corners = torch.stack([torch.stack([a, b, c], 2), torch.stack([a, d, c], 2)]).view(-1, 3, 2)
    found = [pixel for pixel, _, _ in zbuffer.covered(corners, 32, 32)]
    assert torch.cat(found).sort().values.equal(torch.arange(32 * 32))


def test_weights_lead_back_to_the_pixel():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 3, 2, generator=generator) * 60 - 10
    for pixel, triangle, weights in zbuffer.covered(corners, 40, 30):
        place = zbuffer.interpolate(weights, corners[triangle])
        center = torch.stack([pixel % 30, pixel // 30], dim=-1) + 0.5
        assert weights.min() >= 0
        torch.testing.assert_close(place, center, atol=0.01, rtol=0)  # corners are snapped
