"""Text or one picture to four views: MVDream and ImageDream.

`unet`, `weights` and `conditioning` need PyTorch alone. `MultiViewUNet` is the network as a
diffusers model, or, without diffusers, the bare network of the same name, keys and configuration;
`MultiViewPipeline` needs diffusers and transformers. Both are imported when first asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from .conditioning import VIEW_ORDER, camera_rows
from .unet import Constants, UNet
from .weights import load_unet

if TYPE_CHECKING:
    from .model import MultiViewUNet
    from .pipeline import MultiViewOutput, MultiViewPipeline

__all__ = [
    "VIEW_ORDER",
    "Constants",
    "MultiViewOutput",
    "MultiViewPipeline",
    "MultiViewUNet",
    "UNet",
    "camera_rows",
    "load_unet",
]

PACKAGES = ("diffusers", "transformers")
LAZY = {"MultiViewUNet": "model", "MultiViewPipeline": "pipeline", "MultiViewOutput": "pipeline"}


def __getattr__(name: str):
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if LAZY[name] == "pipeline" and missing:
        raise RuntimeError(
            f"lgm.multiview.{name} needs the packages {' and '.join(PACKAGES)}, but "
            f"{' and '.join(missing)} can't be found: pip install {' '.join(missing)}"
        )
    return getattr(importlib.import_module(f".{LAZY[name]}", __name__), name)
