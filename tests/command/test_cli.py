import base64
import errno
import importlib
import io
import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import lgm
from lgm import mesh
from lgm.command import main as cli
from lgm.command import reconstruct, results
from lgm.command.options import SPLAT_SUFFIXES
from lgm.io.outputs import staged_folder
from lgm.pictures import encode
from lgm.pictures import views as view_files
from lgm.releases import download
from lgm.render import turntable

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(lgm.__file__).parent.parent


def shell(count=300, seed=0) -> lgm.Gaussians:
    """A small colored sphere."""
    generator = torch.Generator().manual_seed(seed)
    normals = F.normalize(torch.randn(1, count, 3, generator=generator), dim=-1)
    return lgm.Gaussians(
        positions=0.4 * normals,
        opacities=torch.full((1, count, 1), 0.9),
        scales=torch.full((1, count, 3), 0.05),
        rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        colors=0.5 + 0.5 * normals,
    )


@pytest.fixture
def model(monkeypatch):
    """Stands in for the network: remembers what it is given, and refuses what `LGM` doesn't take.

    `loaded` is `load_model`.
    """
    fake = create_autospec(lgm.LGM, instance=True)
    fake.preset = SimpleNamespace(input_size=32)
    fake.reconstruct.return_value = shell()
    fake.fit.side_effect = lambda gaussians, *_, **__: gaussians
    fake.loaded = create_autospec(lgm.load_model, return_value=fake)
    monkeypatch.setattr("lgm.command.options.load_model", fake.loaded)
    return fake


@pytest.fixture
def views(tmp_path) -> list[Path]:
    """Four pictures of one object; each has its own shade, so their order shows."""
    folder = tmp_path / "objects" / "cup"
    folder.mkdir(parents=True)
    for index, name in enumerate(view_files.VIEW_FILES):
        picture = Image.new("RGBA", (40, 40))
        picture.paste((60 * index, 0, 0, 255), (10, 10, 30, 30))
        picture.save(folder / name)
    return [folder / name for name in view_files.VIEW_FILES]


@pytest.fixture
def splat(tmp_path) -> Path:
    path = tmp_path / "in.ply"
    lgm.io.write_splat_file(path, shell())
    return path


def wrapped_interrupt() -> SystemError:
    """A Ctrl-C as it comes out of a function that numba compiled."""
    error = SystemError("returned a result with an exception set")
    error.__cause__ = KeyboardInterrupt()
    return error


def lgm_command(*arguments) -> int:
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def assert_one_line(capsys, *words):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


