"""Fetching released models from Hugging Face: on request only, with resume and checks.

The connection is `huggingface_hub`'s (mirrors, tokens, proxies, redirects, retries). Its
`hf_hub_download` is not used: it deletes what has come when it is stopped, reports nothing that
can stop it when it goes through Xet, and never compares the hash. So the part file, the hash and
the name are ours, and its `http_get` writes into them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .catalog import FIXED_NAME, HUB_REPOSITORY, LGM, RELEASES, native_files
from .places import model_folders, own_folder

NAMES = (*RELEASES, LGM)
SITE = "https://huggingface.co"  # for people; the client asks the one in HF_ENDPOINT
ATTEMPTS = 5  # in a row in which nothing comes, each with the client's own
COMFYUI_FOLDERS = ("checkpoints", "diffusion_models", "unet", "vae")  # one is in any models folder
SLACK = 64 << 20  # bytes that stay free on the disk

OnBytes = Callable[[int, int], None]
"""Called with how many bytes are there and how many there will be; what it raises ends it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """A file that the hub has."""

    url: str
    path: Path  # where it goes
    size: int
    digest: str  # SHA-256, 64 digits, or the SHA-1 that git knows small files by, 40 digits

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def is_here(self) -> bool:
        """A file gets its name only when it has been checked."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    def bytes_here(self) -> int:
        if self.is_here:
            return self.size
        return min(self.part.stat().st_size, self.size) if self.part.is_file() else 0

    def has_come(self) -> bool:
        """Whether the part is the file, to the byte."""
        if len(self.digest) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with self.part.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest() == self.digest and self.part.stat().st_size == self.size


def download(name: str, models_dir: Path | None = None, on_bytes: OnBytes | None = None) -> Path:
    """Fetch `mvdream`, `imagedream` or `lgm`; what is whole already stays.

    Args:
        models_dir: gets the released folder or file; default `default_place`.

    Returns:
        The folder, or LGM's file.

    Raises:
        ValueError: there is no such model.
        RuntimeError: no network, an answer that makes no sense, a full disk; what has come is kept,
            and the next call goes on from there.
    """
    _check_name(name)
    place = Path(models_dir) if models_dir else default_place(name)
    if name == LGM:
        repository, root, files = HUB_REPOSITORY, place, [FIXED_NAME]
    else:
        release = RELEASES[name]
        repository, root, files = release.repository, place / release.folder, release.files
    by_hand = (
        f"get {_listed(files)} from {SITE}/{repository}/tree/main with another program or "
        f"computer, and put {'them' if len(files) > 1 else 'it'} into {root}"
    )
    _fetch_all([_ask(repository, file, root / file, by_hand) for file in files], on_bytes, by_hand)
    return root if name in RELEASES else root / files[0]


def download_native(name: str, comfyui: Path, on_bytes: OnBytes | None = None) -> list[Path]:
    """Fetch what ComfyUI's own loaders need for `mvdream`, `imagedream` or `lgm`; what is whole
    already stays.

    Args:
        comfyui: its folder, or its models folder.

    Returns:
        The files, under the names that the example workflows choose.

    Raises:
        ValueError: there is no such model, or this is not ComfyUI.
        RuntimeError: as `download`, or something else is there under such a name.
    """
    _check_name(name)
    models = comfyui_models(comfyui)
    files = native_files(name)
    paths = [models / file.directory / file.name for file in files]
    listed = ", ".join(f"{f.url} as {f.directory}/{f.name}" for f in files)
    by_hand = f"with another program or computer, get into {models}: {listed}"
    remotes = [
        _ask(file.repository, file.file, path, by_hand)
        for file, path in zip(files, paths, strict=True)
    ]
    for remote in remotes:
        if remote.path.exists() and not remote.is_here:
            raise RuntimeError(
                f"{remote.path} must be the released file of {remote.size:,} bytes, but something "
                "else is there: move that away, or give it another name."
            )
    _fetch_all(remotes, on_bytes, by_hand)
    return paths


def comfyui_models(folder: Path) -> Path:
    """ComfyUI's models folder, from this or from ComfyUI's own.

    Raises:
        ValueError: it is neither.
    """
    for models in (Path(folder) / "models", Path(folder)):
        if any((models / name).is_dir() for name in COMFYUI_FOLDERS):
            return models
    raise ValueError(
        f"ComfyUI's folder or its models folder is needed, but {folder} has none of the folders "
        f"{', '.join(COMFYUI_FOLDERS)}: give the one that ComfyUI uses."
    )


def default_place(name: str) -> Path:
    """Where a download goes: LGM_MODELS_DIR, else ComfyUI's models, else a folder of our own."""
    if os.environ.get("LGM_MODELS_DIR"):
        return model_folders()[0]
    last = model_folders()[-1]
    if (last.parent.name, last.name) == ("models", "lgm"):
        return last if name == LGM else last.parent / "diffusers"
    return own_folder()


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"A download needs one of {', '.join(NAMES)}, got {name!r}.")


# What the hub has ---------------------------------------------------------------------------------


