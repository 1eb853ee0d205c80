"""How near meshes of splats are to the objects the splats were made from, per tier, from the root:

    python benchmarks/mesh_geometry.py [--pack meshes.safetensors] [--objects DIR] [--count N]

Four pictures of a held-out object, the demo model, `lgm.mesh.extract`; then chamfer distance (mean
of the mean distances there and back) and F-scores at 0.01 and 0.02, in units in which the source's
longest half-extent is 1 and with nothing aligned. Only what can be seen from outside counts, on
either side (see `lgm.mesh.metrics`). Beside the mesh, the splat's own geometry: "depth" are points
of its rendered depth (expected depth where more than half is covered, from 48 cameras around it,
one point per cell of 0.005), "centers" the centers of its Gaussians of an opacity above 0.5. Other
points on the source itself are 0.002 to 0.003 away, with F-scores of 1.

Tier T0 is procedural and needs no data; T1 and T2 are in the pack that `lgm dataset` makes, T3 in
a folder of glTF or OBJ models.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from render import machine
from torch import Tensor

from lgm import load_model
from lgm.cameras import camera_rays, input_poses
from lgm.gaussians import Gaussians
from lgm.mesh import extract
from lgm.mesh.metrics import Agreement, compare, outer_cameras, outer_points
from lgm.network.model import LGM
from lgm.render import render
from lgm.splats.extent import extent
from lgm.training.evaluation_set import render_pictures
from lgm.training.furniture import evaluation_items
from lgm.training.packs.pack import MeshPack
from lgm.training.rasterize import TriangleSoup

SIZE = 256  # of the input pictures, as in the evaluation set
DEPTH_SIZE = 384
CELL = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path, help="meshes.safetensors, for T1 and T2")
    parser.add_argument("--objects", type=Path, help="folder of models, for T3")
    parser.add_argument("--count", type=int, default=24, help="objects per tier, at most")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {machine('cpu')}")
    model = load_model("demo")
    pack = MeshPack.load(args.pack) if args.pack else None
    rows: dict[tuple[str, str], list[Agreement]] = {}
    counts = dict.fromkeys(("t0", "t1", "t2", "t3"), args.count)
    for soup, entry in evaluation_items(pack, args.objects, counts):
        start = time.perf_counter()
        found = measure(model, soup)
        seconds = time.perf_counter() - start
        where = f"{entry['tier']} {entry['name'][-40:]:<42}"
        print(f"{where}{seconds:6.1f} s  {_line(found)}", flush=True)
        for geometry, agreement in found.items():
            rows.setdefault((entry["tier"], geometry), []).append(agreement)
    print("\n| tier | objects | geometry | chamfer | median | F 0.01 | F 0.02 | worst F 0.02 |")
    print("|---|---|---|---|---|---|---|---|")
    for (tier, geometry), found in rows.items():
        chamfers = [agreement.chamfer for agreement in found]
        fine, coarse = np.array([agreement.f_scores for agreement in found]).T
        print(
            f"| {tier} | {len(found)} | {geometry} | {np.mean(chamfers):.4f} "
            f"| {np.median(chamfers):.4f} | {fine.mean():.3f} | {coarse.mean():.3f} "
            f"| {coarse.min():.3f} |"
        )


def _line(found: dict[str, Agreement]) -> str:
    return "   ".join(
        f"{geometry} {a.chamfer:.4f} {a.f_scores[0]:.3f} {a.f_scores[1]:.3f}"
        for geometry, a in found.items()
    )


@torch.no_grad()
def measure(model: LGM, soup: TriangleSoup) -> dict[str, Agreement]:
    """Of one object: its mesh and its splat against the source."""
    scale = 1 / soup.corners.abs().max().item()  # centered already
    faces = torch.arange(3 * len(soup.corners)).view(-1, 3)
    truth = outer_points(soup.corners.view(-1, 3), faces)
    pictures = render_pictures(soup, SIZE, input_poses())[0][0].float() / 255
    gaussians = model.reconstruct(pictures)
    mesh = extract(gaussians, texture_size=None)
    found = {
        "mesh": outer_points(mesh.vertices, mesh.faces),
        "depth": _depth_points(gaussians, CELL / scale),
        "centers": _shuffled(gaussians.positions[0, gaussians.opacities[0, :, 0] > 0.5]),
    }
    return {name: compare(points * scale, truth * scale) for name, points in found.items()}


def _depth_points(gaussians: Gaussians, cell: float) -> np.ndarray:
    center, radius = extent(gaussians)
    poses, fovy = outer_cameras(center, radius)
    parts = []
    for pose in poses.float().split(1):
        drawn = render(gaussians, pose, DEPTH_SIZE, fovy)
        origins, rays = (x[0] for x in camera_rays(pose, DEPTH_SIZE, fovy))
        along = (rays * -pose[0, :3, 2]).sum(-1)  # depth is along the camera's axis
        seen = drawn.alphas[0, 0, 0] > 0.5
        parts.append((origins + rays * (drawn.depths[0, 0, 0] / along)[..., None])[seen])
    points = torch.cat(parts)
    x, y, z = ((points - points.amin(0)) / cell).long().unbind(-1)
    index = np.unique(((x * 4096 + y) * 4096 + z).numpy(), return_index=True)[1]
    return _shuffled(points[torch.from_numpy(index)])


def _shuffled(points: Tensor) -> np.ndarray:
    return np.random.default_rng(0).permutation(points.double().numpy())


if __name__ == "__main__":
    main()
