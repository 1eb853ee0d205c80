"""Recipes for what people make: vessels, furniture, vehicles, clothes, devices, houses, tools."""

from __future__ import annotations

import numpy as np

from . import procedural_shapes as shapes
from .procedural_sketch import Sketch


def vessel(s: Sketch) -> None:
    """Vases, bowls, jars, cups, jugs, teapots."""
    height, body = s.between(0.5, 2.0), s.material(s.pick(("ceramic", "any", "metal", "plain")))
    count = s.pick((3, 4, 5, 6))
    radii = s.several(count, 0.3, 0.8)
    if s.chance(0.3):  # a cup or bowl
        height, radii = s.between(0.5, 1.1), np.sort(s.several(count, 0.4, 0.8))
    heights = np.linspace(0, height, count)
    opened = s.chance(0.65)
    s.add(shapes.lathe(s.wall(radii, heights, opened), s.section()), body)
    outline = shapes.spline(np.column_stack([heights, radii]), 20)

    def radius_at(h: float) -> float:
        return float(np.interp(h, outline[:, 0], outline[:, 1]))

    trim = body if s.chance(0.6) else s.material("ceramic")
    if s.chance(0.45):  # handles
        low, high = height * s.between(0.15, 0.35), height * s.between(0.65, 0.92)
        reach = s.between(0.2, 0.45)
        path = [
            [radius_at(low) * 0.95, low, 0],
            [radius_at(low) + reach, low + 0.1 * height, 0],
            [radius_at(high) + reach, high, 0],
            [radius_at(high) * 0.95, high, 0],
        ]
        s.limb(path, s.several(3, 0.04, 0.1), trim, s.between(0.7, 2.0), mirror=s.chance(0.4))
    if s.chance(0.2):  # a spout
        low = height * 0.4
        path = [
            [-radius_at(low) * 0.9, low, 0],
            [-radius_at(low) - 0.3, height * 0.6, 0],
            [-radius_at(low) - 0.5, height, 0],
        ]
        s.limb(path, [0.16, 0.1, 0.06], trim)
    if not opened or s.chance(0.15):  # a lid
        r = radii[-1]
        s.ball((0, height, 0), (r * 1.03, s.between(0.1, 0.4) * r, r * 1.03), trim)
        s.ball((0, height + 0.3 * r, 0), r * s.between(0.12, 0.25), s.material("plain"))
    if s.chance(0.35):
        s.ring((0, height, 0), radii[-1] * 0.97, s.between(0.02, 0.06), trim)
    if s.chance(0.35):
        s.rod((0, 0, 0), radii[0] * s.between(0.9, 1.15), s.between(0.06, 0.15), trim)


def bottle(s: Sketch) -> None:
    """Bottles, flasks, tubes, spray cans, jars with a screw cap."""
    radius, shoulder, neck = s.between(0.3, 0.55), s.between(0.7, 1.4), s.between(0.08, 0.25)
    top = shoulder + s.between(0.15, 0.6)
    radii = [radius * 0.97, radius, radius * s.between(0.85, 1.1), radius, neck * 1.1, neck]
    heights = [0, 0.08, shoulder * 0.5, shoulder, top - 0.12, top]
    section = s.section()
    flat = np.array([1, 1, s.between(0.4, 1)]) if s.chance(0.3) else np.ones(3)
    s.add(
        shapes.lathe(s.wall(radii, heights, False), section) * flat,
        s.material(s.pick(("plain", "ceramic", "painted"))),
    )
    if s.chance(0.7):  # a label around the belly
        bottom, upper = shoulder * s.between(0.1, 0.35), shoulder * s.between(0.6, 0.95)
        middle, band = (bottom + upper) / 2, radius * 1.03
        s.add(
            shapes.prism(section, upper - bottom, bevel=0.01) * np.array([band, 1, band]) * flat,
            s.material("painted"), (0, middle, 0),
        )  # fmt: skip
    cap = s.material("plain")
    s.rod(
        (0, top, 0), neck * s.between(1.05, 1.5), s.between(0.12, 0.4), cap, s.pick((1.0, 0.9, 0.7))
    )
    if s.chance(0.2):  # a pump or nozzle
        s.rod((0, top + 0.25, 0), 0.05, 0.3, cap)
        s.box((0, top + 0.42, 0.1), (0.07, 0.05, 0.2), cap, 6)


