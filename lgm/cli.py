"""The `lgm` command: parses, checks what it can before any work, calls the library, reports.

Exit status 0 is success, 2 a command that makes no sense, 1 anything that went wrong; then one line
on stderr says what was needed, what was found and what to do. `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from . import __version__
from .presets import ROUNDS

DEMO_OBJECT = "spot"
METHODS = ("outside", "density")  # lgm.mesh.METHODS, which wait for torch
SPLAT_SUFFIXES = (".ply", ".splat", ".spz", ".glb")
VIDEO_SUFFIXES = (".mp4", ".gif")
DOWNLOADS = ("mvdream", "imagedream", "lgm")  # lgm.download.NAMES, which wait for torch
DELEGATED = {  # commands with an argument parser of their own
    "train": "train a model, on one device or many",
    "evaluate": "measure a model on held-out objects",
    "dataset": "make training data",
}
FAILURES = (ValueError, RuntimeError, OSError, ImportError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="lgm: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidies up, as Ctrl-C does
    try:
        if arguments and arguments[0] in DELEGATED:
            module = importlib.import_module(f".training.{arguments[0]}", __package__)
            status = module.main(arguments[1:])
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


def report(error: BaseException) -> None:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        message = f"Not enough memory ({message}): use smaller pictures, files or --size."
    elif isinstance(error, OSError) and error.strerror:
        what = error.filename or "the output"
        message = f"Can't use {what}: {error.strerror}; check the name, its rights and the room."
    print(f"lgm: {message}", file=sys.stderr)


def _drop_unwritten() -> None:
    """Let Python end in silence where standard output is a closed pipe or a full disk."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """Reports bad usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help.\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="lgm", description="Pictures of an object to 3D Gaussians.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and more messages")
    parser.add_argument("--version", action="version", version=f"lgm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("demo", help="reconstruct a bundled object and show the result")
    command.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    command.add_argument("--object", metavar="NAME", help="which of the bundled objects")
    _add_model_options(command)
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
    command.add_argument("--seed", type=whole(0, 2**64 - 1), default=42, metavar="N")
    command.add_argument("--steps", type=whole(1, 1000), default=30, metavar="N")
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
    _add_model_options(command)
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
        type=whole(0, 10_000),
        default=0,
        metavar="N",
        help="steps that fit the splat to the pictures; 10 are enough, for pictures that show one "
        "object from exactly these sides: renders, not generated views. Default 0: LGM as it is",
    )
    command.add_argument(
        "--rounds",
        type=whole(0, 100),
        default=ROUNDS,
        metavar="N",
        help="how often the included model looks at its splat and mends it: 0 is fastest; "
        f"default {ROUNDS}",
    )
    _add_model_options(command)
    command.set_defaults(run=run_reconstruct, parser=command)

    command = commands.add_parser("render", help="a splat to a turntable or to frames")
    command.add_argument("splat", type=Path, metavar="SPLAT")
    command.add_argument(
        "--out", type=Path, required=True, help="a file .mp4 or .gif, or a folder for PNG frames"
    )
    command.add_argument("--size", type=whole(8, 4096), default=512, metavar="PX")
    command.add_argument("--frames", type=whole(1, 3600), default=90, metavar="N")
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
    _add_device_options(command)
    command.set_defaults(run=run_render, parser=command)

    command = commands.add_parser("mesh", help="a splat to a textured mesh")
    command.add_argument("splat", nargs="?", type=Path, metavar="SPLAT")
    command.add_argument(
        "--folder", type=Path, metavar="DIR", help="do every splat file in it, into a folder --out"
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a file .glb, or a folder"
    )
    command.add_argument("--faces", type=whole(4, 10_000_000), default=30_000, metavar="N")
    command.add_argument("--texture-size", type=whole(128, 8192), default=1024, metavar="PX")
    command.add_argument(
        "--views", type=whole(6, 480), default=36, metavar="N", help="the colors are taken from"
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="how the surface is found: by what is seen from outside, or by density",
    )
    command.add_argument(
        "--resolution", type=whole(32, 768), default=192, metavar="N", help="of the surface's grid"
    )
    command.add_argument("--frame", choices=("y-down", "y-up"), default="y-down")
    _add_device_options(command)
    command.set_defaults(run=run_mesh, parser=command)

    for name, summary in DELEGATED.items():
        commands.add_parser(name, help=summary)

    command = commands.add_parser("doctor", help="what works on this machine, and why not")
    command.add_argument("--models-dir", type=Path, metavar="DIR")
    command.set_defaults(run=run_doctor)
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="demo", metavar="NAME_OR_PATH", help="see lgm doctor")
    command.add_argument(
        "--models-dir", type=Path, metavar="DIR", help="another place to look for models"
    )
    _add_device_options(command)


