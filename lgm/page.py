"""The demo's index.html: one file that holds all it shows, to be opened from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

TEMPLATE = Path(__file__).with_name("assets") / "page.html"


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
    mesh: DemoMesh
    seconds: Mapping[str, float]  # stage -> wall-clock time
    credits: str = ""

    def html(self) -> str:
        mesh = self.mesh
        total = {**self.seconds, "total": sum(self.seconds.values())}
        return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
            title=escape(self.title),
            gaussian_count=f"{self.gaussian_count:,}",
            views=_figures(self.views),
            novel=_figures(self.novel),
            sprite=_data_url(self.sprite, "image/jpeg"),
            sprite_frames=self.sprite_frames,
            sprite_columns=self.sprite_columns,
            turntable=_data_url(self.turntable, "video/mp4"),
            mesh=base64.b64encode(mesh.glb).decode(),
            mesh_faces=f"{mesh.face_count:,}",
            mesh_size=f"{len(mesh.glb) / 1e6:.1f}",
            texture_size=f"{mesh.texture_size:,}",
            mesh_picture=_data_url(mesh.picture, "image/jpeg"),
            mesh_views=_figures(mesh.views),
            azimuth=mesh.azimuth,
            elevation=mesh.elevation,
            seconds="".join(
                f"<tr><td>{escape(name)}</td><td>{seconds:.2f} s</td></tr>"
                for name, seconds in total.items()
            ),
            credits=escape(self.credits),
        )


def _figures(pictures: Mapping[str, bytes]) -> str:
    return "".join(
        f'<figure><img src="{_data_url(data, "image/jpeg")}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, data in pictures.items()
    )


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
