"""From a prompt or a picture to files, with networks of the released layout and little inside."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from PIL import Image

import lgm
from lgm.command import generate, results
from lgm.command import main as cli
from lgm.command.options import model_places
from lgm.multiview import MultiViewPipeline
from lgm.pictures import encode, matte
from lgm.pictures.load import load_image
from lgm.pictures.matte import object_picture
from lgm.pipeline import NEGATIVE_PROMPT
from lgm.releases import catalog, places

from ..multiview.conftest import released_folders  # noqa: F401  (a fixture)
from ..releases import test_download
from ..releases.test_download import hub  # noqa: F401  (a fixture)

NAMES = {kind: release.folder for kind, release in catalog.RELEASES.items()}
FILES = {"splat.ply", "mesh.glb", "views.png", "novel.png", "turntable.mp4", "index.html"}
RED = torch.tensor([1.0, 0, 0])[:, None, None]


@pytest.fixture(scope="module")
def models(tmp_path_factory, released_folders) -> Path:  # noqa: F811
    """A models folder with both; 16 pixels a latent, so that 256 pixels are quick."""
    from diffusers import AutoencoderKL

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=(4,) * 5,
        norm_num_groups=2,
    )
    for kind, folder in released_folders.items():
        copy = shutil.copytree(folder, root / NAMES[kind])
        shutil.rmtree(copy / "vae")
        vae.save_pretrained(copy / "vae")
    return root


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch, tmp_path):
    """Nothing of this machine's models, and small results."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("LGM_MODELS_DIR", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")  # of rembg's network
    monkeypatch.setattr(results, "DEMO_SIZE", 32)
    monkeypatch.setattr(results, "DEMO_FRAMES", 6)
    small = {"faces": 300, "texture_size": 128, "resolution": 48, "views": 6}
    monkeypatch.setattr(results, "DEMO_MESH", small)


@pytest.fixture
def fake_lgm(monkeypatch):
    """A ball, whatever it sees; refuses what `LGM` doesn't take. `views` and `c2w` are the last it
    got, `loaded` is `load_model`."""
    fake = create_autospec(lgm.LGM, instance=True)
    fake.preset = SimpleNamespace(input_size=32)

    def reconstruct(views, c2w):
        assert views.shape == (4, 3, 256, 256) and views.isfinite().all()
        fake.views, fake.c2w = views, c2w
        generator = torch.Generator().manual_seed(0)
        normals = torch.nn.functional.normalize(torch.randn(1, 300, 3, generator=generator), dim=-1)
        return lgm.Gaussians(
            positions=0.4 * normals,
            opacities=torch.full((1, 300, 1), 0.9),
            scales=torch.full((1, 300, 3), 0.05),
            rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, 300, 4),
            colors=0.5 + 0.5 * normals,
        )

    fake.reconstruct.side_effect = reconstruct
    fake.loaded = create_autospec(lgm.load_model, return_value=fake)
    monkeypatch.setattr("lgm.command.options.load_model", fake.loaded)
    return fake


@pytest.fixture
def photo(tmp_path) -> Path:
    """A red square off the middle, with alpha."""
    path = tmp_path / "cup.png"
    picture = Image.new("RGBA", (60, 40))
    picture.paste((255, 0, 0, 255), (5, 10, 25, 30))
    picture.save(path)
    return path


def run(*arguments) -> int:
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def one_line(capsys) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line


