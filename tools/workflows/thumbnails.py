"""A square picture for the template browser, drawn from what a workflow has made."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from dataclasses import replace

import av
import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageOps

from lgm.cameras import orbit_poses
from lgm.io import read_ply
from lgm.io.glb import parse
from lgm.mesh import Mesh
from lgm.mesh.draw import draw_mesh
from lgm.mesh.texture import normals_of
from lgm.pictures.encode import to_bytes_image
from lgm.pictures.views import example_objects, view_files
from lgm.render.turntable import draw

Outputs = Callable[[str], list[bytes]]  # key of a node -> the files it has made

SIDE = 512  # pixels
SCALE = 2  # drawn larger, for smooth edges
MOST_BYTES = 80_000
TOP, BOTTOM = (250, 247, 242), (214, 222, 232)  # colors of the background
CORNER = 18
INK = (52, 84, 120)
VIEW = {"azimuth": 30.0, "elevation": 15.0}  # degrees, of the pictures made here


def four_views(outputs: Outputs) -> Image.Image:
    """The splat above the four pictures it comes from."""
    canvas = background()
    put(canvas, splat_picture(outputs("save")[0], 430), 41, -22)
    row(canvas, quarters(opened(outputs("sheet")[0])))
    return canvas


def own_photos(outputs: Outputs) -> Image.Image:
    """The same, with the photos as they were taken."""
    canvas = background()
    put(canvas, splat_picture(outputs("save")[0], 430), 41, -22)
    row(canvas, [opened(photo) for photo in outputs("shown")])
    return canvas


def clean_up(outputs: Outputs) -> Image.Image:
    """Before, and after, on both sides of a line."""
    both = opened(outputs("compared")[0])
    before = both.crop((0, 0, both.width // 2, both.height))
    after = both.crop((both.width // 2, 0, both.width, both.height))
    left, right = background(), background()
    put(left, before, -100, 24, 464)
    put(right, after, 148, 24, 464)
    return halves(left, right)


def turntable(outputs: Outputs) -> Image.Image:
    """Frames of the video on a ring, the nearest last."""
    with av.open(io.BytesIO(outputs("save")[0])) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    canvas, count = background(), 8
    for azimuth in sorted(range(0, 360, 360 // count), key=lambda a: math.cos(math.radians(a))):
        x, near = math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth))
        size = round(215 + 75 * near)
        middle = (256 + 180 * x, 245 + 90 * near)
        frame = frames[azimuth * len(frames) // 360]
        put(canvas, frame, round(middle[0] - size / 2), round(middle[1] - size / 2), size)
    return canvas


def maps(outputs: Outputs) -> Image.Image:
    """Color, mask, depth and normals from the first camera."""
    canvas, side = background(), 226
    pictures = {key: opened(outputs(key)[0]) for key in ("color", "mask", "depth", "normal")}
    middle = around(pictures["mask"])
    for number, picture in enumerate(pictures.values()):
        picture = picture.crop(middle)
        x, y = (20 + (side + 20) * n for n in (number % 2, number // 2))
        tile(canvas, picture, x, y, side)
    return canvas


def mesh(outputs: Outputs) -> Image.Image:
    """Its bare shape, its colors, on both sides of a line; and the texture."""
    solid = read_mesh(outputs("save")[0])
    bare = replace(solid, texture=None, vertex_colors=0.5 + 0.5 * normals_of(solid))
    sides = [background(), background()]
    for side, look in zip(sides, (bare, solid), strict=True):
        put(side, mesh_picture(look, 540), -14, -46)
    canvas = halves(*sides)
    tile(canvas, opened(outputs("texture")[0]), 372, 372, 120)
    return canvas


# Sketches, of workflows whose models are too large to run here: they show the way, not a result.


def from_text() -> Image.Image:
    canvas = background()
    words(canvas, "\u201ca plush toy cow\u201d", 62)
    return sketch(canvas, "spot")


def from_image() -> Image.Image:
    canvas = background()
    tile(canvas, colors_of("fox", 0)[0], 201, 14, 110)
    return sketch(canvas, "fox", 1)


def from_edited_views() -> Image.Image:
    canvas = background()
    tile(canvas, colors_of("spot", 0)[0], 201, 14, 110)
    sketch(canvas, "spot")
    draw_ = ImageDraw.Draw(canvas)
    ends = [(118, 178), (58, 238)]  # a pencil on the first view
    for color, width in (((250, 250, 250), 22), ((232, 150, 40), 14)):
        draw_.line([tuple(SCALE * v for v in end) for end in ends], color, width * SCALE)
    tip = [(52, 245), (53, 231), (65, 243)]
    draw_.polygon([tuple(SCALE * v for v in corner) for corner in tip], (70, 60, 50))
    return canvas


def from_other_models() -> Image.Image:
    canvas = background()
    words(canvas, "any multi-view model", 62)
    return sketch(canvas, "fox", 1)


def sketch(canvas: Image.Image, name: str, side: int = 0) -> Image.Image:
    """Below what is there: the outlines of an object from four sides, and one side in spots."""
    for number in range(4):
        _, alpha = colors_of(name, number)
        outline = Image.new("RGB", alpha.size, "white")
        outline.paste(INK, mask=alpha)
        tile(canvas, outline, 22 + number * 120, 158, 108)
    colors, alpha = colors_of(name, side)
    draw_, made, size = ImageDraw.Draw(canvas), random.Random(0), 250
    shown, solid = colors.resize((size, size)), alpha.resize((size, size))
    for _ in range(9000):
        x, y = made.randrange(size), made.randrange(size)
        if solid.getpixel((x, y)) > 127:
            center = [SCALE * v for v in (131 + x, 270 + y)]
            radii = [SCALE * made.uniform(1.5, 4.5) for _ in range(2)]
            box = [c + sign * r for sign in (-1, 1) for c, r in zip(center, radii, strict=True)]
            draw_.ellipse(box, shown.getpixel((x, y)))
    for top in (134, 274):
        arrow = [(244, top), (268, top), (256, top + 14)]
        draw_.polygon([tuple(SCALE * v for v in corner) for corner in arrow], INK)
    return canvas


def colors_of(name: str, number: int) -> tuple[Image.Image, Image.Image]:
    """An example's picture on white and its alpha."""
    picture = Image.open(view_files(example_objects()[name])[number]).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB"), picture.getchannel("A")


