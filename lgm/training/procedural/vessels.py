"""Vessels, bottles, lanterns and lamps."""

from __future__ import annotations

import numpy as np

from . import shapes
from .sketch import Sketch


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
