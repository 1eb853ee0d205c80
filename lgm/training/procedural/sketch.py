"""A procedural object under construction: its colors, its materials and its parts.

+y is up and the front looks along +z; sizes are free, objects are fitted into the frame later.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import numpy as np

from . import shapes
from .materials import FAMILIES, PARAMETERS

# Pattern families that each kind of material draws from; a repeated one is drawn more often.
MATERIALS = {
    "any": "solid stripes checks dots bricks voronoi marble wood gradient bands patches plaid "
    "panels",
    "plain": "solid solid solid gradient marble",
    "painted": "solid solid bands stripes dots checks gradient panels patches",
    "ceramic": "solid bands marble stripes dots gradient voronoi checks",
    "wood": "wood wood wood solid",
    "fabric": "solid plaid stripes checks dots patches",
    "skin": "solid gradient patches solid stripes dots",
    "stone": "marble marble voronoi bricks patches",
    "metal": "solid gradient solid panels marble",
}


@dataclass(frozen=True)
class Material:
    family: int  # index into FAMILIES
    palette: np.ndarray  # [4, 3] RGB
    parameters: np.ndarray  # [len(PARAMETERS)]


@dataclass
class Sketch:
    """The parts so far, and the color scheme for their materials."""

    rng: np.random.Generator
    grids: list[np.ndarray] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    bumps: list[tuple[float, float]] = field(default_factory=list)
    colors: np.ndarray = None

    def __post_init__(self) -> None:
        self.colors = scheme(self.rng)

    # Random draws

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def several(self, count: int, low: float, high: float) -> np.ndarray:
        return low + (high - low) * self.rng.random(count)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, options):
        return options[int(self.rng.random() * len(options))]

    # Materials

    def color(self) -> np.ndarray:
        return np.clip(
            self.colors[int(self.rng.random() * len(self.colors))] + self.rng.normal(0, 0.02, 3),
            0,
            1,
        )

    def material(self, kind: str = "any", color=None) -> Material:
        """`color` sets the main color; the others come from the object's scheme."""
        family = self.pick(MATERIALS[kind].split())
        palette = self._palette("wood" if family == "wood" and self.chance(0.8) else kind)
        if color is not None:
            palette = np.concatenate([np.asarray(color, dtype=np.float64)[None], palette[1:]])
        return Material(FAMILIES.index(family), palette, self._parameters())

    def _palette(self, kind: str) -> np.ndarray:
        """Four colors [4, 3]: typical ones for wood, metal and stone, else from the scheme."""
        rng = self.rng
        colors = self.colors[rng.permutation(len(self.colors))[:4]]
        if kind == "wood":
            hue, saturation, value = rng.random(3) * [0.06, 0.4, 0.6] + [0.04, 0.35, 0.25]
            tones = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
            colors = tones * self.several(4, 0.55, 1.0)[:, None]
        elif kind == "metal" and self.chance(0.7):
            grays = self.between(0.15, 0.8) + rng.normal(0, 0.06, (4, 1))
            colors = grays + rng.normal(0, 0.015, (4, 3))
        elif kind == "stone" and self.chance(0.7):
            grays = self.between(0.3, 0.75) + rng.normal(0, 0.09, (4, 1))
            colors = grays * np.array([1, 0.97, 0.92])
        elif self.chance(0.5):  # shades of one color rather than a clash of several
            shades = colors[:1] * self.several(4, 0.55, 1.3)[:, None]
            colors = shades + rng.normal(0, 0.03, (4, 3))
        return np.clip(colors, 0, 1)

    def _parameters(self) -> np.ndarray:
        """Values for PARAMETERS, in that order."""
        rng = self.rng
        direction = np.array([0.0, 1.0, 0.0]) if self.chance(0.6) else rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        u = rng.random(25)
        label = u[0] < 0.22
        values = {
            "x": direction[0],
            "y": direction[1],
            "z": direction[2],
            "frequency": 2.0 * 6 ** u[1],
            "warp": 0.0 if u[2] < 0.4 else 0.6 * u[3] ** 2,
            "offset_x": u[4],
            "offset_y": u[5],
            "offset_z": u[6],
            "threshold": u[7],
            "blend": u[8],
            "grain": 0.22 * u[9] ** 3,
            "grain_frequency": 3.0 * 8 ** u[10],
            "mottle": 0.0 if u[11] < 0.5 else 0.3 * u[12] ** 2,
            "shade": 0.0 if u[13] < 0.5 else 0.5 * u[14],
            "label": float(label) * (1 + int(3 * u[15])),
            "label_u": 0.75 if u[16] < 0.7 else u[16],
            "label_v": 0.3 + 0.4 * u[17],
            "label_width": 0.06 + 0.2 * u[18],
            "label_height": 0.05 + 0.2 * u[19],
            "image": u[20],
            "image_row": u[21],
            "image_scale": 0.3 * 8 ** u[22],
            "wear": 0.0 if u[23] < 0.75 else (u[23] - 0.75) * 4,
            "boxed": float(u[24] < 0.4),
        }
        return np.array([values[name] for name in PARAMETERS])

    def dark(self) -> Material:
        return self.material("plain", self.several(1, 0.02, 0.2) * np.ones(3))

    # Curves

    def section(self) -> np.ndarray:
        """A closed curve to sweep; mostly a circle."""
        draw = self.rng.random()
        if draw < 0.7:
            return shapes.superellipse()
        if draw < 0.8:
            return shapes.superellipse(self.pick((4, 6, 12)))
        if draw < 0.9:
            return shapes.polygon(self.pick((5, 6, 8)))
        return shapes.flower(self.pick((6, 8, 12, 16)), self.pick((0.05, 0.12, 0.2)))

    def wall(self, radii, heights, opened: bool = False) -> np.ndarray:
        """A lathe profile through (radii, heights), closed by caps or going down an inner wall."""
        outer = shapes.spline(np.column_stack([radii, heights]))
        ends = [[[0, heights[0]]], outer, [[0, heights[-1]]]]
        if opened:
            floor = heights[0] + 0.08 * (heights[-1] - heights[0])
            inner = outer[::-1] * np.array([self.between(0.82, 0.93), 1])
            inner[:, 1] = np.maximum(inner[:, 1], floor)
            ends = [[[0, heights[0]]], outer, inner, [[0, floor]]]
        return shapes.resample(np.concatenate(ends))

    # Parts

    def add(self, grid, material, at=(0, 0, 0), turn=None, bump=None, mirror=False) -> None:
        """Place a surface: turned by degrees about x, y, z, then moved; `mirror` adds a twin at -x.

        `bump` is (amplitude, frequency) of a noise that pushes the surface in and out.
        """
        if turn is not None:
            grid = grid @ shapes.rotation(turn).T
        grid = grid + np.asarray(at, dtype=np.float64)
        for placed in (grid, grid * np.array([-1, 1, 1])) if mirror else (grid,):
            self.grids.append(placed)
            self.materials.append(material)
            self.bumps.append(bump or (0.0, 1.0))

    def ball(self, at, radii, material, around=2, along=2, **place) -> None:
        radii = np.broadcast_to(np.asarray(radii, dtype=np.float64), 3)
        self.add(shapes.ellipsoid(radii, around, along), material, at, **place)

    def box(self, at, half, material, round_=None, **place) -> None:
        exponent = self.pick((20, 20, 12, 8)) if round_ is None else round_
        self.ball(at, half, material, exponent, exponent, **place)

    def rod(self, at, radius, height, material, top=1.0, section=None, bevel=0.06, **place) -> None:
        """A vertical cylinder or cone whose middle is `at`."""
        grid = shapes.prism(
            shapes.superellipse() if section is None else section, height, top, bevel
        )
        self.add(grid * np.array([radius, 1, radius]), material, at, **place)

    def limb(self, points, radii, material, flatness=1.0, **place) -> None:
        self.add(shapes.tube(points, radii, flatness), material, **place)

    def ring(self, at, radius, thickness, material, section=None, **place) -> None:
        self.add(shapes.torus(radius, thickness, section), material, at, **place)


