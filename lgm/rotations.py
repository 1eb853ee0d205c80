"""Quaternions (w, x, y, z) and rotation matrices."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def quaternion_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of w, x, y, z quaternions [..., 4]."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def quaternion_from_matrix(matrix: Tensor) -> Tensor:
    """Unit quaternions w, x, y, z of rotation matrices [..., 3, 3]; stable for every angle."""
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # Row k is the quaternion times 4 * its k-th component: take the row of the largest one.
    rows = torch.stack(
        [
            torch.stack(
                [
                    1 + xx + yy + zz,
                    m[..., 2, 1] - m[..., 1, 2],
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] - m[..., 0, 1],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 2, 1] - m[..., 1, 2],
                    1 + xx - yy - zz,
                    m[..., 1, 0] + m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] + m[..., 0, 1],
                    1 - xx + yy - zz,
                    m[..., 2, 1] + m[..., 1, 2],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 1, 0] - m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 2, 1] + m[..., 1, 2],
                    1 - xx - yy + zz,
                ],
                -1,
            ),
        ],
        dim=-2,
    )
    largest = (
        rows.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*rows.shape[:-2], 1, 4)
    )
    return F.normalize(rows.gather(-2, largest).squeeze(-2), dim=-1)


def quaternion_matrix(xyzw: np.ndarray) -> np.ndarray:
    """Rotation [3, 3]; the identity for a quaternion of length zero."""
    length = np.linalg.norm(xyzw)
    x, y, z, w = xyzw / length if length > 1e-9 else (0, 0, 0, 1)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def matrix_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Quaternion wxyz of a rotation [3, 3]: an eigenvector (Horn 1987)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    symmetric = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    return np.linalg.eigh(symmetric)[1][:, -1]


def product_matrix(quaternion: np.ndarray) -> np.ndarray:
    """[4, 4] that multiplies quaternions wxyz by `quaternion` from the left."""
    w, x, y, z = quaternion
    return np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Matrices [..., 3, 3] of quaternions [..., 4] (w, x, y, z), which are normalized first."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([entry for row in rows for entry in row], dim=-1).unflatten(-1, (3, 3))