def _add_device_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
    command.add_argument("--quiet", action="store_true", help="no progress bars, no tables")


def whole(low: int, high: int) -> Callable[[str], int]:
    """An option's type: a whole number in a range."""
    return _in_range(int, "whole number", low, high)


def number(low: float, high: float) -> Callable[[str], float]:
    """An option's type: a finite number in a range."""
    return _in_range(float, "number", low, high)


def _in_range(kind: type, name: str, low: float, high: float) -> Callable:
    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # NaN is in no range
            raise argparse.ArgumentTypeError(
                f"needs a {name} from {low:,} to {high:,}, got {text!r}"
            )
        return value

    return convert


# Commands -------------------------------------------------------------------------------------


def run_demo(options: argparse.Namespace) -> None:
    from .outputs import check_writable, staged_folder
    from .pipeline import Stages, demo, example_objects

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


def run_generate(options: argparse.Namespace) -> None:
    if options.image is None and not (options.prompt or "").strip():
        options.parser.error("give --image FILE or --prompt TEXT")
    if options.mask and not options.image:
        options.parser.error("--mask says what is object in --image FILE: give that, too")
    from .outputs import check_writable, staged_folder
    from .pipeline import Stages, check_matte, write_results
    from .weights import find_model

    # What can be known to fail fails before the minutes of work.
    check_writable(options.out, folder=True)
    folder = multiview_folder(options)
    find_model(options.model, _places(options))
    device = pick_device(options.device)
    if options.image is None:
        check_matte(options.matte)
    stages = Stages()
    views = make_views(folder, device, stages, options)
    with stages.stage("load LGM"):
        model = load(options, device)
    with staged_folder(options.out) as staging:
        write_results(
            model,
            views,
            staging,
            stages,
            title=options.prompt or options.image.stem,
            elevation=options.elevation,
            with_mesh=options.mesh,
            progress=lambda it: progress(it, options, "frames"),
        )
    if not options.quiet:
        print(stages.table())
        print(f"Open {options.out / 'index.html'}")


def multiview_folder(options: argparse.Namespace) -> Path:
    """The multi-view model that fits what was given.

    Raises:
        ValueError: it is not here, or is of the other kind.
    """
    from .multiview.folders import IMAGE, TEXT, find_folder, reads_pictures

    default = TEXT if options.image is None else IMAGE
    folder = find_folder(options.multiview or default, _places(options))
    if reads_pictures(folder) and options.image is None:
        raise ValueError(
            f"{folder} is ImageDream, which needs a picture: give --image, or --multiview mvdream."
        )
    if options.image is not None and not reads_pictures(folder):
        raise ValueError(
            f"{folder} is MVDream, which works from a prompt alone: leave out --image, or give "
            "--multiview imagedream."
        )
    return folder


def make_views(folder: Path, device: str, stages, options: argparse.Namespace):
    """Four views [4, 3, 256, 256] by the multi-view model, which is gone afterwards: LGM needs the
    room."""
    from .pipeline import NEGATIVE_PROMPT, kept_backgrounds, views_on_white

    picture = None
    if options.image is not None:
        with stages.stage("cut out the object"):
            picture = read_picture(options)
    with stages.stage("load the multi-view model"):
        multiview = load_multiview(folder, device, options)
    with stages.stage("make four views"), step_bar(options) as on_step:
        views = multiview(
            options.prompt or "",
            picture,
            negative_prompt=NEGATIVE_PROMPT if options.negative is None else options.negative,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            elevation=options.elevation,
            seed=options.seed,
            on_step=on_step,
        ).views[0]
    if picture is not None:
        return views
    with stages.stage("cut out the views"):
        views, cut = views_on_white(views, options.matte)
    if kept := kept_backgrounds(cut, options.matte):
        logging.warning("%s.", kept)
    return views


def read_picture(options: argparse.Namespace):
    """The object in --image, [3, S, S] on white."""
    from .pipeline import PICTURE_SIDE, load_mask, object_picture
    from .preprocess import load_image

    rgba = load_image(options.image, longest=PICTURE_SIDE)
    mask = load_mask(options.mask, *rgba.shape[1:]) if options.mask else None
    return object_picture(rgba, mask, options.matte)


