import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lgm import LGM, PRESETS, Preset, cameras
from lgm.network.hull import guide_inputs, pole_pictures, visual_hull
from lgm.network.inputs import network_inputs
from lgm.network.views import cameras_from_rays, polar_poses

DATA = Path(__file__).parents[1] / "data"
FIELDS = ("positions", "opacities", "scales", "rotations", "colors")


@pytest.fixture(scope="module")
def recorded():
    with safe_open(DATA / "lgm_mini.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["meta"])["config"]
    preset = Preset(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
    model = LGM(preset)
    model.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("weights.")})
    return model.eval(), tensors


@pytest.fixture(scope="module")
def demo():
    torch.manual_seed(0)
    model = LGM(PRESETS["demo"]).eval()
    torch.nn.init.normal_(model.conv.weight, std=0.1)
    return model


def test_activated_outputs_equal_the_original(recorded):
    model, tensors = recorded
    with torch.no_grad():
        gaussians = model(tensors["inputs"])
    for name in FIELDS:
        tolerance = 2e-5 if name == "scales" else 1e-4
        torch.testing.assert_close(getattr(gaussians, name), tensors[name], atol=tolerance, rtol=0)


def test_raw_map_equals_the_original(recorded):
    model, tensors = recorded
    with torch.no_grad():
        raw = model.features(tensors["inputs"]).flatten(0, 1)
    torch.testing.assert_close(raw, tensors["raw"], atol=1e-4, rtol=0)


def test_half_precision_storage_calculates_in_fp32_on_the_cpu(recorded):
    model, tensors = recorded
    half = LGM(model.preset)
    half.load_state_dict(model.state_dict())
    half.half()  # the recorded weights are exact in fp16
    with torch.no_grad():
        gaussians = half(tensors["inputs"])
    torch.testing.assert_close(gaussians.positions, tensors["positions"], atol=1e-4, rtol=0)


def test_batch_items_do_not_mix(recorded):
    model, tensors = recorded
    with torch.no_grad():
        both, second = model(tensors["inputs"]), model(tensors["inputs"][1:])
    torch.testing.assert_close(both.positions[1:], second.positions, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["big", "small", "tiny"])
def test_state_dict_is_the_released_layout(name):
    layout = json.loads((DATA / "lgm_keys.json").read_text())[name]
    with torch.device("meta"):
        model = LGM(PRESETS[name])
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == layout


@pytest.mark.parametrize("shape", [(4, 3, 200, 300), (2, 4, 3, 64, 64), (4, 4, 256, 256)])
def test_reconstruct_takes_any_size_and_batch(demo, shape):
    gaussians = demo.reconstruct(torch.rand(shape), size=64)
    maps = 4 + 2  # the pictures', from above, from below
    assert gaussians.positions.shape == (shape[0] if len(shape) == 5 else 1, maps * 32 * 32, 3)


@pytest.mark.parametrize("channels", [3, 4])
def test_prepared_views_are_the_views(demo, channels, monkeypatch):
    """Made once, with their cameras and angle, which nobody calculates back from rays."""
    views = torch.rand(1, 4, channels, 40, 40, generator=torch.Generator().manual_seed(1))
    given = {"c2w": cameras.orbit_poses([3.0, 95, 185, 270], 8.0, 2.0), "size": 64, "fovy": 40.0}
    with monkeypatch.context() as patch:
        patch.setattr("lgm.network.model.cameras_from_rays", None)
        prepared = demo.prepare(views, **given)
        there = demo.reconstruct(prepared, rounds=1)
        here = demo.reconstruct(views, **given, rounds=1)
    for name, value in here.tensors().items():
        assert torch.equal(there.tensors()[name], value), name
    with torch.inference_mode():
        by_rays = demo(prepared.inputs(), prepared.alphas, rounds=0).scaled(1 / prepared.scale)
    draft = demo.reconstruct(prepared, rounds=0)
    apart = (by_rays.positions - draft.positions).abs().amax(-1)
    assert (apart < 1e-3).float().mean() > 0.98  # where a ray just hits or misses the hull


def test_a_model_without_poles_still_works():
    torch.manual_seed(0)
    gaussians = LGM(PRESETS["demo_v1"]).eval().reconstruct(torch.rand(4, 3, 64, 64), size=64)
    assert gaussians.count == 4 * 32 * 32


def test_poles_need_a_hull():
    with pytest.raises(ValueError, match="decoding hull"):
        replace(PRESETS["big"], poles=True)


