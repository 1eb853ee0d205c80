"""Downloads by the real client, from a server on this machine that speaks as the hub does, well and
badly: small files behind a relative 307, large ones behind a 302 to another host, which here is
another port.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest
from huggingface_hub import constants

from lgm.command import main as cli
from lgm.releases import catalog, download, places
from lgm.releases.catalog import RELEASES

LARGE = 40_000  # bytes; real ones have billions
TRIES = 6 * download.ATTEMPTS  # the client itself tries six times
TEXT, IMAGE = RELEASES["mvdream"], RELEASES["imagedream"]
REPOSITORIES = (TEXT.repository, IMAGE.repository, "ashawkey/LGM")


def content(path: str) -> bytes:
    """What the hub has under a name."""
    if not path.endswith(".safetensors"):
        return f'{{"file": "{path}"}}'.encode()
    block = hashlib.sha256(path.encode()).digest()
    return block * (LARGE // len(block))


@dataclass
class Hub:
    """A hub whose manners a test changes."""

    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, file, Range
    sources: set[tuple[str, str]] = field(default_factory=set)  # repository, file
    cut: list[int] = field(default_factory=list)  # after so many bytes, answer by answer
    errors: list[int] = field(default_factory=list)  # answered instead of a large file
    absent: str = ""  # a name that isn't there
    corrupt: bool = False
    ranges: bool = True
    hashes: bool = True
    cdn: str = ""  # where large files are

    def large_gets(self) -> list[str]:
        """The Range of every request for a large file."""
        return [sent for method, path, sent in self.asked if method == "GET" and is_large(path)]


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub: Hub = self.server.hub
        there, _, path = self.path.lstrip("/").partition("/resolve/main/")
        data = content(path)
        cached = there.startswith("api/resolve-cache/")
        if there != "cdn" and not cached:
            hub.asked.append((self.command, path, self.headers.get("Range", "")))
            hub.sources.add((there, path))
        if cached:
            self.send(hub, data, large=False)
        elif there not in ("cdn", *REPOSITORIES) or path == hub.absent:
            self.send_error(404)
        elif there != "cdn" and is_large(path):
            self.send_response(302)
            self.send_header("Location", f"{hub.cdn}/cdn/resolve/main/{path}")
            if hub.hashes:
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("ETag", '"of the redirect"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif there != "cdn":
            self.send_response(307)
            self.send_header("Location", f"/api/resolve-cache/{there}/resolve/main/{path}")
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif is_large(path) and hub.errors:
            self.send_error(hub.errors.pop(0))
        else:
            self.send(hub, data, large=is_large(path))

    def send(self, hub: Hub, data: bytes, large: bool) -> None:
        start = 0
        if hub.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.send_header("ETag", '"elsewhere"' if large else f'W/"{git}"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if hub.corrupt and large:
            data = data[:-1] + b"?"
        end = start + hub.cut.pop(0) if large and hub.cut else None
        self.wfile.write(data[start:end])

    def log_message(self, *_) -> None: ...


@pytest.fixture
def hub(monkeypatch, tmp_path):
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    url, cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        server.hub = servers[0].hub if server is not servers[0] else Hub(url, cdn=cdn)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server = servers[0]
    monkeypatch.setenv("HF_ENDPOINT", server.hub.url + "/")
    for name in ("LGM_MODELS_DIR", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB, of which a cut loses one
    yield server.hub
    for server in servers:
        server.shutdown()
        server.server_close()


def files_in(root) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def assert_whole(root) -> None:
    assert files_in(root) == set(TEXT.files)
    for name in TEXT.files:
        assert (root / name).read_bytes() == content(name)


def test_a_release_comes_whole_and_only_what_is_read(hub, tmp_path):
    told = []
    root = download.download("mvdream", tmp_path, lambda *state: told.append(state))
    assert root == tmp_path / "mvdream-sd2.1-diffusers"
    assert_whole(root)
    assert not any(name.endswith(".py") for name in TEXT.files)
    total = sum(len(content(name)) for name in TEXT.files)
    assert told == sorted(told) and told[-1] == (total, total)


def test_what_is_whole_is_not_fetched_again(hub, tmp_path):
    root = download.download("mvdream", tmp_path)
    (root / "vae" / "config.json").unlink()
    hub.asked.clear()
    download.download("mvdream", tmp_path)
    assert [path for method, path, _ in hub.asked if method == "GET"] == ["vae/config.json"]
    assert_whole(root)


def test_a_broken_connection_goes_on_where_it_stopped(hub, tmp_path):
    hub.cut = [10_000, 0, 5_000]
    assert_whole(download.download("mvdream", tmp_path))
    first = hub.large_gets()[:4]
    assert first == ["", "bytes=10000-", "bytes=10000-", "bytes=15000-"]


def test_the_next_run_goes_on_where_the_last_stopped(hub, tmp_path):
    root = tmp_path / TEXT.folder
    hub.cut = [10_000] + [0] * TRIES
    with pytest.raises(RuntimeError, match=r"10,000 of 40,000 bytes of model\.safetensors.*again"):
        download.download("mvdream", tmp_path)
    part = root / "text_encoder" / "model.safetensors.part"
    assert part.stat().st_size == 10_000 and not part.with_suffix("").exists()
    hub.cut, hub.asked = [], []
    assert_whole(download.download("mvdream", tmp_path))
    assert hub.large_gets()[0] == "bytes=10000-"


def test_a_server_without_ranges_begins_anew(hub, tmp_path):
    hub.ranges, hub.cut = False, [10_000]
    assert_whole(download.download("mvdream", tmp_path))


def test_busy_servers_are_asked_again(hub, tmp_path):
    hub.errors = [503, 429, 500]
    assert_whole(download.download("mvdream", tmp_path))


def test_what_is_damaged_never_gets_its_name(hub, tmp_path):
    hub.corrupt = True
    with pytest.raises(RuntimeError, match=r"model\.safetensors must be 40,000 bytes with"):
        download.download("mvdream", tmp_path)
    left = files_in(tmp_path)
    assert not any("safetensors" in name for name in left) and left


@pytest.mark.parametrize("size", [3, LARGE, LARGE + 7])
def test_a_part_of_something_else_is_not_used(hub, tmp_path, size):
    part = tmp_path / TEXT.folder / "vae" / "diffusion_pytorch_model.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * size)
    with pytest.raises(RuntimeError, match="hash"):
        download.download("mvdream", tmp_path)
    assert_whole(download.download("mvdream", tmp_path))


def test_without_a_hash_nothing_is_fetched(hub, tmp_path):
    hub.hashes = False
    with pytest.raises(RuntimeError, match="announced with its size and hash"):
        download.download("mvdream", tmp_path)
    assert not files_in(tmp_path)


def test_an_absent_file_is_named_with_where_it_belongs(hub, tmp_path):
    hub.absent = "unet/config.json"
    with pytest.raises(RuntimeError) as caught:
        download.download("mvdream", tmp_path)
    for word in ("unet/config.json answers 404", "tree/main", str(tmp_path / TEXT.folder)):
        assert word in str(caught.value)


def test_offline_says_in_a_line_what_to_put_where(monkeypatch, capsys, tmp_path, hub):
    with socket.socket() as closed:  # a port that nobody listens on
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert cli.main(["download", "mvdream", "--models-dir", str(tmp_path / "models")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    for word in (
        "Can't reach 127.0.0.1",
        "unet/{config.json, diffusion_pytorch_model.safetensors}",
        "https://huggingface.co/ashawkey/mvdream-sd2.1-diffusers",
        str(tmp_path / "models" / "mvdream-sd2.1-diffusers"),
    ):
        assert word in line
    assert not (tmp_path / "models").exists()


def test_debug_shows_the_traceback(monkeypatch, hub, tmp_path):
    hub.absent = "unet/config.json"
    with pytest.raises(RuntimeError, match="404"):
        cli.main(["download", "mvdream", "--models-dir", str(tmp_path), "--debug"])


def test_without_the_client_it_says_how_to_get_it(monkeypatch, hub, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(RuntimeError) as caught:
        download.download("lgm", tmp_path)
    for word in ("pip install huggingface_hub", "model_fp16_fixrot.safetensors", str(tmp_path)):
        assert word in str(caught.value)
    assert not hub.asked and not files_in(tmp_path)


def test_a_full_disk_is_noticed_before_anything_is_written(monkeypatch, hub, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(RuntimeError, match=r"needs room for .* GB more"):
        download.download("mvdream", tmp_path)
    assert not files_in(tmp_path)


def test_a_disk_that_fills_up_keeps_the_part(hub, tmp_path):
    resource = pytest.importorskip("resource")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25_300, most))  # in the middle of a block
    try:
        with pytest.raises(RuntimeError, match=r"Can't write .*goes on where it stopped"):
            download.download("mvdream", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    [part] = [name for name in files_in(tmp_path) if name.endswith(".part")]
    assert (tmp_path / part).stat().st_size == 25_300
    hub.asked.clear()
    assert_whole(download.download("mvdream", tmp_path))
    assert hub.large_gets()[0] == "bytes=25300-"


def test_a_place_that_is_a_file_is_a_sentence(hub, tmp_path):
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(RuntimeError, match=r"Can't write .*another folder"):
        download.download("mvdream", tmp_path / "models")


def test_what_the_caller_raises_ends_it_and_keeps_the_part(hub, tmp_path):
    def stop(here, total):
        if here > 30_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.download("mvdream", tmp_path, stop)
    left = [name for name in files_in(tmp_path) if "safetensors" in name]
    assert left and all(name.endswith(".part") for name in left)


def test_lgm_is_one_file(hub, tmp_path, capsys):
    assert cli.main(["download", "lgm", "--models-dir", str(tmp_path)]) == 0
    assert files_in(tmp_path) == {"model_fp16_fixrot.safetensors"}
    assert "is complete" in capsys.readouterr().out


# For ComfyUI's own loaders ------------------------------------------------------------------------

UNET = "diffusion_models/mvdream.safetensors"
SHARED = {"text_encoders/mvdream_text_encoder.safetensors", "vae/mvdream_vae.safetensors"}
NATIVE = {
    "mvdream": {UNET, *SHARED},
    "imagedream": {
        "diffusion_models/imagedream.safetensors",
        "clip_vision/imagedream_image_encoder.safetensors",
        *SHARED,
    },
    "lgm": {"lgm/model_fp16_fixrot.safetensors"},
}


@pytest.fixture
def models(tmp_path):
    """ComfyUI's models folder."""
    folder = tmp_path / "ComfyUI" / "models"
    (folder / "checkpoints").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", NATIVE)
