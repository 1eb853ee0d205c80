"""Makes the training pack of public furniture libraries, and the evaluation set.

Source of the pack: the Debian package `sweethome3d-furniture` 1.8-1 (five libraries, CC0 and
CC-BY; see TRAINING_DATA.md). Which objects are never trained on is frozen in `heldout.json`.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from ..io.outputs import staged_folder
from .evaluation_set import heldout, save_set
from .packs.mesh import Mesh
from .packs.obj import SourceMesh, read_obj
from .packs.pack import MeshPack
from .packs.packing import TRIANGLES, Packed, summary, usable, write_pack
from .packs.read import find_models, read_model
from .packs.simplify import weld
from .packs.surfaces import read_texture
from .procedural.objects import build as build_procedural
from .procedural.objects import draw_parameters
from .rasterize import TriangleSoup

INSTALLED = Path("/usr/share/sweethome3d/furniture")  # where the Debian package puts its libraries
LICENSES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}


def furniture_objects(source: Path | None = None) -> Iterator[Packed]:
    """The libraries' objects; the held-out ones are in splits of their own.

    Args:
        source: the .deb file, or a directory of .sh3f files; None takes the installed package.

    Raises:
        ValueError: it is damaged, or lacks libraries.
    """
    lists = heldout()
    split_of = {name: tier for tier in ("t1", "t2") for name in lists[tier]}
    try:
        for library, archive in open_libraries(source):
            for item in tqdm(read_catalog(archive), desc=library):
                name = f"{library}/{PurePosixPath(item['model']).stem}"
                mesh, reason = convert(archive, item)
                about = {
                    "family": family(item),
                    "library": library,
                    "category": item.get("category", ""),
                    "creator": item.get("creator", library),
                    "license": LICENSES[library],
                    "split": split_of.get(name, "train"),
                }
                yield Packed(name, mesh, reason, about)
    except (tarfile.TarError, lzma.LZMAError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{source} is damaged ({error}): get it again.") from error


def open_libraries(source: Path | None = None) -> Iterator[tuple[str, zipfile.ZipFile]]:
    """Name and archive of the five furniture libraries, in alphabetical order."""
    source = source or INSTALLED
    if source.is_dir():
        files = {path.stem: path.read_bytes() for path in source.glob("*.sh3f")}
    elif source.is_file():
        files = {
            PurePosixPath(name).stem: data
            for name, data in _deb_files(source)
            if name.endswith(".sh3f")
        }
    else:
        files = {}
    missing = sorted(set(LICENSES) - set(files))
    if missing:
        raise ValueError(
            f"{source} lacks the furniture libraries {', '.join(missing)}: give the Debian package "
            "sweethome3d-furniture 1.8-1, or a directory with its .sh3f files."
        )
    for name in sorted(LICENSES):
        yield name, zipfile.ZipFile(io.BytesIO(files[name]))


def _deb_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a Debian package: an ar archive around a tar."""
    data = path.read_bytes()
    if not data.startswith(b"!<arch>\n"):
        raise ValueError(
            f"{path} is not a Debian package: give sweethome3d-furniture_1.8-1_all.deb."
        )
    offset = 8
    while offset + 60 <= len(data):
        name = data[offset : offset + 16].decode("ascii").strip().rstrip("/")
        size = int(data[offset + 48 : offset + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(data[offset + 60 : offset + 60 + size])) as tar:
                for member in tar:
                    if member.isfile():
                        yield member.name, tar.extractfile(member).read()
        offset += 60 + size + size % 2


def read_catalog(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    """The library's objects as dictionaries of their properties (name, category, creator, model,
    ...)."""
    text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
    items: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.MULTILINE):
        unescaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value.strip())
        items.setdefault(int(number), {})[key] = unescaped
    return [items[number] for number in sorted(items)]


def family(item: dict[str, str]) -> str:
    """A key that similar objects share: the creator and the head noun of the name."""
    head = re.split(r" with | and | - |,|\(", item["name"].lower())[0]
    noun = re.sub(r"[^a-z']", " ", head).split()
    return f"{noun[-1] if noun else head}/{item.get('creator', '')}".lower()