def files_in(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*") if path.is_file()}


# The command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_prompt_becomes_all_the_files(capsys, tmp_path, models):
    """With the bundled LGM, so nothing is left out but size."""
    out = tmp_path / "out"
    status = run(
        *("generate", "--prompt", "a cat", "--out", out, "--models-dir", models),
        *("--steps", 2, "--device", "cpu"),
    )
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert files_in(out) == FILES
    assert Image.open(out / "views.png").size == (1024, 256)
    assert (out / "mesh.glb").read_bytes().startswith(b"glTF")
    assert "a cat" in (out / "index.html").read_text(encoding="utf-8")
    assert lgm.io.read_splat_file(out / "splat.ply").positions.isfinite().all()
    for word in ("make four views", "reconstruct", "total", "index.html"):
        assert word in captured.out
    assert not captured.err


def test_a_downloaded_model_runs(capsys, monkeypatch, tmp_path, models, hub, fake_lgm):  # noqa: F811
    """From nothing, with no option that says where."""
    monkeypatch.setattr(
        test_download, "content", lambda name: (models / NAMES["mvdream"] / name).read_bytes()
    )
    command = ("generate", "--prompt", "a cat", "--steps", 1, "--device", "cpu", "--no-mesh")
    assert run(*command, "--out", tmp_path / "out") == 1
    assert "lgm download mvdream" in one_line(capsys) and not hub.asked
    assert run("download", "mvdream") == 0
    assert run(*command, "--out", tmp_path / "out") == 0
    assert fake_lgm.views.std() > 0


def test_a_picture_becomes_a_splat_without_a_mesh(capsys, tmp_path, models, photo, fake_lgm):
    out = tmp_path / "out"
    common = ("--out", out, "--models-dir", models, "--steps", 2, "--device", "cpu")
    assert run("generate", "--image", photo, "--no-mesh", "--elevation", 10, *common) == 0
    assert files_in(out) == FILES - {"mesh.glb"}
    assert "index.html" in capsys.readouterr().out
    assert "mesh.glb" not in (out / "index.html").read_text(encoding="utf-8")
    torch.testing.assert_close(fake_lgm.c2w, lgm.cameras.input_poses(10.0))
    shown = np.asarray(Image.open(out / "views.png"))
    views = fake_lgm.views.permute(2, 0, 3, 1).reshape(256, 1024, 3).numpy()
    assert np.abs(shown / 255 - views).max() < 1 / 255


@pytest.fixture
def sampled(monkeypatch, on_gray) -> list:
    """In place of sampling: always the same views; gets the pictures they were asked for."""
    pictures = []

    def multiview(prompt, picture, **_):
        pictures.append(picture)
        return SimpleNamespace(views=on_gray[None], cut=("",))

    multiview.dtype = torch.float32
    monkeypatch.setattr(generate, "load_multiview", lambda *_: multiview)
    return pictures


@pytest.mark.parametrize("busy", [0, 2, 4])
def test_the_views_of_a_prompt_are_cut_out(
    capsys, caplog, tmp_path, models, fake_lgm, sampled, on_gray, busy
):
    on_gray[:busy] = torch.rand(busy, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    out = ("--out", tmp_path / "out", "--models-dir", models, "--device", "cpu", "--no-mesh")
    assert run("generate", "--prompt", "a cup", *out) == 0
    expected, kept = matte.views_on_white(on_gray)
    assert kept == busy and torch.equal(fake_lgm.views, expected)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(said) == (busy > 0)
    assert all(message.startswith(f"{busy} of 4 views keep") for message in said)
    assert "cut out the views" in capsys.readouterr().out

    assert run("generate", "--prompt", "a cup", "--matte", "none", *out) == 0
    assert torch.equal(fake_lgm.views, on_gray)


def test_the_views_of_a_picture_stay_as_they_are(
    tmp_path, models, fake_lgm, sampled, photo, on_gray
):
    out = ("--out", tmp_path / "out", "--models-dir", models, "--device", "cpu", "--no-mesh")
    assert run("generate", "--image", photo, "--quiet", *out) == 0
    assert torch.equal(fake_lgm.views, on_gray)


def test_a_mask_says_what_is_object(tmp_path, models, fake_lgm, sampled, photo):
    """Of any size, and whatever the alpha is; half of it is in the photo's red square."""
    mask = Image.new("L", (120, 80))
    mask.paste(255, (30, 20, 70, 60))
    mask.save(tmp_path / "mask.png")
    out = ("--out", tmp_path / "out", "--models-dir", models, "--device", "cpu", "--no-mesh")
    assert run("generate", "--image", photo, "--mask", tmp_path / "mask.png", *out) == 0
    [[picture]] = sampled
    told = torch.zeros(1, 40, 60)
    told[:, 10:30, 15:35] = 1
    assert torch.equal(picture, object_picture(load_image(photo), told))
    red = ((picture - RED).abs().amax(0) < 0.01).nonzero()
    # The object's box loses its last column, so the red is 10 of 19 columns of the 48 pixels.
    assert red.amin(0).tolist() == [6, 6] and red.amax(0).tolist() == [53, 6 + 48 * 10 // 19 - 1]


ASKED = {
    "negative_prompt": NEGATIVE_PROMPT, "num_inference_steps": 30, "guidance_scale": None,
    "elevation": 0.0, "seed": 42,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ((), {}),
        (("--negative", "fog"), {"negative_prompt": "fog"}),
        (("--negative", ""), {"negative_prompt": ""}),
        (("--steps", 9), {"num_inference_steps": 9}),
        (("--guidance", 0), {"guidance_scale": 0.0}),
        (("--guidance", 3.5), {"guidance_scale": 3.5}),
        (("--elevation", 12), {"elevation": 12.0}),
        (("--seed", 0), {"seed": 0}),
    ],
)
def test_options_reach_the_multi_view_model(
    monkeypatch, tmp_path, models, fake_lgm, on_gray, options, changes
):
    multiview = create_autospec(MultiViewPipeline, instance=True)
    multiview.dtype = torch.float32
    multiview.return_value = SimpleNamespace(views=on_gray[None], cut=("",))
    monkeypatch.setattr(generate, "load_multiview", lambda *_: multiview)
    monkeypatch.setattr(generate, "write_results", write := create_autospec(results.write_results))
    out = ("--out", tmp_path / "out", "--models-dir", models, "--device", "cpu", "--quiet")
    assert run("generate", "--prompt", "a cup", *out, *options) == 0
    (prompt, picture), told = multiview.call_args
    told.pop("on_step")
    assert (prompt, picture, told) == ("a cup", None, ASKED | changes)
    (given, *_), told = write.call_args
    assert given is fake_lgm and told["elevation"] == (ASKED | changes)["elevation"]
    assert told["with_mesh"] is True


def test_models_are_those_asked_for(monkeypatch, tmp_path, models, fake_lgm, sampled, photo):
    loaded = []

    def load(folder, device, options):
        loaded.append((folder, device, options.offload))
        return load_multiview(folder, device, options)

    load_multiview = generate.load_multiview
    monkeypatch.setattr(generate, "load_multiview", load)
    monkeypatch.setattr(generate, "write_results", write := create_autospec(results.write_results))
    other = shutil.copytree(models / NAMES["mvdream"], tmp_path / "mine")
    common = ("generate", "--out", tmp_path / "out", "--models-dir", models, "--device", "cpu")
    for options, folder, offload in (
        (("--prompt", "x"), models / NAMES["mvdream"], False),
        (("--image", photo, "--offload"), models / NAMES["imagedream"], True),
        (("--prompt", "x", "--multiview", other), other, False),
    ):
        assert run(*common, "--no-mesh", *options) == 0
        assert loaded[-1] == (folder, "cpu", offload)
        assert write.call_args.kwargs["with_mesh"] is False
        assert fake_lgm.loaded.call_args.args == ("demo",)
        assert fake_lgm.loaded.call_args.kwargs["folders"][0] == models


def test_the_seed_decides(tmp_path, models, fake_lgm):
    seen = []
    for number, seed in enumerate((1, 1, 2)):
        common = ("--models-dir", models, "--steps", 1, "--device", "cpu", "--no-mesh", "--quiet")
        out = tmp_path / str(number)
        assert run("generate", "--prompt", "a cat", "--seed", seed, "--out", out, *common) == 0
        seen.append(fake_lgm.views)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_a_long_prompt_says_what_was_cut(capsys, caplog, tmp_path, models, fake_lgm):
    prompt = "cat " * 80 + "dog"
    common = ("--models-dir", models, "--steps", 1, "--device", "cpu", "--no-mesh", "--quiet")
    out = ("--out", tmp_path / "out", "--negative", "", "--matte", "none")
    assert run("generate", "--prompt", prompt, *out, *common) == 0
    [message] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "75 tokens but has 81" in message and "cat cat cat cat cat dog" in message


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--out", "o"], 2, ["--image FILE or --prompt TEXT"]),
        (["--prompt", " ", "--out", "o"], 2, ["--image FILE or --prompt TEXT"]),
        (["--prompt", "x", "--mask", "m.png", "--out", "o"], 2, ["--mask", "--image FILE"]),
        (["--prompt", "x", "--out", "o", "--steps", "0"], 2, ["--steps"]),
        (["--prompt", "x", "--out", "o"], 1, ["lgm download mvdream", "ashawkey/mvdream"]),
        (["--image", "x.png", "--out", "o"], 1, ["lgm download imagedream"]),
        (["--prompt", "x", "--out", "o", "--multiview", "sora"], 1, ["'sora'", "mvdream"]),
    ],
)
def test_what_is_wrong_is_one_line(capsys, monkeypatch, tmp_path, arguments, status, words):
    monkeypatch.chdir(tmp_path)
    assert run("generate", *arguments) == status
    line = one_line(capsys)
    for word in words:
        assert word in line
    assert not files_in(tmp_path)


