import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lgm.training.learning.losses import edge_loss, psnr, ssim, surface_loss
from lgm.training.learning.lpips import LPIPS, VGG_SLICES


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(2, 3, 40, 40, generator=generator)
    return first, (first + 0.1 * torch.randn(2, 3, 40, 40, generator=generator)).clamp(0, 1)


def test_psnr_equals_scikit_image(pair):
    first, second = pair
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1)
        for a, b in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(psnr(first, second), expected, rtol=1e-5)


def test_ssim_equals_scikit_image(pair):
    first, second = pair
    for a, b in zip(first, second, strict=True):
        expected = structural_similarity(a.numpy(), b.numpy(), data_range=1, channel_axis=0)
        assert abs(float(ssim(a[None], b[None])) - expected) < 1e-4


def test_equal_pictures_have_no_loss(pair):
    first, _ = pair
    assert edge_loss(first, first) == 0
    torch.testing.assert_close(ssim(first, first), torch.ones(2))


def test_surface_loss_ignores_unknown_pixels():
    positions, surface = torch.zeros(1, 4, 3), torch.ones(1, 4, 3)
    weight = torch.tensor([1.0, 1, 0, 0]).view(1, 4, 1)
    surface[:, 2:] = 100
    assert float(surface_loss(positions, surface, weight)) == 1.0


@pytest.mark.slow
def test_lpips_is_a_distance_on_weights_of_the_released_layout(tmp_path, pair):
    """The real weights can't be bundled: this checks loading and arithmetic on random ones."""
    widths, features, channels = (64, 128, 256, 512, 512), {}, 3
    generator = torch.Generator().manual_seed(1)
    for width, group in zip(widths, VGG_SLICES, strict=True):
        for index in group:
            scale = (2 / (9 * channels)) ** 0.5
            features[f"features.{index}.weight"] = scale * torch.randn(
                width, channels, 3, 3, generator=generator
            )
            features[f"features.{index}.bias"] = torch.zeros(width)
            channels = width
    heads = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) / w for i, w in enumerate(widths)}
    torch.save(features, tmp_path / "vgg.pth")
    torch.save(heads, tmp_path / "heads.pth")
    distance = LPIPS(tmp_path / "vgg.pth", tmp_path / "heads.pth")
    first, second = pair
    assert float(distance(first, first)) == 0
    near, far = distance(first, second), distance(first, 1 - first)
    assert 0 < near < far
    torch.testing.assert_close(distance(second, first), near)
