"""Plants, fruit, cakes and doughnuts."""

from __future__ import annotations

import numpy as np

from . import shapes
from .sketch import Sketch


def plant(s: Sketch) -> None:
    """Potted plants, trees, cacti, mushrooms, flowers."""
    pot, leaf = (
        s.material("ceramic"),
        s.material("skin", [s.between(0.05, 0.4), s.between(0.3, 0.75), s.between(0.05, 0.3)]),
    )
    radius = s.between(0.25, 0.5)
    s.rod((0, -0.25, 0), radius * s.between(0.6, 0.9), 0.5, pot, 1.25, s.section())
    kind = s.between(0, 1)
    if kind < 0.35:  # long leaves
        for k in range(s.pick((5, 6, 7, 8))):
            angle, out, up = 2.4 * k + s.between(0, 0.5), s.between(0.3, 0.9), s.between(0.3, 1.0)
            c, n = np.cos(angle), np.sin(angle)
            s.limb(
                [
                    [0, -0.05, 0],
                    [c * out * 0.4, up, n * out * 0.4],
                    [c * out, up * s.between(0.6, 1.2), n * out],
                ],
                [0.03, s.between(0.08, 0.2), 0.02],
                leaf,
                s.between(2, 5) ** -1,
            )
    elif kind < 0.65:  # a crown of bushes
        height = s.between(0.2, 1.0)
        s.limb(
            [[0, -0.1, 0], [s.between(-0.1, 0.1), height / 2, 0], [0, height, 0]],
            s.between(0.05, 0.14),
            s.material("wood"),
        )
        for _ in range(s.pick((1, 3, 4, 5))):
            s.ball(
                [s.between(-0.35, 0.35), height + s.between(0, 0.5), s.between(-0.35, 0.35)],
                s.several(3, 0.3, 0.5),
                leaf,
                bump=(s.between(0.05, 0.15), s.between(2, 6)),
            )
    elif kind < 0.85:  # a cactus
        height = s.between(0.5, 1.2)
        s.add(
            shapes.lathe(
                s.wall([0.2, 0.28, 0.26, 0.15], [-0.1, height * 0.3, height * 0.7, height], False),
                shapes.flower(10, 0.2),
            ),
            leaf,
        )
        s.limb(
            [[0.1, height * 0.4, 0], [0.5, height * 0.4, 0], [0.5, height * s.between(0.6, 1), 0]],
            0.1,
            leaf,
        )
        s.ball((0, height, 0), 0.1, s.material("plain"))
    else:  # a mushroom or flower
        height = s.between(0.3, 0.9)
        s.rod((0, height / 2 - 0.1, 0), 0.12, height, s.material("plain"), 0.7)
        s.ball(
            (0, height, 0),
            (s.between(0.4, 0.7), s.between(0.2, 0.5), s.between(0.4, 0.7)),
            s.material("painted"),
        )


def fruit(s: Sketch) -> None:
    """One fruit, vegetable, egg or loaf."""
    skin = s.material(
        "skin",
        s.pick(
            (s.color(), [0.85, 0.15, 0.1], [0.95, 0.6, 0.1], [0.5, 0.7, 0.15], [0.9, 0.85, 0.3])
        ),
    )
    kind = s.between(0, 1)
    bump = (s.between(0, 0.06), s.between(0.8, 3))
    if kind < 0.6:  # apple, pear, pumpkin, avocado
        radii = np.array(
            [
                0.3,
                s.between(0.5, 0.7),
                s.between(0.45, 0.7),
                s.between(0.2, 0.6),
                s.between(0.1, 0.3),
            ]
        )
        section = (
            shapes.flower(s.pick((5, 8, 10)), s.pick((0.1, 0.2, 0.3)))
            if s.chance(0.35)
            else shapes.superellipse()
        )
        height = s.between(0.7, 1.5)
        s.add(
            shapes.lathe(s.wall(radii, height * np.array([0, 0.2, 0.5, 0.85, 1]), False), section),
            skin,
            bump=bump,
        )
        s.limb(
            [[0, height * 0.9, 0], [s.between(-0.1, 0.1), height + s.between(0.1, 0.3), 0]],
            [0.05, 0.035],
            s.material("wood"),
        )
        if s.chance(0.5):
            s.limb(
                [[0, height, 0], [0.2, height + 0.15, 0.05], [0.4, height + 0.1, 0.1]],
                [0.02, 0.12, 0.02],
                s.material("plain", [0.2, 0.5, 0.15]),
                0.2,
            )
    elif kind < 0.8:  # banana, carrot, croissant, sausage
        bend = s.between(0, 0.5)
        s.limb(
            [[-0.8, bend, 0], [-0.4, 0.1, 0], [0.4, 0.1, 0], [0.8, bend, 0]],
            [s.between(0.05, 0.2), 0.24, 0.26, s.between(0.04, 0.2)],
            skin,
            s.between(0.8, 1.1),
            bump=bump,
        )
    else:  # bread, potato, stone
        s.ball(
            (0, 0, 0),
            (0.7, s.between(0.25, 0.5), s.between(0.3, 0.6)),
            skin,
            s.pick((2, 3, 4)),
            s.pick((2, 3)),
            bump=(s.between(0.03, 0.12), s.between(1, 3)),
        )


def layers(s: Sketch) -> None:
    """Burgers, cakes, sandwiches, sushi, stacked rings."""
    y, radius, section = 0.0, s.between(0.5, 0.7), s.section()
    for _ in range(s.pick((3, 4, 5, 6, 7))):
        height, r = s.between(0.08, 0.35), radius * s.between(0.85, 1.12)
        stuff = s.material()
        if s.chance(0.5):
            s.rod(
                (0, y + height / 2, 0),
                r,
                height,
                stuff,
                section=section,
                bevel=s.pick((0.02, 0.1, 0.2)),
                bump=(s.between(0, 0.04), 4),
            )
        else:
            s.ball(
                (0, y + height / 2, 0),
                (r, height * 0.6, r),
                stuff,
                along=s.pick((2, 4)),
                bump=(s.between(0, 0.05), 3),
            )
        y += height * 0.95
    if s.chance(0.5):
        s.ball((0, y, 0), (radius, s.between(0.2, 0.5), radius), s.material(), bump=(0.02, 2))
    if s.chance(0.4):
        count = s.pick((3, 5, 6))
        topping = s.material("plain")
        for k in range(count):
            s.ball(
                (
                    radius * 0.6 * np.cos(6.28 * k / count),
                    y + 0.05,
                    radius * 0.6 * np.sin(6.28 * k / count),
                ),
                s.between(0.08, 0.16),
                topping,
            )


def doughnut(s: Sketch) -> None:
    """Rings with a glaze, wreaths, tires, pretzels."""
    thickness, dough = s.between(0.2, 0.38), s.material("skin")
    turn = (s.pick((0, 30, 90)), 0, s.between(-20, 20))
    section = s.pick((shapes.superellipse(), shapes.superellipse(4), shapes.superellipse()))
    s.ring(
        (0, 0, 0),
        0.6,
        thickness,
        dough,
        section,
        turn=turn,
        bump=(s.between(0, 0.06), s.between(1, 6)),
    )
    lift = shapes.rotation(turn) @ np.array([0, thickness * 0.2, 0])
    s.ring(lift, 0.6, thickness * 0.93, s.material("painted"), turn=turn, bump=(0.04, 3))
    if s.chance(0.4):
        s.rod((0, 0, 0), s.between(0.3, 0.5), thickness, s.material(), turn=turn)