def test_whatever_fails_leaves_nothing(capsys, tmp_path, models, photo, monkeypatch):
    blank = tmp_path / "blank.png"
    Image.new("RGB", (40, 40), "white").save(blank)
    wide, black = tmp_path / "wide.png", tmp_path / "black.png"
    Image.new("L", (80, 40), 255).save(wide)
    Image.new("L", (60, 40)).save(black)
    monkeypatch.setitem(sys.modules, "rembg", None)
    other = shutil.copytree(models / NAMES["mvdream"], tmp_path / "half")
    (other / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    before = files_in(tmp_path)
    common = ("--models-dir", models, "--steps", 1, "--out", tmp_path / "out")
    for arguments, word in (
        (["--image", blank], "nothing in front of its background"),
        (["--image", tmp_path / "none.png"], "none.png does not exist"),
        (["--image", photo, "--mask", wide], "1.5 : 1, but is 2 : 1"),
        (["--image", photo, "--mask", black], "mask or alpha leaves nothing"),
        (["--image", photo, "--mask", tmp_path / "no.png"], "no.png does not exist"),
        (["--prompt", "x", "--matte", "rembg"], "rembg package"),
        (["--prompt", "x", "--multiview", "imagedream"], "is ImageDream, which needs a picture"),
        (["--image", photo, "--multiview", "mvdream"], "is MVDream, which works from a prompt"),
        (["--prompt", "x", "--multiview", other], "lacks unet/diffusion_pytorch_model"),
        (["--prompt", "x", "--model", "nope"], "No LGM weights called 'nope'"),
        (["--prompt", "x", "--device", "warp"], "warp"),
    ):
        assert run("generate", *arguments, *common) == 1, arguments
        assert word in one_line(capsys)
        assert files_in(tmp_path) == before


def test_without_diffusers_it_says_so(capsys, monkeypatch, tmp_path, models):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "diffusers" else find_spec(n, *a)
    )
    common = ("--models-dir", models, "--device", "cpu", "--out", tmp_path / "out")
    assert run("generate", "--prompt", "x", *common) == 1
    assert "pip install diffusers" in one_line(capsys)


