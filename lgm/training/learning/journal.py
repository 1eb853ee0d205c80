"""What a training run writes: log, validation, images."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ...render import render
from ..batches.batch import Batch, BatchSource
from .losses import psnr
from .processes import rank, world
from .run import Run


class Journal:
    """Writes log.csv, validation.csv and latest.png, the terminal, and TensorBoard's files where
    that is installed.

    Args:
        every: steps per line of the log.
        validate: steps between validations; 0: never.
    """

    def __init__(self, out: Path, run: Run, source: BatchSource, every: int, validate: int):
        self.out, self.run, self.source = out, run, source
        self.every, self.validate = every, validate
        self.history: list[dict[str, Tensor]] = []
        self.batch: Batch | None = None
        self.file = self.board = None

    def __enter__(self) -> Journal:
        if rank() == 0:
            self.file = (self.out / "log.csv").open("a", newline="")
            with contextlib.suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(self.out / "tensorboard"))
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.file, self.board):
            if file is not None:
                file.close()

    def add(self, terms: dict[str, Tensor], batch: Batch, stage: int, progress: float) -> None:
        run, self.batch = self.run, batch
        self.history.append(terms)
        if len(self.history) >= self.every:
            self._report(progress)
        if self.validate and run.step % self.validate == 0:
            self._validate(stage)

    def _report(self, progress: float) -> None:
        keys = list(self.history[-1])
        rows = [h for h in self.history if list(h) == keys]  # LPIPS may have started in between
        self.history = []
        means = torch.stack([torch.stack([h[k].float() for h in rows]).mean() for k in keys])
        if dist.is_initialized():
            dist.all_reduce(means)
            means /= world()
        if self.file is None:
            return
        run, values = self.run, dict(zip(keys, means.tolist(), strict=True))
        writer = csv.writer(self.file)
        if self.file.tell() == 0:
            writer.writerow(["step", "samples", "seconds", "progress", *keys])
        row = [run.step, run.samples, f"{run.seconds:.1f}", f"{progress:.4f}"]
        writer.writerow([*row, *(f"{value:.6g}" for value in values.values())])
        self.file.flush()
        print(*row, *(f"{key} {value:.4f}" for key, value in values.items()), flush=True)
        if self.board:
            for key, value in values.items():
                self.board.add_scalar(f"train/{key}", value, run.step)

    @torch.no_grad()
    def _validate(self, stage: int) -> None:
        """Write the PSNR of the averaged weights on held-out objects in new views; for a model with
        a corrector, also that of the drafts.
        """
        names = ["psnr_novel", "psnr_draft"][: 1 + (self.run.model.corrector is not None)]

        def score(batch: Batch, corrected: bool) -> Tensor:
            quality = psnr(draw(self.run, batch, corrected), batch.images)
            return quality[:, batch.inputs.shape[1] :].mean()

        with self.run.averaged():
            scores = [
                [score(batch, corrected=name != "psnr_draft") for name in names]
                for batch in self.source.validation(stage)
            ]
        means = torch.tensor(scores).mean(0).tolist()
        if rank() == 0:
            figures = ", drafts ".join(f"{score:.2f} dB" for score in means)
            print(f"step {self.run.step}: validation {figures}", flush=True)
            with (self.out / "validation.csv").open("a") as file:
                file.write(",".join([str(self.run.step), *(f"{m:.4f}" for m in means)]) + "\n")
            if self.board:
                for name, score in zip(names, means, strict=True):
                    self.board.add_scalar(f"validation/{name}", score, self.run.step)

    def picture(self) -> None:
        """Write latest.png: truth above, prediction below, for the last batch's first four objects.
        Collective: call it on every rank.
        """
        if self.batch is None:
            return
        from PIL import Image

        with torch.no_grad():
            output = draw(self.run, self.batch)[:4]
        rows = torch.stack([self.batch.images[:4], output], dim=1)  # [4, 2, V, 3, S, S]
        grid = rows.permute(0, 1, 4, 2, 5, 3).reshape(-1, rows.shape[2] * rows.shape[-1], 3)
        pixels = (grid * 255).byte().cpu().numpy()
        if rank() == 0:
            Image.fromarray(pixels).save(self.out / "latest.png")
            if self.board:
                self.board.add_image("train/latest", pixels, self.run.step, dataformats="HWC")


def draw(run: Run, batch: Batch, corrected: bool = True) -> Tensor:
    """Renders [B, V, 3, R, R] of all of a batch's views, 0..1; of the drafts if not `corrected`."""
    uncorrected = torch.full((len(batch.names),), not corrected, device=batch.inputs.device)
    gaussians = run.model(batch.inputs, batch.alphas, uncorrected)
    return render(gaussians, batch.c2w, batch.images.shape[-1]).images.clamp(0, 1)
