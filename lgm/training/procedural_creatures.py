"""Recipes for what lives or is eaten: animals, people, plants, food."""

from __future__ import annotations

import numpy as np

from . import procedural_shapes as shapes
from .procedural_sketch import Sketch


def _face(s: Sketch, at, radius: float, spread: float = 0.45, height: float = 0.2) -> None:
    """Eyes on the front (+z) of a ball, perhaps with whites."""
    at = np.asarray(at, dtype=np.float64)
    direction = np.array([spread, height, np.sqrt(max(1 - spread**2 - height**2, 0.05))])
    eye = radius * s.between(0.1, 0.24)
    if s.chance(0.5):
        s.ball(at + direction * radius, eye, s.material("plain", np.full(3, 0.95)), mirror=False)
        s.ball((at + direction * radius) * np.array([-1, 1, 1]), eye, s.materials[-1])
        direction = direction * (1 + 0.6 * eye / radius)
        eye *= 0.65
    s.ball(at + direction * radius, eye, s.dark(), mirror=True)


def animal(s: Sketch) -> None:
    """Four legs: dogs, horses, bears, dinosaurs..."""
    fur = s.material("skin")
    limbs = fur if s.chance(0.7) else s.material("skin")
    bump = (s.between(0, 0.03), s.between(1, 4)) if s.chance(0.6) else None
    length, girth, leg = s.between(0.35, 0.7), s.between(0.22, 0.45), s.between(0.15, 0.8)
    back = leg + girth
    s.add(
        shapes.tube(
            [
                [0, back, -length],
                [0, back + s.between(-0.1, 0.1), 0],
                [0, back + s.between(-0.05, 0.1), length],
            ],
            girth * s.several(4, 0.75, 1.1), s.between(0.8, 1.1),
        ), fur, bump=bump,
    )  # fmt: skip
    head = np.array([0, back + s.between(0.1, 0.8), length + s.between(0.1, 0.35)])
    skull = s.between(0.17, 0.36)
    s.limb(
        [[0, back, length * 0.8], (np.add(head, [0, back, length * 0.9])) / 2, head],
        [girth * 0.8, skull * 0.7, skull * 0.8],
        fur,
        bump=bump,
    )
    s.ball(head, skull * s.several(3, 0.9, 1.15), fur, bump=bump)
    snout = skull * s.between(0.4, 0.65)
    s.ball(
        np.add(head, [0, -skull * 0.25, skull * 0.9]),
        (snout, snout * 0.8, skull * s.between(0.5, 1.1)),
        limbs,
    )
    s.ball(np.add(head, [0, -skull * 0.1, skull * s.between(1.3, 1.7)]), snout * 0.35, s.dark())
    _face(s, head, skull)
    ear, inner = s.between(0.3, 1.0) * skull, s.pick((fur, limbs))
    s.ball(
        np.add(head, [skull * 0.6, skull * 0.75 + ear * 0.4, -0.05]),
        (ear * 0.45, ear, ear * 0.25),
        inner,
        turn=(s.between(-20, 20), 0, s.between(-60, 0)),
        mirror=True,
    )
    thickness = girth * s.between(0.2, 0.45)
    for z, bend in ((length * 0.85, 0.05), (-length * 0.85, -0.08)):
        x = girth * s.between(0.5, 0.75)
        s.limb(
            [[x, back, z], [x * 1.05, leg * 0.55, z + bend], [x, thickness * 0.6, z]],
            thickness * s.several(3, 0.7, 1.3),
            limbs,
            mirror=True,
        )
    if s.chance(0.85):
        tip = [s.between(-0.2, 0.2), back + s.between(-0.4, 0.6), -length - s.between(0.2, 0.7)]
        s.limb(
            [[0, back + 0.05, -length], [0, back + s.between(-0.2, 0.3), -length - 0.2], tip],
            [girth * s.between(0.2, 0.7), 0.08, s.between(0.02, 0.12)],
            fur,
        )


