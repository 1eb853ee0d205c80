"""`lgm evaluate`: measures a model on held-out objects, tier by tier, beside baselines without
learning.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from ..cameras import FOVY, plucker_rays, world_to_camera
from ..gaussians import Gaussians
from ..network.hull import visual_hull
from ..network.model import LGM
from ..network.presets import ROUNDS, VIEW_COUNT
from ..network.views import cameras_from_rays, depth_rays
from ..render import render
from .batches.augment import GRID_STEPS, WHITE, distort, jitter
from .evaluation_set import read_depths, read_pictures
from .learning.losses import psnr, ssim

INPUTS = ("exact", "distorted", "jittered", "distorted+jittered")


@dataclass(frozen=True)
class EvaluationSet:
    """K held-out objects with 4 input and 8 novel views each, as `lgm dataset` writes them."""

    images: Tensor  # uint8 [K, V, 4, S, S], straight color and alpha; the first four are the inputs
    c2w: Tensor  # [V, 4, 4]
    depths: Tensor | None  # [K, 4, S, S] camera z of the inputs, 0 where nothing is
    names: list[str]
    tiers: list[str]

    @classmethod
    def load(cls, path: Path) -> EvaluationSet:
        try:
            with safe_open(path, "pt") as file:
                meta = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
                return cls(
                    read_pictures(file),
                    file.get_tensor("c2w"),
                    read_depths(file),
                    meta["names"],
                    meta["tiers"],
                )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} is not an evaluation set ({error}): build one with `lgm dataset`."
            ) from error

    def views(self, index: int) -> Tensor:
        """The views [V, 4, S, S] of an object, 0..1: color on white, and alpha."""
        rgba = self.images[index].float() / 255
        color, alpha = rgba.split((3, 1), dim=1)
        return torch.cat([color * alpha + (1 - alpha), alpha], dim=1)


def measure(images: Tensor, alphas: Tensor, truth: Tensor) -> dict[str, float]:
    """Compare images [V, 3, S, S] and alphas [V, 1, S, S] with the truth [V, 4, S, S]; means over
    the views. "object psnr" counts the object's pixels alone.
    """
    color, mask = truth.split((3, 1), dim=1)
    images = images.clamp(0, 1)
    drawn, solid = alphas > 0.5, mask > 0.5
    union = (drawn | solid).sum((1, 2, 3)).clamp(min=1)
    error = ((images - color) ** 2 * solid).sum((1, 2, 3)) / (3 * solid.sum((1, 2, 3))).clamp(min=1)
    return {
        "psnr": float(psnr(images, color).mean()),
        "ssim": float(ssim(images, color).mean()),
        "iou": float(((drawn & solid).sum((1, 2, 3)) / union).mean()),
        "object psnr": float((-10 * torch.log10(error.clamp(min=1e-10))).mean()),
    }


def disturb(inputs: Tensor, c2w: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The paper's augmentations of all views but the first, to measure how a method tolerates
    inconsistent inputs. The random draws depend on the silhouettes' 8-bit values alone, and not on
    the rounding of colors.

    Args:
        inputs: [V, 4, S, S], color on white plus alpha.
        c2w: [V, 4, 4].
        kind: one of INPUTS: distorted images, jittered cameras, or both.
    """
    silhouettes = (255 * inputs[:, 3]).round().byte()
    generator = torch.Generator().manual_seed(zlib.crc32(silhouettes.numpy().tobytes()))
    grid = torch.rand(2 * len(inputs), sum(GRID_STEPS) // 2, generator=generator)[2:]
    angles = torch.rand(2, 1, len(inputs), 1, generator=generator)[:, :, 1:]
    if kind in ("distorted", "distorted+jittered"):
        inputs = distort(inputs[None], grid[None], outside=WHITE)[0]
    if kind in ("jittered", "distorted+jittered"):
        c2w = jitter(c2w[None], angles.to(c2w))[0]
    return inputs, c2w


def predict(
    model: LGM,
    size: int | None,
    count: int = VIEW_COUNT,
    fit: int = 0,
    kind: str = "exact",
    rounds: int = ROUNDS,
) -> Callable:
    """The method under test: reconstruct from the inputs, render the novel views.

    Args:
        count: number of inputs, starting with the front.
        fit: steps that fit the splat to the inputs.
        kind: augmentation of the inputs, one of INPUTS.
        rounds: correction rounds.
    """
    chosen = {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[count]

    def method(views: Tensor, c2w: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        pictures, poses = disturb(views[chosen], c2w[chosen], kind)
        color, alpha = pictures.split((3, 1), dim=1)
        straight = (color - 1 + alpha) / alpha.clamp(
            min=1e-3
        )  # undo the white, which `reconstruct` puts there
        inputs = torch.cat([straight.clamp(0, 1), alpha], dim=1)
        gaussians = model.reconstruct(inputs, poses, size, rounds=rounds)
        gaussians = model.fit(gaussians, inputs, poses, size, steps=fit)
        return draw(gaussians, c2w[VIEW_COUNT:], views.shape[-1])

    return method


def draw(gaussians: Gaussians, c2w: Tensor, size: int) -> tuple[Tensor, Tensor]:
    output = render(gaussians, c2w.to(gaussians.device), size)
    return output.images[0].cpu(), output.alphas[0].cpu()


def white(views: Tensor, c2w: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    novel = views[VIEW_COUNT:]
    return torch.ones_like(novel[:, :3]), torch.zeros_like(novel[:, 3:])


def nearest_input(views: Tensor, c2w: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    """Baseline: the input image whose camera is nearest, unchanged."""
    distance = torch.cdist(c2w[VIEW_COUNT:, :3, 3], c2w[:VIEW_COUNT, :3, 3])
    chosen = views[:VIEW_COUNT][distance.argmin(1)]
    return chosen[:, :3], chosen[:, 3:]


def hull_splats(views: Tensor, c2w: Tensor, resolution: int = 128) -> Gaussians:
    """The colored visual hull of the four silhouettes, carved from voxels. A voxel's color is the
    mean over the views that see it, weighted by how well they face its surface.
    """
    colors, alphas = views[:VIEW_COUNT].split((3, 1), dim=1)
    poses = c2w[:VIEW_COUNT]
    axis = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    size = views.shape[-1]
    tangent = cameras_from_rays(plucker_rays(poses, size, FOVY))[1]
    local = (points @ world_to_camera(poses)[:, :3, :3].mT) + world_to_camera(poses)[:, None, :3, 3]
    pixels = local[..., :2] / (
        local[..., 2:] * tangent[:, None, None]
    )  # OpenCV axes: y down, as rows

    def sample(maps: Tensor, index: Tensor | slice = slice(None)) -> Tensor:  # [V, C, points]
        return F.grid_sample(maps, pixels[:, None, index], align_corners=False)[:, :, 0]

    inside = (sample(alphas)[:, 0] > 0.5).all(0).view(1, 1, *[resolution] * 3).float()
    if not inside.any():
        inside[..., resolution // 2, resolution // 2, resolution // 2] = 1
    eroded = -F.max_pool3d(-inside, 3, 1, 1)
    shell = ((inside > 0) & (eroded == 0)).flatten().nonzero()[:, 0]
    blurred = F.avg_pool3d(inside, 5, 1, 2, count_include_pad=True)[0, 0]
    normals = F.normalize(-torch.stack(torch.gradient(blurred), dim=-1).view(-1, 3)[shell], dim=-1)
    halves = [F.avg_pool2d(x, 2)[None] for x in (colors, alphas)]  # enough to tell near from far
    near = visual_hull(*halves, poses[None], tangent[None]).near[0]
    seen = (local[:, shell, 2] < sample(near, shell)[:, 0] + 2.5 * 2 / resolution).float()
    facing = (normals @ poses[:, :3, 2].T).T.clamp(min=0)  # [V, points]
    weights = seen * facing + 1e-3 * facing + 1e-6
    mixed = torch.einsum("vcp,vp->pc", sample(colors, shell), weights / weights.sum(0))
    count = len(shell)
    return Gaussians(
        positions=points[shell][None],
        opacities=torch.full((1, count, 1), 0.95),
        scales=torch.full((1, count, 3), 0.6 * 2 / resolution),
        rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        colors=mixed[None],
    )


def hull(views: Tensor, c2w: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
    return draw(hull_splats(views, c2w), c2w[VIEW_COUNT:], views.shape[-1])


def true_depth(views: Tensor, c2w: Tensor, depths: Tensor | None) -> tuple[Tensor, Tensor]:
    """An upper bound for pixel-aligned methods: the inputs' pixels as Gaussians at their true
    depth. Surfaces that no input shows stay empty.
    """
    colors, alphas = views[:VIEW_COUNT].split((3, 1), dim=1)
    size = views.shape[-1]
    tangent = cameras_from_rays(plucker_rays(c2w[:VIEW_COUNT], size, FOVY))[1]
    rays = depth_rays(c2w[None, :VIEW_COUNT], tangent[None], size)[0]
    points = c2w[:VIEW_COUNT, None, None, :3, 3] + depths[..., None] * rays
    kept = (alphas[:, 0] > 0.99) & (depths > 0)
    count = int(kept.sum())
    scales = (1.2 * depths * tangent[:, None, None] / size)[kept][None, :, None].expand(-1, -1, 3)
    gaussians = Gaussians(
        positions=points[kept][None],
        opacities=torch.full((1, count, 1), 0.95),
        scales=scales.contiguous(),
        rotations=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        colors=colors.permute(0, 2, 3, 1)[kept][None],
    )
    return draw(gaussians, c2w[VIEW_COUNT:], size)


def evaluate(
    data: EvaluationSet,
    methods: dict[str, Callable],
    pictures: dict[int, list[Tensor]] | None = None,
) -> list[dict[str, object]]:
    """One row per object and method."""
    rows = []
    for index, (name, tier) in enumerate(zip(data.names, data.tiers, strict=True)):
        views = data.views(index)
        depths = None if data.depths is None else data.depths[index]
        for method, function in tqdm(methods.items(), desc=name, leave=False, disable=None):
            images, alphas = function(views, data.c2w, depths)
            rows.append(
                {"name": name, "tier": tier, "method": method}
                | measure(images, alphas, views[VIEW_COUNT:])
            )
            if pictures is not None:
                pictures.setdefault(index, [_bytes(views[:, :3])]).append(_bytes(images))
    return rows


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().byte()


def summarize(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Mean, median and worst tenth of PSNR, and means of the other figures, per tier and method."""
    table = []
    for tier in sorted({row["tier"] for row in rows}):
        for method in dict.fromkeys(row["method"] for row in rows):
            chosen = [row for row in rows if row["tier"] == tier and row["method"] == method]
            values = sorted(row["psnr"] for row in chosen)
            worst = values[: max(1, len(values) // 10)]
            table.append(
                {
                    "tier": tier,
                    "objects": len(chosen),
                    "method": method,
                    "PSNR": np.mean(values),
                    "median": np.median(values),
                    "worst 10 %": np.mean(worst),
                    "SSIM": np.mean([row["ssim"] for row in chosen]),
                    "IoU": np.mean([row["iou"] for row in chosen]),
                    "object PSNR": np.mean([row["object psnr"] for row in chosen]),
                }
            )
    return table


def print_table(table: list[dict[str, object]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(table[0]) + " |\n|" + "---|" * len(table[0]))
    for row in table:
        print(
            "| "
            + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values())
            + " |"
        )


def save_sheet(
    path: Path, data: EvaluationSet, pictures: dict[int, list[Tensor]], indices: list[int]
) -> None:
    """Write an image: for each object the four inputs, then the truth above every method."""
    blocks = []
    for index in indices:
        truth, *methods = pictures[index]
        rows = [truth[VIEW_COUNT:], *methods]
        inputs = torch.cat(
            [truth[:VIEW_COUNT], torch.full_like(truth[: len(truth) - 2 * VIEW_COUNT], 255)]
        )
        blocks.extend(torch.cat(list(row), dim=-1) for row in [inputs, *rows])
    sheet = torch.cat(blocks, dim=-2)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)