@pytest.mark.parametrize("where", ["sampling", "writing"])
def test_ctrl_c_leaves_nothing(capsys, monkeypatch, tmp_path, models, fake_lgm, where):
    def stopped(*_):
        raise KeyboardInterrupt

    if where == "sampling":
        from lgm.multiview import pipeline as sampling

        monkeypatch.setattr(sampling, "predict_noise", stopped)
    else:
        monkeypatch.setattr(encode, "mp4", stopped)
    before = files_in(tmp_path)
    common = ("--models-dir", models, "--steps", 1, "--device", "cpu", "--out", tmp_path / "out")
    assert run("generate", "--prompt", "a cat", *common) == 130
    assert one_line(capsys) == "lgm: stopped."
    assert files_in(tmp_path) == before and not (tmp_path / "out").exists()


# The picture ----------------------------------------------------------------------------------


def test_the_object_is_centered_on_white_with_a_border(photo):
    picture = object_picture(load_image(photo))
    assert picture.shape == (3, 60, 60)
    red = ((picture - RED).abs().amax(0) < 0.01).nonzero()
    # A fifth of the side stays free, and the box is square.
    assert red.amin(0).tolist() == [6, 6] and red.amax(0).tolist() == [53, 53]
    assert (picture[:, 0] == 1).all()


def test_a_mask_wins_over_everything():
    rgba = torch.ones(4, 40, 40) * 0.5
    rgba[3] = 1
    rgba[:3, :, 20:] = RED
    mask = torch.zeros(1, 40, 40)
    mask[:, 10:30, 20:40] = 1
    picture = object_picture(rgba, mask)
    assert ((picture - RED).abs().amax(0) < 0.01).float().mean() > 0.6
    assert (picture[:, :3] == 1).all()


def test_an_even_background_is_removed():
    rgba = torch.ones(4, 40, 40)
    rgba[:3] = torch.tensor([0.1, 0.3, 0.2])[:, None, None]
    rgba[:3, 15:25, 15:25] = RED
    picture = object_picture(rgba)
    assert (picture[:, 0] == 1).all() and (picture[0] - picture[1])[20, 20] > 0.9


