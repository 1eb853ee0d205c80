"""How fast training is: `python benchmarks/training.py [--original DIR] [--profile]`, or with its
data, on one GPU or several: `torchrun --nproc_per_node N benchmarks/training.py --demo`.

One NVIDIA GPU with gsplat. The same step as the original's, big network, bf16: U-Net forward and
backward, every target view drawn at 512 px, MSE on color and alpha, LPIPS at 256 px (random VGG-16
weights: the time does not depend on them), gradient clipping, AdamW. With `--original DIR`, a
folder that holds the original repository's `core`, the package `kiui` and a built
`diff_gaussian_rasterization`, the original's code is timed in the same run; its attention is given
PyTorch's fused one in the place of xformers'.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
import torch.nn.functional as F

from lgm.cameras import orbit_poses, world_to_camera
from lgm.network.inputs import network_inputs
from lgm.network.model import LGM
from lgm.network.presets import PRESETS
from lgm.training.batches.batch import Batch
from lgm.training.batches.drawn import BatchMaker
from lgm.training.learning.graphs import graph_networks
from lgm.training.learning.lpips import LPIPS, VGG_SLICES
from lgm.training.learning.network import for_training
from lgm.training.learning.processes import rank, world
from lgm.training.learning.run import Run
from lgm.training.learning.step import train_step
from lgm.training.recipe import RECIPES, Recipe, changed

DEVICE = torch.device("cuda", 0)
VIEWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, help="folder with core, kiui and the rasterizer")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--profile", action="store_true", help="kernels by time")
    parser.add_argument("--demo", action="store_true", help="the demo recipe instead, with data")
    parser.add_argument("--paper", action="store_true", help="the paper's recipe, with data")
    parser.add_argument("--graph", action="store_true", help="record their networks as CUDA graphs")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="mesh packs for these two")
    parser.add_argument("--set", default="{}", metavar="JSON", help="changes of their recipe")
    parser.add_argument("--seconds", type=float, default=20, help="that they are watched for")
    args = parser.parse_args()
    torch.manual_seed(0)
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {platform.machine()}")
    if args.demo or args.paper:
        data_table(args)
        return
    state = trained_like()
    rows = []
    if args.original:
        rows.append(measure("original", original_step(args, state), args))
    rows.append(measure("ours", our_step(args, state), args))
    frugal = our_step(args, state, checkpointing=True)
    rows.append(measure("ours, layers calculated again", frugal, args))
    print(f"big, bf16, batch {args.batch}, {VIEWS} views at 512 px")
    print("| | ms a step | objects a second | peak GB |\n|---|---|---|---|")
    for name, seconds, peak in rows:
        print(f"| {name} | {1e3 * seconds:.0f} | {args.batch / seconds:.1f} | {peak:.1f} |")


def measure(name: str, step, args) -> tuple[str, float, float]:
    """Median seconds of a step, and the peak of GPU memory."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(args.steps):
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(f"{name}: {1e3 * statistics.median(seconds):.0f} ms, {peak:.1f} GB", flush=True)
    if args.profile:
        profile(step)
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return name, statistics.median(seconds), peak


def profile(step, rows: int = 40) -> None:
    with torch.profiler.profile() as record:
        for _ in range(2):
            step()
        torch.cuda.synchronize()
    print(record.key_averages().table(sort_by="self_cuda_time_total", row_limit=rows,
                                      max_name_column_width=70))  # fmt: skip


def trained_like(preset: str = "big") -> dict[str, torch.Tensor]:
    """Random weights whose Gaussians are spread and small as trained ones are: random ones would be
    a heap in the middle, which no rasterizer draws at its usual speed.
    """
    model = LGM(PRESETS[preset])
    with torch.no_grad():
        model.conv.weight.zero_()
        model.conv.weight.copy_(torch.randn_like(model.conv.weight) * 0.8)
        model.conv.bias.zero_()
        model.conv.bias[4:7] = -3.0
    return model.state_dict()


