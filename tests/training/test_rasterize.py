"""The ground-truth renderer against ray casting and closed forms; the GPU kernel, interpreted."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import Delaunay

from lgm.cameras import camera_rays, orbit_poses
from lgm.training.rasterize import Lights, TriangleSoup, rasterize

pytest.importorskip("numba")


def soup_of(triangles, normals=None, uvs=None, colors=None, atlas=None):
    """One object from [T, 3, 3] triangles; white where nothing else is said."""
    corners = torch.as_tensor(
        np.asarray(triangles).copy() if not torch.is_tensor(triangles) else triangles
    )
    corners = corners.float().reshape(-1, 3, 3)
    count = len(corners)
    return TriangleSoup(
        corners=corners,
        normals=torch.zeros(count, 3, 3) if normals is None else normals,
        uvs=torch.zeros(count, 3, 2) if uvs is None else uvs,
        colors=torch.ones(count, 3) if colors is None else colors,
        textures=torch.full((count,), -1 if atlas is None else 0),
        objects=torch.zeros(count, dtype=torch.int64),
        atlas=torch.zeros(0, 3, 4, 4) if atlas is None else atlas,
        count=1,
    )


def square(half=0.4, z=0.0):
    """Two triangles facing +z, and their texture coordinates with v up."""
    a, b, c, d = [-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]
    uv_a, uv_b, uv_c, uv_d = [0, 0], [1, 0], [1, 1], [0, 1]
    uvs = torch.tensor([[uv_a, uv_b, uv_c], [uv_a, uv_c, uv_d]], dtype=torch.float32)
    return [[a, b, c], [a, c, d]], uvs


def join(*soups):
    """Several objects as one batch."""
    parts = [
        torch.cat([getattr(s, name) for s in soups])
        for name in ("corners", "normals", "uvs", "colors", "textures")
    ]
    objects = torch.cat([torch.full((len(s.corners),), i) for i, s in enumerate(soups)])
    return TriangleSoup(*parts, objects=objects, atlas=soups[0].atlas, count=len(soups))


def blob(seed):
    generator = torch.Generator().manual_seed(seed)
    triangles = (
        torch.rand(40, 1, 3, generator=generator)
        - 0.5
        + 0.2 * torch.randn(40, 3, 3, generator=generator)
    )
    return soup_of(triangles, colors=torch.rand(40, 3, generator=generator))


def front(azimuth=0.0, elevation=0.0):
    return orbit_poses([azimuth], elevation)[None]


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_plane_facing_the_camera_has_exact_depth_and_extent():
    triangles, _ = square(half=0.4, z=0.25)
    out = rasterize(soup_of(triangles), None, front(), 64)
    covered = out.alphas[0, 0, 0] == 1
    torch.testing.assert_close(
        out.depths[0, 0, 0][covered], torch.full((covered.sum(),), 1.25), atol=1e-6, rtol=0
    )
    # The side is 64 * 0.4 / (1.25 * tan(fovy / 2)) pixels; coverage counts four samples a pixel.
    side = 64 * 0.4 / (1.25 * np.tan(np.radians(49.1) / 2))
    assert out.alphas.sum().sqrt().item() == pytest.approx(side, abs=0.5)
    assert (out.depths[out.alphas == 0] == 0).all()


def test_a_sphere_matches_ray_casting():
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    c2w, size = front(30, 20), 96
    out = rasterize(soup_of(mesh.triangles), None, c2w, size, supersample=1)
    origin, ray = (x[0, 0].double() for x in camera_rays(c2w, size))
    b = (origin * ray).sum(-1)
    discriminant = b**2 - (origin**2).sum(-1) + 0.25
    expected = discriminant > 0
    covered = out.alphas[0, 0, 0] > 0
    assert overlap(covered, expected) > 0.995
    distance = -b - discriminant.clamp(min=0).sqrt()
    depth = distance * (ray * -c2w[0, 0, :3, 2].double()).sum(-1)
    core = discriminant > 0.05  # away from the rim, where flat facets and steep depth meet
    assert (out.depths[0, 0, 0] - depth)[core].abs().max() < 1e-3


def test_a_turned_cube_matches_ray_casting():
    c2w, size, half = front(35, 25), 96, 0.35
    mesh = trimesh.creation.box(extents=[2 * half] * 3)
    out = rasterize(soup_of(mesh.triangles), None, c2w, size, supersample=1)
    origin, ray = (x[0, 0].double() for x in camera_rays(c2w, size))
    near, far = torch.sort(
        torch.stack([(-half - origin) / ray, (half - origin) / ray]), dim=0
    ).values
    enter, leave = near.amax(-1), far.amin(-1)
    covered, expected = out.alphas[0, 0, 0] > 0, enter < leave
    assert overlap(covered, expected) > 0.995
    depth = enter * (ray * -c2w[0, 0, :3, 2].double()).sum(-1)
    inside = covered & expected
    assert (out.depths[0, 0, 0] - depth)[inside].abs().max() < 2e-3


def test_shared_edges_leave_no_crack():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-1, 1, (400, 2)), [[-1, -1], [1, -1], [1, 1], [-1, 1]]])
    flat = np.concatenate([points, np.zeros((len(points), 1))], axis=1)
    out = rasterize(
        soup_of(flat[Delaunay(points).simplices]), None, front(7, 13), 128, supersample=1
    )
    assert (out.alphas == 1).all()  # the square is larger than the picture


def test_a_triangle_larger_than_the_picture_is_drawn():
    out = rasterize(soup_of([[[-90, -90, -1], [90, -90, -1], [0, 90, -1]]]), None, front(), 32)
    assert (out.alphas == 1).all()
    torch.testing.assert_close(out.depths, torch.full_like(out.depths, 2.5), atol=1e-5, rtol=0)


def test_textures_are_upright_and_not_mirrored():
    texture = torch.zeros(1, 3, 16, 16)
    red, green, blue, gray = [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5]
    quarters = {(0, 0): red, (0, 1): green, (1, 0): blue, (1, 1): gray}  # as one sees the picture
    for (row, column), color in quarters.items():
        texture[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.tensor(color)[
            :, None, None
        ]
    triangles, uvs = square(half=0.6)
    for atlas in (texture, (texture * 255).round().byte()):
        image = rasterize(soup_of(triangles, uvs=uvs, atlas=atlas), None, front(), 64).images[0, 0]
        for (row, column), color in quarters.items():
            seen = image[:, 20 + 24 * row, 20 + 24 * column]
            torch.testing.assert_close(
                seen, torch.tensor(color, dtype=torch.float32), atol=0.01, rtol=0
            )


def test_textures_repeat_at_integers():
    atlas = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    triangles, uvs = square()
    images = [
        rasterize(soup_of(triangles, uvs=uvs + shift, atlas=atlas), None, front(20), 32).images
        for shift in (0.0, 3.0, -2.0)
    ]
    torch.testing.assert_close(images[1], images[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(images[2], images[0], atol=1e-4, rtol=0)


def test_perspective_bends_neither_depth_nor_texture_on_a_slanted_plane():
    # A texture that is a ramp in v shows v itself; both must follow the ray's hit with the plane.
    ramp = torch.arange(255, -1, -1) / 255
    atlas = ramp[None, None, :, None].expand(1, 3, 256, 256).contiguous()
    triangles, uvs = square(half=0.5)
    c2w, size = front(0, 60), 64
    out = rasterize(soup_of(triangles, uvs=uvs, atlas=atlas), None, c2w, size, supersample=1)
    origin, ray = (x[0, 0] for x in camera_rays(c2w, size))
    distance = -origin[..., 2] / ray[..., 2]
    hit = origin + distance[..., None] * ray
    inside = (hit[..., :2].abs() < 0.49).all(-1)
    expected = (hit[..., 1] + 0.5) * 256 / 255 - 0.5 / 255
    assert (out.images[0, 0, 0] - expected)[inside].abs().max() < 2e-3
    depth = distance * (ray * -c2w[0, 0, :3, 2]).sum(-1)
    assert (out.depths[0, 0, 0] - depth)[inside].abs().max() < 1e-5


def test_lambert_and_hemisphere_light_on_a_plane():
    triangles, _ = square()
    color = torch.tensor([[0.8, 0.6, 0.4]]).expand(2, 3)
    lights = Lights(
        ambient_top=torch.tensor([[0.4, 0.4, 0.4]]),
        ambient_bottom=torch.tensor([[0.2, 0.1, 0.0]]),
        directions=torch.tensor([[[0.0, 0.6, 0.8], [0.0, 0.0, -1.0]]]),
        intensities=torch.tensor([[[0.5, 0.5, 0.5], [9.0, 9.0, 9.0]]]),  # the second one is behind
    )
    image = rasterize(soup_of(triangles, colors=color), lights, front(), 16).images[0, 0]
    expected = color[0] * (torch.tensor([0.3, 0.25, 0.2]) + 0.8 * 0.5)
    torch.testing.assert_close(image[:, 8, 8], expected, atol=1e-5, rtol=0)


def test_shading_is_two_sided():
    triangles, _ = square()
    normals = torch.tensor([0.0, 0.0, 1.0]).expand(2, 3, 3)
    lights = Lights(
        torch.full((1, 3), 0.3),
        torch.full((1, 3), 0.3),
        torch.tensor([[[0.0, 0.0, 1.0]]]),
        torch.full((1, 1, 3), 0.5),
    )
    plain = soup_of(triangles, normals=normals)
    variants = [
        replace(plain, normals=-normals),
        replace(plain, corners=plain.corners.flip(1)),
        replace(plain, normals=torch.zeros(2, 3, 3)),
    ]
    expected = rasterize(plain, lights, front(), 16).images
    assert expected[0, 0, :, 8, 8].tolist() == pytest.approx([0.8] * 3)
    for variant in variants:
        torch.testing.assert_close(
            rasterize(variant, lights, front(), 16).images, expected, atol=1e-6, rtol=0
        )


def test_triangles_behind_the_camera_are_not_seen():
    seen = blob(0)
    behind = soup_of([[[0.0, -1, 2], [1, 1, 2], [-1, 1, 3]], [[0.0, 0, -1], [1, 0, 5], [0, 1, 5]]])
    both = replace(join(seen, behind), objects=torch.zeros(42, dtype=torch.int64), count=1)
    expected, out = (rasterize(s, None, front(), 32) for s in (seen, both))
    torch.testing.assert_close(out.images, expected.images, atol=0, rtol=0)
    torch.testing.assert_close(out.depths, expected.depths, atol=0, rtol=0)


def test_the_nearer_surface_wins_in_any_order():
    near, _ = square(half=0.3, z=0.3)
    far, _ = square(half=0.6, z=-0.3)
    red, blue = [[1.0, 0, 0]] * 2, [[0, 0, 1.0]] * 2
    out = [
        rasterize(soup_of(t, colors=torch.tensor(c)), None, front(), 16).images
        for t, c in ((near + far, red + blue), (far + near, blue + red))
    ]
    torch.testing.assert_close(out[0], out[1], atol=0, rtol=0)
    assert out[0][0, 0, :, 8, 8].tolist() == [1, 0, 0]


def test_a_batch_equals_its_items_and_views():
    items = [blob(1), blob(2), blob(3)]
    c2w = torch.stack([orbit_poses([a, a + 80.0], 10) for a in (0.0, 33.0, 70.0)])
    together = rasterize(join(*items), None, c2w, 24)
    for index, item in enumerate(items):
        for view in range(2):
            alone = rasterize(item, None, c2w[index : index + 1, view : view + 1], 24)
            torch.testing.assert_close(
                together.images[index, view], alone.images[0, 0], atol=1e-6, rtol=0
            )
            torch.testing.assert_close(
                together.depths[index, view], alone.depths[0, 0], atol=1e-6, rtol=0
            )


def test_supersampling_is_the_mean_of_the_fine_picture():
    coarse, fine = (
        rasterize(blob(4), None, front(), s, supersample=k) for s, k in ((24, 3), (72, 1))
    )
    pooled = torch.nn.functional.avg_pool2d(fine.images[0], 3)
    torch.testing.assert_close(coarse.images[0], pooled, atol=1e-5, rtol=0)


def test_nothing_to_draw_is_a_white_picture():
    out = rasterize(soup_of(np.zeros((0, 3, 3))), None, front(), 8)
    assert (out.images == 1).all() and (out.alphas == 0).all() and (out.depths == 0).all()


def test_cameras_must_match_the_objects():
    with pytest.raises(ValueError, match=r"needs c2w \[1, V, 4, 4\], got \[2, 1, 4, 4\]"):
        rasterize(blob(0), None, front().expand(2, 1, 4, 4), 8)


# Run on its own: whether Triton interprets is decided when it is first imported.
INTERPRETED = """
import triton.runtime.interpreter as interpreter

