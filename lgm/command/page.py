"""The demo's index.html: one file that holds all it shows, to be opened from anywhere."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

ASSETS = Path(__file__).parents[1] / "assets"
FURTHER = " Further down, they have become a mesh."
WEB = (ASSETS / "web", Path(__file__).parents[2] / "web")  # of a package, of a checkout
OPENER = (
    '<div class="tools" id="opener" hidden><button>Open in the 3D viewer</button>'
    "<span>any side, depth, normals, crop, compare</span></div>"
)
MESH_FILE = '<li><a href="mesh.glb" download="mesh.glb">mesh.glb</a></li>'


@dataclass(frozen=True)
class DemoMesh:
    """The mesh that the page lets turn, and pictures of it."""

    glb: bytes  # as `lgm.io.mesh_glb` writes it, textured
    face_count: int
    texture_size: int
    picture: bytes  # JPEG, for where there is no WebGL
    views: Mapping[str, bytes]  # caption -> JPEG
    azimuth: float  # degrees, of the camera that took the picture
    elevation: float

    def html(self) -> str:
        return _filled(
            "mesh.html",
            glb=base64.b64encode(self.glb).decode(),
            faces=f"{self.face_count:,}",
            megabytes=f"{len(self.glb) / 1e6:.1f}",
            texture_size=f"{self.texture_size:,}",
            picture=_data_url(self.picture, "image/jpeg"),
            views=_figures(self.views),
            azimuth=self.azimuth,
            elevation=self.elevation,
        )


@dataclass(frozen=True)
class DemoViewer:
    """The node's viewer, which the page starts when asked to, and the splat for it."""

    code: Mapping[str, str]  # see `viewer_code`
    splat: bytes  # .spz
    elevation: float  # degrees, of the turning picture
    level: bool = True  # whether the model saw the object from its own height: to compare with

    def html(self) -> str:
        packed = gzip.compress(json.dumps(self.code).encode(), mtime=0)
        return _filled(
            "viewer.html",
            code=base64.b64encode(packed).decode(),
            splat=base64.b64encode(self.splat).decode(),
            elevation=self.elevation,
            level=str(self.level).lower(),
        )


def viewer_code() -> dict[str, str]:
    """The files of the node's viewer, path -> text; empty where they are not installed."""
    for web in WEB:
        engine = [web / "vendor" / name for name in ("viewer-engine.mjs", "LICENSES.txt")]
        modules = sorted((web / "viewer").glob("*.*"))
        if modules and all(path.is_file() for path in engine):
            return {
                path.relative_to(web).as_posix(): path.read_text(encoding="utf-8")
                for path in [*modules, *engine]
            }
    return {}


@dataclass(frozen=True)
class DemoPage:
    """What the page shows; pictures and video are file bytes."""

    title: str
    gaussian_count: int
    views: Mapping[str, bytes]  # caption -> JPEG
    novel: Mapping[str, bytes]  # caption -> JPEG
    sprite: bytes  # JPEG with the frames of a full turn in reading order
    sprite_frames: int
    sprite_columns: int
    turntable: bytes  # MP4
    mesh: DemoMesh | None
    seconds: Mapping[str, float]  # stage -> wall-clock time
    credits: str = ""
    viewer: DemoViewer | None = None

    def html(self) -> str:
        total = {**self.seconds, "total": sum(self.seconds.values())}
        return _filled(
            "page.html",
            title=escape(self.title),
            gaussian_count=f"{self.gaussian_count:,}",
            views=_figures(self.views),
            novel=_figures(self.novel),
            sprite=_data_url(self.sprite, "image/jpeg"),
            sprite_frames=self.sprite_frames,
            sprite_columns=self.sprite_columns,
            turntable=_data_url(self.turntable, "video/mp4"),
            further=FURTHER if self.mesh else "",
            mesh_file=MESH_FILE if self.mesh else "",
            mesh=self.mesh.html() if self.mesh else "",
            opener=OPENER if self.viewer else "",
            viewer=self.viewer.html() if self.viewer else "",
            seconds="".join(
                f"<tr><td>{escape(name)}</td><td>{seconds:.2f} s</td></tr>"
                for name, seconds in total.items()
            ),
            credits=escape(self.credits),
        )


def _filled(name: str, **values: object) -> str:
    return Template((ASSETS / name).read_text(encoding="utf-8")).substitute(values)


def _figures(pictures: Mapping[str, bytes]) -> str:
    return "".join(
        f'<figure><img src="{_data_url(data, "image/jpeg")}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, data in pictures.items()
    )


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
