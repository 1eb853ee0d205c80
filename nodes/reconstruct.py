"""Four views to Gaussians."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lgm.cameras import FOVY, RADIUS, orbit_poses
from ..lgm.gaussians import Gaussians
from .border import host
from .border.models import dtype_name, load_to_device
from .border.pictures import image_from_pictures
from .border.splats import LGMModel, splat_from_gaussians
from .border.views import SIDES, camera_poses, objects_from_image
from .model import each_block

PREVIEW_SIZE = 256  # pixels


class Reconstruct(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_Reconstruct",
            display_name="Reconstruct Gaussians",
            category=host.CATEGORY,
            description="3D Gaussians of an object from four views of it, in one pass of the "
            "network. Upright and facing you in Preview Splat.",
            search_aliases=["lgm", "views to splat", "image to 3d", "multi-view to gaussians"],
            inputs=[
                LGMModel.Input("model", tooltip="From Load LGM Model."),
                io.Image.Input(
                    "views",
                    tooltip="Four pictures of each object on white: front, its own left, back, its "
                    "own right, a quarter turn apart at one height. Eight pictures make two "
                    "objects, and so on. Arrange Views brings them into order.",
                ),
                io.Float.Input(
                    "elevation",
                    default=0.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Height the pictures were taken from, in degrees; positive = camera "
                    "above the object, looking down. The released LGM saw 0 only, the included "
                    "model up to 30; set what the pictures show.",
                ),
                io.Float.Input(
                    "opacity_threshold",
                    default=0.005,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    advanced=True,
                    tooltip="Fainter Gaussians are left out. 0 keeps all the network predicted; "
                    "higher makes smaller files and loses soft edges.",
                ),
                io.Int.Input(
                    "fit",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,  # prompts saved before it was there do without
                    tooltip="Steps that fit the splat to the views: sharper, better outlines. 10 "
                    "for pictures that show one object from exactly these sides, as renders do. 0, "
                    "LGM as it is, for generated views and hand-held photos, which never quite "
                    "agree.",
                ),
                *(
                    io.Load3DCamera.Input(
                        f"camera_{side}",
                        optional=True,
                        tooltip=f"Camera of the {side} view, instead of the elevation: connect all "
                        f"four or none. Trained: distance {RADIUS:g}, field of view {FOVY:g}.",
                    )
                    for side in SIDES
                ),
            ],
            outputs=[
                io.Splat.Output(display_name="splat", tooltip="One splat for each four pictures."),
                io.Image.Output(
                    display_name="views",
                    tooltip="The pictures as the network saw them: its size, on white. Look here "
                    "first when a result is odd.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        views: Tensor,
        elevation: float,
        opacity_threshold: float,
        fit: int = 0,
        **cameras,
    ) -> io.NodeOutput:
        objects = objects_from_image(views)
        poses, fovy = camera_poses(cameras, elevation)
        network = load_to_device(model, model.model.preset.input_size)
        device = model.load_device
        items, seen = [], []
        with each_block(network, lambda: progress.step()) as blocks:
            progress = host.Progress(len(objects) * (blocks + 1 + fit))
            for pictures in objects:
                host.check_cancelled()
                prepared = network.prepare(pictures.to(device), poses, fovy=fovy)
                gaussians = network.reconstruct(prepared)
                gaussians = network.fit(
                    gaussians, prepared, steps=fit,
                    progress=lambda part: progress.step() if part else None,
                )  # fmt: skip
                items.append(
                    _prune(gaussians.to(host.management.intermediate_device()), opacity_threshold)
                )
                seen.append(prepared.images[0].cpu())
                progress.step(_preview(items[-1]))
        counts = ", ".join(f"{item.count:,}" for item in items)
        precision = dtype_name(network.compute_dtype(device))
        host.say(cls, f"{counts} Gaussians, {precision} on {device}")
        views = image_from_pictures(torch.cat(seen))
        return io.NodeOutput(splat_from_gaussians(items), host.outgoing(views))


def _prune(gaussians: Gaussians, threshold: float) -> Gaussians:
    kept = gaussians.visible(threshold)
    if not kept.count:
        strongest = float(gaussians.opacities.max())
        raise ValueError(
            f"An opacity threshold below {strongest:.3f}, the most opaque Gaussian's, is needed to "
            f"keep any, got {threshold:g}: lower it, or check the views."
        )
    return kept


def _preview(gaussians: Gaussians) -> Tensor:
    """A picture [3, S, S] from the front, a little above. The torch renderer needs no getting
    ready."""
    from ..lgm.render.turntable import draw

    return next(draw(gaussians, orbit_poses([30.0], 15.0), PREVIEW_SIZE, backend="torch"))