def test_white_background_and_alpha_say_the_same(demo):
    generator = torch.Generator().manual_seed(3)
    color = torch.rand(4, 3, 64, 64, generator=generator) * 0.8
    alpha = torch.zeros(4, 1, 64, 64)
    alpha[:, :, 16:48, 20:44] = 1
    white = color * alpha + (1 - alpha)
    from_white = demo.reconstruct(white, size=64)
    from_alpha = demo.reconstruct(torch.cat([color, alpha], 1), size=64)
    torch.testing.assert_close(from_white.positions, from_alpha.positions, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(3, 3, 64, 64), (5, 3, 64, 64), (4, 2, 64, 64), (3, 64, 64)])
def test_wrong_number_of_views_is_refused(demo, shape):
    with pytest.raises(ValueError, match="needs 4 views"):
        demo.reconstruct(torch.rand(shape))


def test_not_a_number_is_refused(demo):
    views = torch.rand(4, 3, 64, 64)
    views[2, 1, 5, 5] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        demo.reconstruct(views)
    with pytest.raises(ValueError, match="cameras"):
        demo.reconstruct(torch.rand(4, 3, 64, 64), torch.full((4, 4, 4), float("inf")))


@pytest.mark.parametrize(
    ("views", "needed"),
    [
        (torch.zeros(4, 3, 64, 64, dtype=torch.uint8), "divide bytes by 255"),
        (torch.full((4, 3, 64, 64), 200.0), "must lie in 0..1"),
        (torch.zeros(0, 4, 3, 64, 64), "views with pixels"),
    ],
)
def test_pictures_in_another_range_are_refused(demo, views, needed):
    with pytest.raises(ValueError, match=needed):
        demo.reconstruct(views)


@pytest.mark.parametrize("c2w", [torch.zeros(4, 4, 4), torch.eye(4) * 3, torch.eye(4)[0]])
def test_impossible_cameras_are_refused(demo, c2w):
    c2w = c2w.expand(4, 4, 4) if c2w.dim() == 2 else c2w
    with pytest.raises(ValueError, match="camera"):
        demo.reconstruct(torch.rand(4, 3, 64, 64), c2w)


def test_arrays_and_lists_are_welcome(demo):
    views = torch.rand(4, 3, 64, 64)
    plain = demo.reconstruct(views, size=64)
    listed = demo.reconstruct(views.numpy(), cameras.input_poses().tolist(), size=64)
    torch.testing.assert_close(plain.positions, listed.positions)


def test_cameras_survive_the_ray_channels():
    c2w = cameras.orbit_poses([0, 40, 120, 300], elevation=[10, -20, 30, 80], radius=1.7)
    recovered, tangent = cameras_from_rays(cameras.plucker_rays(c2w, 64, fovy=60.0))
    torch.testing.assert_close(recovered, c2w, atol=2e-6, rtol=0)
    torch.testing.assert_close(tangent, torch.full((4,), 3**-0.5), atol=1e-6, rtol=0)


def sphere_views(radius, size):
    c2w = cameras.input_poses()[None]
    origins, directions = cameras.camera_rays(c2w, size)
    along = (origins * directions).sum(-1)
    alphas = (along**2 > (origins**2).sum(-1) - radius**2).float()[:, :, None]
    return alphas, c2w


def test_hull_contains_a_sphere_and_touches_it_at_the_silhouette():
    radius, size = 0.4, 64
    alphas, c2w = sphere_views(radius, size)
    inputs = network_inputs((1 - alphas).expand(-1, -1, 3, -1, -1), c2w)
    poses, tangent = cameras_from_rays(inputs[:, :, 3:])
    guide = visual_hull((1 - alphas).expand(-1, -1, 3, -1, -1), alphas, poses, tangent)
    center = size // 2
    entry = guide.near[0, :, 0, center, center]
    # Nearest point of the sphere is at 1.5 - 0.4; four level views leave a slightly larger body.
    assert (entry < 1.5 - radius + 0.01).all() and (entry > 1.5 - radius * 1.45).all()
    assert (guide.far >= guide.near).all()
    assert ((guide.valid > 0) <= (alphas > 0)).all()
    torch.testing.assert_close(guide.valid.mean(), alphas.mean(), atol=0.02, rtol=0)
    assert guide_inputs(guide, alphas).shape[2] == PRESETS["demo_v1"].in_channels - 9
    with_poles = visual_hull(guide.colors, alphas, poses, tangent, poles=True)
    assert guide_inputs(with_poles, alphas).shape[2] == PRESETS["demo"].in_channels - 9


