"""How fast one step of multi-view diffusion is on an NVIDIA GPU, from the root:

    python benchmarks/multiview.py [--kind image|text] [--objects 1]

Full size, fp16, random weights, guidance on (twice the frames), 256 px; medians of single calls
between synchronizations, warm. The readable network is what every other device runs. Error: of the
fused network, and of the readable one in fp16, against the readable one in fp32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from render import machine
from torch import Tensor

from lgm.machine.cuda_graph import capture
from lgm.multiview import UNet, fast

CONTEXT, WORDS, FEATURES = 1024, 77, 257


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=["image", "text"], default="image")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="list the kernels of one step")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {machine('cuda')}, {args.kind}, {args.objects} object(s)")
    unet = random_unet(args.kind)
    given, sample, timestep = random_inputs(args.kind, 2 * args.objects)
    with torch.inference_mode():
        exact = unet.float().denoise(
            sample.float(), timestep, unet.prepare(**{k: _float(v) for k, v in given.items()})
        )
        unet.half()
        constants = unet.prepare(**given)
        report("readable, eager", lambda: unet.denoise(sample, timestep, constants), exact)
        report_graph(unet, sample, timestep, constants, exact)
        start = time.perf_counter()
        fast.denoise(unet, sample, timestep, constants)
        torch.cuda.synchronize()
        print(f"{'fused, ready after':<28}{time.perf_counter() - start:>9.1f} s")
        report("fused, CUDA graph", lambda: fast.denoise(unet, sample, timestep, constants), exact)
        fresh = unet.prepare(**given)
        report("a new prompt's constants", lambda: unet.prepare(**given))
        one, other = constants, fresh
        start = time.perf_counter()
        for _ in range(10):
            fast.denoise(unet, sample, timestep, other)
            one, other = other, one
        torch.cuda.synchronize()
        print(f"{'fused, prompts alternating':<28}{(time.perf_counter() - start) * 100:>9.2f} ms")
    print(f"peak GPU memory {torch.cuda.max_memory_allocated() / 2**20:.0f} MB")
    if args.profile:
        profile(unet, sample, timestep, constants)


def random_unet(kind: str) -> UNet:
    torch.manual_seed(0)
    with torch.device("cuda"):
        unet = UNet(ip_dim=16 if kind == "image" else 0)
    return unet.requires_grad_(False).eval()


def random_inputs(kind: str, objects: int) -> tuple[dict, Tensor, Tensor]:
    frames = 5 if kind == "image" else 4
    count = objects * frames

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").half()

    given = {
        "encoder_hidden_states": noise(count, WORDS, CONTEXT),
        "camera": noise(count, 16),
        "num_frames": frames,
    }
    if kind == "image":
        given |= {
            "image_features": noise(count, FEATURES, 1280),
            "reference_latents": noise(objects, 4, 32, 32),
        }
    return given, noise(count, 4, 32, 32), torch.full((count,), 500.0, device="cuda")


def report(name: str, call: Callable[[], Tensor], exact: Tensor | None = None) -> None:
    times = []
    for _ in range(25):
        torch.cuda.synchronize()
        start = time.perf_counter()
        found = call()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    error = ""
    if exact is not None:
        error = f"  error {((found.float() - exact).norm() / exact.norm()).item():.1e}"
    print(f"{name:<28}{statistics.median(times[5:]):>9.2f} ms{error}", flush=True)


def report_graph(unet: UNet, sample: Tensor, timestep: Tensor, constants, exact: Tensor) -> None:
    graph, _, out = capture(lambda x: unet.denoise(x, timestep, constants), sample)

    def replay() -> Tensor:
        graph.replay()
        return out

    report("readable, CUDA graph", replay, exact)


def profile(unet: UNet, sample: Tensor, timestep: Tensor, constants) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with torch.inference_mode(), record(activities=[ProfilerActivity.CUDA]) as found:
        fast.denoise(unet, sample, timestep, constants)
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="cuda_time_total", row_limit=30))
    for key, times in fast._denoisers[unet]._plan.ways.times.items():
        print(f"  {key!s:44s}" + "".join(f"{t:9.1f}" for t in times))


def _float(value):
    return value.float() if torch.is_tensor(value) else value


if __name__ == "__main__":
    main()
