"""Loading the model and reconstructing, as the page would do it."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import comfy.model_management as management
import comfy.utils
import folder_paths
import pytest
import server
import torch

import lgm
import lgm.network.weights
from lgm.releases.places import find_model

RELEASED = "model_fp16_fixrot.safetensors"


def test_the_bundled_model_comes_first_and_loads(pack, model):
    entry = pack["LGM_LoadModel"].define_schema().inputs[0]
    assert entry.options["options"][0] == entry.options["default"] == "demo"
    assert not model.model.fast


def test_files_in_models_lgm_are_offered_and_load(pack, tmp_path, monkeypatch):
    network = lgm.load_model("demo")
    lgm.network.weights.save_model(network, tmp_path / "mine.safetensors", torch.float16, {})
    (tmp_path / "notes.txt").write_text("not a model")
    monkeypatch.setitem(folder_paths.folders, "lgm", [str(tmp_path)])
    options = pack["LGM_LoadModel"].define_schema().inputs[0].options["options"]
    assert options == ["demo", RELEASED, "mine.safetensors"]
    node = pack["LGM_LoadModel"]
    loaded = pack.run("LGM_LoadModel", model="mine.safetensors", dtype="bf16")[0].model
    assert loaded.conv.weight.dtype == torch.bfloat16
    before = node.fingerprint_inputs(model="mine.safetensors", dtype="auto")
    lgm.network.weights.save_model(network, tmp_path / "mine.safetensors", torch.float32, {})
    assert node.fingerprint_inputs(model="mine.safetensors", dtype="auto") != before


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """Empty model folders; gives ComfyUI's."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "LGM_MODELS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    place = tmp_path / "models" / "lgm"
    monkeypatch.setitem(folder_paths.folders, "lgm", [str(place)])
    return place


@pytest.fixture
def downloads(pack, monkeypatch):
    """In place of the internet: what was asked for."""
    asked = []

    def download(name, place, on_bytes):
        asked.append((name, place))
        on_bytes(1, 2)
        place.mkdir(parents=True)
        return Path(shutil.copy(find_model("demo"), place / RELEASED))

    monkeypatch.setattr(pack.module("lgm.releases.download"), "download", download)
    return asked


def test_the_released_model_is_only_fetched_when_chosen(pack, nothing_here, downloads):
    node = pack["LGM_LoadModel"]
    missing = node.fingerprint_inputs(model=RELEASED, dtype="auto")
    words = f"choose 'download' in if_missing .*{re.escape(str(nothing_here))}"
    with pytest.raises(ValueError, match=words):
        pack.run("LGM_LoadModel", model=RELEASED)
    assert not downloads
    pack.run("LGM_LoadModel", model="demo", if_missing="download")
    assert not downloads
    given = {"model": RELEASED, "if_missing": "download"}
    assert pack.run("LGM_LoadModel", **given)[0].model.preset
    assert downloads == [("lgm", nothing_here)]
    texts = [text for _, text in server.PromptServer.texts]
    assert f"downloading LGM, 0.8 GB, to {nothing_here}" in texts
    assert pack["LGM_LoadModel"].define_schema().inputs[0].options["options"] == ["demo", RELEASED]
    assert node.fingerprint_inputs(**given, dtype="auto") != missing
    pack.run("LGM_LoadModel", **given)
    assert len(downloads) == 1


def test_workflows_saved_before_there_were_downloads_run(pack, nothing_here):
    """A prompt that doesn't know of if_missing: it is optional, and every call has a default."""
    node = pack["LGM_LoadModel"]
    entry = node.define_schema().inputs[-1]
    assert entry.id == "if_missing" and entry.options["optional"]
    given = {"model": "demo", "dtype": "auto"}
    assert node.fingerprint_inputs(**given) and node.execute(**given).args


@pytest.mark.parametrize(
    "place", ["none/models--ashawkey--LGM/snapshots/1", "none/lgm", "models/lgm"]
)
def test_the_released_model_is_found_in_any_cache(pack, nothing_here, tmp_path, place):
    """Hugging Face's, that of `lgm download`, and ComfyUI's models."""
    (tmp_path / place).mkdir(parents=True)
    shutil.copy(find_model("demo"), tmp_path / place / RELEASED)
    assert pack.run("LGM_LoadModel", model=RELEASED)[0].model.preset


def test_cancel_ends_the_download(pack, nothing_here, monkeypatch):
    def download(name, place, on_bytes):
        monkeypatch.setattr(management, "cancelled", True)
        on_bytes(1, 2)

    monkeypatch.setattr(pack.module("lgm.releases.download"), "download", download)
    with pytest.raises(management.InterruptProcessingException):
        pack.run("LGM_LoadModel", model=RELEASED, if_missing="download")
    assert not nothing_here.exists()


def camera(pack, c2w: torch.Tensor, fov: float) -> dict:
    return pack.border().camera_info(c2w, torch.zeros(3), fov)


