"""ComfyUI's own way through MVDream and ImageDream draws the images that the library's does: from
the same files, words, picture and noise.

Core loads the encoders and the VAE, and its `ddim` samples (`same_images_core.py`); the library's
pipeline is diffusers' and transformers'. Both calculate in fp32 from fp16 files on the CPU.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("diffusers", reason="the library's way needs diffusers")
pytest.importorskip("transformers", reason="the library's way needs transformers")

from lgm.multiview import MultiViewPipeline, conditioning
from lgm.pictures.load import load_image
from lgm.pictures.matte import object_picture

from .comfyui import ROOT
from .released_files import KINDS, write_released

SCRIPT = Path(__file__).with_name("same_images_core.py")
SAME = 1e-2  # of white
STEPS, SIZE, SMALL = 5, 128, 64  # pixels
PROMPT, NEGATIVE = "a small red wooden chair with four legs, studio light", "ugly, blurry, cropped"
GUIDANCE = {"mvdream": 7.5, "imagedream": 5.0}
ELEVATION = 10.0
PICTURE_SIDES = (160, 112)  # width and height


@dataclass
class Drawn:
    kind: str
    pipeline: MultiViewPipeline
    native: dict[str, Tensor]
    picture: Path | None = None
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def by_library(self, size: int, prompt=PROMPT, negative=NEGATIVE, picture=None) -> Tensor:
        """IMAGE [4, size, size, 3]."""
        image = None
        if self.picture is not None:
            image = object_picture(load_image(picture or self.picture))
        return self.pipeline(
            prompt,
            image,
            negative_prompt=negative,
            latents=noise(self.kind, size)[None],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE[self.kind],
            elevation=ELEVATION,
            size=size,
        ).views[0].movedim(1, -1)  # fmt: skip

    def change(self, **given) -> float:
        """How far this moves the library's small images."""
        if SMALL not in self._kept:
            self._kept[SMALL] = self.by_library(SMALL)
        return apart(self.by_library(SMALL, **given), self._kept[SMALL])


@pytest.fixture(scope="module", params=KINDS)
def drawn(request, comfyui, python, tmp_path_factory):
    kind = request.param
    base = tmp_path_factory.mktemp("same_images")
    folder = write_released(base / kind, kind)
    picture = write_picture(base / "picture.png") if kind == "imagedream" else None
    native = by_core(comfyui, python, base, kind, folder, picture)
    pipeline = MultiViewPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    yield Drawn(kind, pipeline, native, picture)
    shutil.rmtree(base, ignore_errors=True)  # gigabytes


def by_core(comfyui, python, base: Path, kind: str, folder: Path, picture) -> dict[str, Tensor]:
    views = noise(kind, SIZE)[list(conditioning.VIEW_ORDER)]
    save_file({"noise": views}, base / "noise.safetensors")
    job = {
        "folder": str(folder), "prompt": PROMPT, "negative": NEGATIVE, "size": SIZE,
        "picture": picture and str(picture), "prepared": max(PICTURE_SIDES),
        "elevation": ELEVATION, "guidance": GUIDANCE[kind],
        "noise": str(base / "noise.safetensors"), "out": str(base / "out.safetensors"),
        "runs": {"images": {"steps": STEPS, "scheduler": None}},
    }  # fmt: skip
    (base / "job.json").write_text(json.dumps(job))
    command = [python, "-B", str(SCRIPT), str(comfyui), str(ROOT), str(base / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(job["out"])


def noise(kind: str, size: int) -> Tensor:
    """[frames, 4, h, w] in the network's own order."""
    frames, side = (5 if kind == "imagedream" else 4), size // 8
    return torch.randn(frames, 4, side, side, generator=torch.Generator().manual_seed(3))


def write_picture(path: Path, wide: float = 0.5, waves: float = 9.0) -> Path:
    """RGBA: an egg off the middle, with soft edges, in several colors."""
    width, height = PICTURE_SIDES
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-0.8, 1.2, width), indexing="ij"
    )
    color = torch.stack([0.5 + 0.4 * x, 0.5 + 0.4 * y, 0.5 + 0.4 * torch.sin(waves * x * (y + 2))])
    alpha = (8 - 8 * ((x / wide) ** 2 + (y / 0.8) ** 2)).clamp(0, 1)
    rgba = torch.cat([color.clamp(0, 1), alpha[None]]).mul(255).round().byte()
    Image.fromarray(rgba.movedim(0, -1).numpy()).save(path)
    return path


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def skip_layer(patch, encoder, number: int) -> None:
    """Let a layer of a CLIP encoder add nothing."""
    for name, weights in encoder.named_parameters():
        if f"layers.{number}." in name and ("out_proj" in name or "fc2" in name):
            patch.setattr(weights, "data", torch.zeros_like(weights))


def test_the_same_images(drawn):
    library = drawn.by_library(SIZE)
    native = drawn.native["images"]
    assert apart(native, library) < SAME
    # Something is there to see, and next to nothing of it hidden by the ends of the range.
    assert library.std() > 0.1
    assert ((library == 0) | (library == 1)).float().mean() < 0.02


def test_the_encoders_give_the_same(drawn):
    pipeline, native = drawn.pipeline, drawn.native
    for name, prompt in (("text", PROMPT), ("negative text", NEGATIVE)):
        assert apart(native[name], pipeline.encode_prompt([prompt])[0]) < 1e-4
    if drawn.kind == "mvdream":
        return
    picture = object_picture(load_image(drawn.picture))[None]
    features, reference = pipeline.encode_features(picture), pipeline.encode_latents(picture, SIZE)
    # The resamplers round single pixels to 8 bits apart.
    assert apart(native["lgm_image_features"], features) < 0.05 * features.std()
    # Core takes the middle of what the VAE gives, the library draws, as the original does.
    factor = pipeline.vae.config.scaling_factor
    assert apart(native["lgm_reference_latents"] * factor, reference) < 1e-3 * reference.std()


def test_words_and_picture_decide(drawn, tmp_path):
    assert drawn.change(prompt="a blue car") > 10 * SAME
    if drawn.kind == "mvdream":
        assert drawn.change(negative="") > 10 * SAME
        return
    other = write_picture(tmp_path / "other.png", wide=0.7, waves=-3.0)
    assert drawn.change(picture=other) > 10 * SAME


def test_a_wrong_encoder_would_show(drawn, monkeypatch):
    """Mistakes that are easily made, each beyond what counts as the same."""
    pipeline = drawn.pipeline
    with monkeypatch.context() as patch:
        if drawn.kind == "mvdream":
            patch.setattr(conditioning, "PAD_ID", 49407)  # as Stable Diffusion 1 pads
        else:
            skip_layer(patch, pipeline.image_encoder, 30)
        assert drawn.change() > SAME
    with monkeypatch.context() as patch:
        if drawn.kind == "mvdream":
            skip_layer(patch, pipeline.text_encoder, 22)
        else:
            patch.setattr(pipeline, "encode_latents", lambda *_: torch.zeros(1, 4, 8, 8))
        assert drawn.change() > SAME
