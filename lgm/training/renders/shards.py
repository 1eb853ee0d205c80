"""Reads rendered objects from WebDataset shards, at random.

A sample is one object: `key.json` (name, cameras), then `key.000.webp`, `key.001.webp`, ... next to
each other in an uncompressed tar. `index.json` has the offsets of all files. It is written last: a
folder with a complete index is a complete dataset. Frame and cameras are those of `lgm.cameras`.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)

FORMAT = "lgm-shards-1"
INDEX = "index.json"
BLOCK = 512  # of a tar
FALLBACK_ELEVATION = 30.0  # degrees: without a stated ring, views below can be inputs
SUFFIXES = {b"\x89PNG": "png", b"RIFF": "webp"}
DAMAGE = (OSError, ValueError, KeyError, TypeError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Views:
    """Some views of one object."""

    name: str
    images: Tensor  # [V, 4, S, S] uint8, straight color and alpha, white where alpha is 0
    c2w: Tensor  # [V, 4, 4] float32, OpenGL axes, y-up world; the ring's median distance is 1.5
    fovy: float  # degrees
    ids: tuple[int, ...]  # which views of the object these are


@dataclass(frozen=True)
class Sample:
    """The location of one object in the shards."""

    name: str
    key: str  # of its files in the tar
    shard: int
    start: int  # byte of its first header
    sizes: array[int]  # bytes of the JSON file and of every picture
    suffix: str  # of the pictures
    inputs: tuple[int, ...]  # views that can be inputs

    def byte_range(self, member: int) -> tuple[int, int]:
        """First byte and size of a file's content; 0 is the JSON file, then the pictures."""
        before = sum(BLOCK + _padded(size) for size in self.sizes[:member])
        return self.start + before + BLOCK, self.sizes[member]

    @property
    def end(self) -> int:
        return self.start + sum(BLOCK + _padded(size) for size in self.sizes)


class Shards:
    """Random access to a folder of shards; can be sent to, or forked into, loader processes."""

    def __init__(self, folder: Path | str):
        """
        Raises:
            ValueError: there is no complete dataset of this version.
        """
        self.folder = Path(folder)
        data = _read_index(self.folder)
        self.digest = hashlib.sha256(data).hexdigest()
        try:
            index = _parse_index(data)
            complete = index["complete"]
            self.files = [(str(f["name"]), int(f["size"]), f["sha256"]) for f in index["shards"]]
            self.samples = [_sample(fields) for fields in index["samples"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.folder / INDEX} is no index of this version ({error}): make "
                             "the dataset again with `lgm dataset`.") from error  # fmt: skip
        if not complete or not self.samples:
            raise ValueError(_unfinished(self.folder))
        self.names = [sample.name for sample in self.samples]
        for name, size, _ in self.files:
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found:,} bytes, not {size:,}"
                raise ValueError(f"{path} {what}: copy it again, or make the dataset again.")
        self._files = threading.local()

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_files"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _files=threading.local())

    def view_count(self, index: int) -> int:
        return len(self.samples[index].sizes) - 1

    def inputs(self, index: int) -> list[int]:
        """Views of the near-horizontal ring, which can be inputs."""
        return list(self.samples[index].inputs)

    def read(self, index: int, views: Sequence[int]) -> Views:
        """The given views, in the given order; those that can't be read are left out with a
        warning.

        Raises:
            ValueError: not one can be read.
        """
        sample = self.samples[index]
        shard = self.files[sample.shard][0]
        c2w, fovy = self._facts(index)
        images, ids = [], []
        for view in views:
            try:
                picture = decode_picture(self._bytes(sample, 1 + view))
                if images and picture.shape != images[0].shape:
                    raise ValueError(f"size {picture.shape[-1]}, not {images[0].shape[-1]}")
            except DAMAGE as error:
                log.warning("View %d of %s can't be read (%s).", view, sample.name, error)
                continue
            images.append(picture)
            ids.append(int(view))
        if not images:
            raise ValueError(f"Of {sample.name!r} in {self.folder / shard} none of the views "
                             f"{list(views)} can be read: copy the shard again.")  # fmt: skip
        return Views(sample.name, torch.stack(images), c2w[ids], fovy, tuple(ids))

    def cameras(self, index: int) -> Tensor:
        """[V, 4, 4] of all views.

        Raises:
            ValueError: they can't be read.
        """
        return self._facts(index)[0]

    def _facts(self, index: int) -> tuple[Tensor, float]:
        sample = self.samples[index]
        try:
            facts = json.loads(self._bytes(sample, 0))
            c2w = torch.tensor(facts["c2w"], dtype=torch.float32)
            return c2w.view(self.view_count(index), 4, 4), float(facts["fovy"])
        except (*DAMAGE, RuntimeError) as error:
            path = self.folder / self.files[sample.shard][0]
            raise ValueError(f"The cameras of {sample.name!r} in {path} can't be read ({error}): "
                             "copy the shard again.") from error  # fmt: skip

    def verify(self) -> None:
        """Read everything and compare the checksums.

        Raises:
            ValueError: names the shard that differs.
        """
        for name, _, sha256 in self.files:
            if _sha256(self.folder / name).hexdigest() != sha256:
                raise ValueError(f"{self.folder / name} is damaged: copy it again.")

    def _bytes(self, sample: Sample, member: int) -> bytes:
        if not 0 <= member < len(sample.sizes):
            raise IndexError(f"{sample.name} has {len(sample.sizes) - 1} views, not {member}.")
        offset, size = sample.byte_range(member)
        file = self._open(sample.shard)
        file.seek(offset)
        data = file.read(size)
        if len(data) != size:
            raise ValueError(f"{len(data)} of {size} bytes")
        return data

    def _open(self, shard: int) -> io.BufferedIOBase:
        """A file of this thread's own: forked processes and threads must not share a position."""
        mine = vars(self._files)
        if mine.get("process") != os.getpid():
            mine.clear()
            mine["process"], mine["opened"] = os.getpid(), {}
        opened = mine["opened"]
        if shard not in opened:
            if len(opened) >= 32:  # far below any limit, also with many workers
                opened.pop(next(iter(opened))).close()
            opened[shard] = (self.folder / self.files[shard][0]).open("rb", buffering=0)
        return opened[shard]


