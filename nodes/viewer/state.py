"""What the page's viewer sends: its camera, edits and look.

A workflow file holds it, so it may be old, written by hand or made up: everything is checked here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..border.cameras import DEFAULT_FOV, read_camera
from ..border.pictures import color_from_hex

WHITE = "#ffffff"  # behind a picture, where the viewer shows none of its own
PATTERNS = ("checker", "transparent")


@dataclass(frozen=True)
class State:
    """Places and lengths in world units, +y up."""

    camera: dict | None  # LOAD3D_CAMERA, its angle over the shorter side of a picture
    crop: tuple[list[float], list[float]] | None  # center and size of the box that stays
    min_opacity: float  # 0..1, 0 = off
    max_scale: float  # longest axis of a Gaussian that stays, 0 = off
    background: str  # #rrggbb
    seen: tuple[str, str, str] | None  # a picture: type of the folder, subfolder, file name
    file: str | None  # that was dropped, within the input folder

    @property
    def edits(self) -> bool:
        return bool(self.crop or self.min_opacity or self.max_scale)


def read_state(value: dict | None) -> State:
    """The state in what the page sent; what isn't there has its default, what isn't known is left.

    Raises:
        ValueError: something that the viewer never sends.
    """
    state = _named(value, "state")
    edit, look = _named(state.get("edit"), "edit"), _named(state.get("look"), "look")
    crop, seen = _named(edit.get("crop"), "crop"), _named(state.get("seen"), "picture")
    return State(
        camera=_camera(_named(state.get("camera"), "camera")),
        crop=(_three(crop, "center"), _three(crop, "size", 0)) if crop else None,
        min_opacity=_number(edit.get("min_opacity") or 0, "min_opacity", 0, 1),
        max_scale=_number(edit.get("max_scale") or 0, "max_scale", 0),
        background=_color(_text(look.get("background") or WHITE, "background")),
        seen=_seen(seen) if seen else None,
        file=_text(state.get("file") or "", "file") or None,
    )


def _camera(camera: dict) -> dict | None:
    """Turn three.js's vertical angle into ComfyUI's, which spans the shorter side: what fits the
    view then fits a picture of any shape. None without a position."""
    if not camera.get("position"):
        return None
    known: dict[str, Any] = {"cameraType": camera.get("cameraType") or "perspective"}
    for name in ("position", "target", "quaternion"):
        if vector := _named(camera.get(name), name):
            known[name] = {axis: _number(value, name) for axis, value in vector.items()}
    for name in ("zoom", "near", "far"):
        if camera.get(name) is not None:
            known[name] = _number(camera[name], name, 0)
    fov = _number(camera.get("fov") or DEFAULT_FOV, "fov", 0, 179)
    aspect = _number(camera.get("aspect") or 1, "aspect", 0)
    half = math.tan(math.radians(fov) / 2) * min(aspect, 1)
    known["fov"] = math.degrees(2 * math.atan(half))
    read_camera(known)  # refuses one that looks nowhere
    return known


def _seen(seen: dict) -> tuple[str, str, str]:
    kind = seen.get("type") or "temp"
    if kind not in ("temp", "input"):
        raise _bad("picture", "to lie in the temp or input folder", kind)
    names = _text(seen.get("subfolder") or "", "subfolder"), _text(seen.get("filename"), "filename")
    return kind, *names


def _color(background: str) -> str:
    if background in PATTERNS:
        return WHITE
    color_from_hex(background)
    return background


def _three(crop: dict, name: str, least: float = -math.inf) -> list[float]:
    values = crop.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise _bad(f"crop {name}", "3 numbers", values)
    return [_number(value, f"crop {name}", least) for value in values]


def _named(value: Any, what: str) -> dict:
    if value in (None, ""):
        return {}
    if not isinstance(value, dict):
        raise _bad(what, "named values", value)
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _bad(what, "text", value)
    return value


def _number(value: Any, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and least <= value <= most):
        bounds = "" if least == -math.inf else f" of {least:g} or more"
        bounds += "" if most == math.inf else f", {most:g} at most"
        raise _bad(what, f"finite numbers{bounds}", value)
    return float(value)


def _bad(what: str, needed: str, found: Any) -> ValueError:
    return ValueError(
        f"The viewer's {what} needs {needed}, got {str(found)[:80]!r}: press Reset in the viewer."
    )