def ring(pack, fov: float, **given) -> dict[str, dict]:
    """The four cameras' inputs, of one angle, at another height and turned than by default."""
    poses = pack.module("lgm.cameras").orbit_poses([5.0, 95, 185, 275], 12.0, **given)
    return {
        f"camera_{side}": camera(pack, pose, fov)
        for side, pose in zip(("front", "left", "back", "right"), poses, strict=True)
    }


def assert_same(pack, splat, expected) -> None:
    got = pack.border().gaussians_from_splat(splat, 0)
    assert got.count == expected.count > 500
    for name in ("positions", "opacities", "scales", "colors"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_same_numbers_as_the_library(pack, model, views):
    """The bundled model, at its own size."""
    network = lgm.load_model("demo")
    splat = pack.run("LGM_Reconstruct", model=model, views=views[0])[0]
    assert_same(pack, splat, network.reconstruct(views[0].movedim(-1, 1)).visible(0.005))


GIVEN = {"elevation": 10.0, "fit": 2, "opacity_threshold": 0.3, "cameras": 40.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [(n,) for n in GIVEN] + [("elevation", "fit"), ("cameras", "fit")]
)
def test_every_input_is_what_it_is_in_the_library(pack, small_model, views, names):
    """Alone, and where one needs the other: fitting knows the pictures' cameras, too."""
    cameras = pack.module("lgm.cameras")
    chosen = {name: GIVEN[name] for name in names}
    fov = chosen.pop("cameras", None)
    inputs = chosen | (ring(pack, fov) if fov else {})
    poses, told = cameras.input_poses(chosen.get("elevation", 0.0)), cameras.FOVY
    if fov:
        poses, told = cameras.orbit_poses([5.0, 95, 185, 275], 12.0), fov
    network, pictures = small_model.model, views[0].movedim(-1, 1)
    expected = network.reconstruct(pictures, poses, fovy=told)
    expected = network.fit(expected, pictures, poses, fovy=told, steps=chosen.get("fit", 0))
    expected = expected.visible(chosen.get("opacity_threshold", 0.005))
    found = pack.run("LGM_Reconstruct", model=small_model, views=views[0], **inputs)[0]
    assert_same(pack, found, expected)
    plain = pack.run("LGM_Reconstruct", model=small_model, views=views[0])[0]
    assert (
        found.positions.shape != plain.positions.shape
        or (found.positions - plain.positions).abs().max() > 3e-4  # thrice the tolerance
    )


@pytest.mark.slow
def test_each_object_is_prepared_once(pack, small_model, views, monkeypatch):
    network, prepared = small_model.model, []
    prepare = network.prepare
    monkeypatch.setattr(network, "prepare", lambda *a, **k: prepared.append(a) or prepare(*a, **k))
    pack.run("LGM_Reconstruct", model=small_model, views=torch.cat([views[0], views[0]]), fit=2)
    assert len(prepared) == 2


@pytest.mark.slow
def test_the_splat_is_upright_and_in_front(pack, model):
    """The avocado's stone shows in front only: the half of it that faces us must be there."""
    views, _ = pack.run("LGM_ExampleViews", object="flight_helmet")
    splat = pack.run("LGM_Reconstruct", model=model, views=views)[0]
    front = pack.run("LGM_RenderSplat", splat=splat, frames=1, width=64, height=64)[0]
    small = torch.nn.functional.interpolate(views.movedim(-1, 1), size=(64, 64), mode="area")

    def likeness(picture):
        return float((front[0].movedim(-1, 0) - picture).square().mean())

    errors = [likeness(p) for p in (small[0], small[2], small[0].flip(1), small[0].flip(2))]
    assert errors[0] == min(errors)  # not from behind, not upside down, not mirrored


def test_views_come_back_as_the_network_saw_them(pack, small_model):
    rgba = torch.zeros(4, 300, 300, 4)
    rgba[:, 100:200, 100:200] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    _, seen = pack.run("LGM_Reconstruct", model=small_model, views=rgba)
    assert seen.shape == (4, 64, 64, 3)
    assert seen[0, 0, 0].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert seen[0, 32, 32].tolist() == pytest.approx([1, 0, 0], abs=1e-5)


@pytest.mark.slow
def test_a_batch_of_objects_stays_one(pack, small_model, views):
    types = pack.border()
    other = pack.run("LGM_ExampleViews", object="spot")[0]
    both = pack.run("LGM_Reconstruct", model=small_model, views=torch.cat([views[0], other]))[0]
    assert len(both.positions) == 2
    for index, one in enumerate((views[0], other)):
        alone = pack.run("LGM_Reconstruct", model=small_model, views=one)[0]
        assert_same(pack, alone, types.gaussians_from_splat(both, index))


@pytest.mark.slow
def test_four_orbit_cameras_equal_the_elevation(pack, small_model, views):
    cameras, types = pack.module("lgm.cameras"), pack.border()
    poses = cameras.input_poses(10.0)
    given = {
        f"camera_{side}": camera(pack, pose, cameras.FOVY)
        for side, pose in zip(("front", "left", "back", "right"), poses, strict=True)
    }
    # All of them: where a ray just hits or misses the hull, a last digit of a camera decides.
    given |= {"model": small_model, "views": views[0], "opacity_threshold": 0.0}
    by_camera = pack.run("LGM_Reconstruct", **given)[0]
    by_angle = pack.run(
        "LGM_Reconstruct",
        **{name: value for name, value in given.items() if not name.startswith("camera_")},
        elevation=10.0,
    )[0]
    ours, theirs = (types.gaussians_from_splat(x, 0) for x in (by_camera, by_angle))
    apart = (ours.positions - theirs.positions).norm(dim=-1)[0]
    assert (apart < 1e-3).float().mean() > 0.998
    assert ((ours.colors - theirs.colors).abs().amax(-1)[0] < 1e-2).float().mean() > 0.998


def test_progress_moves_through_the_network_and_shows_the_splat(pack, small_model, views):
    pack.run("LGM_Reconstruct", model=small_model, views=views[0])
    bar = comfy.utils.ProgressBar.bars[-1]
    values = [value for value, _ in bar.updates]
    assert values == list(range(1, bar.total + 1)) and bar.total > 20
    kind, picture, _ = bar.updates[-1][1]
    assert kind == "JPEG" and picture.size == (256, 256)
    assert picture.getextrema() != ((255, 255),) * 3


def test_memory_is_asked_for(pack, small_model, views):
    pack.run("LGM_Reconstruct", model=small_model, views=views[0])
    patchers, required = management.loaded[-1]
    assert patchers == [small_model] and required > 0


def test_cancel_is_answered_within_the_network(pack, small_model, views, monkeypatch):
    blocks = 0

    def press_cancel_later():
        nonlocal blocks
        blocks += 1
        if blocks == 5:
            raise management.InterruptProcessingException

    monkeypatch.setattr(pack.module("nodes.border.host"), "check_cancelled", press_cancel_later)
    with pytest.raises(management.InterruptProcessingException):
        pack.run("LGM_Reconstruct", model=small_model, views=views[0])
    monkeypatch.undo()
    assert all(not module._forward_pre_hooks for module in small_model.model.modules())


def test_fitting_brings_the_splat_closer_to_the_views(pack, small_model, views):
    types = pack.border()

    def error(splat):
        drawn = lgm.render.render(
            types.gaussians_from_splat(splat, 0), lgm.cameras.input_poses(), seen.shape[1]
        )
        return (drawn.images[0].movedim(1, -1) - seen).square().mean()

    with torch.inference_mode():  # as ComfyUI runs nodes
        plain, seen = pack.run("LGM_Reconstruct", model=small_model, views=views[0])
        fitted, _ = pack.run("LGM_Reconstruct", model=small_model, views=views[0], fit=5)
    bar = comfy.utils.ProgressBar.bars[-1]
    assert [value for value, _ in bar.updates] == list(range(1, bar.total + 1))
    assert error(fitted) < 0.7 * error(plain)


def test_fitting_can_be_cancelled(pack, small_model, views, monkeypatch):
    fit = pack.module("lgm.network.fit")
    render, drawn = fit.render, []

    def press_cancel(*arguments, **options):
        drawn.append(management)
        monkeypatch.setattr(management, "cancelled", True)
        return render(*arguments, **options)

    monkeypatch.setattr(fit, "render", press_cancel)
    with pytest.raises(management.InterruptProcessingException):
        pack.run("LGM_Reconstruct", model=small_model, views=views[0], fit=5)
    assert len(drawn) == 1


def test_overflow_in_half_precision_is_repeated_in_float32(pack, small_model, views):
    patcher = copy.deepcopy(small_model)
    network = patcher.model.bfloat16()
    features = network.features

    def overflowing(x):
        result = features(x)
        return result if network.compute_dtype(x.device) == torch.float32 else result * torch.inf

    network.features = overflowing
    pack.run("LGM_Reconstruct", model=patcher, views=views[0])
    assert network.precision == torch.float32
    assert "fp32" in server.PromptServer.texts[-1][1]


def test_every_layer_can_follow_its_input(small_model):
    """ComfyUI keeps such layers' weights behind when memory is short."""
    for module in small_model.model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            assert module.comfy_cast_weights is False


@pytest.mark.parametrize(
    "change, needed",
    [
        (lambda v: {"views": v[:3]}, "4 views"),
        (lambda v: {"views": torch.ones_like(v)}, "even color"),
        (lambda v: {"views": v * float("nan")}, "NaN"),
        (lambda v: {"views": v[..., :2]}, "channels"),
        (lambda v: {"views": v, "opacity_threshold": 1.0}, "threshold"),
        (lambda v: {"views": v, "camera_front": {"position": {"z": 1.5}}}, "missing: left"),
    ],
)
def test_wrong_inputs_are_named(pack, small_model, views, change, needed):
    with pytest.raises(ValueError, match=needed):
        pack.run("LGM_Reconstruct", model=small_model, **change(views[0]))