def scheme(rng: np.random.Generator) -> np.ndarray:
    """Five colors that occur together [5, 3]."""
    mood = rng.random()
    hue = rng.random()
    if mood < 0.3:  # vivid harmony
        offsets = (
            (0, 0.03, -0.03, 0.5, 0.08),
            (0, 1 / 3, 2 / 3, 0.05, 0.4),
            (0, 0.08, 0.16, -0.08, 0.5),
        )[int(3 * rng.random())]
        hues, saturations, values = (
            hue + np.array(offsets),
            rng.uniform(0.4, 1, 5),
            rng.uniform(0.35, 1, 5),
        )
    elif mood < 0.55:  # earthy
        hues, saturations, values = (
            rng.uniform(0.02, 0.16, 5),
            rng.uniform(0.15, 0.8, 5),
            rng.uniform(0.2, 0.92, 5),
        )
    elif mood < 0.68:  # pale to white
        hues, saturations, values = (
            hue + rng.normal(0, 0.1, 5),
            rng.uniform(0, 0.2, 5),
            rng.uniform(0.78, 1, 5),
        )
    elif mood < 0.77:  # dark
        hues, saturations, values = (
            hue + rng.normal(0, 0.1, 5),
            rng.uniform(0, 0.6, 5),
            rng.uniform(0.05, 0.4, 5),
        )
    elif mood < 0.9:  # grays with an accent
        hues, saturations, values = (
            np.full(5, hue),
            rng.uniform(0, 0.12, 5),
            rng.uniform(0.1, 0.95, 5),
        )
        saturations[0] = rng.uniform(0.5, 1)
    else:  # anything
        return rng.random((5, 3))
    if rng.random() < 0.35:  # most real things have some white or black on them
        saturations[4], values[4] = 0.05, rng.choice([0.05, 0.95])
    return np.array(
        [
            colorsys.hsv_to_rgb(h % 1, s, v)
            for h, s, v in zip(hues, saturations, values, strict=True)
        ]
    )
