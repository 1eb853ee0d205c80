"""The paper's training items from shards of rendered objects (`renders.shards`).

An item has four inputs from the near-horizontal ring and other views from anywhere. The world is
turned to make the first input the canonical camera; for a network with a visual hull it stays
upright. The inputs are distorted and jittered as in section 3.4. An item depends on the seed and
its number alone, whichever process or worker makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras import FOVY, canonicalize
from ...machine.constants import sent
from ...network.inputs import network_inputs
from ...network.presets import PRESETS
from ..recipe import Recipe, input_azimuths, input_count
from ..renders.shards import Shards, Views
from .augment import GRID_STEPS, distort, jitter
from .batch import Batch, Numbers, Share

HELD_OUT = 8  # the dataset's last objects, or a tenth of a small one: never trained on


@dataclass(frozen=True)
class Item:
    """One object of a `Batch`."""

    inputs: Tensor  # [I, 9, S, S]
    alphas: Tensor  # [I, 1, S, S]
    c2w: Tensor  # [V, 4, 4]
    images: Tensor  # [V, 3, R, R] on white
    masks: Tensor  # [V, 1, R, R]
    trusted: Tensor  # [I]
    name: str


def split(count: int) -> tuple[range, range]:
    """Indices of the objects to train on, and of the held-out ones."""
    held_out = min(HELD_OUT, max(1, count // 10))
    if count - held_out < 1:
        raise ValueError(f"Training needs two objects or more, the dataset has {count}.")
    return range(count - held_out), range(count - held_out, count)


def even_views(ring: list[int], c2w: Tensor, inputs: int, start: int) -> list[int]:
    """The ring's views nearest to even steps around the object, in order from `ring[start]`."""
    azimuths = torch.rad2deg(torch.atan2(c2w[ring, 0, 3], c2w[ring, 2, 3]))
    wanted = azimuths[start] + torch.tensor(input_azimuths(inputs))
    apart = ((wanted[:, None] - azimuths + 180) % 360 - 180).abs()
    return [ring[index] for index in apart.argmin(1).tolist()]


def choose_views(
    ring: list[int], c2w: Tensor, recipe: Recipe, inputs: int, rng: np.random.Generator | None
) -> list[int]:
    """Which views to read: inputs from the ring, then others, then spare ones in case some can't be
    read. Without `rng` the views are evenly spaced and always the same.

    Args:
        c2w: [V, 4, 4] of all views.
    """
    total = len(c2w)
    if rng is None:
        first = even_views(ring, c2w, inputs, 0)
        others = [view for view in range(total) if view not in first]
        step = max(1, len(others) // max(1, recipe.view_count - inputs))
        return first + others[::step]
    if rng.random() < recipe.even_inputs:
        first = even_views(ring, c2w, inputs, int(rng.integers(len(ring))))
        return first + rng.permutation(total).tolist()
    drawn = rng.permutation(len(ring))[:inputs]
    if len(drawn) < inputs:
        drawn = np.concatenate([drawn, rng.integers(len(ring), size=inputs - len(drawn))])
    # An input may be among the others again, as in the original.
    return [ring[index] for index in drawn] + rng.permutation(total).tolist()


def read_views(
    shards: Shards, index: int, recipe: Recipe, inputs: int, rng: np.random.Generator | None
) -> Views:
    """Exactly `view_count` views; if too few can be read, the last one is repeated."""
    order = choose_views(shards.inputs(index), shards.cameras(index), recipe, inputs, rng)
    found = shards.read(index, order[: recipe.view_count])
    missing = recipe.view_count - len(found.images)
    if missing:
        more = order[recipe.view_count : recipe.view_count + missing]
        if more:
            found = joined(found, shards.read(index, more))
        repeat = recipe.view_count - len(found.images)
        if repeat > 0:
            found = joined(found, *[last(found)] * repeat)
    return found


def joined(*parts: Views) -> Views:
    first = parts[0]
    return Views(
        first.name,
        torch.cat([part.images for part in parts]),
        torch.cat([part.c2w for part in parts]),
        first.fovy,
        tuple(view for part in parts for view in part.ids),
    )


def last(views: Views) -> Views:
    return Views(views.name, views.images[-1:], views.c2w[-1:], views.fovy, views.ids[-1:])


def facing(c2w: Tensor) -> Tensor:
    """Poses [V, 4, 4] after turning the world about y to put the first camera at azimuth 0, as it
    is at inference. The world stays upright, which networks with a visual hull rely on.
    """
    x, z = c2w[0, 0, 3], c2w[0, 2, 3]
    turn = torch.eye(4)
    length = torch.hypot(x, z)
    if length > 1e-6:  # a camera straight above has no azimuth
        sine, cosine = x / length, z / length
        turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = cosine, -sine, sine, cosine
    return turn @ c2w


def make_item(
    found: Views, recipe: Recipe, size: int, inputs: int, rng: np.random.Generator | None
) -> Item:
    """An item from its views; augmented if there is an `rng`.

    Raises:
        ValueError: the images' field of view is not the model's.
    """
    if abs(found.fovy - FOVY) > 0.5:
        raise ValueError(
            f"{found.name} was rendered with a field of view of {found.fovy:.1f} degrees; training "
            f"needs {FOVY}: render the meshes again with `lgm dataset --meshes`."
        )
    rgba = found.images.float() / 255
    colors, masks = rgba.split((3, 1), dim=1)
    images = colors * masks + (1 - masks)
    is_world = PRESETS[recipe.preset].decoding == "world"
    c2w = canonicalize(found.c2w) if is_world else facing(found.c2w)

    def resized(x: Tensor, side: int) -> Tensor:
        return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)

    views = resized(torch.cat([images, masks], dim=1)[:inputs], size)
    poses, trusted = c2w[:inputs], torch.ones(inputs)
    if rng is not None and inputs > 1:
        if rng.random() < recipe.distortion_chance:
            knots = int(rng.integers(GRID_STEPS[0], GRID_STEPS[1] + 1))
            draws = torch.from_numpy(rng.random((2 * (inputs - 1), knots))).float()
            views = distort(views[None], draws[None])[0]
            trusted[1:] = 0
        if rng.random() < recipe.jitter_chance:
            angles = torch.from_numpy(rng.random((2, inputs - 1, 1))).float()[:, None]
            poses = jitter(poses[None], angles)[0]
    target = size * recipe.render_scale
    colors, alphas = views.split((3, 1), dim=1)
    return Item(
        network_inputs(colors[None], poses[None])[0], alphas, c2w,
        resized(images, target), resized(masks, target), trusted, found.name,
    )  # fmt: skip