def lantern(s: Sketch) -> None:
    """Lanterns, lamps, torches."""
    metal, glass = s.material("metal"), s.material("plain", s.several(3, 0.6, 1.0))
    radius, height, count = s.between(0.3, 0.5), s.between(0.6, 1.1), s.pick((0, 3, 4, 4, 6))
    section = shapes.polygon(count) if count > 3 and s.chance(0.6) else shapes.superellipse()
    s.rod((0, 0, 0), radius * 1.25, 0.2, metal, 0.85, section)
    s.rod(
        (0, height / 2, 0), radius * s.between(0.7, 0.95), height, glass, s.between(0.7, 1), section
    )
    for k in range(count):
        angle = 2 * np.pi * k / count
        x, z = radius * 1.05 * np.cos(angle), radius * 1.05 * np.sin(angle)
        s.limb([[x, 0, z], [x * 0.97, height, z * 0.97]], s.between(0.025, 0.06), metal)
    s.rod((0, height + 0.15, 0), radius * 1.3, 0.3, metal, s.between(0.2, 0.7), section)
    s.ball((0, height + 0.35, 0), 0.14, metal)
    if s.chance(0.8):
        s.ring(
            (0, height + 0.55, 0), s.between(0.12, 0.3), 0.03, metal, turn=(90, s.between(0, 90), 0)
        )
    if s.chance(0.3):
        s.limb(
            np.array([[-1.2, 0.1, 0], [-1.7, 1, 0], [0, 2, 0], [1.7, 1, 0], [1.2, 0.1, 0]])
            * [radius, height, 1],
            0.03, metal,
        )  # fmt: skip


def lamp(s: Sketch) -> None:
    """A foot, a stem and a shade."""
    foot, shade = s.material(), s.material("fabric")
    height, radius = s.between(0.8, 1.8), s.between(0.35, 0.7)
    s.rod((0, 0, 0), s.between(0.25, 0.5), s.between(0.06, 0.2), foot, s.between(0.5, 1))
    if s.chance(0.5):
        count = s.pick((4, 5, 6, 7))
        profile = s.wall(s.several(count, 0.05, 0.3), np.linspace(0, height, count), False)
        s.add(shapes.lathe(profile, s.section()), foot)
    else:
        s.rod((0, height / 2, 0), 0.05, height, foot)
    s.rod(
        (0, height + 0.2, 0),
        radius,
        s.between(0.4, 0.8),
        shade,
        s.between(0.4, 1),
        s.section(),
        0.02,
    )


def seat(s: Sketch) -> None:
    """Chairs, stools, armchairs, sofas, benches."""
    frame, cushion = s.material(s.pick(("wood", "metal", "plain"))), s.material("fabric")
    soft = s.chance(0.45)
    width, depth, height = (
        s.between(0.4, 0.6) * (s.pick((1, 1, 1.8)) if soft else 1),
        s.between(0.4, 0.55),
        s.between(0.35, 0.8),
    )
    thick = s.between(0.12, 0.25) if soft else s.between(0.04, 0.08)
    s.box(
        (0, height, 0), (width, thick, depth), cushion, s.pick((5, 8)) if soft else s.pick((8, 20))
    )
    if s.chance(0.85):
        tall, lean = s.between(0.4, 1.0), s.between(0, 15)
        if s.chance(0.6) or soft:
            s.box(
                (0, height + tall * 0.55, -depth - tall * 0.1),
                (width * s.between(0.85, 1), tall * 0.55, thick * s.between(0.5, 1)),
                cushion,
                s.pick((4, 8)),
                turn=(-lean, 0, 0),
            )
        else:
            s.limb(
                [[width * 0.9, height, -depth * 0.9], [width * 0.9, height + tall, -depth - 0.1]],
                0.05,
                frame,
                mirror=True,
            )
            for k in range(s.pick((2, 3))):
                y = height + tall * (0.4 + 0.25 * k)
                s.box((0, y, -depth - 0.04 * k), (width * 0.9, 0.07, 0.035), frame, 8)
    if s.chance(0.5 if soft else 0.3):  # arms
        s.box(
            (width * 1.02, height + s.between(0.15, 0.3), 0),
            (s.between(0.05, 0.15), s.between(0.05, 0.3), depth),
            cushion if soft else frame,
            6,
            mirror=True,
        )
    if s.chance(0.15):  # one foot
        s.rod((0, height / 2, 0), 0.08, height, frame)
        s.rod((0, 0, 0), width * 0.8, 0.08, frame, 0.7)
    else:
        r, splay = s.between(0.03, 0.08), s.between(0.8, 1.15)
        for z in (1, -1):
            s.limb(
                [
                    [width * 0.88, height, z * depth * 0.88],
                    [width * 0.88 * splay, 0, z * depth * 0.88 * splay],
                ],
                [r, r * s.between(0.5, 1.1)],
                frame,
                mirror=True,
            )


