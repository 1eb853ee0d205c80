"""Training against numbers recorded from the original's code: LPIPS, the loss, a data item.

Weights and pictures are made by integer arithmetic, here and for the recording: the same on every
machine, and nothing to store.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lgm.cameras import world_to_camera
from lgm.gaussians import Gaussians
from lgm.render import RenderOutput
from lgm.training.batches.batch import Batch
from lgm.training.batches.rendered import make_item
from lgm.training.learning import step
from lgm.training.learning.lpips import LPIPS, VGG_SLICES
from lgm.training.recipe import RECIPES
from lgm.training.renders.shards import Views, decode_picture
from lgm.training.renders.sources import read_render

WIDTHS = (64, 128, 256, 512, 512)
PIXELS = (slice(None), slice(None), slice(0, None, 3), slice(0, None, 5))  # recorded of an item


def scrambled(*shape: int, salt: int) -> torch.Tensor:
    """Numbers in [0, 1) without visible order: a hash of 0, 1, 2, ..."""
    x = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(salt << 32)
    for factor in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D):
        x = (x ^ (x >> np.uint64(15))) * np.uint64(factor) % np.uint64(1 << 40)
    return torch.from_numpy((x >> np.uint64(16)).astype(np.float32) / 2**24).view(shape)


def lpips_weights() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    features, heads, last = {}, {}, 3
    for level, (group, width) in enumerate(zip(VGG_SLICES, WIDTHS, strict=True)):
        for index in group:
            kernel = scrambled(width, last, 3, 3, salt=index) - 0.5
            features[f"features.{index}.weight"] = kernel * (24 / (9 * last)) ** 0.5
            features[f"features.{index}.bias"] = 0.1 * scrambled(width, salt=40 + index) - 0.05
            last = width
        heads[f"lin{level}.model.1.weight"] = scrambled(1, width, 1, 1, salt=80 + level)
    return features, heads


def picture_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [1, 3, 64, 64]."""
    return scrambled(1, 3, 64, 64, salt=90), scrambled(1, 3, 64, 64, salt=91)


def drawn_and_true() -> tuple[torch.Tensor, ...]:
    """Drawn colors (beyond 0..1) and alphas, true colors and soft masks: [1, 2, C, 64, 64]."""
    size = (1, 2, 3, 64, 64)
    drawn, true = 1.4 * scrambled(*size, salt=92) - 0.2, scrambled(*size, salt=93)
    alphas, masks = (scrambled(1, 2, 1, 64, 64, salt=salt) for salt in (94, 95))
    return drawn, alphas, true, (2 * masks - 0.5).clamp(0, 1)


def stored_pictures(count: int) -> np.ndarray:
    """RGBA [count, 48, 48, 4], uint8."""
    return (scrambled(count, 48, 48, 4, salt=96) * 256).byte().numpy()


@pytest.fixture(scope="module")
def recorded(request):
    path = request.path.parents[1] / "data" / "training_mini.safetensors"
    with safe_open(path, "pt") as file:
        numbers = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return numbers, json.loads(file.metadata()["meta"])


@pytest.fixture(scope="module")
def lpips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    for name, weights in zip(("vgg", "heads"), lpips_weights(), strict=True):
        torch.save(weights, folder / f"{name}.pth")
    # In float32 a dozen of ten million ReLUs fall on the other side: 1e-3 of the gradient.
    return LPIPS(folder / "vgg.pth", folder / "heads.pth").double()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm())


def test_formula_is_what_was_recorded_with(recorded):
    numbers, _ = recorded
    assert torch.equal(scrambled(64, salt=90), numbers["formula"])
    weights = lpips_weights()[0]["features.28.weight"]
    assert torch.equal(weights[-1, -1], numbers["formula.weights"])


@pytest.mark.slow
def test_lpips_and_its_gradient_equal_the_original(recorded, lpips):
    numbers, _ = recorded
    image, target = (picture.double() for picture in picture_pair())
    value = lpips(image.requires_grad_(), target)
    value.backward()
    assert relative(value, numbers["lpips.value"]) < 1e-6
    assert relative(image.grad, numbers["lpips.gradient"]) < 1e-5


