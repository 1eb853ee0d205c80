"""Closed surfaces as grids [N + 1, N + 1, 3]: rows run along the shape, columns once around it.

Everything is a section (a closed curve) swept along a profile or a spine; poles are rows of one
repeated point.
NumPy only: this runs in data-loading workers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

N = 32
TURN = np.linspace(0, 2 * math.pi, N + 1)


def resample(points: np.ndarray) -> np.ndarray:
    """[N + 1, C] points along a polyline [K, C]: denser where it turns, doubled at corners."""
    steps = np.diff(points, axis=0)
    lengths = np.sqrt((steps**2).sum(1)) + 1e-9
    directions = steps / lengths[:, None]
    turns = np.arccos(np.clip((directions[1:] * directions[:-1]).sum(1), -1, 1)) + 1e-9
    along = np.concatenate([[0], np.cumsum(lengths)]) / lengths.sum()
    turned = 0.4 * np.concatenate([[0], np.cumsum(turns)]) / turns.sum()
    # Every corner spans a piece of the measure in which the point stands still.
    before = along + np.concatenate([[0], turned])
    after = along + np.concatenate([turned, turned[-1:]])
    measure = np.stack([before, after], axis=1).ravel()
    where = np.linspace(0, measure[-1], N + 1)
    repeated = np.repeat(points, 2, axis=0)
    return np.stack(
        [np.interp(where, measure, repeated[:, c]) for c in range(points.shape[1])], axis=1
    )


@lru_cache(maxsize=256)
def _spline_matrix(count: int, samples: int) -> np.ndarray:
    """Catmull-Rom basis [samples, count]; the ends are reflected."""
    t = np.linspace(0, count - 1, samples)
    first = np.minimum(t.astype(int), count - 2)
    f = t - first
    weights = (
        np.stack(
            [-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, f**3 - f**2]
        )
        / 2
    )
    matrix = np.zeros((samples, count + 2))
    for k in range(4):
        matrix[np.arange(samples), first + k] += weights[k]
    inner = matrix[:, 1:-1].copy()
    inner[:, 0] += 2 * matrix[:, 0]
    inner[:, 1] -= matrix[:, 0]
    inner[:, -1] += 2 * matrix[:, -1]
    inner[:, -2] -= matrix[:, -1]
    return inner


def spline(points, samples: int = 2 * N + 1) -> np.ndarray:
    """Smooth curve through [K >= 2, C] points."""
    points = np.asarray(points, dtype=np.float64)
    return _spline_matrix(len(points), samples) @ points


# Sections: closed curves [N + 1, 2] inside the unit circle or square.


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    """Of the magnitude, keeping the sign. Rounding first keeps cos(pi / 2) at 0."""
    return np.sign(values) * np.abs(values.round(12)) ** exponent


@lru_cache(maxsize=64)
def superellipse(exponent: float = 2.0) -> np.ndarray:
    """2 is a circle, 4 a rounded square, 20 nearly a square, 1 a diamond. The seam is at +x."""
    t = np.linspace(0, 2 * math.pi, 8 * N + 1)
    curve = np.stack([_power(np.cos(t), 2 / exponent), _power(np.sin(t), 2 / exponent)], axis=1)
    return resample(curve)


@lru_cache(maxsize=64)
def polygon(corners: int, inner: float = 1.0) -> np.ndarray:
    """Regular polygon; `inner` below 1 makes a star."""
    t = np.linspace(0, 2 * math.pi, (corners if inner == 1 else 2 * corners) + 1)
    radius = np.where(np.arange(len(t)) % 2 == 0, 1.0, inner)
    return resample(np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1))


@lru_cache(maxsize=64)
def flower(lobes: int, depth: float) -> np.ndarray:
    radius = 1 - depth * (0.5 - 0.5 * np.cos(lobes * TURN))
    return np.stack([radius * np.cos(TURN), radius * np.sin(TURN)], axis=1)


@lru_cache(maxsize=64)
def gear(teeth: int, depth: float) -> np.ndarray:
    t = np.repeat(np.arange(2 * teeth + 1) * math.pi / teeth, 2)[1:]
    radius = np.array([1.0, 1.0, 1 - depth, 1 - depth] * (teeth + 1))[: len(t)]
    return resample(np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1))


def heart() -> np.ndarray:
    x, y = (
        16 * np.sin(TURN) ** 3,
        13 * np.cos(TURN) - 5 * np.cos(2 * TURN) - 2 * np.cos(3 * TURN) - np.cos(4 * TURN),
    )
    return np.stack([x, y + 2], axis=1) / 17


def wavy(rng: np.random.Generator, strength: float = 0.3) -> np.ndarray:
    """A random smooth closed curve, star-shaped around 0."""
    orders = np.arange(1, 5)
    amplitudes = strength * rng.normal(size=4) / orders
    waves = np.cos(orders[:, None] * TURN + rng.uniform(0, 2 * math.pi, (4, 1)))
    radius = np.exp(amplitudes @ waves)
    return np.stack([radius * np.cos(TURN), radius * np.sin(TURN)], axis=1) / radius.max()


# Surfaces


def lathe(profile: np.ndarray, section: np.ndarray | None = None) -> np.ndarray:
    """Sweep a section up the y axis; `profile` [N + 1, 2] is (scale of the section, height)."""
    section = superellipse() if section is None else section
    grid = np.empty((N + 1, N + 1, 3))
    grid[..., 0] = profile[:, :1] * section[:, 0]
    grid[..., 1] = profile[:, 1:]
    grid[..., 2] = -profile[:, :1] * section[:, 1]
    return grid


@lru_cache(maxsize=256)
def _superellipsoid(around: float, along: float) -> np.ndarray:
    t = np.linspace(-math.pi / 2, math.pi / 2, 8 * N + 1)
    profile = np.stack([_power(np.cos(t), 2 / along), _power(np.sin(t), 2 / along)], axis=1)
    return lathe(resample(profile), superellipse(around))


def ellipsoid(radii, around: float = 2.0, along: float = 2.0) -> np.ndarray:
    """Superellipsoid with half-extents `radii`; exponents as in `superellipse`, 20 makes a box."""
    return _superellipsoid(around, along) * np.asarray(radii, dtype=np.float64)


@lru_cache(maxsize=256)
def prism_profile(bevel: float = 0.05, top: float = 1.0) -> np.ndarray:
    """A closed profile from -1 to 1 with flat caps; `top` is the scale of the upper end."""
    b = bevel
    return resample(
        np.array(
            [[0, -1], [1 - b, -1], [1, -1 + b], [top, 1 - b], [top * (1 - b), 1], [0, 1]],
            dtype=np.float64,
        )
    )


def prism(section: np.ndarray, height: float, top: float = 1.0, bevel: float = 0.05) -> np.ndarray:
    """Cylinders, cones, extrusions: `section` scaled from 1 at -height / 2 to `top` above."""
    grid = lathe(prism_profile(round(bevel, 2), round(top, 2)), section)
    return grid * np.array([1, height / 2, 1])


def torus(radius: float, thickness: float, section: np.ndarray | None = None) -> np.ndarray:
    """A ring around the y axis."""
    section = superellipse() if section is None else section
    ring = radius + thickness * section[:, 0]
    grid = np.empty((N + 1, N + 1, 3))
    grid[..., 0] = np.cos(TURN)[:, None] * ring
    grid[..., 1] = thickness * section[:, 1]
    grid[..., 2] = np.sin(TURN)[:, None] * ring
    return grid


_CAP = np.radians([0, 35, 65, 90])


def tube(points, radii, flatness: float = 1.0, section: np.ndarray | None = None) -> np.ndarray:
    """A tube with round ends along a smooth curve.

    Args:
        points: [K >= 2, 3] the curve passes through.
        radii: [K'] thickness along it, any number of values.
        flatness: thickness across the curve's plane divided by thickness within it.
    """
    inner = N + 1 - 2 * len(_CAP)
    center = spline(points, inner)
    radius = np.maximum(
        spline(np.reshape(radii, (-1, 1)) if np.size(radii) > 1 else [[radii]] * 2, inner)[:, 0],
        1e-3,
    )
    tangent = np.gradient(center, axis=0)
    tangent /= np.sqrt((tangent**2).sum(1, keepdims=True)) + 1e-12
    normal = np.cross(tangent[:-1], tangent[1:]).sum(
        0
    )  # of the plane the curve lies in, if it bends at all
    if (normal**2).sum() < 1e-8:
        normal = np.cross(tangent[0], np.eye(3)[np.abs(tangent[0]).argmin()])
    side = np.cross(normal, tangent)
    side /= np.sqrt((side**2).sum(1, keepdims=True)) + 1e-12
    across = np.cross(tangent, side)

    def capped(values: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [values[:1].repeat(len(_CAP), 0), values, values[-1:].repeat(len(_CAP), 0)]
        )

    shrink = np.concatenate([np.sin(_CAP), np.ones(inner), np.sin(_CAP[::-1])])
    push = np.concatenate([-np.cos(_CAP), np.zeros(inner), np.cos(_CAP[::-1])])
    radius, side, across, tangent = capped(radius), capped(side), capped(across), capped(tangent)
    center = capped(center) + (push * radius)[:, None] * tangent * min(flatness, 1)
    section = superellipse() if section is None else section
    spread = (
        section[None, :, :1] * side[:, None] + flatness * section[None, :, 1:] * across[:, None]
    )
    return center[:, None] + (shrink * radius)[:, None, None] * spread


def loft(centers, widths, heights, exponent: float = 2.0) -> np.ndarray:
    """A body along z of superelliptic slices.

    Args:
        centers: [K, 2] y and z of each slice.
        widths, heights: [K] half-extents in x and y.
    """
    table = np.column_stack([np.asarray(centers, dtype=np.float64), widths, heights])
    table = resample(spline(table))
    table[[0, -1], 2:] *= 0.02
    section = superellipse(exponent)
    grid = np.empty((N + 1, N + 1, 3))
    grid[..., 0] = table[:, 2:3] * section[:, 0]
    grid[..., 1] = table[:, :1] + table[:, 3:] * section[:, 1]
    grid[..., 2] = table[:, 1:2]
    return grid


def rotation(degrees) -> np.ndarray:
    """Turns about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
