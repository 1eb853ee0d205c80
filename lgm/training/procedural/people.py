"""Figures and busts."""

from __future__ import annotations

import numpy as np

from . import shapes
from .sketch import Sketch


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
