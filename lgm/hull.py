"""The visual hull of four silhouettes, as seen from each view: what the `demo` preset starts from.

A pixel's ray crosses the hull in an interval of depths; the surface lies inside it. A network that
corrects the hull's near side needs far less training, and fails far more gracefully, than one that
has to
find absolute positions by matching views 90 degrees apart.

Frames and units as in `lgm.cameras`; depth is the camera's z distance, not the length along the
ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .cameras import RADIUS
from .constants import constant
from .fused_norm import uses_triton
from .gaussians import Gaussians
from .optional import why_no_numba
from .presets import POLES

DEPTH_RANGE = (0.6, 2.4)  # of objects inside [-1, 1]^3 seen from radius 1.5
MARCH_STEPS = 64
MARCH_AT_ONCE = 16  # depths; all of them would not fit in a processor's cache
BISECTIONS = 5  # 1.8 / 64 / 2**5: under a millimeter for an object of one meter
INSIDE = 0.3  # silhouette coverage that counts as object; low, so that thin parts survive
COLOR_FRACTIONS = (
    0.0,
    0.1,
    0.25,
    0.5,
)  # of the interval, where the neighbors' colors are looked up
NEIGHBORS = (1, -1)  # next and previous view; the opposite one never sees the same surface
FROM_POLES = (1, -1, 2, 0)  # seen from above and below, any view may be near
POLE_OPACITY = 0.12  # where training starts: what no picture shows has to prove itself
KEY_SOFTNESS = (
    8 / 255
)  # how far from white a pixel must be to count as object when no alpha is given


@dataclass(frozen=True)
class Guide:
    """What the four views say before any learning, on the splat grid h x w. With poles, V counts
    the views from above and below, too; they come last, and their colors are looked up in the rest.
    """

    c2w: Tensor  # [B, V, 4, 4]
    tan_half: Tensor  # [B, V], tangent of half the field of view
    colors: Tensor  # [B, V, 3, h, w], 0..1 on white
    alphas: Tensor  # [B, V, 1, h, w]
    near: Tensor  # [B, V, 1, h, w], depth where the ray enters the hull; RADIUS where it misses
    far: Tensor  # [B, V, 1, h, w], depth where it leaves; RADIUS where it misses
    valid: Tensor  # [B, V, 1, h, w], 1 where the ray meets the hull


def cameras_from_rays(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Poses and half-field tangents that made these Plücker rays.

    Args:
        rays: [..., 6, S, S] as made by `lgm.cameras.plucker_rays`.

    Returns:
        c2w [..., 4, 4] and tan_half [...].
    """
    size = rays.shape[-1]
    corners = (
        rays[..., :: max(size - 1, 1), :: max(size - 1, 1)].flatten(-2).float().movedim(-1, -2)
    )
    moments, directions = corners.split(
        3, dim=-1
    )  # [..., 4, 3]: top-left, top-right, bottom-left, bottom-right
    top_left, top_right, bottom_left, _ = directions.unbind(-2)
    right = F.normalize(top_right - top_left, dim=-1)
    up = F.normalize(top_left - bottom_left, dim=-1)
    back = torch.linalg.cross(right, up)
    tangent = (top_right * right).sum(-1) / -(top_right * back).sum(-1) / (1 - 1 / size)
    # A ray fixes the origin up to its own direction; four rays fix it.
    across = torch.eye(3, device=rays.device) - directions[..., :, None] * directions[..., None, :]
    closest = torch.linalg.cross(directions, moments)
    origin = torch.linalg.solve_ex(across.sum(-3), closest.sum(-2)).result
    c2w = torch.stack([right, up, back, origin], dim=-1)
    bottom = constant((0, 0, 0, 1), c2w).expand(*c2w.shape[:-2], 1, 4)
    return torch.cat([c2w, bottom], dim=-2), tangent


def key_white(images: Tensor) -> Tensor:
    """Alpha [..., 1, H, W] of pictures [..., 3, H, W] on pure white: how far each pixel is from
    white.
    """
    return ((1 - images).amax(-3, keepdim=True) / KEY_SOFTNESS).clamp(0, 1)


