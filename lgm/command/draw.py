"""`lgm render` and `lgm mesh`: what a splat looks like, and its surface."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import io
from ..io.files import write_atomically
from ..io.outputs import check_writable, staged_folder
from ..mesh import METHODS, Mesh, extract
from ..pictures import encode
from ..render.turntable import turntable
from .options import (
    SPLAT_SUFFIXES,
    VIDEO_SUFFIXES,
    add_device_options,
    number,
    pick_device,
    progress,
    report,
    require_suffix,
    whole_number,
)


def add_render(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("render", help="a splat to a turntable or to frames")
    command.add_argument("splat", type=Path, metavar="SPLAT")
    command.add_argument(
        "--out", type=Path, required=True, help="a file .mp4 or .gif, or a folder for PNG frames"
    )
    command.add_argument("--size", type=whole_number(8, 4096), default=512, metavar="PX")
    command.add_argument("--frames", type=whole_number(1, 3600), default=90, metavar="N")
    command.add_argument(
        "--elevation", type=number(-90, 90), default=0.0, metavar="DEG", help="above the horizon"
    )
    command.add_argument("--mode", choices=("color", "depth", "normal", "alpha"), default="color")
    command.add_argument(
        "--frame",
        choices=("y-down", "y-up"),
        default="y-down",
        help="axes of the file; the original LGM wrote y-up",
    )
    add_device_options(command)
    command.set_defaults(run=run_render, parser=command)


def run_render(options: argparse.Namespace) -> None:
    if options.out.suffix:
        require_suffix(options, VIDEO_SUFFIXES)
    check_writable(options.out, folder=not options.out.suffix)
    gaussians = io.read_splat_file(options.splat, frame=options.frame).to(
        pick_device(options.device)
    )
    frames = turntable(gaussians, options.frames, options.size, options.elevation, options.mode)
    frames = progress(frames, options, "frames", options.frames)
    if options.out.suffix:
        writer = {".mp4": encode.mp4, ".gif": encode.gif}[options.out.suffix.lower()]
        data = writer(frames)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, data)
        return
    with staged_folder(options.out) as folder:
        for index, frame in enumerate(frames):
            (folder / f"{index:04d}.png").write_bytes(encode.png(frame))


def add_mesh(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("mesh", help="a splat to a textured mesh")
    command.add_argument("splat", nargs="?", type=Path, metavar="SPLAT")
    command.add_argument(
        "--folder", type=Path, metavar="DIR", help="do every splat file in it, into a folder --out"
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a file .glb, or a folder"
    )
    command.add_argument("--faces", type=whole_number(4, 10_000_000), default=30_000, metavar="N")
    command.add_argument("--texture-size", type=whole_number(128, 8192), default=1024, metavar="PX")
    command.add_argument(
        "--views",
        type=whole_number(6, 480),
        default=36,
        metavar="N",
        help="the colors are taken from",
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="how the surface is found: by what is seen from outside, or by density",
    )
    command.add_argument(
        "--resolution",
        type=whole_number(32, 768),
        default=192,
        metavar="N",
        help="of the surface's grid",
    )
    command.add_argument("--frame", choices=("y-down", "y-up"), default="y-down")
    add_device_options(command)
    command.set_defaults(run=run_mesh, parser=command)


def run_mesh(options: argparse.Namespace) -> int:
    if (options.folder is None) == (options.splat is None):
        options.parser.error("give one splat file, or --folder")
    if options.folder is not None:
        return mesh_folder(options)
    require_suffix(options, (".glb",))
    check_writable(options.out)
    mesh = mesh_file(options.splat, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(options.out)
    if not options.quiet:
        print(f"{options.out}: {mesh.face_count:,} faces")
    return 0


def mesh_folder(options: argparse.Namespace) -> int:
    """One .glb per splat file; a bad one is reported and the others are done all the same."""
    if not options.folder.is_dir():
        raise ValueError(f"--folder needs a folder of splat files, and {options.folder} is none.")
    paths = sorted(p for p in options.folder.iterdir() if p.suffix.lower() in SPLAT_SUFFIXES)
    if not paths:
        raise ValueError(f"{options.folder} needs files {' '.join(SPLAT_SUFFIXES)}, and has none.")
    check_writable(options.out, folder=True)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in progress(paths, options, "splats"):
        try:
            mesh_file(path, options).export(options.out / f"{path.stem}.glb")
        except (ValueError, RuntimeError, OSError) as error:
            report(error)
            failed += 1
    if not options.quiet:
        print(f"{options.out}: {len(paths) - failed} of {len(paths)} meshes")
    return 1 if failed else 0


def mesh_file(path: Path, options: argparse.Namespace) -> Mesh:
    gaussians = io.read_splat_file(path, frame=options.frame).to(pick_device(options.device))
    return extract(
        gaussians,
        faces=options.faces,
        texture_size=options.texture_size,
        resolution=options.resolution,
        views=options.views,
        method=options.method,
    )
