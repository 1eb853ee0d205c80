"""Cars, aircraft and robots."""

from __future__ import annotations

import numpy as np

from . import shapes
from .sketch import Sketch


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
