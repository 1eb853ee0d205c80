"""The node that makes views by the library's pipeline, with networks of little size."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management as management
import comfy.utils
import folder_paths
import pytest
import torch
from server import PromptServer

from lgm.pictures.matte import object_pictures, views_on_white

from ..command.test_generate import NAMES, models, on_gray  # noqa: F401  (fixtures)
from ..multiview.conftest import released_folders  # noqa: F401  (a fixture)

NODE = "LGM_MultiViewDiffusion"


class SD15:
    """In place of ComfyUI's latent format: the first three channels are the colors."""

    latent_rgb_factors = torch.eye(4, 3).tolist()
    latent_rgb_factors_bias = None


@pytest.fixture
def node(pack):
    return pack.module("nodes.generate")


@pytest.fixture
def run(pack, node, models, monkeypatch, tmp_path):  # noqa: F811
    """Runs the node with all models in ComfyUI's folders; `run.rooms` is what memory it asked for.

    What isn't given takes its default, as in the page.
    """
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")  # of rembg's network
    monkeypatch.setitem(folder_paths.folders, "diffusers", [str(models)])
    monkeypatch.setitem(sys.modules, "comfy.latent_formats", SimpleNamespace(SD15=SD15))
    rooms = []
    monkeypatch.setattr(
        management, "free_memory", lambda size, device: rooms.append((size, device)), raising=False
    )

    def run(**given):
        nodes = type(pack)({**pack, NODE: node.MultiViewDiffusion})
        return nodes.run(NODE, **{"steps": 1, **given})[0]

    run.rooms = rooms
    return run


@pytest.fixture
def photo():
    """Two pictures of a red square off the middle, on gray."""
    image = torch.full((2, 40, 60, 3), 0.5)
    image[:, 10:30, 5:25] = torch.tensor([1.0, 0, 0])
    return image


def test_a_prompt_becomes_four_views(run, node):
    views = run(prompt="a cat")
    assert views.shape == (4, 256, 256, 3) and views.isfinite().all()
    assert views.amin() >= 0 and views.amax() <= 1 and views.std() > 0
    assert torch.equal(views, run(prompt="a cat"))
    assert not torch.equal(views, run(prompt="a cat", seed=1))
    assert "MVDream" in PromptServer.texts[-1][1]


def test_every_picture_becomes_an_object(run, photo):
    views = run(image=photo, prompt="a cup")
    assert views.shape == (8, 256, 256, 3) and views.isfinite().all()
    assert "ImageDream" in PromptServer.texts[-1][1]


def test_the_views_are_the_pipelines(run, node, models):  # noqa: F811
    """Guidance 0 is the model's own, and the order is LGM's."""
    given = {"prompt": "a cat", "negative_prompt": "dog", "seed": 5, "elevation": 10.0}
    views = run(**given, cut_out="none")
    pipeline = node.managed_pipeline().from_pretrained(models / NAMES["mvdream"])
    expected = pipeline(**given, num_inference_steps=1, guidance_scale=7.5).views[0]
    torch.testing.assert_close(views, expected.movedim(1, -1))


@pytest.fixture
def sampled(node, monkeypatch, on_gray):  # noqa: F811
    """In place of sampling: always the same views."""
    answer = SimpleNamespace(views=on_gray[None], cut=("",))

    def multiview(*_, **__):
        return answer

    multiview.dtype = torch.float32
    monkeypatch.setattr(node, "pipeline_of", lambda folder: multiview)


def test_the_views_of_a_prompt_are_cut_out(run, sampled, on_gray):  # noqa: F811
    expected, _ = views_on_white(on_gray)
    torch.testing.assert_close(run(prompt="a cup"), expected.movedim(1, -1))
    assert PromptServer.texts[-1][1] == "MVDream, float32 on cpu"
    torch.testing.assert_close(run(prompt="a cup", cut_out="none"), on_gray.movedim(1, -1))

    on_gray[3] = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    views = run(prompt="a cup")
    torch.testing.assert_close(views[3], on_gray[3].movedim(0, -1))
    assert "; 1 of 4 views keep their background" in PromptServer.texts[-1][1]
    on_gray[3] = 0.5
    with pytest.raises(ValueError, match="270°, its own right, shows nothing but background"):
        run(prompt="a cup")


