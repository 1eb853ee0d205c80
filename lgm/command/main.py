"""The `lgm` command: parses, checks what it can before any work, calls the library, reports.

Exit status 0 is success, 2 a command that makes no sense, 1 anything that went wrong; then one line
on stderr says what was needed, what was found and what to do. `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..network.presets import ROUNDS
from .draw import run_mesh, run_render
from .generate import DOWNLOADS, run_download, run_generate
from .options import (
    FAILURES,
    METHODS,
    SPLAT_SUFFIXES,
    Parser,
    add_device_options,
    add_model_options,
    number,
    report,
    whole_number,
)
from .reconstruct import run_demo, run_reconstruct

DELEGATED = {  # commands with an argument parser of their own
    "train": "train a model, on one device or many",
    "evaluate": "measure a model on held-out objects",
    "dataset": "make training data",
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="lgm: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidies up, as Ctrl-C does
    try:
        if arguments and arguments[0] in DELEGATED:
            status = delegated(arguments[0])(arguments[1:])
        else:
            options = build_parser().parse_args(arguments)
            status = options.run(options)
        if sys.stdout:  # None where it was closed
            sys.stdout.flush()
        return status or 0
    except (KeyboardInterrupt, SystemError) as error:
        # A compiled function passes the Ctrl-C that reached it on as the cause of a SystemError.
        if KeyboardInterrupt not in (type(error), type(error.__cause__)):
            raise
        print("lgm: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, as `head` does, has seen enough
        _drop_unwritten()
        return 1
    except FAILURES as error:
        if debug:
            raise
        report(error)
        _drop_unwritten()
        return 1


def delegated(command: str) -> Callable[[list[str]], int | None]:
    """The command's own `main`, imported late: training needs more packages than other commands."""
    if command == "train":
        from ..training.train import main as run
    elif command == "evaluate":
        from ..training.evaluate import main as run
    else:
        from ..training.dataset import main as run
    return run


def _drop_unwritten() -> None:
    """Let Python end in silence where standard output is a closed pipe or a full disk."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="lgm", description="Pictures of an object to 3D Gaussians.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and more messages")
    parser.add_argument("--version", action="version", version=f"lgm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("demo", help="reconstruct a bundled object and show the result")
    command.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    command.add_argument("--object", metavar="NAME", help="which of the bundled objects")
    add_model_options(command)
    command.set_defaults(run=run_demo)

    command = commands.add_parser("generate", help="a picture or a prompt to a splat and a mesh")
    command.add_argument("--image", type=Path, metavar="FILE", help="the object, from its front")
    command.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="a picture that is white where the object is; wins over alpha and --matte",
    )
    command.add_argument("--prompt", metavar="TEXT", help="what to make; or a word on the picture")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--negative", metavar="TEXT", help="what to keep away from; default ugly, blurry, ..."
    )
    command.add_argument("--seed", type=whole_number(0, 2**64 - 1), default=42, metavar="N")
    command.add_argument("--steps", type=whole_number(1, 1000), default=30, metavar="N")
    command.add_argument(
        "--guidance",
        type=number(0, 100),
        metavar="X",
        help="how strongly to follow the prompt or picture; default the model's own, 7.5 or 5",
    )
    command.add_argument(
        "--elevation",
        type=number(-90, 90),
        default=0.0,
        metavar="DEG",
        help="of the views that are made, above the horizon",
    )
    command.add_argument(
        "--matte",
        choices=("auto", "none", "rembg"),
        default="auto",
        help="background removal, of the picture, or of the views that a prompt alone makes: auto "
        "keeps alpha, else removes a flat background, else asks rembg if it is ready",
    )
    command.add_argument(
        "--multiview",
        metavar="NAME_OR_FOLDER",
        help="default imagedream with a picture, else mvdream; see lgm download",
    )
    command.add_argument(
        "--offload", action="store_true", help="needs less GPU memory: one network there at a time"
    )
    command.add_argument(
        "--mesh",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also mesh.glb",
    )
    add_model_options(command)
    command.set_defaults(run=run_generate, parser=command)

    command = commands.add_parser("download", help="fetch a released model from Hugging Face")
    command.add_argument("name", choices=DOWNLOADS, metavar="NAME", help=", ".join(DOWNLOADS))
    places = command.add_mutually_exclusive_group()
    places.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="where to; default LGM_MODELS_DIR, else ComfyUI's models, else ~/.cache/lgm",
    )
    places.add_argument(
        "--comfyui",
        type=Path,
        metavar="DIR",
        help="ComfyUI's folder: fetch what its own loaders need, named as in our workflows",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run_download)

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
        help="background removal: auto keeps alpha, else removes a flat background",
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

    for name, summary in DELEGATED.items():
        commands.add_parser(name, help=summary)

    command = commands.add_parser("doctor", help="what works on this machine, and why not")
    command.add_argument("--models-dir", type=Path, metavar="DIR")
    command.set_defaults(run=run_doctor)
    return parser


def run_doctor(options: argparse.Namespace) -> None:
    from .doctor import report_lines

    print("\n".join(report_lines([options.models_dir] if options.models_dir else [])))