def load_multiview(folder: Path, device: str, options: argparse.Namespace):
    from .multiview import MultiViewPipeline

    _silence_other_bars()
    if options.offload and device != "cpu":
        import torch

        dtype = torch.float16 if device.startswith("cuda") else None
        pipeline = MultiViewPipeline.from_pretrained(folder, dtype)
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline = MultiViewPipeline.from_pretrained(folder, device=device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _silence_other_bars() -> None:
    """Of loading weights: ours show what takes time."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for module in (diffusers_logging, transformers_logging):
        module.disable_progress_bar()
        module.set_verbosity_error()


@contextmanager
def step_bar(options: argparse.Namespace):
    """A bar of sampling steps; gives the callback that moves it."""
    with progress(None, options, "steps", options.steps) as bar:
        yield lambda step, total, guess: bar.update()


def run_download(options: argparse.Namespace) -> None:
    from .download import download, download_native

    bar = progress(None, options, "B", 1, unit_scale=True, unit_divisor=1000)

    def on_bytes(here: int, total: int) -> None:
        bar.total = total
        bar.update(here - bar.n)

    with bar:
        if options.comfyui:
            places = download_native(options.name, options.comfyui, on_bytes)
        else:
            places = [download(options.name, options.models_dir, on_bytes)]
    if not options.quiet:
        print("\n".join(f"{place} is complete." for place in places))


def run_reconstruct(options: argparse.Namespace) -> int:
    if options.folder is not None:
        if options.views:
            options.parser.error("give four views or --folder, not both")
        return reconstruct_folder(options)
    if len(options.views) != 4:
        options.parser.error(
            f"needs four views, at azimuth 0, 90, 180 and 270, got {len(options.views)}"
        )
    _require_suffix(options, SPLAT_SUFFIXES)
    from . import io
    from .outputs import check_writable
    from .pipeline import reconstruct_files

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
    from . import io
    from .outputs import check_writable
    from .pipeline import VIEW_FILES, reconstruct_files, view_files

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


def run_render(options: argparse.Namespace) -> None:
    if options.out.suffix:
        _require_suffix(options, VIDEO_SUFFIXES)
    from . import io, video
    from .io.files import write_atomically
    from .outputs import check_writable, staged_folder
    from .turntable import turntable

    check_writable(options.out, folder=not options.out.suffix)
    gaussians = io.read_splat_file(options.splat, frame=options.frame).to(
        pick_device(options.device)
    )
    frames = turntable(gaussians, options.frames, options.size, options.elevation, options.mode)
    frames = progress(frames, options, "frames", options.frames)
    if options.out.suffix:
        encode = {".mp4": video.mp4, ".gif": video.gif}[options.out.suffix.lower()]
        data = encode(frames)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, data)
        return
    with staged_folder(options.out) as folder:
        for index, frame in enumerate(frames):
            (folder / f"{index:04d}.png").write_bytes(video.png(frame))


def run_mesh(options: argparse.Namespace) -> int:
    if (options.folder is None) == (options.splat is None):
        options.parser.error("give one splat file, or --folder")
    from .outputs import check_writable

    if options.folder is not None:
        return mesh_folder(options)
    _require_suffix(options, (".glb",))
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
    from . import io
    from .mesh import extract

    gaussians = io.read_splat_file(path, frame=options.frame).to(pick_device(options.device))
    return extract(
        gaussians,
        faces=options.faces,
        texture_size=options.texture_size,
        resolution=options.resolution,
        views=options.views,
        method=options.method,
    )


def run_doctor(options: argparse.Namespace) -> None:
    from .doctor import report_lines

    print("\n".join(report_lines([options.models_dir] if options.models_dir else [])))


# Shared ---------------------------------------------------------------------------------------


def load(options: argparse.Namespace, device: str):
    from . import load_model

    return load_model(options.model, device=device, folders=_places(options))


def _places(options: argparse.Namespace) -> list[Path]:
    """Where models are looked for first: the user's folder and that of `lgm download`."""
    from .multiview.folders import own_folder

    return [*([options.models_dir] if options.models_dir else []), own_folder()]


def pick_device(name: str) -> str:
    """`auto` is CUDA where it works, else the CPU.

    Raises:
        ValueError: this torch can't use that device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # `meta` fails only when it is looked at
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"Device {name!r} can't be used here ({reason}): choose cpu or auto."
        ) from error
    return name


def progress(items, options: argparse.Namespace, unit: str, total: int | None = None, **more):
    from tqdm import tqdm

    hidden = options.quiet or not sys.stderr.isatty()
    return tqdm(items, total=total, unit=f" {unit}", leave=False, disable=hidden, **more)


def _require_suffix(options: argparse.Namespace, suffixes: Sequence[str]) -> None:
    if options.out.suffix.lower() not in suffixes:
        options.parser.error(
            f"--out needs a name ending in {' '.join(suffixes)}, got {str(options.out)!r}"
        )
