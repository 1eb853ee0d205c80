"""Writes rendered views into tar shards."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import tarfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .shards import (
    BLOCK,
    DAMAGE,
    FALLBACK_ELEVATION,
    FORMAT,
    INDEX,
    SUFFIXES,
    Sample,
    _padded,
    _parse_index,
    _read_index,
    _sample,
    _sha256,
    elevations,
    encode_picture,
)


class ShardWriter:
    """Adds objects to a folder of shards, new or unfinished.

    A shard is written as `*.partial` and renamed when it is full. After a crash the folder is
    opened again: objects written completely are kept, half of one is cut off, and the rest may be
    added with the same result as without the crash. `names` holds what is there.
    """

    def __init__(
        self,
        folder: Path | str,
        made_from: dict | None = None,
        objects_per_shard: int = 256,
        bytes_per_shard: int = 1 << 30,
    ):
        """
        Args:
            made_from: settings that all objects of one dataset share, such as the picture size.

        Raises:
            ValueError: the folder holds a dataset with other settings, or a damaged one.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limits = (objects_per_shard, bytes_per_shard)
        self.made_from = made_from or {}
        self.files: list[dict] = []
        self.samples: list[Sample] = []
        self.complete = False
        if (self.folder / INDEX).exists():
            self._continue()
        self.names = {sample.name for sample in self.samples}
        self.keys = {sample.key for sample in self.samples}
        self._file: io.FileIO | None = None
        self._reopen()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._file:
            self._file.close()  # complete objects stay, and the next run continues

    def add(
        self,
        name: str,
        images: Tensor | Iterable[bytes],
        c2w: Tensor,
        fovy: float,
        ring: Sequence[int] = (),
    ) -> None:
        """Add one object.

        Args:
            images: [V, 4, S, S] uint8 with straight color and alpha, or V files of such pictures
                (WebP or PNG).
            c2w: [V, 4, 4] OpenGL axes, y-up world, scaled to the usual radius.
            fovy: degrees.
            ring: views that can be inputs; without any those below 30 degrees, or else all.

        Raises:
            ValueError: the pictures and cameras aren't fit for training, or the name is taken.
        """
        if name in self.names:
            raise ValueError(f"{name!r} is in {self.folder} already: give objects different names.")
        if isinstance(images, Tensor):
            images = map(encode_picture, images)
        pictures = list(images)
        suffix = _check_pictures(name, pictures)
        c2w = _check_cameras(name, c2w, fovy, len(pictures))
        facts = {
            "name": name,
            "views": len(pictures),
            "suffix": suffix,
            "inputs": [int(view) for view in ring] or _low_views(c2w),
            "fovy": float(fovy),
            "c2w": c2w.tolist(),
        }
        self._write(facts, pictures)
        self._finish_if_full()

    def close(self) -> None:
        """Finish the dataset. Without a single object nothing is written."""
        if self._file:
            self._finish_shard()
        if self.samples and not self.complete:
            self._write_index(complete=True)

    def _continue(self) -> None:
        data = _read_index(self.folder)
        try:
            index = _parse_index(data)
            self.files, self.complete = index["shards"], index["complete"]
            self.samples = [_sample(fields) for fields in index["samples"]]
            made_from = index["made_from"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.folder / INDEX} is no index of this version ({error}): choose "
                             "another folder.") from error  # fmt: skip
        self._check_settings(made_from)

    def _check_settings(self, made_from: dict) -> None:
        if made_from != json.loads(json.dumps(self.made_from)):
            raise ValueError(f"{self.folder} holds objects made with {made_from}, not "
                             f"{self.made_from}: choose another folder.")  # fmt: skip

    @property
    def _path(self) -> Path:
        """Of the next finished shard."""
        return self.folder / f"shard-{len(self.files):06d}.tar"

    def _reopen(self) -> None:
        """Go on with a shard that was not finished."""
        self._first = len(self.samples)
        partial = self._path.with_suffix(".partial")
        if self._path.exists():  # renamed, but then the index was not written any more
            self._path.replace(partial)
        if not partial.exists():
            return
        with partial.open("rb") as file:
            found = list(_scan(file, len(self.files), self.made_from, self._check_settings))
        end = found[-1].end if found else 0
        self._file = partial.open("r+b", buffering=0)
        self._file.truncate(end)
        self._file.seek(end)
        self._hash = _sha256(partial)
        self.samples += found
        self.names |= {sample.name for sample in found}
        self.keys |= {sample.key for sample in found}
        self.complete = False
        self._finish_if_full()

    def _write(self, facts: dict, pictures: list[bytes]) -> None:
        if self._file is None:
            self._file = self._path.with_suffix(".partial").open("wb", buffering=0)
            self._hash, self._first = hashlib.sha256(), len(self.samples)
        facts["made_from"] = self.made_from
        key = self._key(facts["name"])
        members = [json.dumps(facts).encode(), *pictures]
        names = [f"{key}.json"]
        names += [f"{key}.{view:03d}.{facts['suffix']}" for view in range(len(pictures))]
        data = b"".join(_member(n, content) for n, content in zip(names, members, strict=True))
        start = self._file.tell()
        try:
            _write_all(self._file, data)
        except BaseException:
            self._file.truncate(start)
            self._file.seek(start)
            raise
        self._hash.update(data)
        sizes = array("I", (len(content) for content in members))
        self.samples.append(
            Sample(facts["name"], key, len(self.files), start, sizes, facts["suffix"],
                   tuple(facts["inputs"]))
        )  # fmt: skip
        self.names.add(facts["name"])
        self.keys.add(key)
        self.complete = False

    def _key(self, name: str) -> str:
        """A file name without dots, as WebDataset wants it, that fits a tar's header."""
        key = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]
        if not key or key in self.keys:
            key = f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return key

    def _finish_if_full(self) -> None:
        objects, size = self.limits
        if len(self.samples) - self._first >= objects or self._file.tell() >= size:
            self._finish_shard()

    def _finish_shard(self) -> None:
        partial, end = self._path.with_suffix(".partial"), bytes(2 * BLOCK)
        if len(self.samples) == self._first:  # nothing whole was in it
            self._file.close()
            self._file = None
            partial.unlink()
            return
        size = self._file.tell()
        try:
            _write_all(self._file, end)
            os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(size)
            raise
        finally:
            self._file.close()
            self._file = None
        self._hash.update(end)
        partial.replace(self._path)
        self.files.append(
            {"name": self._path.name, "size": size + len(end), "sha256": self._hash.hexdigest()}
        )
        self._write_index(complete=False)

    def _write_index(self, complete: bool) -> None:
        index = {
            "format": FORMAT,
            "complete": complete,
            "made_from": self.made_from,
            "shards": self.files,
            "samples": [[*vars(s).values()] for s in self.samples],
        }
        path = self.folder / f"{INDEX}.partial"
        with path.open("w", encoding="utf-8") as file:
            json.dump(index, file, separators=(",", ":"), default=list)  # of arrays
            file.flush()
            os.fsync(file.fileno())
        path.replace(self.folder / INDEX)
        self.complete = complete


