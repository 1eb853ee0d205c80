"""The multi-view U-Net as a diffusers model: the bare network plus a configuration, saving, and
diffusers' memory and attention options. Without diffusers it is the bare network.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from .unet import UNet
from .weights import load_unet

try:
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config
except ImportError:

    class ModelMixin: ...

    class ConfigMixin: ...

    def register_to_config(init):
        return init


class MultiViewUNet(UNet, ModelMixin, ConfigMixin):
    """`UNet` with the configuration, keys and files of the released `unet` folders."""

    @register_to_config
    @functools.wraps(UNet.__init__)  # diffusers reads the configuration's names off the signature
    def __init__(self, *args, **config):
        super().__init__(*args, **config)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> MultiViewUNet:
        """The network in a released folder on this machine, or in a file; see `load_unet`. Python
        code that lies beside the weights is never run.
        """
        return load_unet(Path(folder) / (subfolder or ""), device, torch_dtype, cls)