@pytest.mark.slow
def test_loss_terms_and_gradient_equal_the_original(recorded, lpips, monkeypatch):
    """Clamped pictures, targets blended twice, both squared errors, LPIPS, the metric."""
    numbers, _ = recorded
    drawn, alphas, true, masks = (values.double() for values in drawn_and_true())
    output = RenderOutput(drawn.requires_grad_(), alphas.requires_grad_(), torch.zeros_like(alphas))
    monkeypatch.setattr(step, "render_finite", lambda *_: output)
    nothing = Gaussians(*(torch.zeros(1, 1, width) for width in (3, 1, 3, 4, 3)))
    poses = torch.eye(4).expand(1, 2, 4, 4)
    inputs = torch.zeros(1, 1, 9, 32, 32)
    batch = Batch(inputs, masks[:, :1], poses, true, masks, None, torch.ones(1, 1), ["object"])
    loss, terms = step.loss_terms(nothing, batch, RECIPES["paper"], 1.0, lpips)
    loss.backward()
    for name in ("rgb", "alpha", "lpips", "metric"):
        assert relative(terms[name], numbers[f"loss.{name}"]) < 1e-6
    assert relative(loss, numbers["loss.total"]) < 1e-6
    assert relative(drawn.grad, numbers["loss.at_colors"]) < 1e-5
    assert relative(alphas.grad, numbers["loss.at_alphas"]) < 1e-6


class Recorded:
    """The original's random draws, as a numpy Generator gives them."""

    def __init__(self, *draws: torch.Tensor):
        self.draws = [draw.numpy() for draw in draws]

    def random(self, shape: tuple[int, ...] | None = None):
        if shape is None:  # whether to augment at all: the chances are 0 and 1
            return 0.5
        draw = self.draws.pop(0)
        assert draw.shape == shape
        return draw

    def integers(self, low: int, high: int) -> int:
        assert low <= self.draws[0].shape[1] < high
        return self.draws[0].shape[1]


@pytest.mark.parametrize("augmented", [False, True])
def test_item_equals_the_original(recorded, tmp_path, augmented):
    """From files in the original's layout to network inputs, targets and cameras."""
    numbers, settings = recorded
    for kind in ("rgb", "pose"):
        (tmp_path / "object" / kind).mkdir(parents=True)
    poses = numbers["item.poses"]
    for view, (picture, pose) in enumerate(zip(stored_pictures(len(poses)), poses, strict=True)):
        Image.fromarray(picture).save(tmp_path / "object" / "rgb" / f"{view:03d}.png")
        words = " ".join(f"{value:.9g}" for value in pose.flatten().tolist())
        (tmp_path / "object" / "pose" / f"{view:03d}.txt").write_text(words)
    rendered = read_render("object", tmp_path, "lgm")
    assert not rendered.failure

    case = "augmented" if augmented else "plain"
    order = numbers[f"{case}.views"].tolist()
    images = torch.stack([decode_picture(rendered.pictures[view]) for view in order])
    found = Views("object", images, rendered.c2w[order], rendered.fovy, tuple(order))
    scale = settings["output_size"] // settings["input_size"]
    recipe = replace(RECIPES["paper"], render_scale=scale, distortion_chance=float(augmented),
                     jitter_chance=float(augmented))  # fmt: skip
    draws = [numbers["augmented.grid"], numbers["augmented.jitter"]] if augmented else []
    item = make_item(found, recipe, settings["input_size"], 4, Recorded(*draws))

    inputs, expected = item.inputs[PIXELS], numbers[f"{case}.inputs"]
    assert relative(inputs[:, :3], expected[:, :3]) < 1e-6
    assert relative(inputs[:, 3:], expected[:, 3:]) < 1e-6
    assert relative(item.images[PIXELS], numbers[f"{case}.images"]) < 1e-6
    assert relative(item.masks[PIXELS], numbers[f"{case}.masks"]) < 1e-6
    assert relative(world_to_camera(item.c2w), numbers[f"{case}.cameras"]) < 1e-6
