"""Nodes that take Gaussians away from any splat."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from .border import host
from .border.splats import finite_rows, gaussians_from_splat, select_from_splat


class FilterSplat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_FilterSplat",
            display_name="Filter Splat",
            category=host.CATEGORY,
            description="Takes faint, oversized, stray and surplus Gaussians out of any splat, "
            "whoever made it. What stays keeps all its values.",
            search_aliases=["clean splat", "prune gaussians", "remove floaters", "decimate splat"],
            inputs=[
                io.Splat.Input("splat", tooltip="Any splat: LGM's, TripoSplat's, a file's."),
                io.Float.Input(
                    "min_opacity",
                    default=0.02,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Fainter Gaussians go. Higher removes haze, and soft edges with it; 0 "
                    "keeps all.",
                ),
                io.Float.Input(
                    "max_scale",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Gaussians larger than this part of the whole splat's radius go. "
                    "Smaller removes more blobs and needles; 0 = off. Try 0.2.",
                ),
                io.Float.Input(
                    "outliers",
                    default=0.0,
                    min=0.0,
                    max=20.0,
                    step=0.5,
                    tooltip="Gaussians whose neighbors are this many deviations further away than "
                    "usual go. Smaller removes more; 0 = off. Try 4. Takes seconds on a million.",
                ),
                io.Boolean.Input(
                    "keep_largest",
                    default=False,
                    tooltip="Keep only the largest connected cluster: all floaters go, and so do "
                    "real parts that touch nothing.",
                ),
                io.Int.Input(
                    "max_gaussians",
                    default=0,
                    min=0,
                    max=50_000_000,
                    step=1000,
                    tooltip="Keep at most so many, the most visible first. Fewer draw faster and "
                    "make smaller files, with holes when too few; 0 = no limit.",
                ),
            ],
            outputs=[
                io.Splat.Output(display_name="splat", tooltip="What stays, unchanged."),
                io.Int.Output(display_name="removed", tooltip="How many Gaussians went, in all."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, splat, min_opacity, max_scale, outliers, keep_largest, max_gaussians
    ) -> io.NodeOutput:
        from ..lgm.splats.filters import keep_mask

        masks = []
        for index in host.Progress(len(splat.positions)).over(range(len(splat.positions))):
            finite = finite_rows(splat, index)
            with host.cancellable():
                kept = keep_mask(
                    gaussians_from_splat(splat, index, finite),
                    min_opacity=min_opacity,
                    max_scale=max_scale,
                    outliers=outliers,
                    largest_cluster=keep_largest,
                    budget=max_gaussians,
                )
            mask = finite.clone()
            mask[finite] = kept.to(finite.device)
            masks.append(mask)
        return _selected(cls, splat, masks)


class CropSplat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_CropSplat",
            display_name="Crop Splat",
            category=host.CATEGORY,
            description="Keeps the part of any splat inside, or outside, a box or a sphere. "
            "Coordinates are those of the 3D previews: +y up, +z towards you.",
            search_aliases=["trim splat", "cut splat", "crop box", "splat bounding box"],
            inputs=[
                io.Splat.Input("splat", tooltip="Any splat: LGM's, TripoSplat's, a file's."),
                io.DynamicCombo.Input(
                    "shape",
                    options=[
                        io.DynamicCombo.Option(
                            "box",
                            [
                                *(
                                    _length(f"size_{axis}", 2.0, f"Size along {axis}")
                                    for axis in "xyz"
                                ),
                                *(
                                    io.Float.Input(
                                        f"rotate_{axis}",
                                        default=0.0,
                                        min=-180.0,
                                        max=180.0,
                                        step=1.0,
                                        tooltip=f"Turn of the box about {axis}, in degrees; about "
                                        "x first, then y, then z.",
                                    )
                                    for axis in "xyz"
                                ),
                            ],
                        ),
                        io.DynamicCombo.Option("sphere", [_length("radius", 1.0, "Radius")]),
                    ],
                    tooltip="What to cut with. A Gaussian is inside when its center is.",
                ),
                *(
                    io.Float.Input(
                        f"center_{axis}",
                        default=0.0,
                        min=-1000.0,
                        max=1000.0,
                        step=0.01,
                        tooltip=f"Middle of the shape along {axis} ({direction}), world units. "
                        "LGM's objects lie within -1 and 1.",
                    )
                    for axis, direction in zip("xyz", ("right", "up", "towards you"), strict=True)
                ),
                io.Combo.Input(
                    "keep",
                    options=["inside", "outside"],
                    default="inside",
                    tooltip="Which side of the shape stays.",
                ),
            ],
            outputs=[
                io.Splat.Output(display_name="splat", tooltip="What stays, unchanged."),
                io.Int.Output(display_name="removed", tooltip="How many Gaussians went, in all."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, splat, shape: dict, center_x, center_y, center_z, keep) -> io.NodeOutput:
        from ..lgm.splats.crop import box_mask, sphere_mask

        center = torch.tensor([center_x, center_y, center_z])
        masks = []
        for index in range(len(splat.positions)):
            host.check_cancelled()
            positions = gaussians_from_splat(splat, index).positions[0].cpu()
            if shape["shape"] == "sphere":
                inside = sphere_mask(positions, center, shape["radius"])
            else:
                size = torch.tensor([shape[f"size_{axis}"] for axis in "xyz"])
                turn = torch.tensor([shape[f"rotate_{axis}"] for axis in "xyz"])
                inside = box_mask(positions, center, size, turn)
            masks.append(inside if keep == "inside" else ~inside)
        return _selected(cls, splat, masks)


def _selected(node: type, splat, masks: list[torch.Tensor]) -> io.NodeOutput:
    """The node's result, with one line about it on the node.

    Raises:
        ValueError: nothing is left of an object.
    """
    for number, mask in enumerate(masks, start=1):
        if not mask.any():
            raise ValueError(
                f"At least one Gaussian has to stay, but all {len(mask):,} of splat {number} would "
                "go: loosen the settings."
            )
    total = sum(len(mask) for mask in masks)
    left = sum(int(mask.sum()) for mask in masks)
    host.say(node, f"{left:,} of {total:,} Gaussians stay")
    return io.NodeOutput(select_from_splat(splat, masks), total - left)


def _length(name: str, default: float, what: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1000.0,
        step=0.01,
        tooltip=f"{what} of the shape, world units; larger takes in more.",
    )
