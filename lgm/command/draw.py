"""`lgm render` and `lgm mesh`: what a splat looks like, and its surface."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import SPLAT_SUFFIXES, VIDEO_SUFFIXES, pick_device, progress, report, require_suffix


def run_render(options: argparse.Namespace) -> None:
    if options.out.suffix:
        require_suffix(options, VIDEO_SUFFIXES)
    from .. import io
    from ..io.files import write_atomically
    from ..pictures import encode
    from ..render.turntable import turntable
    from .outputs import check_writable, staged_folder

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


def run_mesh(options: argparse.Namespace) -> int:
    if (options.folder is None) == (options.splat is None):
        options.parser.error("give one splat file, or --folder")
    from .outputs import check_writable

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
    from .outputs import check_writable

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


def mesh_file(path: Path, options: argparse.Namespace):
    from .. import io
    from ..mesh import extract

    gaussians = io.read_splat_file(path, frame=options.frame).to(pick_device(options.device))
    return extract(
        gaussians,
        faces=options.faces,
        texture_size=options.texture_size,
        resolution=options.resolution,
        views=options.views,
        method=options.method,
    )