def test_comfyui_gets_what_its_loaders_need_and_no_more(hub, models, capsys, name):
    told = []
    paths = download.download_native(name, models, lambda *state: told.append(state))
    assert files_in(models) == NATIVE[name]
    assert {path.relative_to(models).as_posix() for path in paths} == NATIVE[name]
    for file, path in zip(catalog.native_files(name), paths, strict=True):
        assert path.read_bytes() == content(file.file)
        assert (file.repository, file.file) in hub.sources
        assert file.url == f"https://huggingface.co/{file.repository}/resolve/main/{file.file}"
    assert len(hub.sources) == len(paths)
    assert told[-1] == (LARGE * len(paths), LARGE * len(paths))

    asked = len(hub.large_gets())
    assert cli.main(["download", name, "--comfyui", str(models.parent)]) == 0
    assert len(hub.large_gets()) == asked  # ComfyUI's own folder is the same place
    assert capsys.readouterr().out == "".join(f"{path} is complete.\n" for path in paths)


def test_native_files_are_those_of_the_releases():
    """Each in the release it is said to be in; text encoder and VAE of one serve both."""
    by_repository = {release.repository: release for release in RELEASES.values()}
    for name, release in RELEASES.items():
        files = catalog.native_files(name)
        assert all(file.file in by_repository[file.repository].files for file in files)
        weights = {f.split("/")[0] for f in release.files if f.endswith(".safetensors")}
        assert {file.file.split("/")[0] for file in files} == weights
        assert {file.repository for file in files if file.directory == "diffusion_models"} == {
            release.repository
        }


