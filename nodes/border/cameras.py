"""LOAD3D_CAMERA <-> poses and fields of view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...lgm.cameras import FOVY

DEFAULT_FOV = 35.0  # degrees, of a camera that doesn't say: what ComfyUI's Render Splat takes
PARALLEL = 400.0  # an orthographic camera is drawn from so many times as far: 0.1 % from parallel


@dataclass(frozen=True)
class Camera:
    """What the library needs of a camera."""

    c2w: Tensor  # [4, 4], OpenGL axes, +y up world
    fov: float  # degrees, full angle over the shorter side of the picture, zoom included
    offset: float = 0.0
    """World units by which an orthographic camera was moved back, to be taken off its depths."""


def read_camera(info: dict) -> Camera:
    """The camera a LOAD3D_CAMERA describes.

    As in ComfyUI's own Render Splat its field of view spans the shorter side of the picture, and an
    orthographic camera shows at its target's distance what a perspective one of its angle would.

    Raises:
        ValueError: not a camera, or one without a position or a direction.
    """
    if not isinstance(info, dict) or not isinstance(info.get("position"), dict):
        raise ValueError(
            f"A camera with a position is needed, got {type(info).__name__}: connect a LGM Camera "
            "Path or Create Camera Info node."
        )
    position, target = _xyz(info["position"]), _xyz(info.get("target") or {})
    if info.get("quaternion"):
        rotation = _rotation(info["quaternion"])
    else:
        rotation = _look_at(position, target)
    fov = float(info.get("fov") or DEFAULT_FOV)
    zoom = float(info.get("zoom") or 1.0)
    if not (0 < fov < 180 and zoom > 0 and position.isfinite().all() and rotation.isfinite().all()):
        raise ValueError(
            f"A camera needs finite numbers, a field of view between 0 and 180 degrees and a zoom "
            f"above 0, got fov {fov:g}, zoom {zoom:g}, position {position.tolist()}."
        )
    half = math.tan(math.radians(fov) / 2) / zoom
    offset = 0.0
    if str(info.get("cameraType", "")).lower().startswith("ortho"):
        distance = max(float((position - target).norm()), 1e-6)
        offset = (PARALLEL - 1) * distance
        position = position + offset * rotation[:, 2]
        half /= PARALLEL
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3], c2w[:3, 3] = rotation, position
    return Camera(c2w.float(), math.degrees(2 * math.atan(half)), offset)


def camera_info(c2w: Tensor, target: Tensor, fov: float) -> dict:
    """A LOAD3D_CAMERA from a pose [4, 4], the point [3] it looks at, and its angle in degrees."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(c2w[:3, :3].double().numpy()).as_quat()
    return {
        "position": _named(c2w[:3, 3]),
        "target": _named(target),
        "quaternion": {"x": float(x), "y": float(y), "z": float(z), "w": float(w)},
        "fov": float(fov),
        "zoom": 1.0,
        "cameraType": "perspective",
    }


def vertical_fov(fov: float, height: int, width: int) -> float:
    """Full vertical angle in degrees when `fov` spans the shorter side of the picture."""
    if height <= width:
        return fov
    return math.degrees(2 * math.atan(math.tan(math.radians(fov) / 2) * height / width))


def common_fov(cameras: list[Camera]) -> float:
    """The one angle of all cameras.

    Raises:
        ValueError: they differ.
    """
    fovs = [camera.fov for camera in cameras]
    if max(fovs) - min(fovs) > 1e-3:
        raise ValueError(
            "The four cameras need one field of view, got "
            f"{', '.join(f'{fov:g}' for fov in fovs)} degrees: set the same (trained: {FOVY:g})."
        )
    return fovs[0]


def _xyz(vector: dict) -> Tensor:
    return torch.tensor([float(vector.get(axis, 0.0)) for axis in "xyz"], dtype=torch.float64)


def _named(vector: Tensor) -> dict[str, float]:
    return dict(zip("xyz", map(float, vector), strict=True))


def _rotation(quaternion: dict) -> Tensor:
    from scipy.spatial.transform import Rotation

    values = [
        float(quaternion.get(key, default))
        for key, default in zip("xyzw", (0, 0, 0, 1), strict=True)
    ]
    if not 0 < math.hypot(*values) < math.inf:
        raise ValueError(f"A camera's quaternion needs a length above 0, got {values}.")
    return torch.from_numpy(Rotation.from_quat(values).as_matrix())


def _look_at(position: Tensor, target: Tensor) -> Tensor:
    from ...lgm.camera_paths import look_at

    if torch.equal(position, target):
        raise ValueError(
            "A camera without a quaternion needs a target apart from its position, got the same "
            f"point {position.tolist()} for both."
        )
    return look_at(position, target)[:3, :3].double()
