"""The whole way, one readable function per task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cameras import input_poses
from .gaussians import Gaussians
from .network.presets import ROUNDS
from .pictures.matte import Matte, load_views

if TYPE_CHECKING:
    from .network.model import LGM
NEGATIVE_PROMPT = (
    "ugly, blurry, pixelated obscure, unnatural colors, poor lighting, dull, unclear, cropped, "
    "lowres, low quality, artifacts, duplicate"
)
"""What the official demo keeps away from."""


def reconstruct_files(
    model: LGM,
    paths: Sequence[str | Path],
    elevation: float = 0.0,
    matte: Matte = "auto",
    fit: int = 0,
    rounds: int = ROUNDS,
) -> Gaussians:
    """Gaussians of the object in four pictures at azimuth 0, 90, 180, 270.

    Args:
        elevation: degrees above the horizon the pictures were taken from.
        fit: steps that fit the Gaussians to the pictures, see `LGM.fit`.
        rounds: how often a corrector looks, see `LGM.reconstruct`.
    """
    views = load_views(paths, model.preset.input_size, matte)
    poses = input_poses(elevation)
    gaussians = model.reconstruct(views, poses, rounds=rounds)
    return model.fit(gaussians, views, poses, steps=fit)
