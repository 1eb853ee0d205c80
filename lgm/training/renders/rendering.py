"""Renders objects with exact cameras, for the shards that `lgm dataset` writes.

Frame and cameras are those of `lgm.cameras`. Random choices about an object depend on its name
alone, hence neither the order nor the number of workers changes an image.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...cameras import FOVY, RADIUS, orbit_poses
from ..packs.read import UNREADABLE, read_model, reason_of
from ..procedural.objects import procedural_objects, random_lights
from ..rasterize import TriangleSoup, rasterize
from .shards import encode_picture

FILL = 0.85  # of the frame, in the tightest of the four level views
MAX_RADIUS = 0.62  # of the object: inside every camera's frame, at 1.5 * sin(49.1 / 2 degrees)
RING = (0.36, 0.72)  # of the views stand on the ring; of 100 those that the official code takes
RING_ELEVATIONS = (-10.0, 20.0)  # degrees, apart from the level views from four sides
ELEVATIONS = (-40.0, 70.0)  # of the other views
BATCHES = {"cpu": 2}  # views drawn at once: few, to stay within the CPU's caches


@dataclass(frozen=True)
class Rendered:
    """One object in V views, ready to be stored; or the reason why it failed."""

    name: str
    pictures: tuple[bytes, ...] = ()  # files of square pictures with alpha
    c2w: Tensor | None = None  # [V, 4, 4]
    fovy: float = FOVY
    ring: tuple[int, ...] = ()
    failure: str = ""


@dataclass(frozen=True)
class Settings:
    """How objects are rendered."""

    views: int = 100
    size: int = 512  # pixels a side
    up: str = "y"  # axis of the mesh files that points up
    device: str = "cpu"
    supersample: int = 2  # samples per pixel and axis


def render_mesh(name: str, folder: Path, settings: Settings) -> Rendered:
    """Render the object of a model file. If that fails, the result holds the reason."""
    try:
        soup = read_model(folder / name).soup(FILL)
        if settings.up == "z":
            soup = replace(soup, corners=_y_up(soup.corners), normals=_y_up(soup.normals))
        if not torch.isfinite(soup.corners).all():
            raise ValueError("its size or its place is not a number")
    except UNREADABLE as error:
        return Rendered(name, failure=reason_of(error))
    try:
        return render(name, soup, settings)
    except ValueError as error:
        return Rendered(name, failure=reason_of(error))


def render_procedural(name: str, settings: Settings) -> Rendered:
    """The object whose seed the name ends with."""
    return render(name, procedural_objects([int(name.rpartition("/")[2])]), settings)


def seed_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


def draw_cameras(name: str, count: int) -> tuple[Tensor, tuple[int, ...]]:
    """Poses [V, 4, 4] and which of them are on the near-horizontal ring.

    The ring's azimuths are evenly spaced; with 100 views it has 36, and its views from front, left,
    back and right are level, as at inference. The other views are spread evenly over the sphere.
    """
    generator = torch.Generator().manual_seed(seed_of(name))
    first = max(min(round(RING[0] * count), count - 4), 0)
    ring = tuple(range(first, min(max(round(RING[1] * count), first + 4), count)))
    low, high = (math.sin(math.radians(angle)) for angle in ELEVATIONS)
    heights = low + (high - low) * torch.rand(count, generator=generator)
    azimuths = 360 * torch.rand(count, generator=generator)
    elevations = torch.rad2deg(torch.asin(heights))
    around = torch.arange(len(ring)) * 360 / len(ring)
    low, high = RING_ELEVATIONS
    lifted = low + (high - low) * torch.rand(len(ring), generator=generator)
    azimuths[list(ring)] = around
    elevations[list(ring)] = torch.where(around % 90 == 0, 0.0, lifted)
    return orbit_poses(azimuths, elevations), ring


@torch.no_grad()
def render(name: str, soup: TriangleSoup, settings: Settings) -> Rendered:
    """Render a soup of one centered object; it is scaled down if a camera would cut it off."""
    if soup.count != 1 or not len(soup.corners):
        raise ValueError("it has no triangles")
    reach = float(soup.corners.norm(dim=-1).max())
    soup = replace(soup, corners=soup.corners * min(1, MAX_RADIUS / max(reach, 1e-9)))
    soup = soup.to(settings.device)
    poses, ring = draw_cameras(name, settings.views)
    lights = random_lights(seed_of(name) % 2**31, 1).to(settings.device)
    pictures, shown = [], 0
    for c2w in poses.split(BATCHES.get(settings.device, 8)):
        drawn = rasterize(soup, lights, c2w[None], settings.size, supersample=settings.supersample)
        alphas, images = drawn.alphas[0], drawn.images[0]
        straight = (images - 1 + alphas) / alphas.clamp(min=1e-6)
        rgba = torch.cat([straight, alphas], dim=1).clamp(0, 1).mul(255).round().byte().cpu()
        shown += int((rgba[:, 3] > 0).flatten(1).any(1).sum())
        pictures += map(encode_picture, rgba)
    if shown < settings.views / 2:  # a plate may vanish where it is seen edge-on
        raise ValueError(f"it can't be seen in {settings.views - shown} of {settings.views} views")
    return Rendered(name, tuple(pictures), poses, FOVY, ring)


def _y_up(vectors: Tensor) -> Tensor:
    """Vectors [..., 3] of a z-up world (Blender, CAD) in ours; the front turns from -y to +z."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


def in_order(
    function: Callable[[str], Rendered], names: Iterable[str], workers: int
) -> Generator[Rendered, None, None]:
    """Results of `function` for every name, in order, computed by several processes.

    Raises:
        RuntimeError: a process was killed.
    """
    if workers <= 1:
        yield from map(function, names)
        return
    # A forked process would inherit locks that threads of this one hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker)
    pending: deque = deque()
    try:
        for name in names:
            pending.append(pool.submit(function, name))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "A worker was killed, maybe for want of memory: run the command again with fewer "
            "--workers; it goes on where it was."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process tidies up
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the main process was killed; else it would wait forever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def mesh_renderer(folder: Path, settings: Settings) -> Callable[[str], Rendered]:
    """`render_mesh` for one folder, to be sent to workers.

    Raises:
        ImportError: a package it needs is missing.
    """
    for package in ("numba", "trimesh"):
        _need(package)
    return partial(render_mesh, folder=folder, settings=settings)


def procedural_renderer(settings: Settings) -> Callable[[str], Rendered]:
    """`render_procedural`, to be sent to workers."""
    _need("numba")
    return partial(render_procedural, settings=settings)


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"Rendering objects needs {package}, which is missing: pip install it.")


def made_from(source: str, settings: Settings) -> dict:
    """The settings that all objects of one dataset share."""
    return {"source": source, "views": settings.views, "size": settings.size, "up": settings.up,
            "radius": RADIUS, "fovy": FOVY}  # fmt: skip