def test_the_views_of_a_picture_stay_as_they_are(run, sampled, photo, on_gray):  # noqa: F811
    torch.testing.assert_close(run(image=photo[:1]), on_gray.movedim(1, -1))


def test_rembg_is_missed_before_the_sampling(run, node, monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    monkeypatch.setattr(node, "pipeline_of", lambda folder: pytest.fail("too late"))
    with pytest.raises(RuntimeError, match="needs the rembg package"):
        run(prompt="a cup", cut_out="rembg")


def test_a_mask_wins_and_the_object_is_centered(node, photo):
    mask = torch.zeros(2, 40, 60)
    mask[:, 10:30, 5:15] = 1
    pictures = object_pictures(*node.pictures_and_masks(photo, mask))
    assert pictures.shape == (2, 3, 60, 60)
    red = (pictures[:, 0] - pictures[:, 1]) > 0.9
    rows, columns = red[0].any(1).nonzero(), red[0].any(0).nonzero()
    # The box is 19 x 9 pixels, without its last row and column, and its height becomes 48.
    assert rows[-1] - rows[0] == 48 - 1 and columns[-1] - columns[0] == int(9 * 48 / 19) - 1
    assert (pictures[:, :, 0] == 1).all()
    inverted = object_pictures(*node.pictures_and_masks(photo, 1 - mask))
    assert torch.equal(inverted, pictures)


def test_all_views_are_shown_at_every_step_and_the_bar_ends_full(run, monkeypatch, node):
    monkeypatch.setattr(node.host, "PREVIEW_SECONDS", 0)
    run(prompt="a cat", steps=3)
    updates = comfy.utils.ProgressBar.bars[-1].updates
    assert [value for value, _ in updates] == [1, 2, 3]
    for _, (kind, picture, _) in updates:
        assert kind == "JPEG" and picture.size == (512, 512)


def test_the_preview_is_front_left_back_right(monkeypatch, node):
    monkeypatch.setitem(sys.modules, "comfy.latent_formats", SimpleNamespace(SD15=SD15))
    latents = torch.tensor([-1.0, -0.5, 0.5, 1.0])[:, None, None, None].expand(4, 4, 8, 8)
    shown = node.preview_of(latents)
    places = shown[0, [128, 128, 384, 384], [128, 384, 128, 384]]
    torch.testing.assert_close(places, torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_cancel_ends_it(run, monkeypatch, node):
    step = node.host.Progress.step

    def cancelled(self, preview=None):
        management.cancelled = True
        step(self, preview)

    monkeypatch.setattr(node.host.Progress, "step", cancelled)
    with pytest.raises(management.InterruptProcessingException):
        run(prompt="a cat", steps=50)
    monkeypatch.setattr(node.host.Progress, "step", step)
    assert run(prompt="a cat").isfinite().all()


def test_room_is_made_before_each_component_comes(run, node, photo, models):  # noqa: F811
    run(image=photo[:1])
    pipeline = node.pipeline_of(models / NAMES["imagedream"])
    names = ["text_encoder", "text_encoder", "image_encoder", "vae", "unet", "vae"]
    components = [getattr(pipeline, name) for name in names]
    sizes = [
        sum(t.nbytes for t in [*c.parameters(), *c.buffers()]) + node.WORKING_BYTES
        for c in components
    ]
    assert [size for size, _ in run.rooms] == pytest.approx(sizes, abs=10_000)
    assert {device.type for _, device in run.rooms} == {"cpu"}


def test_a_pipeline_is_loaded_once_and_only_one_is_kept(run, node, photo, models):  # noqa: F811
    first = node.pipeline_of(models / NAMES["mvdream"])
    assert node.pipeline_of(models / NAMES["mvdream"]) is first
    run(image=photo[:1])
    assert len(node._kept) == 1
    assert node.pipeline_of(models / NAMES["mvdream"]) is not first


def test_the_end_of_a_long_prompt_is_named(run):
    run(prompt="cat " * 80 + "dog")
    assert "this end is ignored: cat cat cat cat cat dog" in PromptServer.texts[-1][1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "A prompt or a picture is needed"),
        ({"prompt": " "}, "A prompt or a picture is needed"),
        ({"prompt": "x", "model": NAMES["imagedream"]}, "needs a picture"),
        ({"prompt": "x", "image": torch.rand(1, 8, 8, 3), "cut_out": "none",
          "model": NAMES["mvdream"]}, "works from a prompt alone"),
        ({"image": torch.ones(1, 40, 40, 3)}, "nothing in front of its background"),
        ({"image": torch.ones(1, 40, 40, 3), "cut_out": "none"}, "all white"),
        ({"image": torch.rand(1, 40, 40, 3)}, "several colors"),
        ({"prompt": "x", "model": "sora"}, "No multi-view model called 'sora'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_sentence(run, given, words):
    with pytest.raises(ValueError, match=words):
        run(**given)


def test_a_missing_model_is_only_fetched_when_chosen(run, node, monkeypatch, tmp_path, models):  # noqa: F811
    place = tmp_path / "diffusers"
    monkeypatch.setitem(folder_paths.folders, "diffusers", [str(place)])
    asked = []

    def download(name, where, on_bytes):
        asked.append((name, where))
        on_bytes(1, 2)
        return shutil.copytree(models / NAMES[name], where / NAMES[name])

    monkeypatch.setattr(_download_module(node), "download", download)
    with pytest.raises(ValueError, match=r"Choose 'download' in if_missing.*ashawkey/mvdream"):
        run(prompt="a cat")
    assert not asked
    assert run(prompt="a cat", if_missing="download").shape == (4, 256, 256, 3)
    assert asked == [("mvdream", place)]
    assert any("downloading MVDream, 2.6 GB" in text for _, text in PromptServer.texts)
    run(prompt="a cat", if_missing="download")
    assert len(asked) == 1


def test_cancel_ends_a_download(run, node, monkeypatch, tmp_path):
    monkeypatch.setitem(folder_paths.folders, "diffusers", [str(tmp_path / "diffusers")])

    def download(name, where, on_bytes):
        management.cancelled = True
        on_bytes(1, 2)

    monkeypatch.setattr(_download_module(node), "download", download)
    with pytest.raises(management.InterruptProcessingException):
        run(prompt="a cat", if_missing="download")


def test_without_diffusers_it_says_so_before_all_else(run, node, monkeypatch, tmp_path):
    monkeypatch.setitem(folder_paths.folders, "diffusers", [str(tmp_path)])
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "diffusers" else find_spec(n, *a)
    )
    node.managed_pipeline.cache_clear()
    with pytest.raises(RuntimeError, match="pip install diffusers"):
        run(prompt="a cat", if_missing="download")


def test_choices_are_the_releases_and_what_else_is_here(
    run,
    node,
    monkeypatch,
    tmp_path,
    models,  # noqa: F811
):
    shutil.copytree(models / NAMES["imagedream"], tmp_path / "d" / "mine")
    (tmp_path / "d" / "stable" / "unet").mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folders, "diffusers", [str(tmp_path / "d")])
    assert node.model_names() == ["auto", NAMES["mvdream"], NAMES["imagedream"], "mine"]
    folder = node.model_folder(node.MultiViewDiffusion, "mine", "say so", True)
    assert folder == tmp_path / "d" / "mine"
    with pytest.raises(ValueError, match="mine is ImageDream, which needs a picture"):
        node.model_folder(node.MultiViewDiffusion, "mine", "say so", False)


def _download_module(node):
    return importlib.import_module("..lgm.releases.download", node.__package__)