def test_what_is_told_by_nothing_is_refused_or_asked_of_rembg(monkeypatch):
    noisy = torch.cat([torch.rand(3, 40, 40), torch.ones(1, 40, 40)])
    monkeypatch.setattr(matte, "rembg_is_ready", lambda: False)
    with pytest.raises(ValueError, match="choose rembg"):
        object_picture(noisy)
    assert torch.equal(object_picture(noisy, matte="none"), noisy[:3])

    half = np.zeros((40, 40), np.uint8)
    half[10:30, 10:30] = 255
    fake_rembg(monkeypatch, half)
    assert (object_picture(noisy)[:, :3] == 1).all()


def test_rembg_is_asked_only_with_its_network_here(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert not matte.rembg_is_ready()
    network = tmp_path / ".rembg" / "models" / "u2net" / "u2net.onnx"
    network.parent.mkdir(parents=True)
    network.write_bytes(b"")
    assert matte.rembg_is_ready()


def test_large_photos_are_averaged_down(monkeypatch):
    monkeypatch.setattr(matte, "PICTURE_SIDE", 100)
    rgba = torch.ones(4, 210, 230)
    rgba[1:3, 50:150, 70:150] = 0
    picture = object_picture(rgba)
    assert picture.shape == (3, 115, 115)
    assert ((picture - RED).abs().amax(0) < 0.01).sum(0).max() == int(115 * 0.8)


def test_an_empty_mask_is_refused():
    rgba = torch.rand(4, 20, 20)
    with pytest.raises(ValueError, match="leaves nothing"):
        object_picture(rgba, torch.zeros(1, 20, 20))


# The views of a prompt ------------------------------------------------------------------------


@pytest.fixture
def on_gray() -> torch.Tensor:
    """Four views [4, 3, 256, 256] of something reddish off the middle on MVDream's kind of gray."""
    shade = torch.linspace(0.48, 0.52, 256).expand(4, 3, 256, 256)
    noise = 0.01 * torch.randn(shade.shape, generator=torch.Generator().manual_seed(1))
    views = (shade + noise).clamp(0, 1)
    for number, view in enumerate(views):
        view[:, 60:160, 20 : 80 + 20 * number] = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    return views


def test_views_become_what_a_picture_with_even_background_becomes(on_gray):
    before = on_gray.clone()
    views, kept = matte.views_on_white(on_gray)
    assert kept == 0 and torch.equal(on_gray, before)
    for view, gray in zip(views, on_gray, strict=True):
        rgba = torch.cat([gray, torch.ones(1, 256, 256)])
        torch.testing.assert_close(view, object_picture(rgba))
        assert (view[:, :24] == 1).all() and (view[:, :, :24] == 1).all()  # a tenth of the side


def test_views_that_nothing_can_tell_stay_and_are_counted(on_gray):
    on_gray[2] = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    views, kept = matte.views_on_white(on_gray)
    assert kept == 1 and torch.equal(views[2], on_gray[2])
    assert (views[[0, 1, 3], :, 0] == 1).all()
    assert "1 of 4 views keep" in matte.kept_backgrounds(kept)


def test_views_may_stay_as_they_are(on_gray):
    views, kept = matte.views_on_white(on_gray, "none")
    assert kept == 0 and views is on_gray


def fake_rembg(monkeypatch, mask: np.ndarray) -> list:
    """A rembg that always finds this mask; the list gets the pictures it is asked for."""
    asked = []

    def remove(pixels, session, only_mask):
        asked.append(pixels)
        return mask

    module = SimpleNamespace(new_session=lambda name: None, remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", module)
    monkeypatch.setattr(matte, "rembg_is_ready", lambda: True)
    return asked


def test_rembg_is_asked_for_views_whose_background_is_not_even(on_gray, monkeypatch):
    mask = np.zeros((256, 256), np.uint8)
    mask[60:160, 20:80] = 255
    asked = fake_rembg(monkeypatch, mask)
    on_gray[1, :, :3] = torch.rand(3, 3, 256)
    on_gray[1, :, -60:] = torch.rand(3, 60, 256)
    views, kept = matte.views_on_white(on_gray)
    assert kept == 0 and len(asked) == 1
    assert np.abs(asked[0] / 255 - on_gray[1].movedim(0, -1).numpy()).max() < 1 / 255
    assert (views[1, :, :24] == 1).all()
    _, kept = matte.views_on_white(on_gray, "rembg")
    assert kept == 0 and len(asked) == 5


def test_a_view_that_is_all_background_is_a_sentence(on_gray, monkeypatch):
    on_gray[2] = 0.5
    with pytest.raises(ValueError, match="180°, back, shows nothing but background"):
        matte.views_on_white(on_gray)
    fake_rembg(monkeypatch, np.zeros((256, 256), np.uint8))
    with pytest.raises(ValueError, match="0°, front, shows nothing but background"):
        matte.views_on_white(on_gray, "rembg")


# Where the models are -------------------------------------------------------------------------


def test_folders_are_found_wherever_they_may_be(monkeypatch, tmp_path, models):
    whole = models / NAMES["mvdream"]
    snapshot = tmp_path / "hf" / "hub" / f"models--ashawkey--{NAMES['mvdream']}" / "snapshots" / "1"
    found = {
        tmp_path / "given" / NAMES["mvdream"]: [tmp_path / "given"],
        tmp_path / "env" / "diffusers" / NAMES["mvdream"]: [],
        tmp_path / "cache" / "lgm" / NAMES["mvdream"]: [],
        snapshot: [],
    }
    monkeypatch.setenv("LGM_MODELS_DIR", str(tmp_path / "env"))
    for place, extra in found.items():
        assert places.available_folders(extra) == {}
        shutil.copytree(whole, place)
        assert places.find_folder("mvdream", extra) == place
        assert places.available_folders(extra) == {NAMES["mvdream"]: place}
        shutil.rmtree(place)


def test_a_missing_model_belongs_into_the_first_place(tmp_path):
    given = tmp_path / "models" / "diffusers"
    assert places.search_places([given])[0] == given
    with pytest.raises(ValueError, match="MVDream is not here") as caught:
        places.find_folder("mvdream", [given])
    assert f"into {given} or" in str(caught.value) and "(2.6 GB)" in str(caught.value)


def test_a_renamed_folder_is_told_from_other_models(tmp_path, models):
    mine = shutil.copytree(models / NAMES["imagedream"], tmp_path / "mine")
    other = shutil.copytree(models / NAMES["mvdream"], tmp_path / "sd")
    (other / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert places.available_folders([tmp_path]) == {"mine": mine}
    assert places.find_folder("mine", [tmp_path]) == mine and places.reads_pictures(mine)
    with pytest.raises(ValueError, match="UNet2DConditionModel"):
        places.find_folder(other)


def test_half_a_download_says_how_to_go_on(tmp_path, models):
    half = shutil.copytree(models / NAMES["imagedream"], tmp_path / NAMES["imagedream"])
    weights = half / "image_encoder" / "model.safetensors"
    weights.rename(weights.with_name("model.safetensors.part"))
    with pytest.raises(ValueError) as caught:
        places.find_folder("imagedream", [tmp_path])
    for word in ("lacks image_encoder/model.safetensors:", "lgm download imagedream", "goes on"):
        assert word in str(caught.value)
    assert places.find_folder("imagedream", [tmp_path, models]) == models / NAMES["imagedream"]


def test_every_file_that_is_fetched_and_needed_is_missed(tmp_path, models):
    whole = shutil.copytree(models / NAMES["imagedream"], tmp_path / "whole")
    release = catalog.RELEASES["imagedream"]
    for name in release.files:
        path = whole / name
        path.rename(path.with_suffix(".away"))
        needed = path.name not in catalog.NOT_NEEDED
        assert places.missing_files(whole) == ([name] if needed else []), name
        path.with_suffix(".away").rename(path)
    assert set(places.missing_files(tmp_path)) == set(catalog.RELEASES["mvdream"].files) - {
        f"tokenizer/{name}" for name in catalog.NOT_NEEDED
    }


def test_doctor_shows_what_is_here_and_what_is_not(capsys, tmp_path, models):
    shutil.copytree(models / NAMES["mvdream"], tmp_path / "m" / NAMES["mvdream"])
    assert run("doctor", "--models-dir", tmp_path / "m") == 0
    lines = capsys.readouterr().out.splitlines()
    [mvdream] = [line for line in lines if line.startswith("views mvdream")]
    [imagedream] = [line for line in lines if line.startswith("views imagedream")]
    assert mvdream.endswith(str(tmp_path / "m" / NAMES["mvdream"]))
    assert "lgm download imagedream" in imagedream
    assert any(line.startswith("package diffusers") for line in lines)


def test_every_command_finds_the_lgm_that_was_downloaded():
    file = places.own_folder() / "model_fp16_fixrot.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    found = model_places(SimpleNamespace(models_dir=None))
    assert places.find_model("lgm_fixrot_fp16", found) == file
