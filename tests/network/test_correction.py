"""What a corrector is told about a draft, and what is done with its answer."""

from dataclasses import replace

import pytest
import torch

from lgm import LGM, PRESETS, Gaussians, cameras
from lgm.network.carving import INSIDE
from lgm.network.correction import GRADIENT_SCALES, channels, correction_inputs
from lgm.network.hull import decode_hull, visual_hull
from lgm.network.inputs import network_inputs
from lgm.network.presets import CORRECTION_CHANNELS, POLES, VIEW_COUNT, preset_of
from lgm.render import render

pytestmark = pytest.mark.slow

SIDE, VIEWS = 32, VIEW_COUNT + POLES
TANGENT = torch.tan(torch.deg2rad(torch.tensor(cameras.FOVY / 2)))
OWN_COLOR, OWN_GAP = channels("drawn color"), channels("drawn gap").start
SEEN = [
    slice(channels(f"{view} color").start, channels(f"{view} gap").stop)
    for view in ("own", "next", "previous", "opposite")
]
PULL = channels("gradient").start  # to the end: the derivatives by the raw channels
TRUTH, MISSING, SILHOUETTE, COVERAGE, GAP = slice(0, 3), slice(3, 6), 6, 7, 8


@pytest.fixture(scope="module")
def blob() -> Gaussians:
    """A colored, solid ellipsoid, off the center."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(6000, 3, generator=generator), dim=-1)
    positions = directions * torch.tensor([0.4, 0.3, 0.25]) + torch.tensor([0.05, -0.1, 0.08])
    return Gaussians(
        positions[None],
        torch.full((1, 6000, 1), 0.9),
        torch.full((1, 6000, 3), 0.02),
        torch.tensor([1.0, 0, 0, 0]).expand(1, 6000, 4),
        (directions[None] / 2 + 0.5),
    )


def looked_at(blob, turn: float = 0.0):
    """The hull of the blob's four pictures, the camera ring turned by `turn` degrees."""
    c2w = cameras.orbit_poses([turn + azimuth for azimuth in (0, 90, 180, 270)])[None]
    drawn = render(blob, c2w, 2 * SIDE)

    def pooled(x):
        return torch.nn.functional.avg_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])

    tangent = TANGENT.expand(1, VIEW_COUNT)
    return visual_hull(pooled(drawn.images), pooled(drawn.alphas), c2w, tangent, poles=True)