def test_the_second_release_brings_only_what_is_new(hub, models):
    download.download_native("mvdream", models)
    hub.asked.clear()
    download.download_native("imagedream", models)
    fetched = {path for method, path, _ in hub.asked if method == "GET" and is_large(path)}
    assert fetched == {
        "unet/diffusion_pytorch_model.safetensors",
        "image_encoder/model.safetensors",
    }
    assert files_in(models) == NATIVE["mvdream"] | NATIVE["imagedream"]


def test_a_broken_native_download_goes_on_and_is_checked(hub, models):
    hub.cut = [10_000] + [0] * TRIES
    with pytest.raises(RuntimeError, match=r"10,000 of 40,000 bytes of mvdream\.safetensors"):
        download.download_native("mvdream", models)
    assert files_in(models) == {UNET + ".part"}
    hub.cut, hub.asked, hub.corrupt = [], [], True
    with pytest.raises(RuntimeError, match=r"mvdream\.safetensors must be 40,000 bytes with"):
        download.download_native("mvdream", models)
    assert hub.large_gets() == ["bytes=10000-"] and not files_in(models)


def test_something_else_of_that_name_stays(hub, models):
    (models / UNET).parent.mkdir()
    (models / UNET).write_bytes(b"mine")
    with pytest.raises(RuntimeError, match=r"mvdream\.safetensors must be .* move that away"):
        download.download_native("mvdream", models)
    assert files_in(models) == {UNET} and (models / UNET).read_bytes() == b"mine"