def words(canvas: Image.Image, text: str, y: int) -> None:
    font = ImageFont.load_default(38 * SCALE)
    middle = (canvas.width / 2, y * SCALE)
    ImageDraw.Draw(canvas).text(middle, text, INK, font=font, anchor="mm")


SKETCHED = {
    "Text to Splat and Mesh": from_text,
    "Image to Splat and Mesh": from_image,
    "Image to Edited Views to Splat": from_edited_views,
    "Other Multi-View Model to Splat": from_other_models,
}

DRAWN = {
    "Four Views to Splat": four_views,
    "Own Photos to Splat": own_photos,
    "Clean Up a Splat": clean_up,
    "Splat to Turntable Video": turntable,
    "Splat to Depth and Normal Maps": maps,
    "Four Views to Textured Mesh": mesh,
}


def jpeg(canvas: Image.Image) -> bytes:
    """As good as fits into MOST_BYTES."""
    small = canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in range(92, 40, -4):
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def splat_picture(file: bytes, size: int) -> Image.Image:
    """A .ply from a little above, on white."""
    gaussians = read_ply(file)
    pose = orbit_poses([VIEW["azimuth"]], VIEW["elevation"])
    pixels = next(draw(gaussians, pose, size * SCALE)).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def read_mesh(file: bytes) -> Mesh:
    """The one mesh of a .glb of core's Save 3D Model, with its texture."""
    document, binary = parse("the mesh", file)

    def part(view: int) -> bytes:
        start = document["bufferViews"][view].get("byteOffset", 0)
        return binary[start : start + document["bufferViews"][view]["byteLength"]]

    def values(accessor: int, kind: str, width: int) -> torch.Tensor:
        data = part(document["accessors"][accessor]["bufferView"])
        return torch.from_numpy(np.frombuffer(data, kind).reshape(-1, width).copy())

    primitive = document["meshes"][0]["primitives"][0]
    pixels = np.asarray(opened(part(document["images"][0]["bufferView"])))
    return Mesh(
        values(primitive["attributes"]["POSITION"], "<f4", 3),
        values(primitive["indices"], "<u4", 3).long(),
        uvs=values(primitive["attributes"]["TEXCOORD_0"], "<f4", 2),
        texture=torch.from_numpy(pixels / np.float32(255)),
    )