def random_features(scale: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return scale * torch.randn(1, VIEWS, 14, SIDE, SIDE, generator=generator)


def test_it_has_as_many_channels_as_the_corrector_reads(blob):
    seen = correction_inputs(random_features(), looked_at(blob), VIEW_COUNT)
    assert seen.shape == (1, VIEWS, CORRECTION_CHANNELS, SIDE, SIDE)
    assert seen.isfinite().all()


def test_nothing_is_missing_where_the_pictures_are_of_the_draft_itself(blob):
    guide, features = looked_at(blob), random_features()
    drawn = render(decode_hull(features, guide), guide.c2w, 2 * SIDE)
    images = torch.nn.functional.avg_pool2d(drawn.images[0].clamp(0, 1), 2)[None]
    own = replace(guide, colors=images)
    # Colors are decoded from the guide's: give the draft back what that changes.
    change = torch.atanh((2 * guide.colors - 1).clamp(-0.98, 0.98)) - torch.atanh(
        (2 * images - 1).clamp(-0.98, 0.98)
    )
    features[:, :, 11:] += change
    seen = correction_inputs(features, own, VIEW_COUNT)
    for view in SEEN:
        assert seen[:, :, view][:, :, MISSING].abs().max() < 1e-4
    torch.testing.assert_close(seen[:, :, OWN_COLOR], 2 * images - 1, atol=1e-4, rtol=0)


def test_a_gaussian_is_told_what_its_own_picture_shows_and_its_neighbors(blob):
    """Where the hull is the object itself, nearly, as at its waist seen from the side."""
    guide = looked_at(blob)
    seen = correction_inputs(torch.zeros(1, VIEWS, 14, SIDE, SIDE), guide, VIEW_COUNT)
    inside = (guide.alphas[:, :VIEW_COUNT] > 0.99)[:, :, 0]
    own = seen[:, :VIEW_COUNT, SEEN[0]]
    difference = (own[:, :, TRUTH] - (2 * guide.colors[:, :VIEW_COUNT] - 1)).abs().amax(2)
    assert difference[inside].max() < 1e-3  # Gaussians of the hull lie on their own rays
    assert own[:, :, SILHOUETTE][inside].min() > 0.98
    for view in SEEN[1:]:  # the hull is what projects into every silhouette
        assert seen[:, :VIEW_COUNT, view][:, :, SILHOUETTE][inside].min() > INSIDE - 0.05


def test_depth_gaps_tell_what_hides_a_gaussian(blob):
    guide = looked_at(blob)
    inside = (guide.alphas[:, :VIEW_COUNT] > 0.99)[:, :, 0]
    seen = correction_inputs(torch.zeros(1, VIEWS, 14, SIDE, SIDE), guide, VIEW_COUNT)
    seen = seen[:, :VIEW_COUNT]
    front, back = seen[:, :, SEEN[0]][:, :, GAP], seen[:, :, SEEN[3]][:, :, GAP]
    assert front[inside].abs().max() < 0.25  # of 0.3 units: at the surface
    assert back[inside].mean() < -0.8  # the opposite view sees other things before it
    assert (seen[:, :, OWN_GAP] - front)[inside].abs().mean() < 0.02  # the same, by pixel


def test_turning_object_and_cameras_changes_nothing(blob):
    """All that is told is in the cameras' own axes."""
    angle = torch.deg2rad(torch.tensor(37.0))
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    half = angle / 2
    turned = replace(
        blob,
        positions=blob.positions @ turn.T,
        rotations=torch.tensor([half.cos(), 0, half.sin(), 0]).expand_as(blob.rotations),
    )
    features = random_features(0.1)
    here = correction_inputs(features, looked_at(blob), VIEW_COUNT)
    there = correction_inputs(features, looked_at(turned, 37.0), VIEW_COUNT)
    difference = (here - there).abs()
    assert difference[:, :, :PULL].mean() < 1e-3  # a few rays hit the hull's steps a step apart
    assert (difference > 0.02)[:, :, :PULL].float().mean() < 0.01
    assert difference[:, :, PULL:].mean() < 0.05 * here[:, :, PULL:].abs().mean()


def test_the_pull_is_how_fast_the_pictures_error_grows(blob):
    guide, features = looked_at(blob), random_features()
    told = correction_inputs(features, guide, VIEW_COUNT)[:, :, PULL:]
    pull = told.sinh() / torch.tensor(GRADIENT_SCALES)[:, None, None]

    def error(features):
        drawn = render(decode_hull(features, guide), guide.c2w[:, :VIEW_COUNT], 2 * SIDE)

        def pooled(x):
            return torch.nn.functional.avg_pool2d(x.flatten(0, 1).double(), 2)

        missing = pooled(drawn.images.clamp(0, 1)) - guide.colors[0, :VIEW_COUNT]
        uncovered = pooled(drawn.alphas) - guide.alphas[0, :VIEW_COUNT]
        return float(missing.square().sum() + uncovered.square().sum())

    step = 1e-3 * pull / pull.norm()
    growth = (error(features + step) - error(features - step)) / (2 * 1e-3)
    assert growth == pytest.approx(float(pull.norm()), rel=0.03)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 8])
def test_any_number_of_pictures(count, blob):
    model = LGM(SMALL).eval()
    c2w = cameras.orbit_poses([360 * view / count for view in range(count)])
    views = render(blob, c2w, 64).images.clamp(0, 1)[0]
    assert model.reconstruct(views, c2w, 64).count == (count + POLES) * 32**2


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


