"""How fast the U-Net is: `python benchmarks/unet.py [--profile] [--layers] [--train]`.

Big network, batch 1, fp16, on an H100 (3.3 TB/s, about 790 TFLOP/s in fp16): where the time goes.
  products     1,780 GFLOP: 2.2 ms at full rate. At 8 pixels (14 convolutions of 256 rows) a layer
               only streams 19-38 MB of weights, 6-11 us each, and can't fill the tensor cores.
  weights      830 MB read once: 0.25 ms, hidden behind the products except in the small maps.
  attention    16 layers; the five of 4,096 tokens are bound by exponentials, 0.1 ms each.
  activations  a map is 33.5 MB at 256 px (64 channels), 16.8 at 128, 8.4 at 64, 4.2 at 32, ...;
               the decoder's concatenated inputs are 2-3 times their level's.
  GroupNorm    75, each reads twice and writes once: 1.3 GB, 0.4 ms, in 129 launches.
  sums         45 residual sums, two reads and a write: 0.7 GB, 0.2 ms.
What torch's layers spend on top and `lgm/fast_unet.py` does not: NCHW <-> NHWC conversion around
convolutions; passes of their own for fp32 casts, SiLU, scale and biases (each reads and writes the
map once more: 0.3-0.5 ms for the biases alone); concatenation (0.4 GB); twice the launches.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

# A cold cache, or the time to ready would leave out the compiler.
os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="lgm-triton-"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgm.layers.basic import Conv2d, GroupNorm, Linear
from lgm.network.model import LGM
from lgm.network.presets import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="big", choices=PRESETS)
    parser.add_argument("--ready", action="store_true", help="time to ready and speed alone")
    parser.add_argument("--profile", action="store_true", help="kernels by time (CUDA)")
    parser.add_argument("--layers", action="store_true", help="every convolution by itself (CUDA)")
    parser.add_argument(
        "--train", action="store_true", help="forward and backward of the demo preset (CUDA)"
    )
    parser.add_argument(
        "--compile-limit", type=int, default=60, help="seconds torch.compile may take"
    )
    parser.add_argument("--cudnn-limit", type=int, help="algorithms cuDNN tries for each shape")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.cudnn_limit is not None:
        torch.backends.cudnn.benchmark_limit = args.cudnn_limit
    if not torch.cuda.is_available():
        cpu_table()
        return
    versions = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
    print(f"{torch.cuda.get_device_name()}, {versions}")
    if args.train:
        training_table(args.compile_limit)
        return
    model = random_model(args.preset, torch.float16)
    inputs = random_inputs(model, batch=1)
    if args.ready:
        print(f"ready in {ready(model, inputs.flatten(0, 1)):.1f} s, then ", end="")
        print(f"{milliseconds(lambda: features(model, inputs.flatten(0, 1))):.2f} ms")
        return
    inference_table(model, inputs)
    if args.layers:
        layers_table(model)
    if args.profile:
        profile(model, inputs)


def inference_table(model: LGM, inputs: Tensor) -> None:
    from lgm.machine.cuda_graph import GraphedFunction, cudnn_benchmark
    from lgm.network import fast_unet

    x = inputs.flatten(0, 1)
    seconds_to_ready = ready(model, x)
    ours = features(model, x)
    reference = without_tf32(lambda: plain_nchw(model, torch.float32)(x))
    original = plain_nchw(model)
    original_graph = GraphedFunction(autocast(original, torch.float16))
    plan = fast_unet._runners[model].function.plan
    rows = [
        ("ours: fused, CUDA graph", lambda: features(model, x), seconds_to_ready),
        ("ours: fused, no graph", cudnn_benchmark()(lambda: plan(x)), None),
        ("readable unet.py, fused GroupNorm", lambda: readable(model, x), None),
        (
            "original's way: eager, NCHW, autocast",
            lambda: autocast(original, torch.float16)(x),
            None,
        ),
        ("the same in a CUDA graph", lambda: original_graph(x), None),
    ]
    print(f"\nU-Net and head, {tuple(inputs.shape)}: median of 60 runs")
    print(f"{'':42s}{'ms':>8s}{'error':>10s}{'ready s':>9s}")
    for name, function, seconds in rows:
        with torch.no_grad():
            start = time.perf_counter()
            out = function()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start if seconds is None else seconds
            difference = error(out, reference)
            print(f"{name:42s}{milliseconds(function):8.2f}{difference:10.1e}{seconds:9.1f}")
    with torch.inference_mode():
        whole = milliseconds(lambda: model(inputs))
        print(f"{'model(inputs), as installed, to Gaussians':42s}{whole:8.2f}")
    again = features(model, x)
    fresh = torch.randn_like(x)
    changed = error(
        features(model, fresh),
        without_tf32(lambda: plain_nchw(model, torch.float32)(fresh)),
    )
    print(f"repeats to the bit: {torch.equal(ours, again)}; error on fresh inputs {changed:.1e}")
    print(f"memory: {torch.cuda.max_memory_allocated() / 2**20:.0f} MB peak with all of these")
    print("\nchosen by measuring, us of each candidate:")
    for key, times in plan.ways.times.items():
        print(
            f"  {key!s:44s}"
            + "".join(f"{t:9.1f}" for t in times)
            + f"   -> {plan.ways.choices[key]}"
        )


def features(model: LGM, x: Tensor) -> Tensor:
    from lgm.network import fast_unet  # needs Triton, which CPUs lack

    return fast_unet.features(model, x)


def ready(model: LGM, x: Tensor) -> float:
    """Seconds of the first call: compiling, measuring, capturing."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    features(model, x)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def readable(model: LGM, x: Tensor) -> Tensor:
    x = x.to(model.compute_dtype(x.device), memory_format=torch.channels_last)
    return model.conv(model.unet(x)).float()