def mesh_picture(mesh: Mesh, size: int) -> Image.Image:
    """The same of a mesh."""
    pose = orbit_poses([VIEW["azimuth"]], VIEW["elevation"])
    return to_bytes_image(draw_mesh(mesh, pose, size * SCALE)[0][0])


def quarters(sheet: Image.Image) -> list[Image.Image]:
    """The four pictures of a contact sheet."""
    side = sheet.width // 4
    return [sheet.crop((n * side, 0, (n + 1) * side, sheet.height)) for n in range(4)]


def around(mask: Image.Image) -> tuple[int, int, int, int]:
    """The square that shows what is white, with a margin."""
    left, top, right, bottom = mask.convert("L").point(lambda value: 255 * (value > 127)).getbbox()
    half = round(0.6 * max(right - left, bottom - top))
    x, y = (left + right) // 2, (top + bottom) // 2
    return x - half, y - half, x + half, y + half


def background() -> Image.Image:
    ramp = Image.linear_gradient("L").resize((SIDE * SCALE, SIDE * SCALE))
    return ImageOps.colorize(ramp, TOP, BOTTOM)


def put(canvas: Image.Image, picture: Image.Image, x: int, y: int, size: int = 0) -> None:
    """What stands on white, without the white, in front of what is there already."""
    side = (size * SCALE,) * 2 if size else picture.size
    placed = Image.new("RGB", canvas.size, "white")
    placed.paste(picture.resize(side, Image.Resampling.LANCZOS), (x * SCALE, y * SCALE))
    darkest = ImageChops.darker(ImageChops.darker(*placed.split()[:2]), placed.split()[2])
    covers = darkest.point(lambda value: 10 * (235 - value))  # not the haze around it
    canvas.paste(background(), mask=covers)  # else what is behind would shine through
    canvas.paste(ImageChops.multiply(canvas, placed))


def tile(canvas: Image.Image, picture: Image.Image, x: int, y: int, side: int) -> None:
    """A picture with round corners."""
    size = (side * SCALE, side * SCALE)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *size), CORNER * SCALE, fill=255)
    fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    canvas.paste(fitted, (x * SCALE, y * SCALE), mask)


def halves(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two canvases, each on one side of a slanted white line."""
    canvas, side = left.copy(), left.width
    half = Image.new("L", canvas.size)
    ImageDraw.Draw(half).polygon(
        [(side * 0.54, 0), (side, 0), (side, side), (side * 0.46, side)], fill=255
    )
    canvas.paste(right, mask=half)
    line = ImageDraw.Draw(canvas)
    line.line([(side * 0.54, 0), (side * 0.46, side)], fill=(255, 255, 255), width=3 * SCALE)
    return canvas


def row(canvas: Image.Image, pictures: list[Image.Image]) -> None:
    """Four pictures along the lower edge."""
    for number, picture in enumerate(pictures):
        tile(canvas, picture, 22 + number * 120, 384, 108)
