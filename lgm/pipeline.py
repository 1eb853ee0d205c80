"""The whole way, one readable function per task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from . import io, video
from .cameras import input_poses, orbit_poses
from .gaussians import Gaussians
from .page import DemoMesh, DemoPage
from .preprocess import Matte, composite_on_white, load_views
from .turntable import draw, turntable

if TYPE_CHECKING:
    from .mesh import Mesh
    from .model import LGM

VIEW_FILES = ("0.png", "90.png", "180.png", "270.png")
NOVEL_VIEWS = tuple(
    (azimuth, elevation) for elevation in (0, 30) for azimuth in (45, 135, 225, 315)
)
NOVEL_CAPTIONS = tuple(f"{azimuth}°, {elevation}° up" for azimuth, elevation in NOVEL_VIEWS)
VIEW_CAPTIONS = ("0°, front", "90°, its own left", "180°, back", "270°, its own right")
DEMO_SIZE, DEMO_FRAMES = 384, 96  # pixels; 3.2 s at 30 frames a second
DEMO_MESH = {"faces": 20_000, "texture_size": 1024, "resolution": 160, "views": 24}  # for 1 MB
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


def view_files(folder: Path) -> list[Path]:
    """The four pictures of an object's folder, by azimuth.

    Raises:
        ValueError: some are missing.
    """
    missing = [name for name in VIEW_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} needs {', '.join(VIEW_FILES)}; missing: {', '.join(missing)}.")
    return [folder / name for name in VIEW_FILES]


def example_objects() -> dict[str, Path]:
    """Folders with four views of a real object: name -> folder.

    A checkout holds them in example_workflows/inputs, an installed package inside itself.
    """
    here = Path(__file__).resolve().parent
    for root in (here / "assets" / "inputs", here.parent / "example_workflows" / "inputs"):
        folders = sorted(path.parent for path in root.glob(f"*/{VIEW_FILES[0]}"))
        if folders:
            return {folder.name: folder for folder in folders}
    return {}


def reconstruct_files(
    model: LGM, paths: Sequence[str | Path], elevation: float = 0.0, matte: Matte = "auto"
) -> Gaussians:
    """Gaussians of the object in four pictures at azimuth 0, 90, 180, 270.

    Args:
        elevation: degrees above the horizon the pictures were taken from.
    """
    views = load_views(paths, model.preset.input_size, matte)
    return model.reconstruct(views, input_poses(elevation))


def demo(
    model: LGM, object_folder: Path, out: Path, stages: Stages, progress: Callable = iter
) -> None:
    """Reconstruct the object in `object_folder` and write what there is to see into `out`.

    Args:
        out: an existing folder; gets splat.ply, mesh.glb, views.png, novel.png, turntable.mp4,
            index.html.
        stages: gets the time of every step.
        progress: wraps an iterable, for a progress bar.
    """
    from .mesh import extract  # here, since it's slow to import

    with stages.stage("read four views"):
        views = load_views(view_files(object_folder), model.preset.input_size)
    with stages.stage("reconstruct"):
        gaussians = model.reconstruct(views)
    with stages.stage("write the splat"):
        io.write_splat_file(out / "splat.ply", gaussians)
    with stages.stage("ready the renderer"):  # it compiles, the first time on a machine
        next(draw(gaussians, orbit_poses([0.0]), 32))
    with stages.stage("render 8 novel views"):
        novel = list(draw(gaussians, orbit_poses(*zip(*NOVEL_VIEWS, strict=True)), DEMO_SIZE))
    with stages.stage(f"render {DEMO_FRAMES} frames"):
        frames = list(progress(turntable(gaussians, DEMO_FRAMES, DEMO_SIZE, elevation=15)))
    with stages.stage("extract the mesh"):
        mesh = extract(gaussians, **DEMO_MESH)
    with stages.stage("write, draw the mesh"):
        glb = mesh.export(out / "mesh.glb")
        solid = mesh_pictures(mesh, gaussians)
    with stages.stage("encode pictures, video"):
        shown = composite_on_white(views) if views.shape[1] == 4 else views
        movie = video.mp4(frames)
        sprite = frames[::2]
        (out / "turntable.mp4").write_bytes(movie)
        (out / "views.png").write_bytes(video.png(video.contact_sheet(shown, columns=4)))
        (out / "novel.png").write_bytes(video.png(video.contact_sheet(novel, columns=4)))
    page = DemoPage(
        title=object_folder.name.replace("_", " ").capitalize(),
        gaussian_count=gaussians.count,
        views=dict(zip(VIEW_CAPTIONS, map(video.jpeg, shown), strict=True)),
        novel=dict(zip(NOVEL_CAPTIONS, map(video.jpeg, novel), strict=True)),
        sprite=video.jpeg(video.contact_sheet(sprite, SPRITE_COLUMNS), quality=82),
        sprite_frames=len(sprite),
        sprite_columns=SPRITE_COLUMNS,
        turntable=movie,
        mesh=DemoMesh(
            glb,
            mesh.face_count,
            len(mesh.texture),
            video.jpeg(solid["The mesh"]),
            {caption: video.jpeg(picture) for caption, picture in solid.items()},
            *MESH_CAMERA,
        ),
        seconds=stages.seconds,
        credits=_credits(object_folder),
    )
    (out / "index.html").write_text(page.html(), encoding="utf-8")


def mesh_pictures(mesh: Mesh, gaussians: Gaussians) -> dict[str, Tensor]:
    """The splat, its textured mesh, the bare shape and the texture, [3, DEMO_SIZE, DEMO_SIZE]."""
    from .mesh.draw import draw_mesh

    pose = orbit_poses(*MESH_CAMERA)
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