def bird(s: Sketch) -> None:
    """Ducks, hens, owls, penguins."""
    body, beak = (
        s.material("skin"),
        s.material("plain", [s.between(0.8, 1), s.between(0.4, 0.7), 0.1]),
    )
    wing = body if s.chance(0.5) else s.material("skin")
    upright, size = s.between(0, 60), s.between(0.35, 0.5)
    radii = size * np.array([s.between(0.75, 1), s.between(0.8, 1), s.between(1.1, 1.7)])
    s.ball((0, 0, 0), radii, body, turn=(-upright, 0, 0), bump=(s.between(0, 0.03), 2))
    rise = np.radians(upright * 0.6 + 35)
    chest = np.array([0, np.sin(rise) * radii[2] * 0.75, np.cos(rise) * radii[2] * 0.75])
    head, skull = np.add(chest, [0, s.between(0.05, 0.5), s.between(0, 0.2)]), s.between(0.17, 0.33)
    s.limb([chest * 0.5, chest, head], [size * 0.7, skull * 0.8, skull * 0.8], body)
    s.ball(head, skull * np.array([0.95, 1, 1.05]), body if s.chance(0.6) else wing)
    length = s.between(0.12, 0.4)
    s.ball(
        np.add(head, [0, -0.1 * skull, skull + length * 0.3]),
        (skull * s.between(0.25, 0.6), skull * s.between(0.15, 0.35), length),
        beak,
    )
    _face(s, head, skull, s.between(0.5, 0.75), 0.25)
    s.ball(
        (radii[0] * 0.92, 0.05, -0.05),
        (0.07, size * s.between(0.4, 0.7), radii[2] * s.between(0.6, 0.9)),
        wing,
        turn=(-upright - 10, s.between(-10, 15), 0),
        mirror=True,
    )
    s.limb(
        [[0, 0, -radii[2] * 0.6], [0, s.between(-0.1, 0.3), -radii[2] * s.between(1.1, 1.6)]],
        [size * 0.5, size * 0.2],
        wing,
        s.between(0.3, 1),
    )
    if s.chance(0.5):
        low = -size * s.between(1.1, 1.7)
        s.limb(
            [[0.15, -size * 0.5, 0], [0.17, low, 0.05]], s.between(0.03, 0.07), beak, mirror=True
        )
        s.ball((0.17, low, 0.12), (0.12, 0.03, 0.18), beak, mirror=True)
    if s.chance(0.25):
        s.ball(
            np.add(head, [0, skull, -0.05]),
            (0.05, skull * 0.5, skull * 0.7),
            s.material("plain", [0.8, 0.1, 0.1]),
        )


def fish(s: Sketch) -> None:
    """Fish, whales, planes of the sea."""
    skin, fins = s.material("skin"), s.material("skin")
    length, height, width = s.between(0.8, 1.2), s.between(0.25, 0.6), s.between(0.15, 0.4)
    s.add(
        shapes.loft(
            [[0, length], [0, length * 0.5], [0, 0], [0, -length * 0.6], [0, -length]],
            width * np.array([0.2, 0.8, 1, 0.5, 0.15]),
            height * np.array([0.2, 0.8, 1, 0.5, 0.2]),
        ),
        skin,
        bump=(0.01, 2),
    )
    span = height * s.between(0.7, 1.2)
    s.limb(
        [[0, span, -length * 1.4], [0, 0, -length], [0, -span, -length * 1.4]],
        [0.05, 0.22, 0.05],
        fins,
        0.2,
    )
    s.limb(
        [
            [0, height * 0.7, length * 0.3],
            [0, height * s.between(1.2, 1.6), -0.1],
            [0, height * 0.6, -length * 0.5],
        ],
        [0.05, 0.15, 0.05],
        fins,
        0.25,
    )
    s.limb(
        [[width * 0.8, -0.1, length * 0.4], [width + s.between(0.2, 0.5), -height * 0.6, 0]],
        [0.14, 0.06],
        fins,
        0.25,
        mirror=True,
    )
    _face(s, (0, height * 0.1, length * 0.6), width * 0.75, 0.85, 0.3)


