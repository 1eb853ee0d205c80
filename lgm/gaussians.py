"""The Gaussians record: what the network predicts, the renderer draws and the files hold.

Frame: right-handed, +y up, object front +z, object inside [-1, 1]^3 (see `lgm.cameras`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .machine.constants import constant
from .spherical_harmonics import BAND_WIDTHS, half_turn_sh, sh_basis

CHANNELS = (
    3,
    1,
    3,
    4,
    3,
)  # position, opacity, scale, rotation, color: order of the U-Net's 14 channels


@dataclass(frozen=True)
class Gaussians:
    """A batch of B sets of N anisotropic Gaussians, activated values.

    With `sh`, the color depends on where a Gaussian is seen from: see `colors_toward`.
    """

    positions: Tensor  # [B, N, 3], world units
    opacities: Tensor  # [B, N, 1], 0..1
    scales: Tensor  # [B, N, 3], standard deviations in world units, linear
    rotations: Tensor  # [B, N, 4], unit quaternion w, x, y, z
    colors: Tensor  # [B, N, 3], straight sRGB values 0..1; beside `sh` any value, 0.5 + C0 DC
    sh: Tensor | None = None  # [B, N, 3 | 8 | 15, 3], spherical harmonics of degrees 1 to 1 | 2 | 3

    def __post_init__(self) -> None:
        batch = self.positions.shape[:-1]
        for field, width in zip(fields(self), CHANNELS, strict=False):
            shape = getattr(self, field.name).shape
            if len(shape) != 3 or shape != (*batch, width):
                raise ValueError(
                    f"Gaussians need {field.name} of shape {[*batch, width]} ([B, N, {width}]), "
                    f"got {list(shape)}."
                )
        if self.sh is not None and self.sh.shape not in [(*batch, m, 3) for m in BAND_WIDTHS[1:]]:
            raise ValueError(
                f"Gaussians need sh of shape {[*batch, 'M', 3]} with M = 3, 8 or 15 (degrees 1 to "
                f"3), got {list(self.sh.shape)}."
            )

    @property
    def batch_size(self) -> int:
        return self.positions.shape[0]

    @property
    def count(self) -> int:
        """N, Gaussians per batch item."""
        return self.positions.shape[1]

    @property
    def device(self) -> torch.device:
        return self.positions.device

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def map(self, function) -> Gaussians:
        """The record with `function` applied to every tensor."""
        return Gaussians(**{name: function(value) for name, value in self.tensors().items()})

    def to(self, *args, **kwargs) -> Gaussians:
        """The record moved or cast like `torch.Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def detach(self) -> Gaussians:
        return self.map(torch.Tensor.detach)

    def select(self, index: Tensor | slice) -> Gaussians:
        """The Gaussians at `index` ([M] integers, a [N] mask or a slice), in every batch item."""
        return self.map(lambda tensor: tensor[:, index])

    def item(self, index: int) -> Gaussians:
        """Batch item `index` as a batch of one."""
        return self.map(lambda tensor: tensor[index : index + 1])

    def scaled(self, factors: Tensor) -> Gaussians:
        """In a world `factors` [B] times as large."""
        factors = factors[:, None, None]
        return replace(self, positions=self.positions * factors, scales=self.scales * factors)

    def visible(self, min_opacity: float = 0.005) -> Gaussians:
        """Without Gaussians fainter than `min_opacity`, the official writer's threshold; batch of
        one only.
        """
        if self.batch_size != 1:
            raise ValueError(
                f"Pruning needs one object at a time, got a batch of {self.batch_size}: use item()."
            )
        return self.select(self.opacities[0, :, 0] >= min_opacity)


def decode(features: Tensor) -> Gaussians:
    """Activate raw U-Net channels [B, N, 14] (Tang et al. 2024, section 3.3; official
    core/models.py).
    """
    position, opacity, scale, rotation, color = features.split(CHANNELS, dim=-1)
    return Gaussians(
        positions=position.clamp(-1, 1),
        opacities=opacity.sigmoid(),
        scales=0.1
        * F.softplus(scale),  # at initialization a Gaussian is about 7 % of the half-extent
        rotations=F.normalize(rotation, dim=-1),
        colors=0.5 * torch.tanh(color) + 0.5,
    )


def colors_toward(gaussians: Gaussians, eye: Tensor) -> Tensor:
    """Colors [B, N, 3] as seen from `eye`, [3] or [B, 3] in world units (Kerbl et al. 2023).

    max(0, base + sum of sh Y(d)) with d the unit vector from the eye to the Gaussian; without `sh`
    the base color as it is.
    """
    if gaussians.sh is None:
        return gaussians.colors
    directions = F.normalize(gaussians.positions - eye.reshape(-1, 1, 3), dim=-1)
    basis = sh_basis(directions)[..., None, : gaussians.sh.shape[-2]]
    return (gaussians.colors + (basis @ gaussians.sh)[..., 0, :]).clamp(min=0)


def flip_y_z(gaussians: Gaussians) -> Gaussians:
    """Half a turn about x: our y-up world <-> 3DGS files and ComfyUI's SPLAT (y down). Its own
    inverse up to q = -q.
    """
    w, x, y, z = gaussians.rotations.unbind(-1)
    return replace(
        gaussians,
        positions=gaussians.positions * constant((1, -1, -1), gaussians.positions),
        rotations=torch.stack([-x, w, -z, y], dim=-1),  # (0, 1, 0, 0) * q
        sh=None if gaussians.sh is None else half_turn_sh(gaussians.sh),
    )


def concatenate(parts: list[Gaussians], dim: int = 0) -> Gaussians:
    """Objects side by side in a batch (dim 0; all need the same N), or merged into one (dim 1; all
    need the same B). Where some have higher bands, the others get zeros for them.
    """
    width = max((part.sh.shape[2] for part in parts if part.sh is not None), default=0)
    if width:
        parts = [replace(part, sh=_padded_sh(part, width)) for part in parts]
    tensors = [part.tensors() for part in parts]
    return Gaussians(**{name: torch.cat([t[name] for t in tensors], dim) for name in tensors[0]})


def _padded_sh(gaussians: Gaussians, width: int) -> Tensor:
    if gaussians.sh is None:
        return gaussians.positions.new_zeros(*gaussians.positions.shape[:2], width, 3)
    return F.pad(gaussians.sh, (0, 0, 0, width - gaussians.sh.shape[2]))
