import numpy as np
import pytest
import torch
from PIL import Image

from lgm.cameras import INPUT_AZIMUTHS, orbit_poses
from lgm.multiview.conditioning import (
    CLIP_MEAN,
    CLIP_STD,
    VIEW_ORDER,
    camera_rows,
    check_image,
    clip_pixels,
    latent_pixels,
)

LEVEL_CAMERAS = [  # of the original, elevation 0
    [1, 0, 0, 0, 0, 0, -1, -1, 0, 1, 0, 0, 0, 0, 0, 1],
    [0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
    [-1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1],
    [0, 0, -1, -1, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
    [0] * 16,
]
HALF_TURN_TO_BLENDER = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def test_level_cameras_are_the_originals():
    table = torch.tensor(LEVEL_CAMERAS, dtype=torch.float32)
    assert (camera_rows(with_image=True) - table).abs().max() <= 1e-6
    assert torch.equal(camera_rows(), camera_rows(with_image=True)[:4])


@pytest.mark.parametrize("elevation", [-30.0, 0.0, 15.0, 60.0])
def test_cameras_look_at_the_origin_from_the_elevation_above(elevation):
    c2w = camera_rows(elevation, azimuth=25.0).view(4, 4, 4)
    position, back = c2w[:, :3, 3], c2w[:, :3, 2]
    assert (position.norm(dim=-1) - 1).abs().max() <= 1e-6
    assert (position - back).abs().max() <= 1e-6
    height = torch.tensor(elevation).deg2rad().sin()
    assert (position[:, 2] - height).abs().max() <= 1e-6  # Blender's +z is up


def test_azimuth_turns_all_cameras_and_a_quarter_turn_renames_them():
    turned = camera_rows(20.0, azimuth=90.0)
    assert (turned - camera_rows(20.0).roll(-1, dims=0)).abs().max() <= 1e-6


def test_view_order_is_lgms_orbit_around_a_front_at_frame_1():
    """MVDream's objects look along Blender's +x; LGM's along +z, seen from azimuth 0."""
    frames = camera_rows().view(4, 4, 4)[list(VIEW_ORDER)]
    expected = HALF_TURN_TO_BLENDER @ orbit_poses(INPUT_AZIMUTHS, radius=1.0)
    quarter = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # about +z
    assert (frames - quarter @ expected).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(256, 256), (224, 224), (100, 100), (300, 420)])
def test_clip_reads_what_pillow_resamples(size):
    torch.manual_seed(0)
    image = torch.rand(1, 3, *size)
    height, width = size
    picture = Image.fromarray((image[0] * 255).byte().permute(1, 2, 0).numpy())
    scaled = (224, 224) if height == width else (224 * width // height, 224)
    left = (scaled[0] - 224) // 2
    picture = picture.resize(scaled, Image.Resampling.BICUBIC).crop((left, 0, left + 224, 224))
    expected = (np.asarray(picture) / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    pixels = clip_pixels(image)[0].permute(1, 2, 0).numpy()
    assert np.abs(pixels - expected).max() <= 1e-5


def test_latent_pixels_span_minus_one_to_one():
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(latent_pixels(image, 32), 2 * image - 1)
    assert latent_pixels(image, 16).shape == (2, 3, 16, 16)
    assert torch.allclose(latent_pixels(torch.ones(1, 3, 20, 20), 32), torch.ones(1, 3, 32, 32))


def test_pictures_are_composited_on_white():
    image = torch.zeros(4, 8, 8)
    image[3, :4] = 0.25
    assert torch.equal(check_image(image)[0, :, :4], torch.full((3, 4, 8), 0.75))
    assert torch.equal(check_image(image)[0, :, 4:], torch.ones(3, 4, 8))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(8, 8), r"needs a picture \[3, S, S\].*got \[8, 8\]"),
        (torch.zeros(1, 5, 8, 8), r"got \[1, 5, 8, 8\]"),
        (torch.zeros(3, 8, 9), "square picture, got 9 x 8"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "floats 0..1, got torch.uint8"),
        (torch.full((3, 8, 8), 128.0), "values 0..1"),
        (torch.full((3, 8, 8), float("nan")), "finite"),
        (torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), "Picture 2 is all white"),
        (torch.zeros(4, 8, 8), "Picture 1 is all white"),
    ],
)
def test_unusable_pictures_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        check_image(image)
