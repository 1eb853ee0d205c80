"""`projection.project` and its derivative as numba kernels, for the tiles of `numba_tiles.py`.

torch needs some forty passes over memory for this and its autograd twice as many; here it is one
each. Mind when changing a constant: numba's disk cache only looks at the file that a kernel is in.
"""

from __future__ import annotations

import math

import numpy as np

from ..cameras import focal_length
from ..machine.numba_jit import jit
from .projection import LOW_PASS, MIN_ALPHA, NEAR, slope_limits

TILE = 8  # pixels

# Columns of a splat's row: one cache line of 16 float32. Exponents of alpha are kept in base 2.
X, Y, XX, XY, YY, LOG2_OPACITY, RED, GREEN, BLUE, DEPTH = range(10)
HALF_WIDTH, HALF_HEIGHT, CHORD, SHEAR, TIP = range(10, 15)
COLUMNS = 16

F32 = np.float32
LOG2_E = F32(math.log2(math.e))
LOG2_MIN_ALPHA = F32(math.log2(MIN_ALPHA))
ZERO, HALF, ONE, TWO, FOUR = F32(0), F32(0.5), F32(1), F32(2), F32(4)
_NEAR, _LOW_PASS, _MIN_ALPHA = F32(NEAR), F32(LOW_PASS), F32(MIN_ALPHA)
_MARGIN = F32(0.02)  # pixels, so that the rounding of an extent never loses a pixel
_FAR_AWAY = F32(1e7)  # pixels; larger extents would not fit the integers of tile indices


def camera_constants(w2c: np.ndarray, size: tuple[int, int], fovy: float) -> np.ndarray:
    """[17]: rotation (9), translation (3), focal length, principal point (2), slope limits (2)."""
    height, width = size
    pose = (*w2c[:3, :3].ravel(), *w2c[:3, 3])
    lens = (focal_length(height, fovy), width / 2, height / 2, *slope_limits(size, fovy))
    return np.array([*pose, *lens], np.float32)


@jit
def _to_camera(position, camera):
    x, y, z = position[0], position[1], position[2]
    return (
        camera[0] * x + camera[1] * y + camera[2] * z + camera[9],
        camera[3] * x + camera[4] * y + camera[5] * z + camera[10],
        camera[6] * x + camera[7] * y + camera[8] * z + camera[11],
    )


@jit
def _rotation(quaternion, out):
    """Sets the matrix [3, 3] of a quaternion; returns that normalized, and its inverse length."""
    w, x, y, z = quaternion[0], quaternion[1], quaternion[2], quaternion[3]
    scale = ONE / max(np.sqrt(w * w + x * x + y * y + z * z), F32(1e-12))
    w, x, y, z = w * scale, x * scale, y * scale, z * scale
    out[0, 0], out[1, 1] = ONE - TWO * (y * y + z * z), ONE - TWO * (x * x + z * z)
    out[2, 2] = ONE - TWO * (x * x + y * y)
    out[0, 1], out[1, 0] = TWO * (x * y - w * z), TWO * (x * y + w * z)
    out[0, 2], out[2, 0] = TWO * (x * z + w * y), TWO * (x * z - w * y)
    out[1, 2], out[2, 1] = TWO * (y * z - w * x), TWO * (y * z + w * x)
    return w, x, y, z, scale


@jit
def _jacobian(cx, cy, z, camera, out):
    """Sets J W [2, 3]: how steps in the world move the projection; (cx, cy) are limited slopes."""
    scale = camera[12] / z
    for j in range(3):
        out[0, j] = scale * (camera[j] - cx * camera[6 + j])
        out[1, j] = scale * (camera[3 + j] - cy * camera[6 + j])


@jit
def _axes(jacobian, rotation, scales, out):
    """Sets J W R S [2, 3]."""
    for i in range(2):
        for j in range(3):
            total = ZERO
            for k in range(3):
                total += jacobian[i, k] * rotation[k, j]
            out[i, j] = total * scales[j]


@jit
def _covariance(axes):
    """Low-passed 2D covariance xx, xy, yy; its determinant by Cauchy-Binet, so it won't cancel."""
    a, b, c = axes[0, 0], axes[0, 1], axes[0, 2]
    d, e, f = axes[1, 0], axes[1, 1], axes[1, 2]
    xx, xy, yy = a * a + b * b + c * c, a * d + b * e + c * f, d * d + e * e + f * f
    u, v, w = b * f - c * e, c * d - a * f, a * e - b * d
    determinant = u * u + v * v + w * w + _LOW_PASS * (xx + yy) + _LOW_PASS * _LOW_PASS
    return xx + _LOW_PASS, xy, yy + _LOW_PASS, determinant


