"""Reads rendered datasets of other projects, and converts them to our conventions.

* `gobjaverse`: folders of G-buffer Objaverse, `<object>/campos_512_v4/00000/00000.png` (color with
  alpha) and `00000.json` (`x`, `y`, `z`: the camera's axes in OpenCV's sense; `origin`, `x_fov`) in
  Blender's z-up world. Its other buffers (albedo, normals, depth) are not read.
* `blender`: `transforms*.json` as NeRF datasets have them: `camera_angle_x`, or `fl_x` and `w`;
  `frames` with `file_path` and `transform_matrix` (OpenGL axes). The world is z-up unless said
  otherwise.
* `lgm`: the layout of the official training code: `rgb/000.png`, `pose/000.txt` with 16 numbers
  (OpenCV axes, Blender's z-up world), 49.1 degrees.

The result has the frame and cameras of `lgm.cameras`. It is scaled to a median distance of 1.5 of
the views that can be inputs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...cameras import FOVY, RADIUS
from ..packs.read import UNREADABLE
from .cameras_check import VIEWS, check_objects, spread
from .rendering import Rendered
from .shards import Views, decode_picture, elevations, encode_picture

LAYOUTS = ("gobjaverse", "blender", "lgm")
CAMPOS = "campos_512_v4"
RING_ELEVATION = 30.0  # degrees: views below it can be inputs
PICTURE_SUFFIXES = ("", ".png", ".webp")  # tried behind a file_path
OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
Z_UP_TO_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Frame:
    """A picture and its camera, as the files state them."""

    picture: Path
    c2w: np.ndarray  # [4, 4], OpenGL axes, y-up world, any scale
    fovx: float  # degrees


def find_renders(folder: Path, layout: str = "auto") -> tuple[str, list[str]]:
    """The layout, and the names of the objects in it: their paths below the folder, sorted.

    Raises:
        ValueError: there is nothing of a known layout, or there are several.
    """
    found: dict[str, list[str]] = {}
    wanted = LAYOUTS if layout == "auto" else (layout,)
    for directory, folders, files in os.walk(folder):
        folders.sort()
        for each in wanted:
            if _is_object(each, Path(directory), folders, files):
                found.setdefault(each, []).append(Path(directory).relative_to(folder).as_posix())
                folders.clear()  # nothing below belongs to another object
                break
    if len(found) != 1:
        what = " and ".join(sorted(found)) or "none"
        raise ValueError(
            f"{folder} has to hold renders of one layout ({', '.join(wanted)}), found are {what}: "
            "see `lgm dataset --help`, and name one with --layout."
        )
    ((layout, names),) = found.items()
    return layout, sorted(names)


def _is_object(layout: str, directory: Path, folders: list[str], files: list[str]) -> bool:
    if layout == "gobjaverse":
        numbered = "00000" in folders and (directory / "00000" / "00000.json").exists()
        return numbered or CAMPOS in folders
    if layout == "lgm":
        return "rgb" in folders and "pose" in folders
    return any(_is_transforms(name) for name in files)


def _is_transforms(name: str) -> bool:
    return name.startswith("transforms") and name.endswith(".json")


def render_reader(folder: Path, layout: str, up: str = "z") -> Callable[[str], Rendered]:
    """`read_render` for one folder, to be sent to workers."""
    return partial(read_render, folder=folder, layout=layout, up=up)


def read_render(name: str, folder: Path, layout: str, up: str = "z") -> Rendered:
    """Read an object of a rendered dataset. If that fails, the result holds the reason."""
    directory = folder / name
    label = folder.resolve().name if name == "." else name
    try:
        frames = list(_frames(layout, directory, up))
        if not frames:
            raise ValueError("it has no views")
        fovx = {round(frame.fovx, 3) for frame in frames}
        if len(fovx) > 1:
            raise ValueError(f"its views have different fields of view ({sorted(fovx)} degrees)")
        pictures = _pictures(frames, directory)
        c2w, ring = normalize(torch.from_numpy(np.stack([frame.c2w for frame in frames])))
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Rendered(label, failure=reason[:300])
    return Rendered(label, pictures, c2w, frames[0].fovx, ring)


def _frames(layout: str, directory: Path, up: str) -> Iterator[Frame]:
    if layout == "gobjaverse":
        return _gobjaverse(directory / CAMPOS if (directory / CAMPOS).is_dir() else directory)
    return _lgm(directory) if layout == "lgm" else _blender(directory, up)


def _gobjaverse(directory: Path) -> Iterator[Frame]:
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        camera = _json(folder / f"{folder.name}.json")
        matrix = np.eye(4)
        for column, key in enumerate(("x", "y", "z", "origin")):
            matrix[:3, column] = _need(camera, key, folder / f"{folder.name}.json")
        fov = float(_need(camera, "x_fov", folder / f"{folder.name}.json"))
        fov = math.degrees(fov) if fov < math.pi else fov
        yield Frame(folder / f"{folder.name}.png", Z_UP_TO_Y_UP @ matrix @ OPENCV_TO_OPENGL, fov)


def _lgm(directory: Path) -> Iterator[Frame]:
    poses = sorted((directory / "pose").glob("*.txt"))
    pictures = {path.stem for path in (directory / "rgb").glob("*.png")}
    lonely = sorted(pictures ^ {path.stem for path in poses})
    if lonely:
        raise ValueError(f"view {lonely[0]} lacks its picture (rgb) or its camera (pose)")
    for path in poses:
        numbers = [float(word) for word in path.read_text().split()]
        if len(numbers) != 16:
            raise ValueError(f"{path.name} has {len(numbers)} numbers, a camera has 16")
        matrix = _matrix(numbers, path)
        yield Frame(
            directory / "rgb" / f"{path.stem}.png", Z_UP_TO_Y_UP @ matrix @ OPENCV_TO_OPENGL, FOVY
        )


def _blender(directory: Path, up: str) -> Iterator[Frame]:
    world = Z_UP_TO_Y_UP if up == "z" else np.eye(4)
    for path in sorted(path for path in directory.iterdir() if _is_transforms(path.name)):
        camera = _json(path)
        for frame in _need(camera, "frames", path):
            facts = {**camera, **frame}  # some exporters write the lens into every frame
            matrix = _matrix(_need(facts, "transform_matrix", path), path)
            picture = directory / str(_need(facts, "file_path", path)).replace("\\", "/")
            found = (picture.with_name(picture.name + suffix) for suffix in PICTURE_SUFFIXES)
            picture = next((each for each in found if each.is_file()), picture)
            yield Frame(picture, world @ matrix, _fovx(facts, path))


def _fovx(facts: dict, path: Path) -> float:
    """The horizontal field of view in degrees; only centered lenses without distortion are read."""
    bent = [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if abs(facts.get(key, 0)) > 1e-4]
    if bent:
        raise ValueError(f"{path.name} states a distorted lens ({', '.join(bent)}): undistort it")
    if "w" in facts and "h" in facts:
        off = max(abs(facts.get("cx", facts["w"] / 2) / facts["w"] - 0.5),
                  abs(facts.get("cy", facts["h"] / 2) / facts["h"] - 0.5))  # fmt: skip
        if off > 0.005:
            raise ValueError(f"{path.name} states an optical axis off the picture's middle")
    if "fl_x" in facts and "w" in facts:
        if abs(facts.get("fl_y", facts["fl_x"]) / facts["fl_x"] - 1) > 0.01:
            raise ValueError(f"{path.name} states pixels that aren't square (fl_x, fl_y)")
        return math.degrees(2 * math.atan(facts["w"] / (2 * facts["fl_x"])))
    if "camera_angle_x" not in facts:
        raise ValueError(f"{path.name} has no camera_angle_x, nor fl_x and w")
    return math.degrees(facts["camera_angle_x"])


def _json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON file ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return found


def _need(facts: dict, key: str, path: Path):
    if key not in facts:
        raise ValueError(f"{path.name} has no {key}")
    return facts[key]


def _matrix(numbers, path: Path) -> np.ndarray:
    matrix = np.asarray(numbers, dtype=float)
    if matrix.size == 12:
        matrix = np.vstack([matrix.reshape(3, 4), [0, 0, 0, 1]])
    if matrix.size != 16:
        raise ValueError(f"{path.name} has a camera of {matrix.size} numbers, not 16")
    matrix = matrix.reshape(4, 4)
    last = np.array([0, 0, 0, 1])
    if not np.allclose(matrix[3], last) and np.allclose(matrix[:, 3], last):
        raise ValueError(f"{path.name} has transposed matrices: their last column is 0 0 0 1")
    return matrix


def normalize(c2w: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Poses [V, 4, 4] scaled to the usual distance, and the views that can be inputs.

    Raises:
        ValueError: a pose is not a rotation and a position.
    """
    turn = c2w[:, :3, :3]
    error = (turn @ turn.mT - torch.eye(3, dtype=c2w.dtype)).abs().amax()
    if not (torch.isfinite(c2w).all() and error < 1e-3):
        raise ValueError("its camera matrices hold more than a rotation and a position")
    if (torch.linalg.det(turn) < 0).any():
        raise ValueError("its cameras are mirrored: an axis has the wrong sign, or two are swapped")
    ring = (elevations(c2w).abs() < RING_ELEVATION).nonzero()[:, 0].tolist()
    ring = ring or list(range(len(c2w)))
    distance = c2w[ring, :3, 3].norm(dim=1).median()
    if not distance > 1e-6:
        raise ValueError("its cameras stand in the origin, where the object should be")
    scaled = c2w.clone()
    scaled[:, :3, 3] *= RADIUS / distance
    return scaled.float(), tuple(ring)