def visible_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["reconstruct", "a", "b", "c", "--out", "x.ply"], "got 3"),
        (["reconstruct", "a", "b", "c", "d", "e", "--out", "x.ply"], "got 5"),
        (["reconstruct", "a", "b", "c", "d"], "--out"),
        (["reconstruct", "a", "b", "c", "d", "--out", "x.obj"], ".spz"),
        (["reconstruct", "a", "--folder", "b", "--out", "c"], "not both"),
        (["render", "a.ply", "--out", "x.avi"], ".mp4"),
        (["render", "a.ply", "--out", "x.mp4", "--frames", "0"], "--frames"),
        (["render", "a.ply", "--out", "x.mp4", "--size", "big"], "--size"),
        (["render", "a.ply", "--out", "x.mp4", "--size", "²"], "4,096"),
        (["render", "a.ply", "--out", "x.mp4", "--size", "100000"], "4,096"),
        (["render", "a.ply", "--out", "x.mp4", "--elevation", "nan"], "-90 to 90"),
        (["reconstruct", "a", "b", "c", "d", "--out", "x.ply", "--elevation", "1e9"], "1e9"),
        (["train"], "--minutes"),
        (["train", "--steps", "0"], "--steps"),
        (["train", "--minutes", "nan"], "--minutes"),
        (["evaluate"], "--data"),
        (["evaluate", "--data", "x", "--size", "0"], "--size"),
        (["dataset"], "--out"),
        (["dataset", "--out", "x", "--eval-size", "0"], "--eval-size"),
        (["render", "a.ply", "--out", "x.mp4", "--mode", "smell"], "--mode"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(capsys, arguments, word):
    assert lgm_command(*arguments) == 2
    assert_one_line(capsys, word)


def test_failures_are_one_line_and_status_1(capsys, tmp_path, model, views, splat):
    (tmp_path / "file").write_text("in the way")
    damaged = tmp_path / "damaged.deb"
    entry = f"{'data.tar.xz':48}{9:<10}`\n".encode()
    damaged.write_bytes(b"!<arch>\n" + entry + b"no archive")
    out = tmp_path / "out.ply"
    before = visible_files(tmp_path)
    for arguments, word in (
        (["reconstruct", *views[:3], tmp_path / "none.png", "--out", out], "none.png"),
        (["reconstruct", *views, "--out", tmp_path / "file" / "x.ply"], "not a folder"),
        (["reconstruct", "--folder", tmp_path / "none", "--out", tmp_path / "o"], "--folder"),
        (["reconstruct", "--folder", views[0].parent, "--out", tmp_path / "o"], "270.png"),
        (["reconstruct", *views, "--out", out, "--device", "warp"], "warp"),
        (["reconstruct", *views, "--out", out, "--device", "meta"], "meta"),
        (["reconstruct", *views, "--out", tmp_path / f"{'x' * 300}.ply"], "too long"),
        (["render", tmp_path / "file", "--out", tmp_path / "x.mp4"], "without a suffix"),
        (["evaluate", "--data", tmp_path / "none"], "none"),
        (["evaluate", "--data", tmp_path / "file"], "not an evaluation set"),
        (["evaluate", "--data", tmp_path], "not an evaluation set"),
        (["evaluate", "--data", "x", "--out", tmp_path / "file"], "a folder"),
        (["dataset", "--out", tmp_path / "o", "--deb", tmp_path / "file"], "Debian"),
        (["dataset", "--out", tmp_path / "o", "--deb", damaged], "is damaged"),
        (["dataset", "--out", tmp_path / "o", "--keep-pack"], "--keep-pack"),
        (["train", "--steps", "1", "--out", tmp_path / "file" / "o"], "not a folder"),
        (["train", "--steps", "1", "--out", tmp_path, "--data", tmp_path / "none"], "--data"),
        (["render", tmp_path / "none.ply", "--out", tmp_path / "x.mp4"], "none.ply"),
        (["render", splat, "--out", tmp_path / "file"], "a folder"),
        (["demo", "--out", tmp_path / "d", "--object", "unicorn"], "unicorn"),
    ):
        assert lgm_command(*arguments) == 1, arguments
        assert_one_line(capsys, word)
    assert visible_files(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ("{", "JSON"),
        ("[]", "JSON object"),
        ('{"nope": 1}', "nope"),
        ('{"sizes": "x"}', "sizes like"),
        ('{"sizes": []}', "sizes like"),
        ('{"learning_rate": NaN}', "learning_rate"),
        ('{"decay_norms": 1}', "decay_norms"),
        ('{"preset": "huge"}', "huge"),
        ('{"sizes": [100, 100]}', "multiples of 16"),
        ('{"stage_ends": [1.0]}', "per stage"),
        ('{"batch_sizes": [0, 8]}', "one object"),
    ],
)
def test_recipe_changes_that_make_no_sense_are_refused(capsys, tmp_path, changes, word):
    out = tmp_path / "run"
    assert lgm_command("train", "--steps", "1", "--out", out, "--set", changes) == 1
    assert_one_line(capsys, word)
    assert not out.exists()


def test_recipe_changes_keep_the_other_fields():
    from lgm.training.recipe import RECIPES, changed

    recipe = changed(RECIPES["demo"], '{"sizes": [64, 64], "learning_rate": 1}')
    assert recipe.sizes == (64, 64) and recipe.learning_rate == 1
    assert changed(recipe, json.dumps(asdict(RECIPES["demo"]))) == RECIPES["demo"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.ply"), ("a.ply", "Permission")),
        (OSError(errno.ENOSPC, "No space left on device"), ("No space left",)),
        (MemoryError(), ("memory",)),
        (RuntimeError("two\n  lines"), ("two lines",)),
        (KeyboardInterrupt(), ("stopped",)),
        (wrapped_interrupt(), ("stopped",)),
    ],
)
def test_every_failure_says_one_sentence(capsys, monkeypatch, error, words):
    def fail(options):
        raise error

    monkeypatch.setattr("lgm.command.doctor.run_doctor", fail)
    assert lgm_command("doctor") == (130 if "stopped" in words else 1)
    assert_one_line(capsys, *words)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing_behind(tmp_path, splat, kind):
    options = ("--out", tmp_path / "frames", "--size", "512", "--frames", "3600")
    command = map(str, [sys.executable, "-m", "lgm", "render", splat, *options])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell inherit an ignored SIGINT, and so would this one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".frames*/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(kind)
    assert process.communicate(timeout=60)[1] == "lgm: stopped.\n"
    assert process.returncode == 130 and visible_files(tmp_path) == {splat.name}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_nobody_takes_is_no_traceback():
    command = shlex.join([sys.executable, "-m", "lgm", "doctor"])
    for line in (f"{command} > /dev/full", f"{command} >&-"):
        done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError):
        cli.main(
            ["--debug", "render", str(tmp_path / "none.ply"), "--out", str(tmp_path / "x.mp4")]
        )