@jit
def project(
    positions, opacities, scales, rotations, colors, camera, height, width,
    table, first, last, begin, end,
):  # fmt: skip
    """Sets begin:end of the splat table [N, 16] and of the first and last row of tiles touched.

    first > last means that it is not drawn.
    """
    tile_rows = (height + TILE - 1) // TILE
    rotation, jacobian, axes = np.empty((3, 3), F32), np.empty((2, 3), F32), np.empty((2, 3), F32)
    limit_x, limit_y = camera[15], camera[16]
    for n in range(begin, end):
        first[n], last[n] = 1, 0
        opacity = opacities[n, 0]
        px, py, z = _to_camera(positions[n], camera)
        if not (z > _NEAR and opacity >= _MIN_ALPHA):
            continue
        sx, sy = px / z, py / z
        cx, cy = min(max(sx, -limit_x), limit_x), min(max(sy, -limit_y), limit_y)
        _jacobian(cx, cy, z, camera, jacobian)
        _rotation(rotations[n], rotation)
        _axes(jacobian, rotation, scales[n], axes)
        xx, xy, yy, determinant = _covariance(axes)
        x, y = camera[12] * sx + camera[13], camera[12] * sy + camera[14]
        # alpha reaches 1/255 where d' conic d = reach: sqrt(reach) standard deviations away.
        log2_opacity = np.log2(opacity)
        reach = TWO * max(log2_opacity - LOG2_MIN_ALPHA, ZERO) / LOG2_E
        half_width = min(np.sqrt(reach * xx) + _MARGIN, _FAR_AWAY)
        half_height = min(np.sqrt(reach * yy) + _MARGIN, _FAR_AWAY)
        touches = x + half_width > ZERO and x - half_width < width and y + half_height > ZERO
        if not (np.isfinite(determinant) and touches and y - half_height < height):
            continue
        splat = table[n]
        splat[X], splat[Y], splat[DEPTH] = x, y, z
        splat[XX], splat[YY] = -HALF * LOG2_E * yy / determinant, -HALF * LOG2_E * xx / determinant
        splat[XY] = LOG2_E * xy / determinant
        splat[LOG2_OPACITY] = log2_opacity
        splat[RED], splat[GREEN], splat[BLUE] = colors[n, 0], colors[n, 1], colors[n, 2]
        # At height dy above the center the ellipse is 2 chord sqrt(1 - (dy / half_height)^2) wide
        # around shear dy; its rightmost point lies at height tip.
        splat[HALF_WIDTH], splat[HALF_HEIGHT] = half_width, half_height
        splat[CHORD] = min(np.sqrt(reach * determinant / yy) + _MARGIN, _FAR_AWAY)
        splat[SHEAR], splat[TIP] = xy / yy, xy / xx * half_width
        first[n] = int(max(ZERO, (y - half_height) / F32(TILE)))
        last[n] = int(min(F32(tile_rows - 1), (y + half_height) / F32(TILE)))


