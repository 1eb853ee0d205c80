"""Shoes, helmets, devices and tools."""

from __future__ import annotations

import numpy as np

from . import shapes
from .sketch import Sketch


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
