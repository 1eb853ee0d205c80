"""The four views of an object as files."""

from __future__ import annotations

from pathlib import Path

from ..cameras import SIDE_AT

VIEW_CAPTIONS = tuple(
    f"{azimuth}°, {'its own ' if side in ('left', 'right') else ''}{side}"
    for azimuth, side in SIDE_AT.items()
)
VIEW_FILES = tuple(f"{azimuth}.png" for azimuth in SIDE_AT)


def view_files(folder: Path) -> list[Path]:
    """The four pictures of an object's folder, by azimuth.

    Raises:
        ValueError: some are missing.
    """
    missing = [name for name in VIEW_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} needs {', '.join(VIEW_FILES)}; missing: {', '.join(missing)}.")
    return [folder / name for name in VIEW_FILES]


def example_objects() -> dict[str, Path]:
    """Folders with four views of a real object: name -> folder.

    A checkout holds them in example_workflows/inputs, an installed package inside itself.
    """
    here = Path(__file__).resolve().parents[1]
    for root in (here / "assets" / "inputs", here.parent / "example_workflows" / "inputs"):
        folders = sorted(path.parent for path in root.glob(f"*/{VIEW_FILES[0]}"))
        if folders:
            return {folder.name: folder for folder in folders}
    return {}
