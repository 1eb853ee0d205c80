"""GPU memory one object takes beside the weights: what the ComfyUI node asks ComfyUI to keep free.

python benchmarks/memory.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lgm import LGM, PRESETS


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("This measures GPU memory, and torch finds no NVIDIA GPU here.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    heads = ("preset", "type", "weights", "peak beside", "bytes / pixel / byte")
    print("{:8s}{:>10s}{:>12s}{:>14s}{:>24s}".format(*heads))
    for name, preset in PRESETS.items():
        for dtype in (torch.float16, torch.float32):
            weights, peak = measure(preset, dtype)
            each = peak / preset.input_size**2 / dtype.itemsize
            print(
                f"{name:8s}{str(dtype)[6:]:>10s}{weights / 2**20:9.0f} MB{peak / 2**20:11.0f} MB"
                f"{each:24.0f}"
            )


def measure(preset, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of the weights, and of all else at the peak of one reconstruction."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model = LGM(preset).to("cuda", dtype).requires_grad_(False).eval()
    model.fast = False  # as the node runs it
    weights = torch.cuda.memory_allocated() - before
    # The first run compiles and lets cuDNN choose; its workspaces would count.
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        model.reconstruct(torch.rand(4, 3, preset.input_size, preset.input_size))
    return weights, torch.cuda.max_memory_allocated() - before - weights


if __name__ == "__main__":
    main()
