"""The whole way, one readable function per task."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from . import io, video
from .cameras import input_poses, orbit_poses
from .fit import STEPS
from .gaussians import Gaussians
from .io.spz import write_spz
from .page import DemoMesh, DemoPage, DemoViewer, viewer_code
from .preprocess import (
    MATTE_NOISE,
    Matte,
    composite_on_white,
    cut_out,
    flat_background_color,
    has_alpha,
    key_flat_background,
    load_image,
    load_views,
    recenter,
    rembg_alpha,
    resize_area,
    resize_rgba,
    square,
)
from .presets import ROUNDS
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
TURNTABLE_ELEVATION = 15  # degrees
DEMO_MESH = {"faces": 20_000, "texture_size": 1024, "resolution": 160, "views": 24}  # for 1 MB
ROUNDING = 0.02  # of a mask's aspect ratio, when it has other pixels than its picture
PICTURE_SIDE = 1024  # pixels; larger pictures are averaged down to at least this
NEGATIVE_PROMPT = (
    "ugly, blurry, pixelated obscure, unnatural colors, poor lighting, dull, unclear, cropped, "
    "lowres, low quality, artifacts, duplicate"
)
"""What the official demo keeps away from."""
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
    model: LGM,
    paths: Sequence[str | Path],
    elevation: float = 0.0,
    matte: Matte = "auto",
    fit: int = 0,
    rounds: int = ROUNDS,
) -> Gaussians:
    """Gaussians of the object in four pictures at azimuth 0, 90, 180, 270.

    Args:
        elevation: degrees above the horizon the pictures were taken from.
        fit: steps that fit the Gaussians to the pictures, see `LGM.fit`.
        rounds: how often a corrector looks, see `LGM.reconstruct`.
    """
    views = load_views(paths, model.preset.input_size, matte)
    poses = input_poses(elevation)
    gaussians = model.reconstruct(views, poses, rounds=rounds)
    return model.fit(gaussians, views, poses, steps=fit)


def object_picture(
    rgba: Tensor, mask: Tensor | None = None, matte: Matte = "auto", border_ratio: float = 0.2
) -> Tensor:
    """The object of a picture as ImageDream wants it: cut out, in the middle, on white.

    Args:
        rgba: [4, H, W].
        mask: [1, H, W], 1 where the object is; wins over all else.
        matte: `auto` takes the mask, else the alpha, else removes a flat background, else asks
            rembg if that and its network are on this machine; `none` takes the picture as it is;
            `rembg` may load its network from the internet.

    Returns:
        [3, S, S].

    Raises:
        ValueError: nothing but background, or a background that nothing here can tell.
    """
    if mask is not None:
        rgba = torch.cat([rgba[:3], mask])
    rgba = _of_moderate_size(rgba)
    nothing = "its mask or alpha leaves nothing: check the mask, or turn it around."
    if mask is None and (matte == "rembg" or not has_alpha(rgba)):
        nothing = "shows nothing in front of its background: give one that shows more."
        rgba = _without_background(rgba, matte)
    if rgba is None:
        raise ValueError(
            "A mask, alpha or an even background is needed to tell the object, but the picture's "
            "border shows several colors: give one of these, or ask for rembg."
        )
    if not _shows_object(rgba):
        raise ValueError(f"The picture needs an object, but {nothing}")
    if has_alpha(rgba):
        rgba = recenter(rgba, border_ratio)
    return composite_on_white(square(rgba, max(rgba.shape[-2:])))


def load_mask(path: str | Path, height: int, width: int) -> Tensor:
    """The picture's mask [1, height, width], 1 where the object is, from a file of any size.

    Raises:
        ValueError: not a picture, or of another shape than the one it belongs to.
    """
    rgba = load_image(path, longest=PICTURE_SIDE)
    aspect, wanted = rgba.shape[2] / rgba.shape[1], width / height
    if abs(aspect / wanted - 1) > ROUNDING:
        raise ValueError(
            f"{path} needs to be as wide for its height as the picture, {wanted:.3g} : 1, but is "
            f"{aspect:.3g} : 1: give a mask of the whole picture."
        )
    return resize_area(rgba[:3].mean(0, keepdim=True) * rgba[3:], height, width)


def views_on_white(
    views: Tensor, matte: Matte = "auto", border_ratio: float = 0.2
) -> tuple[Tensor, int]:
    """MVDream's views as LGM wants them: each cut out of its grayish background, in the middle, on
    white. ImageDream, which saw a white background, needs none of this.

    As in the original, except that the object is where alpha is above 0: there it is where the red
    of the picture that rembg cut out is, which differs for colors without any red.

    Args:
        views: [4, 3, S, S].
        matte: `auto` removes a flat background, else asks rembg if that and its network are on
            this machine, else leaves the view alone; `none` leaves all alone; `rembg` may load its
            network from the internet.

    Returns:
        [4, 3, S, S], and how many of them were cut out.

    Raises:
        ValueError: nothing but background.
    """
    if matte == "none":
        return views, 0
    on_white, cut = views.cpu().clone(), 0
    for number, (view, caption) in enumerate(zip(on_white, VIEW_CAPTIONS, strict=True)):
        rgba = _without_background(torch.cat([view, torch.ones_like(view[:1])]), matte)
        if rgba is None:
            continue
        if not _shows_object(rgba):
            raise ValueError(
                f"Every view needs the object, but the one at {caption}, shows nothing but "
                "background: try another seed or prompt, or keep the backgrounds with 'none'."
            )
        on_white[number] = composite_on_white(recenter(rgba, border_ratio))
        cut += 1
    return on_white.to(views.device), cut


def kept_backgrounds(cut: int, matte: Matte) -> str:
    """What is to be said of views of which `cut` were cut out; "" where all is as asked."""
    kept = len(VIEW_CAPTIONS) - cut
    if matte == "none" or not kept:
        return ""
    return (
        f"{kept} of 4 views keep their background, which is not even: rembg could remove it, or "
        "try another seed"
    )


def check_matte(matte: Matte) -> None:
    """Raise now what rembg would raise after minutes of other work.

    Raises:
        RuntimeError: it is asked for, but it or its network can't be had.
    """
    if matte == "rembg":
        rembg_alpha(torch.ones(3, 16, 16))


def _shows_object(rgba: Tensor) -> bool:
    return int((rgba[3] > MATTE_NOISE).sum()) >= 4


def _of_moderate_size(rgba: Tensor) -> Tensor:
    """ImageDream sees 256 pixels; cutting out takes long on the millions of a photo."""
    height, width = rgba.shape[-2:]
    factor = max(height, width) // PICTURE_SIDE
    return resize_rgba(rgba, height // factor, width // factor) if factor > 1 else rgba


def _without_background(rgba: Tensor, matte: Matte) -> Tensor | None:
    """With what is background transparent, be it all; None where nothing here can tell."""
    if matte == "auto" and flat_background_color(rgba[:3]) is not None:
        keyed = key_flat_background(rgba[:3])
        return torch.cat([rgba[:3], torch.zeros_like(rgba[3:])]) if keyed is None else keyed
    if matte == "auto" and not rembg_is_ready():
        return None
    return cut_out(rgba, "rembg" if matte == "auto" else matte)


def rembg_is_ready() -> bool:
    """Whether rembg can work without loading anything from the internet."""
    network = Path.home() / ".rembg" / "models" / "u2net" / "u2net.onnx"
    return importlib.util.find_spec("rembg") is not None and network.is_file()


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
        novel = list(draw(gaussians, orbit_poses(*zip(*NOVEL_VIEWS, strict=True)), DEMO_SIZE))
    with stages.stage(f"render {DEMO_FRAMES} frames"):
        frames = list(progress(turntable(gaussians, DEMO_FRAMES, DEMO_SIZE, TURNTABLE_ELEVATION)))
    solid = write_mesh(gaussians, out / "mesh.glb", stages) if with_mesh else None
    with stages.stage("encode pictures, video"):
        shown = composite_on_white(views) if views.shape[1] == 4 else views
        movie = video.mp4(frames)
        (out / "turntable.mp4").write_bytes(movie)
        (out / "views.png").write_bytes(video.png(video.contact_sheet(shown, columns=4)))
        (out / "novel.png").write_bytes(video.png(video.contact_sheet(novel, columns=4)))
        code = viewer_code()
        spz = write_spz(None, gaussians)
        viewer = DemoViewer(code, spz, TURNTABLE_ELEVATION, not elevation) if code else None
    sprite = frames[::2]
    page = DemoPage(
        title=title,
        gaussian_count=gaussians.count,
        views=dict(zip(VIEW_CAPTIONS, map(video.jpeg, shown), strict=True)),
        novel=dict(zip(NOVEL_CAPTIONS, map(video.jpeg, novel), strict=True)),
        sprite=video.jpeg(video.contact_sheet(sprite, SPRITE_COLUMNS), quality=82),
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
    from .mesh import extract  # here, since it's slow to import

    with stages.stage("extract the mesh"):
        mesh = extract(gaussians, **DEMO_MESH)
    with stages.stage("write, draw the mesh"):
        glb = mesh.export(path)
        pictures = mesh_pictures(mesh, gaussians)
    shown = {caption: video.jpeg(picture) for caption, picture in pictures.items()}
    size = len(mesh.texture)
    return DemoMesh(glb, mesh.face_count, size, shown["The mesh"], shown, *MESH_CAMERA)


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
