"""Camera paths, as lists of ComfyUI's own cameras."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..lgm.cameras import FOVY, RADIUS
from .border import host
from .border.cameras import camera_info, read_camera
from .border.splats import gaussians_from_splat


class CameraPath(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_CameraPath",
            display_name="Camera Path",
            category=host.CATEGORY,
            description="A list of cameras along an orbit, a spiral, or the arc between two "
            "cameras. Render Splat (LGM) draws all of them into one batch; ComfyUI's own Render "
            "Splat runs once for each.",
            search_aliases=[
                "orbit",
                "turntable",
                "camera trajectory",
                "spiral camera",
                "keyframes",
            ],
            inputs=[
                io.DynamicCombo.Input(
                    "path",
                    options=[
                        io.DynamicCombo.Option(
                            "orbit",
                            [
                                _elevation("elevation", 15.0, "Height of the orbit"),
                                _azimuth(),
                                _turns(1.0),
                                _radius(),
                                _fov(),
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "spiral",
                            [
                                _elevation("elevation_from", -20.0, "Height of the first camera"),
                                _elevation("elevation_to", 60.0, "Height of the last camera"),
                                _turns(2.0),
                                _radius(),
                                _fov(),
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "arc",
                            [
                                io.Load3DCamera.Input(
                                    "start",
                                    tooltip="First camera, e.g. of Create Camera Info or a 3D "
                                    "preview. Its target is what the path goes around.",
                                ),
                                io.Load3DCamera.Input(
                                    "end", tooltip="Last camera; its own target doesn't matter."
                                ),
                            ],
                        ),
                    ],
                    tooltip="orbit: a turntable at one height. spiral: turns while it climbs. arc: "
                    "the shortest way around the first camera's "
                    "target to another camera; needs no splat.",
                ),
                io.Int.Input(
                    "frames",
                    default=24,
                    min=1,
                    max=1000,
                    tooltip="Number of cameras. More make a smoother video, drawn for longer.",
                ),
                io.Splat.Input(
                    "splat",
                    optional=True,
                    tooltip="Orbit and spiral go around the middle of this splat; with radius 0 "
                    "from where all of it fits the picture.",
                ),
            ],
            outputs=[
                io.Load3DCamera.Output(
                    display_name="cameras",
                    is_output_list=True,
                    tooltip="One camera for each frame, as a list.",
                ),
            ],
        )

    @classmethod
    def execute(cls, path: dict, frames: int, splat=None) -> io.NodeOutput:
        if path["path"] == "arc":
            return io.NodeOutput(_arc(path["start"], path["end"], frames))
        from ..lgm import camera_paths
        from ..lgm.splats.extent import extent

        center, size = torch.zeros(3), None
        if splat is not None:
            center, size = extent(gaussians_from_splat(splat, 0))
        radius = path["radius"] or _fitting(size, path["fov"])
        if path["path"] == "orbit":
            poses = camera_paths.orbit(
                frames, radius, path["elevation"], center, path["azimuth"], path["turns"]
            )
        else:
            poses = camera_paths.spiral(
                frames, radius, path["elevation_from"], path["elevation_to"], path["turns"], center
            )
        return io.NodeOutput([camera_info(pose, center, path["fov"]) for pose in poses])


def _arc(start: dict, end: dict, frames: int) -> list[dict]:
    from ..lgm.camera_paths import arc

    first, last = read_camera(start), read_camera(end)
    target = torch.tensor([float((start.get("target") or {}).get(axis, 0.0)) for axis in "xyz"])
    poses = arc(first.c2w, last.c2w, frames, target)
    fovs = torch.linspace(first.fov, last.fov, frames)
    return [camera_info(pose, target, float(fov)) for pose, fov in zip(poses, fovs, strict=True)]


def _fitting(size: float | None, fov: float) -> float:
    """A distance from where a splat of radius `size` fits; without a splat LGM's own."""
    from ..lgm.camera_paths import fit_radius

    return RADIUS if size is None else fit_radius(size, fov)


def _elevation(name: str, default: float, what: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=-90.0,
        max=90.0,
        step=1.0,
        tooltip=f"{what} in degrees above the horizon; negative looks from below.",
    )


def _azimuth() -> io.Float.Input:
    return io.Float.Input(
        "azimuth",
        default=0.0,
        min=-360.0,
        max=360.0,
        step=1.0,
        tooltip="Where the orbit starts, in degrees: 0 = in front, 90 = on the object's own left.",
    )


def _turns(default: float) -> io.Float.Input:
    return io.Float.Input(
        "turns",
        default=default,
        min=-20.0,
        max=20.0,
        step=0.25,
        tooltip="Full turns around the object; negative turns the other way.",
    )


def _radius() -> io.Float.Input:
    return io.Float.Input(
        "radius",
        default=0.0,
        min=0.0,
        max=1000.0,
        step=0.05,
        tooltip=f"Distance to the middle, in world units; larger shows the object smaller. 0 fits "
        f"the connected splat into the picture, or is LGM's own {RADIUS:g} without one.",
    )


def _fov() -> io.Float.Input:
    return io.Float.Input(
        "fov",
        default=FOVY,
        min=1.0,
        max=120.0,
        step=0.1,
        tooltip=f"Field of view over the shorter side of the picture, in degrees; smaller is "
        f"flatter, like a long lens. LGM's own is {FOVY:g}.",
    )