def layers_table(model: LGM) -> None:
    """Each convolution alone, as cuDNN runs it channels-last: how far from the arithmetic?"""
    from lgm.layers.fast import _microseconds

    counts: dict[tuple, int] = defaultdict(int)

    def note(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        counts[tuple(inputs[0].shape), conv.out_channels, conv.kernel_size[0], conv.stride[0]] += 1

    convs = [module for module in model.unet.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_pre_hook(note) for conv in convs]
    with torch.no_grad():
        readable(model, random_inputs(model, 1).flatten(0, 1))
        for hook in hooks:
            hook.remove()
        print(f"\n{'convolution':42s}{'count':>6s}{'us':>9s}{'sum us':>9s}{'TFLOP/s':>9s}")
        total = 0.0
        for (shape, out, kernel, stride), count in counts.items():
            x = channels_last(torch.randn(shape, device="cuda", dtype=torch.float16))
            w = channels_last(
                torch.randn(out, shape[1], kernel, kernel, device="cuda", dtype=torch.float16)
            )
            us = _microseconds(lambda x=x, w=w, s=stride, k=kernel: F.conv2d(x, w, None, s, k // 2))
            flops = 2 * x.numel() * out * kernel**2 / stride**2
            total += us * count
            name = f"{shape} -> {out}, {kernel}x{kernel}" + (" stride 2" if stride == 2 else "")
            print(f"{name:42s}{count:6d}{us:9.1f}{us * count:9.1f}{flops / us / 1e6:9.0f}")
        print(f"{'all':48s}{'':9s}{total:9.1f}")


KINDS = (  # of kernels, by a part of their name, the first match counting
    ("GroupNorm", "_normalize _tile_moments _group_moments"),
    ("residual sum", "_scaled_sum"),
    ("patches", "_patches"),
    ("attention", "flash fmha sdpa attention"),
    (
        "convolution or product",
        "conv implicit xmma cutlass nvjet gemm cudnn splitK dgrad sm90 sm80",
    ),
    ("torch elementwise, copies", "at::native Memcpy Memset"),
)


def profile(model: LGM, inputs: Tensor, rows: int = 45, runs: int = 5) -> None:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    x = inputs.flatten(0, 1)
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(runs):
            features(model, x)
        torch.cuda.synchronize()
    events = [e for e in profiler.key_averages() if e.device_type == DeviceType.CUDA]
    events.sort(key=lambda e: -e.self_device_time_total)
    print(f"\n{'kernels of one pass':92s}{'count':>6s}{'us':>9s}")
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0])
    for i, e in enumerate(events):
        count, us = e.count / runs, e.self_device_time_total / runs
        if i < rows:
            print(f"{e.key[:90]:92s}{count:6.1f}{us:9.1f}")
        for kind in (kind_of(e.key), "all"):
            sums[kind][0] += count
            sums[kind][1] += us
    for kind, (count, us) in sorted(sums.items(), key=lambda item: item[1][1]):
        print(f"= {kind:90s}{count:6.1f}{us:9.1f}")


def kind_of(kernel: str) -> str:
    lower = kernel.lower()
    return next(
        (k for k, parts in KINDS if any(p.lower() in lower for p in parts.split())), "other"
    )


def training_table(compile_limit: int) -> None:
    print("\ndemo preset, forward and backward, bf16 autocast, channels-last: samples/s (GB peak)")
    print(f"{'':28s}{'128 px, batch 32':>20s}{'256 px, batch 16':>20s}")
    ours = random_model("demo", torch.float32).requires_grad_(True)
    reference = plain(ours)
    variants = [("plain layers, eager", reference), ("ours", as_trained(ours))]
    for name, function in variants:
        cells = [
            training_speed(ours, function, size, batch) for size, batch in ((128, 32), (256, 16))
        ]
        print(f"{name:28s}" + "".join(f"{speed:13.1f} ({gb:4.1f})" for speed, gb in cells))
    print(f"relative difference of the gradients, fp32: {gradient_difference(ours, reference):.1e}")
    compiled = torch.compile(reference, dynamic=False)
    for size, batch in ((128, 32), (256, 16)):
        start = time.perf_counter()
        try:
            with time_limit(compile_limit):
                speed, gb = training_speed(ours, compiled, size, batch)
            took = time.perf_counter() - start
            print(f"plain, torch.compile, {size} px: {speed:.1f} ({gb:.1f}), {took:.0f} s in all")
        except (RuntimeError, TimeoutError) as problem:
            print(f"plain, torch.compile, {size} px: none, {str(problem).splitlines()[0][:100]}")


def as_trained(model: LGM) -> Callable[[Tensor], Tensor]:
    return lambda x: model.conv(model.unet(x))


def training_speed(model: LGM, function: Callable, size: int, batch: int) -> tuple[float, float]:
    """Samples a second, and gigabytes at the peak."""
    x = channels_last(random_inputs(model, batch, size).flatten(0, 1))
    levels = len(model.preset.down_channels) - len(model.preset.up_channels)
    target = torch.randn(len(x), 14, size >> levels, size >> levels, device="cuda")

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            y = function(x)
        (y.float() * target).mean().backward()

    torch.cuda.reset_peak_memory_stats()
    ms = milliseconds(step, runs=15)
    return batch / ms * 1000, torch.cuda.max_memory_allocated() / 2**30


def gradient_difference(model: LGM, reference: Callable) -> float:
    """Relative difference of the gradient of all parameters from the plain layers'."""
    x = channels_last(random_inputs(model, 1, 128).flatten(0, 1))
    gradients = []
    for function in (reference, as_trained(model)):
        model.zero_grad(set_to_none=True)
        without_tf32(lambda function=function: function(x).square().mean().backward(), grad=True)
        # All in one: a bias before a GroupNorm of single channels has no gradient but rounding.
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return error(gradients[1], gradients[0])


def cpu_table(threads: int = 2) -> None:
    torch.set_num_threads(threads)
    print(f"{processor()}, {threads} threads, torch {torch.__version__}")
    model = random_model("demo", torch.float32)
    reference = plain_nchw(model)
    print("demo preset, four views, fp32: seconds (CPU seconds of all threads), median of 3 runs")
    print(f"{'px':>5s}{'ours':>16s}{'plain, NCHW':>16s}{'error':>10s}")
    for size in (128, 256):
        x = random_inputs(model, 1, size).flatten(0, 1)
        with torch.no_grad():
            difference = error(readable(model, x), reference(x))
            cells = [
                cpu_seconds(lambda x=x: readable(model, x)),
                cpu_seconds(lambda x=x: reference(x)),
            ]
        text = "".join(f"{wall:8.2f} ({cpu:5.2f})" for wall, cpu in cells)
        print(f"{size:5d} {text}{difference:10.1e}")


def cpu_seconds(function: Callable, runs: int = 3) -> list[float]:
    """Median wall-clock and process time."""
    times = []
    for _ in range(runs):
        start = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [statistics.median(column) for column in zip(*times, strict=True)]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def random_model(preset: str, dtype: torch.dtype) -> LGM:
    """Random weights on the device; norms and biases away from 1 and 0, which hide mistakes."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LGM(PRESETS[preset])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype, memory_format=torch.channels_last).requires_grad_(False).eval()


def random_inputs(model: LGM, batch: int, size: int | None = None) -> Tensor:
    size = size or model.preset.input_size
    return torch.randn(
        batch, 4, model.preset.in_channels, size, size, device=model.conv.weight.device
    )


class PlainNorm(nn.Module):
    """GroupNorm and SiLU as two of torch's own layers, on our parameters."""

    def __init__(self, norm: GroupNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        # Autocast normalizes in fp32; without it the dtypes are equal.
        y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return F.silu(y) if norm.silu else y


def plain(model: LGM) -> nn.Module:
    """The network from torch's own layers, sharing the model's parameters."""

    def convert(module: nn.Module) -> nn.Module:
        if isinstance(module, GroupNorm):
            return PlainNorm(module)
        if isinstance(module, Conv2d | Linear):
            twin = copy.copy(module)
            twin.__class__ = nn.Conv2d if isinstance(module, Conv2d) else nn.Linear
            return twin
        twin = copy.copy(module)
        twin._modules = {name: child and convert(child) for name, child in module._modules.items()}
        return twin

    return nn.Sequential(convert(model.unet), convert(model.conv))


def plain_nchw(model: LGM, dtype: torch.dtype | None = None) -> nn.Module:
    """The same on a copy: convolutions are NCHW only if their weights are, too."""
    return plain(copy.deepcopy(model).to(dtype=dtype, memory_format=torch.contiguous_format))


def autocast(function: Callable, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cuda", dtype, cache_enabled=False):
            return function(x).float()

    return call


def without_tf32(function: Callable, grad: bool = False) -> Tensor:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # matrix products are exact by default
    try:
        with contextlib.nullcontext() if grad else torch.no_grad():
            return function()
    finally:
        torch.backends.cudnn.allow_tf32 = before


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def error(out: Tensor, reference: Tensor) -> float:
    """|out - reference| / |reference|; NaN stays NaN."""
    return ((out.double() - reference.double()).norm() / reference.double().norm()).item()


def milliseconds(function: Callable, runs: int = 60) -> float:
    """Median by CUDA events, each run by itself, after warming up."""
    for _ in range(3):
        function()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for start, stop in pairs:
        start.record()
        function()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in pairs)


@contextlib.contextmanager
def time_limit(limit: int):
    def stop(*_):
        raise TimeoutError(f"took more than {limit} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
