"""A closed surface by density: where the Gaussians are dense on a grid, seen or not.

The field is the sum of all Gaussians, each widened a little so that none slips between the values.
The surface is the level of it whose outlines match pictures from three sides best. Splats are
shells with small gaps; what a ball as wide as such gaps can't reach from outside is inside, and so
a shell becomes one wall around something solid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..gaussians import Gaussians
from ..machine.interrupt import between_steps, report, subtask
from ..render import render
from ..render.threads import threads
from ..rotations import rotation_matrices
from .merge import merged
from .record import Mesh
from .surface_nets import surface_nets
from .unit_ball import NOTHING_OPAQUE, OPAQUE, REACH, Grid, check_resolution, in_unit_ball

TILE = 4  # values on a side of the blocks that Gaussians are added to
CUT = 3.0  # standard deviations; what lies further out is as good as nothing
BLUR = 0.45  # voxels, standard deviation: the least that a grid can hold without beating
COARSEST = 2  # times the grid is halved, for Gaussians that are wide all around
WIDE = 2.0  # voxels of the halved grid, the least standard deviation of what is drawn on it
FAINT = 0.1  # density that is no part of the object in any splat
OVERVIEW = 64  # values on a side of the grid that finds where the object is
MARGIN = 4  # voxels of outside around the object
LEVELS = torch.logspace(-1.5, 1.5, 61)  # to choose from
USUAL = 0.65  # level, of splats with opaque surfaces
LEAST_OVERLAP = 0.2  # else pictures show rims and specks only
INSIST = 0.02  # overlap of outlines that a level e times as high or low has to gain
FINER = 3  # pixels per value: renderers widen what they draw by half a pixel
FAR = 200.0  # radii; from there, lines of sight are as good as parallel
GAP = 1 / 32  # of the longest side; what is narrower does not lead inside
SOLID = -1.0  # the value of what is enclosed


def enclose(gaussians: Gaussians, resolution: int = 192) -> Mesh:
    """A closed surface, as `fuse.fuse` gives it, for the same arguments and errors."""
    check_resolution(resolution)
    with torch.no_grad(), threads(1) as before:
        visible, center, radius = in_unit_ball(gaussians)
        visible = merged(visible, 1 / resolution)
        between_steps()
        with subtask(0.0, 0.05):
            grid = _grid_around(visible, resolution)
        with subtask(0.05, 0.6):
            field = density(visible, grid)
        with threads(before):
            level = _level(field, visible, grid)
        report(0.7)
        values = _solid(1 - field / level, resolution)
        report(0.9)
        between_steps()
        vertices, faces = surface_nets(values, grid.origin, grid.voxel)
    if not len(faces):
        raise ValueError(NOTHING_OPAQUE)
    report(1.0)
    vertices = vertices * np.float32(radius) + center.numpy()
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces)).to(gaussians.device)


def density(gaussians: Gaussians, grid: Grid) -> Tensor:
    """[X, Y, Z]: the sum of opacity * exp(-m^2 / 2), m the distance in standard deviations.

    The grid's sides are multiples of TILE * 2**COARSEST. Gaussians that are wide in all directions
    are added to a halved grid, which is then interpolated.
    """
    variances = gaussians.scales[0] ** 2 + (BLUR * grid.voxel) ** 2
    widths = variances.amin(-1).sqrt() / grid.voxel
    halvings = (widths / WIDE).log2().floor().clamp(0, COARSEST)
    field: Tensor | None = None
    done = 0
    for times in reversed(range(COARSEST + 1)):
        factor = 2**times
        part = Grid(
            grid.origin + (factor - 1) / 2 * grid.voxel,
            grid.voxel * factor,
            tuple(side // factor for side in grid.shape),
        )
        chosen = halvings == times
        values = grid.origin.new_zeros(math.prod(part.shape) // TILE**3, TILE**3)
        for tiles, added, part_done in _pieces(gaussians.select(chosen), variances[chosen], part):
            between_steps()
            if values.is_cuda:  # there, this is the one sum whose order is always the same
                values.index_put_((tiles,), added, accumulate=True)
            else:
                values.index_add_(0, tiles, added)
            report((done + part_done * int(chosen.sum())) / len(chosen))
        done += int(chosen.sum())
        blocks = values.view(*(side // TILE for side in part.shape), TILE, TILE, TILE)
        values = blocks.permute(0, 3, 1, 4, 2, 5).reshape(part.shape)
        field = values if field is None else values + _doubled(field)
    assert field is not None  # the loop has at least one size
    return field


def _doubled(field: Tensor) -> Tensor:
    return F.interpolate(field[None, None], scale_factor=2, mode="trilinear")[0, 0]


def _pieces(
    gaussians: Gaussians, variances: Tensor, grid: Grid
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Tile numbers [K], what Gaussians add to their values [K, TILE**3], and the part done."""
    device = gaussians.device
    rotations = rotation_matrices(gaussians.rotations[0])
    middles = (gaussians.positions[0] - grid.origin) / grid.voxel
    reach = CUT * (rotations**2 * variances[:, None]).sum(-1).sqrt() / grid.voxel
    tiles = torch.tensor([side // TILE for side in grid.shape], device=device)
    first = ((middles - reach) / TILE).floor().long().clamp(min=0)
    last = ((middles + reach) / TILE).floor().long().minimum(tiles - 1)
    spans = (last - first + 1).clamp(min=0)
    ends = spans.prod(-1).cumsum(0)

    # Rows take voxels to standard deviations along the Gaussian's own axes.
    whiten = (rotations / variances.sqrt()[:, None] * grid.voxel).transpose(1, 2)
    inverse = (whiten[..., :, None] * whiten[..., None, :]).sum(1)  # covariances, inverted
    logs = gaussians.opacities[0, :, 0].log()
    places, monomials = _tile(gaussians.positions)
    corners = places[(places.abs() == places.max()).all(-1)]
    slack = (whiten[:, None] * corners[:, None]).sum(-1).norm(dim=-1).amax(-1)

    total = int(ends[-1]) if len(ends) else 0
    at_once = 1 << (18 if device.type == "cuda" else 14)  # a CPU's cache holds the second
    for start in range(0, total, at_once):
        number = torch.arange(start, min(start + at_once, total), device=device)
        index = torch.searchsorted(ends, number, right=True)
        span = spans[index]
        number = number - (ends[index] - span.prod(-1))
        column = number // span[:, 2]
        tile = torch.stack([column // span[:, 1], column % span[:, 1], number % span[:, 2]], -1)
        tile += first[index]
        offset = tile * TILE + (TILE - 1) / 2 - middles[index]
        deviations = (whiten[index] * offset[:, None]).sum(-1)
        touched = (deviations.norm(dim=-1) <= CUT + slack[index]).nonzero()[:, 0]
        index, tile, offset = index[touched], tile[touched], offset[touched]
        slopes = (inverse[index] * offset[:, None]).sum(-1)
        squares = -0.5 * inverse[index].flatten(1)
        level = logs[index] - 0.5 * (slopes * offset).sum(-1)
        coefficients = torch.cat([squares, -slopes, level[:, None]], dim=-1)
        # The exponent is a quadratic of the point in the tile: one product for all points.
        added = (coefficients @ monomials.T).exp_()
        yield (
            (tile[:, 0] * tiles[1] + tile[:, 1]) * tiles[2] + tile[:, 2],
            added,
            (min(start + at_once, total) / total),
        )


def _tile(like: Tensor) -> tuple[Tensor, Tensor]:
    """Places [TILE**3, 3] in a tile from its middle, and their products, themselves and 1."""
    line = torch.arange(TILE, dtype=like.dtype, device=like.device) - (TILE - 1) / 2
    places = torch.cartesian_prod(line, line, line)
    products = (places[:, :, None] * places[:, None]).flatten(1)
    return places, torch.cat([products, places, torch.ones_like(places[:, :1])], dim=-1)


def _grid_around(gaussians: Gaussians, resolution: int) -> Grid:
    """A grid around all that is not faint."""
    voxel = 2 * REACH / (OVERVIEW - 1)
    overview = Grid(
        gaussians.positions.new_full((3,), -REACH), voxel, (OVERVIEW, OVERVIEW, OVERVIEW)
    )
    there = (density(gaussians, overview) >= FAINT).nonzero()
    if not len(there):
        raise ValueError(NOTHING_OPAQUE)
    low, high = ((there.aminmax(dim=0)[i] * voxel - REACH) for i in (0, 1))
    size = (high - low + 2 * voxel).tolist()  # the next values, which are faint
    fine = max(size) / max(resolution - 2 * MARGIN, 1)
    unit = TILE * 2**COARSEST
    shape = (math.ceil((side / fine + 2 * MARGIN) / unit) * unit for side in size)
    return Grid(low - voxel - (MARGIN - 0.5) * fine, fine, tuple(shape))


def _level(field: Tensor, gaussians: Gaussians, grid: Grid) -> float:
    """The density whose outline along the three axes is most like the pictures' there."""
    levels = LEVELS.to(field)
    common, either = torch.zeros_like(levels), torch.zeros_like(levels)
    for axis in range(3):
        between_steps()
        seen = _coverage(gaussians, grid, axis) >= OPAQUE
        highest = field.amax(axis)
        # As `_coverage`: rows go down the axis after the next, columns along the next.
        outline = highest.T if axis != 1 else highest
        outline = outline.flip(0)
        for number, level in enumerate(levels):
            inside = outline >= level
            common[number] += (inside & seen).sum()
            either[number] += (inside | seen).sum()
    overlaps = common / either.clamp(min=1)
    if overlaps.amax() < LEAST_OVERLAP:
        raise ValueError(NOTHING_OPAQUE)
    likeness = overlaps - INSIST * (levels / USUAL).log().abs()
    return float(levels[likeness.argmax()])


def _coverage(gaussians: Gaussians, grid: Grid, axis: int) -> Tensor:
    """[H, W]: a picture from the far end of an axis, a pixel for each line of the grid's values."""
    across, upward = (axis + 1) % 3, (axis + 2) % 3
    height, width = grid.shape[upward], grid.shape[across]
    middle = grid.origin.cpu() + (torch.tensor(grid.shape) - 1) / 2 * grid.voxel
    pose = torch.zeros(4, 4)
    pose[across, 0] = pose[upward, 1] = pose[axis, 2] = pose[3, 3] = 1
    pose[:3, 3] = middle
    pose[axis, 3] += FAR
    fovy = math.degrees(2 * math.atan(height / 2 * grid.voxel / FAR))
    picture = render(gaussians, pose[None], (FINER * height, FINER * width), fovy)
    return picture.alphas[0, 0, 0, FINER // 2 :: FINER, FINER // 2 :: FINER]


def _solid(values: Tensor, resolution: int) -> Tensor:
    """Values below 0, too, wherever a cube as wide as a gap can't come from outside."""
    width = max(round(GAP * resolution), 1)
    air = values > 0
    roomy = ~_grown(~air, width)
    between_steps()
    labels, _ = ndimage.label(F.pad(roomy, (1,) * 6, value=True).cpu().numpy())
    between_steps()
    outside = torch.from_numpy(labels == labels[0, 0, 0])[1:-1, 1:-1, 1:-1].to(values.device)
    reached = _grown(outside, width)
    for _ in range(width // 2):  # on into creases; through a gap, it makes a dent only
        between_steps()
        reached = _grown(reached, 1) & air
    return torch.where(air & ~reached, SOLID, values)


def _grown(mask: Tensor, steps: int) -> Tensor:
    """A mask [X, Y, Z] and all within so many steps along each axis."""
    grown = mask[None, None].float()
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * steps + 1, steps
        grown = F.max_pool3d(grown, kernel, stride=1, padding=padding)
    return grown[0, 0] > 0
