"""Example pictures, and pictures in the order the network wants."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lgm.network.presets import VIEW_COUNT
from ..lgm.pictures import load
from ..lgm.pictures import resample as preprocess
from ..lgm.pictures.encode import contact_sheet
from ..lgm.pictures.views import example_objects, view_files
from .border import host
from .border.pictures import (
    fit_mask,
    image_from_pictures,
    object_mask,
    on_color,
    pictures_from_image,
    with_alpha,
)
from .border.views import SIDES

ORDERS = {  # where they stand in the batch
    "front, left, back, right": (0, 1, 2, 3),
    "MVDream": (1, 2, 3, 0),
    "custom": None,
}


class ExampleViews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = list(example_objects())
        return io.Schema(
            node_id="LGM_ExampleViews",
            display_name="Example Views",
            category=host.CATEGORY,
            description="Four pictures of a real object that come with LGM Splats, to try a "
            "workflow without files of your own.",
            search_aliases=["sample object", "test views", "demo images"],
            inputs=[
                io.Combo.Input(
                    "object",
                    options=names,
                    default=names[0],
                    tooltip="The object; example_workflows/inputs/CREDITS.md names its maker and "
                    "license.",
                ),
                io.Color.Input(
                    "background",
                    default="#ffffff",
                    tooltip="Color behind the object. LGM wants white.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="views",
                    tooltip="Four pictures: front, its own left, back, its own right.",
                ),
                io.Mask.Output(display_name="masks", tooltip="1 where the object is."),
            ],
        )

    @classmethod
    def execute(cls, object: str, background: str) -> io.NodeOutput:
        paths = view_files(example_objects()[object])
        rgba = torch.stack([load.load_image(path) for path in paths])
        image = image_from_pictures(on_color(rgba, background))
        return io.NodeOutput(host.outgoing(image), host.outgoing(rgba[:, 3]))


class ArrangeViews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sides = (
            ("front", "The side that shall face you."),
            (
                "left",
                "The object's own left side: what a camera on the right of the front view sees.",
            ),
            ("back", "What a camera behind the object sees."),
            ("right", "The object's own right side."),
        )
        order = io.Combo.Input(
            "order",
            options=list(ORDERS),
            default="front, left, back, right",
            tooltip="How the pictures follow each other. 'MVDream' also fits ImageDream: right, "
            "front, left, back. Sides are the object's own.",
        )
        custom = io.String.Input(
            "custom_order",
            default="0, 1, 2, 3",
            advanced=True,
            tooltip="For order 'custom': which pictures, counted from 0, are front, left, back, "
            "right. With more than four to choose from, the rest is dropped.",
        )
        return io.Schema(
            node_id="LGM_ArrangeViews",
            display_name="Arrange Views",
            category=host.CATEGORY,
            description="Four pictures of an object, from wherever they come, in the order LGM "
            "needs: front, left, back, right.",
            search_aliases=["four views", "multi-view", "2x2 grid", "split grid", "view order"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[
                        # The page can't make a node whose first option has no widget.
                        io.DynamicCombo.Option(
                            "batch",
                            [
                                io.Image.Input("images", tooltip="4 pictures for each object."),
                                order,
                                custom,
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "four images",
                            [io.Image.Input(name, tooltip=text) for name, text in sides],
                        ),
                        io.DynamicCombo.Option(
                            "2x2 grid",
                            [
                                io.Image.Input(
                                    "grid",
                                    tooltip="A picture of four equal parts, read row by row; a "
                                    "batch makes one object of each.",
                                ),
                                order,
                                custom,
                            ],
                        ),
                    ],
                    tooltip="Where the pictures come from.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="1 where the object is, for each picture in the order they come in; "
                    "the rest becomes background.",
                ),
                io.Color.Input(
                    "background",
                    default="#ffffff",
                    advanced=True,
                    tooltip="Color behind the objects where masks or alpha say so. LGM wants "
                    "white.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="views", tooltip="Four pictures for each object, in order."
                ),
                io.Image.Output(
                    display_name="contact_sheet",
                    tooltip="One picture for each object with its four views side by side, to "
                    "check the order by eye.",
                ),
            ],
        )

    @classmethod
    def execute(cls, source: dict, background: str, masks=None) -> io.NodeOutput:
        pictures = gather(source).cpu()
        if masks is not None:
            pictures = with_alpha(pictures)
            alpha = object_mask(fit_mask(masks.cpu(), len(pictures), *pictures.shape[-2:]))
            pictures = torch.cat([pictures[:, :3], pictures[:, 3:] if alpha is None else alpha], 1)
        views = pictures[picture_order(source, len(pictures))]
        if views.shape[1] == 4:
            views = on_color(views, background)
        sheets = [contact_sheet(four, columns=VIEW_COUNT) for four in views.split(VIEW_COUNT)]
        return io.NodeOutput(
            host.outgoing(image_from_pictures(views)),
            host.outgoing(image_from_pictures(torch.stack(sheets))),
        )


def gather(source: dict) -> Tensor:
    """All pictures [N, C, H, W] in the order they come in, four after four.

    Raises:
        ValueError: they don't make whole objects.
    """
    match source["source"]:
        case "four images":
            return _interleave([pictures_from_image(source[side]) for side in SIDES])
        case "2x2 grid":
            return _quarters(pictures_from_image(source["grid"]))
        case _:
            return pictures_from_image(source["images"])


def _interleave(sides: list[Tensor]) -> Tensor:
    counts = [len(side) for side in sides]
    if len(set(counts)) > 1:
        raise ValueError(
            "Front, left, back and right need equally many pictures, got "
            f"{', '.join(map(str, counts))}."
        )
    if len({side.shape[1:] for side in sides}) > 1:  # padded, since stretching bends the object
        size = max(sides[0].shape[-2:])
        sides = [torch.stack([preprocess.square(p, size) for p in with_alpha(s)]) for s in sides]
    return torch.stack(sides, dim=1).flatten(0, 1)


def _quarters(grids: Tensor) -> Tensor:
    height, width = grids.shape[-2] // 2, grids.shape[-1] // 2
    if min(height, width) < 2:
        raise ValueError(f"A 2x2 grid of pictures is needed, got {list(grids.shape[-2:])} pixels.")
    rows = [grids[..., y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return torch.stack(rows, dim=1).flatten(0, 1)


def picture_order(source: dict, count: int) -> list[int]:
    """Which pictures are front, left, back and right of each object, in this order.

    Raises:
        ValueError: not four for each object, or a custom order that isn't one.
    """
    name = source.get("order", "front, left, back, right")
    order = ORDERS[name] or _custom_order(source["custom_order"])
    if name == "custom" and max(order) >= VIEW_COUNT:
        if max(order) >= count:
            raise ValueError(
                f"The custom order asks for picture {max(order)}, but the last of {count} has "
                f"number {count - 1}: count from 0."
            )
        return list(order)
    if not count or count % VIEW_COUNT:
        raise ValueError(
            f"Four pictures for each object are needed, got {count}: add the missing ones, or "
            "choose four with a custom order."
        )
    return [start + i for start in range(0, count, VIEW_COUNT) for i in order]


def _custom_order(text: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").split()
    if len(parts) != VIEW_COUNT or not all(part.isdecimal() for part in parts):
        raise ValueError(
            f"A custom order needs four numbers for front, left, back and right, like "
            f"'0, 1, 2, 3', got {text!r}."
        )
    return tuple(map(int, parts))