patch = interpreter._patch_lang_tensor
def patch_for_numpy_2(tensor, scope):
    # Triton 3.6 calls int() on arrays of one element, which NumPy 2.4 refuses.
    patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
interpreter._patch_lang_tensor = patch_for_numpy_2

import torch
from lgm.cameras import focal_length, orbit_poses, world_to_camera
from lgm.mesh import zbuffer_numba, zbuffer_triton

torch.manual_seed(0)
corners = torch.rand(50, 1, 3) * 1.6 - 0.8 + torch.randn(50, 3, 3) * torch.rand(50, 1, 1) * 0.4
corners[5] *= 20  # larger than the picture, partly behind the camera
corners[6] = corners[6, :1]  # a point
corners[7] *= 4
objects = torch.arange(50) // 30
near = orbit_poses([30, 250], -40, radius=0.6)
w2c = world_to_camera(torch.stack([orbit_poses([0, 100], 20), near]))
arguments = corners, objects, w2c[:, :, :3].contiguous(), focal_length(36), 36
cpu, gpu = zbuffer_numba.visibility(*arguments), zbuffer_triton.visibility(*arguments)
drawn = cpu != torch.iinfo(torch.int64).max
assert 0.1 < drawn.float().mean() < 0.9 and len((cpu[drawn] & 0xFFFFFFFF).unique()) > 20
print("different:", (cpu != gpu).sum().item())
"""


@pytest.mark.slow
def test_the_gpu_kernel_equals_the_cpu_one():
    pytest.importorskip("triton")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "different: 0", result.stdout + result.stderr
