import torch

from lgm.cameras import camera_rays, orbit_poses
from lgm.turntable import normals_from_depth


def sphere(c2w, size, radius=0.5):
    """Depth [V, 1, S, S] (camera z) and unit normals [V, 3, S, S] of a sphere, by ray casting."""
    origins, directions = camera_rays(c2w, size)
    towards = -(origins * directions).sum(-1)
    root = (towards**2 - (origins**2).sum(-1) + radius**2).clamp(min=0).sqrt()
    hit = root > 0
    points = origins + (towards - root)[..., None] * directions
    forward = -c2w[:, None, None, :3, 2]
    depths = ((points - origins) * forward).sum(-1) * hit
    return depths[:, None], (points / radius).movedim(-1, 1), hit


def test_normals_of_a_sphere_point_outwards_in_the_world():
    c2w = orbit_poses([0.0, 90.0, 200.0], [0.0, 30.0, -40.0])
    depths, expected, hit = sphere(c2w, 128)
    cosine = (normals_from_depth(depths, c2w) * expected).sum(1)[hit]
    assert cosine.median() > 0.999
    assert (cosine > 0.9).float().mean() > 0.98  # the rest is the outermost ring


def test_flat_background_does_not_tilt_the_outline():
    c2w = orbit_poses([0.0])
    depths = torch.full((1, 1, 16, 16), 5.0)
    depths[..., 4:12, 4:12] = 1.0  # a square card in front of a wall
    normals = normals_from_depth(depths, c2w)
    torch.testing.assert_close(normals[0, 2], torch.ones(16, 16), atol=1e-5, rtol=0)
