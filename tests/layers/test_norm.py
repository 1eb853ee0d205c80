"""GroupNorm + SiLU against float64: plain torch, numba's kernel, and Triton's, interpreted.

Triton decides at import whether to interpret: a second process runs this file as a script.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lgm.layers.norm import group_norm_silu, scaled_sum

needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs numba")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# One rounding to the output's dtype, relative to its norm; the interpreter truncates to bfloat16.
TOLERANCE = {"float32": 1e-6, "float16": 5e-4, "bfloat16": 5e-3}

# N, C, H, W, groups: group widths 1 to 64 and not only powers of two; odd pictures; a map of one
# pixel; one group; with the script's small tiles, some take one launch and some three.
SHAPES = [
    (2, 32, 8, 8, 32),
    (1, 96, 5, 7, 32),
    (1, 192, 9, 4, 32),
    (1, 1536, 3, 2, 32),
    (1, 2048, 2, 3, 32),
    (2, 64, 19, 13, 32),
    (2, 6, 30, 20, 1),
    (3, 64, 1, 1, 32),
]
SKIPS = [(1, 64, 32, 6, 7, 32), (1, 1024, 512, 2, 3, 32), (2, 48, 16, 20, 11, 4)]


def error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value.double() - reference).norm() / reference.norm()).item()


def expected(x, weight, bias, groups, silu):
    y = F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-5)
    return F.silu(y) if silu else y


def errors_of(shape, dtype, silu=True, mean=2.0, layout=torch.channels_last):
    """Relative errors of the output and of the three gradients."""
    *size, groups = shape
    torch.manual_seed(0)
    x = (mean + torch.randn(size)).to(dtype).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (torch.randn(size[1]).requires_grad_() for _ in range(2))
    y = group_norm_silu(x, weight, bias, groups, silu=silu)
    assert y.dtype == dtype and y.shape == x.shape
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    reference = expected(*exact, groups, silu)
    gradient = torch.randn(size).to(dtype)
    y.backward(gradient)
    reference.backward(gradient.double())
    pairs = zip((x, weight, bias), exact, strict=True)
    return [error(y, reference), *(error(a.grad, b.grad) for a, b in pairs)]


def assert_accurate(errors, dtype):
    output, grad_x, grad_weight, grad_bias = errors
    assert output < TOLERANCE[dtype], errors
    assert grad_x < 2 * TOLERANCE[dtype], errors
    assert max(grad_weight, grad_bias) < 3e-6, errors  # summed in fp32 whatever x is


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("silu", [True, False])
def test_plain_path_agrees_with_float64(dtype, silu):
    errors = errors_of((2, 96, 5, 7, 32), DTYPES[dtype], silu)
    assert max(errors) < 4 * TOLERANCE[dtype], errors


def test_plain_path_leaves_its_input_alone():
    x = torch.randn(1, 32, 4, 4)
    before = x.clone()
    group_norm_silu(x, torch.ones(32), torch.zeros(32))
    assert torch.equal(x, before)


@needs_numba
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 64, 70, 61, 32)])  # the last has several chunks
def test_cpu_kernel_agrees_with_float64(shape, mean, silu):
    from lgm.layers import norm_numba

    *size, groups = shape
    torch.manual_seed(0)
    x = (mean + torch.randn(size)).contiguous(memory_format=torch.channels_last)
    weight, bias, before = torch.randn(size[1]), torch.randn(size[1]), x.clone()
    y = norm_numba.group_norm_silu(x, weight, bias, groups, 1e-5, silu)
    # Four pixels of a group that are nearly equal lose what rounding of x itself loses.
    assert error(y, expected(x, weight, bias, groups, silu)) < (1e-6 if mean == 0 else 3e-6)
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(x, before)


@needs_numba
def test_cpu_kernel_takes_large_maps_without_gradients_alone(monkeypatch):
    from lgm.layers import norm_numba

    calls, kernel = [], norm_numba.group_norm_silu
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(
        norm_numba, "group_norm_silu", lambda *a: (calls.append(a[0].shape), kernel(*a))[1]
    )
    weight, bias = torch.ones(32), torch.zeros(32)
    large = torch.randn(1, 32, 128, 128).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert (
            error(group_norm_silu(large, weight, bias), expected(large, weight, bias, 32, True))
            < 1e-6
        )
    group_norm_silu(large.contiguous(), weight, bias)
    group_norm_silu(large[..., :9], weight, bias)
    group_norm_silu(large.double(), weight, bias)
    group_norm_silu(large.requires_grad_(), weight, bias).sum().backward()
    assert calls == [large.shape]


@needs_numba
def test_cpu_kernel_does_not_depend_on_threads_and_keeps_what_is_not_finite():
    from lgm.layers import norm_numba

    x = torch.randn(3, 64, 70, 61).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.full((64,), 1e4), torch.zeros(64)  # SiLU's both ends

    def calculated(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return norm_numba.group_norm_silu(x, weight, bias, 32, 1e-5, True)
        finally:
            torch.set_num_threads(before)

    once = calculated(1)
    assert torch.equal(once, calculated(3))
    reference = expected(x, weight, bias, 32, True)
    assert error(once, reference) < 1e-6
    assert once[expected(x, weight, bias, 32, False) < -200].abs().max() < 1e-30
    x[1, 5, 3, 3] = float("nan")
    lost = calculated(2).isnan()
    assert lost[1, 4:6].all() and lost.sum() == lost[1, 4:6].numel()


def test_scaled_sum_and_its_gradient():
    a, b = (torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.equal(scaled_sum(a, b, 0.5), (a + b) * 0.5)
    assert torch.autograd.gradcheck(lambda a, b: scaled_sum(a, b, 0.5), (a, b))


@pytest.fixture(scope="module")
def interpreted():
    """What the kernels got, by case; see `interpret`."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, str(Path(__file__).resolve())]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_agree_with_float64(interpreted, shape):
    assert_accurate(interpreted[f"{shape}"], "float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_round_once_in_half_precision(interpreted, dtype):
    assert_accurate(interpreted[dtype], dtype)


def test_kernels_without_silu(interpreted):
    assert_accurate(interpreted["no silu"], "float32")


def test_kernels_take_nchw_memory(interpreted):
    assert_accurate(interpreted["nchw"], "float32")


@pytest.mark.parametrize("launches", ["one launch", "three launches"])
def test_kernels_keep_precision_far_from_zero(interpreted, launches):
    # Inputs 1000 +- 1 hold 6e-5 absolute in fp32; mean(x^2) - mean^2 would lose everything.
    assert max(interpreted[f"mean 1000, {launches}"]) < 2e-4


@pytest.mark.parametrize("shape", SKIPS)
def test_two_tensors_and_offset_equal_their_concatenation(interpreted, shape):
    assert interpreted[f"skip {shape}"] < TOLERANCE["float32"]


def test_sum_kernel(interpreted):
    assert max(interpreted["sum"]) < TOLERANCE["float32"]


def test_patches_times_weights_are_a_convolution(interpreted):
    assert interpreted["patches"] < TOLERANCE["float32"]


def interpret() -> dict:
    from lgm.layers import norm_triton, patches_triton

    # Small tiles, so that small maps are cut into several; the interpreter is slow.
    norm_triton.TILE, norm_triton.GROUP_TILE = 1024, 128
    results = {f"{shape}": errors_of(shape, torch.float32) for shape in SHAPES}
    for name in ("float16", "bfloat16"):
        results[name] = errors_of((1, 96, 9, 8, 32), DTYPES[name])
    results["no silu"] = errors_of((2, 64, 9, 8, 32), torch.float32, silu=False)
    results["nchw"] = errors_of((2, 64, 9, 8, 32), torch.float32, layout=torch.contiguous_format)
    results["mean 1000, one launch"] = errors_of((1, 64, 4, 4, 32), torch.float32, mean=1000)
    results["mean 1000, three launches"] = errors_of((1, 64, 30, 9, 32), torch.float32, mean=1000)
    for shape in SKIPS:
        results[f"skip {shape}"] = skip_error(norm_triton, *shape)
    results["sum"] = sum_errors()
    results["patches"] = patches_error(patches_triton)
    return results


def random_map(*size):
    return torch.randn(size).contiguous(memory_format=torch.channels_last)


def skip_error(kernels, count, width, skip_width, height, columns, groups):
    x, skip = (
        random_map(count, width, height, columns),
        random_map(count, skip_width, height, columns),
    )
    weight, bias = torch.randn(2, width + skip_width)
    errors = []
    for size in ((width + skip_width,), (count, width + skip_width)):  # for all, for each sample
        offset = torch.randn(size)
        y, _, _ = kernels.normalize(x, weight, bias, groups, 1e-5, True, skip, offset)
        both = torch.cat([x, skip], dim=1) + offset[..., None, None]
        errors.append(error(y, expected(both, weight, bias, groups, True)))
    return max(errors)


def sum_errors():
    from lgm.layers import norm_triton

    a, b = (random_map(2, 96, 5, 7).requires_grad_() for _ in range(2))
    bias = torch.randn(96)
    y = scaled_sum(a, b, 0.7)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    exact = a.detach().double() + b.detach().double()
    biased = norm_triton.scaled_sum(a.detach(), b.detach(), 0.7, bias)
    return [
        error(y, 0.7 * exact),
        error(biased, 0.7 * (exact + bias.double()[:, None, None])),
        *(error(t.grad, 0.7 * gradient.double()) for t in (a, b)),
    ]


def patches_error(kernels):
    x, weight = random_map(2, 24, 5, 7), torch.randn(8, 24, 3, 3)
    product = kernels.patches(x) @ weight.permute(0, 2, 3, 1).reshape(8, -1).t()
    reference = F.conv2d(x.double(), weight.double(), padding=1)
    return error(product.view(2, 5, 7, 8).permute(0, 3, 1, 2), reference)


if __name__ == "__main__":
    print(json.dumps(interpret()))


def test_groups_far_from_zero_keep_their_digits():
    """torch's channels-last CPU kernel has a relative error of 2e-3 here."""
    generator = torch.Generator().manual_seed(0)
    x = 30 + torch.randn(1, 64, 32, 32, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ones(64), torch.zeros(64)
    exact = F.group_norm(x.double(), 32, weight.double(), bias.double(), 1e-5)
    y = group_norm_silu(x, weight, bias, silu=False)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y - exact).norm() / exact.norm() < 1e-5
