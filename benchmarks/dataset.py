"""How fast meshes become shards, and shards become training items.

    python benchmarks/dataset.py                  # made-up GLBs: 20,480 triangles, one texture
    python benchmarks/dataset.py --meshes FOLDER  # your own

Prints objects per minute with all workers, the size of a view, and items (8 views) per second that
one process reads, from files that the system has in memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from lgm.command import dataset
from lgm.training.renders.shards import Shards

ITEM_VIEWS = 8


def make_meshes(folder: Path, count: int) -> None:
    """Bumpy balls with a noisy texture."""
    for number in range(count):
        rng = np.random.default_rng(number)
        ball = trimesh.creation.icosphere(5)
        waves = np.sin(ball.vertices @ rng.normal(0, 3, (3, 8)) + rng.uniform(0, 6, 8)).mean(1)
        uv = np.asarray(ball.vertices)[:, :2] / 2 + 0.5
        ball.vertices *= 1 + 0.3 * waves[:, None]
        pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        picture = Image.fromarray(pixels).resize((1024, 1024), Image.BICUBIC)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
        ball.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        ball.export(folder / f"ball_{number}.glb")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--meshes", type=Path)
    p.add_argument("--count", type=int, default=6, help="of made-up meshes")
    p.add_argument("--views", type=int, default=100)
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--items", type=int, default=60)
    arguments = p.parse_args()
    with tempfile.TemporaryDirectory() as place:
        meshes = arguments.meshes or Path(place) / "meshes"
        if not arguments.meshes:
            meshes.mkdir()
            make_meshes(meshes, arguments.count)
        out = Path(place) / "out"
        command = ["--meshes", meshes, "--out", out, "--views", arguments.views]
        command += ["--size", arguments.size, "--workers", arguments.workers]
        start = time.perf_counter()
        dataset.main(list(map(str, command)))
        seconds = time.perf_counter() - start
        used = os.times()
        used = used.user + used.system + used.children_user + used.children_system
        data = Shards(out)
        rng = np.random.default_rng(0)
        torch.set_num_threads(1)
        data.read(0, [0])
        start = time.perf_counter(), time.process_time()
        for _ in range(arguments.items):
            index = int(rng.integers(len(data)))
            data.read(index, rng.permutation(data.view_count(index))[:ITEM_VIEWS].tolist())
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        stored = sum(size for _, size, _ in data.files)
        views = sum(data.view_count(index) for index in range(len(data)))
        print(f"\n| what ({arguments.views} views, {arguments.size} px) | measured |\n|---|---|")
        print(
            f"| objects per minute, {arguments.workers} workers | {60 * len(data) / seconds:.1f} |"
        )
        print(f"| ms per view and worker | {1000 * arguments.workers * seconds / views:.0f} |")
        print(f"| the same, processor time, starting included | {1000 * used / views:.0f} |")
        print(f"| KiB per view | {stored / views / 1024:.1f} |")
        print(f"| items of {ITEM_VIEWS} views per second and core | {arguments.items / cpu:.0f} |")
        print(f"| the same by the clock | {arguments.items / wall:.0f} |")


if __name__ == "__main__":
    main()
