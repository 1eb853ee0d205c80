"""A splat fitted to the pictures it was made from: a few steps of gradient descent through the
renderer.

The network says where everything is, nearly; its pictures say what their sides look like to the
pixel. A few steps take that over, and where the pictures agree on one object, outlines get better
from all sides; many would bend the splat towards these pictures at the others' cost.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..cameras import FOVY
from ..gaussians import Gaussians, concatenate
from ..machine.interrupt import Progress, between_steps, report, working
from ..render import Backend, render

STEPS = 10
# Of Adam's first step: world units, logits, logarithms, quaternions of length 1, 0..1. The
# rates decay to 0, which changes unseen sides less.
RATES = {"positions": 5e-4, "opacities": 0.1, "scales": 0.04, "rotations": 0.02, "colors": 0.01}
BETAS = (0.8, 0.9)  # ten steps are too few for longer means
FAINTEST = 1 / 255  # no renderer draws less, so nothing pulls at it
OPACITY_MARGIN = 1e-4  # keeps logits finite


def fit_to_pictures(
    gaussians: Gaussians,
    pictures: Tensor,
    alphas: Tensor | None,
    c2w: Tensor,
    fovy: float = FOVY,
    steps: int = STEPS,
    backend: Backend = "auto",
    progress: Progress | None = None,
) -> Gaussians:
    """The splats moved towards what pictures show, in all that Gaussians have.

    As many Gaussians as before; those too faint to be drawn are left as they are.

    Args:
        gaussians: B objects, without spherical harmonics.
        pictures: [B, V, 3, S, S], 0..1, on white.
        alphas: [B, V, 1, S, S] or None, how much of each pixel the object covers.
        c2w: [B, V, 4, 4] the pictures' cameras. fovy: their vertical angle, degrees.
        steps: of Adam, each with all V pictures.
        progress: told the part done, 0..1, before each step and at the end; what it raises ends the
            work.

    Raises:
        ValueError: fewer than no steps, or colors that depend on the side.
    """
    if steps < 0:
        raise ValueError(f"Fitting needs 0 steps or more, got {steps}.")
    if gaussians.sh is not None:
        raise ValueError("Fitting needs one color for all sides, got spherical harmonics.")
    if not steps:
        return gaussians
    count, fitted = gaussians.batch_size, []
    # ComfyUI runs nodes in inference mode, whose tensors autograd refuses: clones are free of it.
    with torch.inference_mode(False), torch.enable_grad(), working(progress=progress):
        for index in range(count):
            splat = gaussians.item(index).map(torch.clone)
            silhouettes = None if alphas is None else alphas[index].clone()
            images, poses = pictures[index].clone(), c2w[index].clone()
            for step in _fit(splat, images, silhouettes, poses, fovy, steps, backend):
                between_steps()
                report((index + step / steps) / count)
            fitted.append(splat)
        return concatenate(fitted)


def _fit(
    splat: Gaussians,
    pictures: Tensor,
    alphas: Tensor | None,
    c2w: Tensor,
    fovy: float,
    steps: int,
    backend: Backend,
) -> Iterator[int]:
    """Changes the splat's tensors in the end; gives the number of steps done, from 0 on."""
    drawn = splat.opacities[0, :, 0] >= FAINTEST
    if not drawn.any():
        return
    start = splat.select(drawn)
    learned = {
        "positions": start.positions,
        "opacities": start.opacities.clamp(OPACITY_MARGIN, 1 - OPACITY_MARGIN).logit(),
        "scales": start.scales.log(),
        "rotations": start.rotations,
        "colors": start.colors,
    }
    learned = {name: value.detach().requires_grad_() for name, value in learned.items()}
    groups = [{"params": [value], "lr": RATES[name]} for name, value in learned.items()]
    optimizer = torch.optim.Adam(groups, betas=BETAS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / steps)

    def current() -> Gaussians:
        return Gaussians(
            learned["positions"], learned["opacities"].sigmoid(), learned["scales"].exp(),
            normalize(learned["rotations"], dim=-1), learned["colors"],
        )  # fmt: skip

    for step in range(steps):
        yield step
        output = render(current(), c2w, pictures.shape[-1], fovy, backend=backend)
        loss = (output.images[0] - pictures).square().mean()
        if alphas is not None:
            loss = loss + (output.alphas[0] - alphas).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        learned["colors"].data.clamp_(0, 1)
    for name, value in current().detach().tensors().items():
        getattr(splat, name)[:, drawn] = value
    yield steps
