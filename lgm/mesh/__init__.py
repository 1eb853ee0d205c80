"""From any splat to a textured mesh: a surface, cleaned, unwrapped, and colored by what the splat
looks like from all around.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from ..gaussians import Gaussians
from .record import Mesh

if TYPE_CHECKING:
    from .texture import Inputs

__all__ = ["METHODS", "STAGES", "Mesh", "extract", "surface"]

STAGES = ("surface", "clean-up", "charts", "texture")
Method = Literal["outside", "density"]
METHODS = get_args(Method)


def extract(
    gaussians: Gaussians,
    faces: int = 30_000,
    texture_size: int | None = 1024,
    resolution: int = 192,
    views: int = 36,
    inputs: Inputs | None = None,
    check: Callable[[], None] | None = None,
    progress: Callable[[str, float], None] | None = None,
    method: Method = "outside",
) -> Mesh:
    """A textured mesh (on the CPU) of what a splat looks like from outside.

    Args:
        gaussians: one object of any scale, anywhere; the work is done where they are.
        faces: at most this many triangles.
        texture_size: texels on a side; None gives vertex colors and no texture.
        resolution: of the grid that the surface is found on; twice as fine finds thinner parts and
            takes eight times as long.
        views: pictures of the splat that the colors are taken from.
        inputs: pictures that the splat was made from: sharper than it where they see the surface.
        check: called now and then; what it raises ends the work.
        progress: called with one of STAGES and the part of it that is done, 0..1.
        method: how the surface is found, see `surface`.

    Raises:
        ValueError: no object, more than one, nothing visible, or numbers that can't be.
    """
    from . import texture  # here, since all of them wait for scipy
    from .cleanup import clean
    from .unwrap import unwrapped

    check = check or (lambda: None)
    found, clean_up, charts, colors = (_stage(progress, name) for name in STAGES)
    vertices, triangles = surface(gaussians, method, resolution, check, found)
    where = {"check": check, "device": gaussians.device}
    parts = clean(vertices, triangles, faces, **where, progress=clean_up)
    mesh = Mesh(*map(torch.from_numpy, parts))
    look = {"gaussians": gaussians, "views": views, "inputs": inputs, "check": check}
    if texture_size is None:
        return replace(mesh, vertex_colors=texture.vertex_colors(mesh, **look, progress=colors))
    mesh = unwrapped(mesh, texture_size, **where, progress=charts)
    charts(1.0)  # it seldom takes several rounds, and reports no other
    return replace(mesh, texture=texture.bake(mesh, size=texture_size, **look, progress=colors))


def surface(
    gaussians: Gaussians,
    method: Method = "outside",
    resolution: int = 192,
    check: Callable[[], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a closed surface that is still to be cleaned: by what is seen from
    outside, see `fuse.fuse`, or by density, see `density.enclose`.
    """
    if method not in METHODS:
        raise ValueError(f"A surface is found by {' or '.join(METHODS)}, got method {method!r}.")
    if method == "density":
        from .density import enclose as find
    else:
        from .fuse import fuse as find
    return find(gaussians, resolution, check, progress)


def _stage(progress: Callable[[str, float], None] | None, name: str) -> Callable[[float], None]:
    return (lambda part: progress(name, part)) if progress else (lambda part: None)
