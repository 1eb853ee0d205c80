"""From any splat to a textured mesh, on ComfyUI's MESH type."""

from __future__ import annotations

from dataclasses import replace

import torch
from comfy_api.latest import io

from . import host
from .types import gaussians_from_splat, image_from_pictures, mesh_from_value, mesh_value


class SplatToMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_SplatToMesh",
            display_name="Splat to Mesh (LGM)",
            category=host.CATEGORY,
            description="A closed mesh with vertex colors from any splat, found by what the splat "
            "looks like from all around. Bake Splat Texture makes it sharper.",
            search_aliases=["splat to mesh", "extract surface", "gaussians to mesh", "3dgs mesh"],
            inputs=[
                io.Splat.Input("splat", tooltip="Any splat: LGM's, TripoSplat's, a file's."),
                io.Int.Input(
                    "faces",
                    default=30_000,
                    min=4,
                    max=5_000_000,
                    step=1000,
                    tooltip="At most so many triangles. Fewer make smaller files and rounder "
                    "edges; with a texture 10,000 are often enough.",
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
                    default=0.01,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    advanced=True,
                    tooltip="Loose pieces with a smaller part of the largest one's surface go. "
                    "Higher removes more floaters; 0 keeps all.",
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
        cls, splat, faces, resolution, smoothing, fill_holes, min_component
    ) -> io.NodeOutput:
        from ..lgm.mesh import Mesh
        from ..lgm.mesh.clean import clean
        from ..lgm.mesh.fuse import fuse
        from ..lgm.mesh.texture import vertex_colors

        device = host.management.get_torch_device()
        stages = host.Stages(3 * len(splat.positions))
        meshes = []
        for index in range(len(splat.positions)):
            gaussians = gaussians_from_splat(splat, index).to(device)
            surface = fuse(gaussians, resolution, host.check_cancelled, stages.begin())
            stages.begin()
            parts = clean(
                *surface, faces, smoothing, fill_holes, min_component, host.check_cancelled
            )
            mesh = Mesh(*map(torch.from_numpy, parts))
            look = {"check": host.check_cancelled, "progress": stages.begin()}
            meshes.append(replace(mesh, vertex_colors=vertex_colors(mesh, gaussians, **look)))
        stages.end()
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
            ],
            outputs=[
                io.Mesh.Output(display_name="mesh", tooltip="With the texture, for Save GLB."),
                io.Image.Output(display_name="base_color", tooltip="The texture as a picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, mesh, splat, size, views) -> io.NodeOutput:
        from ..lgm.mesh.texture import bake
        from ..lgm.mesh.unwrap import unwrapped

        count = len(splat.positions)
        if len(mesh.vertices) != count:
            raise ValueError(
                f"One mesh for each splat is needed, got {len(mesh.vertices)} for {count}: connect "
                "the splat that the mesh was made of."
            )
        device = host.management.get_torch_device()
        stages = host.Stages(count)
        painted = []
        for index in range(count):
            item = mesh_from_value(mesh, index)
            item = item if item.uvs is not None else unwrapped(item, size, host.check_cancelled)
            gaussians = gaussians_from_splat(splat, index).to(device)
            look = {"check": host.check_cancelled, "progress": stages.begin()}
            texture = bake(item, gaussians, size, views, **look)
            painted.append(replace(item, texture=texture, vertex_colors=None))
        stages.end()
        host.say(cls, f"{count} x {size} x {size} texels, on {device}")
        textures = torch.stack([item.texture for item in painted]).movedim(-1, 1)
        return io.NodeOutput(mesh_value(painted), host.outgoing(image_from_pictures(textures)))
