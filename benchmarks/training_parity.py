"""Does our training compute what the original's does?
`python benchmarks/training_parity.py --original DIR [--packages DIR] [--preset tiny] [--cuda]`

DIR is a checkout of github.com/3DTopia/LGM; the folder of packages holds kiui and lazy_loader
(`pip install --no-deps --target DIR kiui==0.2.8 lazy_loader`). Two objects, one augmented and one
not, are read by the original's dataset class and by ours from the same files, and go through the
original's `LGM.forward` and our `loss_terms` with the same random weights, fp32. LPIPS has random
weights too, and no dropout. Printed are differences relative to the norm of the original's value.

On the CPU the original's rasterizer is replaced by ours, called as the original calls its own; so
are roma, cv2, torchvision and tyro where they are missing. With --cuda the folder of packages needs
a built `diff_gaussian_rasterization`. `tiny` takes two minutes of CPU time.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["XFORMERS_DISABLED"] = "1"  # half precision only; the original has plain attention, too

import numpy as np
import torch
from original_lgm import import_original
from PIL import Image
from torch import Tensor

from lgm.cameras import orbit_poses, world_to_camera
from lgm.gaussians import CHANNELS, Gaussians
from lgm.network.model import LGM
from lgm.network.presets import PRESETS
from lgm.render import render_finite
from lgm.training.batches.batch import Batch
from lgm.training.batches.rendered import collate, make_item
from lgm.training.learning import lpips as our_lpips
from lgm.training.learning import network as our_network
from lgm.training.learning import step as our_step
from lgm.training.learning.network import for_training
from lgm.training.learning.run import Run
from lgm.training.learning.step import loss_terms
from lgm.training.procedural.objects import procedural_objects, random_lights
from lgm.training.rasterize import rasterize
from lgm.training.recipe import RECIPES, Recipe
from lgm.training.renders.shards import Views, decode_picture
from lgm.training.renders.sources import read_render

BAR = 1e-4  # largest relative difference allowed
OBJECTS = {"plain": 0.0, "augmented": 1.0}  # and the chance of each augmentation
INPUTS = 4
Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # from y-up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, required=True, help="checkout of 3DTopia/LGM")
    parser.add_argument("--packages", type=Path, help="folder with kiui and what it needs")
    parser.add_argument("--preset", choices=["tiny", "small", "big"], default="tiny")
    parser.add_argument("--cuda", action="store_true", help="with the original's own rasterizer")
    parser.add_argument("--backend", default="auto", help="what draws in our step")
    parser.add_argument("--floor", action="store_true", help="how far rounding moves the original")
    parser.add_argument("--stand-in", default="auto", help="backend in the place of its rasterizer")
    args = parser.parse_args()
    device = torch.device("cuda" if args.cuda else "cpu")
    our_step.render_finite = partial(render_finite, backend=args.backend)
    models, options, provider, utils = import_original(args)
    options = options.config_defaults[args.preset]
    scale = options.output_size // options.input_size
    recipe = replace(RECIPES["paper"], preset=args.preset, render_scale=scale)
    recipe = replace(recipe, view_count=options.num_views)
    print(f"torch {torch.__version__}, {device.type}, {args.preset}, fp32\n")
    print("| | relative difference |\n|---|---:|")
    with tempfile.TemporaryDirectory() as folder:
        items = [
            item_pair(Path(folder) / name, i, chance, options, recipe, provider, utils)
            for i, (name, chance) in enumerate(OBJECTS.items())
        ]
    theirs, ours = zip(*items, strict=True)
    data = {key: torch.stack([item[key] for item in theirs]).to(device) for key in theirs[0]}
    batch = collate(list(ours), device)
    rows = item_rows(data, batch)
    show(rows)
    loss_rows = step_rows(models, options, recipe, data, batch, args.floor)
    show(loss_rows)
    sys.exit(not all(difference <= BAR for difference in (rows | loss_rows).values()))


def show(rows: dict[str, float]) -> None:
    for name, difference in rows.items():
        print(f"| {name} | {difference:.1e} |", flush=True)


def relative(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


# The data item


def item_pair(
    place: Path, number: int, chance: float, options, recipe: Recipe, provider, utils
) -> tuple[dict[str, Tensor], object]:
    """One object's item from the original's dataset class and from ours, with the same draws."""
    chances = {"prob_grid_distortion": chance, "prob_cam_jitter": chance}
    options = replace(options, **chances)
    store, draws = Store(place, number), Draws()
    names = "".join(f"{name}\n" for name in [place.name] * (1 + options.batch_size))
    with ExitStack() as stack:
        stack.enter_context(patch.object(provider.ObjaverseDataset, "_warn", lambda self: None))
        stack.enter_context(
            patch.object(provider, "open", lambda *_: io.StringIO(names), create=True)
        )
        dataset = provider.ObjaverseDataset(options, training=True)
        dataset.client = store
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        draws.listen(stack, utils)
        theirs = dataset[0]
    rendered = read_render(place.name, place.parent, "lgm")
    if rendered.failure:
        raise RuntimeError(f"{place.name} can't be read: {rendered.failure}.")
    stored = sorted(set(store.read))
    order = [stored.index(view) for view in store.read]
    images = torch.stack([decode_picture(rendered.pictures[i]) for i in order])
    found = Views(rendered.name, images, rendered.c2w[order], rendered.fovy, tuple(store.read))
    recipe = replace(recipe, distortion_chance=chance, jitter_chance=chance)
    return theirs, make_item(found, recipe, options.input_size, INPUTS, draws)


class Store:
    """The files of one object of 100 views, in the place of the original's bucket. A view is drawn
    when it is asked for.
    """

    def __init__(self, place: Path, number: int):
        self.place = place
        self.read: list[int] = []  # views, in the order of the requests
        generator = torch.Generator().manual_seed(number)
        azimuths = 360 * torch.rand(100, generator=generator)
        elevations = 90 * torch.rand(100, generator=generator) - 30
        elevations[36:73] /= 4
        self.c2w = orbit_poses(azimuths, elevations)
        self.soup = procedural_objects([number])
        self.lights = random_lights(generator, 1)
        for kind in ("rgb", "pose"):
            (place / kind).mkdir(parents=True)

    def get(self, path: str) -> bytes:
        _, kind, name = Path(path).parts
        file = self.place / kind / name
        if kind == "rgb":
            self.read.append(int(file.stem))
        if not file.is_file():
            self._draw(int(file.stem))
        return file.read_bytes()

    def _draw(self, view: int) -> None:
        c2w = self.c2w[view]
        drawn = rasterize(self.soup, self.lights, c2w[None, None], 512, supersample=2)
        color, alpha = drawn.images[0, 0], drawn.alphas[0, 0]
        color = (color - (1 - alpha)) / alpha.clamp(min=1e-3)
        rgba = torch.cat([color, alpha]).clamp(0, 1).mul(255).round().byte()
        picture = Image.fromarray(rgba.movedim(0, -1).numpy())
        picture.save(self.place / "rgb" / f"{view:03d}.png")
        # Blender's world, OpenCV's camera axes.
        pose = Z_UP @ c2w.double().numpy() @ np.diag([1, -1, -1, 1])
        words = " ".join(f"{value:.9g}" for value in pose.flatten())
        (self.place / "pose" / f"{view:03d}.txt").write_text(words)


@dataclass
class Draws:
    """Notes the original's random draws, then gives them to ours as a numpy Generator would."""

    numbers: list[np.ndarray] = field(default_factory=list)
    knots: int = 0

    def listen(self, stack: ExitStack, utils) -> None:
        def noted(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def drawn(*args, **kwargs) -> Tensor:
                value = draw(*args, **kwargs)
                self.numbers.append(value.double().numpy().ravel())
                return value

            return drawn

        def integer(low: int, high: int, draw=np.random.randint) -> int:
            self.knots = draw(low, high)
            return self.knots

        stack.enter_context(patch.object(utils.torch, "rand", noted(torch.rand)))
        stack.enter_context(patch.object(utils.torch, "rand_like", noted(torch.rand_like)))
        stack.enter_context(patch.object(utils.np.random, "randint", integer))

    def random(self, shape: tuple[int, ...] | None = None) -> float | np.ndarray:
        if shape is None:  # whether to augment: the chances are 0 and 1
            return 0.5
        count, found = math.prod(shape), []
        while sum(map(len, found)) < count:
            found.append(self.numbers.pop(0))
        return np.concatenate(found).reshape(shape)

    def integers(self, low: int, high: int) -> int:
        return self.knots


def item_rows(theirs: dict[str, Tensor], ours: Batch) -> dict[str, float]:
    w2c = world_to_camera(ours.c2w)
    rows = {}
    for i, name in enumerate(OBJECTS):
        colors, rays = theirs["input"][i].split((3, 6), dim=1)
        rows |= {
            f"{name} item: input pictures": relative(ours.inputs[i, :, :3], colors),
            f"{name} item: input rays": relative(ours.inputs[i, :, 3:], rays),
            f"{name} item: target pictures": relative(ours.images[i], theirs["images_output"][i]),
            f"{name} item: target masks": relative(ours.masks[i], theirs["masks_output"][i]),
            f"{name} item: cameras": relative(w2c[i], theirs["cam_view"][i].mT),
        }
    return rows


# Loss and gradients


def step_rows(
    models, options, recipe: Recipe, data: dict[str, Tensor], batch: Batch, floor: bool
) -> dict[str, float]:
    device = batch.images.device
    torch.manual_seed(0)
    model = LGM(PRESETS[recipe.preset])
    move_off_defaults(model)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "vgg.pth", Path(folder) / "heads.pth"
        for weights, file in zip(random_lpips(), files, strict=True):
            torch.save(weights, file)
        lpips = our_lpips.LPIPS(*files).to(device)
    allow_tf32(False)
    original = original_model(models, options, model.state_dict(), data["input"])
    theirs = original_step(models, original, data)
    if floor:
        rounded = data["input"] * (1 + torch.finfo(torch.float32).eps)
        again = original_step(models, original, data | {"input": rounded})
        title = "of the original itself, inputs one rounding off"
        show(gradient_rows(title, again.gradients, theirs.gradients))
    del original
    run = Run(for_training(model, device), recipe)  # allows it again
    allow_tf32(False)
    off = partial(torch.autocast, device_type=device.type, enabled=False)
    with ExitStack() as stack:
        for module in (our_network, our_lpips):  # half precision on CUDA otherwise
            stack.enter_context(patch.object(module, "autocast", lambda *_, **__: off()))
        gaussians = run.model(batch.inputs, batch.alphas)
        loss, terms = loss_terms(gaussians, batch, recipe, 1.0, lpips)
        whole = gradients(run, loss, retain_graph=True)
        # Step by step from the same numbers: rounding can't grow on its way.
        leaf = theirs.gaussians.requires_grad_()
        drawn = loss_terms(as_gaussians(leaf), batch, recipe, 1.0, lpips)[0]
        (at_gaussians,) = torch.autograd.grad(drawn, leaf)
        outputs = torch.cat(list(gaussians.tensors().values()), dim=-1)
        network = gradients(run, outputs, theirs.at_gaussians)
    ours = {
        "loss": loss, "color": terms["rgb"], "alpha": terms["alpha"], "LPIPS": terms["lpips"],
        "PSNR": terms["metric"],
    }  # fmt: skip
    rows = {name: relative(value, theirs.terms[name]) for name, value in ours.items()}
    rows["Gaussians"] = relative(outputs, leaf)
    rows |= splat_rows(leaf.detach(), at_gaussians, theirs.at_gaussians)
    rows |= gradient_rows("of the network by the same gradient", network, theirs.gradients)
    rows |= gradient_rows("of all", whole, theirs.gradients)
    return rows


def splat_rows(gaussians: Tensor, ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """The loss's gradient by each property of the same Gaussians."""
    quaternions = as_gaussians(gaussians).rotations.double()
    rows = {}
    parts = as_gaussians(ours).tensors(), as_gaussians(theirs).tensors()
    for (name, mine), other in zip(parts[0].items(), parts[1].values(), strict=True):
        if name == "rotations":  # what a quaternion's length does is undone where it is normalized
            mine, other = (
                x.double() - (x.double() * quaternions).sum(-1, keepdim=True) * quaternions
                for x in (mine, other)
            )
        rows[f"gradient of the loss by the same Gaussians' {name}"] = relative(mine, other)
    return rows


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def as_gaussians(values: Tensor) -> Gaussians:
    return Gaussians(*values.split(CHANNELS, dim=-1))


def gradients(run, output: Tensor, *args, **kwargs) -> dict[str, Tensor]:
    found = torch.autograd.grad(output, run.parameters, *args, **kwargs)
    return dict(zip(run.names, found, strict=True))


def gradient_rows(
    title: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> dict[str, float]:
    if ours.keys() != theirs.keys():
        raise RuntimeError("The two networks have different parameters.")
    # Weight and bias together: the bias of a channel that is normalized alone has no effect.
    off, size = defaultdict(float), defaultdict(float)
    for name in ours:
        layer, difference = name.rpartition(".")[0], ours[name].double() - theirs[name].double()
        off[layer] += float(difference.square().sum())
        size[layer] += float(theirs[name].double().square().sum())
    each = {layer: math.sqrt(off[layer] / size[layer]) for layer in off}
    worst = max(each, key=each.get)
    return {
        f"gradient {title}": math.sqrt(sum(off.values()) / sum(size.values())),
        f"gradient {title}, worst of {len(each)} layers ({worst})": each[worst],
    }


@torch.no_grad()
def move_off_defaults(model: LGM) -> None:
    """What training starts from, but norms not 1 and biases not 0: those hide errors."""
    for key, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            tensor.copy_(0.2 * torch.randn_like(tensor) + ("norm" in key and "weight" in key))


def random_lpips() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """VGG-16's convolutions in torchvision's layout, and the five heads, random."""
    generator = torch.Generator().manual_seed(2)
    widths = (64, 128, 256, 512, 512)
    features, heads, last = {}, {}, 3
    for level, (group, width) in enumerate(zip(our_lpips.VGG_SLICES, widths, strict=True)):
        for index in group:
            kernel = torch.randn(width, last, 3, 3, generator=generator)
            features[f"features.{index}.weight"] = kernel * (2 / (9 * last)) ** 0.5
            features[f"features.{index}.bias"] = 0.1 * torch.randn(width, generator=generator)
            last = width
        head = torch.rand(1, width, 1, 1, generator=generator) / width
        heads[f"lin{level}.model.1.weight"] = head
    return features, heads


@dataclass(frozen=True)
class Step:
    """What the original calculates in one step."""

    terms: dict[str, Tensor]
    gaussians: Tensor  # [B, N, 14]
    at_gaussians: Tensor  # [B, N, 14], the loss's gradient
    gradients: dict[str, Tensor]


def original_model(models, options, state: dict[str, Tensor], like: Tensor) -> torch.nn.Module:
    """The original's network and LPIPS with our weights, where `like` is."""
    unpretrained = partial(models.LPIPS, pretrained=False)
    plain = torch.tensor

    def tensor(*args, device=None, **kwargs) -> Tensor:  # it asks for "cuda"
        return plain(*args, **kwargs)

    on_cpu = nullcontext() if like.is_cuda else patch.object(torch, "tensor", tensor)
    with patch.object(models, "LPIPS", unpretrained), on_cpu:
        model = models.LGM(options)
    features, heads = random_lpips()
    slices = {
        f"net.slice{level + 1}.{index}.{kind}": features[f"features.{index}.{kind}"]
        for level, group in enumerate(our_lpips.VGG_SLICES)
        for index in group
        for kind in ("weight", "bias")
    }
    load(model.lpips_loss, slices | heads, ("scaling_layer.", "lins."))  # lins: lin0 ... lin4 again
    load(model, state, ("lpips_loss.",))
    model.to(like.device).train()
    model.lpips_loss.eval()  # its dropout is on by accident, and no two draws are equal
    return model


def load(module: torch.nn.Module, state: dict[str, Tensor], but: tuple[str, ...]) -> None:
    left = module.load_state_dict(state, strict=False)
    if left.unexpected_keys or not all(key.startswith(but) for key in left.missing_keys):
        raise RuntimeError(f"The original has other weights than ours: {left}.")


def original_step(models, model: torch.nn.Module, data: dict[str, Tensor]) -> Step:
    terms: dict[str, Tensor] = {}
    mse, forward, made = models.F.mse_loss, model.forward_gaussians, []

    def noted_error(image: Tensor, target: Tensor) -> Tensor:
        value = mse(image, target)
        terms["color" if image.shape[2] == 3 else "alpha"] = value
        return value

    def noted_gaussians(images: Tensor) -> Tensor:
        made.append(forward(images))
        return made[0]

    noted = patch.object(model, "forward_gaussians", noted_gaussians)
    with patch.object(models.F, "mse_loss", noted_error), noted:
        results = model(data, 1.0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    at_gaussians, *found = torch.autograd.grad(results["loss"], [*made, *trained.values()])
    terms |= {"loss": results["loss"], "LPIPS": results["loss_lpips"], "PSNR": results["psnr"]}
    terms = {name: value.detach() for name, value in terms.items()}
    return Step(terms, made[0].detach(), at_gaussians, dict(zip(trained, found, strict=True)))


if __name__ == "__main__":
    main()