@pytest.fixture
def small(blob) -> tuple[LGM, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    c2w = cameras.input_poses()[None].expand(2, -1, -1, -1)
    drawn = render(blob, c2w[0], 64)
    inputs = network_inputs(drawn.images.clamp(0, 1).expand(2, -1, -1, -1, -1), c2w)
    return LGM(SMALL), inputs, drawn.alphas.expand(2, -1, -1, -1, -1)


def test_a_draft_is_what_there_is_without_a_corrector(small):
    model, *views = small
    without = LGM(replace(SMALL, corrector=None))
    without.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("corrector.")}
    )
    drafts = torch.tensor([True, False])
    with torch.no_grad():
        plain, some = without(*views), model(*views, drafts)
    assert torch.equal(plain.positions[0], some.positions[0])
    assert not torch.equal(plain.positions[1], some.positions[1])
    pictures = torch.rand(1, 4, 4, 64, 64)
    draft, plain = (m.reconstruct(pictures, size=64, rounds=0) for m in (model, without))
    assert torch.equal(draft.positions, plain.positions)


def test_both_networks_learn_from_the_corrected_splat_and_drafts_teach_the_first_alone(small):
    model, *views = small
    model(*views).positions.square().sum().backward()
    parts = {"unet": model.unet.conv_in, "corrector": model.corrector.conv_in}
    assert all(part.weight.grad.abs().max() > 0 for part in parts.values())
    model.zero_grad()
    model(*views, torch.tensor([True, True])).positions.square().sum().backward()
    assert parts["unet"].weight.grad.abs().max() > 0
    assert parts["corrector"].weight.grad.abs().max() == 0


@pytest.mark.parametrize("fovy", [cameras.FOVY, 38.0])
def test_rounds_are_one_look_after_the_other(small, fovy):
    """With the cameras' own field of view."""
    model = small[0]
    pictures, c2w = torch.rand(1, 4, 4, 64, 64), cameras.input_poses()
    with torch.no_grad():
        views = model.prepare(pictures, c2w, 64, fovy)
        x, guide = model._guided_views(views)
        features = model.features(x)
        for rounds in range(3):
            there = model.reconstruct(pictures, c2w, 64, fovy, rounds=rounds)
            here = decode_hull(features, guide).scaled(1 / views.scale)
            torch.testing.assert_close(there.positions, here.positions)
            seen = correction_inputs(features, guide, 4, fovy)
            features = features + model.corrections(seen)


def test_the_last_round_alone_learns(small):
    """As from a draft that someone else made: what went before adds to no gradient."""
    model, *views = small

    def gradient(positions):
        model.zero_grad()
        positions.square().sum().backward()
        return model.corrector.conv_in.weight.grad.clone()

    x, guide = model._guided(*views)
    features = model.features(x)
    with torch.no_grad():
        given = model.corrections(correction_inputs(features, guide, 4))
    given = features + given
    last = given + model.corrections(correction_inputs(given, guide, 4))
    by_hand = gradient(decode_hull(last, guide).positions)
    splat = model(*views, rounds=2)
    torch.testing.assert_close(splat.positions, decode_hull(last, guide).positions)
    torch.testing.assert_close(gradient(splat.positions), by_hand)
    first = gradient(model(*views).positions)
    assert (first - by_hand).norm() > 1e-2 * by_hand.norm()


def test_files_of_models_without_a_corrector_still_load():
    for name in ("demo", "demo_v2", "demo_v1"):
        with torch.device("meta"):
            state = LGM(PRESETS[name]).state_dict()
        assert preset_of({key: tuple(value.shape) for key, value in state.items()}) == name


def test_correctors_need_a_hull():
    with pytest.raises(ValueError, match="correctors need the decoding hull, got world"):
        replace(PRESETS["big"], corrector=PRESETS["demo"].corrector)
