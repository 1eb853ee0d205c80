"""Does our network compute what the original does?
`python benchmarks/parity.py --original DIR [--presets big small tiny] [--double]`

DIR is a checkout of github.com/3DTopia/LGM, whose own presets, network and activations run here on
our random weights and pictures. It needs nothing more (stand-ins replace its renderer and what is
not installed); with kiui (`pip install --no-deps kiui==0.2.8 lazy_loader`) rays are compared, too.
CPU; `big` takes a minute on two cores and 5 GB of memory, about twice that in fp64.
"""

import argparse
import importlib
import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["XFORMERS_DISABLED"] = "1"  # runs on CUDA only; the original has plain attention, too

import torch

from lgm.cameras import input_poses, plucker_rays
from lgm.gaussians import CHANNELS, Gaussians
from lgm.network.inputs import network_inputs
from lgm.network.model import LGM
from lgm.network.presets import PRESETS

BAR = 1e-4  # largest difference allowed in an activated value
FIELDS = [field.name for field in fields(Gaussians)[: len(CHANNELS)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, required=True, help="checkout of 3DTopia/LGM")
    parser.add_argument("--presets", nargs="+", default=["big", "small", "tiny"])
    parser.add_argument("--double", action="store_true", help="fp64: rounding aside")
    args = parser.parse_args()
    models, options = import_original(args.original)
    dtype = torch.float64 if args.double else torch.float32
    if args.double:
        torch.Tensor.float = torch.Tensor.double  # our statistics and results are fp32 otherwise
    if not isinstance(sys.modules["kiui.cam"], MagicMock):
        model = MagicMock(opt=options.config_defaults["big"])
        for elevation in (0, 20):  # degrees; the original counts them downward
            theirs = models.LGM.prepare_default_rays(model, "cpu", elevation)
            difference = largest(plucker_rays(input_poses(-elevation), 256), theirs)
            print(f"rays at elevation {elevation}: largest difference {difference:.1e}")
    print(f"torch {torch.__version__}, CPU, {dtype}: largest differences\n")
    print(f"| preset | raw map | its std | {' | '.join(FIELDS)} |\n|---|{'---:|' * 7}", flush=True)
    sys.exit(not all([compare(name, models, options, dtype) for name in args.presets]))


def import_original(checkout: Path):
    """The original's `core.models` and `core.options`, with stand-ins for what is missing here."""
    sys.path.insert(0, str(checkout))
    sys.modules["core.gs"] = sys.modules["kiui.lpips"] = MagicMock()  # rendering and its loss
    for name in ("cv2", "kiui", "kiui.op", "kiui.cam", "roma", "tyro"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()
    return importlib.import_module("core.models"), importlib.import_module("core.options")


@torch.inference_mode()
def compare(name: str, models, options, dtype: torch.dtype) -> bool:
    """Print a row of the table. True if no activated value is further off than BAR."""
    torch.manual_seed(0)
    ours = LGM(PRESETS[name]).eval()
    for key, tensor in ours.state_dict().items():
        tensor.copy_(random_weights(key, tensor))
    ours.to(dtype)
    with torch.device("meta"):
        original = models.LGM(replace(options.config_defaults[name], lambda_lpips=0)).eval()
    original.load_state_dict(ours.state_dict(), strict=True, assign=True)  # the same memory
    inputs = network_inputs(torch.rand(1, 4, 3, 256, 256), input_poses()[None]).to(dtype)
    raw: list[torch.Tensor] = []  # maps before activation
    for model in (ours, original):
        model.conv.register_forward_hook(lambda _, __, output: raw.append(output))
    gaussians, theirs = ours(inputs), original.forward_gaussians(inputs).split(CHANNELS, dim=-1)
    errors = [largest(getattr(gaussians, f), t) for f, t in zip(FIELDS, theirs, strict=True)]
    cells = " | ".join(f"{e:.1e}" for e in (largest(*raw), raw[1].std(), *errors))
    print(f"| {name} | {cells} |", flush=True)
    return all(e <= BAR for e in errors)


def random_weights(key: str, like: torch.Tensor) -> torch.Tensor:
    """Weights that keep a map's variance; norms and biases away from 1 and 0, which hide errors."""
    if like.dim() > 1:
        return torch.randn_like(like) / like[0].numel() ** 0.5
    return 0.2 * torch.randn_like(like) + ("norm" in key and key.endswith("weight"))


def largest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


if __name__ == "__main__":
    main()
