"""LGM, Large Multi-View Gaussian Model (Tang et al. 2024): pictures to 3D Gaussians in plain
PyTorch.
"""

from . import cameras, io, mesh, render
from .gaussians import Gaussians
from .model import LGM
from .presets import PRESETS, Preset
from .weights import load_model

__version__ = "0.3.0"

__all__ = ["LGM", "PRESETS", "Gaussians", "Preset", "cameras", "io", "load_model", "mesh", "render"]
