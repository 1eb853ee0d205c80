"""What the native multi-view nodes do before and beside ComfyUI's own network; the network itself
is run in `tests/comfyui/test_multiview.py`."""

from __future__ import annotations

import json
from types import SimpleNamespace

import comfy.utils
import folder_paths
import pytest
import torch

import lgm.cameras
from lgm.multiview import VIEW_ORDER, camera_rows

VIEW = {"elevation": 0.0, "azimuth_start": 0.0, "width": 256, "height": 256, "batch_size": 1}


@pytest.fixture(scope="module")
def multiview(pack):
    return pack.module("nodes.multiview_conditioning")


@pytest.fixture
def loading(pack):
    return pack.module("nodes.multiview_load")


@pytest.fixture(scope="module")
def previews(pack):
    return pack.module("nodes.sampling_preview")


def text(rows: int = 1, width: int = 1024) -> list:
    return [[torch.arange(rows).float()[:, None, None].expand(rows, 77, width), {"kept": True}]]


class ClipVision:
    """Its features are the color of the picture's middle."""

    def __init__(self, shape=(257, 1280)):
        self.shape = shape

    def encode_image(self, image):
        middle = image[:, image.shape[1] // 2, image.shape[2] // 2].mean(-1)
        features = middle[:, None, None].expand(-1, *self.shape)
        return SimpleNamespace(penultimate_hidden_states=features)


class VAE:
    """Its latents are the mean color of 8 x 8 pixels."""

    def encode(self, pixels):
        latents = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([latents, latents[:, :1]], dim=1)


def shown(multiview, image, **changes):
    given = {
        "positive": text(), "negative": text(), "clip_vision": ClipVision(), "vae": VAE(),
        "ip_strength": 1.0, **VIEW, **changes,
    }  # fmt: skip
    return multiview.ImageConditioning.execute(image=image, **given).args


# Conditioning ---------------------------------------------------------------------------------


def test_views_come_in_the_order_that_reconstruct_wants(multiview):
    """Blender's (x, y, z) is our (z, x, y)."""
    rows = multiview.view_cameras(30.0, 0.0).unflatten(1, (4, 4))
    poses = lgm.cameras.orbit_poses(lgm.cameras.INPUT_AZIMUTHS, 30.0, radius=1.0)
    # The front of `lgm` is seen from +z, MVDream's from +x.
    expected = poses[:, [2, 0, 1, 3]]
    torch.testing.assert_close(rows[:, :3, 3], expected[:, :3, 3])
    torch.testing.assert_close(multiview.view_cameras(0, 0), camera_rows()[list(VIEW_ORDER)])


def test_azimuth_start_turns_the_first_camera(multiview):
    turned = multiview.view_cameras(10.0, 90.0)
    torch.testing.assert_close(turned, multiview.view_cameras(10.0, 0.0).roll(-1, 0))


def test_text_conditioning_tells_both_and_changes_neither(multiview):
    given = text()
    positive, negative, latent = multiview.TextConditioning.execute(
        given, given, **{**VIEW, "width": 320, "batch_size": 3}
    ).args
    assert given[0][1] == {"kept": True}
    for told in (positive, negative):
        assert told[0][1]["kept"] and told[0][1][multiview.CAMERAS].shape == (4, 16)
        assert told[0][0] is given[0][0]
    assert latent["samples"].shape == (12, 4, 32, 40) and not latent["samples"].any()


def test_each_object_may_have_a_prompt_of_its_own(multiview):
    positive, *_ = multiview.TextConditioning.execute(text(rows=2), text(), **VIEW).args
    assert positive[0][0][:, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_every_picture_becomes_an_object_batch_size_times(multiview):
    image = torch.ones(2, 64, 64, 3)
    image[0, 16:48, 16:48], image[1, 16:48, 16:48] = 0.2, 0.6
    positive, negative, latent = shown(multiview, image, batch_size=2)
    told, empty = positive[0][1], negative[0][1]
    colors = told[multiview.FEATURES][:, 0, 0]
    assert colors.tolist() == pytest.approx([51 / 255, 51 / 255, 153 / 255, 153 / 255])
    assert told[multiview.REFERENCE].shape == (4, 4, 32, 32)
    assert len(latent["samples"]) == 16
    assert not empty[multiview.FEATURES].any() and not empty[multiview.REFERENCE].any()
    assert told[multiview.STRENGTH] == empty[multiview.STRENGTH] == 1


def test_a_picture_is_padded_and_put_on_white(multiview):
    rgba = torch.zeros(1, 20, 60, 4)
    rgba[:, 5:15, 20:40] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    square = multiview.square_on_white(rgba)
    assert square.shape == (1, 3, 60, 60)
    red = (square[0] == torch.tensor([1.0, 0, 0])[:, None, None]).all(0)
    assert red[25:35, 20:40].all() and red.sum() == 200
    assert (square[0][:, ~red] == 1).all()


def test_a_reference_of_another_shape_is_padded_not_bent(multiview):
    image = torch.ones(1, 64, 64, 3)
    image[:, 16:48, 16:48] = 0
    told = shown(multiview, image, width=256, height=128)[0][0][1]
    dark = told[multiview.REFERENCE][0, 0] < 0.5
    assert dark.shape == (16, 32) and dark.any(1).sum() == dark.any(0).sum() == 8
    assert dark[4:12, 12:20].all()


@pytest.mark.parametrize(
    "change, needed",
    [
        ({"positive": text(width=768)}, "positive has 768"),
        ({"negative": text(width=2048)}, "negative has 2048"),
        ({"width": 250}, "multiples of 8"),
        ({"clip_vision": ClipVision((257, 1024))}, "ViT-H/14.*got 257 x 1024"),
        ({"vae": SimpleNamespace(encode=lambda x: torch.zeros(1, 16, 32, 32))}, "VAE of Stable"),
        ({"image": torch.ones(1, 64, 64, 3)}, "all white"),
        ({"image": torch.zeros(1, 64, 64, 4)}, "all white"),
        ({"image": torch.zeros(1, 64, 64, 2)}, "3 channels"),
    ],
)
def test_wrong_inputs_are_named(multiview, change, needed):
    image = torch.ones(1, 64, 64, 3)
    image[:, 16:48, 16:48] = 0
    with pytest.raises(ValueError, match=needed):
        shown(multiview, **{"image": image, **change})


# Files ------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, monkeypatch):
    files, released = tmp_path / "diffusion_models", tmp_path / "diffusers"
    monkeypatch.setitem(folder_paths.folders, "diffusion_models", [str(files)])
    monkeypatch.setitem(folder_paths.folders, "diffusers", [str(released)])
    get = folder_paths.folders.__getitem__
    monkeypatch.setattr(folder_paths, "get_folder_paths", get, raising=False)
    files.mkdir()
    for name in ("mine.safetensors", "program.ckpt"):
        (files / name).write_bytes(b"")
    for name, class_name in (("mvdream", "MultiViewUNetModel"), ("sd", "UNet2DConditionModel")):
        unet = released / name / "unet"
        unet.mkdir(parents=True)
        (unet / "diffusion_pytorch_model.safetensors").write_bytes(b"")
        (unet / "config.json").write_text(json.dumps({"_class_name": class_name}))
    return tmp_path


def test_files_and_released_folders_are_offered(loading, folders):
    released = "mvdream/unet/diffusion_pytorch_model.safetensors"
    assert loading.unet_names() == ["mine.safetensors", released]
    assert loading.unet_path(released) == folders / "diffusers" / released
    assert loading.unet_path("mine.safetensors").parent.name == "diffusion_models"
    with pytest.raises(FileNotFoundError):
        loading.unet_path("sd/unet/diffusion_pytorch_model.safetensors")


def test_a_released_folder_without_its_config_is_offered(loading, folders):
    config = folders / "diffusers" / "sd" / "unet" / "config.json"
    for broken in ("", "[]", "{"):
        config.write_text(broken)
        assert len(loading.released_unets()) == 2
    config.unlink()
    assert len(loading.released_unets()) == 2


def test_a_changed_file_is_loaded_again(loading, folders):
    node = loading.LoadMultiViewModel
    before = node.fingerprint_inputs("mine.safetensors", "default")
    (folders / "diffusion_models" / "mine.safetensors").write_bytes(b"other")
    assert node.fingerprint_inputs("mine.safetensors", "default") != before


# Previews ---------------------------------------------------------------------------------------


class Executor:
    """A sampler of five steps, as core calls it."""

    def __init__(self, multiview):
        cameras = multiview.view_cameras(-40.0, 15.0)
        model_format = SimpleNamespace(
            latent_rgb_factors=[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]],
            latent_rgb_factors_bias=None,
        )
        patcher = SimpleNamespace(model=SimpleNamespace(latent_format=model_format))
        self.class_obj = SimpleNamespace(
            model_patcher=patcher, conds={"positive": [{multiview.CAMERAS: cameras}]}
        )

    def __call__(self, noise, latent_image, sampler, sigmas, mask, callback, *rest, **named):
        for step in range(5):
            callback(step, noise, noise, 5)
        return noise, rest, named


def test_a_preview_is_painted_every_n_steps_and_shown_at_all(previews, multiview):
    painted, steps = [], []
    painter = previews.Painter(None, None, "both", 0.0, 0.0)
    latents = torch.zeros(4, 4, 8, 8)
    for view, channel in ((0, 0), (1, 1), (2, 2)):
        latents[view, channel] = 1

    class Counted:
        def paint(self, guider, x0, first):
            painted.append(first)
            return painter.paint(guider, x0, first)

    wrapper = previews.watched(Counted(), 3)
    result = wrapper(
        Executor(multiview), latents, None, "sampler", None, None,
        lambda step, *_: steps.append(step), False, 7, latent_shapes=[1],
    )  # fmt: skip
    assert result == (latents, (False, 7), {"latent_shapes": [1]})
    assert painted == [True, False, False] and steps == list(range(5))  # steps 1, 3 and 5
    updates = comfy.utils.ProgressBar.bars[-1].updates
    assert [value for value, _ in updates] == [1, 2, 3, 4, 5]
    picture = updates[-1][1][1]
    half, quarter = previews.SHEET // 2, previews.SHEET // 4
    corners = [picture.getpixel((x + quarter, y + quarter)) for y in (0, half) for x in (0, half)]
    assert corners == [(255, 128, 128), (128, 255, 128), (128, 128, 255), (128, 128, 128)]


def test_a_failing_preview_is_given_up_with_one_line(previews, multiview, caplog):
    class Broken:
        def paint(self, guider, x0, first):
            raise RuntimeError("out of memory")

    noise = torch.zeros(4, 4, 8, 8)
    result = previews.watched(Broken(), 1)(Executor(multiview), noise, None, None, None)
    assert result[0] is noise
    assert [record.message for record in caplog.records] == [
        "The sampling preview is off, since it failed: out of memory"
    ]


def test_latents_that_are_no_four_views_are_a_failure_of_the_preview(previews, multiview):
    painter = previews.Painter(None, None, "views", 0.0, 0.0)
    for latents in (torch.zeros(3, 4, 8, 8), torch.zeros(4, 4, 1, 8, 8)):
        with pytest.raises(ValueError, match="needs 4 latents"):
            painter.paint(Executor(multiview).class_obj, latents, first=True)


def test_the_elevation_is_read_off_the_cameras(previews, multiview):
    assert previews.elevation_of(Executor(multiview).class_obj) == pytest.approx(-40, abs=1e-4)
    assert previews.elevation_of(SimpleNamespace(conds={"positive": [{}]})) == 0
    assert previews.elevation_of(SimpleNamespace()) == 0
