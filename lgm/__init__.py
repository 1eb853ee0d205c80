"""LGM, Large Multi-View Gaussian Model (Tang et al. 2024): pictures to 3D Gaussians in plain
PyTorch.
"""

from . import cameras, io, mesh, render
from .gaussians import Gaussians
from .network.model import LGM
from .network.presets import PRESETS, Preset
from .network.weights import load_model

__version__ = "0.3.0"

__all__ = ["LGM", "PRESETS", "Gaussians", "Preset", "cameras", "io", "load_model", "mesh", "render"]