def random_batch(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    azimuths = torch.rand(VIEWS, generator=generator) * 360
    poses = orbit_poses(azimuths.tolist()).expand(batch, -1, -1, -1)
    images = torch.rand(batch, VIEWS, 3, 64, 64, generator=generator)
    images = F.interpolate(images.flatten(0, 1), 512, mode="bilinear").unflatten(0, (batch, VIEWS))
    masks = (images.mean(2, keepdim=True) > 0.5).float()
    views = F.interpolate(images[:, :4].flatten(0, 1), 256, mode="bilinear")
    views = views.unflatten(0, (batch, 4))
    inputs = network_inputs(views, poses[:, :4])
    data = {"inputs": inputs, "images": images, "masks": masks, "c2w": poses.float()}
    return {name: value.to(DEVICE) for name, value in data.items()}


def our_step(args, state, checkpointing: bool = False):
    model = for_training(LGM(PRESETS["big"]), DEVICE)
    model.load_state_dict(state)
    recipe = replace(RECIPES["paper"], batch_sizes=(args.batch,), checkpointing=checkpointing)
    run, lpips, data = Run(model, recipe), random_lpips(), random_batch(args.batch)
    empty = torch.zeros(args.batch, 4, device=DEVICE)
    batch = Batch(
        data["inputs"], data["masks"][:, :4], data["c2w"], data["images"], data["masks"], None,
        empty, ["random"] * args.batch,
    )  # fmt: skip
    return lambda: train_step(run, [batch], 0.5, lpips)


def random_lpips() -> LPIPS:
    """LPIPS with torchvision's layout and random weights."""
    import tempfile

    generator = torch.Generator().manual_seed(2)
    widths = (64, 128, 256, 512, 512)
    features, heads, last = {}, {}, 3
    for level, (group, width) in enumerate(zip(VGG_SLICES, widths, strict=True)):
        for index in group:
            shape = (width, last, 3, 3)
            std = (2 / (9 * last)) ** 0.5
            features[f"features.{index}.weight"] = torch.randn(shape, generator=generator) * std
            features[f"features.{index}.bias"] = torch.zeros(width)
            last = width
        heads[f"lin{level}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(features, Path(folder) / "vgg.pth")
        torch.save(heads, Path(folder) / "heads.pth")
        return LPIPS(Path(folder) / "vgg.pth", Path(folder) / "heads.pth").to(DEVICE)


def original_step(args, state):
    """One iteration of the original's loop, under Accelerate's bf16 autocast."""
    sys.path[:0] = [str(args.original), str(args.original / "dgr")]
    offer_substitutes()
    from core.models import LGM as Original
    from core.options import Options

    options = Options(
        down_channels=PRESETS["big"].down_channels,
        down_attention=PRESETS["big"].down_attention,
        up_channels=PRESETS["big"].up_channels,
        up_attention=PRESETS["big"].up_attention,
        splat_size=128, output_size=512, num_views=VIEWS, batch_size=args.batch,
    )  # fmt: skip
    model = Original(options)
    model.load_state_dict(state, strict=False)
    model.to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.05, betas=(0.9, 0.95))
    data = random_batch(args.batch)
    w2c = world_to_camera(data["c2w"]).transpose(-1, -2).contiguous()
    batch = {
        "input": data["inputs"],
        "images_output": data["images"],
        "masks_output": data["masks"],
        "cam_view": w2c,
        "cam_view_proj": w2c @ model.gs.proj_matrix.to(DEVICE),
        "cam_pos": data["c2w"][:, :, :3, 3],
    }

    def step():
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(batch, 0.5)["loss"]
        loss.float().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def offer_substitutes() -> None:
    """What the original imports and a measurement does not need: command line options, and
    xformers, whose attention PyTorch has by itself.
    """
    import kiui.lpips

    tyro = types.ModuleType("tyro")
    tyro.extras = types.SimpleNamespace(subcommand_type_from_defaults=lambda *_: None)
    xformers, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")

    def attention(q, k, v, attn_bias=None):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    ops.memory_efficient_attention = attention
    ops.unbind = torch.unbind
    xformers.ops = ops
    sys.modules |= {"tyro": tyro, "xformers": xformers, "xformers.ops": ops}
    plain = kiui.lpips.LPIPS.__init__
    kiui.lpips.LPIPS.__init__ = lambda self, net="vgg": plain(self, net=net, pretrained=False)


def data_table(args) -> None:
    """A recipe's step alone, with its data, and how busy that keeps each GPU."""
    from accelerate import PartialState

    PartialState()  # one GPU for each process
    device = torch.device("cuda", torch.cuda.current_device())
    recipe = changed(RECIPES["paper" if args.paper else "demo"], args.set)
    lpips = random_lpips().to(device) if recipe.lpips_weight else None
    say = print if rank() == 0 else lambda *_, **__: None
    say(f"{'paper' if args.paper else 'demo'}, bf16, {world()} GPUs{', CUDA graphs' * args.graph}")
    say("| | step ms | with data ms | objects a second | GPU busy |")
    say("|---|---|---|---|---|")
    run = Run(start(recipe, device), recipe, "" if args.graph or world() == 1 else "ddp")
    maker = BatchMaker(args.data, recipe, device, 0, 8, rank(), world())
    if args.graph:
        graph_networks(run, maker.rest)
    for stage, size in enumerate(recipe.sizes):
        batches = maker.batches(run.samples, stage, 0.5)
        alone = milliseconds(lambda b=batches: train_step(run, b, 0.5, lpips))

        def step(stage=stage):
            train_step(run, maker.batches(run.samples, stage, 0.5), 0.5, lpips)

        count = round(agreed(1e3 * args.seconds / alone, device)) + 1
        milliseconds(step, count // 3, warmup=8)  # the processes that draw have started
        with utilization(device) as busy:
            both = milliseconds(step, count, warmup=0)
        busy = agreed(statistics.mean(busy), device)
        objects = recipe.batch_sizes[stage] * recipe.accumulation
        say(
            f"| {size} px, {objects} objects a step and GPU | {alone:.0f} | {both:.0f} | "
            f"{objects * world() / both * 1e3:.0f} | {busy:.0f} % |",
            flush=True,
        )
        if args.profile and world() == 1:
            profile(step)


def start(recipe: Recipe, device: torch.device) -> LGM:
    """A network whose Gaussians are where an object could be."""
    model = LGM(PRESETS[recipe.preset])
    if PRESETS[recipe.preset].decoding == "hull":
        torch.nn.init.normal_(model.conv.weight, std=0.02)
        torch.nn.init.zeros_(model.conv.bias)
    else:
        model.load_state_dict(trained_like(recipe.preset))
    return for_training(model, device)


@contextmanager
def utilization(device: torch.device) -> Iterator[list[int]]:
    """A list that afterwards holds the share of time, in percent, in which the GPU did anything,
    twice a second.
    """
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--id={name}", *query]
    values: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield values
        finally:
            process.terminate()
            told = map(int, process.stdout.read().split()[2:])  # the first are of before
            values += [value for value in told if 0 <= value <= 100]  # nonsense was seen once


def agreed(value: float, device: torch.device) -> float:
    """The mean over processes."""
    if world() == 1:
        return value
    shared = torch.tensor(value, device=device)
    dist.all_reduce(shared)
    return float(shared) / world()


def milliseconds(work, count: int = 10, warmup: int = 3) -> float:
    """Mean over a run in a row: queues may overlap."""
    for _ in range(warmup):
        work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / count * 1e3


if __name__ == "__main__":
    main()
