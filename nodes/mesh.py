"""From any splat to a textured mesh, on ComfyUI's MESH type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..lgm.pictures.resample import composite_on_white
from .border import host
from .border.meshes import mesh_from_value, mesh_value, require_one_mesh_each
from .border.pictures import image_from_pictures
from .border.splats import gaussians_from_splat
from .border.views import SIDES, camera_poses, objects_from_image

if TYPE_CHECKING:
    from ..lgm.mesh import Method

METHODS: dict[str, Method] = {"seen from outside": "outside", "density": "density"}  # in lgm.mesh


class SplatToMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_SplatToMesh",
            display_name="Splat to Mesh (LGM)",
            category=host.CATEGORY,
            description="A closed mesh with vertex colors from any splat. Bake Splat Texture makes "
            "it sharper.",
            search_aliases=["splat to mesh", "extract surface", "gaussians to mesh", "3dgs mesh"],
            inputs=[
                io.Splat.Input("splat", tooltip="Any splat: LGM's, TripoSplat's, a file's."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=next(iter(METHODS)),
                    tooltip="How the surface is found. 'seen from outside' puts it where pictures "
                    "from all around show it: the best outlines. 'density' puts it where the splat "
                    "is dense, seen or not: open vessels stay hollow, and it is faster, most of "
                    "all with millions of Gaussians.",
                ),
                io.Int.Input(
                    "faces",
                    default=30_000,
                    min=10,
                    max=5_000_000,
                    step=10,
                    tooltip="At most so many triangles, as far as the surface stays whole. Fewer "
                    "make smaller files and rounder edges; with a texture 10,000 are often enough.",
                ),
                io.Int.Input(
                    "resolution",
                    default=192,
                    min=32,
                    max=512,
                    step=16,
                    tooltip="Of the grid the surface is found on. Higher finds thinner parts; "
                    "twice as high takes up to eight times as long and as much memory.",
                ),
                io.Int.Input(
                    "smoothing",
                    default=10,
                    min=0,
                    max=200,
                    tooltip="Steps that take noise away without shrinking. More melts detail; 0 "
                    "keeps every bump of the splat.",
                ),
                io.Boolean.Input(
                    "fill_holes",
                    default=True,
                    advanced=True,
                    tooltip="Close what is open. Off keeps open borders, if there are any.",
                ),
                io.Float.Input(
                    "min_component",
                    default=0.002,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Loose pieces with a smaller part of the largest one's surface go, "
                    "unless they are long, as straps are. Higher removes more floaters; 0 keeps "
                    "all.",
                ),
            ],
            outputs=[
                io.Mesh.Output(
                    display_name="mesh", tooltip="Upright, for Save GLB and Bake Splat Texture."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, splat, method, faces, resolution, smoothing, fill_holes, min_component
    ) -> io.NodeOutput:
        from ..lgm.mesh import surface
        from ..lgm.mesh.cleanup import cleaned
        from ..lgm.mesh.texture import painted

        device = host.management.get_torch_device()
        stages = host.Stages(3 * len(splat.positions))
        meshes = []
        for index in range(len(splat.positions)):
            gaussians = gaussians_from_splat(splat, index).to(device)
            with stages.stage():
                mesh = surface(gaussians, METHODS[method], resolution)
            with stages.stage():
                mesh = cleaned(mesh, faces, smoothing, fill_holes, min_component)
            with stages.stage():
                meshes.append(painted(mesh, gaussians, size=None).to("cpu"))
        counts = ", ".join(f"{mesh.face_count:,}" for mesh in meshes)
        host.say(cls, f"{counts} faces, on {device}")
        return io.NodeOutput(mesh_value(meshes))


class BakeSplatTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_BakeSplatTexture",
            display_name="Bake Splat Texture",
            category=host.CATEGORY,
            description="Paints a mesh with what a splat looks like from all around.",
            search_aliases=["bake texture", "splat to texture", "project texture", "uv bake"],
            inputs=[
                io.Mesh.Input(
                    "mesh",
                    tooltip="A mesh of this splat, of Splat to Mesh or any other node. One without "
                    "texture coordinates is unwrapped first.",
                ),
                io.Splat.Input("splat", tooltip="The splat the mesh was made of."),
                io.Int.Input(
                    "size",
                    default=1024,
                    min=128,
                    max=8192,
                    step=128,
                    tooltip="Texels on a side. 2048 is sharper where the splat is, takes four "
                    "times the memory and a few times as long.",
                ),
                io.Int.Input(
                    "views",
                    default=36,
                    min=6,
                    max=240,
                    tooltip="Pictures of the splat the colors are taken from. More see deeper "
                    "into folds and take longer.",
                ),
                io.Image.Input(
                    "input_views",
                    optional=True,
                    tooltip="The pictures the splat was made from, four for each object as in "
                    "Reconstruct Gaussians. Where they see the surface well, its colors are "
                    "theirs. The splat must stand where it was made.",
                ),
                io.Float.Input(
                    "elevation",
                    default=0.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Of the input views, as in Reconstruct Gaussians. Without them it "
                    "does nothing.",
                ),
                *(
                    io.Load3DCamera.Input(
                        f"camera_{side}",
                        optional=True,
                        tooltip=f"Camera of the {side} one of the input views, instead of the "
                        "elevation: connect all four or none.",
                    )
                    for side in SIDES
                ),
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="With the texture, for Save GLB."),
                io.Image.Output(display_name="base_color", tooltip="The texture as a picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, mesh, splat, size, views, elevation=0.0, input_views=None, **cameras
    ) -> io.NodeOutput:
        from ..lgm.mesh.texture import painted
        from ..lgm.mesh.unwrap import unwrapped

        count = require_one_mesh_each(mesh, splat)
        inputs = _inputs(input_views, count, elevation, cameras)
        device = host.management.get_torch_device()
        stages = host.Stages(2 * count)
        textured = []
        for index in range(count):
            item = mesh_from_value(mesh, index).to(device)
            gaussians = gaussians_from_splat(splat, index).to(device)
            with stages.stage():
                item = item if item.uvs is not None else unwrapped(item, size)
            with stages.stage():
                item = painted(item, gaussians, size, views, inputs[index])
            textured.append(item.to("cpu"))
        host.say(cls, f"{count} x {size} x {size} texels, on {device}")
        textures = torch.stack(
            [item.texture for item in textured if item.texture is not None]
        ).movedim(-1, 1)
        return io.NodeOutput(mesh_value(textured), host.outgoing(image_from_pictures(textures)))


def _inputs(views: Tensor | None, count: int, elevation: float, cameras: dict) -> list:
    """The `Inputs` of each of `count` objects, or None for each.

    Raises:
        ValueError: pictures of another number of objects, or cameras that don't go with them.
    """
    from ..lgm.mesh.texture import Inputs

    poses, fovy = camera_poses(cameras, elevation)
    if views is None:
        return [None] * count
    objects = objects_from_image(views)
    if len(objects) != count:
        raise ValueError(
            f"Four input views for each splat are needed, got {4 * len(objects)} for {count}: "
            "connect those that the splat was made from."
        )
    return [Inputs(_as_seen(pictures).cpu(), poses, fovy) for pictures in objects]


def _as_seen(pictures: Tensor) -> Tensor:
    """[4, 3, S, S] on white of [4, C, H, W], stretched to a square as the network's inputs are."""
    if pictures.shape[1] == 4:
        pictures = composite_on_white(pictures)
    side = max(pictures.shape[-2:])
    if pictures.shape[-2] == pictures.shape[-1]:
        return pictures
    return F.interpolate(pictures, size=(side, side), mode="bilinear", align_corners=False)
