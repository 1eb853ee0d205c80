"""Training batches of objects that are drawn anew for each: shapes, light, cameras and images.

Worker processes only draw random numbers (which object, which changes); geometry and images are
made on the model's device.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras import canonicalize, orbit_poses
from ...network.hull import key_white
from ...network.inputs import network_inputs
from ...network.presets import POLES, PRESETS, VIEW_COUNT
from ...network.views import polar_poses
from ..packs.pack import Augmentation as MeshAugmentation
from ..packs.pack import MeshPack
from ..procedural.objects import build, draw_parameters, random_lights
from ..rasterize import Lights, Renders, TriangleSoup, rasterize
from ..recipe import Recipe, input_azimuths, input_count
from .ahead import Scenes, ScenesAhead, Start
from .augment import Augmentation, distort, jitter
from .batch import Batch, Numbers, Share

NOVEL_ELEVATIONS = (-35.0, 60.0)  # degrees, of the supervised views that aren't inputs
VALIDATION_OBJECTS = 8
INPUT_ELEVATIONS = (-10.0, 30.0)  # of the input ring, when it isn't level


class Draws(torch.utils.data.IterableDataset):
    """An endless stream of one process's objects: a procedural object's parameters, or an index
    among the meshes of all packs. A sample depends on the seed and its number alone.

    Args:
        numbers: the samples' numbers, in the order of use.
        mesh_counts: number of meshes in each pack; every pack is drawn equally often.
    """

    def __init__(self, seed: int, numbers: Numbers, mesh_counts: Sequence[int], mesh_share: float):
        self.seed, self.numbers = seed, numbers
        self.mesh_counts, self.mesh_share = mesh_counts, mesh_share

    def __iter__(self) -> Iterator[object]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in islice(self.numbers, first, None, step):  # workers take turns
            rng = random.Random(f"{self.seed} {number}")
            if self.mesh_counts and rng.random() < self.mesh_share:
                pack = rng.randrange(len(self.mesh_counts)) if len(self.mesh_counts) > 1 else 0
                yield sum(self.mesh_counts[:pack]) + rng.randrange(self.mesh_counts[pack])
            else:  # reserved seeds of the evaluation start at two billion
                yield draw_parameters(rng.randrange(2_000_000_000))


def draw_cameras(
    batch: int, inputs: int, view_count: int, generator: torch.Generator, poles: bool = False
) -> Tensor:
    """Cameras [B, V, 4, 4]: a ring of inputs, which is level for three quarters of the objects and
    evenly spaced for nine tenths; the pole views, if the preset has them; then views from anywhere.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    kind = torch.rand(batch, 1, generator=generator)
    elevations = torch.where(kind < 0.75, 0.0, uniform(*INPUT_ELEVATIONS, batch, 1))
    elevations = elevations.expand(-1, inputs)
    azimuths = torch.tensor(input_azimuths(inputs)).expand(batch, -1)
    azimuths = azimuths + torch.where(kind < 0.9, 0.0, uniform(-20, 20, batch, inputs))
    novel = (batch, view_count - inputs - POLES * poles)
    azimuths = torch.cat([azimuths, uniform(0, 360, *novel)], dim=1)
    elevations = torch.cat([elevations, uniform(*NOVEL_ELEVATIONS, *novel)], dim=1)
    c2w = orbit_poses(azimuths.flatten(), elevations.flatten()).view(batch, -1, 4, 4)
    if not poles:
        return c2w
    return torch.cat([c2w[:, :inputs], polar_poses(c2w[:, 0]), c2w[:, inputs:]], dim=1)


def merge(soups: list[TriangleSoup]) -> TriangleSoup:
    """Objects of several soups as one batch, in order."""
    if len(soups) == 1:
        return soups[0]
    atlas = torch.cat([soup.atlas for soup in soups])
    rows = objects = 0
    textures, numbers = [], []
    for soup in soups:
        textures.append(torch.where(soup.textures < 0, -1, soup.textures + rows))
        numbers.append(soup.objects + objects)
        rows, objects = rows + len(soup.atlas), objects + soup.count
    joined = (
        torch.cat([getattr(s, name) for s in soups])
        for name in ("corners", "normals", "uvs", "colors")
    )
    return TriangleSoup(*joined, torch.cat(textures), torch.cat(numbers), atlas, objects)


