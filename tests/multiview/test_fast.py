"""The fused multi-view U-Net computes what the readable one does; its kernels, interpreted, what
torch does. Triton decides at import whether to interpret: a second process runs this file.
"""

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")
from lgm.layers import norm_triton, patches_triton
from lgm.multiview import fast, kernels
from lgm.multiview.unet import UNet

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "network"))
import test_fast_unet as plain

SMALL = {
    "model_channels": 64,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (1, 2),
    "num_head_channels": 16,
    "context_dim": 24,
}


def layer_norm(x, offset, weight, bias, eps):
    return F.layer_norm(x + offset, weight.shape, weight, bias, eps)


def geglu(x, bias):
    value, gate = (x + bias).chunk(2, dim=-1)
    return value * F.gelu(gate)


def cross_attention(q, keys, values, image_keys, image_values, head_channels):
    def attend(k, v):
        split = (x.unflatten(-1, (-1, head_channels)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    y = attend(keys, values)
    return y if image_keys is None else y + attend(image_keys, image_values)


def normalize(x, weight, bias, groups, eps, silu, skip=None, offset=None):
    x = x if skip is None else torch.cat([x, skip], dim=1)
    x = x if offset is None else x + offset[..., None, None]
    y = F.group_norm(x, groups, weight, bias, eps)
    return (F.silu(y) if silu else y).contiguous(memory_format=torch.channels_last), None, None


@pytest.fixture
def plain_kernels(monkeypatch):
    for function in (plain.scaled_sum, plain.patches, normalize):
        monkeypatch.setattr(
            patches_triton if function.__name__ == "patches" else norm_triton,
            function.__name__,
            function,
        )
    for function in (layer_norm, geglu, cross_attention):
        monkeypatch.setattr(kernels, function.__name__, function)


def random_unet(**changes) -> UNet:
    torch.manual_seed(0)
    unet = UNet(**SMALL | changes).requires_grad_(False).eval()
    for parameter in unet.parameters():
        if parameter.dim() == 1:  # zero biases would hide a forgotten one
            parameter.add_(0.3 * torch.randn_like(parameter))
    return unet


def inputs(objects: int, frames: int, with_image: bool) -> tuple[dict, torch.Tensor, torch.Tensor]:
    count = objects * frames
    given = {
        "encoder_hidden_states": torch.randn(count, 7, 24),
        "camera": torch.randn(count, 16),
        "num_frames": frames,
    }
    if with_image:
        given["image_features"] = torch.randn(count, 5, 1280)
        given["reference_latents"] = torch.randn(objects, 4, 8, 8)
    return given, torch.randn(count, 4, 8, 8), torch.tensor([701.0, 3.0]).repeat(count // 2)


@pytest.mark.parametrize("candidate", [0, 1])
@pytest.mark.parametrize("kind", ["text", "image"])
def test_fused_unet_equals_the_readable_one(plain_kernels, kind, candidate):
    unet = random_unet(ip_dim=3 if kind == "image" else 0)
    given, sample, timestep = inputs(2, 5 if kind == "image" else 4, kind == "image")
    constants = unet.prepare(**given)
    expected = unet.denoise(sample, timestep, constants)
    before = sample.clone()
    plan = fast.FastUNet(unet)
    plan.ways.choices = plain.Always(candidate)
    torch.testing.assert_close(plan(sample, timestep, constants), expected, atol=5e-5, rtol=0)
    assert torch.equal(sample, before)


def test_new_constants_are_taken(plain_kernels):
    unet = random_unet()
    first, sample, timestep = inputs(2, 4, False)
    denoiser = fast.FastDenoiser(unet)
    for given in (first, inputs(2, 4, False)[0], inputs(2, 2, False)[0] | {"num_frames": 2}):
        count = len(given["camera"])
        constants = unet.prepare(**given)
        expected = unet.denoise(sample[:count], timestep[:count], constants)
        denoiser_plan(denoiser)
        for _ in range(2):
            found = denoiser(sample[:count], timestep[:count], constants)
            torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def denoiser_plan(denoiser: fast.FastDenoiser) -> None:
    denoiser._plan = fast.FastUNet(denoiser._unet(), plain.Always(0))
    denoiser._planned_for = denoiser._state()


def test_a_network_can_be_forgotten(plain_kernels):
    unet = random_unet()
    given, sample, timestep = inputs(2, 4, False)
    fast._denoisers[unet] = fast.FastDenoiser(unet)
    denoiser_plan(fast._denoisers[unet])
    constants = unet.prepare(**given)
    fast.denoise(unet, sample, timestep, constants)
    left = weakref.ref(unet)
    del unet
    gc.collect()
    assert left() is None


def test_on_a_cpu_the_readable_network_is_meant():
    unet = random_unet().half()
    assert not fast.can_run(unet, torch.randn(4, 4, 8, 8).half())


def kernel_errors() -> dict[str, float]:
    """Largest relative error of each kernel, float32 interpreted, against torch in float64."""
    torch.manual_seed(0)
    errors = {}

    def note(name, found, wanted):
        errors[name] = ((found.double() - wanted).norm() / wanted.norm()).item()

    for count, channels in ((7, 320), (4, 64), (5, 1280)):
        x, (offset, weight, bias) = torch.randn(count, channels), torch.randn(3, channels)
        wanted = layer_norm(*(t.double() for t in (x, offset, weight, bias)), 1e-5)
        note(f"norm {channels}", kernels.layer_norm(x, offset, weight, bias, 1e-5), wanted)
        x, bias = torch.randn(count, 2 * channels), torch.randn(2 * channels)
        note(f"geglu {channels}", kernels.geglu(x, bias), geglu(x.double(), bias.double()))
    for tokens, words, image_words, heads, width in ((70, 77, 16, 2, 64), (16, 9, 0, 3, 16)):
        q = torch.randn(2, tokens, heads * width)
        k, v = torch.randn(2, 2, words, heads * width)
        image = (None, None) if not image_words else torch.randn(2, 2, image_words, heads * width)
        exact = [None if t is None else t.double() for t in (q, k, v, *image)]
        found = kernels.cross_attention(q, k, v, *image, width)
        note(f"words {words} {image_words}", found, cross_attention(*exact, width))
    return errors


@pytest.mark.slow
def test_kernels_interpreted():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 8 and max(errors.values()) < 2e-6, errors


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("kind", ["text", "image"])
def test_on_a_gpu_in_half_precision(kind):
    unet = random_unet(model_channels=128, num_head_channels=64, ip_dim=16 * (kind == "image"))
    given, sample, timestep = inputs(2, 5 if kind == "image" else 4, kind == "image")
    expected = unet.denoise(sample, timestep, unet.prepare(**given))
    unet = unet.half().cuda()
    given = {k: v.half().cuda() if torch.is_tensor(v) else v for k, v in given.items()}
    sample = sample.half().cuda()
    constants = unet.prepare(**given)
    assert fast.can_run(unet, sample)
    for _ in range(2):
        found = fast.denoise(unet, sample, timestep.cuda(), constants).cpu().float()
        assert ((found - expected).norm() / expected.norm()).item() < 5e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_released_network_keeps_nothing_on_the_gpu_and_comes_back():
    unet = random_unet(model_channels=128, num_head_channels=64, ip_dim=0).half().cuda()
    given, sample, timestep = inputs(2, 4, False)
    given = {k: v.half().cuda() if torch.is_tensor(v) else v for k, v in given.items()}
    sample, timestep = sample.half().cuda(), timestep.cuda()
    constants = unet.prepare(**given)
    results, left = [], []
    for _ in range(4):
        results.append(fast.denoise(unet, sample, timestep, constants))
        fast.release(unet)
        gc.collect()
        left.append(torch.cuda.memory_allocated())
    assert all(torch.equal(results[0], again) for again in results[1:])
    assert left[-1] - left[0] == 3 * results[0].untyped_storage().nbytes()


if __name__ == "__main__":
    print(json.dumps(kernel_errors()))
