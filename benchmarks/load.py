"""Host memory and seconds to load the big weights: `python benchmarks/load.py [--device cuda]`.

Writes random fp16 weights of the big network (830 MB) to a temporary file and loads it with
`lgm.load_model` in a fresh process, which then reads every weight once. Peak is the growth of the
process's resident memory up to then (Linux), pages of the mapped file included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LOAD = """
import re, sys, time
from pathlib import Path
import torch, lgm

def memory(field):
    text = Path("/proc/self/status").read_text()
    return int(re.search(field + r":\\s+(\\d+) kB", text)[1]) * 1024

path, device = sys.argv[1:]
if device != "cpu":
    torch.zeros(1, device=device)  # the driver's own memory is not the loader's
before = memory("VmRSS")
already = memory("VmHWM")
start = time.perf_counter()
model = lgm.load_model(path, device=device)
if device != "cpu":
    torch.cuda.synchronize()
loaded = time.perf_counter() - start
# A mapped file takes memory only once it is read: read all of it.
assert sum(p.max().item() > 0 for p in model.parameters()) == 376
used = time.perf_counter() - start
peak = memory("VmHWM")
print(peak - before if peak > already else 0, loaded, used)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model_fp16_fixrot.safetensors"
        write_random_weights(path)
        size = path.stat().st_size
        print(f"file {size / 1e6:.1f} MB, device {args.device}")
        print(f"{'':8s}{'load s':>9s}{'and read s':>12s}{'peak MB':>9s}{'of file':>9s}")
        for name in ("first", "again"):
            command = [sys.executable, "-c", LOAD, str(path), args.device]
            out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            peak, loaded, used = map(float, out.stdout.split()[-3:])
            print(f"{name:8s}{loaded:9.2f}{used:12.2f}{peak / 1e6:9.0f}{peak / size:9.2f}")


def write_random_weights(path: Path) -> None:
    """A safetensors file of the big preset, written in pieces: it never lies in memory."""
    import torch

    from lgm.network.model import LGM
    from lgm.network.presets import PRESETS

    with torch.device("meta"):
        shapes = {key: list(t.shape) for key, t in LGM(PRESETS["big"]).state_dict().items()}
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = (0.02 * torch.randn(1 << 22)).half().numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for at in range(0, end, len(block)):
            file.write(block[: end - at])


if __name__ == "__main__":
    main()
