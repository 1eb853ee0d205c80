"""A textured mesh of any splat: its surface is found, cleaned, unwrapped into charts, and painted
with what the splat looks like from all around. Each step takes a Mesh and gives one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from ..gaussians import Gaussians
from ..machine.interrupt import working
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
    from .cleanup import cleaned  # here, since all of them wait for scipy
    from .texture import painted
    from .unwrap import unwrapped

    def stage(name: str) -> AbstractContextManager[None]:
        return working(check, None if progress is None else partial(progress, name))

    with stage("surface"):
        mesh = surface(gaussians, method, resolution)
    with stage("clean-up"):
        mesh = cleaned(mesh, faces)
    if texture_size is not None:
        with stage("charts"):
            mesh = unwrapped(mesh, texture_size)
    with stage("texture"):
        mesh = painted(mesh, gaussians, texture_size, views, inputs)
    return mesh.to("cpu")


def surface(gaussians: Gaussians, method: Method = "outside", resolution: int = 192) -> Mesh:
    """A closed surface, where the Gaussians are, that is still to be cleaned: by what is seen from
    outside, see `fuse.fuse`, or by density, see `density.enclose`.
    """
    if method not in METHODS:
        raise ValueError(f"A surface is found by {' or '.join(METHODS)}, got method {method!r}.")
    if method == "density":
        from .density import enclose as find
    else:
        from .fuse import fuse as find
    return find(gaussians, resolution)
