"""Makes docs/photos_*.jpg: one set of four pictures that fits together and three that don't, each
beside the splat that `lgm reconstruct` makes of it. Run from the root; about a minute on two cores.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path("example_workflows/inputs/fox")
SIDE, GAP = 160, 4  # pixels of one picture in the strip
AZIMUTHS = (0, 90, 180, 270)
FRAMES = (1, 7)  # of twelve around: seen from 30 and 210 degrees


def read(azimuth: int) -> Image.Image:
    """The picture on white."""
    picture = Image.open(SOURCE / f"{azimuth}.png").convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def moved(picture: Image.Image, scale: float, right: float, down: float) -> Image.Image:
    """The object scaled about the middle and shifted by parts of the side, white around it."""
    side = picture.width
    small = picture.resize((round(side * scale),) * 2, Image.Resampling.LANCZOS)
    middle = (side - small.width) / 2
    canvas = Image.new("RGB", picture.size, "white")
    canvas.paste(small, (round(middle + right * side), round(middle + down * side)))
    return canvas


def sets() -> dict[str, list[Image.Image]]:
    """The four pictures by azimuth, for each strip."""
    front, left, back, right = (read(azimuth) for azimuth in AZIMUTHS)
    return {
        "good": [front, left, back, right],
        "sizes": [front, moved(left, 0.7, 0, 0), moved(back, 0.85, 0, 0), moved(right, 0.6, 0, 0)],
        "shifted": [front, moved(left, 1, 0.12, 0), moved(back, 1, 0, -0.1), right],
        "order": [front, right, back, left],
    }


def lgm(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "lgm", *arguments, "--quiet"], check=True)


def strip(pictures: list[Image.Image], folder: Path) -> Image.Image:
    """The four pictures, a gap, and two views of their splat."""
    files = [folder / f"{azimuth}.png" for azimuth in AZIMUTHS]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    lgm("reconstruct", *files, "--out", folder / "splat.ply")
    lgm("render", folder / "splat.ply", "--out", folder / "frames", "--frames", "12",
        "--elevation", "20", "--size", "256")  # fmt: skip
    frames = sorted((folder / "frames").glob("*.png"))
    drawn = [Image.open(frames[index]).convert("RGB") for index in FRAMES]
    row = [picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for picture in pictures + drawn]
    gap, wide = (np.full((SIDE, n * GAP, 3), 255, np.uint8) for n in (1, 8))
    parts = [row[0]]
    for index, picture in enumerate(row[1:], start=1):
        parts += [wide if index == len(pictures) else gap, picture]
    return Image.fromarray(np.concatenate([np.asarray(part) for part in parts], axis=1))


def main() -> None:
    for name, pictures in sets().items():
        with tempfile.TemporaryDirectory() as folder:
            strip(pictures, Path(folder)).save(f"docs/photos_{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
