"""Between ComfyUI's values and the library's: SPLAT, IMAGE, LOAD3D_CAMERA, colors.

SPLAT is in the 3DGS frame (+y down), the library's world is +y up: half a turn about x lies between
(`lgm.gaussians.flip_y_z`). LOAD3D_CAMERA is three.js, +y up like the library: no turn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from comfy_api.latest import Types, io
from torch import Tensor

from ...lgm.gaussians import Gaussians, flip_y_z
from ...lgm.spherical_harmonics import SH_C0

LGMModel = io.Custom("LGM_MODEL")


def splat_count(splat: Types.SPLAT, index: int) -> int:
    """Real number of Gaussians of a batch item; rows beyond are padding."""
    return splat.positions.shape[1] if splat.counts is None else int(splat.counts[index])


def gaussians_from_splat(splat: Types.SPLAT, index: int, mask: Tensor | None = None) -> Gaussians:
    """Batch item `index` as float32 Gaussians [1, N, ..], +y up, wherever the splat lies.

    Args:
        mask: [count of the item], which of them; default all.
    """
    count = splat_count(splat, index)
    rows = slice(count) if mask is None else mask.nonzero()[:, 0]

    def item(values: Tensor) -> Tensor:
        return values[index, :count][rows][None].float()

    sh = item(splat.sh)
    higher = sh[:, :, 1:]
    gaussians = Gaussians(
        positions=item(splat.positions),
        opacities=item(splat.opacities).reshape(1, -1, 1),
        scales=item(splat.scales),
        rotations=F.normalize(item(splat.rotations), dim=-1),
        colors=0.5 + SH_C0 * sh[:, :, 0],
        sh=higher if higher.shape[2] and higher.any() else None,
    )
    return flip_y_z(gaussians)


def splat_from_gaussians(items: list[Gaussians]) -> Types.SPLAT:
    """A SPLAT batch from Gaussians [1, N_i, ..], padded with zeros to the longest."""
    items = [flip_y_z(item) for item in items]
    bands = max(0 if item.sh is None else item.sh.shape[2] for item in items)
    sh = []
    for item in items:
        base = ((item.colors - 0.5) / SH_C0)[0, :, None]
        higher = base.new_zeros(len(base), bands, 3)
        if item.sh is not None:
            higher[:, : item.sh.shape[2]] = item.sh[0]
        sh.append(torch.cat([base, higher], dim=1))
    return pack_splat(
        [item.positions[0] for item in items],
        [item.scales[0] for item in items],
        [item.rotations[0] for item in items],
        [item.opacities[0] for item in items],
        sh,
    )


def select_from_splat(splat: Types.SPLAT, masks: list[Tensor]) -> Types.SPLAT:
    """Of every batch item the Gaussians where its mask [N] is true, all their values untouched."""
    kept = [
        [values[i, : len(mask)][mask.to(values.device)] for i, mask in enumerate(masks)]
        for values in (splat.positions, splat.scales, splat.rotations, splat.opacities, splat.sh)
    ]
    return pack_splat(*kept)


def pack_splat(*fields: list[Tensor]) -> Types.SPLAT:
    """A SPLAT from lists of [N_i, ..] in the order of its constructor."""
    counts = torch.tensor([len(item) for item in fields[0]], dtype=torch.int64)
    longest = int(counts.max())
    padded = (
        torch.stack([F.pad(x, [0, 0] * (x.dim() - 1) + [0, longest - len(x)]) for x in items])
        for items in fields
    )
    uniform = bool((counts == longest).all())
    return Types.SPLAT(*padded, counts=None if uniform else counts.to(fields[0][0].device))


def finite_rows(splat, index: int) -> torch.Tensor:
    """[N] whether all values of a Gaussian are finite; NaN can neither be drawn nor compared."""
    rows = slice(splat_count(splat, index))
    fields = (splat.positions, splat.scales, splat.rotations, splat.opacities, splat.sh)
    return torch.stack([f[index, rows].flatten(1).isfinite().all(1) for f in fields]).all(0)
