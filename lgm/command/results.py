"""What `demo` and `generate` write: splat, mesh, video, pictures and the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from .. import io
from ..cameras import input_poses, orbit_poses
from ..gaussians import Gaussians
from ..io.spz import write_spz
from ..network.fit import STEPS
from ..pictures import encode
from ..pictures.matte import load_views
from ..pictures.resample import composite_on_white
from ..pictures.views import VIEW_CAPTIONS, view_files
from ..render.turntable import draw, turntable
from .page import DemoMesh, DemoPage, DemoViewer, viewer_code

if TYPE_CHECKING:
    from ..mesh import Mesh
    from ..network.model import LGM

NOVEL_VIEWS = tuple(
    (azimuth, elevation) for elevation in (0, 30) for azimuth in (45, 135, 225, 315)
)
NOVEL_CAPTIONS = tuple(f"{azimuth}°, {elevation}° up" for azimuth, elevation in NOVEL_VIEWS)
DEMO_SIZE, DEMO_FRAMES = 384, 96  # pixels; 3.2 s at 30 frames a second
TURNTABLE_ELEVATION = 15  # degrees
DEMO_MESH: dict[str, Any] = {
    "faces": 20_000,
    "texture_size": 1024,
    "resolution": 160,
    "views": 24,
}  # for 1 MB
MESH_CAMERA = (30, 15)  # degrees: azimuth, elevation
SPRITE_COLUMNS = 8  # frames per row of the picture on the page that turns when dragged


@dataclass
class Stages:
    """Names and wall-clock seconds of the steps of a task."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def table(self) -> str:
        rows = [*self.seconds.items(), ("total", sum(self.seconds.values()))]
        return "\n".join(f"{name:<24}{seconds:8.2f} s" for name, seconds in rows)


def demo(
    model: LGM, object_folder: Path, out: Path, stages: Stages, progress: Callable = iter
) -> None:
    """Reconstruct the object in `object_folder` and write what there is to see into `out`; see
    `write_results`.
    """
    with stages.stage("read four views"):
        views = load_views(view_files(object_folder), model.preset.input_size)
    title = object_folder.name.replace("_", " ").capitalize()
    credits = _credits(object_folder)
    write_results(model, views, out, stages, title, credits, fit=STEPS, progress=progress)


def write_results(
    model: LGM,
    views: Tensor,
    out: Path,
    stages: Stages,
    title: str,
    credits: str = "",
    elevation: float = 0.0,
    with_mesh: bool = True,
    fit: int = 0,
    progress: Callable = iter,
) -> None:
    """Reconstruct the object in four views and write what there is to see into `out`.

    Args:
        views: [4, 3, H, W], or with alpha, at azimuth 0, 90, 180, 270.
        out: an existing folder; gets splat.ply, views.png, novel.png, turntable.mp4, perhaps
            mesh.glb, and index.html, which shows all of these.
        stages: gets the time of every step.
        elevation: degrees above the horizon the views are from.
        fit: steps that fit the Gaussians to the views, see `LGM.fit`.
        progress: wraps an iterable, for a progress bar.
    """
    poses = input_poses(elevation)
    with stages.stage("reconstruct"):
        gaussians = model.reconstruct(views, poses)
    if fit:
        with stages.stage("fit to the views"):
            gaussians = model.fit(gaussians, views, poses, steps=fit)
    with stages.stage("write the splat"):
        io.write_splat_file(out / "splat.ply", gaussians)
    with stages.stage("ready the renderer"):  # it compiles, the first time on a machine
        next(draw(gaussians, orbit_poses([0.0]), 32))
    with stages.stage("render 8 novel views"):
        azimuths, elevations = (list(angles) for angles in zip(*NOVEL_VIEWS, strict=True))
        novel = list(draw(gaussians, orbit_poses(azimuths, elevations), DEMO_SIZE))
    with stages.stage(f"render {DEMO_FRAMES} frames"):
        frames = list(progress(turntable(gaussians, DEMO_FRAMES, DEMO_SIZE, TURNTABLE_ELEVATION)))
    solid = write_mesh(gaussians, out / "mesh.glb", stages) if with_mesh else None
    with stages.stage("encode pictures, video"):
        shown = composite_on_white(views) if views.shape[1] == 4 else views
        movie = encode.mp4(frames)
        (out / "turntable.mp4").write_bytes(movie)
        (out / "views.png").write_bytes(encode.png(encode.contact_sheet(shown, columns=4)))
        (out / "novel.png").write_bytes(encode.png(encode.contact_sheet(novel, columns=4)))
        code = viewer_code()
        spz = write_spz(None, gaussians)
        viewer = DemoViewer(code, spz, TURNTABLE_ELEVATION, not elevation) if code else None
    sprite = frames[::2]
    page = DemoPage(
        title=title,
        gaussian_count=gaussians.count,
        views=dict(zip(VIEW_CAPTIONS, map(encode.jpeg, shown), strict=True)),
        novel=dict(zip(NOVEL_CAPTIONS, map(encode.jpeg, novel), strict=True)),
        sprite=encode.jpeg(encode.contact_sheet(sprite, SPRITE_COLUMNS), quality=82),
        sprite_frames=len(sprite),
        sprite_columns=SPRITE_COLUMNS,
        turntable=movie,
        mesh=solid,
        seconds=stages.seconds,
        credits=credits,
        viewer=viewer,
    )
    (out / "index.html").write_text(page.html(), encoding="utf-8")


def write_mesh(gaussians: Gaussians, path: Path, stages: Stages) -> DemoMesh:
    """Extract the mesh of the splat, write it to `path`, and draw it for the page."""
    from ..mesh import extract  # here, since it's slow to import

    with stages.stage("extract the mesh"):
        mesh = extract(gaussians, **DEMO_MESH)
    with stages.stage("write, draw the mesh"):
        glb = mesh.export(path)
        pictures = mesh_pictures(mesh, gaussians)
    shown = {caption: encode.jpeg(picture) for caption, picture in pictures.items()}
    assert mesh.texture is not None  # a size was asked for
    size = len(mesh.texture)
    return DemoMesh(glb, mesh.face_count, size, shown["The mesh"], shown, *MESH_CAMERA)


def mesh_pictures(mesh: Mesh, gaussians: Gaussians) -> dict[str, Tensor]:
    """The splat, its textured mesh, the bare shape and the texture, [3, DEMO_SIZE, DEMO_SIZE]."""
    from ..mesh.draw import draw_mesh

    assert mesh.normals is not None and mesh.texture is not None  # it was painted
    azimuth, elevation = MESH_CAMERA
    pose = orbit_poses([azimuth], elevation)
    bare = replace(mesh, texture=None, vertex_colors=0.5 + 0.5 * mesh.normals)
    return {
        "The splat": next(draw(gaussians, pose, DEMO_SIZE)),
        "The mesh": draw_mesh(mesh, pose, DEMO_SIZE)[0][0],
        "Its shape, by normals": draw_mesh(bare, pose, DEMO_SIZE)[0][0],
        "Its texture": F.interpolate(mesh.texture.movedim(-1, 0)[None], DEMO_SIZE, mode="area")[0],
    }


def _credits(object_folder: Path) -> str:
    path = object_folder / "CREDITS.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
