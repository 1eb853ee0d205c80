"""Fitting a splat to the pictures it was made from."""

import pytest
import torch

from lgm import load_model
from lgm.cameras import FOVY, input_poses, orbit_poses
from lgm.gaussians import Gaussians, concatenate
from lgm.network.fit import FAINTEST, fit_to_pictures
from lgm.network.inputs import framing, in_scaled_world
from lgm.pictures.matte import load_views
from lgm.pictures.views import example_objects, view_files
from lgm.render import render
from lgm.training.learning.losses import psnr

SIZE = 48


@pytest.fixture(scope="module")
def demo():
    return load_model("demo")


def ball(seed: int = 0, count: int = 400) -> Gaussians:
    """Colored Gaussians on a sphere, some of them too faint to be drawn."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(1, count, 3, generator=generator), dim=2)
    opacities = torch.full((1, count, 1), 0.9)
    opacities[:, ::10] = 0.5 * FAINTEST
    return Gaussians(
        0.5 * directions, opacities, torch.full((1, count, 3), 0.05),
        torch.nn.functional.normalize(torch.randn(1, count, 4, generator=generator), dim=2),
        0.5 + 0.5 * directions,
    )  # fmt: skip


def wrong(splat: Gaussians) -> Gaussians:
    """Bloated, faint and pale."""
    drawn = splat.opacities >= FAINTEST
    return Gaussians(
        splat.positions, torch.where(drawn, 0.5, splat.opacities), 1.3 * splat.scales,
        splat.rotations, 0.5 * splat.colors + 0.3,
    )  # fmt: skip


def shown(splat: Gaussians, c2w: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    output = render(splat, input_poses() if c2w is None else c2w, SIZE)
    return output.images.detach(), output.alphas.detach()


@pytest.mark.parametrize("with_alpha", [True, False])
def test_a_fitted_splat_looks_like_its_pictures_and_like_the_object_elsewhere(with_alpha):
    truth = ball()
    pictures, alphas = shown(truth)
    start = wrong(truth)
    poses = input_poses()[None]
    fitted = fit_to_pictures(start, pictures, alphas if with_alpha else None, poses, steps=20)
    assert fitted.count == start.count and not fitted.positions.requires_grad
    assert (psnr(shown(fitted)[0], pictures) > psnr(shown(start)[0], pictures) + 4).all()
    elsewhere = orbit_poses([45.0, 225.0], 30.0)
    target = shown(truth, elsewhere)[0]
    gain = psnr(shown(fitted, elsewhere)[0], target) - psnr(shown(start, elsewhere)[0], target)
    assert (gain > 2).all()
    # What is too faint to be drawn stays as it is.
    faint = (start.opacities < FAINTEST)[0, :, 0]
    assert 0 < faint.sum() < start.count
    for name, value in fitted.tensors().items():
        assert torch.equal(value[:, faint], getattr(start, name)[:, faint])
    torch.testing.assert_close(fitted.rotations.norm(dim=-1), torch.ones(1, start.count))
    assert fitted.colors.min() >= 0 and fitted.colors.max() <= 1


def test_objects_of_a_batch_are_fitted_each_to_its_own():
    truth = concatenate([ball(1), ball(2)])
    poses = input_poses().expand(2, -1, -1, -1)
    pictures, alphas = shown(truth)
    together = fit_to_pictures(wrong(truth), pictures, alphas, poses, steps=3)
    for index in range(2):
        part = slice(index, index + 1)
        alone = fit_to_pictures(
            wrong(truth).item(index), pictures[part], alphas[part], poses[part], steps=3
        )
        for name, value in alone.tensors().items():
            torch.testing.assert_close(together.tensors()[name][part], value)


def test_steps_are_told_and_can_be_stopped_and_none_changes_nothing():
    truth = ball()
    pictures, alphas = shown(truth)
    told = []
    with torch.inference_mode():  # as ComfyUI runs nodes
        start = wrong(truth)
        arguments = (start, pictures, alphas, input_poses()[None], FOVY)
        fit_to_pictures(*arguments, steps=4, progress=told.append)
        assert told == [0, 0.25, 0.5, 0.75, 1]
        assert fit_to_pictures(*arguments, steps=0) is start

        def stop(part: float) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_to_pictures(*arguments, steps=4, progress=stop)


def test_what_can_not_be_fitted_is_said(demo):
    splat = ball()
    pictures, alphas = shown(splat)
    arguments = (pictures, alphas, input_poses()[None])
    with pytest.raises(ValueError, match="0 steps or more, got -1"):
        fit_to_pictures(splat, *arguments, steps=-1)
    colored = Gaussians(**splat.tensors(), sh=torch.zeros(1, splat.count, 3, 3))
    with pytest.raises(ValueError, match="spherical harmonics"):
        fit_to_pictures(colored, *arguments)
    with pytest.raises(ValueError, match="views of each of 1 splats, got views of 2"):
        demo.fit(splat, torch.rand(2, 4, 3, 64, 64))
    nothing = splat.map(torch.clone)
    nothing.opacities.zero_()
    untouched = fit_to_pictures(nothing, *arguments).tensors()
    assert all(torch.equal(untouched[name], value) for name, value in nothing.tensors().items())


@pytest.mark.parametrize("with_alpha", [True, False])
def test_the_models_own_fit_knows_the_pictures_cameras(demo, with_alpha):
    """It is `fit_to_pictures` with the pictures on white, at the side asked for, in the world in
    which its cameras show as much as the trained ones."""
    truth, poses, fovy = ball(), orbit_poses([10.0, 100, 190, 280], 20.0), 35.0
    output = render(truth, poses, 64, fovy)
    pictures, alphas = output.images.detach().clamp(0, 1)[0], output.alphas.detach()[0]
    straight = ((pictures - 1 + alphas) / alphas.clamp(min=1e-3)).clamp(0, 1)
    views = torch.cat([straight, alphas], dim=1) if with_alpha else pictures
    given = {"c2w": poses, "size": 64, "fovy": fovy, "steps": 3}
    fitted = demo.fit(wrong(truth), views, **given)
    seen = straight * alphas + 1 - alphas if with_alpha else pictures
    known = alphas[None] if with_alpha else None
    factor = framing(poses[None], fovy)
    there = in_scaled_world(poses[None], factor)
    expected = fit_to_pictures(wrong(truth).scaled(factor), seen[None], known, there, fovy, 3)
    expected = expected.scaled(1 / factor)
    for name, value in expected.tensors().items():
        torch.testing.assert_close(fitted.tensors()[name], value, atol=2e-4, rtol=0)
    for other in ({"c2w": None}, {"fovy": FOVY}, {"steps": 1}, {"size": 128}):
        changed = demo.fit(wrong(truth), views, **(given | other))
        assert (changed.scales - fitted.scales).abs().max() > 1e-3, other
    parts = []
    demo.fit(wrong(truth), views, **given, progress=parts.append)
    assert parts == [0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1]


@pytest.mark.slow
def test_the_models_own_fit_brings_its_splat_closer_to_the_views(demo):
    views = load_views(view_files(example_objects()["spot"]), 256)
    splat = demo.reconstruct(views, size=128)
    fitted = demo.fit(splat, views, size=128)
    seen = torch.nn.functional.interpolate(views, 128, mode="area")
    target = seen[:, :3] * seen[:, 3:] + 1 - seen[:, 3:]
    before, after = (
        psnr(render(x, input_poses(), 128).images[0].clamp(0, 1), target).mean()
        for x in (splat, fitted)
    )
    assert after > before + 2
