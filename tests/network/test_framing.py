"""Cameras at other distances and of other fields of view than the trained ones."""

import math
from dataclasses import replace

import pytest
import torch

from lgm import LGM, PRESETS, Gaussians, cameras
from lgm.render import render
from lgm.training.learning.losses import psnr

SIDE = 64
NOVEL = cameras.orbit_poses([45, 135, 225, 315], 20)
EXTENT = cameras.RADIUS * cameras.tan_half()  # half of what a trained camera shows
SMALL = replace(
    PRESETS["demo"],
    down_channels=(32, 32, 32),
    down_attention=(False, False, True),
    up_channels=(32, 32),
    up_attention=(True, False),
    corrector=replace(
        PRESETS["demo"].corrector,
        down_channels=(32, 32),
        down_attention=(False, True),
        up_channels=(32, 32),
        up_attention=(True, False),
    ),
)


@pytest.fixture(scope="module")
def blob() -> Gaussians:
    """A colored ellipsoid, off the center, that fills as much of the frame as trained objects."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator), dim=-1)
    return Gaussians(
        (directions * torch.tensor([0.45, 0.5, 0.35]) + torch.tensor([0.05, -0.05, 0.08]))[None],
        torch.full((1, 3000, 1), 0.9),
        torch.full((1, 3000, 3), 0.02),
        torch.tensor([1.0, 0, 0, 0]).expand(1, 3000, 4),
        directions[None] / 2 + 0.5,
    )


def matching(distance: float) -> float:
    """The field of view that shows as much of the object."""
    return 2 * math.degrees(math.atan(EXTENT / distance))


def seen(splat, distance: float, fovy: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RGBA views, and their cameras."""
    c2w = cameras.orbit_poses([0, 90, 180, 270], 10, distance)
    drawn = render(splat, c2w, SIDE, fovy)
    alphas = drawn.alphas[0].clamp(0, 1)
    colors = (drawn.images[0] - 1 + alphas) / alphas.clamp(min=1e-3)
    return torch.cat([colors.clamp(0, 1), alphas], dim=1), c2w


@pytest.fixture(scope="module")
def drafting() -> LGM:
    """Gives the colored hull, as a network does that has learned nothing."""
    model = LGM(replace(SMALL, corrector=None)).eval()
    for parameter in model.conv.parameters():
        torch.nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("factor", [0.75, 2.0, 10 / 3, 60.0])
@pytest.mark.parametrize("fovy", [cameras.FOVY, 30.0])
def test_a_larger_world_gives_a_larger_splat_alone(drafting, blob, factor, fovy):
    views, c2w = seen(blob, 1.6, fovy)
    larger = c2w.clone()
    larger[:, :3, 3] *= factor
    grown, back = torch.tensor([factor]), torch.tensor([1 / factor])
    plain = drafting.reconstruct(views, c2w, SIDE, fovy)
    scaled = drafting.reconstruct(views, larger, SIDE, fovy).scaled(back)
    # Nearly all: where a ray just hits or misses the hull, a last digit of a camera decides.
    for name in ("positions", "scales", "colors", "opacities"):
        apart = (getattr(scaled, name) - getattr(plain, name)).abs().amax(-1)[0]
        assert (apart < 1e-4).float().mean() > 0.98, name
    fitted = drafting.fit(plain, views, c2w, SIDE, fovy, steps=2)
    there = drafting.fit(plain.scaled(grown), views, larger, SIDE, fovy, steps=2)
    # Adam's first steps are of one length, whichever way a tiny gradient points: on the whole.
    apart = (there.scaled(back).positions - fitted.positions).norm(dim=-1).mean()
    assert apart < 0.2 * (fitted.positions - plain.positions).norm(dim=-1).mean()


@pytest.mark.parametrize("distance", [1.05, 2.0, 3.0, 12.0, 39.0])
def test_cameras_farther_away_of_a_narrower_angle_change_little(drafting, blob, distance):
    """Opposite pictures say the same of an outline the more, the farther away they were taken: the
    hull itself is then a little larger."""
    truth = render(blob, NOVEL, SIDE).images

    def quality(distance: float) -> float:
        fovy = matching(distance)
        splat = drafting.reconstruct(*seen(blob, distance, fovy), SIDE, fovy)
        return float(psnr(render(splat, NOVEL, SIDE).images, truth).mean())

    assert quality(distance) > quality(cameras.RADIUS) - 3


@pytest.mark.parametrize(
    "distance, fovy, needed",
    [
        (1.0, 49.1, "1.05 to 100 from the origin.*got 1:"),
        (101.0, 49.1, "1.05 to 100 from the origin.*got 101:"),
        (1.5, 1.9, "2 to 100 degrees, got 1.9:"),
        (1.5, 101.0, "2 to 100 degrees, got 101:"),
        (1.5, math.nan, "2 to 100 degrees, got nan:"),
    ],
)
def test_what_stays_outside_is_refused(drafting, distance, fovy, needed):
    c2w = cameras.orbit_poses([0, 90, 180, 270], radius=distance)
    with pytest.raises(ValueError, match=needed):
        drafting.reconstruct(torch.rand(4, 3, SIDE, SIDE), c2w, SIDE, fovy)
