"""Checks a dataset's cameras by reprojection: do all silhouettes of an object fit one solid?

Points inside every silhouette form the visual hull. With correct cameras it contains the object,
and its projection covers every silhouette. With wrong ones (a wrong axis, an inverted matrix,
another field of view) the silhouettes disagree, and the hull loses parts or vanishes. The outlines
are lost first, therefore only they are counted.

A rotation or scale of the whole world changes no silhouette: the up axis and the distance are
checked separately. Bodies of revolution hide mistakes, therefore several objects are checked. Frame
and cameras are those of `lgm.cameras`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ...cameras import RADIUS
from .shards import Shards, Views

ENOUGH = 0.95  # right cameras reach 0.998; ones off by a pixel of 512 about 0.97
SIZE = 256  # pixels a side of the silhouettes compared
VIEWS = 16  # of an object
PIXELS = 400  # tested per view
GUESS_PIXELS = 40
DEPTHS = 320  # tested per pixel: half a step is less than a pixel in any view
FEWEST = 60  # pixels of outline that a verdict needs
REACH = 1.0  # the object's distance from the origin, at most
NEAR = 0.05  # nothing is closer to a camera
FIELDS_OF_VIEW = (20, 25, 30, 33.4, 35, 39.6, 42.5, 45, 47.1, 49.1, 51, 53.1, 56, 60, 70, 80, 90)
OPENCV = (1, -1, -1)  # camera axes: y down, looks along +z
PYTORCH3D = (-1, 1, -1)  # x to the left, looks along +z
Z_UP = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # to y-up
TILE, GAP, SHOWN = 144, 18, 6  # pixels of the picture's parts; views of an object in it
RAYS = 48  # across a part of the picture


@dataclass(frozen=True)
class Silhouettes:
    """Silhouettes of V images of one object, and their stated cameras."""

    name: str
    solid: Tensor  # [V, S, S] bool: the object fills the pixel
    outline: Tensor  # [V, S, S] bool: the solid's outer pixels
    touched: Tensor  # [V, S, S] bool: the object is somewhere in the pixel
    cut: Tensor  # [V] bool: the object reaches the border, so some of it may be outside
    c2w: Tensor  # [V, 4, 4] float32
    fovy: float  # degrees

    @classmethod
    def of(cls, views: Views) -> Silhouettes:
        """The silhouettes of some views; empty ones are left out."""
        alphas = views.images[:, 3:].float() / 255
        size = min(SIZE, max(alphas.shape[-1] // 2, 1))  # halved, gaps in aliased lines close
        solid = F.interpolate(alphas, size, mode="area")[:, 0] > 0.9
        seen = solid.flatten(1).sum(1) >= 4
        if not ((alphas > 0.02) & (alphas < 0.98)).any():
            alphas = F.max_pool2d(alphas, 3, stride=1, padding=1)  # a mask, good to a pixel
        touched = F.adaptive_max_pool2d(alphas, size)[:, 0] > 0.02
        inner = -F.max_pool2d(-solid[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
        cut = touched[:, 1:-1, 1:-1].flatten(1).sum(1) < touched.flatten(1).sum(1)
        parts = (part[seen] for part in (solid, solid & ~inner, touched, cut, views.c2w.float()))
        return cls(views.name, *parts, views.fovy)


def check_cameras(shards: Shards, count: int = 8, picture: Path | None = None) -> float:
    """Check the cameras of some objects of a dataset; returns the worst one's coverage, 0..1.

    Args:
        count: how many objects, evenly spread.
        picture: where to draw what is wrong, if anything is.

    Raises:
        ValueError: names the wrong cameras and, if one explains them, the likely mistake.
    """
    chosen = np.linspace(0, len(shards) - 1, min(count, len(shards))).round().astype(int)
    objects = [shards.read(i, spread(shards.view_count(i), VIEWS)) for i in chosen.tolist()]
    ring = shards.read(0, shards.inputs(0)).c2w
    distance = float(ring[:, :3, 3].norm(dim=1).median())
    if abs(distance - RADIUS) > 0.02 * RADIUS:
        raise ValueError(
            f"The cameras of {shards.names[0]!r} are {distance:.3g} from the origin, needed is "
            f"{RADIUS}: scale their positions, or make the dataset with `lgm dataset --renders`."
        )
    return check_objects(objects, picture)


def check_objects(objects: Sequence[Views], picture: Path | None = None) -> float:
    """`check_cameras` for given objects, each with about a dozen views."""
    silhouettes = [Silhouettes.of(views) for views in objects]
    silhouettes = [each for each in silhouettes if int(each.outline.sum()) >= FEWEST]
    if not silhouettes:
        names = ", ".join(views.name for views in objects)
        raise ValueError(
            f"The pictures of {names} show hardly anything solid, so that the cameras can't be "
            "checked: look at their alpha."
        )
    found = [coverage(each) for each in silhouettes]
    worst = min(found)
    if worst >= ENOUGH:
        _check_up(objects)
        return worst
    order = sorted(range(len(found)), key=found.__getitem__)
    guess = guess_mistake([silhouettes[i] for i in order[:2] if found[i] < ENOUGH])
    message = (
        f"The cameras of {silhouettes[order[0]].name!r} don't fit its pictures: {worst:.0%} of the "
        f"outlines agree, needed are {ENOUGH:.0%}; {guess}"
    )
    if picture:
        shown = order if len(order) < 4 else [*order[:3], order[-1]]
        draw([(silhouettes[i], found[i]) for i in shown]).save(picture)
        message += f" (see {picture})"
    raise ValueError(message + ".")


def _check_up(objects: Sequence[Views]) -> None:
    up = torch.cat([views.c2w[:, :3, 1] for views in objects]).mean(0)
    if up.norm() > 0.2 and up[1] < 0.5 * up.norm():
        axis = int(up.abs().argmax())
        raise ValueError(
            f"The world's up axis has to be +y, but the cameras' own up directions point to "
            f"{'-' if up[axis] < 0 else '+'}{'xyz'[axis]}: convert the dataset again with the "
            "other --up, or check the axes of the camera files."
        )


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` views, evenly spread."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()


def coverage(views: Silhouettes, pixels: int = PIXELS) -> float:
    """The share of the outlines' pixels that see the visual hull, 0..1."""
    generator = torch.Generator().manual_seed(0)
    covered = total = 0
    for view in range(len(views.c2w)):
        outline = views.outline[view].nonzero()
        if len(outline) > pixels:
            outline = outline[torch.randperm(len(outline), generator=generator)[:pixels]]
        covered += int(sees_hull(views, view, outline).sum())
        total += len(outline)
    return covered / total if total else 0.0