@pytest.mark.slow
def test_the_installed_entry_reports_its_status():
    command = [sys.executable, "-m", "lgm", "reconstruct", "one.png", "--out", "x.ply"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", cli.DELEGATED)
def test_delegated_commands_parse_their_own_options(monkeypatch, command):
    seen = []
    module = importlib.import_module(f"lgm.command.{command}")
    monkeypatch.setattr(module, "main", lambda argv: seen.append(argv))
    assert lgm_command(command, "--steps", "3", "--debug") == 0
    assert seen == [["--steps", "3"]]


# Commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SPLAT_SUFFIXES)
def test_reconstruct_writes_what_the_model_returned(tmp_path, model, views, suffix):
    out = tmp_path / "deep" / f"cup{suffix}"
    assert lgm_command("reconstruct", *views, "--out", out, "--elevation", "10") == 0
    read = lgm.io.read_splat_file(out)
    assert read.count == 300
    torch.testing.assert_close(read.positions.mean(1), shell().positions.mean(1), atol=1e-2, rtol=0)
    given, c2w = model.reconstruct.call_args.args
    assert given.shape == (4, 4, 32, 32)
    assert (given[:, 0, 16, 16] * 255).round().tolist() == [0, 60, 120, 180]  # in the order given
    torch.testing.assert_close(c2w, lgm.cameras.input_poses(10.0))


@pytest.mark.parametrize(
    ("options", "rounds", "steps", "elevation"),
    [
        ([], 3, 0, 0.0),
        (["--rounds", "0"], 0, 0, 0.0),
        (["--rounds", "5"], 5, 0, 0.0),
        (["--fit", "7"], 3, 7, 0.0),
        (["--elevation", "-20"], 3, 0, -20.0),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_options_of_reconstruct_reach_the_model(
    tmp_path, model, views, options, rounds, steps, elevation, several
):
    """Of four files and of a folder of folders; fitting gets what reconstructing got."""
    source = ["--folder", views[0].parent.parent] if several else views
    assert lgm_command("reconstruct", *source, "--out", tmp_path / "o.ply", *options) == 0
    (given, c2w), told = model.reconstruct.call_args
    assert told == {"rounds": rounds}
    torch.testing.assert_close(c2w, lgm.cameras.input_poses(elevation))
    (gaussians, again, poses), told = model.fit.call_args
    assert gaussians is model.reconstruct.return_value and again is given and poses is c2w
    assert told == {"steps": steps}


def test_mattes_of_reconstruct_are_the_library_s(tmp_path, model, views):
    flat = [view.with_suffix(".flat.png") for view in views]
    for path, new in zip(views, flat, strict=True):
        picture = Image.open(path)
        ground = Image.new("RGBA", picture.size, (0, 200, 0, 255))
        Image.alpha_composite(ground, picture).convert("RGB").save(new)
    corners = {}
    for matte in ("auto", "none"):
        assert lgm_command("reconstruct", *flat, "--out", tmp_path / "o.ply", "--matte", matte) == 0
        given = model.reconstruct.call_args.args[0]
        alpha = given[:, 3:] if given.shape[1] == 4 else torch.ones_like(given[:, :1])
        corners[matte] = (given[:, :3] * alpha + 1 - alpha)[0, :, 0, 0]
    torch.testing.assert_close(corners["auto"], torch.ones(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(corners["none"], torch.tensor([0, 200 / 255, 0]), atol=1e-2, rtol=0)


MODEL_COMMANDS = {"demo": (), "reconstruct": ("a.png", "b.png", "c.png", "d.png")}


@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_the_model_is_the_one_asked_for_where_it_was_asked_for(
    monkeypatch, tmp_path, model, capsys, command
):
    class Loaded(ValueError):
        pass

    model.loaded.side_effect = Loaded("loaded")
    start = (command, *MODEL_COMMANDS[command], "--out", tmp_path / "o.ply")
    for options, name, places in (
        ((), "demo", []),
        (("--model", "other"), "other", []),
        (("--models-dir", tmp_path / "m"), "demo", [tmp_path / "m"]),
    ):
        assert lgm_command(*start, *options, "--device", "cpu") == 1
        (found,), told = model.loaded.call_args
        assert found == name and told["device"] == "cpu"
        assert told["folders"][: len(places)] == places and len(told["folders"]) == len(places) + 1
    capsys.readouterr()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    lgm_command(*start)
    assert model.loaded.call_args.kwargs["device"] == "cuda"


def test_demo_shows_the_object_that_is_asked_for(monkeypatch, tmp_path, model):
    demo = create_autospec(results.demo)
    monkeypatch.setattr("lgm.command.reconstruct.demo", demo)
    for name, options in ((reconstruct.DEMO_OBJECT, ()), ("avocado", ("--object", "avocado"))):
        assert lgm_command("demo", "--out", tmp_path / name, "--quiet", *options) == 0
        assert demo.call_args.args[:2] == (model, view_files.example_objects()[name])


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ((), {}),
        (("--frames", "5"), {"frames": 5}),
        (("--size", "48"), {"size": 48}),
        (("--elevation", "-30"), {"elevation": -30.0}),
        *((("--mode", mode), {"mode": mode}) for mode in ("depth", "normal", "alpha")),
    ],
)
def test_options_of_render_are_the_turntables(tmp_path, splat, options, changes):
    out = tmp_path / "frames"
    common = ("--size", "24", "--frames", "3")
    assert lgm_command("render", splat, "--out", out, *common, *options) == 0
    wanted = {"frames": 3, "size": 24, "elevation": 0.0, "mode": "color"} | changes
    pictures = list(turntable.turntable(lgm.io.read_splat_file(splat), *wanted.values()))
    assert [path.read_bytes() for path in sorted(out.iterdir())] == [*map(encode.png, pictures)]


MESHED = {"faces": 30_000, "texture_size": 1024, "resolution": 192, "views": 36,
          "method": "outside"}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ((), {}),
        (("--faces", "500"), {"faces": 500}),
        (("--texture-size", "256"), {"texture_size": 256}),
        (("--resolution", "64"), {"resolution": 64}),
        (("--views", "12"), {"views": 12}),
        (("--method", "density"), {"method": "density"}),
    ],
)
def test_options_of_mesh_are_those_of_extract(monkeypatch, tmp_path, splat, options, changes):
    made = create_autospec(mesh.Mesh, instance=True, face_count=1)
    extract = create_autospec(mesh.extract, return_value=made)
    monkeypatch.setattr("lgm.command.draw.extract", extract)
    out = tmp_path / "o.glb"
    for source, target in (((splat,), out), (("--folder", tmp_path), tmp_path / "all")):
        assert lgm_command("mesh", *source, "--out", target, *options) == 0
        assert extract.call_args.kwargs == MESHED | changes
    for frame in ("y-down", "y-up"):
        assert lgm_command("mesh", splat, "--out", out, "--frame", frame) == 0
        (gaussians,), _ = extract.call_args
        expected = lgm.io.read_splat_file(splat, frame=frame).positions
        assert torch.equal(gaussians.positions, expected)


def test_options_of_download_say_what_and_where(monkeypatch, tmp_path, capsys):
    one = create_autospec(download.download, return_value=tmp_path / "x")
    native = create_autospec(download.download_native, return_value=[tmp_path / "y"])
    monkeypatch.setattr("lgm.command.generate.download", one)
    monkeypatch.setattr("lgm.command.generate.download_native", native)
    for options, called, place in (
        ((), one, None),
        (("--models-dir", tmp_path), one, tmp_path),
        (("--comfyui", tmp_path / "c"), native, tmp_path / "c"),
    ):
        assert lgm_command("download", "imagedream", *options) == 0
        assert called.call_args.args[:2] == ("imagedream", place)
        assert "is complete" in capsys.readouterr().out
    assert one.call_count == 2 and native.call_count == 1
    assert lgm_command("download", "lgm", "--quiet") == 0
    assert not capsys.readouterr().out


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_prints_nothing(tmp_path, model, views, splat, capsys, quiet):
    for arguments in (
        ("reconstruct", *views, "--out", tmp_path / "o.ply"),
        ("reconstruct", "--folder", views[0].parent.parent, "--out", tmp_path / "all"),
    ):
        assert lgm_command(*arguments, *["--quiet"] * quiet) == 0
        captured = capsys.readouterr()
        assert bool(captured.out) != quiet and not captured.err


def test_a_bad_subfolder_does_not_stop_the_others(capsys, tmp_path, model, views):
    objects = views[0].parent.parent
    for name in ("apple", "zebra"):
        (objects / name).mkdir()
        for view in views:
            (objects / name / view.name).write_bytes(view.read_bytes())
    (objects / "apple" / "90.png").write_bytes(b"no picture")
    (objects / "boat").mkdir()
    (objects / "boat" / "0.png").write_bytes(views[0].read_bytes())
    (objects / "notes").mkdir()
    out = tmp_path / "out"
    assert lgm_command("reconstruct", "--folder", objects, "--out", out) == 1
    assert visible_files(out) == {"cup.ply", "zebra.ply"}
    captured = capsys.readouterr()
    assert [("apple" in line, "boat" in line) for line in captured.err.splitlines()] == [
        (True, False),
        (False, True),
    ]
    assert "2 of 4" in captured.out


def test_turntable_video_has_the_frames_asked_for(tmp_path, splat):
    out = tmp_path / "turn.mp4"
    assert lgm_command("render", splat, "--out", out, "--size", "33", "--frames", "7") == 0
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 7 and frames[0].shape == (34, 34, 3)
    assert frames[0][0].min() > 240  # white around
    assert frames[0][17, 17, 2] > 200 > frames[3][17, 17, 2]  # +z is blue, and turns away


def test_turntable_gif_and_frames_are_the_same_pictures(tmp_path, splat):
    options = ("--size", "32", "--frames", "5", "--elevation", "20")
    assert lgm_command("render", splat, "--out", tmp_path / "turn.gif", *options) == 0
    assert lgm_command("render", splat, "--out", tmp_path / "frames", *options) == 0
    assert visible_files(tmp_path / "frames") == {f"{i:04d}.png" for i in range(5)}
    with Image.open(tmp_path / "turn.gif") as gif:
        assert gif.n_frames == 5
        for index in range(5):
            gif.seek(index)
            png = np.asarray(Image.open(tmp_path / "frames" / f"{index:04d}.png")).astype(int)
            assert np.abs(np.asarray(gif.convert("RGB")) - png).mean() < 8


def test_y_up_files_are_read_upright(tmp_path, splat):
    options = ("--size", "32", "--frames", "1")
    for frame in ("y-down", "y-up"):
        out = tmp_path / frame
        assert lgm_command("render", splat, "--out", out, "--frame", frame, *options) == 0
    green = {
        frame: np.asarray(Image.open(tmp_path / frame / "0000.png"))[10, 16, 1]
        for frame in ("y-down", "y-up")
    }
    assert green["y-down"] > 128 > green["y-up"]  # +y is green, and on top when read rightly


def test_a_full_disk_leaves_nothing_behind(capsys, monkeypatch, tmp_path, splat):
    written = []

    def png(image):
        written.append(image)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return b"png"

    monkeypatch.setattr(encode, "png", png)
    out = tmp_path / "frames"
    before = visible_files(tmp_path)
    assert lgm_command("render", splat, "--out", out, "--size", "16", "--frames", "4") == 1
    assert_one_line(capsys, "No space left", "frames")
    assert visible_files(tmp_path) == before and not out.exists()


def test_an_existing_folder_is_filled_from_inside(tmp_path):
    """It may be another disk than its parent, or the parent may be closed."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("kept")
    with staged_folder(out) as folder:
        assert folder.parent == out
        (folder / "new.txt").write_text("new")
    assert {path.name for path in out.iterdir()} == {"old.txt", "new.txt"}


def test_demo_fills_its_folder(capsys, monkeypatch, tmp_path, model, views):
    monkeypatch.setattr(view_files, "example_objects", lambda: {"cup": views[0].parent})
    monkeypatch.setattr(results, "DEMO_SIZE", 32)
    monkeypatch.setattr(results, "DEMO_FRAMES", 6)
    small = {"faces": 300, "texture_size": 128, "resolution": 48, "views": 6}
    monkeypatch.setattr(results, "DEMO_MESH", small)
    out = tmp_path / "demo"
    assert lgm_command("demo", "--out", out) == 0
    names = {"splat.ply", "mesh.glb", "views.png", "novel.png", "turntable.mp4", "index.html"}
    assert visible_files(out) == names
    assert Image.open(out / "views.png").size == (128, 32)
    assert Image.open(out / "novel.png").size == (128, 64)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 4 + 8 + 1 + 1 + 4
    mesh = (out / "mesh.glb").read_bytes()
    assert mesh.startswith(b"glTF") and base64.b64encode(mesh).decode() in page
    assert "https://" not in page and "http://" not in page  # opens offline
    printed = capsys.readouterr().out
    for word in ("reconstruct", "extract the mesh", "total", "index.html"):
        assert word in printed


def test_doctor_names_versions_backends_and_places(capsys, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"")
    assert lgm_command("doctor", "--models-dir", tmp_path) == 0
    table = capsys.readouterr().out
    for word in (
        torch.__version__,
        "backend numba",
        "backend reference",
        "model mine",
        str(tmp_path),
    ):
        assert word in table


# Packaging ------------------------------------------------------------------------------------


@pytest.mark.skipif(tomllib is None, reason="reading pyproject.toml needs Python 3.11")
def test_the_package_lists_every_folder_with_code():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent for path in (ROOT / "lgm").rglob("*.py")}
    code = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert code <= set(project["tool"]["setuptools"]["packages"])
    assert project["project"]["version"] == lgm.__version__
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = {line for line in lines if not line.startswith("#")}
    assert all(map(str.isidentifier, (name.replace("-", "_") for name in requirements)))  # no pins
    assert "numpy" in requirements and "torch" not in requirements


def test_png_bytes_are_the_picture():
    image = torch.arange(3 * 4 * 5).reshape(3, 4, 5) / 255
    decoded = np.asarray(Image.open(io.BytesIO(encode.png(image))))
    assert decoded.tolist() == torch.arange(60).reshape(3, 4, 5).permute(1, 2, 0).tolist()


def test_mesh_of_a_file_and_of_a_folder(tmp_path, capsys):
    folder = tmp_path / "splats"
    folder.mkdir()
    lgm.io.write_splat_file(folder / "ball.ply", shell(2000))
    (folder / "broken.ply").write_bytes(b"ply")
    small = ["--faces", "200", "--texture-size", "128", "--views", "6", "--resolution", "32"]
    out = tmp_path / "ball.glb"
    assert cli.main(["mesh", str(folder / "ball.ply"), "--out", str(out), *small]) == 0
    assert out.read_bytes().startswith(b"glTF")
    capsys.readouterr()
    several = ["mesh", "--folder", str(folder), "--out", str(tmp_path / "meshes"), *small]
    assert cli.main(several) == 1  # a bad file is said, and the good ones are done
    assert [path.name for path in (tmp_path / "meshes").iterdir()] == ["ball.glb"]
    assert "broken.ply" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["a.ply", "--folder", "b"]])
def test_mesh_needs_one_source(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["mesh", *arguments, "--out", str(tmp_path / "x.glb")])
    assert stopped.value.code == 2
    assert "splat file" in capsys.readouterr().err


def test_a_mistake_in_our_own_imports_shows_its_traceback(monkeypatch, capsys):
    """While a package that isn't installed is one line."""

    def fail(options):
        raise error

    monkeypatch.setattr("lgm.command.doctor.run_doctor", fail)
    error = ModuleNotFoundError("No module named 'not_here'", name="not_here.part")
    assert cli.main(["doctor"]) == 1
    assert "not_here" in capsys.readouterr().err
    for name in ("lgm", "lgm.absent", "torch"):
        error = ImportError("cannot import name 'x'", name=name)
        with pytest.raises(ImportError):
            cli.main(["doctor"])
