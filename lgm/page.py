"""The demo's index.html: one file that holds all it shows, to be opened from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

ASSETS = Path(__file__).with_name("assets")
FURTHER = " Further down, they have become a mesh."
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