def table(s: Sketch) -> None:
    """Tables, desks, chests of drawers, shelves, beds, stoves."""
    wood, trim = s.material(s.pick(("wood", "painted", "plain"))), s.material("plain")
    width, depth, height = s.between(0.5, 0.9), s.between(0.3, 0.6), s.between(0.4, 1.2)
    if s.chance(0.5):  # a cabinet: drawers or doors with knobs
        s.box((0, height / 2, 0), (width, height / 2, depth), wood, 20)
        rows, columns = s.pick((1, 2, 3)), s.pick((1, 2))
        front = wood if s.chance(0.5) else s.material("wood")
        for row in range(rows):
            y, half = height * (row + 0.5) / rows, height * 0.44 / rows
            for column in range(columns):
                x = width * ((column + 0.5) / columns * 2 - 1)
                s.box((x, y, depth), (width * 0.92 / columns, half, 0.03), front, 20)
                s.ball((x, y, depth + 0.05), s.between(0.03, 0.06), trim)
        s.box((0, height, 0), (width * 1.05, 0.04, depth * 1.05), wood, 20)
        return
    top = shapes.superellipse(s.pick((2, 4, 20)))
    s.add(shapes.prism(top, s.between(0.06, 0.14)) * [width, 1, depth], wood, (0, height, 0))
    if s.chance(0.3):
        s.rod((0, height / 2, 0), 0.1, height, trim, s.between(0.4, 1))
        s.rod((0, 0, 0), depth * 0.7, 0.08, trim, 0.6)
    else:
        r = s.between(0.03, 0.08)
        for z in (1, -1):
            s.limb(
                [
                    [width * 0.65, height, z * depth * 0.65],
                    [width * s.between(0.6, 0.85), 0, z * depth * 0.7],
                ],
                [r, r * 0.7],
                wood,
                mirror=True,
            )
    for _ in range(s.pick((0, 1, 2))):  # things on it
        size = s.between(0.1, 0.22)
        s.ball(
            [s.between(-0.5, 0.5) * width, height + size, s.between(-0.4, 0.4) * depth],
            size * s.several(3, 0.6, 1),
            s.material(),
            s.pick((2, 20)),
            s.pick((2, 20)),
        )


def car(s: Sketch) -> None:
    """Cars, buses, trucks, trains."""
    paint, glass, rubber = (
        s.material("painted"),
        s.material("plain", s.several(3, 0.05, 0.35)),
        s.dark(),
    )
    length, width, low = s.between(0.8, 1.2), s.between(0.35, 0.5), s.between(0.15, 0.25)
    high = s.between(0.15, 0.3)
    s.box((0, low + high, 0), (width, high, length), paint, s.pick((4, 6, 8)))
    cabin = s.between(0.35, 0.75) * length
    z, tall = s.between(-0.4, 0.2) * length, s.between(0.15, 0.35)
    roof = low + 2 * high + tall * 0.6
    s.box((0, roof, z), (width * 0.88, tall, cabin), paint, s.pick((3, 4, 6)))
    s.box((0, roof + 0.02, z), (width * 0.91, tall * 0.55, cabin * 0.8), glass, 6)
    s.box((0, roof + 0.02, z), (width * 0.75, tall * 0.55, cabin * 1.03), glass, 6)
    wheel = s.between(0.15, 0.26)
    hub = s.material("metal")
    for end in (0.6, -0.6):
        s.rod(
            (width * 0.95, wheel, end * length),
            wheel,
            0.16,
            rubber,
            turn=(0, 0, 90),
            mirror=True,
            bevel=0.15,
        )
        s.rod(
            (width * 0.97, wheel, end * length),
            wheel * 0.55,
            0.17,
            hub,
            turn=(0, 0, 90),
            mirror=True,
        )
    s.ball(
        (width * 0.65, low + high * 1.1, length * 0.97),
        s.between(0.05, 0.1),
        s.material("plain", [1, 0.95, 0.7]),
        mirror=True,
    )
    s.box((0, low + high * 0.4, length), (width * 0.9, 0.05, 0.05), hub, 8)


