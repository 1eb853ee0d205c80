"""Looks of procedural parts, painted into one texture tile per part on the training device.

Solid patterns read the surface's position, wrapped ones its arc lengths or the sides of a box.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

PARAMETERS = (
    "x", "y", "z",  # unit direction of stripes, rings and gradients
    "frequency",  # cycles over an object that spans [-1, 1]
    "warp",  # how far noise bends the pattern
    "offset_x", "offset_y", "offset_z",  # 0..1, where in the noise; also the part's random numbers
    "threshold", "blend",  # 0..1, what they mean is up to the family
    "grain", "grain_frequency", "mottle",  # fine and coarse brightness noise
    "shade",  # darkening towards the bottom
    "label",  # 0 none, 1 plain, 2 text, 3 badge
    "label_u", "label_v", "label_width", "label_height",
    "image", "image_row", "image_scale",  # low: an image instead; which, how large
    "wear",  # rubbed-off patches
    "boxed",  # 1: wrapped patterns lie flat on the six sides of a box instead
)  # fmt: skip
IMAGE_SHARE = 0.25  # of all materials, where the caller supplies images
CELLS = 64  # the noise volume's side


@lru_cache(maxsize=4)
def _noise_volume(device: torch.device) -> Tensor:
    """Periodic noise [1, 5, 65, 65, 65] of unit variance: four smooth channels, one fractal."""
    frequency = torch.fft.fftfreq(CELLS) * CELLS
    z, y, x = torch.meshgrid(frequency, frequency, frequency, indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt()
    smooth = torch.exp(-(((radius - 7) / 3) ** 2))
    fractal = radius.clamp(min=3) ** -2.2 * (radius <= 28)
    white = torch.randn(5, CELLS, CELLS, CELLS, generator=torch.Generator().manual_seed(7))
    filters = torch.stack([smooth] * 4 + [fractal])
    volume = torch.fft.ifftn(torch.fft.fftn(white, dim=(1, 2, 3)) * filters, dim=(1, 2, 3)).real
    volume = volume - volume.mean((1, 2, 3), keepdim=True)
    volume = volume / volume.std((1, 2, 3), keepdim=True)
    return F.pad(volume[None], (0, 1, 0, 1, 0, 1), mode="circular").to(device)


def noise(points: Tensor) -> Tensor:
    """Five channels of noise [..., 5] at [..., 3], period 1; the volume's channels."""
    volume = _noise_volume(points.device)
    where = (points - points.floor()) * 2 - 1
    found = F.grid_sample(volume, where.reshape(1, 1, 1, -1, 3), align_corners=True)
    return found.reshape(5, -1).T.reshape(*points.shape[:-1], 5)


@lru_cache(maxsize=4)
def _table(device: torch.device) -> Tensor:
    return torch.rand(4096, 3, generator=torch.Generator().manual_seed(8)).to(device)


def _random(i: Tensor, j: Tensor, salt: Tensor) -> Tensor:
    """Three random numbers 0..1 per integer cell, [..., 3]."""
    index = (i.long() * 73 + j.long() * 1931 + (salt * 4096).long() * 389) % 4096
    return _table(i.device)[index]


