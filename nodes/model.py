"""Loading the network, and running it where and how ComfyUI wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management as management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.latest import io

from ..lgm.network.model import LGM
from ..lgm.network.presets import PRESETS, ROUNDS
from ..lgm.network.unet import ResBlock
from ..lgm.network.weights import load_model
from ..lgm.releases.catalog import FIXED_NAME, HUB_REPOSITORY
from ..lgm.releases.places import find_model, own_folder
from .border import host
from .border.models import DOWNLOAD, DTYPES, SAY, dtype_name, fetch
from .border.splats import LGMModel

BUNDLED = "demo"
RELEASED = FIXED_NAME  # is offered even where it isn't yet


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
                    options=model_names(),
                    default=BUNDLED,
                    tooltip="'demo' is included: 33 MB, made for CPUs, seconds "
                    f"an object. The released LGM, {RELEASED}, is sharper, wants a GPU, and takes "
                    "0.8 GB; see if_missing. Other files in models/lgm follow.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Precision. 'auto' takes fp16 where the graphics card is good at it "
                    "and fp32 elsewhere. fp32 needs twice the memory and is slower on GPUs; "
                    "bf16 is coarser than fp16 but never overflows.",
                ),
                io.Combo.Input(
                    "if_missing",
                    options=[SAY, DOWNLOAD],
                    default=SAY,
                    optional=True,  # prompts saved before it was there do without
                    tooltip="'download' fetches the released LGM from Hugging Face into models/lgm "
                    "when it is chosen and isn't there: 0.8 GB.",
                ),
            ],
            outputs=[LGMModel.Output(display_name="model", tooltip="For Reconstruct Gaussians.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str, if_missing: str = SAY):
        path = None if model == BUNDLED else model_path(model)
        if path is None:
            return model, dtype
        status = path.stat()
        return model, dtype, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, model: str, dtype: str, if_missing: str = SAY) -> io.NodeOutput:
        path = BUNDLED if model == BUNDLED else model_path(model) or released(cls, if_missing)
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


def model_names() -> list[str]:
    return [BUNDLED, RELEASED, *(name for name in host.model_files() if name != RELEASED)]


def model_path(name: str) -> Path | None:
    """The file, of the released one wherever `lgm doctor` finds it; None if that is nowhere."""
    if name != RELEASED:
        return host.model_path(name)
    try:
        return find_model(name, [*folder_paths.get_folder_paths(host.MODELS), own_folder()])
    except ValueError:
        return None


def released(node: type, if_missing: str) -> Path:
    """The released file, which is not here, fetched if the user wants that."""
    place = Path(folder_paths.get_folder_paths(host.MODELS)[0])
    if if_missing == DOWNLOAD:
        return fetch(node, "lgm", "LGM, 0.8 GB", place)
    raise ValueError(
        f"{RELEASED} is needed, but not here: choose 'download' in if_missing to fetch it (0.8 "
        f"GB), or put it (from {HUB_REPOSITORY} on Hugging Face) into {place}."
    )


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


@contextmanager
def each_block(network: LGM, call: Callable[[], None]) -> Iterator[int]:
    """`call()` before every residual block while this is open; gives the number of calls."""
    blocks = [module for module in network.modules() if isinstance(module, ResBlock)]
    hooks = [block.register_forward_pre_hook(lambda *_: call()) for block in blocks]
    corrects = network.corrector.modules() if network.corrector else ()
    again = sum(isinstance(module, ResBlock) for module in corrects)
    try:
        yield len(blocks) + (ROUNDS - 1) * again
    finally:
        for hook in hooks:
            hook.remove()
