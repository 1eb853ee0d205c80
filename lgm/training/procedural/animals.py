"""Animals: four-legged ones, birds, fish."""

from __future__ import annotations

import numpy as np

from . import shapes
from .people import _face
from .sketch import Sketch


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
    """Fish and whales."""
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