def craft(s: Sketch) -> None:
    """Planes, rockets, boats."""
    hull, trim = s.material("painted"), s.material("painted")
    length, radius = s.between(0.8, 1.1), s.between(0.14, 0.35)
    kind = s.between(0, 1)
    if kind < 0.45:  # plane
        s.add(
            shapes.loft(
                [[0, length], [0, length * 0.6], [0, 0], [0.05, -length * 0.7], [0.1, -length]],
                radius * np.array([0.3, 0.85, 1, 0.6, 0.2]),
                radius * np.array([0.3, 0.85, 1, 0.6, 0.25]),
            ),
            hull,
        )
        span, sweep = s.between(0.7, 1.2), s.between(0, 0.5)
        s.limb(
            [[0, 0, 0.1], [span, s.between(-0.05, 0.2), 0.1 - sweep]],
            [s.between(0.2, 0.3), s.between(0.08, 0.2)],
            trim,
            0.18,
            mirror=True,
        )
        s.limb(
            [[0, 0.1, -length * 0.85], [span * 0.4, 0.1, -length * 0.95]],
            [0.14, 0.08],
            trim,
            0.2,
            mirror=True,
        )
        s.limb([[0, 0.1, -length * 0.85], [0, 0.5, -length]], [0.16, 0.09], trim, 0.2)
        s.ball(
            (0, radius * 0.8, length * 0.35), (radius * 0.6, radius * 0.5, radius * 1.2), s.dark()
        )
        if s.chance(0.5):
            s.add(
                shapes.tube([[0.4, -0.12, 0.3], [0.4, -0.12, -0.1]], 0.09),
                s.material("metal"),
                mirror=True,
            )
    elif kind < 0.7:  # rocket
        s.add(
            shapes.lathe(
                s.wall(
                    radius * np.array([0.8, 1.1, 1.2, 0.9, 0.15]),
                    length * np.array([-1, -0.5, 0, 0.5, 1]),
                    False,
                )
            ),
            hull,
        )
        for k in range(s.pick((3, 4))):
            angle = 6.2832 * k / 4
            c, n = np.cos(angle), np.sin(angle)
            s.limb(
                [
                    [c * radius * 0.7, -length * 0.4, n * radius * 0.7],
                    [c * radius * 2.2, -length * 1.1, n * radius * 2.2],
                ],
                [0.2, 0.08],
                trim,
                0.2,
            )
        s.ball((0, length * 0.2, radius * 1.05), radius * 0.4, s.dark())
        s.rod((0, -length, 0), radius * 0.8, 0.25, s.material("metal"), 0.6)
    else:  # boat
        s.add(
            shapes.loft(
                [
                    [0.15, length],
                    [0, length * 0.6],
                    [-0.05, 0],
                    [0, -length * 0.8],
                    [0.05, -length],
                ],
                radius * np.array([0.1, 0.9, 1.3, 1.1, 0.8]),
                [0.15, 0.22, 0.25, 0.22, 0.2],
                s.pick((2, 3)),
            ),
            hull,
        )
        s.box((0, 0.2, 0), (radius * 1.1, 0.04, length * 0.75), s.material("wood"), 3)
        s.box((0, 0.35, -0.2), (radius * 0.7, 0.18, length * 0.3), trim, 8)
        s.rod((0, 0.8, 0), 0.035, 1.2, s.material("wood"))
        if s.chance(0.6):
            s.ball(
                (0, 0.9, 0.15),
                (0.03, 0.45, s.between(0.3, 0.6)),
                s.material("fabric"),
                2,
                s.pick((1, 2)),
            )


