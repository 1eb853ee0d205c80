"""Where weights are looked for: LGM's files, and the released folders of MVDream and ImageDream.

Nothing here needs diffusers, so that what is missing can be said before that is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..io.safetensors import read_config
from .catalog import (
    COMPONENTS,
    HUB_REPOSITORY,
    IMAGE,
    IMAGE_ENCODER,
    NOT_NEEDED,
    ONE_FILE_TOKENIZER,
    RELEASED,
    RELEASES,
    TEXT,
)

BUNDLED = Path(__file__).parent.parent / "models"


def model_folders(extra: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Where model files are looked for, in order: `extra`, LGM_MODELS_DIR, the bundled folder,
    ComfyUI's models/lgm.
    """
    from_environment = [
        Path(entry) for entry in os.environ.get("LGM_MODELS_DIR", "").split(os.pathsep) if entry
    ]
    pack = Path(__file__).resolve().parents[2]
    comfyui = [pack.parent.parent / "models" / "lgm"] if pack.parent.name == "custom_nodes" else []
    return [*map(Path, extra), *from_environment, BUNDLED, *comfyui]


def hub_snapshots(repository: str = HUB_REPOSITORY) -> list[Path]:
    """Folders of a repository in the Hugging Face cache, if one exists."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return sorted((cache / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*"))


def available_models(extra: Iterable[str | os.PathLike] = ()) -> dict[str, Path]:
    """Every LGM file found: name without suffix -> path, the first folder winning; `demo` first."""
    found: dict[str, Path] = {}
    for folder in [*model_folders(extra), *hub_snapshots()]:
        for path in sorted(folder.glob("*.safetensors")):
            found.setdefault(path.stem, path)
    return found


def find_model(name: str | os.PathLike, folders: Iterable[str | os.PathLike] = ()) -> Path:
    """The file called `name`: a path, a bundled or released short name, or a file name in a model
    folder.

    Raises:
        ValueError: there is no such file; the message says where it was looked for and what to put
        there.
    """
    path = Path(name)
    if path.is_file():
        return path
    file_name = RELEASED.get(str(name), str(name))
    if not file_name.endswith(".safetensors"):
        file_name += ".safetensors"
    searched = [*model_folders(folders), *hub_snapshots()]
    for folder in searched:
        if (folder / file_name).is_file():
            return folder / file_name
    if path.suffix and path.suffix != ".safetensors":
        raise ValueError(f"LGM weights must be a .safetensors file that exists, got {path}.")
    places = ", ".join(str(folder) for folder in model_folders(folders))
    raise ValueError(
        f"No LGM weights called {str(name)!r}: put {file_name} (from {HUB_REPOSITORY} on Hugging "
        "Face) into one of "
        f"{places}, or give a path."
    )


def own_folder() -> Path:
    """Where downloads go when nothing else is said and no ComfyUI is around."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lgm"


