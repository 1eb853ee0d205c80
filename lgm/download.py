"""Fetching released models from Hugging Face: on request only, with resume and checks.

What a file must be is told by the hub's answer to HEAD, before its redirect to another host: large
files (Git LFS) have `X-Linked-Size` and, as `X-Linked-Etag`, their SHA-256; of small ones, `ETag`
is the hash that git knows them by, SHA-1 over "blob <size>\\0" and the content.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from .multiview.folders import LGM, RELEASES, native_files, own_folder
from .network.weights import FIXED_NAME, HUB_REPOSITORY, model_folders

ENDPOINT = "https://huggingface.co"  # or that in HF_ENDPOINT
NAMES = (*RELEASES, LGM)
PART = ".part"
BLOCK = 1 << 20
TIMEOUT = 30  # seconds without an answer
ATTEMPTS = 5  # in a row in which nothing comes
REDIRECTS = (301, 302, 303, 307, 308)
BROKEN = (OSError, http.client.HTTPException)  # of a connection; URLError is an OSError
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
    digest: str  # SHA-256, 64 digits, or git's SHA-1, 40 digits

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + PART)

    @property
    def is_here(self) -> bool:
        """A file gets its name only when it has been checked."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    def bytes_here(self) -> int:
        if self.is_here:
            return self.size
        return min(self.part.stat().st_size, self.size) if self.part.is_file() else 0

    def new_hash(self):
        if len(self.digest) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


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
    if name not in NAMES:
        raise ValueError(f"A download needs one of {', '.join(NAMES)}, got {name!r}.")
    place = Path(models_dir) if models_dir else default_place(name)
    if name == LGM:
        repository, root, files = HUB_REPOSITORY, place, [FIXED_NAME]
    else:
        release = RELEASES[name]
        repository, root, files = release.repository, place / release.folder, release.files
    by_hand = (
        f"get {_listed(files)} from {ENDPOINT}/{repository}/tree/main with another program or "
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
    if name not in NAMES:
        raise ValueError(f"A download needs one of {', '.join(NAMES)}, got {name!r}.")
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


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _ask(repository: str, file: str, path: Path, by_hand: str) -> Remote:
    """What the hub says of a file, which is to become `path`."""
    url = f"{endpoint()}/{repository}/resolve/main/{quote(file)}"
    try:
        with _open(url, "HEAD") as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        raise _refused(error, url, by_hand) from error
    except BROKEN as error:
        host = urlsplit(url).netloc
        raise RuntimeError(f"Can't reach {host} ({_reason(error)}): {by_hand}.") from error
    digest = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/")
    digest = digest.strip('"').lower()
    size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest) or not size.isdigit():
        raise RuntimeError(
            f"{url} must be announced with its size and hash, so that it can be checked, but has "
            f"size {size or 'unknown'} and hash {digest or 'unknown'}: {by_hand}."
        )
    return Remote(url, path, int(size), digest)


def _refused(error: urllib.error.HTTPError, url: str, by_hand: str) -> RuntimeError:
    return RuntimeError(f"{url} answers {error.code} {error.reason}: {by_hand}.")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_) -> None:
        return None


def _open(url: str, method: str = "GET", start: int = 0):
    """The answer, after redirects. For HEAD, the one that tells the size and hash of a large file.

    urllib would make HEAD a GET, and go on before the hub's own headers can be read.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    for _ in range(10):
        headers = {"User-Agent": "lgm", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(url, headers=headers, method=method)
        try:
            return opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            target = urljoin(url, error.headers.get("Location") or "")
            if error.code not in REDIRECTS or target == url:
                raise
            if method == "HEAD" and error.headers.get("X-Linked-Etag"):
                return error
            error.close()
            allowed = ("https",) if url.startswith("https:") else ("http", "https")
            if urlsplit(target).scheme not in allowed:
                raise urllib.error.URLError(f"it sends us on to {target}") from error
            url = target
    raise urllib.error.URLError("it sends us on again and again")


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
    """Bring one file; it gets its name when it is whole."""
    url, failures = remote.url, 0
    while True:
        before = remote.bytes_here()
        try:
            _fetch_rest(remote, report)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # asked for more than there is
                remote.part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise RuntimeError(
                    f"{url} answers {error.code} {error.reason}: {by_hand}."
                ) from error
            reason = f"{error.code} {error.reason}"
        except _Disk as error:
            raise RuntimeError(
                f"Can't write {remote.part}: {error}; make room or choose another folder, "
                "and run it again: it goes on where it stopped."
            ) from error
        except BROKEN as error:
            reason = _reason(error)
        failures = 1 if remote.bytes_here() > before else failures + 1
        if failures == ATTEMPTS:
            raise RuntimeError(
                f"The connection to {urlsplit(url).netloc} broke {ATTEMPTS} times ({reason}) with "
                f"{remote.bytes_here():,} of {remote.size:,} bytes of {remote.path.name} here: run "
                "it again, and it goes on where it stopped."
            )
        log.info("%s: %s; trying again", remote.path.name, reason)
        _pause(failures)


class _Disk(Exception):
    """The disk, and not the connection, failed."""


def _fetch_rest(remote: Remote, report: Callable[[int], None]) -> None:
    """Go on with the part that is here, check the whole, and give it its name."""
    try:
        remote.part.parent.mkdir(parents=True, exist_ok=True)
        file = remote.part.open("ab+", buffering=0)  # or closing it could be what fails
    except OSError as error:
        raise _Disk(_reason(error)) from error
    digest, here = remote.new_hash(), 0
    with file:
        file.seek(0)
        while block := file.read(BLOCK):
            digest.update(block)
            here += len(block)
        if here < remote.size:
            with _open(remote.url, start=here) as answer:
                if here and not _goes_on(answer, here):
                    file.truncate(0)
                    digest, here = remote.new_hash(), 0
                while here <= remote.size and (block := answer.read(BLOCK)):
                    _write(file, block)
                    digest.update(block)
                    here += len(block)
                    report(min(here, remote.size))
    if here < remote.size:
        raise ConnectionError(f"it ended after {here:,} bytes")
    if here > remote.size or digest.hexdigest() != remote.digest:
        remote.part.unlink()
        raise RuntimeError(
            f"{remote.path.name} must be {remote.size:,} bytes with the hash {remote.digest}, but "
            f"what came from {remote.url} is not, and is deleted: run it again."
        )
    try:
        remote.part.replace(remote.path)
    except OSError as error:
        raise _Disk(_reason(error)) from error


def _goes_on(answer, here: int) -> bool:
    """Whether this is the rest, and not all of it once more."""
    sent = answer.headers.get("Content-Range") or ""
    return answer.status == 206 and sent.startswith(f"bytes {here}-")


def _write(file, block: bytes) -> None:
    try:
        rest = memoryview(block)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _Disk(_reason(error)) from error


def _pause(failures: int) -> None:
    time.sleep(2 ** (failures - 1))


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


def _listed(files: list[str]) -> str:
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
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason) or type(error).__name__
