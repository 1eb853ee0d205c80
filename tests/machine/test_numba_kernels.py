"""Laws of every numba kernel, wherever it is: a folder used under two names, or moved, still works.

ComfyUI imports this folder under a name of its own, Python as `lgm`, and numba keeps what it
compiled beside the files: neither may trip over what the other left there.
"""

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import lgm

FOLDER = Path(lgm.__file__).parent

# Runs every kernel of the folder argv[1], imported under the name argv[2].
EVERY_KERNEL = """
import importlib.util, sys
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
spec = importlib.util.spec_from_file_location(
    name, folder / "__init__.py", submodule_search_locations=[str(folder)]
)
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import torch
part = lambda path: importlib.import_module(f"{name}.{path}")

splat = part("gaussians").Gaussians(
    torch.zeros(1, 1, 3, requires_grad=True), torch.full((1, 1, 1), 0.5),
    torch.full((1, 1, 3), 0.1), torch.tensor([[[1.0, 0, 0, 0]]]), torch.ones(1, 1, 3),
)
poses = part("cameras").orbit_poses([0.0])
part("render").render(splat, poses, 16, backend="numba").alphas.sum().backward()
part("mesh.zbuffer_numba").visibility(
    torch.eye(3)[None], torch.zeros(1, dtype=torch.int64), torch.eye(4)[None, None, :3], 16.0, 16
)
views = part("cameras").orbit_poses([0.0, 90.0])[None]
part("network.hull").visual_hull(
    torch.ones(1, 2, 3, 4, 4), torch.ones(1, 2, 1, 4, 4), views, torch.full((1, 2), 0.5)
)
part("layers.norm_numba").group_norm_silu(
    torch.rand(1, 8, 4, 4).to(memory_format=torch.channels_last),
    torch.ones(8), torch.zeros(8), 2, 1e-5, silu=True,
)
"""


def kernels() -> set[str]:
    """`file.function` of all that numba keeps; what is inlined is kept in its callers only."""
    found = set()
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in map(ast.unparse, getattr(node, "decorator_list", ())):
                if mark.split("(")[0] == "jit" and "inline" not in mark:
                    found.add(f"{path.stem}.{node.name}")
    return found


def test_numba_compiles_in_one_place_only():
    """What is compiled in another way than by `numba_jit.jit` breaks under a second name."""
    naming = [
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and not node.level and node.module == "numba")
        or (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "numba")
    ]
    assert naming == ["machine/numba_jit.py"]


@pytest.mark.slow
def test_kernels_kept_under_another_name_or_at_another_place_do_no_harm(tmp_path):
    """Under both names in turn, there, and again where the folder was moved with all it kept."""
    pytest.importorskip("numba")
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(FOLDER, first, ignore=_no_sources)
    environment = os.environ.copy()
    environment.pop("NUMBA_CACHE_DIR", None)  # beside the files, so that it moves along
    environment.pop("TRITON_INTERPRET", None)  # which would take the hull's other kernel
    environment.pop("NUMBA_OPT", None)  # unoptimized, most kernels can't be kept at all

    def run(folder: Path) -> None:
        for name in ("custom_nodes_lgm", "lgm"):
            command = [sys.executable, "-c", EVERY_KERNEL, str(folder), name]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr

    run(first)
    # Files are named kernel_name-line.python.nbi, with a number in place of the folder's name.
    kept = Counter(path.name.partition("-")[0].rpartition("_")[0] for path in first.rglob("*.nbi"))
    assert kept == dict.fromkeys(kernels(), 2), "EVERY_KERNEL has to call all, under both names"
    first.rename(second)
    run(second)


def _no_sources(folder: str, names: list[str]) -> list[str]:
    """What of a folder holds no Python: caches, weights, pictures."""
    return [
        name
        for name in names
        if name == "__pycache__" or not (Path(folder, name).is_dir() or name.endswith(".py"))
    ]