def shoe(s: Sketch) -> None:
    """Shoes, boots, slippers."""
    upper, sole, detail = (
        s.material(s.pick(("fabric", "plain", "painted"))),
        s.material("plain"),
        s.material("plain"),
    )
    length, width = s.between(0.8, 1.05), s.between(0.27, 0.38)
    toe, boot = s.between(0.14, 0.22), s.between(0.1, 0.9) * s.pick((0.3, 0.5, 1))
    z = length * np.array([1, 0.75, 0.4, 0, -0.45, -0.85, -1.0])
    widths = width * np.array([0.35, 0.9, 1.02, 0.85, 0.72, 0.75, 0.45])
    tops = np.array([toe * 0.6, toe, toe * 1.25, toe * 1.9, toe * 2.2, toe * 2.1, toe * 1.6])
    s.add(
        shapes.loft(np.column_stack([tops * 0.5, z]), widths, tops * 0.62, s.pick((2, 2.5, 3))),
        upper,
        bump=(s.between(0, 0.015), 2),
    )
    thick, heel = s.between(0.04, 0.1), s.between(0, 0.15)
    s.add(
        shapes.loft(
            np.column_stack([-0.06 - heel * np.array([0, 0, 0, 0, 0.4, 0.9, 1]), z * 1.03]),
            widths * 1.08,
            np.full(7, thick) + heel * np.array([0, 0, 0, 0, 0.4, 0.9, 1]),
            5,
        ),
        sole,
    )
    ankle = toe * 1.8 + boot
    s.add(
        shapes.lathe(
            s.wall([0.8, 0.85, 0.9, s.between(0.85, 1.05)], np.linspace(0.08, ankle, 4), True)
        )
        * [width * 0.85, 1, length * 0.42],
        upper if s.chance(0.6) else detail,
        (0, 0, -length * 0.5),
    )
    for k in range(s.pick((0, 3, 4, 5))):  # laces
        t = 0.12 + 0.13 * k
        y = np.interp(length * (0.45 - t), z[::-1], tops[::-1]) * 1.08
        s.limb(
            [
                [-width * 0.42, y - 0.05, length * (0.45 - t)],
                [0, y + 0.03, length * (0.46 - t)],
                [width * 0.42, y - 0.05, length * (0.45 - t)],
            ],
            0.022,
            detail,
        )
    if s.chance(0.5):  # a stripe on both sides
        s.limb(
            [
                [width * 0.85, 0.05, length * 0.3],
                [width * 0.78, toe * 1.2, -length * 0.2],
                [width * 0.7, toe * 1.5, -length * 0.5],
            ],
            [0.03, 0.07, 0.04],
            detail,
            0.4,
            mirror=True,
        )
    if s.chance(0.4):
        s.ball((0, 0.03, length * 0.82), (width * 0.8, toe * 0.75, length * 0.25), detail)


def helmet(s: Sketch) -> None:
    """Helmets, hats, caps, crowns."""
    shell, visor, trim = (
        s.material(s.pick(("painted", "metal", "plain"))),
        s.dark(),
        s.material("metal"),
    )
    if s.chance(0.35):  # a hat: crown and brim
        crown, r = s.between(0.3, 0.8), s.between(0.4, 0.55)
        stuff = s.material("fabric")
        s.rod((0, crown / 2, 0), r, crown, stuff, s.between(0.5, 1.05), bevel=0.2)
        s.add(
            shapes.prism(shapes.superellipse(), 0.06)
            * [r * s.between(1.4, 2), 1, r * s.between(1.4, 2.1)],
            stuff,
            bump=(0.03, 1),
        )
        s.rod((0, 0.1, 0), r * 1.03, 0.14, trim, 0.97)
        return
    radii = np.array([s.between(0.5, 0.62), s.between(0.5, 0.65), s.between(0.58, 0.72)])
    profile = s.wall(
        [1.0, 1.02, 0.95, 0.6, 0.05], [-s.between(0.3, 0.8), -0.2, 0.35, 0.85, 1.0], True
    )
    if s.chance(0.7):
        s.add(shapes.lathe(profile) * radii, shell)
    else:
        s.ball((0, 0, 0), radii, shell)
    if s.chance(0.75):
        s.ball(
            (0, s.between(-0.15, 0.1), radii[2] * 0.12),
            radii * [0.92, s.between(0.25, 0.5), 0.95],
            visor,
            s.pick((2, 3)),
            s.pick((2, 4)),
        )
    if s.chance(0.6):
        s.box(
            (0, -radii[1] * 0.6, radii[2] * 0.45),
            (radii[0] * 0.7, s.between(0.1, 0.22), radii[2] * 0.6),
            shell if s.chance(0.5) else trim,
            s.pick((3, 4, 6)),
        )
    if s.chance(0.5):
        s.limb(
            [
                [0, radii[1] * 0.4, radii[2] * 0.95],
                [0, radii[1] * 1.03, 0],
                [0, radii[1] * 0.2, -radii[2] * 1.0],
            ],
            s.between(0.04, 0.1),
            trim,
            s.between(1, 3),
        )
    if s.chance(0.6):
        s.rod(
            (radii[0], -0.05, 0),
            s.between(0.1, 0.22),
            0.12,
            trim,
            0.8,
            turn=(0, 0, -90),
            mirror=True,
        )
    if s.chance(0.4):
        s.ring((0, -radii[1] * s.between(0.2, 0.7), 0), radii[0] * 1.0, 0.05, trim)
    if s.chance(0.35):  # hoses or horns
        s.limb(
            [[radii[0] * 0.7, 0.3, 0], [radii[0] * 1.4, 0.5, 0], [radii[0] * 1.5, 1.0, 0.1]],
            [0.13, 0.1, 0.03],
            trim,
            mirror=True,
        )