def test_poles_see_the_same_hull_from_above_and_below():
    radius, size = 0.4, 64
    alphas, c2w = sphere_views(radius, size)
    colors = 1 - 0.7 * alphas.expand(-1, -1, 3, -1, -1)
    tangent = torch.full((1, 4), 1 / (2 * cameras.focal_length(1)))
    plain = visual_hull(colors, alphas, c2w, tangent)
    guide = visual_hull(colors, alphas, c2w, tangent, poles=True)
    for name in ("near", "far", "valid", "colors", "alphas"):  # the pictures' part is untouched
        torch.testing.assert_close(getattr(guide, name)[:, :4], getattr(plain, name))
    near, far, valid = (x[0, 4:, 0] for x in (guide.near, guide.far, guide.valid))
    from_above, _ = sphere_views(radius, size)  # a sphere looks the same from there
    assert (valid[from_above[0, :2, 0] > 0] > 0).all()  # the hull contains the sphere
    assert (valid.mean() - from_above.mean()).abs() < 0.1  # and isn't much wider
    center = (slice(None), size // 2, size // 2)
    assert ((near[center] > 1.5 - 1.3 * radius) & (near[center] < 1.5 - radius + 0.01)).all()
    assert ((far[center] < 1.5 + 1.3 * radius) & (far[center] > 1.5 + radius - 0.01)).all()
    seen = guide.colors[0, 4:, :, size // 2, size // 2]
    torch.testing.assert_close(seen, torch.full_like(seen, 0.3), atol=0.02, rtol=0)


def test_poles_stand_above_and_below_and_turn_with_the_first_view():
    first = cameras.orbit_poses([0, 70, 200], elevation=[0, 25, -10], radius=1.7)
    poses = polar_poses(first)
    place = torch.tensor([[0.0, 1.7, 0.0], [0.0, -1.7, 0.0]]).expand(3, 2, 3)
    torch.testing.assert_close(poses[..., :3, 3], place)
    torch.testing.assert_close(poses[..., :3, 2], place / 1.7)  # they look at the origin
    rotations = poses[..., :3, :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(3, 2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(3, 2))
    # What is nearest to the first camera is lowest in the picture.
    towards = first[:, None, :3, 3] * torch.tensor([1.0, 0.0, 1.0])
    assert ((rotations[..., 1] * towards).sum(-1) < -1.5).all()
    overhead = polar_poses(cameras.orbit_poses([30], elevation=90))
    assert overhead.isfinite().all()


def test_what_the_network_reads_of_the_poles_is_where_the_hull_is():
    alphas, c2w = sphere_views(0.4, 64)
    tangent = torch.full((1, 4), 1 / (2 * cameras.focal_length(1)))
    colors = 1 - 0.7 * alphas.expand(-1, -1, 3, -1, -1)
    guide = visual_hull(colors, alphas, c2w, tangent, poles=True)
    pictures, rays = pole_pictures(guide, 4, 128)
    expected = cameras.plucker_rays(guide.c2w[:, 4:], 128)
    torch.testing.assert_close(rays, expected, atol=1e-5, rtol=0)
    assert pictures.shape == (1, 2, 3, 128, 128)
    read = guide_inputs(guide, alphas)
    kind = read[0, :, -1].mean((-2, -1))
    torch.testing.assert_close(kind, torch.tensor([0.0, 0, 0, 0, 1, 1]))
    torch.testing.assert_close(
        read[0, 4:, 0], guide.valid[0, 4:, 0]
    )  # silhouettes, as far as known


def test_untrained_hull_decoding_reproduces_the_silhouettes():
    """All-zero features must already draw the object where its silhouettes are."""
    from lgm.network.hull import decode_hull
    from lgm.render import render

    alphas, c2w = sphere_views(0.4, 128)
    colors = 1 - 0.7 * alphas.expand(-1, -1, 3, -1, -1)
    half = (1, 2, 2)  # the splat grid is half the picture's side
    coarse = [torch.nn.functional.avg_pool3d(x, half) for x in (colors, alphas)]
    poses, tangent = cameras_from_rays(cameras.plucker_rays(c2w, 128))
    guide = visual_hull(*coarse, poses, tangent)
    output = render(decode_hull(torch.zeros(1, 4, 14, 64, 64), guide), c2w, 128)
    drawn, wide = (
        output.alphas > 0.5,
        torch.nn.functional.max_pool3d(alphas, (1, 9, 9), 1, (0, 4, 4)),
    )
    assert (drawn & (alphas > 0.5)).sum() > 0.99 * alphas.sum()  # nothing of the object is lost
    assert not (drawn & (wide < 0.5)).any()  # and its outline is at most four pixels too wide
    assert (output.images - colors).abs().mean() < 0.03
