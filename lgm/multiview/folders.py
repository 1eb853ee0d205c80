"""Where the released folders of MVDream and ImageDream are looked for, and what must be in them.

Nothing here needs diffusers, so that what is missing can be said before that is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..network.weights import BUNDLED, FIXED_NAME, HUB_REPOSITORY, hub_snapshots, model_folders
from .weights import read_config

TEXT, IMAGE = "mvdream", "imagedream"  # short names of the two releases
LGM = "lgm"  # of LGM's own, which is one file
COMPONENTS = {  # folder -> files, of which the weights may also be cut into several
    "scheduler": ("scheduler_config.json",),
    "text_encoder": ("config.json", "model.safetensors"),
    "tokenizer": ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"),
    "unet": ("config.json", "diffusion_pytorch_model.safetensors"),
    "vae": ("config.json", "diffusion_pytorch_model.safetensors"),
}
IMAGE_ENCODER = {"image_encoder": ("config.json", "model.safetensors")}
NOT_NEEDED = ("special_tokens_map.json", "tokenizer_config.json")  # tokenizers load without
ONE_FILE_TOKENIZER = "tokenizer.json"  # what transformers 5 saves instead of the others


@dataclass(frozen=True)
class Release:
    """Folders of components on Hugging Face, in diffusers' layout."""

    title: str
    repository: str
    components: dict[str, tuple[str, ...]]
    gigabytes: float

    @property
    def folder(self) -> str:
        return self.repository.split("/")[1]

    @property
    def files(self) -> list[str]:
        """What the pipeline reads; none of the Python that is there, too."""
        return [f"{name}/{file}" for name, files in self.components.items() for file in files]


RELEASES = {
    TEXT: Release("MVDream", "ashawkey/mvdream-sd2.1-diffusers", COMPONENTS, 2.6),
    IMAGE: Release(
        "ImageDream", "ashawkey/imagedream-ipmv-diffusers", COMPONENTS | IMAGE_ENCODER, 4.0
    ),
}

# For ComfyUI's own loaders: release -> component -> folder in ComfyUI's models, and name there.
# Text encoder and VAE are Stable Diffusion 2.1's, so those of MVDream serve both.
NATIVE = {
    TEXT: {
        "unet": ("diffusion_models", "mvdream.safetensors"),
        "text_encoder": ("text_encoders", "mvdream_text_encoder.safetensors"),
        "vae": ("vae", "mvdream_vae.safetensors"),
    },
    IMAGE: {
        "unet": ("diffusion_models", "imagedream.safetensors"),
        "image_encoder": ("clip_vision", "imagedream_image_encoder.safetensors"),
    },
}
SHARED = ("text_encoder", "vae")


class NativeFile(NamedTuple):
    """A released file, and where ComfyUI looks for it."""

    repository: str
    file: str  # in the repository
    directory: str  # in ComfyUI's models
    name: str  # there

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


def native_files(name: str) -> list[NativeFile]:
    """What ComfyUI's own loaders need for `mvdream`, `imagedream` or `lgm`."""
    if name == LGM:
        return [NativeFile(HUB_REPOSITORY, FIXED_NAME, LGM, FIXED_NAME)]
    sources = {component: name for component in NATIVE[name]}
    sources |= {component: TEXT for component in SHARED}
    return [
        NativeFile(
            RELEASES[source].repository,
            f"{component}/{RELEASES[source].components[component][-1]}",  # weights come last
            *NATIVE[source][component],
        )
        for component, source in sources.items()
    ]


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
