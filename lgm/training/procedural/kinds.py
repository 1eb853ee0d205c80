"""All kinds of objects and how often each is drawn; and the abstract kinds."""

from __future__ import annotations

import numpy as np

from . import shapes
from .animals import animal, bird, fish
from .household import box_like, house, seat, table
from .people import bust, figure
from .plants_and_food import doughnut, fruit, layers, plant
from .sketch import Sketch
from .vehicles import car, craft, robot
from .vessels import bottle, lamp, lantern, vessel
from .wear_and_tools import device, helmet, shoe, tool


def _anything(s: Sketch, size: float) -> np.ndarray:
    """A random surface of about `size`."""
    radii = size * s.several(3, 0.5, 1.1)
    kind = int(s.between(0, 8))
    if kind == 0:
        return shapes.ellipsoid(radii, s.pick((1, 2, 3, 5, 20)), s.pick((1, 2, 3, 5, 20)))
    if kind == 1:
        return shapes.prism(s.section(), 2, s.between(0.1, 1.2)) * radii
    if kind == 2:
        return (
            shapes.torus(0.7, s.between(0.2, 0.4), shapes.superellipse(s.pick((2, 4, 20)))) * radii
        )
    if kind == 3:
        count = s.pick((4, 5, 6))
        return (
            shapes.lathe(
                s.wall(s.several(count, 0.2, 1), np.linspace(-1, 1, count), s.chance(0.3)),
                s.section(),
            )
            * radii
        )
    if kind == 4:
        section = s.pick(
            (
                shapes.polygon(5, 0.5),
                shapes.polygon(6, 0.7),
                shapes.gear(8, 0.25),
                shapes.gear(12, 0.2),
                shapes.heart(),
                shapes.polygon(3),
            )
        )
        return shapes.prism(section, 2 * s.between(0.2, 0.7)) @ shapes.rotation((90, 0, 0)).T * size
    if kind == 5:
        return shapes.tube(
            s.rng.normal(0, 0.6, (4, 3)) * size, size * s.several(3, 0.15, 0.4), s.between(0.5, 1.2)
        )
    if kind == 6:
        return (
            shapes.prism(shapes.wavy(s.rng), 2 * s.between(0.3, 1), s.between(0.5, 1.1), 0.1)
            * radii
        )
    turns = np.linspace(0, s.between(6, 16), 24)
    return shapes.tube(
        np.column_stack([np.cos(turns) * 0.7, np.linspace(-1, 1, 24), np.sin(turns) * 0.7]) * size,
        size * s.between(0.1, 0.22),
    )


def cluster(s: Sketch) -> None:
    """Parts that touch, each grown from an earlier one."""
    centers, sizes = [np.zeros(3)], [s.between(0.4, 0.6)]
    stuffs = [s.material() for _ in range(s.pick((1, 2, 3, 4)))]
    for index in range(s.pick((2, 3, 4, 5, 6, 8))):
        bump = (s.between(0, 0.1), s.between(1, 4)) if s.chance(0.4) else None
        s.add(
            _anything(s, sizes[-1]),
            s.pick(stuffs),
            centers[-1],
            s.several(3, 0, 360) if index and s.chance(0.6) else None,
            bump,
        )
        parent = int(s.between(0, len(centers)))
        direction = s.rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        size = s.between(0.2, 0.5)
        centers.append(centers[parent] + direction * 0.75 * (sizes[parent] + size) * 0.8)
        sizes.append(size)


def stack(s: Sketch) -> None:
    """Parts on one axis: chess pieces, trophies, spindles, totems."""
    y, section = 0.0, s.section()
    stuffs = [s.material() for _ in range(s.pick((1, 2, 3)))]
    for _ in range(s.pick((3, 4, 5, 6, 7))):
        half, r = s.between(0.08, 0.35), s.between(0.15, 0.55)
        if s.chance(0.5):
            s.rod((0, y + half, 0), r, 2 * half, s.pick(stuffs), s.between(0.4, 1.3), section)
        else:
            s.ball(
                (0, y + half, 0),
                (r, half * 1.1, r),
                s.pick(stuffs),
                s.pick((2, 2, 4, 20)),
                s.pick((2, 2, 4)),
            )
        y += 1.8 * half
    if s.chance(0.3):
        s.limb(
            [[0.2, y * 0.4, 0], [0.75, y * 0.6, 0], [0.3, y * 0.85, 0]],
            0.06,
            s.pick(stuffs),
            mirror=True,
        )


def radial(s: Sketch) -> None:
    """n-fold arms around a middle: flowers, fans, stars, starfish, chandeliers, snowflakes."""
    middle, arm = s.material(), s.material()
    count, out = s.pick((3, 4, 5, 5, 6, 8)), s.between(0.5, 1)
    lift, curve = s.between(-0.4, 0.6), s.between(-0.3, 0.3)
    s.ball((0, 0, 0), s.several(3, 0.2, 0.4), middle, s.pick((2, 4)), s.pick((2, 4, 20)))
    limb = shapes.tube(
        [[0.1, 0, 0], [out * 0.55, lift * 0.3 + curve, curve], [out, lift, 0]],
        s.several(3, 0.06, 0.22),
        s.between(0.3, 1.2),
    )
    upright = (90, 0, 0) if s.chance(0.4) else (0, 0, 0)
    for k in range(count):
        s.add(limb @ shapes.rotation((0, 360 * k / count, 0)).T, arm, turn=upright)
    if s.chance(0.4):
        tip, size = s.material("plain"), s.between(0.08, 0.2)
        for k in range(count):
            s.add(
                np.add(shapes.ellipsoid(np.full(3, size)), [out, lift, 0])
                @ shapes.rotation((0, 360 * k / count, 0)).T,
                tip,
                turn=upright,
            )
    if s.chance(0.4):
        s.rod((0, -0.5, 0), s.between(0.05, 0.2), 1.0, middle)


def blob(s: Sketch) -> None:
    """One to three lumps: stones, bread, clay, corals, clouds."""
    stuff = s.material(s.pick(("any", "stone", "skin")))
    for index in range(s.pick((1, 1, 2, 3))):
        at = s.rng.normal(0, 0.35, 3) * (index > 0)
        s.ball(
            at,
            s.several(3, 0.4, 0.75),
            stuff if s.chance(0.7) else s.material(),
            s.pick((2, 2, 4)),
            s.pick((2, 2, 4)),
            bump=(s.between(0.05, 0.3), s.between(0.7, 3)),
        )


KINDS = (  # (function that draws one, how often it is drawn)
    (vessel, 7), (bottle, 4), (lantern, 4), (lamp, 2), (seat, 5), (table, 4), (car, 4), (craft, 3),
    (shoe, 5), (helmet, 5), (device, 6), (robot, 3), (house, 3), (box_like, 4), (tool, 3),
    (animal, 8), (bird, 5), (fish, 2), (figure, 9), (bust, 4), (plant, 4), (fruit, 4), (layers, 3),
    (doughnut, 1.5), (cluster, 9), (stack, 3), (radial, 2), (blob, 4),
)  # fmt: skip
