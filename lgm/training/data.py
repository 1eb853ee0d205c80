"""Training batches: objects, light, cameras and pictures drawn fresh on the device.

Worker processes only draw numbers (which object, which changes); geometry and pictures are made
where the model is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import FOVY, INPUT_AZIMUTHS, canonicalize, focal_length, orbit_poses
from ..hull import depth_rays, key_white
from ..model import network_inputs
from ..presets import PRESETS, VIEW_COUNT
from .augment import GRID_STEPS, grid_distortion, orbital_jitter
from .meshes import MeshPack
from .procedural import build, draw_parameters, random_lights
from .rasterize import Renders, TriangleSoup, rasterize

NOVEL_ELEVATIONS = (-40.0, 70.0)  # degrees, of the supervised views that aren't inputs
INPUT_ELEVATIONS = (-10.0, 30.0)  # of the input ring, when it isn't level


@dataclass(frozen=True)
class Batch:
    inputs: Tensor  # [B, 4, 9, S, S]
    alphas: Tensor  # [B, 4, 1, S, S], silhouettes as the network is told
    c2w: Tensor  # [B, V, 4, 4], exact cameras; the first four are the inputs'
    images: Tensor  # [B, V, 3, R, R], targets on white
    masks: Tensor  # [B, V, 1, R, R]
    depths: Tensor  # [B, V, 1, R, R], camera z, 0 where nothing is
    trusted: Tensor  # [B, 4], 1 where an input picture is undistorted: its pixels' surface is known

    def surface(self, gaussian_count: int) -> tuple[Tensor, Tensor]:
        """Surface points [B, N, 3] of the inputs' splat grid; weights [B, N, 1], 1 where known."""
        size = int((gaussian_count // VIEW_COUNT) ** 0.5)
        factor = self.masks.shape[-1] // size
        masks = F.avg_pool2d(self.masks[:, :VIEW_COUNT].flatten(0, 1), factor)
        depths = F.avg_pool2d(self.depths[:, :VIEW_COUNT].flatten(0, 1), factor)
        c2w = self.c2w[:, :VIEW_COUNT]
        tangent = torch.full(c2w.shape[:2], 0.5 / focal_length(1, FOVY), device=c2w.device)
        rays = depth_rays(c2w, tangent, size)
        depths = depths.view(*c2w.shape[:2], size, size, 1)
        points = c2w[:, :, None, None, :3, 3] + depths * rays
        # Half-covered pixels mix the depths of object and nothing.
        known = (masks > 0.99).view(*c2w.shape[:2], size, size, 1) * self.trusted[
            :, :, None, None, None
        ]
        return points.flatten(1, 3), known.flatten(1, 3)


class Draws(torch.utils.data.IterableDataset):
    """An endless stream of procedural objects' parameters and, as plain integers, places in the
    mesh pack.
    """

    def __init__(self, seed: int, mesh_count: int, mesh_share: float):
        self.seed, self.mesh_count, self.mesh_share = seed, mesh_count, mesh_share

    def __iter__(self) -> Iterator[object]:
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(f"{self.seed} {worker.id if worker else 0}")
        while True:
            if self.mesh_count and rng.random() < self.mesh_share:
                yield rng.randrange(self.mesh_count)
            else:  # reserved seeds of the evaluation start at two billion
                yield draw_parameters(rng.randrange(2_000_000_000))


def draw_cameras(
    batch: int, view_count: int, device: torch.device, generator: torch.Generator
) -> Tensor:
    """[B, V, 4, 4]: mostly the exact input ring, sometimes raised, sometimes uneven; then views
    from anywhere.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    kind = torch.rand(batch, 1, generator=generator)
    elevations = torch.where(kind < 0.75, 0.0, uniform(*INPUT_ELEVATIONS, batch, 1)).expand(
        -1, VIEW_COUNT
    )
    azimuths = torch.tensor(INPUT_AZIMUTHS).expand(batch, -1)
    azimuths = azimuths + torch.where(kind < 0.9, 0.0, uniform(-20, 20, batch, VIEW_COUNT))
    novel = (batch, view_count - VIEW_COUNT)
    azimuths = torch.cat([azimuths, uniform(0, 360, *novel)], dim=1)
    elevations = torch.cat([elevations, uniform(*NOVEL_ELEVATIONS, *novel)], dim=1)
    poses = orbit_poses(azimuths.flatten(), elevations.flatten())
    return poses.view(batch, view_count, 4, 4).to(device)


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


@dataclass(frozen=True)
class Scenes:
    """Rendered objects, before the inputs are augmented."""

    c2w: Tensor  # [K, V, 4, 4]
    renders: Renders
    ready: torch.cuda.Event | None  # the GPU has made them

    def __len__(self) -> int:
        return len(self.c2w)


class BatchMaker:
    """Makes batches for one process. `recipe` as in `lgm.training.train`.

    Objects are made several batches at a time, because a group costs little more than a single one,
    and on a GPU in a thread and stream of their own, while the network learns from the group
    before.
    """

    def __init__(self, pack: Path | None, recipe, device: torch.device, seed: int, workers: int):
        self.recipe, self.device = recipe, torch.device(device)
        self.generator = torch.Generator().manual_seed(
            seed
        )  # cameras and light: used by the maker of scenes
        self.augmenter = torch.Generator().manual_seed(seed + 1)
        self.rng = np.random.default_rng(seed)
        self.pack = MeshPack.load(pack, device) if pack else None
        self.indices = self.pack.train_indices if self.pack else []
        draws = Draws(seed, len(self.indices), recipe.mesh_share)
        self.draws = iter(
            torch.utils.data.DataLoader(
                draws, batch_size=None, num_workers=workers, prefetch_factor=64 if workers else None
            )
        )
        self.stage, self.scenes, self.used = -1, None, 0
        self.pending: Future[Scenes] | None = None
        self.executor = ThreadPoolExecutor(1) if self.device.type == "cuda" else None
        self.stream = torch.cuda.Stream(self.device) if self.executor else None

    def objects(self, count: int) -> TriangleSoup:
        """The next `count` objects."""
        drawn = [next(self.draws) for _ in range(count)]
        procedural = [record for record in drawn if not isinstance(record, int)]
        meshes = [self.indices[record] for record in drawn if isinstance(record, int)]
        soups = []
        if procedural:
            textures = self.pack.atlas if self.pack else None
            soups.append(build(procedural, self.device, textures=textures))
        if meshes:
            soups.append(self.pack.soup(meshes, self.pack.draw_augmentation(meshes, self.rng)))
        return merge(soups)

    @torch.no_grad()
    def make_scenes(self, stage: int) -> Scenes:
        recipe = self.recipe
        count = recipe.batch_sizes[stage] * (recipe.batches_per_group if self.executor else 1)
        c2w = draw_cameras(count, recipe.view_count, self.device, self.generator)
        lights = random_lights(self.generator, count, self.device)
        size = recipe.sizes[stage] * recipe.render_scale
        renders = rasterize(self.objects(count), lights, c2w, size, supersample=2)
        if PRESETS[recipe.preset].decoding == "world":
            c2w = canonicalize(c2w)  # absolute positions need a world that the inputs determine
        # Sources are ordered, objects must not be: every batch gets its share of each.
        order = torch.randperm(count, generator=self.generator).to(self.device)
        renders = Renders(renders.images[order], renders.alphas[order], renders.depths[order])
        return Scenes(c2w[order], renders, None)

    def make_scenes_aside(self, stage: int) -> Scenes:
        """`make_scenes` on the side stream, from the worker thread."""
        torch.cuda.set_device(self.device)
        with torch.cuda.stream(self.stream):
            scenes = self.make_scenes(stage)
            ready = torch.cuda.Event()
            ready.record()
            return replace(scenes, ready=ready)

    def next_scenes(self, stage: int) -> Scenes:
        if self.executor is None:
            return self.make_scenes(stage)
        if self.pending is None or stage != self.stage:
            self.pending = self.executor.submit(self.make_scenes_aside, stage)
        scenes = self.pending.result()
        self.pending = self.executor.submit(self.make_scenes_aside, stage)
        current = torch.cuda.current_stream(self.device)
        current.wait_event(scenes.ready)
        for tensor in (
            scenes.c2w,
            scenes.renders.images,
            scenes.renders.alphas,
            scenes.renders.depths,
        ):
            tensor.record_stream(
                current
            )  # its memory is not reused before this stream is done with it
        return scenes

    def chance(self, probability: float, *shape: int) -> Tensor:
        return (torch.rand(*shape, generator=self.augmenter) < probability).to(self.device)

    @torch.no_grad()
    def batch(self, stage: int, progress: float) -> Batch:
        recipe = self.recipe
        count = recipe.batch_sizes[stage]
        if self.scenes is None or stage != self.stage or self.used + count > len(self.scenes):
            self.scenes = None  # frees the memory before the next group arrives
            self.scenes, self.used = self.next_scenes(stage), 0
            self.stage = stage
        part = slice(self.used, self.used + count)
        self.used += count
        c2w, renders = self.scenes.c2w[part], self.scenes.renders
        images, masks, depths = renders.images[part], renders.alphas[part], renders.depths[part]
        views, silhouettes = (
            F.interpolate(
                x[:, :VIEW_COUNT].flatten(0, 1), recipe.sizes[stage], mode="bilinear"
            ).unflatten(0, (count, VIEW_COUNT))
            for x in (images, masks)
        )
        guessed = self.chance(recipe.key_white, count, 1, 1, 1, 1)
        alphas = torch.where(guessed, key_white(views), silhouettes)
        poses = c2w[:, :VIEW_COUNT]
        trusted = torch.ones(count, VIEW_COUNT, device=self.device)
        if progress >= recipe.augment_from:
            views, alphas, trusted = self.distort(views, alphas, trusted)
            poses = self.jitter(poses)
        return Batch(network_inputs(views, poses), alphas, c2w, images, masks, depths, trusted)

    def distort(
        self, views: Tensor, alphas: Tensor, trusted: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Grid distortion on views 1-3 of some of the objects, the paper's half by default."""
        knots = int(torch.randint(GRID_STEPS[0], GRID_STEPS[1] + 1, (), generator=self.augmenter))
        chosen = torch.cat([views, alphas], dim=2)[:, 1:]
        uniforms = torch.rand(
            2 * chosen.shape[0] * chosen.shape[1], knots, generator=self.augmenter
        )
        warped = grid_distortion(chosen.flatten(0, 1), uniforms.to(self.device)).view_as(chosen)
        apply = self.chance(self.recipe.distortion_chance, len(views))
        mixed = torch.where(apply[:, None, None, None, None], warped, chosen)
        colors, mask = mixed.split((3, 1), dim=2)
        trusted = trusted.clone()
        trusted[:, 1:] *= (~apply)[:, None].float()
        return torch.cat([views[:, :1], colors], 1), torch.cat([alphas[:, :1], mask], 1), trusted

    def jitter(self, poses: Tensor) -> Tensor:
        """Orbital jitter on the poses of views 1-3 of some of the objects; their rendering cameras
        stay exact.
        """
        moved = poses[:, 1:].flatten(0, 1)
        first = torch.rand(len(moved), 1, generator=self.augmenter).to(self.device)
        second = torch.rand(len(moved), 1, generator=self.augmenter).to(self.device)
        jittered = orbital_jitter(moved, first, second).view_as(poses[:, 1:])
        apply = self.chance(self.recipe.jitter_chance, len(poses))[:, None, None, None]
        return torch.cat([poses[:, :1], torch.where(apply, jittered, poses[:, 1:])], dim=1)
