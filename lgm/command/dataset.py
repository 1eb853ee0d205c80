"""`lgm dataset`: makes training data from meshes, rendered datasets, furniture or random seeds.

It writes shards of rendered objects (`renders/`), or mesh packs (`packs/`), or from furniture a
pack and the evaluation set (`furniture.py`).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from ..io.outputs import check_writable, staged_folder
from ..training.furniture import build_furniture, furniture_objects
from ..training.packs.packing import folder_objects, summary, write_pack
from ..training.packs.read import find_meshes
from ..training.renders.rendering import (
    Rendered,
    Settings,
    in_order,
    made_from,
    mesh_renderer,
    procedural_renderer,
)
from ..training.renders.shard_writer import ShardWriter
from ..training.renders.shards import INDEX, Shards
from ..training.renders.sources import LAYOUTS, check_renders, find_renders, render_reader
from .options import Parser, pick_device, whole_number

FAILURES = "failures.txt"
PACK = "meshes.safetensors"
CHECK_PICTURE = "cameras_check.png"
# Options of single sources, and their defaults.
DEFAULTS = {
    "meshes": {"views": 100, "size": 512, "up": "y", "device": "cpu", "workers": None},
    "sample": {"views": 16, "size": 128, "device": "cpu", "workers": None},
    "renders": {"layout": "auto", "up": "z", "workers": None},
    "pack": {"up": "y", "skip": ""},
    "deb": {"eval_objects": None, "eval_size": 256, "eval_count": 24, "keep_pack": False},
}


def parser() -> argparse.ArgumentParser:
    p = Parser("lgm dataset", description="Make the data that training reads.")
    p.add_argument("--out", type=Path, required=True, help="folder for the dataset")
    source = p.add_argument_group("one source").add_mutually_exclusive_group()
    source.add_argument(
        "--meshes", type=Path, metavar="FOLDER", help="render its GLB, glTF, OBJ, PLY and STL files"
    )
    source.add_argument(
        "--renders", type=Path, metavar="FOLDER", help="convert pictures with cameras"
    )
    source.add_argument(
        "--sample", type=whole_number(1, 10**9), metavar="N", help="render N procedural objects"
    )
    source.add_argument(
        "--pack",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="pack models of folders: they are drawn while training, anew in every step; also the "
        "furniture's .deb",
    )
    source.add_argument(
        "--deb",
        type=Path,
        metavar="FILE",
        help="pack the Debian package sweethome3d-furniture 1.8-1, or a folder with its .sh3f "
        "files, for training and evaluation; default: as installed",
    )
    views = p.add_argument_group("rendering and converting")
    views.add_argument(
        "--views", type=whole_number(4, 1000), help="per object; 100, of a sample 16"
    )
    views.add_argument(
        "--size", type=whole_number(16, 2048), help="pixels a side; 512, of a sample 128"
    )
    views.add_argument(
        "--workers", type=whole_number(1, 256), help="processes; default: one per core"
    )
    views.add_argument("--device", help="that draws: cpu, cuda or auto; default: cpu")
    views.add_argument(
        "--up", choices=("y", "z"), help="axis that points up; meshes: y, Blender cameras: z"
    )
    views.add_argument(
        "--skip", metavar="PATTERN", help="leave out models in whose path this expression is found"
    )
    views.add_argument("--layout", choices=("auto", *LAYOUTS), help="of the folder of renders")
    furniture = p.add_argument_group("furniture")
    furniture.add_argument(
        "--eval-objects",
        type=Path,
        metavar="FOLDER",
        help="glTF or OBJ models for the evaluation's tier t3",
    )
    furniture.add_argument(
        "--eval-size", type=whole_number(8, 2048), help="pixels a side of evaluation pictures; 256"
    )
    furniture.add_argument(
        "--eval-count", type=whole_number(0, 10**6), help="evaluation objects per tier, at most; 24"
    )
    furniture.add_argument(
        "--keep-pack", action="store_true", default=None, help="use --out's meshes.safetensors"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    p = parser()
    arguments = p.parse_args(argv)
    given = vars(arguments)
    source = next(
        (s for s in ("meshes", "renders", "sample", "pack") if given[s] is not None), "deb"
    )
    defaults = DEFAULTS[source]
    for option in sorted({name for known in DEFAULTS.values() for name in known}):
        if given[option] is None:
            given[option] = defaults.get(option)
        elif option not in defaults:
            p.error(f"--{option.replace('_', '-')} has no meaning with --{source}")
    if source in ("deb", "pack"):
        return {"deb": furniture, "pack": pack}[source](arguments)
    arguments.workers = arguments.workers or os.cpu_count() or 1
    check_writable(arguments.out, folder=True)
    if arguments.device:
        arguments.device = pick_device(arguments.device)
    return {"meshes": meshes, "renders": renders, "sample": sample}[source](arguments)


def furniture(arguments: argparse.Namespace) -> int:
    a = arguments
    _check_folder("--eval-objects", a.eval_objects)
    if a.keep_pack and not (a.out / PACK).is_file():
        raise ValueError(f"--keep-pack needs a meshes.safetensors in {a.out}: leave it out.")
    check_writable(a.out, folder=True)
    print(build_furniture(a.out, a.deb, a.eval_objects, a.eval_size, a.eval_count, a.keep_pack))
    return 0


def pack(arguments: argparse.Namespace) -> int:
    """Write one mesh pack of all sources."""
    for source in arguments.pack:
        if not source.is_file():
            _check_folder("--pack", source)
    try:
        re.compile(arguments.skip)
    except re.error as error:
        raise ValueError(
            f"--skip needs a regular expression, got {arguments.skip!r}: {error}."
        ) from error
    check_writable(arguments.out, folder=True)
    objects = chain.from_iterable(
        furniture_objects(source)
        if source.is_file()
        else folder_objects(source, arguments.up, arguments.skip)
        for source in arguments.pack
    )
    with staged_folder(arguments.out) as staging:
        outcome, left_out = write_pack(staging / PACK, tqdm(objects, unit="object"))
    write_failures(arguments.out / FAILURES, left_out)
    print(f"{arguments.out / PACK}: {summary(outcome)}")
    return 0


def meshes(arguments: argparse.Namespace) -> int:
    _check_folder("--meshes", arguments.meshes)
    names = find_meshes(arguments.meshes)
    if not names:
        raise ValueError(
            f"{arguments.meshes} has no .glb, .gltf, .obj, .ply or .stl files, in folders neither."
        )
    settings = Settings(arguments.views, arguments.size, arguments.up, arguments.device)
    render = mesh_renderer(arguments.meshes, settings)
    return build(arguments, names, render, made_from("meshes", settings))


def sample(arguments: argparse.Namespace) -> int:
    names = [f"procedural/{seed}" for seed in range(arguments.sample)]
    settings = Settings(arguments.views, arguments.size, device=arguments.device)
    return build(arguments, names, procedural_renderer(settings), made_from("sample", settings))


def renders(arguments: argparse.Namespace) -> int:
    _check_folder("--renders", arguments.renders)
    layout, names = find_renders(arguments.renders, arguments.layout)
    if arguments.up == "y" and layout != "blender":
        raise ValueError(f"The layout {layout!r} has z up always: leave --up out.")
    read = render_reader(arguments.renders, layout, arguments.up)
    arguments.out.mkdir(parents=True, exist_ok=True)
    check_renders(read, names, arguments.out / CHECK_PICTURE)
    settings = {"source": "renders", "layout": layout, "up": arguments.up}
    return build(arguments, names, read, settings)


def build(
    arguments: argparse.Namespace,
    names: list[str],
    make: Callable[[str], Rendered],
    settings: dict,
) -> int:
    """Make the objects that are still missing; failures are listed in a file."""
    out, failures = arguments.out, []
    with ShardWriter(out, settings) as writer:
        wanted = [name for name in names if name not in writer.names]
        results = in_order(make, wanted, min(arguments.workers, len(wanted)))
        bar = tqdm(results, total=len(names), initial=len(names) - len(wanted), unit="object")
        try:
            for made in bar:
                reason = made.failure or add(writer, made)
                if reason:
                    failures.append(f"{made.name}: {reason}")
                    bar.write(f"left out {failures[-1]}")
        finally:
            results.close()
            bar.close()
            write_failures(out / FAILURES, failures)
    if not (out / INDEX).exists():
        raise ValueError(f"None of the {len(names)} objects can be used: {failures[0]}.")
    text = f"{out}: {len(Shards(out))} objects"
    print(f"{text}, {len(failures)} left out, see {out / FAILURES}" if failures else text)
    return 0


def add(writer: ShardWriter, made: Rendered) -> str:
    """Store an object; returns the reason if it can't be used, else an empty text."""
    if made.name in writer.names:
        return ""
    try:
        assert made.c2w is not None  # it did not fail
        writer.add(made.name, made.pictures, made.c2w, made.fovy, made.ring)
    except ValueError as error:
        return str(error)
    return ""


def write_failures(path: Path, failures: list[str]) -> None:
    """Write this run's failures in place of an older list, whose objects were all tried again."""
    path.unlink(missing_ok=True)
    if failures:
        path.write_text("\n".join(failures) + "\n", encoding="utf-8")


def _check_folder(option: str, folder: Path | None) -> None:
    if folder and not folder.is_dir():
        raise ValueError(f"{option} needs a folder, and {folder} is none.")
