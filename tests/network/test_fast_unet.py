"""The fused U-Net computes what the readable one does."""

import pytest
import torch
import torch.nn.functional as F

from lgm.machine.cuda_graph import GraphedFunction, parameter_state
from lgm.network.model import LGM
from lgm.network.presets import Preset

pytest.importorskip("triton")
from lgm.layers import fast as fast_layers
from lgm.layers import norm_triton, patches_triton
from lgm.network import fast_unet

PRESET = Preset(
    down_channels=(32, 64, 96),
    down_attention=(False, True, True),
    up_channels=(96, 64),
    up_attention=(True, False),
    splat_size=16,
    input_size=32,
)


class Always(dict):
    """Choices that take the same candidate everywhere, without measuring."""

    def __init__(self, index: int):
        super().__init__()
        self.index = index

    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return self.index


def normalize(x, weight, bias, groups, eps, silu, skip=None, offset=None):
    x = x if skip is None else torch.cat([x, skip], dim=1)
    x = x if offset is None else x + offset[:, None, None]
    y = F.group_norm(x, groups, weight, bias, eps)
    return (F.silu(y) if silu else y).contiguous(memory_format=torch.channels_last), None, None


def scaled_sum(a, b, scale, bias=None):
    return scale * (a + b + (0 if bias is None else bias[:, None, None]))


def patches(x):
    columns = F.unfold(x, 3, padding=1).unflatten(1, (x.shape[1], 9))  # [N, C, 9, H * W]
    return columns.permute(0, 3, 2, 1).flatten(0, 1).flatten(1)


@pytest.fixture
def plain_kernels(monkeypatch):
    """Torch in place of the kernels, which have their own tests: here the wiring is tested."""
    for function in (normalize, scaled_sum, patches):
        monkeypatch.setattr(
            patches_triton if function.__name__ == "patches" else norm_triton,
            function.__name__,
            function,
        )


def random_model(preset: Preset = PRESET) -> LGM:
    torch.manual_seed(0)
    model = LGM(preset).requires_grad_(False).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # zero biases would hide a forgotten one
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


# Candidate 0 is torch's own way, 1 the rearranged convolutions and flash attention.
@pytest.mark.parametrize("candidate", [0, 1])
def test_fused_unet_equals_the_readable_one(plain_kernels, candidate):
    model, x = random_model(), torch.randn(4, 9, 32, 32)
    expected = model.conv(model.unet(x))
    plan = fast_unet.FastUNet(model.unet, model.conv, 4)
    plan.ways.choices = Always(candidate)
    torch.testing.assert_close(plan(x), expected, atol=2e-5, rtol=0)


def test_fused_unet_lets_an_objects_six_views_attend_to_each_other(plain_kernels):
    model, x = random_model(), torch.randn(2 * 6, 9, 32, 32)
    plan = fast_unet.FastUNet(model.unet, model.conv, 6)
    plan.ways.choices = Always(0)
    expected = model.conv(model.unet(x, 6))
    torch.testing.assert_close(plan(x), expected, atol=2e-5, rtol=0)


def test_fused_unet_changes_no_weight(plain_kernels):
    model = random_model()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fast_unet.FastUNet(model.unet, model.conv, 4)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("inference_mode", [True, False])
def test_weights_prepared_in_any_mode_can_still_be_trained(inference_mode):
    model = random_model()
    with torch.inference_mode(inference_mode):
        fast_unet.FastUNet(model.unet, model.conv, 4)
    model.requires_grad_(True)
    model.features(torch.randn(1, 4, 9, 32, 32)).mean().backward()
    assert model.unet.conv_in.weight.grad is not None


def test_transposed_convolution_equals_upsampling_then_convolution():
    x, weight = torch.randn(2, 8, 5, 7), torch.randn(6, 8, 3, 3)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    merged = fast_layers.transposed_weight(weight)
    torch.testing.assert_close(
        F.conv_transpose2d(x, merged, stride=2, padding=1), expected, atol=1e-4, rtol=0
    )


def test_parameter_state_notices_every_kind_of_change():
    model = random_model()
    state = parameter_state(model)
    seen = [state()]
    assert state() == seen[0]
    model.unet.mid_block.nets[0].conv1.weight.mul_(2)
    seen.append(state())
    model.unet.conv_in.weight.data = model.unet.conv_in.weight.data.clone()
    seen.append(state())
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    seen.append(state())
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


def test_without_cuda_a_graphed_function_is_the_function():
    x = torch.randn(3)
    assert torch.equal(GraphedFunction(torch.sin)(x), x.sin())


def test_cpu_inputs_are_left_to_the_readable_network():
    assert not fast_unet.can_run(random_model(), torch.randn(4, 9, 32, 32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_graph_follows_shapes_and_weights():
    model = random_model().cuda().half()
    for size in (32, 64, 32):
        for batch in (1, 2):
            x = torch.randn(4 * batch, 9, size, size, device="cuda")
            for _ in range(2):
                model.unet.conv_in.weight.mul_(0.9)  # a graph of the old weights would be wrong now
                with torch.no_grad():
                    expected = model.conv(model.unet(x.half()))
                    got = fast_unet.features(model, x)
                assert (got - expected).norm() < 5e-3 * expected.norm()
                assert torch.equal(got, fast_unet.features(model, x))