def device(s: Sketch) -> None:
    """Cameras, radios, consoles, clocks, engines, televisions."""
    case, dark, metal = (
        s.material(s.pick(("plain", "painted", "metal", "wood"))),
        s.dark(),
        s.material("metal"),
    )
    half = np.array([s.between(0.4, 0.8), s.between(0.3, 0.6), s.between(0.15, 0.5)])
    s.box((0, 0, 0), half, case, s.pick((6, 8, 12, 20)))
    if s.chance(0.4):
        s.box(
            (0, -half[1] * s.between(0, 0.2), 0), half * [1.02, s.between(0.3, 0.7), 1.03], dark, 8
        )
    x, depth = s.pick((0, 0, 0.3)) * half[0], half[2]
    if s.chance(0.7):  # a lens or loudspeaker
        radius, z = half[1] * s.between(0.35, 0.85), depth
        for _ in range(s.pick((1, 2, 3))):
            length = s.between(0.08, 0.35)
            s.rod(
                (x, 0, z + length * 0.4),
                radius,
                length,
                s.pick((dark, metal, case)),
                s.between(0.85, 1),
                turn=(90, 0, 0),
            )
            z, radius = z + length * 0.8, radius * s.between(0.75, 0.95)
        s.ball(
            (x, 0, z + 0.01),
            (radius * 0.85, radius * 0.85, 0.05),
            s.material("plain", s.several(3, 0.05, 0.4)),
        )
    else:  # a screen
        s.box(
            (x * 0.5, half[1] * 0.1, depth),
            (half[0] * 0.7, half[1] * 0.7, 0.03),
            s.material("any"),
            12,
        )
    for _ in range(s.pick((1, 2, 3, 4))):  # knobs
        where = [s.between(-0.8, 0.8) * half[0], half[1], s.between(-0.4, 0.4) * depth]
        s.rod(
            where,
            s.between(0.05, 0.13),
            s.between(0.06, 0.2),
            s.pick((metal, dark, s.material("plain"))),
        )
    for _ in range(s.pick((0, 1, 2, 4))):  # buttons
        where = [s.between(-0.85, 0.85) * half[0], s.between(-0.8, 0.8) * half[1], depth]
        s.ball(where, s.between(0.03, 0.08), s.material("plain"), s.pick((2, 20)), s.pick((2, 20)))
    if s.chance(0.35):
        s.box(
            (0, half[1] * 1.1, 0),
            (half[0] * s.between(0.2, 0.4), half[1] * 0.25, depth * 0.7),
            case,
            8,
        )
    if s.chance(0.3):  # a strap or carrying handle
        s.limb(
            [
                [-half[0] * 0.9, half[1] * 0.8, 0],
                [-half[0] * 0.7, half[1] * 1.6, 0],
                [half[0] * 0.7, half[1] * 1.6, 0],
                [half[0] * 0.9, half[1] * 0.8, 0],
            ],
            0.04,
            metal,
            s.between(1, 3),
        )
    if s.chance(0.3):
        s.rod((half[0] * 0.8, -half[1], depth * 0.7), 0.06, 0.2, metal, mirror=True)
        s.rod((half[0] * 0.8, -half[1], -depth * 0.7), 0.06, 0.2, metal, mirror=True)


