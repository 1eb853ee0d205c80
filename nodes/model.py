"""Loading the network, and running it where and how ComfyUI wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.model_management as management
import comfy.model_patcher
import torch
from comfy_api.latest import io

from ..lgm.model import LGM
from ..lgm.presets import PRESETS
from ..lgm.unet import ResBlock
from ..lgm.weights import load_model
from . import host
from .types import LGMModel

BUNDLED = "demo"
DTYPES = {"auto": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Bytes beside the weights for one object, per pixel of its four input pictures and byte of the
# compute type: the highest of all presets, as `benchmarks/memory.py` measures them.
BYTES_PER_PIXEL = 2600


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_LoadModel",
            display_name="Load LGM Model",
            category=host.CATEGORY,
            description="The network that turns four views of an object into 3D Gaussians. A small "
            "one is included; released LGM weights go into models/lgm.",
            search_aliases=["lgm", "gaussian model", "load large multi-view gaussian model"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[BUNDLED, *host.model_files()],
                    default=BUNDLED,
                    tooltip="'demo' is included: 22 MB, made for CPUs, seconds "
                    "an object. Files in models/lgm follow: the released LGM is sharper, "
                    "wants a GPU, and takes 0.8 GB.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Precision. 'auto' takes fp16 where the graphics card is good at it "
                    "and fp32 elsewhere. fp32 needs twice the memory and is slower on GPUs; "
                    "bf16 is coarser than fp16 but never overflows.",
                ),
            ],
            outputs=[LGMModel.Output(display_name="model", tooltip="For Reconstruct Gaussians.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str):
        if model == BUNDLED:
            return model, dtype
        status = host.model_path(model).stat()
        return model, dtype, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, model: str, dtype: str) -> io.NodeOutput:
        path = BUNDLED if model == BUNDLED else host.model_path(model)
        offload = management.unet_offload_device()
        network = load_model(path, offload, DTYPES[dtype])
        device = management.get_torch_device()
        if dtype == "auto" and not management.should_use_fp16(device):
            network.precision = torch.float32
        # A graph of one object is ready when the object is long done.
        network.fast = False
        preset = next(name for name, value in PRESETS.items() if value == network.preset)
        host.say(cls, f"LGM '{preset}', {dtype_name(network.compute_dtype(device))} on {device}")
        return io.NodeOutput(patcher_of(network, device, offload))


def patcher_of(network: LGM, device: torch.device, offload: torch.device):
    """The network in ComfyUI's care.

    ComfyUI leaves a layer's weights behind when they don't fit (--lowvram, --novram), if the layer
    says that it can cope: ours take their weights to where their input is.
    """
    for module in network.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.comfy_cast_weights = False
            module.weight_function = []
            module.bias_function = []
    # Not CoreModelPatcher: the dynamic one swaps weights inside ComfyUI's own layer classes only.
    return comfy.model_patcher.ModelPatcher(network, load_device=device, offload_device=offload)


def load_to_device(patcher, size: int) -> LGM:
    """The network ready to run on `patcher.load_device` for one object with `size` px views."""
    network: LGM = patcher.model
    itemsize = network.compute_dtype(patcher.load_device).itemsize
    management.load_models_gpu([patcher], memory_required=size**2 * BYTES_PER_PIXEL * itemsize)
    return network


@contextmanager
def each_block(network: LGM, call: Callable[[], None]) -> Iterator[int]:
    """`call()` before every residual block while this is open; gives their number."""
    blocks = [module for module in network.modules() if isinstance(module, ResBlock)]
    hooks = [block.register_forward_pre_hook(lambda *_: call()) for block in blocks]
    try:
        yield len(blocks)
    finally:
        for hook in hooks:
            hook.remove()


def dtype_name(dtype: torch.dtype) -> str:
    return next(name for name, value in DTYPES.items() if value == dtype)
