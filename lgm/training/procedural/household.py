"""Furniture, houses, boxes and bags."""

from __future__ import annotations

import numpy as np

from . import shapes
from .sketch import Sketch


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