def convert(
    archive: zipfile.ZipFile, item: dict[str, str], limit: int = TRIANGLES
) -> tuple[Mesh | None, str]:
    """A catalog object as a mesh fit for training, or None and the reason why not."""
    model = PurePosixPath(item["model"].lstrip("/"))

    names = set(archive.namelist())

    def text(name: str) -> str:  # one object names a material file that is called otherwise
        stated, usual = str(model.parent / name), str(model.with_suffix(".mtl"))
        return archive.read(stated if stated in names else usual).decode("latin-1")

    source = read_obj(archive.read(str(model)).decode("latin-1"), text)
    source = weld(
        source.select(np.array([m.opacity > 0.05 for m in source.materials])[source.material_ids])
    )
    if not len(source.faces):
        return None, "empty"
    textures: dict[str, tuple[np.ndarray, float]] = {}
    for material in source.materials:
        path = str(model.parent / (material.texture or "").replace("\\", "/"))
        if material.texture and path in names:
            textures[material.texture] = read_texture(archive.read(path))
    return usable(replace(source, vertices=_upright(source, item)), textures, limit)


def _upright(source: SourceMesh, item: dict[str, str]) -> np.ndarray:
    """Vertices y-up, front to +z, with the proportions the catalog gives (width x, height y, depth
    z)."""
    vertices = source.vertices
    if "modelRotation" in item:
        rotation = np.array(item["modelRotation"].split(), dtype=float).reshape(3, 3)
        vertices = vertices @ rotation.T
    used = vertices[np.unique(source.faces)]
    low, extent = used.min(0), np.maximum(np.ptp(used, axis=0), 1e-9)
    wanted = np.array([float(item[key]) for key in ("width", "height", "depth")])
    return (vertices - low) / extent * wanted


def evaluation_items(
    pack: MeshPack | None, objects: Path | None, counts: dict[str, int]
) -> Iterator[tuple[TriangleSoup, dict[str, str]]]:
    """Held-out objects of every tier as soups of one, with name, tier and license; at most
    `counts[tier]` of each."""
    lists = heldout()
    first, count = lists["t0"]["first_seed"], lists["t0"]["count"]
    for seed in range(first, first + min(count, counts["t0"])):
        soup = build_procedural([draw_parameters(seed)])
        yield soup, {"name": f"procedural/{seed}", "tier": "t0", "license": "CC0-1.0"}
    for tier in ("t1", "t2") if pack else ():
        indices = pack.split_indices(tier)
        for position in (
            np.linspace(0, len(indices) - 1, min(counts[tier], len(indices))).round().astype(int)
        ):
            index = indices[position]
            entry = pack.entries[index]
            yield (
                pack.soup([index]),
                {"name": entry["name"], "tier": tier, "license": entry["license"]},
            )
    licenses = {model["name"]: model["license"] for model in lists["t3"]}
    for path in find_models(objects)[: counts["t3"]] if objects else ():
        name = path.relative_to(objects).parts[0] if path.parent != objects else path.stem
        yield (
            read_model(path).soup(),
            {"name": name, "tier": "t3", "license": licenses.get(name, "unknown")},
        )


def build_furniture(
    out: Path,
    source: Path | None,
    objects: Path | None,
    size: int,
    count: int,
    keep_pack: bool = False,
) -> str:
    """Write `meshes.safetensors` and `evaluation.safetensors` to a folder; says what is in them.

    Args:
        source: as in `furniture_objects`.
        objects: models for the evaluation's tier t3.
        size: pixels a side of the evaluation pictures.
        count: evaluation objects per tier, at most.
        keep_pack: use the pack that is already there.
    """
    counts = dict.fromkeys(("t0", "t1", "t2", "t3"), count)
    with staged_folder(out) as staging:
        path = (out if keep_pack else staging) / "meshes.safetensors"
        if not keep_pack:
            print(summary(write_pack(path, furniture_objects(source))[0]))
        pack = MeshPack.load(path)
        items = tqdm(evaluation_items(pack, objects, counts), desc="evaluation set", unit="object")
        written = save_set(staging / "evaluation.safetensors", size, items)
    return f"{out}: {len(pack)} meshes, {written} objects to evaluate on"