class _Surface:
    """What a pattern may read: per texel [P, R, R, ..] or per part [P, 1, 1], and PARAMETERS."""

    def __init__(self, grids: Tensor, columns: Tensor, palette: Tensor, resolution: int):
        device = grids.device
        around = (torch.arange(resolution, device=device) + 0.5) / resolution
        along = torch.linspace(1, 0, resolution, device=device)
        self.u, self.v = around[None, None], along[None, :, None]
        self.points = _stretch(_stretch(grids, along, 1), around, 2)
        self.girth = grids.diff(dim=2).norm(dim=-1).sum(2).amax(1)[:, None, None]
        self.length = grids.diff(dim=1).norm(dim=-1).sum(1).mean(1)[:, None, None]
        self.columns = columns  # [P, len(PARAMETERS)]
        self.palette = palette  # [P, 4, 3]
        offset = torch.stack([self.offset_x, self.offset_y, self.offset_z], dim=-1)
        self.coarse = noise(self.points * 0.06 * self.frequency[..., None] + offset)
        self.side_x, self.side_y = _box_sides(self.points)

    def __getattr__(self, name: str) -> Tensor:
        if name not in PARAMETERS:
            raise AttributeError(name)
        return self.columns[:, PARAMETERS.index(name), None, None]

    def subset(self, part: Tensor) -> _Surface:
        """The parts at `part` [K]; u and v are the same for all."""
        surface = object.__new__(_Surface)
        for name, value in vars(self).items():
            setattr(surface, name, value if name in ("u", "v") else value[part])
        return surface

    @property
    def across(self) -> Tensor:
        """Position along the material's direction."""
        return (self.points * self.columns[:, None, None, :3]).sum(-1)

    def swatch(self, index: int) -> Tensor:
        """One palette color, [P, 1, 1, 3]."""
        return self.palette[:, None, None, index]

    def choose(self, index: Tensor) -> Tensor:
        """Palette colors [P, R, R, 3] of integer indices."""
        index = (index.long() % 4).expand(self.points.shape[:3]).flatten(1)
        index = index[..., None].expand(-1, -1, 3)
        return self.palette.gather(1, index).view(self.points.shape)

    def ramp(self, position: Tensor) -> Tensor:
        """Colors blended along the palette; `position` 0..3."""
        first = position.clamp(0, 2.999).floor()
        return torch.lerp(
            self.choose(first),
            self.choose(first + 1),
            (position.clamp(0, 2.999) - first)[..., None],
        )

    def cells(self, scale: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Square coordinates (x, y), `scale` per object unit, and how many x lead once around."""
        count = (self.girth * scale).round().clamp(2, 40)
        rows = self.length * count / self.girth.clamp(min=1e-3)
        flat = self.boxed > 0.5
        x = torch.where(flat, self.side_x * scale + 40, self.u * count)
        y = torch.where(flat, self.side_y * scale + 40, self.v * rows)
        return x, y, torch.where(flat, 4096, count)

    def warped_cells(self, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        x, y, count = self.cells(0.5 * scale * self.frequency)
        return x + self.warp * 0.3 * self.coarse[..., 1], y, count


def _box_sides(points: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [P, R, R] (to the right, up) on the side of a box that the surface faces most."""
    across = points.roll(-1, 2) - points.roll(1, 2)
    along = torch.cat([points[:, :1], points[:, :-1]], 1) - torch.cat(
        [points[:, 1:], points[:, -1:]], 1
    )
    normal = torch.linalg.cross(across, along)
    side = normal.abs().argmax(-1)
    x, y, z = points.unbind(-1)
    return torch.where(side == 0, -z, x), torch.where(side == 1, -z, y)


def _solid(s: _Surface) -> Tensor:
    return s.swatch(0)


def _stripes(s: _Surface) -> Tensor:
    position = s.across * s.frequency + s.warp * s.coarse[..., 0] + 8 * s.offset_x
    count = 2 + (s.threshold * 3).floor()  # of 2 to 4 colors
    return s.choose(position.floor() % count)


def _checks(s: _Surface) -> Tensor:
    x, y, _ = s.warped_cells()
    return s.choose((x.floor() + y.floor()) % 2)


def _dots(s: _Surface) -> Tensor:
    x, y, count = s.warped_cells()
    row = y.floor()
    x = x + 0.5 * (row % 2) * (s.blend > 0.5)
    column = x.floor()
    distance = ((x - column - 0.5) ** 2 + (y - row - 0.5) ** 2).sqrt()
    pick = _random(column % count, row, s.offset_x)
    color = 1 + (pick[..., 0] * 3 * (s.blend > 0.3)).floor()
    return s.choose(color * (distance < 0.15 + 0.3 * s.threshold))


def _bricks(s: _Surface) -> Tensor:
    x, y, count = s.warped_cells()
    y = y * 2
    row = y.floor()
    x = x + 0.5 * (row % 2)
    column = x.floor()
    joint = 0.03 + 0.08 * s.blend
    mortar = (x - column < joint) | (y - row < 2 * joint)
    pick = _random(column % count, row, s.offset_x)
    color = s.choose(1 + 2 * pick[..., 0] * s.threshold) * (0.8 + 0.3 * pick[..., 1:2])
    return torch.where(mortar[..., None], s.swatch(0), color)


def _voronoi(s: _Surface) -> Tensor:
    x, y, count = s.warped_cells()
    column, row = x.floor(), y.floor()
    nearest = torch.full_like(x, 9.0)
    second = nearest
    color = torch.zeros_like(x)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            pick = _random((column + i) % count, row + j, s.offset_x)
            squared = (column + i + pick[..., 0] - x) ** 2 + (row + j + pick[..., 1] - y) ** 2
            color = torch.where(squared < nearest, pick[..., 2], color)
            second = torch.minimum(second, torch.maximum(squared, nearest))
            nearest = torch.minimum(squared, nearest)
    edge = second.sqrt() - nearest.sqrt() < 0.25 * s.threshold * (s.blend > 0.4)
    return torch.where(edge[..., None], s.swatch(3), s.ramp(2.2 * color))


def _marble(s: _Surface) -> Tensor:
    fractal = s.coarse[..., 4]
    veins = torch.sin(s.across * s.frequency + (0.8 + 2 * s.blend) * fractal) * 0.5 + 0.5
    return s.ramp(2.0 * veins ** (0.5 + 2 * s.threshold))


def _wood(s: _Surface) -> Tensor:
    x, y, z = s.points.unbind(-1)
    upright = s.blend > 0.5
    first, second = torch.where(upright, x, y), z
    radius = ((first + s.offset_x) ** 2 + (second + s.offset_y - 0.5) ** 2).sqrt()
    rings = radius * (2 + 1.5 * s.frequency) + 0.35 * s.coarse[..., 0]
    saw = rings - rings.floor()
    stretch = torch.where(
        upright[..., None], s.points.new_tensor([1, 0.08, 1]), s.points.new_tensor([0.08, 1, 1])
    )
    fibers = noise(s.points * stretch * 1.3 + s.offset_z[..., None])[..., 4]
    return s.ramp(1.5 * saw**2 + 0.5 + 0.35 * fibers)


def _gradient(s: _Surface) -> Tensor:
    return s.ramp((s.across * (0.7 + s.blend) + 0.2 * s.warp * s.coarse[..., 0] + 0.6) * 1.6)


def _bands(s: _Surface) -> Tensor:
    position = s.v + 0.04 * s.warp * s.coarse[..., 0]
    edges = torch.stack([s.offset_x, s.offset_y, s.offset_z, s.threshold], dim=-1)
    index = (position[..., None] > edges).sum(-1)
    thin = ((position[..., None] - edges).abs() < 0.012).any(-1) & (s.blend > 0.5)
    return s.choose(torch.where(thin, 3, index % 3))


def _patches(s: _Surface) -> Tensor:
    level = 1.2 * s.threshold - 0.2
    index = (s.coarse[..., 0] > level).long() + 2 * (
        (s.coarse[..., 2] > level + 0.4) & (s.blend > 0.5)
    )
    return s.choose(index.clamp(max=3))


def _plaid(s: _Surface) -> Tensor:
    x, y, _ = s.warped_cells(0.6)
    x, y = x - x.floor(), y - y.floor()

    def threads(t: Tensor) -> Tensor:
        wide = (t < 0.25 + 0.3 * s.threshold).float()
        thin = ((t - 0.75).abs() < 0.05).float()
        return torch.stack([wide, thin], dim=-1)

    across, down = threads(x), threads(y)
    base, wide, thin = (s.swatch(k) for k in range(3))
    color = torch.lerp(base, wide, 0.5 * (across[..., :1] + down[..., :1]))
    return torch.lerp(color, thin, 0.7 * torch.maximum(across[..., 1:], down[..., 1:]))


def _panels(s: _Surface) -> Tensor:
    x, y, count = s.warped_cells(0.35)
    column, row = x.floor(), y.floor()
    pick = _random(column % count, row, s.offset_x)
    line = torch.minimum(x - column, y - row) < 0.03 + 0.03 * s.blend
    index = torch.where(pick[..., 0] < s.threshold * 0.5, 1 + 2 * pick[..., 1], 0)
    return torch.where(line[..., None], s.swatch(3) * 0.6, s.choose(index))


_PATTERNS = {
    "solid": _solid,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "bricks": _bricks,
    "voronoi": _voronoi,
    "marble": _marble,
    "wood": _wood,
    "gradient": _gradient,
    "bands": _bands,
    "patches": _patches,
    "plaid": _plaid,
    "panels": _panels,
}
FAMILIES = tuple(_PATTERNS)


def _label(s: _Surface, color: Tensor) -> Tensor:
    """A sticker, lines of print or a badge over `color`."""
    offset = s.u - s.label_u
    x = (offset - offset.round()) / s.label_width
    y = (s.v - s.label_v) / s.label_height
    inside = torch.where(s.label == 3, x**2 + y**2 < 1, (x.abs() < 1) & (y.abs() < 1)) & (
        s.label > 0
    )
    frame = torch.where(s.label == 3, x**2 + y**2 > 0.75, (x.abs() > 0.93) | (y.abs() > 0.9))
    line = (y * 3).floor()
    letter = (x * 12).floor()
    dot_x, dot_y = ((x * 12 - letter) * 4).floor(), ((y * 3 - line) * 7).floor()
    ink = _random(letter * 4 + dot_x + 200, line * 7 + dot_y + 50, s.offset_y)[..., 0] > 0.45
    word = _random(letter + 100, line + 10, s.offset_z)[..., 1] > 0.2
    print_ = ink & word & (dot_x > 0) & (dot_y > 1) & (x.abs() < 0.85) & (s.label == 2)
    paper = torch.where(print_[..., None], s.swatch(3), s.swatch(2))
    paper = torch.where((frame & (s.blend > 0.5))[..., None], s.swatch(1), paper)
    return torch.where(inside[..., None], paper, color)


def _weather(s: _Surface, color: Tensor) -> Tensor:
    """Grain, mottling, wear and a darker foot: hardly any real surface is of one color."""
    offset = torch.stack([s.offset_y, s.offset_z, s.offset_x], dim=-1)
    fine = noise(s.points * 0.15 * s.grain_frequency[..., None] + offset)
    worn = (fine[..., 4] + fine[..., 0] > 2.6 - 1.4 * s.wear) & (s.wear > 0)
    color = torch.where(worn[..., None], s.swatch(2), color)
    light = 1 + s.grain * 0.5 * fine[..., 1] + s.mottle * 0.35 * s.coarse[..., 3]
    light = light * (1 - s.shade * (0.5 - 0.5 * s.points[..., 1]).clamp(0, 1))
    return color * light[..., None].clamp(0.2, 1.8)


def _images(s: _Surface, images: Tensor) -> Tensor:
    """One of `images` [K, 3, R', R'] per part, repeated."""
    row = (s.image_row.flatten() * len(images)).long().clamp(max=len(images) - 1)
    x, y, _ = s.cells(s.image_scale)
    where = torch.stack([x - x.floor(), 1 - (y - y.floor())], dim=-1) * 2 - 1
    chosen = images[row].float() / (255 if images.dtype == torch.uint8 else 1)
    found = F.grid_sample(chosen, where, padding_mode="border", align_corners=False)
    return found.permute(0, 2, 3, 1)


def _image_parts(parameters: Tensor, images: Tensor | None) -> Tensor:
    """[P] bool, which parts show an image."""
    share = 0.0 if images is None or not len(images) else IMAGE_SHARE
    return parameters[:, PARAMETERS.index("image")] < share


def _stretch(grids: Tensor, positions: Tensor, dim: int) -> Tensor:
    """`dim` linearly interpolated at `positions` [R] in 0..1; matrix products might be TF32."""
    last = grids.shape[dim] - 1
    low = (positions * last).floor().clamp(max=last - 1).long()
    fraction = (positions * last - low).view([-1] + [1] * (grids.ndim - dim - 1))
    return torch.lerp(grids.index_select(dim, low), grids.index_select(dim, low + 1), fraction)


def paint(
    grids: Tensor,
    families: Tensor,
    palettes: Tensor,
    parameters: Tensor,
    resolution: int,
    images: Tensor | None = None,
) -> Tensor:
    """Texture tiles [P, 3, R, R] uint8, row 0 at v = 1.

    The first and last texel rows are the surface's ends: squeeze v by half a texel at both.

    Args:
        grids: [P, N + 1, N + 1, 3] surfaces of objects that span [-1, 1].
        families: [P] int64 on the CPU, as `parameters`: grouping then needs no synchronization.
        palettes: [P, 4, 3] on the device of `grids`.
        parameters: [P, len(PARAMETERS)] on the CPU.
        images: [K, 3, R', R'] uint8 or 0..1 on the device, shown by a quarter of the materials.
    """
    surface = _Surface(grids, parameters.to(grids.device), palettes, resolution)
    looks = torch.where(_image_parts(parameters, images), len(FAMILIES), families)
    colors = torch.empty_like(surface.points)
    for look in looks.unique().tolist():
        part = (looks == look).nonzero()[:, 0].to(grids.device)
        some = surface.subset(part)
        colors[part] = (
            _images(some, images)
            if images is not None and look == len(FAMILIES)
            else _PATTERNS[FAMILIES[look]](some)
        )
    colors = _weather(surface, _label(surface, colors))
    return (colors.clamp(0, 1) * 255).round().byte().permute(0, 3, 1, 2)
