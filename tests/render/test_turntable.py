import torch

from lgm.cameras import camera_rays, orbit_poses
from lgm.render.turntable import normals_from_depth, smooth_depths


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


def test_smoothing_takes_noise_off_normals_and_leaves_the_background():
    c2w = orbit_poses([0.0, 90.0])
    depths, expected, hit = sphere(c2w, 256)
    generator = torch.Generator().manual_seed(0)
    noisy = depths + 0.002 * torch.randn(depths.shape, generator=generator) * (depths > 0)
    smooth = smooth_depths(noisy, (depths > 0).float())

    def error(depths):
        cosine = (normals_from_depth(depths, c2w) * expected).sum(1)[hit]
        return float(1 - cosine.median())

    assert error(smooth) < 0.3 * error(noisy)
    assert (smooth[depths == 0] == 0).all()
    torch.testing.assert_close(
        smooth_depths(torch.full((1, 1, 40, 60), 2.0), torch.ones(1, 1, 40, 60)),
        torch.full((1, 1, 40, 60), 2.0),
    )
