"""The paper's last stage on ComfyUI's MESH type: a mesh fitted to pictures of its splat."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from .border import host
from .border.meshes import mesh_from_value, mesh_value, require_one_mesh_each
from .border.pictures import image_from_pictures
from .border.splats import gaussians_from_splat


class RefineMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_RefineMesh",
            display_name="Refine Mesh to Splat",
            category=host.CATEGORY,
            description="Moves the vertices of a mesh and changes its texture until it looks like "
            "its splat from all around. Needs an NVIDIA GPU and nvdiffrast, whose license is for "
            "non-commercial use.",
            search_aliases=["refine mesh", "fit mesh", "optimize texture", "nvdiffrast"],
            inputs=[
                io.Mesh.Input(
                    "mesh",
                    tooltip="Of Bake Splat Texture, best. One without a texture gets one first.",
                ),
                io.Splat.Input("splat", tooltip="The splat the mesh was made of."),
                io.Int.Input(
                    "steps",
                    default=300,
                    min=1,
                    max=5000,
                    step=50,
                    tooltip="Of the fit. Twice as many take twice as long and gain little.",
                ),
                io.Int.Input(
                    "size",
                    default=1024,
                    min=128,
                    max=8192,
                    step=128,
                    advanced=True,
                    tooltip="Texels on a side of the texture, if the mesh has none yet.",
                ),
            ],
            outputs=[
                io.Mesh.Output(
                    display_name="mesh", tooltip="With as many faces as before, for Save GLB."
                ),
                io.Image.Output(display_name="base_color", tooltip="The texture as a picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, mesh, splat, steps, size) -> io.NodeOutput:
        from ..lgm.mesh.refine import refine, why_not
        from ..lgm.mesh.texture import painted
        from ..lgm.mesh.unwrap import unwrapped

        if reason := why_not():
            raise RuntimeError(reason)
        count = require_one_mesh_each(mesh, splat)
        device = host.management.get_torch_device()
        stages = host.Stages(2 * count)
        refined = []
        for index in range(count):
            item = mesh_from_value(mesh, index).to(device)
            gaussians = gaussians_from_splat(splat, index).to(device)
            with stages.stage():
                if item.texture is None:
                    item = item if item.uvs is not None else unwrapped(item, size)
                    item = painted(item, gaussians, size)
            with stages.stage():
                refined.append(refine(item, gaussians, steps).to("cpu"))
        host.say(cls, f"{steps} steps, on {device}")
        textures = torch.stack(
            [item.texture for item in refined if item.texture is not None]
        ).movedim(-1, 1)
        return io.NodeOutput(mesh_value(refined), host.outgoing(image_from_pictures(textures)))