@jit
def project_backward(
    positions, opacities, scales, rotations, camera, table, first, last, moments,
    grad_positions, grad_opacities, grad_scales, grad_rotations, grad_colors, begin, end,
):  # fmt: skip
    """Adds to gradients begin:end what the moments of `numba_tiles._draw_rows_backward` say."""
    rotation, jacobian, axes, unscaled = (
        np.empty((3, 3), F32), np.empty((2, 3), F32), np.empty((2, 3), F32), np.empty((2, 3), F32),
    )  # fmt: skip
    ones = np.ones(3, F32)
    g_axes, g_jacobian, g = np.empty((2, 3), F32), np.empty((2, 3), F32), np.empty((3, 3), F32)
    m = np.empty(10, F32)
    limit_x, limit_y = camera[15], camera[16]
    for n in range(begin, end):
        if first[n] > last[n]:
            continue
        m[:] = ZERO
        for worker in range(len(moments)):
            for c in range(10):
                m[c] += moments[worker, n, c]
        px, py, z = _to_camera(positions[n], camera)
        sx, sy = px / z, py / z
        cx, cy = min(max(sx, -limit_x), limit_x), min(max(sy, -limit_y), limit_y)
        _jacobian(cx, cy, z, camera, jacobian)
        qw, qx, qy, qz, scale = _rotation(rotations[n], rotation)
        _axes(jacobian, rotation, ones, unscaled)
        _axes(jacobian, rotation, scales[n], axes)
        xx, xy, yy, determinant = _covariance(axes)
        a, b, c = yy / determinant, -xy / determinant, xx / determinant  # the conic

        # ln alpha = ln o - d' K d / 2 with d = mean - pixel and K the conic. Its derivatives are
        # -K d with respect to the mean, (K d)(K d)' / 2 with respect to the covariance.
        g_sx = -camera[12] * (a * m[1] + b * m[2])
        g_sy = -camera[12] * (b * m[1] + c * m[2])
        g_xx = HALF * (a * a * m[3] + TWO * a * b * m[4] + b * b * m[5])
        g_xy = a * b * m[3] + (a * c + b * b) * m[4] + b * c * m[5]
        g_yy = HALF * (b * b * m[3] + TWO * b * c * m[4] + c * c * m[5])
        for j in range(3):
            g_axes[0, j] = TWO * g_xx * axes[0, j] + g_xy * axes[1, j]
            g_axes[1, j] = TWO * g_yy * axes[1, j] + g_xy * axes[0, j]
            grad_scales[n, j] += g_axes[0, j] * unscaled[0, j] + g_axes[1, j] * unscaled[1, j]
            g_axes[0, j] *= scales[n, j]
            g_axes[1, j] *= scales[n, j]
        for i in range(3):
            g_jacobian[0, i], g_jacobian[1, i] = ZERO, ZERO
            for j in range(3):
                g_jacobian[0, i] += g_axes[0, j] * rotation[i, j]
                g_jacobian[1, i] += g_axes[1, j] * rotation[i, j]
                g[i, j] = g_axes[0, j] * jacobian[0, i] + g_axes[1, j] * jacobian[1, i]

        # J W = focal / z (W_xy - slope W_z); the slope has no gradient where it is limited.
        g_z = m[9]
        g_cx, g_cy = ZERO, ZERO
        for i in range(3):
            g_z -= (g_jacobian[0, i] * jacobian[0, i] + g_jacobian[1, i] * jacobian[1, i]) / z
            g_cx -= camera[12] / z * g_jacobian[0, i] * camera[6 + i]
            g_cy -= camera[12] / z * g_jacobian[1, i] * camera[6 + i]
        g_sx += g_cx if cx == sx else ZERO
        g_sy += g_cy if cy == sy else ZERO
        g_z -= (g_sx * sx + g_sy * sy) / z
        for j in range(3):
            grad_positions[n, j] += (g_sx * camera[j] + g_sy * camera[3 + j]) / z
            grad_positions[n, j] += g_z * camera[6 + j]

        w = TWO * (qx * (g[2, 1] - g[1, 2]) + qy * (g[0, 2] - g[2, 0]) + qz * (g[1, 0] - g[0, 1]))
        x = TWO * (qy * (g[0, 1] + g[1, 0]) + qz * (g[0, 2] + g[2, 0]) + qw * (g[2, 1] - g[1, 2]))
        y = TWO * (qx * (g[0, 1] + g[1, 0]) + qz * (g[1, 2] + g[2, 1]) + qw * (g[0, 2] - g[2, 0]))
        z = TWO * (qx * (g[0, 2] + g[2, 0]) + qy * (g[1, 2] + g[2, 1]) + qw * (g[1, 0] - g[0, 1]))
        x -= FOUR * qx * (g[1, 1] + g[2, 2])
        y -= FOUR * qy * (g[0, 0] + g[2, 2])
        z -= FOUR * qz * (g[0, 0] + g[1, 1])
        along = w * qw + x * qx + y * qy + z * qz  # the length is normalized away
        grad_rotations[n, 0] += scale * (w - along * qw)
        grad_rotations[n, 1] += scale * (x - along * qx)
        grad_rotations[n, 2] += scale * (y - along * qy)
        grad_rotations[n, 3] += scale * (z - along * qz)

        grad_opacities[n, 0] += m[0] / opacities[n, 0]
        for j in range(3):
            grad_colors[n, j] += m[6 + j]