class BatchMaker:
    """Makes batches of procedural objects and of the meshes of packs: a `BatchSource`.

    A batch depends on the seed and the number of its first sample alone. A run can therefore
    continue after a stop, and on another number of processes. On a GPU, objects of several steps
    are made together, which takes little longer than those of one step.
    """

    def __init__(
        self,
        packs: Sequence[Path],
        recipe: Recipe,
        device: torch.device,
        seed: int,
        workers: int,
        rank: int = 0,
        world: int = 1,
    ):
        drawn = max(recipe.input_counts) + POLES * PRESETS[recipe.preset].poles
        if recipe.view_count < drawn:
            raise ValueError(
                f"Objects of the preset {recipe.preset} are drawn from {drawn} views or more, the "
                f"inputs' and the poles'; got view_count {recipe.view_count}."
            )
        self.recipe, self.device, self.seed, self.workers = recipe, device, seed, workers
        self.rank, self.world = rank, world
        loaded = [MeshPack.load(path, device) for path in packs]
        self.pack = MeshPack.joined(loaded) if loaded else None
        self.indices = self.pack.train_indices if self.pack else []
        self.mesh_counts = [count for pack in loaded if (count := len(pack.train_indices))]
        self.draws: Iterator[object] | None = None
        self.next_draw = (-1, -1)  # stage and number of the sample that `draws` gives next
        self.scenes, self.made = None, (-1, -1)  # stage and first sample of what is made
        self.steps_per_group = recipe.batches_per_group if device.type == "cuda" else 1
        self.ahead = ScenesAhead(self._make_scenes, device)

    def share(self, stage: int) -> Share:
        return Share.of(self.recipe, stage, self.rank, self.world)

    def batches(self, first: int, stage: int, progress: float) -> list[Batch]:
        """See `BatchSource.batches`."""
        share = self.share(stage)
        step, offset = divmod(first - self.made[1], share.total)
        in_group = stage == self.made[0] and not offset and 0 <= step < self.steps_per_group
        if self.scenes is None or not in_group:
            self.scenes = None  # frees the memory before the next group arrives
            following = (stage, first + self.steps_per_group * share.total)
            self.scenes = self.ahead.take((stage, first), following)
            self.made, step = (stage, first), 0
        generator = torch.Generator().manual_seed(_mixed(self.seed, first, 1))
        count = share.batch * share.accumulation
        start = step * count  # of this step's objects in the group
        inputs = input_count(self.recipe, self.seed, first)
        plan = Augmentation.draw(generator, share, self.recipe, inputs, progress)
        return [
            self._batch(
                stage,
                slice(start + i * share.batch, start + (i + 1) * share.batch),
                plan.part(i * share.batch, (i + 1) * share.batch).to(self.device),
            )
            for i in range(share.accumulation)
        ]

    def _objects(self, stage: int, first: int, count: int) -> tuple[TriangleSoup, Tensor, list]:
        """This process's next objects, procedural ones first; `order[i]`, the batch row of object
        i; and the names of the rows.
        """
        if self.next_draw != (stage, first):
            draws = Draws(
                self.seed, Numbers(first, self.share(stage)), self.mesh_counts,
                self.recipe.mesh_share,
            )  # fmt: skip
            self.draws = iter(
                torch.utils.data.DataLoader(
                    draws,
                    batch_size=None,
                    num_workers=self.workers,
                    prefetch_factor=64 if self.workers else None,
                )
            )
        drawn = [next(self.draws) for _ in range(count)]
        numbers = list(islice(Numbers(first, self.share(stage)), count))
        steps = count // (self.share(stage).batch * self.recipe.accumulation)
        self.next_draw = (stage, first + steps * self.share(stage).total)
        made = [not isinstance(record, int) for record in drawn]
        order = sorted(range(count), key=lambda i: not made[i])  # procedural ones first
        procedural = [record for record in drawn if not isinstance(record, int)]
        meshes = [self.indices[record] for record in drawn if isinstance(record, int)]
        soups = []
        if procedural:
            textures = self.pack.atlas if self.pack else None
            soups.append(build(procedural, self.device, textures=textures))
        if meshes:
            rngs = [
                np.random.default_rng([self.seed, number])
                for number, is_made in zip(numbers, made, strict=True)
                if not is_made
            ]
            changes = [
                self.pack.draw_augmentation([mesh], rng)
                for mesh, rng in zip(meshes, rngs, strict=True)
            ]
            soups.append(self.pack.soup(meshes, join(changes)))
        names = [
            self.pack.entries[self.indices[record]]["name"] if isinstance(record, int)
            else f"procedural object {number}"
            for record, number in zip(drawn, numbers, strict=True)
        ]  # fmt: skip
        return merge(soups), torch.tensor(order), names

    @torch.no_grad()
    def _make_scenes(self, start: Start) -> Scenes:
        """Draw and render the objects of a group of steps."""
        stage, first = start
        recipe, share = self.recipe, self.share(stage)
        c2w, lights = [], []
        for step in range(self.steps_per_group):
            number = first + step * share.total
            generator = torch.Generator().manual_seed(_mixed(self.seed, number, 0))
            inputs = input_count(recipe, self.seed, number)
            cameras = draw_cameras(
                share.total, inputs, recipe.view_count, generator, PRESETS[recipe.preset].poles
            )
            c2w.append(share.own(cameras))
            drawn = random_lights(generator, share.total)
            lights.append(Lights(*(share.own(getattr(drawn, f.name)) for f in fields(Lights))))
        c2w = torch.cat(c2w)
        soup, order, names = self._objects(stage, first, len(c2w))
        light = Lights(
            *(torch.cat([getattr(x, f.name) for x in lights])[order] for f in fields(Lights))
        ).to(self.device)
        size = recipe.sizes[stage] * recipe.render_scale
        renders = rasterize(soup, light, c2w[order].to(self.device), size, supersample=2)
        back = order.argsort().to(self.device)
        renders = Renders(renders.images[back], renders.alphas[back], renders.depths[back])
        c2w = c2w.to(self.device)
        if PRESETS[recipe.preset].decoding == "world":
            c2w = canonicalize(c2w)  # absolute positions need a world that the inputs determine
        return Scenes(c2w, renders, names)

    def wait_until_idle(self) -> None:
        """See `BatchSource.wait_until_idle`."""
        self.ahead.wait_until_idle()

    @torch.no_grad()
    def validation(self, stage: int) -> list[Batch]:
        """Procedural objects from reserved seeds, in the light and views of the evaluation."""
        from ..evaluation_set import evaluation_poses, heldout, soft_light

        first, inputs = heldout()["t0"]["first_seed"], self.recipe.input_counts[-1]
        novel = evaluation_poses()[VIEW_COUNT:].float()
        ring = orbit_poses(input_azimuths(inputs))
        c2w = torch.cat([ring, novel])[None].to(self.device)
        size = self.recipe.sizes[stage]
        batches = []
        for seed in range(first, first + VALIDATION_OBJECTS):
            soup = build([draw_parameters(seed)], self.device)
            drawn = rasterize(
                soup, soft_light(1).to(self.device), c2w, size * self.recipe.render_scale
            )
            views, alphas = (
                F.interpolate(x[0, :inputs], size, mode="bilinear")[None]
                for x in (drawn.images, drawn.alphas)
            )
            poses = canonicalize(c2w) if PRESETS[self.recipe.preset].decoding == "world" else c2w
            batches.append(
                Batch(
                    network_inputs(views, poses[:, :inputs]), alphas, poses, drawn.images,
                    drawn.alphas, drawn.depths, torch.ones(1, inputs), [f"procedural/{seed}"],
                )
            )  # fmt: skip
        return batches

    @torch.no_grad()
    def _batch(self, stage: int, part: slice, plan: Augmentation) -> Batch:
        recipe, inputs = self.recipe, plan.inputs
        c2w, renders = self.scenes.c2w[part], self.scenes.renders
        images, masks, depths = renders.images[part], renders.alphas[part], renders.depths[part]
        views, silhouettes = (
            F.interpolate(
                x[:, :inputs].flatten(0, 1), recipe.sizes[stage], mode="bilinear"
            ).unflatten(0, (len(c2w), inputs))
            for x in (images, masks)
        )
        alphas = torch.where(plan.keyed[:, None, None, None, None], key_white(views), silhouettes)
        views = distort(torch.cat([views, alphas], dim=2), plan.grid, plan.distorted)
        views, alphas = views.split((3, 1), dim=2)
        trusted = torch.ones(views.shape[:2], device=views.device)
        trusted[:, 1:] *= (~plan.distorted)[:, None].float()
        if PRESETS[recipe.preset].poles:
            trusted = torch.cat([trusted, trusted.new_ones(len(trusted), POLES)], dim=1)
        poses = jitter(c2w[:, :inputs], plan.angles, plan.jittered)
        names = self.scenes.names[part]
        return Batch(
            network_inputs(views, poses), alphas, c2w, images, masks, depths, trusted, names,
            plan.uncorrected,
        )  # fmt: skip


def join(changes: list[MeshAugmentation]) -> MeshAugmentation:
    """The changes of several objects as one record."""
    return MeshAugmentation(
        **{
            f.name: torch.cat([getattr(change, f.name) for change in changes])
            for f in fields(MeshAugmentation)
        }
    )


def _mixed(seed: int, number: int, purpose: int) -> int:
    """A seed for one purpose of the step with this first sample; other steps have others."""
    words = np.random.SeedSequence([seed, number, purpose]).generate_state(2)
    return int(words[0]) << 31 ^ int(words[1])