def figure(s: Sketch) -> None:
    """People, dolls, figurines, teddy bears; big or small heads."""
    skin = s.material(
        "plain",
        s.pick(([0.9, 0.72, 0.6], [0.75, 0.55, 0.4], [0.45, 0.3, 0.2], s.color(), s.color())),
    )
    top, bottom, shoe = s.material("fabric"), s.material("fabric"), s.material("plain")
    if s.chance(0.25):  # one stuff all over: a statue
        skin = top = bottom = shoe = s.material(s.pick(("stone", "metal", "wood", "plain")))
    head, leg, torso, width = (
        s.between(0.16, 0.42),
        s.between(0.3, 0.9),
        s.between(0.45, 0.75),
        s.between(0.2, 0.4),
    )
    hip, neck = leg, leg + torso
    depth = width * s.between(0.55, 0.9)
    s.add(
        shapes.lathe(
            s.wall(
                width * s.several(5, 0.8, 1.1) * [0.8, 1, 1, 1, 0.55],
                np.linspace(hip - 0.1, neck, 5),
                False,
            )
        )
        * [1, 1, depth / width],
        top,
    )
    center = np.array([0, neck + head * 0.85, 0.03])
    s.rod((0, neck, 0), head * 0.45, head * 0.5, skin)
    s.ball(center, head * np.array([s.between(0.8, 1), 1, 0.95]), skin)
    _face(s, center, head * 0.93, 0.38, 0.1)
    if s.chance(0.5):
        s.ball(np.add(center, [0, -0.1 * head, head * 0.95]), head * 0.13, skin)
    style = s.between(0, 1)
    if style < 0.45:  # hair
        s.ball(
            np.add(center, [0, head * 0.25, -head * 0.2]),
            head * np.array([1.03, s.between(0.9, 1.1), 1.0]),
            s.material("plain", s.color() * 0.5),
            bump=(0.03, 6),
        )
    elif style < 0.75:  # a hat
        hat = s.material("fabric")
        s.rod(
            np.add(center, [0, head * 0.95, 0]),
            head * 0.85,
            head * s.between(0.5, 1.1),
            hat,
            s.between(0.2, 1),
        )
        s.rod(np.add(center, [0, head * 0.6, 0]), head * s.between(1.1, 1.7), 0.05, hat)
    else:  # ears of a bear or a rabbit
        s.ball(
            np.add(center, [head * 0.7, head * 0.85, 0]),
            head * np.array([0.3, s.between(0.3, 0.9), 0.15]),
            skin,
            mirror=True,
        )
    hand = np.array(
        [width + s.between(0.1, 0.6), hip + s.between(-0.1, 0.9) * torso, s.between(-0.1, 0.3)]
    )
    elbow = np.array([width + s.between(0.15, 0.35), neck - torso * 0.5, s.between(-0.1, 0.1)])
    arm = s.between(0.06, 0.12)
    s.limb(
        [[width * 0.75, neck - 0.1, 0], elbow, hand],
        [arm * 1.2, arm, arm * 0.8],
        top if s.chance(0.7) else skin,
        mirror=True,
    )
    s.ball(hand, arm * 1.2, skin, mirror=True)
    if s.chance(0.25):  # a robe
        s.rod((0, hip / 2, 0), width * s.between(1.2, 1.8), hip, bottom, 0.6)
    else:
        s.limb(
            [
                [width * 0.45, hip, 0],
                [width * 0.5, hip * 0.5, 0.03],
                [width * s.between(0.4, 0.8), 0.05, 0],
            ],
            [width * 0.48, width * 0.38, width * 0.32],
            bottom,
            mirror=True,
        )
        s.ball((width * 0.55, 0.04, 0.1), (width * 0.35, 0.09, 0.22), shoe, mirror=True)
    if s.chance(0.3):
        s.rod(
            (0, -0.1, 0),
            s.between(0.4, 0.6),
            0.2,
            s.material("stone"),
            s.between(0.8, 1),
            shapes.superellipse(s.pick((2, 12))),
        )
    if s.chance(0.2):  # a backpack or a shield
        s.box(
            (0, neck - torso * 0.45, -depth - 0.1),
            (width * 0.8, torso * 0.4, 0.15),
            s.material("fabric"),
            6,
        )


def bust(s: Sketch) -> None:
    """Heads, masks, skulls on a stand."""
    stuff = s.material(s.pick(("skin", "stone", "metal", "plain")))
    head = np.array([s.between(0.38, 0.5), s.between(0.5, 0.6), s.between(0.45, 0.55)])
    rough = (s.between(0, 0.04), s.between(2, 6))
    s.ball((0, 0, 0), head, stuff, bump=rough)
    s.ball((0, -0.28, 0.12), head * [0.75, 0.6, 0.75], stuff, s.pick((2, 4)), bump=rough)
    s.limb(
        [[0, 0.1, head[2] * 0.9], [0, -0.12, head[2] * s.between(1.0, 1.3)]],
        [0.05, s.between(0.07, 0.14)],
        stuff,
    )
    s.ball(
        (0.17, 0.07, head[2] * 0.82),
        (0.1, 0.06, 0.07),
        s.dark() if s.chance(0.5) else s.material("plain"),
        mirror=True,
    )
    s.limb(
        [[-0.14, -0.28, head[2] * 0.85], [0, -0.3, head[2] * 1.0], [0.14, -0.28, head[2] * 0.85]],
        [0.03, 0.05, 0.03],
        s.material("plain", [0.6, 0.3, 0.3]),
    )
    s.ball((head[0], -0.02, 0), (0.06, s.between(0.1, 0.3), 0.09), stuff, mirror=True)
    if s.chance(0.6):
        s.ball(
            (0, 0.16, -0.08),
            head * [1.08, 0.95, 1.05],
            s.material("plain", s.color() * 0.6),
            bump=(0.06, s.between(3, 8)),
        )
    s.rod((0, -0.6, -0.03), s.between(0.18, 0.28), 0.5, stuff)
    if s.chance(0.7):
        s.ball(
            (0, -0.95, -0.03),
            (s.between(0.5, 0.8), 0.25, 0.3),
            stuff if s.chance(0.5) else s.material("fabric"),
        )
    if s.chance(0.4):
        s.rod((0, -1.15, 0), 0.4, 0.2, s.material("stone"), 0.9)


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