def robot(s: Sketch) -> None:
    """Boxy toys: robots, nutcrackers, brick figures."""
    body, second, metal = s.material("painted"), s.material("painted"), s.material("metal")
    exponent = s.pick((4, 8, 20))
    width, torso, head = s.between(0.25, 0.45), s.between(0.25, 0.45), s.between(0.16, 0.32)
    leg = s.between(0.2, 0.6)
    s.box((0, leg + torso, 0), (width, torso, width * s.between(0.6, 1)), body, exponent)
    top = leg + 2 * torso + head
    s.ball((0, top, 0), head * s.several(3, 0.85, 1.3), second, exponent, s.pick((2, exponent)))
    s.ball(
        (head * 0.45, top + head * 0.1, head),
        head * s.between(0.15, 0.3),
        s.material("plain", s.several(3, 0, 1)),
        mirror=True,
    )
    s.box((0, top - head * 0.5, head * 0.95), (head * 0.5, head * 0.1, 0.05), s.dark(), 8)
    s.box((0, leg + torso * 1.1, width * 0.8), (width * 0.6, torso * 0.5, 0.1), s.material(), 12)
    arm = s.between(0.07, 0.12)
    s.limb(
        [
            [width, leg + 1.7 * torso, 0],
            [width + 0.2, leg + torso, 0.05],
            [width + s.between(0.1, 0.3), leg + s.between(0, 1.5) * torso, s.between(0, 0.4)],
        ],
        arm,
        metal,
        mirror=True,
    )
    s.box(
        (width * 0.5, leg * 0.5, 0),
        (width * 0.35, leg * 0.6, width * 0.4),
        second,
        exponent,
        mirror=True,
    )
    s.box(
        (width * 0.5, 0, 0.05),
        (width * 0.42, 0.08, width * 0.6),
        s.material("plain"),
        8,
        mirror=True,
    )
    if s.chance(0.6):
        s.rod((0, top + head * 1.3, 0), 0.025, head, metal)
        s.ball((0, top + head * 1.8, 0), 0.06, s.material("plain"))


def house(s: Sketch) -> None:
    """Houses, towers, castles, temples."""
    wall, roof = (
        s.material(s.pick(("stone", "any", "wood", "plain"))),
        s.material(s.pick(("painted", "stone", "wood"))),
    )
    width, depth, height = s.between(0.4, 0.7), s.between(0.35, 0.7), s.between(0.5, 1.3)
    if s.chance(0.5):
        s.box((0, height / 2, 0), (width, height / 2, depth), wall, 20)
        peak = s.between(0.25, 0.6)
        ridge = (
            shapes.prism(shapes.polygon(3), 2 * depth * 1.12, bevel=0.02)
            @ shapes.rotation((90, 0, 0)).T
            @ shapes.rotation((0, 0, 90)).T
        )
        s.add((np.add(ridge, [0, 0.5, 0])) * [width * 1.3, peak / 1.5, 1], roof, (0, height, 0))
        if s.chance(0.6):
            s.box(
                (width * 0.5, height + peak * 0.7, depth * s.between(-0.5, 0.5)),
                (0.08, peak * 0.6, 0.08),
                s.material("stone"),
                20,
            )
    else:
        section = shapes.polygon(s.pick((4, 6, 8))) if s.chance(0.5) else shapes.superellipse()
        s.rod((0, height / 2, 0), width, height, wall, s.between(0.7, 1), section)
        s.rod(
            (0, height + 0.25, 0),
            width * s.between(0.9, 1.3),
            s.between(0.4, 0.9),
            roof,
            0.05,
            section,
        )
        depth = width * 0.9
    s.box((0, height * 0.22, depth), (0.12, height * 0.22, 0.04), s.material("wood"), 20)
    pane = s.material("plain", s.several(3, 0.1, 0.9))
    for y in (0.35, 0.75)[: s.pick((1, 2))]:
        s.box((width * 0.55, height * y, depth * 0.98), (0.1, 0.1, 0.03), pane, 20, mirror=True)
    if s.chance(0.5):
        s.box((0, 0, 0), (width * 1.3, 0.05, depth * 1.4), s.material("stone"), s.pick((2, 20)))