def depth_rays(c2w: Tensor, tan_half: Tensor, size: int) -> Tensor:
    """World directions [B, V, size, size, 3] scaled to unit camera depth."""
    centers = (torch.arange(size, device=c2w.device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-centers, centers, indexing="ij")
    tangent = tan_half[..., None, None]
    local = torch.stack([x * tangent, y * tangent, -torch.ones_like(x * tangent)], dim=-1)
    return torch.einsum("bvij,bvhwj->bvhwi", c2w[..., :3, :3], local)


def polar_poses(first: Tensor) -> Tensor:
    """Cameras straight above and below the origin [..., 2, 4, 4], as far away as the first view's
    camera [..., 4, 4]; what is nearest to that one is lowest in their pictures.
    """
    position = first[..., :3, 3]
    horizontal = constant((1, 0, 1), first)
    level, upwards = position * horizontal, first[..., :3, 1] * horizontal
    # A first camera that itself looks straight down has its picture's up for a direction.
    is_level = level.norm(dim=-1, keepdim=True) > 1e-3 * position.norm(dim=-1, keepdim=True)
    up = F.normalize(torch.where(is_level, -level, upwards), dim=-1)
    poses = []
    for side in (1.0, -1.0):
        back = constant((0, side, 0), up).expand_as(up)
        place = back * position.norm(dim=-1, keepdim=True)
        pose = torch.stack([torch.linalg.cross(up, back), up, back, place], dim=-1)
        bottom = constant((0, 0, 0, 1), pose).expand(*pose.shape[:-2], 1, 4)
        poses.append(torch.cat([pose, bottom], dim=-2))
    return torch.stack(poses, dim=-3)


def looked_at(x: Tensor, shift: int, views: int, pictured: int) -> Tensor:
    """Of values [B, M, ...] of views those [B, views, ...] of the view with a picture that each
    view looks at: its neighbor by `shift`. Poles, views from `pictured` on, look where view 0 does.
    """
    own = [view if view < pictured else 0 for view in range(views)]
    return torch.stack([x[:, (view + shift) % pictured] for view in own], dim=1)


def _lookup(
    maps: Tensor, shift: int, depths: Tensor, c2w: Tensor, tan_half: Tensor, rays: Tensor
) -> Tensor:
    """Maps [B, M, C, h, w] of view v + shift where the points at `depths` [B, V, D, h, w] of view v
    project.

    Returns [B, V, C, D, h, w]. Outside the picture its border is repeated.
    """
    _, views, count, height, _ = depths.shape

    def there(x: Tensor) -> Tensor:
        return looked_at(x, shift, views, maps.shape[1])

    other = there(c2w)
    to_other = other[..., :3, :3].transpose(-1, -2)
    start = torch.einsum("bvij,bvj->bvi", to_other, c2w[..., :3, 3] - other[..., :3, 3])
    step = torch.einsum("bvij,bvhwj->bvhwi", to_other, rays)
    points = start[:, :, None, None, None] + depths[..., None] * step[:, :, None]
    sampled = sample(there(maps), points.flatten(2, 3), there(tan_half))
    return sampled.unflatten(3, (count, height))


def sample(maps: Tensor, points: Tensor, tan_half: Tensor) -> Tensor:
    """Maps [B, V, C, h, w] where points [B, V, H, W, 3] in the cameras' own axes project:
    [B, V, C, H, W]. Outside the picture its border is repeated.
    """
    scale = tan_half[..., None, None] * (-points[..., 2]).clamp(min=0.05)
    grid = torch.stack([points[..., 0] / scale, -points[..., 1] / scale], dim=-1)
    sampled = F.grid_sample(
        maps.flatten(0, 1), grid.flatten(0, 1), padding_mode="border", align_corners=False
    )
    return sampled.unflatten(0, maps.shape[:2])


def pole_map(like: Tensor, pictured: int) -> Tensor:
    """[B, V, 1, h, w]: 1 in the views that have no pictures, which come last."""
    is_pole = torch.arange(like.shape[1], device=like.device) >= pictured
    return is_pole[:, None, None, None].float().expand_as(like)


@torch.no_grad()
def visual_hull(
    colors: Tensor, alphas: Tensor, c2w: Tensor, tan_half: Tensor, poles: bool = False
) -> Guide:
    """March every pixel's ray through the other views' silhouettes.

    Args:
        colors: [B, V, 3, h, w], 0..1 on white. alphas: [B, V, 1, h, w].
        c2w: [B, V, 4, 4]. tan_half: [B, V].
        poles: look at the hull from above and below, too.
    """
    if not poles:
        return Guide(c2w, tan_half, colors, alphas, *_interval(alphas, alphas, c2w, tan_half))
    c2w = torch.cat([c2w, polar_poses(c2w[:, 0])], dim=1)
    tan_half = torch.cat([tan_half, tan_half[:, :1].expand(-1, POLES)], dim=1)
    everywhere = torch.cat(
        [alphas, torch.ones_like(alphas[:, :1]).expand(-1, POLES, -1, -1, -1)], 1
    )
    near, far, valid = _interval(alphas, everywhere, c2w, tan_half)
    rays = depth_rays(c2w, tan_half, alphas.shape[-1])
    below_edge = near + COLOR_FRACTIONS[1] * (far - near)  # pictures' edges are half white
    seen = [
        _lookup(colors, view, below_edge, c2w, tan_half, rays)[:, -POLES:, :, 0]
        for view in range(colors.shape[1])
    ]
    hull = valid[:, -POLES:]
    guessed = torch.stack(seen).mean(0) * hull + 1 - hull
    return Guide(
        c2w,
        tan_half,
        torch.cat([colors, guessed], dim=1),
        torch.cat([alphas, POLE_OPACITY * hull], dim=1),
        near,
        far,
        valid,
    )


def _interval(
    alphas: Tensor, own: Tensor, c2w: Tensor, tan_half: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Depths [B, V, 1, h, w] where rays enter and leave the hull, RADIUS where they miss it; and 1
    where they meet it.

    Args:
        alphas: [B, M, 1, h, w], the silhouettes of the first M views.
        own: [B, V, 1, h, w], which rays are asked for.
    """
    if uses_triton(alphas):
        from .hull_kernels import march

        return march(own, c2w, tan_half, DEPTH_RANGE, MARCH_STEPS, BISECTIONS, INSIDE, RADIUS)
    depths = torch.linspace(*DEPTH_RANGE, MARCH_STEPS, device=alphas.device)
    if alphas.device.type == "cpu" and alphas.dtype == torch.float32 and not why_no_numba():
        from .hull_numba import march

        cameras = *between_views(c2w), tan_half
        return march(alphas, own, *cameras, depths, BISECTIONS, INSIDE, RADIUS)
    return march_plainly(alphas, own, c2w, tan_half, depths)


def between_views(c2w: Tensor) -> tuple[Tensor, Tensor]:
    """From the axes of view v to those of view o: v's place [B, v, o, 3], rotations
    [B, v, o, 3, 3].
    """
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
    apart = position[:, :, None] - position[:, None]
    starts = torch.einsum("boji,bvoj->bvoi", rotation, apart)
    return starts, torch.einsum("boji,bvjk->bvoik", rotation, rotation)


def march_plainly(
    alphas: Tensor, own: Tensor, c2w: Tensor, tan_half: Tensor, depths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`_interval` in plain torch: what the kernels are measured by."""
    views, size = alphas.shape[1], alphas.shape[-1]
    rays = depth_rays(c2w, tan_half, size)
    others = range(1, views + (own.shape[1] > views))  # poles look at all; views at themselves, too

    def inside(depths: Tensor) -> Tensor:  # [B, V, D, h, w] bool
        covered = [
            _lookup(alphas, shift, depths, c2w, tan_half, rays)[:, :, 0] > INSIDE
            for shift in others
        ]
        if not covered:  # a single view: all that its frustum holds
            return torch.ones_like(depths + own, dtype=torch.bool)
        return torch.stack(covered).all(0)

    step = float(depths[1] - depths[0])
    parts = [
        inside(part[:, None, None].expand(*own.shape[:2], -1, size, size))
        for part in depths.split(MARCH_AT_ONCE)
    ]
    occupied = torch.cat(parts, dim=2)
    valid = occupied.any(2, keepdim=True) & (own > INSIDE)
    first = occupied.byte().argmax(2, keepdim=True)
    last = MARCH_STEPS - 1 - occupied.flip(2).byte().argmax(2, keepdim=True)

    def refine(edge: Tensor, towards: float) -> Tensor:
        hit, miss = depths[edge], depths[edge] + towards * step
        for _ in range(BISECTIONS):
            middle = (hit + miss) / 2
            is_inside = inside(middle)
            hit, miss = torch.where(is_inside, middle, hit), torch.where(is_inside, miss, middle)
        return torch.where(valid, hit, RADIUS)

    return refine(first, -1.0), refine(last, 1.0), valid.float()


@torch.no_grad()
def guide_inputs(guide: Guide, alphas: Tensor) -> Tensor:
    """The guide as extra network inputs [B, V, HULL_CHANNELS, S, S], with poles POLE_CHANNELS more.

    Args:
        alphas: [B, M, 1, S, S] at the network's own resolution, of the views that have pictures.
    """
    pictured, total = alphas.shape[1], guide.near.shape[1]
    colors = guide.colors[:, :pictured]
    rays = depth_rays(guide.c2w, guide.tan_half, guide.near.shape[-1])
    fractions = constant(COLOR_FRACTIONS, guide.near)[:, None, None]
    depths = guide.near + fractions * (guide.far - guide.near)
    neighbors = [
        (_lookup(colors, shift, depths, guide.c2w, guide.tan_half, rays) * 2 - 1).flatten(2, 3)
        for shift in (FROM_POLES if total > pictured else NEIGHBORS)
    ]
    coarse = [guide.near - RADIUS, guide.far - RADIUS, guide.valid, *neighbors]
    if total > pictured:
        coarse.append(pole_map(guide.valid, pictured))
    fine = F.interpolate(torch.cat(coarse, 2).flatten(0, 1), size=alphas.shape[-2:], mode="nearest")
    fine = fine.unflatten(0, guide.near.shape[:2])
    return torch.cat([torch.cat([alphas, fine[:, pictured:, 2:3]], dim=1), fine], dim=2)


def pole_pictures(guide: Guide, pictured: int, size: int) -> tuple[Tensor, Tensor]:
    """What the poles' views stand for as network inputs: colors [B, 2, 3, S, S] on white, and
    Plücker rays [B, 2, 6, S, S].
    """
    colors = guide.colors[:, pictured:]
    colors = F.interpolate(colors.flatten(0, 1), (size, size), mode="bilinear")
    c2w, tan_half = guide.c2w[:, pictured:], guide.tan_half[:, pictured:]
    directions = F.normalize(depth_rays(c2w, tan_half, size), dim=-1)
    origins = c2w[:, :, None, None, :3, 3].expand_as(directions)
    rays = torch.cat([torch.linalg.cross(origins, directions), directions], dim=-1)
    return colors.unflatten(0, c2w.shape[:2]), rays.movedim(-1, 2)


def decode_hull(features: Tensor, guide: Guide) -> Gaussians:
    """Gaussians from the raw map [B, V, 14, h, w]; an all-zero map gives the colored visual hull.

    Offsets, scales and rotations are in the camera's own axes, so the network need not know where a
    view stands.
    """
    size = features.shape[-1]
    offset, opacity, scale, rotation, color = features.movedim(2, -1).split((3, 1, 3, 4, 3), dim=-1)
    near, alphas, colors = (x.movedim(2, -1) for x in (guide.near, guide.alphas, guide.colors))
    axes = guide.c2w[..., :3, :3]
    surface = guide.c2w[:, :, None, None, :3, 3] + near * depth_rays(
        guide.c2w, guide.tan_half, size
    )
    positions = surface + torch.einsum("bvij,bvhwj->bvhwi", axes, 0.3 * offset)
    pixel = 2 * guide.tan_half[:, :, None, None, None] * near / size  # its side in world units
    white = (2 * colors - 1).clamp(-0.98, 0.98)
    local = F.normalize(rotation + constant((1, 0, 0, 0), rotation), dim=-1)
    view = quaternion_from_matrix(axes)[:, :, None, None].expand_as(local)
    return Gaussians(
        *(
            value.flatten(1, 3)
            for value in (
                positions.clamp(-1, 1),
                torch.sigmoid(opacity + alphas.clamp(0.004, 0.98).logit()),
                pixel * torch.exp(scale.clamp(-4, 4) - 0.6),  # about half a pixel to begin with
                quaternion_multiply(view, local),
                0.5 * torch.tanh(color + torch.atanh(white)) + 0.5,
            )
        )
    )


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