def _low_views(c2w: Tensor) -> list[int]:
    low = (elevations(c2w).abs() < FALLBACK_ELEVATION).nonzero()[:, 0].tolist()
    return low or list(range(len(c2w)))


def _check_pictures(name: str, pictures: list[bytes]) -> str:
    """The suffix of the pictures' format."""
    sizes, suffixes = set(), set()
    for view, data in enumerate(pictures):
        if data[:4] not in SUFFIXES:
            raise ValueError(f"View {view} of {name} is neither WebP nor PNG: convert it.")
        try:
            with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as picture:
                sizes.add(picture.size)
        except DAMAGE as error:
            raise ValueError(f"View {view} of {name} can't be read ({error}).") from error
        suffixes.add(SUFFIXES[data[:4]])
    if len(sizes) != 1 or len(suffixes) != 1 or len(set(*sizes)) != 1:
        found = ", ".join(sorted(f"{w}x{h}" for w, h in sizes)) or "none"
        raise ValueError(f"The views of {name} have to be square pictures of one size and format, "
                         f"found are {found} ({', '.join(sorted(suffixes))}).")  # fmt: skip
    return suffixes.pop()


def _check_cameras(name: str, c2w: Tensor, fovy: float, count: int) -> Tensor:
    c2w = c2w.detach().cpu().to(torch.float32)
    if tuple(c2w.shape) != (count, 4, 4):
        raise ValueError(f"{name} has {count} pictures and cameras {list(c2w.shape)}: each picture "
                         "needs a matrix [4, 4].")  # fmt: skip
    turn = c2w[:, :3, :3].double()
    rigid = (turn @ turn.mT - torch.eye(3, dtype=torch.float64)).abs().amax() < 1e-3
    upright = (torch.linalg.det(turn) > 0).all() and torch.equal(
        c2w[:, 3], c2w.new_tensor([0, 0, 0, 1]).expand(count, 4)
    )
    if not (torch.isfinite(c2w).all() and rigid and upright):
        raise ValueError(f"The cameras of {name} aren't rotations and positions: a camera-to-world "
                         "matrix has unit, perpendicular axes.")  # fmt: skip
    if not (math.isfinite(fovy) and 0 < fovy < 180):
        raise ValueError(f"{name} has a field of view of {fovy} degrees: it has to be 0 to 180.")
    return c2w


def _member(name: str, content: bytes) -> bytes:
    """One file of a tar; nothing but name and content, so that equal data give equal shards."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content.ljust(_padded(len(content)), b"\0")


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _scan(file, shard: int, made_from: dict, check) -> Iterable[Sample]:
    """The complete samples at the beginning of an unfinished shard."""
    size = file.seek(0, os.SEEK_END)
    start = 0

    def header(offset: int) -> tarfile.TarInfo | None:
        file.seek(offset)
        try:
            return tarfile.TarInfo.frombuf(file.read(BLOCK), "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError):
            return None

    while (first := header(start)) and first.name.endswith(".json"):
        if start + BLOCK + _padded(first.size) > size:
            return
        file.seek(start + BLOCK)
        try:
            facts = json.loads(file.read(first.size))
        except ValueError:
            return
        check(facts.get("made_from"))
        sizes, end = [first.size], start + BLOCK + _padded(first.size)
        for _ in range(facts["views"]):
            info = header(end)
            if info is None:
                return
            sizes.append(info.size)
            end += BLOCK + _padded(info.size)
        if end > size:
            return
        key = first.name.removesuffix(".json")
        yield Sample(facts["name"], key, shard, start, array("I", sizes), facts["suffix"],
                     tuple(facts["inputs"]))  # fmt: skip
        start = end
