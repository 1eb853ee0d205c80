"""Evaluation sets: images of held-out objects from four input and eight novel views, in one file.

Images are lossless WebP with straight color and alpha, depths are 16-bit floats. They are drawn by
the CPU rasterizer, which gives the same set on every machine.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cameras import INPUT_AZIMUTHS, orbit_poses
from .packs.pack_file import squeeze, unsqueeze, write_tensors
from .rasterize import Lights, TriangleSoup, rasterize

# (elevation, azimuth) of the novel views: off the input axes and all around.
NOVEL_VIEWS = ((-20, 45), (-20, 205), (0, 135), (0, 315), (20, 70), (20, 250), (45, 20), (45, 160))
EVALUATION_VIEW_COUNT = len(INPUT_AZIMUTHS) + len(NOVEL_VIEWS)


def evaluation_poses() -> Tensor:
    """[12, 4, 4]: the four inputs at elevation 0, then the novel views."""
    elevations, azimuths = zip(*NOVEL_VIEWS, strict=True)
    inputs = orbit_poses(INPUT_AZIMUTHS)
    return torch.cat(
        [inputs, orbit_poses(list(map(float, azimuths)), torch.tensor(elevations).double())]
    )


def soft_light(count: int) -> Lights:
    """A bright sky, a dim ground and one lamp from the upper right, the same for every object."""
    direction = torch.nn.functional.normalize(torch.tensor([0.5, 0.7, 0.6]), dim=0)
    return Lights(
        ambient_top=torch.full((count, 3), 0.66),
        ambient_bottom=torch.full((count, 3), 0.48),
        directions=direction.expand(count, 1, 3),
        intensities=torch.full((count, 1, 3), 0.34),
    )


@torch.no_grad()
def render_pictures(
    soup: TriangleSoup, size: int, poses: Tensor | None = None, supersample: int = 3
) -> tuple[Tensor, Tensor]:
    """Straight-color RGBA images uint8 [B, V, 4, S, S] and camera-z depths [B, V, S, S], 0 where
    nothing is."""
    poses = evaluation_poses() if poses is None else poses
    views = poses.expand(soup.count, *poses.shape)
    drawn = rasterize(soup, soft_light(soup.count), views, size, supersample=supersample)
    straight = (drawn.images - 1 + drawn.alphas) / drawn.alphas.clamp(min=1e-6)
    rgba = torch.cat([torch.where(drawn.alphas > 0, straight, 1.0), drawn.alphas], dim=2)
    return rgba.clamp(0, 1).mul(255).round().to(torch.uint8), drawn.depths[:, :, 0]


def save_set(path: Path, size: int, items: Iterable[tuple[TriangleSoup, dict[str, str]]]) -> int:
    """Render objects and write the set; every item is a soup of one object and its `name`, `tier`
    and `license`.

    Returns:
        How many objects the file holds.
    """
    pictures, depths, entries = [], [], []
    for soup, entry in items:
        rgba, depth = render_pictures(soup, size)
        pictures += [_webp(view) for view in rgba[0]]
        depths.append(depth[0, : len(INPUT_AZIMUTHS)].half().numpy())
        entries.append(entry)
    tensors = {
        "pictures": torch.from_numpy(np.frombuffer(b"".join(pictures), np.uint8).copy()),
        "picture_sizes": torch.tensor([len(p) for p in pictures]).view(len(entries), -1),
        "packed_depths": torch.from_numpy(squeeze(np.stack(depths).reshape(-1))),
        "c2w": evaluation_poses(),
    }
    metadata = {
        f"{key}s": json.dumps([entry[key] for entry in entries])
        for key in ("name", "tier", "license")
    }
    write_tensors(path, tensors, metadata)
    return len(entries)


def read_pictures(file) -> Tensor:
    """uint8 [K, V, 4, S, S] from an open set (`safetensors.safe_open(path, "pt")`).

    A set may also hold them as they are, in a tensor `images`.
    """
    if "images" in file.keys():  # noqa: SIM118
        return file.get_tensor("images")
    data, sizes = file.get_tensor("pictures").numpy(), file.get_tensor("picture_sizes")
    ends = sizes.flatten().cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    decoded = [
        np.asarray(Image.open(io.BytesIO(data[a:b].tobytes())).convert("RGBA"))
        for a, b in zip(starts, ends, strict=True)
    ]
    return (
        torch.from_numpy(np.stack(decoded))
        .movedim(-1, 1)
        .unflatten(0, tuple(sizes.shape))
        .contiguous()
    )


def read_depths(file) -> Tensor:
    """Camera z of the input views from an open set, float32 [K, 4, S, S], 0 where nothing is."""
    count = len(file.get_tensor("picture_sizes"))
    data = file.get_tensor("packed_depths").numpy()
    flat = torch.from_numpy(unsqueeze(data, "<f2", [-1])).float()
    size = math.isqrt(flat.numel() // (count * len(INPUT_AZIMUTHS)))
    return flat.view(count, len(INPUT_AZIMUTHS), size, size)


def _webp(rgba: Tensor) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(rgba.movedim(0, -1).contiguous().numpy(), "RGBA")
    picture.save(file, "WEBP", lossless=True, method=4)
    return file.getvalue()


HELDOUT = Path(__file__).with_name("heldout.json")


def heldout() -> dict:
    """The frozen lists: t0 seeds, t1 and t2 object names (library/model), t3 models with source
    and license."""
    return json.loads(HELDOUT.read_text(encoding="utf-8"))