class Items(torch.utils.data.IterableDataset):
    """An endless stream of one process's items: every object once per epoch, in a new order."""

    def __init__(
        self, shards: Shards, recipe: Recipe, stage: int, seed: int, numbers: Numbers, augment: bool
    ):
        self.shards, self.recipe, self.stage, self.seed = shards, recipe, stage, seed
        self.numbers, self.augment = numbers, augment
        self.indices = split(len(shards))[0]

    def __iter__(self) -> Iterator[Item]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        ordered_epoch, order = -1, np.empty(0, int)
        for number in islice(self.numbers, first, None, step):  # workers take turns
            epoch, position = divmod(number, len(self.indices))
            if epoch != ordered_epoch:
                order = np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))
                ordered_epoch = epoch
            index = self.indices[int(order[position])]
            # All items of a step have the same number of inputs.
            begin = number - (number - self.numbers.first) % self.numbers.share.total
            inputs = input_count(self.recipe, self.seed, begin)
            rng = np.random.default_rng([self.seed, number, 3])
            found = read_views(self.shards, index, self.recipe, inputs, rng)
            size = self.recipe.sizes[self.stage]
            yield make_item(found, self.recipe, size, inputs, rng if self.augment else None)


class ShardBatches:
    """Makes batches of rendered objects from shards: a `BatchSource`."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        device: torch.device,
        seed: int,
        workers: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.shards = Shards(folder)
        self.recipe, self.device, self.seed, self.workers = (
            recipe,
            torch.device(device),
            seed,
            workers,
        )
        self.rank, self.world = rank, world
        self.items: Iterator[Item] = iter(())
        self.next_item: tuple[int, int, bool] | None = None

    def batches(self, first: int, stage: int, progress: float) -> list[Batch]:
        """See `BatchSource.batches`."""
        share = Share.of(self.recipe, stage, self.rank, self.world)
        augment = progress >= self.recipe.augment_from
        if self.next_item != (stage, first, augment):
            items = Items(
                self.shards, self.recipe, stage, self.seed, Numbers(first, share), augment
            )
            self.items = iter(
                torch.utils.data.DataLoader(
                    items,
                    batch_size=None,
                    num_workers=self.workers,
                    prefetch_factor=2 * share.batch if self.workers else None,
                )
            )
        self.next_item = (stage, first + share.total, augment)
        return [
            collate([next(self.items) for _ in range(share.batch)], self.device)
            for _ in range(share.accumulation)
        ]

    def validation(self, stage: int) -> list[Batch]:
        """The held-out objects, one per batch, without augmentation."""
        size, inputs = self.recipe.sizes[stage], self.recipe.input_counts[-1]
        return [
            collate([make_item(read_views(self.shards, i, self.recipe, inputs, None), self.recipe,
                               size, inputs, None)], self.device)
            for i in split(len(self.shards))[1]
        ]  # fmt: skip

    def wait_until_idle(self) -> None:
        """Return at once: worker processes read the shards, and no thread uses the GPU."""


def collate(items: list[Item], device: torch.device) -> Batch:
    def stack(name: str) -> Tensor:
        return sent(torch.stack([getattr(item, name) for item in items]), device)

    return Batch(
        stack("inputs"), stack("alphas"), stack("c2w"), stack("images"), stack("masks"), None,
        stack("trusted"), [item.name for item in items],
    )  # fmt: skip