def _pictures(frames: list[Frame], directory: Path) -> tuple[bytes, ...]:
    """Lossless files of square pictures of one size."""
    pictures, size, opaque = [], None, True
    for frame in frames:
        name = os.path.relpath(frame.picture, directory)
        if not frame.picture.is_file():
            raise ValueError(f"{name} is missing")
        try:
            with Image.open(frame.picture) as picture:
                picture.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{name} can't be read ({error})") from error
        if "A" not in picture.getbands() and "transparency" not in picture.info:
            raise ValueError(f"{name} has no alpha")
        if picture.width != picture.height:
            raise ValueError(f"{name} has {picture.width}x{picture.height} pixels, not a square")
        if size not in (None, picture.size):
            raise ValueError(f"{name} has {picture.width} pixels a side, others {size[0]}")
        size = picture.size
        rgba = torch.from_numpy(np.array(picture.convert("RGBA"))).movedim(-1, 0)
        opaque &= bool((rgba[3] == 255).all())
        pictures.append(encode_picture(rgba))
    if opaque:
        raise ValueError("its pictures are opaque everywhere: their alpha has to show the object")
    return tuple(pictures)


def check_renders(
    read: Callable[[str], Rendered], names: list[str], picture: Path, count: int = 8
) -> None:
    """Check the cameras of some of the objects before all are converted.

    Raises:
        ValueError: they are wrong.
    """
    found = []
    for name in (names[i] for i in spread(len(names), count)):
        rendered = read(name)
        if not rendered.failure:
            ids = spread(len(rendered.pictures), VIEWS)
            images = torch.stack([decode_picture(rendered.pictures[i]) for i in ids])
            found.append(Views(rendered.name, images, rendered.c2w[ids], rendered.fovy, tuple(ids)))
    if found:
        check_objects(found, picture)
