"""How fast the render backends are: `python benchmarks/render.py [--quick]`, from the root.

Scene: 65,536 Gaussians on a lumpy shell of radius 0.45, log-uniform scales of 0.005-0.02,
opacities 0.1-1, any rotation; camera at radius 1.5. Harder than a reconstructed object, where many
Gaussians are faint. Wall time: median of the runs and, since other programs only ever add to it,
the least.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from lgm.cameras import orbit_poses
from lgm.gaussians import Gaussians
from lgm.render import available_backends, render

COUNT = 65_536
SIZES = (256, 512, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="256 px only, three runs")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backends", nargs="+", help="instead of all but the reference")
    args = parser.parse_args()
    runs, sizes = (3, SIZES[:1]) if args.quick else (args.runs, SIZES)
    only_on = {"numba": "cpu", "gsplat": "cuda"}
    backends = args.backends or [
        name
        for name in available_backends()
        if name != "reference" and only_on.get(name, args.device) == args.device
    ]
    gaussians = shell().to(args.device)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {machine(args.device)}")
    print(f"{COUNT:,} Gaussians, one view; ms, median (least) of {runs}\n")
    print(
        f"{'backend':<10}{'px':>6}{'forward':>18}{'with backward':>18}"
        f"{'peak MB, fwd':>14}{'with bwd':>10}"
    )
    for name in backends:
        for size in sizes:
            print(row(gaussians, name, size, runs), flush=True)
    if "gsplat" in backends:
        milliseconds = sixty_views(gaussians, runs)
        print(f"\ngsplat, 60 views at 512 px in one call: {milliseconds:.3f} ms a view")


def shell(seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def uniform(width: int) -> torch.Tensor:
        return torch.rand(1, COUNT, width, generator=generator)

    directions = F.normalize(torch.randn(1, COUNT, 3, generator=generator), dim=-1)
    x, y, z = directions.split(1, dim=-1)
    return Gaussians(
        positions=0.45 * (1 + 0.1 * torch.sin(6 * x) * torch.cos(5 * y + 2 * z)) * directions,
        opacities=0.1 + 0.9 * uniform(1),
        scales=0.005 * 4 ** uniform(3),
        rotations=F.normalize(torch.randn(1, COUNT, 4, generator=generator), dim=-1),
        colors=uniform(3),
    )


def row(gaussians: Gaussians, backend: str, size: int, runs: int) -> str:
    cameras = orbit_poses([0.0])
    leaves = gaussians.map(lambda tensor: tensor.clone().requires_grad_())

    @torch.no_grad()
    def forward() -> None:
        render(gaussians, cameras, size, backend=backend)

    def both() -> None:
        out = render(leaves, cameras, size, backend=backend)
        (out.images.square().mean() + out.alphas.mean() + out.depths.mean()).backward()

    cells = [measure(task, runs, gaussians.device) for task in (forward, both)]
    times = "".join(f"{f'{median:.1f} ({least:.1f})':>18}" for median, least, _ in cells)
    return f"{backend:<10}{size:>6}{times}{cells[0][2]:>14}{cells[1][2]:>10}"


def sixty_views(gaussians: Gaussians, runs: int) -> float:
    cameras = orbit_poses([6.0 * view for view in range(60)]).to(gaussians.device)

    @torch.no_grad()
    def turntable() -> None:
        render(gaussians, cameras, 512, backend="gsplat")

    return measure(turntable, runs, gaussians.device)[0] / 60


def measure(task: Callable[[], None], runs: int, device: torch.device) -> tuple[float, float, str]:
    """Median and least milliseconds after a warm-up that compiles, and the peak of memory."""
    task()
    peak = start_peak(device)
    times = []
    for _ in range(runs):
        synchronize(device)
        start = time.perf_counter()
        task()
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), min(times), peak()


def start_peak(device: torch.device) -> Callable[[], str]:
    """Begin watching memory; the result tells the peak in MB on top, "-" where the system won't."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        return lambda: f"{(torch.cuda.max_memory_allocated(device) - before) / 2**20:.0f}"
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from what is resident now
    except OSError:
        return lambda: "-"

    def kilobytes(key: str) -> int:
        return int(
            next(line for line in status.read_text().splitlines() if line.startswith(key)).split()[
                1
            ]
        )

    before = kilobytes("VmRSS")
    return lambda: f"{(kilobytes('VmHWM') - before) / 1024:.0f}"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
