"""Four views to Gaussians with the bundled model, and the whole demo: seconds and memory.

python benchmarks/reconstruct.py [--threads 2] [--runs 5]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import lgm
from lgm.network.fit import STEPS
from lgm.network.presets import ROUNDS
from lgm.pictures.matte import load_views

ROOT = Path(__file__).parents[1]


def seconds(function, runs: int) -> tuple[float, float]:
    """Median and least of `runs`, after one that isn't counted."""
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def demo(threads: int) -> tuple[float, float]:
    """Wall seconds and peak megabytes of `lgm demo` as a process of its own."""
    import resource

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "lgm", "demo", "--out", folder, "--quiet"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - start
    return wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = lgm.load_model("demo")
    folder = ROOT / "example_workflows" / "inputs" / "spot"
    views = load_views([folder / f"{a}.png" for a in (0, 90, 180, 270)], 256)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, ", end="")
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads\n")
    print("| | median s | least s |\n|---|---|---|")
    for size in (256, 128):
        for rounds in (ROUNDS, 0):
            median, least = seconds(
                lambda size=size, rounds=rounds: model.reconstruct(views, size=size, rounds=rounds),
                arguments.runs,
            )
            what = f"four views to Gaussians, {size} px, {rounds} looks at it"
            print(f"| {what} | {median:.2f} | {least:.2f} |")
        splat = model.reconstruct(views, size=size)
        median, least = seconds(
            lambda size=size, splat=splat: model.fit(splat, views, size=size), arguments.runs
        )
        print(f"| fitting them to the views, {STEPS} steps | {median:.2f} | {least:.2f} |")
    if sys.platform != "win32":  # the resource module is POSIX only
        wall, peak = demo(arguments.threads)
        print(f"\nlgm demo: {wall:.1f} s, peak {peak:.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