def test_a_full_disk_is_noticed_for_comfyui_too(monkeypatch, hub, models):
    usage = shutil.disk_usage(models)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(RuntimeError, match=r"models needs room for .* GB more"):
        download.download_native("imagedream", models)
    assert not files_in(models)


def test_without_network_it_says_what_comfyui_needs(hub, models, capsys):
    hub.absent = "unet/diffusion_pytorch_model.safetensors"
    assert cli.main(["download", "mvdream", "--comfyui", str(models)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    for file in catalog.native_files("mvdream"):
        assert f"{file.url} as {file.directory}/{file.name}" in line
    assert str(models) in line and not files_in(models)


def test_what_is_not_comfyui_is_refused(hub, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    for folder in ("mine", "absent"):
        assert cli.main(["download", "lgm", "--comfyui", str(tmp_path / folder)]) == 1
        assert "ComfyUI's folder or its models folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["download", "lgm", "--comfyui", "x", "--models-dir", "y"])
    assert stop.value.code == 2
    assert not hub.asked and not files_in(tmp_path)


def test_an_unknown_name_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="mvdream, imagedream, lgm"):
        download.download("sora", tmp_path)
    with pytest.raises(ValueError, match="mvdream, imagedream, lgm"):
        download.download_native("sora", tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["download", "sora"])
    assert stop.value.code == 2


def test_downloads_go_where_they_are_looked_for(monkeypatch, hub, tmp_path):
    """Whatever the surroundings: no settings, LGM_MODELS_DIR, inside ComfyUI."""
    comfy = tmp_path / "ComfyUI" / "models" / "lgm"
    bundled = places.BUNDLED
    for surroundings in ([bundled], [tmp_path / "mine", bundled], [bundled, comfy]):
        first = surroundings[0]
        monkeypatch.setenv("LGM_MODELS_DIR", "" if first == bundled else str(first))
        for module in (download, places):
            monkeypatch.setattr(
                module, "model_folders", lambda extra=(), s=surroundings: [*extra, *s]
            )
        place = download.default_place("mvdream")
        assert place in places.search_places()
        assert place != bundled and download.default_place("lgm") != bundled
    assert download.default_place("mvdream") == comfy.parent / "diffusers"
    assert download.default_place("lgm") == comfy


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="rights don't bind this user")
def test_a_closed_folder_is_a_sentence(hub, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RuntimeError, match="Permission denied"):
        download.download("mvdream", tmp_path)
