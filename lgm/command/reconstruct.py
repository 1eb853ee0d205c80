"""`lgm reconstruct` and `lgm demo`: four views to a splat."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import io
from ..io.outputs import check_writable, staged_folder
from ..network.presets import ROUNDS
from ..pictures.views import VIEW_FILES, example_objects, view_files
from ..pipeline import reconstruct_files
from .options import (
    SPLAT_SUFFIXES,
    add_model_options,
    load,
    number,
    pick_device,
    progress,
    report,
    require_suffix,
    whole_number,
)
from .results import Stages, demo

DEMO_OBJECT = "spot"


def add_demo(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("demo", help="reconstruct a bundled object and show the result")
    command.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    command.add_argument("--object", metavar="NAME", help="which of the bundled objects")
    add_model_options(command)
    command.set_defaults(run=run_demo)


def run_demo(options: argparse.Namespace) -> None:
    objects = example_objects()
    name = options.object or (DEMO_OBJECT if DEMO_OBJECT in objects else next(iter(objects), None))
    if name not in objects:
        raise ValueError(
            f"There is no example object {name!r}: choose among {', '.join(objects) or 'none'}."
        )
    check_writable(options.out, folder=True)
    device = pick_device(options.device)
    stages = Stages()
    with stages.stage("load the model"):
        model = load(options, device)
    with staged_folder(options.out) as folder:
        demo(model, objects[name], folder, stages, lambda it: progress(it, options, "frames"))
    if not options.quiet:
        print(stages.table())
        print(f"Open {options.out / 'index.html'}")


def add_reconstruct(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("reconstruct", help="four views to a splat")
    command.add_argument(
        "views",
        nargs="*",
        type=Path,
        metavar="VIEW",
        help="four pictures, taken at azimuth 0, 90, 180 and 270: front, left, back, right",
    )
    command.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="do every subfolder with 0.png 90.png 180.png 270.png",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"{' '.join(SPLAT_SUFFIXES)}, or a folder",
    )
    command.add_argument(
        "--elevation",
        type=number(-90, 90),
        default=0.0,
        metavar="DEG",
        help="of the pictures' cameras above the horizon",
    )
    command.add_argument(
        "--matte",
        choices=("auto", "none", "rembg"),
        default="auto",
        help="background removal: auto keeps alpha, else removes a flat background, else asks "
        "rembg if it is ready",
    )
    command.add_argument(
        "--fit",
        type=whole_number(0, 10_000),
        default=0,
        metavar="N",
        help="steps that fit the splat to the pictures; 10 are enough, for pictures that show one "
        "object from exactly these sides: renders, not generated views. Default 0: LGM as it is",
    )
    command.add_argument(
        "--rounds",
        type=whole_number(0, 100),
        default=ROUNDS,
        metavar="N",
        help="how often the included model looks at its splat and mends it: 0 is fastest; "
        f"default {ROUNDS}",
    )
    add_model_options(command)
    command.set_defaults(run=run_reconstruct, parser=command)


def run_reconstruct(options: argparse.Namespace) -> int:
    if options.folder is not None:
        if options.views:
            options.parser.error("give four views or --folder, not both")
        return reconstruct_folder(options)
    if len(options.views) != 4:
        options.parser.error(
            f"needs four views, at azimuth 0, 90, 180 and 270, got {len(options.views)}"
        )
    require_suffix(options, SPLAT_SUFFIXES)
    check_writable(options.out)
    model = load(options, pick_device(options.device))
    gaussians = reconstruct_files(
        model, options.views, options.elevation, options.matte, options.fit, options.rounds
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    io.write_splat_file(options.out, gaussians)
    if not options.quiet:
        kept = gaussians.visible().count
        print(f"{options.out}: {kept:,} Gaussians, the visible ones of {gaussians.count:,}")
    return 0


def reconstruct_folder(options: argparse.Namespace) -> int:
    """One .ply per subfolder; a bad one is reported and the others are done all the same."""
    if not options.folder.is_dir():
        raise ValueError(f"--folder needs a folder of folders, and {options.folder} is none.")
    folders = sorted(
        folder
        for folder in options.folder.iterdir()
        if folder.is_dir() and any((folder / name).exists() for name in VIEW_FILES)
    )
    if not folders:
        raise ValueError(
            f"{options.folder} needs subfolders with {', '.join(VIEW_FILES)}, and has none."
        )
    check_writable(options.out, folder=True)
    model = load(options, pick_device(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for folder in progress(folders, options, "objects"):
        try:
            gaussians = reconstruct_files(
                model,
                view_files(folder),
                options.elevation,
                options.matte,
                options.fit,
                options.rounds,
            )
            io.write_splat_file(options.out / f"{folder.name}.ply", gaussians)
        except (ValueError, RuntimeError, OSError) as error:
            report(error)
            failed += 1
    if not options.quiet:
        print(f"{options.out}: {len(folders) - failed} of {len(folders)} objects")
    return 1 if failed else 0