@torch.no_grad()
def sees_hull(views: Silhouettes, view: int, pixels: Tensor) -> Tensor:
    """bool [P]: is anywhere on the rays through pixels [P, 2] (row, column) a point that all other
    views see the object at?"""
    size, slope = views.touched.shape[-1], math.tan(math.radians(views.fovy) / 2)
    pose = views.c2w[view]
    distance = float(pose[:3, 3].norm())
    depths = torch.linspace(max(distance - REACH, NEAR), distance + REACH, DEPTHS)
    y, x = ((pixels.float() + 0.5) / size * 2 - 1).unbind(1)
    rays = torch.stack([x * slope, -y * slope, -torch.ones_like(x)], dim=1) @ pose[:3, :3].T
    points = (pose[:3, 3] + rays[:, None] * depths[:, None]).flatten(0, 1)
    alive = (points.abs().amax(1) < REACH).nonzero()[:, 0]
    # Views from the side rule out most, so they come first.
    for other in (views.c2w[:, :3, 2] @ pose[:3, 2]).abs().argsort().tolist():
        if other != view:
            local = (points[alive] - views.c2w[other, :3, 3]) @ views.c2w[other, :3, :3]
            alive = alive[_shown(views, other, local, slope)]
    hit = torch.zeros(len(pixels), dtype=torch.bool)
    hit[alive // DEPTHS] = True
    return hit


def _shown(views: Silhouettes, view: int, local: Tensor, slope: float) -> Tensor:
    """bool [P]: does a view see the object at points [P, 3] given in its own axes?"""
    size = views.touched.shape[-1]
    depth = -local[:, 2]
    scale = size / 2 / (slope * depth.clamp(min=NEAR))
    column = (local[:, 0] * scale + size / 2).floor()
    row = (size / 2 - local[:, 1] * scale).floor()
    framed = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    pixel = row.clamp(0, size - 1) * size + column.clamp(0, size - 1)
    shown = views.touched[view].flatten()[pixel.long()]
    return (depth > NEAR) & torch.where(framed, shown, views.cut[view])


def guess_mistake(objects: Sequence[Silhouettes]) -> str:
    """A clause that names the usual mistake that explains the disagreement, if one does."""
    best, words = 0.0, ""
    for reason, changed in zip(*_corrections(objects), strict=True):
        found = min(coverage(views, GUESS_PIXELS) for views in changed)
        if found > best + 0.002:  # of two that explain it alike the more usual one
            best, words = found, reason
    if best < ENOUGH:
        return "none of the usual mistakes explains it"
    return f"they would fit if {words}"


def _corrections(objects: Sequence[Silhouettes]) -> tuple[list[str], Iterator[list[Silhouettes]]]:
    """Possible mistakes, the most usual first, and for each the objects with it undone."""
    names, poses, fields = [], [], []
    for name, change in _pose_changes():
        names.append(name)
        poses.append(change)
    for fovy in FIELDS_OF_VIEW:
        names.append(
            f"the field of view were about {fovy} degrees instead of {objects[0].fovy:.4g}"
        )
        fields.append(fovy)

    def changed() -> Iterator[list[Silhouettes]]:
        for change in poses:
            yield [replace(views, c2w=change(views.c2w)) for views in objects]
        for fovy in fields:
            yield [replace(views, fovy=fovy) for views in objects]

    return names, changed()


def _pose_changes() -> Iterator[tuple]:
    """Names of mistakes and functions [V, 4, 4] -> [V, 4, 4] that undo them.

    What was read may have gone through a change of axes, so inverses and transposes are tried with
    and without; a turn of the world from the left makes no difference to the check.
    """
    flips = torch.diag(torch.tensor(OPENCV, dtype=torch.float32))
    identity = torch.eye(3)
    yield "the camera axes were OpenGL's instead of OpenCV's, or the reverse", _turned(flips)
    for world in (identity, Z_UP):
        for axes in (identity, flips):
            yield "the matrices were inverted (world-to-camera)", _inverted(world @ axes)
    for world in (identity, Z_UP):
        for axes in (identity, flips):
            yield "the rotations were transposed", _transposed(world @ axes)
    yield "the azimuth were counted the other way (mirrored)", _mirrored((-1, 1, 1))
    yield "the elevation were counted the other way", _mirrored((1, -1, 1))
    for turn in (Z_UP, Z_UP.T):
        yield "y and z of the positions were swapped", _moved(turn)
    axes = torch.diag(torch.tensor(PYTORCH3D, dtype=torch.float32))
    yield "the camera axes were PyTorch3D's", _turned(axes)
    yield "all cameras stood at one distance", _equidistant


def _turned(axes: Tensor):
    return lambda c2w: _pose(c2w[:, :3, :3] @ axes, c2w[:, :3, 3])


def _inverted(axes: Tensor):
    def change(c2w: Tensor) -> Tensor:
        inverse = torch.linalg.inv(c2w)
        return _pose(inverse[:, :3, :3] @ axes, inverse[:, :3, 3])

    return change


def _transposed(axes: Tensor):
    return lambda c2w: _pose(axes @ c2w[:, :3, :3].mT @ axes, c2w[:, :3, 3])


def _mirrored(signs: tuple[int, int, int]):
    mirror = torch.diag(torch.tensor(signs, dtype=torch.float32))
    return lambda c2w: _pose(mirror @ c2w[:, :3, :3] @ mirror, c2w[:, :3, 3] @ mirror)


def _moved(turn: Tensor):
    return lambda c2w: _pose(c2w[:, :3, :3], c2w[:, :3, 3] @ turn.T)


def _equidistant(c2w: Tensor) -> Tensor:
    distances = c2w[:, :3, 3].norm(dim=1, keepdim=True)
    return _pose(c2w[:, :3, :3], c2w[:, :3, 3] * (distances.median() / distances))


def _pose(rotations: Tensor, positions: Tensor) -> Tensor:
    poses = torch.eye(4).repeat(len(rotations), 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = rotations, positions
    return poses


def draw(objects: Sequence[tuple[Silhouettes, float]]) -> Image.Image:
    """A row per object: its silhouettes orange, the hull's projection blue, both together gray."""
    picture = Image.new("RGB", (SHOWN * TILE, len(objects) * (TILE + GAP) + GAP), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((4, 3), "gray: fits   orange: in the picture only   blue: visual hull only", "black")
    for row, (views, found) in enumerate(objects):
        top = GAP + row * (TILE + GAP)
        verdict = "good" if found >= ENOUGH else "BAD"
        text = f"{verdict}: {found:.0%} of the outlines of {views.name}"
        pen.text((4, top + 3), text.encode("ascii", "replace").decode(), "black")
        for column, view in enumerate(spread(len(views.c2w), SHOWN)):
            tile = Image.fromarray(_tile(views, view)).resize((TILE, TILE), Image.NEAREST)
            picture.paste(tile, (column * TILE, top + GAP))
    return picture


def _tile(views: Silhouettes, view: int) -> np.ndarray:
    """uint8 [RAYS, RAYS, 3]"""
    size = views.solid.shape[-1]
    lines = ((torch.arange(RAYS) + 0.5) * size / RAYS).long()
    pixels = torch.cartesian_prod(lines, lines)
    hull = sees_hull(views, view, pixels).view(RAYS, RAYS).numpy()
    shown = views.touched[view][lines][:, lines].numpy()
    return np.select(
        [(shown & hull)[..., None], shown[..., None], hull[..., None]],
        [np.uint8([150, 150, 150]), np.uint8([240, 120, 0]), np.uint8([60, 110, 240])],
        np.uint8([255, 255, 255]),
    )