def search_places(extra: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Folders in which released folders are looked for, in order: `extra`, LGM_MODELS_DIR,
    ComfyUI's models, what `lgm download` fills; each is followed by `diffusers` in it.
    """
    places = []
    for place in [*model_folders(extra), own_folder()]:
        if place == BUNDLED:
            continue
        if (place.parent.name, place.name) == ("models", "lgm"):
            place = place.parent  # ComfyUI keeps such folders in models/diffusers
        places += [place] if place.name == "diffusers" else [place, place / "diffusers"]
    return list(dict.fromkeys(places))


def available_folders(extra: Iterable[str | os.PathLike] = ()) -> dict[str, Path]:
    """Every whole multi-view model found: name of its folder -> place, the first winning."""
    found: dict[str, Path] = {}
    for name, folder in _candidates(extra):
        if name not in found and is_multiview(folder) and not missing_files(folder):
            found[name] = folder
    return found


def find_folder(name: str | os.PathLike, extra: Iterable[str | os.PathLike] = ()) -> Path:
    """The released folder called `name`: `mvdream`, `imagedream`, a path, or a folder's name.

    Raises:
        ValueError: there is none, or only a part of it; the message says what to do.
    """
    extra = list(extra)
    release = RELEASES.get(str(name))
    if release is None and Path(name).is_dir():
        if missing := missing_files(Path(name)):
            raise ValueError(_incomplete(Path(name), missing))
        read_config(Path(name) / "unet")  # refuses other models of the same layout
        return Path(name)
    folder_name = release.folder if release else str(name)
    available = available_folders(extra)
    if folder_name in available:
        return available[folder_name]
    for candidate, folder in _candidates(extra):
        if candidate == folder_name:
            raise ValueError(_incomplete(folder, missing_files(folder)))
    place = search_places(extra)[0]
    if release is None:
        others = ", ".join([*RELEASES, *available])
        raise ValueError(
            f"No multi-view model called {folder_name!r} in {place} or the other places that `lgm "
            f"doctor` lists: choose among {others}, or give a folder."
        )
    raise ValueError(
        f"{release.title} is not here: run `lgm download {name}` ({release.gigabytes:g} GB), or "
        f"put the folder {folder_name} (from {release.repository} on Hugging Face) into {place} or "
        "another place that `lgm doctor` lists."
    )


class ReleaseMissingError(ValueError):
    """A released multi-view model that is not here, or only a part of it."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name  # short, as `RELEASES` has it


def find_multiview(
    name: str | os.PathLike | None, with_picture: bool, extra: Iterable[str | os.PathLike] = ()
) -> Path:
    """The folder of the multi-view model that fits what is given, a picture or a prompt alone.

    Args:
        name: as for `find_folder`, or a release's folder name; by default ImageDream with a
            picture, else MVDream.

    Raises:
        ReleaseMissingError: a release is needed, but not here.
        ValueError: the model is of the other kind, or is none.
    """
    wanted = IMAGE if with_picture else TEXT
    short = {release.folder: key for key, release in RELEASES.items()}
    name = wanted if name is None else short.get(str(name), str(name))
    if name in RELEASES and name != wanted:
        raise _other_kind(name, with_picture)
    try:
        folder = find_folder(name, extra)
    except ValueError as error:
        if name in RELEASES:
            raise ReleaseMissingError(name, str(error)) from error
        raise
    if reads_pictures(folder) != with_picture:
        raise _other_kind(str(folder), with_picture)
    return folder


def _other_kind(name: str, with_picture: bool) -> ValueError:
    return ValueError(
        f"{name} is MVDream, which works from a prompt alone, but there is a picture: leave that "
        "out, or choose imagedream."
        if with_picture
        else f"{name} is ImageDream, which needs a picture, but there is none: give one, or choose "
        "mvdream."
    )


def is_multiview(folder: Path) -> bool:
    """Whether this is of our kind; other models of diffusers lie in the same places."""
    try:
        read_config(folder / "unet")
    except ValueError:
        return False
    return True


def reads_pictures(folder: Path) -> bool:
    """Whether it is ImageDream, else MVDream.

    Raises:
        ValueError: neither.
    """
    return bool(read_config(folder / "unet").get("ip_dim"))


def missing_files(folder: Path) -> list[str]:
    """What a released folder lacks, as paths in it."""
    components = dict(COMPONENTS)
    if is_multiview(folder) and reads_pictures(folder):
        components |= IMAGE_ENCODER
    return [
        f"{name}/{file}"
        for name, files in components.items()
        for file in files
        if not _is_there(folder / name, file)
    ]


def _is_there(component: Path, file: str) -> bool:
    if file.endswith(".safetensors"):
        return any(component.glob("*.safetensors"))  # any variant and any number of parts
    if component.name == "tokenizer" and (component / ONE_FILE_TOKENIZER).is_file():
        return True
    return file in NOT_NEEDED or (component / file).is_file()


def _candidates(extra: Iterable[str | os.PathLike]) -> list[tuple[str, Path]]:
    """Names and places of the folders that may be multi-view models, whole or not."""
    names = {release.folder for release in RELEASES.values()}
    candidates = []
    for place in search_places(extra):
        folders = [config.parent.parent for config in sorted(place.glob("*/unet/config.json"))]
        begun = [place / name for name in sorted(names) if (place / name).is_dir()]
        candidates += [(folder.name, folder) for folder in dict.fromkeys([*folders, *begun])]
    for release in RELEASES.values():
        candidates += [(release.folder, folder) for folder in hub_snapshots(release.repository)]
    return candidates


def _incomplete(folder: Path, missing: list[str]) -> str:
    if not is_multiview(folder) and "unet/config.json" not in missing:
        read_config(folder / "unet")  # says what it is instead
    what = f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}"
    short = next((key for key, r in RELEASES.items() if r.folder == folder.name), None)
    remedy = (
        f"run `lgm download {short} --models-dir {folder.parent}`, which goes on where it stopped"
        if short
        else "download these into there"
    )
    return f"{folder} must be a whole MVDream or ImageDream, but lacks {what}: {remedy}."
