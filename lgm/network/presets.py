"""Presets as data, and which preset a set of weights belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

INPUT_CHANNELS = 9  # RGB (ImageNet-normalized), ray moment, ray direction
OUTPUT_CHANNELS = 14  # position, opacity, scale, rotation, color
VIEW_COUNT = 4  # the official number of input views
MAX_VIEWS = 8  # what training and inference accept beyond it
HULL_CHANNELS = 28  # what `lgm.network.hull` adds: own alpha, interval, neighbors' colors
POLES = 2  # views that no picture shows, from straight above and below
POLE_CHANNELS = (
    25  # what `lgm.network.hull` adds with them: two more views' colors, which kind it is
)
ROUNDS = 3  # looks of a corrector, each at what the last has made; a fourth gains nothing
CORRECTION_PARTS = {  # what `lgm.network.correction` tells a corrector: channels of each part
    "raw": 14,
    "hull color": 3,
    "hull alpha": 1,
    "near": 1,
    "far": 1,
    "valid": 1,
    "drawn color": 3,
    "drawn alpha": 1,
    "drawn gap": 1,
    "depth": 1,
    "pole": 1,
    **{
        f"{view} {part}": channels
        for view in ("own", "next", "previous", "opposite")
        for part, channels in (
            ("color", 3), ("missing", 3), ("silhouette", 1), ("coverage", 1), ("gap", 1)
        )
    },
    "gradient": 14,
}  # fmt: skip
CORRECTION_CHANNELS = sum(CORRECTION_PARTS.values())


@dataclass(frozen=True)
class Preset:
    """One architecture. `big`, `small` and `tiny` are the official ones."""

    down_channels: tuple[int, ...]
    down_attention: tuple[bool, ...]
    up_channels: tuple[int, ...]
    up_attention: tuple[bool, ...]
    splat_size: int  # Gaussians per view side; input_size / 2**(downs - ups)
    input_size: int = 256  # pixels
    mid_attention: bool = True
    output_size: int = 256  # pixels of the renders it was trained against
    decoding: Literal["world", "hull", "correction"] = "world"
    """`world`: positions are absolute coordinates, the official way. `hull`: the network corrects
    the visual hull of the four silhouettes (see `lgm.network.hull`), which a small network
    learns far sooner. `correction`: what a corrector adds to the first network's output."""

    poles: bool = False
    """Two more maps of Gaussians, as seen from straight above and below: level views see tops and
    undersides edge-on, and have no pixels for them. `hull` only."""

    corrector: Preset | None = None
    """A second, smaller U-Net on the grid of the Gaussians: it looks at the first one's splat as
    drawn beside the pictures, and corrects it (see `lgm.network.correction`). `hull` only."""

    def __post_init__(self) -> None:
        levels = len(self.down_channels) - len(self.up_channels)
        if self.splat_size * 2**levels != self.input_size:
            raise ValueError(
                f"splat_size must be input_size / 2**{levels} = {self.input_size // 2**levels}, "
                f"got {self.splat_size}."
            )
        if (self.poles or self.corrector) and self.decoding != "hull":
            raise ValueError(f"Poles and correctors need the decoding hull, got {self.decoding}.")

    @property
    def in_channels(self) -> int:
        if self.decoding == "correction":
            return CORRECTION_CHANNELS
        hull = HULL_CHANNELS + self.poles * POLE_CHANNELS
        return INPUT_CHANNELS + (hull if self.decoding == "hull" else 0)

    @property
    def map_count(self) -> int:
        """Maps of Gaussians from four views."""
        return VIEW_COUNT + self.poles * POLES

    @property
    def gaussian_count(self) -> int:
        return self.map_count * self.splat_size**2


PRESETS: dict[str, Preset] = {
    "big": Preset(  # the released weights, 415 M parameters
        down_channels=(64, 128, 256, 512, 1024, 1024),
        down_attention=(False, False, False, True, True, True),
        up_channels=(1024, 1024, 512, 256, 128),
        up_attention=(True, True, True, False, False),
        splat_size=128,
        output_size=512,
    ),
    "small": Preset(  # 413 M parameters, a quarter of the Gaussians
        down_channels=(64, 128, 256, 512, 1024, 1024),
        down_attention=(False, False, False, True, True, True),
        up_channels=(1024, 1024, 512, 256),
        up_attention=(True, True, True, False),
        splat_size=64,
    ),
    "tiny": Preset(  # 60 M parameters
        down_channels=(32, 64, 128, 256, 512),
        down_attention=(False, False, False, False, True),
        up_channels=(512, 256, 128),
        up_attention=(True, False, False),
        splat_size=64,
    ),
    "demo": Preset(  # 17 M parameters, bundled: seconds on a laptop's CPU
        down_channels=(32, 64, 96, 128, 192),
        down_attention=(False, False, False, False, True),
        up_channels=(192, 128, 96, 64),
        up_attention=(True, False, False, False),
        splat_size=128,
        decoding="hull",
        poles=True,
        corrector=Preset(
            down_channels=(64, 64, 96, 128),
            down_attention=(False, False, False, True),
            up_channels=(128, 96, 64, 64),
            up_attention=(True, False, False, False),
            splat_size=128,
            input_size=128,
            decoding="correction",
        ),
    ),
}
# Models trained between versions 0.2 and 0.3, and models trained from those.
PRESETS["demo_v2"] = replace(PRESETS["demo"], corrector=None)
# The model bundled with versions 0.1 and 0.2, and what was made of it.
PRESETS["demo_v1"] = replace(PRESETS["demo_v2"], poles=False)


def preset_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name of the preset whose layout these state-dict shapes have, told from the widths and
    whether there is a corrector.

    Raises:
        ValueError: no preset has these widths.
    """
    conv_in = shapes.get("unet.conv_in.weight")
    conv_out = shapes.get("unet.conv_out.weight")
    ups = len({key.split(".")[2] for key in shapes if key.startswith("unet.up_blocks.")})
    downs = len({key.split(".")[2] for key in shapes if key.startswith("unet.down_blocks.")})
    corrects = any(key.startswith("corrector.") for key in shapes)
    for name, preset in PRESETS.items():
        first = (preset.down_channels[0], preset.in_channels, 3, 3)
        last = (OUTPUT_CHANNELS, preset.up_channels[-1], 3, 3)
        if (
            conv_in is not None
            and conv_out is not None
            and (tuple(conv_in), tuple(conv_out), downs, ups)
            == (first, last, len(preset.down_channels), len(preset.up_channels))
            and corrects == (preset.corrector is not None)
        ):
            return name
    raise ValueError(
        f"The weights must be of a preset among {', '.join(PRESETS)}, but they have {downs} down "
        f"blocks, {ups} up blocks and unet.conv_in.weight "
        f"{list(conv_in) if conv_in else 'missing'}: is this an LGM file?"
    )
