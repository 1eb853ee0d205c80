"""The nodes under ComfyUI's memory modes: where the weights are, what it takes, the same result.

    python benchmarks/comfyui_modes.py --comfyui DIR [--preset big]

Each mode is a fresh process with ComfyUI's own memory management, random weights in fp16, and
three runs of Load LGM Model and Reconstruct Gaussians; then all models are unloaded.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
MODES = {"default": [], "--lowvram": ["--lowvram"], "--novram": ["--novram"], "--cpu": ["--cpu"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", required=True, help="a checkout of ComfyUI")
    parser.add_argument("--preset", default="big")
    parser.add_argument("--mode", choices=MODES, help="one mode, in this process")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.mode:
        run(args.comfyui, args.mode, args.folder)
        return
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        write_weights(args.preset, Path(folder))
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        print(f"{args.preset}, fp16 weights, one object; {name}, torch {torch.__version__}")
        print(
            f"{'mode':12s}{'first s':>9s}{'next s':>9s}{'on GPU':>10s}{'peak':>10s}{'after':>9s}"
            f"{'difference':>12s}"
        )
        for mode in MODES:
            if mode == "default" and not torch.cuda.is_available():
                continue
            command = [sys.executable, __file__, "--comfyui", args.comfyui, f"--mode={mode}"]
            done = subprocess.run([*command, "--folder", folder], capture_output=True, text=True)
            if done.returncode:
                print(f"{mode:12s}failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{mode:12s}{row['first']:9.2f}{row['next']:9.3f}{row['weights']:7.0f} MB"
                f"{row['peak']:7.0f} MB{row['after']:6.0f} MB{row['difference']:12.1e}"
            )


def write_weights(preset: str, folder: Path) -> None:
    from lgm import LGM, PRESETS
    from lgm.network.weights import save_model

    torch.manual_seed(0)
    save_model(LGM(PRESETS[preset]), folder / "random.safetensors", torch.float16, {})


def run(comfyui: str, mode: str, folder: Path) -> None:
    """One mode: prints a JSON row."""
    use_comfyui(comfyui, mode)
    import comfy.model_management as management

    nodes = load_nodes()
    import folder_paths

    folder_paths.add_model_folder_path("lgm", str(folder))
    torch.manual_seed(1)
    views = torch.rand(4, 256, 256, 3)
    cuda = torch.cuda.is_available() and mode != "--cpu"
    seconds = []
    with torch.inference_mode():
        model = nodes["LoadModel"].execute("random.safetensors", "auto").args[0]
        for _ in range(3):
            start = time.perf_counter()
            splat = nodes["Reconstruct"].execute(model, views, 0.0, 0.0).args[0]
            seconds.append(time.perf_counter() - start)
    result = torch.cat([splat.positions, splat.scales, splat.opacities], dim=-1)
    stored = folder / "expected.pt"
    if stored.exists():
        difference = float((result - torch.load(stored)).abs().max())
    else:
        torch.save(result, stored)
        difference = 0.0
    weights = sum(p.nbytes for p in model.model.parameters() if p.is_cuda)
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    management.unload_all_models()
    after = torch.cuda.memory_allocated() if cuda else 0
    print(
        json.dumps(
            {
                "first": seconds[0],
                "next": min(seconds[1:]),
                "weights": weights / 2**20,
                "peak": peak / 2**20,
                "after": after / 2**20,
                "difference": difference,
            }
        )
    )


def use_comfyui(comfyui: str, mode: str) -> None:
    """Have this process take its `comfy` from there, started as this mode says."""
    sys.argv = [sys.argv[0], *MODES[mode]]
    # The stand-in serves what these scripts need of ComfyUI but its package `comfy`.
    sys.path[:] = [str(ROOT / "tests" / "nodes" / "standin"), comfyui, *sys.path]
    sys.modules["comfy"] = types.ModuleType("comfy")  # ComfyUI's has no __init__.py, and would lose
    sys.modules["comfy"].__path__ = [str(Path(comfyui) / "comfy")]
    import comfy.options

    comfy.options.enable_args_parsing()


def load_nodes() -> dict[str, type]:
    """The node classes by class name, loaded as ComfyUI loads the pack."""
    spec = importlib.util.spec_from_file_location(
        "lgm_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["lgm_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["lgm_pack"])
    nodes = importlib.import_module("lgm_pack.nodes")
    nodes.host.register_model_folder()
    return {node.__name__: node for node in nodes.NODES}


if __name__ == "__main__":
    main()