def _ask(repository: str, file: str, path: Path, by_hand: str) -> Remote:
    """What the hub says of a file, which is to become `path`."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import HfHubHTTPError
    except ImportError as error:
        raise RuntimeError(
            "A download needs the package huggingface_hub, which can't be found: pip install "
            f"huggingface_hub, or {by_hand}."
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    url = hf_hub_url(repository, file, endpoint=endpoint)
    try:
        said = get_hf_file_metadata(url, library_name="lgm")
    except HfHubHTTPError as error:
        raise _refused(error, url, by_hand) from error
    except Exception as error:  # the client's classes for a broken connection change with releases
        host = url.split("/")[2]
        raise RuntimeError(f"Can't reach {host} ({_reason(error)}): {by_hand}.") from error
    size, etag = said.size, said.etag or ""
    if size is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        raise RuntimeError(
            f"{url} must be announced with its size and hash, so that it can be checked, but has "
            f"size {said.size} and hash {said.etag}: {by_hand}."
        )
    return Remote(url, path, size, etag)


def _refused(error: Exception, url: str, by_hand: str) -> RuntimeError:
    return RuntimeError(f"{url} answers {_status(error)}: {by_hand}.")


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    return 0 if response is None else response.status_code


# Fetching -----------------------------------------------------------------------------------------


def _fetch_all(remotes: list[Remote], on_bytes: OnBytes | None, by_hand: str) -> None:
    total = sum(remote.size for remote in remotes)
    missing = total - sum(remote.bytes_here() for remote in remotes)
    _check_room(Path(os.path.commonpath([remote.path.parent for remote in remotes])), missing)
    before = 0
    for remote in remotes:
        start = before

        def report(here: int, start: int = start) -> None:
            if on_bytes is not None:
                on_bytes(start + here, total)

        if not remote.is_here:
            _fetch(remote, report, by_hand)
        before += remote.size
        report(remote.size)


def _fetch(remote: Remote, report: Callable[[int], None], by_hand: str) -> None:
    """Bring the rest of one file, check the whole, and give it its name."""
    try:
        remote.part.parent.mkdir(parents=True, exist_ok=True)
        with Part(remote.part, lambda here: report(min(here, remote.size))) as part:
            _fill(part, remote, by_hand)
        if not remote.has_come():
            remote.part.unlink()
            raise RuntimeError(
                f"{remote.path.name} must be {remote.size:,} bytes with the hash {remote.digest}, "
                f"but what came from {remote.url} is not, and is deleted: run it again."
            )
        remote.part.replace(remote.path)
    except OSError as error:
        raise RuntimeError(
            f"Can't write {remote.part}: {_reason(error)}; make room or choose another folder, "
            "and run it again: it goes on where it stopped."
        ) from error


def _fill(part: Part, remote: Remote, by_hand: str) -> None:
    """Go on with the part until it has the file's size."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(library_name="lgm", headers={"Accept-Encoding": "identity"})
    failures = 0
    while (here := part.seek(0, io.SEEK_END)) < remote.size:
        try:
            with _one_bar():
                http_get(
                    remote.url,
                    part,
                    resume_size=here,
                    headers=headers,
                    expected_size=remote.size,
                )
        except Exception as error:
            if error is part.error:  # the disk failed, or the caller ended it
                raise
            status = _status(error)
            if 400 <= status < 500 and status != 429:
                raise _refused(error, remote.url, by_hand) from error
            reason = str(status or _reason(error))
            now = part.seek(0, io.SEEK_END)
            failures = 1 if now > here else failures + 1
            if failures == ATTEMPTS:
                raise RuntimeError(
                    f"The connection to {remote.url.split('/')[2]} broke {ATTEMPTS} times "
                    f"({reason}) with {now:,} of {remote.size:,} bytes of {remote.path.name} here: "
                    "run it again, and it goes on where it stopped."
                ) from error
            log.info("%s: %s; trying again", remote.path.name, reason)
            time.sleep(2 ** (failures - 1))


class Part(io.FileIO):
    """A part file that tells of each block, and remembers what ended its writing."""

    def __init__(self, path: Path, report: Callable[[int], None]):
        super().__init__(path, "a+")
        self.report = report
        self.error: BaseException | None = None

    def write(self, block: bytes) -> int:  # ty: ignore[incompatible-method-override]
        try:
            rest = memoryview(block)
            while rest:  # a full disk takes a little, and then refuses
                rest = rest[super().write(rest) :]
            self.report(self.tell())
        except BaseException as error:
            self.error = error
            raise
        return len(block)


@contextmanager
def _one_bar():
    """Silence the client's progress bar: the caller has its own."""
    from huggingface_hub import utils

    name = "huggingface_hub.http_get"
    shown = not utils.are_progress_bars_disabled(name)
    if shown:
        utils.disable_progress_bars(name)
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars(name)


def _check_room(root: Path, needed: int) -> None:
    """Raise RuntimeError where the disk is too small, before anything is written."""
    place = root
    while not place.is_dir():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed and free < needed + SLACK:
        raise RuntimeError(
            f"{root} needs room for {needed / 1e9:.2f} GB more, but has {free / 1e9:.2f} GB free: "
            "make room or choose another folder."
        )


def _listed(files: Iterable[str]) -> str:
    """`unet/a, unet/b` as `unet/{a, b}`."""
    folders: dict[str, list[str]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        folders.setdefault(folder, []).append(name)
    return ", ".join(
        f"{folder}/{{{', '.join(names)}}}" if folder else ", ".join(names)
        for folder, names in folders.items()
    )


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).split("\n")[0] or type(error).__name__