def box_like(s: Sketch) -> None:
    """Boxes, books, gifts, bags, backpacks, suitcases, dice."""
    stuff, trim = s.material(), s.material("plain")
    half = s.several(3, 0.25, 0.7)
    soft = s.chance(0.5)
    s.box(
        (0, 0, 0),
        half,
        stuff,
        s.pick((3, 4, 6)) if soft else 20,
        bump=(s.between(0, 0.04), 1.5) if soft else None,
    )
    if soft:  # a bag: pocket, flap, straps
        s.box(
            (0, -half[1] * 0.35, half[2]),
            half * [0.75, 0.45, 0.35],
            s.pick((stuff, s.material("fabric"))),
            4,
        )
        s.box(
            (0, half[1] * 0.6, half[2] * 0.15),
            half * [1.04, 0.42, 1.02],
            trim if s.chance(0.5) else stuff,
            4,
        )
        s.limb(
            [
                [-half[0] * 0.4, half[1], 0],
                [0, half[1] * s.between(1.4, 2), 0],
                [half[0] * 0.4, half[1], 0],
            ],
            0.05,
            trim,
            2,
        )
        s.limb(
            [
                [half[0] * 0.5, half[1] * 0.8, -half[2]],
                [half[0] * 0.6, 0, -half[2] * 1.5],
                [half[0] * 0.5, -half[1] * 0.8, -half[2]],
            ],
            0.06,
            trim,
            0.5,
            mirror=True,
        )
        s.ball((0, half[1] * 0.3, half[2] * 1.15), 0.06, s.material("metal"))
    elif s.chance(0.5):  # a ribbon and lid
        s.box((0, 0, 0), half * [0.15, 1.01, 1.01], trim, 20)
        s.box((0, 0, 0), half * [1.01, 1.01, 0.15], trim, 20)
        s.box(
            (0, half[1] * 0.85, 0),
            half * [1.06, 0.18, 1.06],
            stuff if s.chance(0.5) else s.material(),
            20,
        )
        s.limb(
            [
                [0, half[1], 0],
                [0.2, half[1] + 0.22, 0.05],
                [0.3, half[1] + 0.1, 0],
                [0, half[1], 0],
            ],
            0.05,
            trim,
            1.5,
            mirror=True,
        )
    else:  # a pile of them
        y = half[1]
        for _ in range(s.pick((0, 1, 2, 3))):
            size = half * s.several(3, 0.6, 1)
            s.box(
                (s.between(-0.1, 0.1), y + size[1], s.between(-0.1, 0.1)),
                size,
                s.material(),
                20,
                turn=(0, s.between(-40, 40), 0),
            )
            y += 2 * size[1]


def tool(s: Sketch) -> None:
    """Hammers, brushes, swords, spoons, guitars, keys."""
    grip, head = s.material(s.pick(("wood", "plain", "painted"))), s.material("metal")
    length, radius = s.between(0.7, 1.0), s.between(0.06, 0.14)
    s.limb(
        [[0, -length, 0], [s.between(-0.05, 0.05), 0, 0], [0, length * 0.6, 0]],
        radius * s.several(4, 0.7, 1.3),
        grip,
    )
    kind = s.between(0, 1)
    if kind < 0.3:  # hammer
        s.rod(
            (0, length * 0.6, 0),
            s.between(0.13, 0.25),
            s.between(0.5, 0.9),
            head,
            s.between(0.6, 1.1),
            shapes.superellipse(s.pick((2, 6, 20))),
            turn=(0, 0, 90),
        )
    elif kind < 0.5:  # blade
        s.ball(
            (0, length * 1.1, 0),
            (s.between(0.1, 0.3), length * 0.8, 0.05),
            head,
            s.pick((1, 2)),
            s.pick((2, 4)),
        )
        s.box((0, length * 0.4, 0), (s.between(0.2, 0.4), 0.06, 0.09), s.material("metal"), 4)
    elif kind < 0.75:  # spoon, racket, guitar
        s.ball(
            (0, length * 0.9, 0),
            (s.between(0.3, 0.5), s.between(0.35, 0.6), s.between(0.06, 0.2)),
            s.material(),
            s.pick((2, 3)),
            s.pick((2, 4)),
        )
        if s.chance(0.5):
            s.ball(
                (0, length * 1.35, 0),
                (s.between(0.2, 0.4), 0.3, s.between(0.06, 0.18)),
                s.materials[-1],
            )
            s.rod((0, length, 0.1), 0.15, 0.1, s.dark(), turn=(90, 0, 0))
    else:  # brush, mop, torch
        s.rod(
            (0, length * 0.8, 0),
            s.between(0.15, 0.3),
            s.between(0.3, 0.6),
            s.material(),
            s.between(0.8, 1.5),
            bump=(0.03, 8),
        )
        s.ring((0, length * 0.6, 0), 0.15, 0.05, head)
    if s.chance(0.4):
        s.ball((0, -length, 0), radius * s.between(1.2, 2), s.material("metal"))