def encode_picture(rgba: Tensor) -> bytes:
    """Lossless WebP of a picture [4, S, S] uint8. Colors where alpha is 0 become white.

    Half the size of PNG and decoded twice as fast; higher settings are slower and save little.
    """
    rgba = torch.where(rgba[3:] > 0, rgba, rgba.new_tensor([255, 255, 255, 0])[:, None, None])
    file = io.BytesIO()
    picture = Image.fromarray(rgba.movedim(0, -1).contiguous().numpy(), "RGBA")
    picture.save(file, "WEBP", lossless=True, method=2, quality=0, exact=True)
    return file.getvalue()


def decode_picture(data: bytes) -> Tensor:
    """[4, S, S] uint8."""
    with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as picture:
        pixels = np.array(picture if picture.mode == "RGBA" else picture.convert("RGBA"))
    return torch.from_numpy(pixels).movedim(-1, 0).contiguous()


def elevations(c2w: Tensor) -> Tensor:
    """Degrees above the horizon [V] of cameras [V, 4, 4]."""
    position = torch.nn.functional.normalize(c2w[:, :3, 3].double(), dim=-1)
    return torch.rad2deg(torch.asin(position[:, 1].clamp(-1, 1)))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _sample(fields: list) -> Sample:
    name, key, shard, start, sizes, suffix, inputs = fields
    return Sample(name, key, shard, start, array("I", sizes), suffix, tuple(inputs))


def _read_index(folder: Path) -> bytes:
    try:
        return (folder / INDEX).read_bytes()
    except OSError as error:
        if folder.is_dir() and any(folder.glob("shard-*")):
            raise ValueError(_unfinished(folder)) from error
        raise ValueError(f"{folder} holds no {INDEX}, so it is no dataset: make one with "
                         "`lgm dataset`.") from error  # fmt: skip


def _parse_index(data: bytes) -> dict:
    index = json.loads(data)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise ValueError(f"format {found!r}, needed is {FORMAT!r}")
    return index


def _unfinished(folder: Path) -> str:
    return f"The dataset in {folder} is unfinished: run the same `lgm dataset` command again."


def _sha256(path: Path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest
