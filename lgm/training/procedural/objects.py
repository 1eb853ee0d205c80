"""Procedural training objects, each fully determined by its integer seed.

`draw_parameters` makes the random choices. It takes about a millisecond and its result can be
pickled, so it runs in worker processes. `build` makes triangles and textures of a batch on any
device. Shapes come from `kinds`, surfaces from `materials`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras import FOVY, RADIUS
from ..rasterize import Lights, TriangleSoup
from .kinds import KINDS
from .materials import noise, paint
from .shapes import rotation
from .sketch import Sketch

MAX_PARTS = 24
MAX_RADIUS = 0.85  # keeps raised cameras from cutting chunky objects off
COARSE = 0.3  # parts smaller than this share of the object get a quarter of the triangles
CREASE = 0.75  # cosine: vertex normals further from a face's own are not smoothed over it


@dataclass(frozen=True)
class ProceduralObject:
    """The random choices for one object of P parts; float32 unless stated otherwise."""

    grids: np.ndarray  # [P, N + 1, N + 1, 3] surfaces, see shapes; together they span [-1, 1]
    bumps: np.ndarray  # [P, 2] amplitude and frequency of the noise on the surface
    families: np.ndarray  # [P] int64, index into materials.FAMILIES
    palettes: np.ndarray  # [P, 4, 3] RGB
    parameters: np.ndarray  # [P, len(PARAMETERS)]
    coarse: np.ndarray  # [P] bool
    deformation: np.ndarray  # [7] taper, twist (radians), bend, shear, then a scale per axis
    rotation: np.ndarray  # [3, 3]
    fill: float  # share of the frame filled in the tightest of the four canonical views


def draw_parameters(seed: int) -> ProceduralObject:
    """The random choices of object `seed`; equal seeds give equal objects."""
    rng = np.random.default_rng(seed)
    weights = np.array([weight for _, weight in KINDS])
    draw_kind = KINDS[np.searchsorted(np.cumsum(weights), rng.random() * weights.sum())][0]
    sketch = Sketch(rng)
    draw_kind(sketch)
    grids = np.stack(sketch.grids[:MAX_PARTS]).astype(np.float32)
    low, high = grids.min((1, 2)), grids.max((1, 2))
    half = max((high.max(0) - low.min(0)).max() / 2, 1e-6)
    grids = (grids - (high.max(0) + low.min(0)) / 2) / half
    materials = sketch.materials[: len(grids)]
    return ProceduralObject(
        grids=grids,
        bumps=np.array(sketch.bumps[: len(grids)], dtype=np.float32) / np.float32([half, 1 / half]),
        families=np.array([m.family for m in materials]),
        palettes=np.stack([m.palette for m in materials]).astype(np.float32),
        parameters=np.stack([m.parameters for m in materials]).astype(np.float32),
        coarse=(high - low).max(1) < COARSE * 2 * half,
        deformation=_deformation(rng).astype(np.float32),
        rotation=_orientation(rng).astype(np.float32),
        fill=float(rng.uniform(0.6, 0.95)),
    )


def _deformation(rng: np.random.Generator) -> np.ndarray:
    amounts = rng.uniform(-1, 1, 4) * [0.35, 0.7, 0.3, 0.2] * (rng.random(4) < 0.2)
    return np.concatenate([amounts, np.exp(rng.normal(0, 0.12, 3))])


def _orientation(rng: np.random.Generator) -> np.ndarray:
    """A rotation: none for half of the objects, about the vertical for most others, else any."""
    draw = rng.random()
    if draw < 0.5:
        return np.eye(3)
    yaw = rotation((0, rng.uniform(0, 360), 0))
    if draw < 0.85:
        return yaw
    tilt = 180 if draw > 0.95 else 25
    return rotation((rng.uniform(-tilt, tilt), 0, rng.uniform(-tilt, tilt))) @ yaw


def build(
    records: Sequence[ProceduralObject],
    device: torch.device | str = "cpu",
    textures: Tensor | None = None,
    resolution: int = 128,
) -> TriangleSoup:
    """Triangles and texture tiles of a batch of objects.

    Args:
        device: where everything heavy runs and the result lives.
        textures: [K, 3, R, R] uint8 or 0..1 real images, shown by a quarter of the materials.
        resolution: of every part's tile.
    """
    device = torch.device(device)

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(r, name) for r in records]))

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(r, name) for r in records])).to(device)

    objects = torch.repeat_interleave(torch.tensor([len(r.grids) for r in records]))
    coarse = joined("coarse")
    grids, bumps, palettes = (joined(name).to(device) for name in ("grids", "bumps", "palettes"))
    textures = None if textures is None else textures.to(device)
    atlas = paint(grids, joined("families"), palettes, joined("parameters"), resolution, textures)

    item = objects.to(device)
    grids = grids + _grid_normals(grids) * _bump(grids, bumps)[..., None]
    grids = _deform(grids, stacked("deformation")[item])
    # A matrix product could be TF32 and shake the surface.
    grids = (stacked("rotation")[item][:, None, None] * grids[..., None, :]).sum(-1)
    grids = _fit(grids, item, torch.tensor([r.fill for r in records], device=device))

    pieces = [
        _triangles(grids, step, part.to(device), objects[part].to(device), resolution)
        for step, part in ((1, (~coarse).nonzero()[:, 0]), (2, coarse.nonzero()[:, 0]))
    ]
    corners, normals, uvs, parts, owners = (torch.cat(piece) for piece in zip(*pieces, strict=True))
    order = owners.argsort(stable=True)
    return TriangleSoup(
        corners=corners[order],
        normals=normals[order],
        uvs=uvs[order],
        colors=torch.ones(len(order), 3, device=device),
        textures=parts[order],
        objects=owners[order],
        atlas=atlas,
        count=len(records),
    )


def procedural_objects(
    seeds: Sequence[int] | Tensor,
    device: torch.device | str = "cpu",
    textures: Tensor | None = None,
    resolution: int = 128,
) -> TriangleSoup:
    """The objects of the given seeds as one batch; see `build`."""
    return build([draw_parameters(int(seed)) for seed in seeds], device, textures, resolution)


def _bump(grids: Tensor, bumps: Tensor) -> Tensor:
    """Displacement [P, N + 1, N + 1] along the normals."""
    amplitude, frequency = bumps[:, None, None, 0], bumps[:, None, None, 1:]
    found = noise(0.11 * grids * frequency + frequency)
    return amplitude * (0.6 * found[..., 0] + 0.4 * found[..., 4])


def _grid_normals(grids: Tensor) -> Tensor:
    """Unit normals [P, N + 1, N + 1, 3]; they wrap around; at the poles the next row decides."""
    ring = grids[:, :, :-1]
    around = ring.roll(-1, 2) - ring.roll(1, 2)
    padded = torch.cat([ring[:, :1], ring, ring[:, -1:]], dim=1)
    along = padded[:, 2:] - padded[:, :-2]
    normals = F.normalize(torch.linalg.cross(around, along), dim=-1, eps=1e-20)
    pole = F.normalize(normals[:, [1, -2]].mean(2, keepdim=True), dim=-1)
    flat = (around[:, [0, -1]].square().sum(-1, keepdim=True) < 1e-12).all(2, keepdim=True)
    normals[:, [0, -1]] = torch.where(flat, pole, normals[:, [0, -1]])
    return torch.cat([normals, normals[:, :, :1]], dim=2)


def _deform(grids: Tensor, amounts: Tensor) -> Tensor:
    """Taper, twist about y, bend and shear along x, then scale."""
    taper, twist, bend, shear = amounts[:, :4].T[..., None, None]
    x, y, z = grids.unbind(-1)
    x, z = x * (1 + taper * y), z * (1 + taper * y)
    cos, sin = (twist * y).cos(), (twist * y).sin()
    x, z = cos * x + sin * z, cos * z - sin * x
    x = x + bend * y * y + shear * y
    return torch.stack([x, y, z], dim=-1) * amounts[:, None, None, 4:]


def _fit(grids: Tensor, item: Tensor, fill: Tensor) -> Tensor:
    """Centered, and scaled to `fill` [B] of the frame in the tightest of four level views."""
    count = len(fill)

    def per_object(values: Tensor, reduce: str) -> Tensor:
        """[P, C] -> [B, C]"""
        start = values.new_zeros(count, values.shape[1])
        return start.scatter_reduce(
            0, item[:, None].expand_as(values), values, reduce, include_self=False
        )

    low = per_object(grids.flatten(1, 2).amin(1), "amin")
    high = per_object(grids.flatten(1, 2).amax(1), "amax")
    grids = grids - ((low + high) / 2)[item][:, None, None]

    # A point at offset a from the optical axis and b towards the camera is seen at
    # s a / (RADIUS - s b) when scaled by s: below the slope t as long as s (a + t b) <= t RADIUS.
    slope = fill[item][:, None, None] * math.tan(math.radians(FOVY) / 2)
    x, y, z = grids.abs().unbind(-1)
    needed = torch.maximum(torch.maximum(x, y) + slope * z, torch.maximum(z, y) + slope * x)
    needed = per_object(needed.flatten(1).amax(1, keepdim=True), "amax")[:, 0]
    scale = fill * math.tan(math.radians(FOVY) / 2) * RADIUS / needed.clamp(min=1e-6)
    reach = per_object(grids.norm(dim=-1).flatten(1).amax(1, keepdim=True), "amax")[:, 0]
    scale = torch.minimum(scale, MAX_RADIUS / reach.clamp(min=1e-6))
    return grids * scale[item][:, None, None, None]


def _triangles(
    grids: Tensor, step: int, part: Tensor, owners: Tensor, resolution: int
) -> tuple[Tensor, ...]:
    """Corners, normals, uvs, part and object of parts' triangles, using every `step`-th row."""
    grids = grids[part][:, ::step, ::step]
    cells = grids.shape[1] - 1

    def quads(values: Tensor) -> Tensor:
        """[P, n + 1, n + 1, C] -> [P, n, n, 4, C]"""
        return torch.stack(
            [values[:, :-1, :-1], values[:, :-1, 1:], values[:, 1:, 1:], values[:, 1:, :-1]], dim=3
        )

    corners, smooth = quads(grids), quads(_grid_normals(grids))
    diagonals = corners[:, :, :, 2:] - corners[:, :, :, :2]
    face = F.normalize(
        torch.linalg.cross(diagonals[:, :, :, 0], diagonals[:, :, :, 1]), dim=-1, eps=1e-20
    )[..., None, :]
    face = torch.where((face * smooth.sum(3, keepdim=True)).sum(-1, keepdim=True) < 0, -face, face)
    normals = torch.where(
        (face * smooth).sum(-1, keepdim=True) < CREASE, face.expand_as(smooth), smooth
    )

    t = torch.linspace(0, 1, cells + 1, device=grids.device)
    v, u = torch.meshgrid(
        0.5 / resolution + t * (1 - 1 / resolution), t, indexing="ij"
    )  # see `paint`
    uvs = quads(torch.stack([u, v], dim=-1)[None]).expand(len(grids), -1, -1, -1, -1)

    halves = [[0, 1, 2], [0, 2, 3]]
    triangles = [values[:, :, :, halves].flatten(0, 3) for values in (corners, normals, uvs)]
    per_part = 2 * cells**2
    return (*triangles, part.repeat_interleave(per_part), owners.repeat_interleave(per_part))


def random_lights(
    generator: torch.Generator | int, count: int, device: torch.device | str = "cpu"
) -> Lights:
    """Lights for `count` objects: ambient, for three quarters also one to three directional ones.

    An average visible surface receives about 1, so that pictures stay close to the colors.

    Args:
        generator: a CPU generator, or a seed for one.
    """
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    flat = (draw(1) < 0.25).float()
    ambient = torch.lerp(0.45 + 0.45 * draw(1), torch.ones(1), flat)
    contrast = torch.lerp(0.6 * draw(1), 0.25 * draw(1), flat)
    tint = 1 + 0.12 * (draw(2, 3) - 0.5)

    azimuth, height = 2 * math.pi * draw(3), -0.2 + 1.2 * draw(3)
    flatness = (1 - height**2).sqrt()
    directions = torch.stack([flatness * azimuth.sin(), height, flatness * azimuth.cos()], dim=-1)
    lit = torch.arange(3) < (1 + 3 * draw(1)).floor()
    strength = (0.3 + draw(3)) * lit
    # Surfaces at random angles receive a quarter of a Lambert light; those facing it up to all.
    strength = (1 - ambient) * strength / strength.sum(1, keepdim=True) * 2.6
    exposure = 0.9 + 0.3 * draw(1)
    intensities = strength[..., None] * exposure[..., None] * (1 + 0.15 * (draw(3, 3) - 0.5))
    return Lights(
        ambient_top=ambient * exposure * (1 + contrast) * tint[:, 0],
        ambient_bottom=ambient * exposure * (1 - contrast) * tint[:, 1],
        directions=directions,
        intensities=intensities * (1 - flat)[..., None],
    ).to(device)
