import json

import pytest
import torch
from safetensors import safe_open

from lgm.multiview.blocks import timestep_embedding
from lgm.multiview.unet import UNet

from .conftest import FIXTURE, KINDS, recording


def per_object(inputs, index, frames):
    """The arguments for one object of a batch."""
    rows = slice(index * frames, (index + 1) * frames)
    return {
        key: value
        if key == "num_frames"
        else value[index : index + 1]
        if key == "reference_latents"
        else value[rows]
        for key, value in inputs.items()
    }


def test_network_gives_the_originals_numbers(recorded):
    assert (recorded.network()(**recorded.inputs) - recorded.out).abs().max() <= 2e-4


def test_inputs_are_not_changed(recorded):
    before = {k: v.clone() for k, v in recorded.inputs.items() if isinstance(v, torch.Tensor)}
    recorded.network()(**recorded.inputs)
    assert all(torch.equal(recorded.inputs[key], value) for key, value in before.items())


def test_time_embedding_and_image_tokens_are_the_originals():
    with safe_open(FIXTURE, "pt") as file:
        waves = timestep_embedding(torch.tensor([1, 34, 701]), 32)
        assert (waves - file.get_tensor("t_emb_32")).abs().max() <= 1e-6
        tokens = file.get_tensor("imagedream.image_tokens")
    record = recording("imagedream")
    features = record.inputs["image_features"][[0, -1]]
    assert (record.network().image_embed(features) - tokens).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_layout_is_the_released_files(kind, data):
    manifest = json.loads((data / f"{kind}_keys.json").read_text())
    with torch.device("meta"):
        state = UNet(**manifest["config"]).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == dict(manifest["tensors"])
    assert sum(value.numel() for value in state.values()) == manifest["param_count"]


def test_constants_serve_every_step(recorded):
    network, inputs = recorded.network(), dict(recorded.inputs)
    sample, timestep = inputs.pop("sample"), inputs.pop("timestep")
    constants = network.prepare(**inputs)
    for step in (timestep, timestep // 3, timestep):
        expected = network(sample, step, **inputs)
        assert torch.equal(network.denoise(sample, step, constants), expected)


def test_objects_of_a_batch_do_not_see_each_other(recorded):
    network, frames = recorded.network(), recorded.inputs["num_frames"]
    singles = [network(**per_object(recorded.inputs, index, frames)) for index in (0, 1)]
    assert (torch.cat(singles) - network(**recorded.inputs)).abs().max() <= 1e-5


def test_frames_have_no_order_but_their_cameras():
    record = recording("mvdream")
    order = torch.tensor([2, 0, 3, 1, 4, 7, 5, 6])
    shuffled = {
        key: value[order] if isinstance(value, torch.Tensor) else value
        for key, value in record.inputs.items()
    }
    network = record.network()
    assert (network(**shuffled) - network(**record.inputs)[order]).abs().max() <= 1e-5


def test_last_frame_is_the_reference_whatever_the_sample_holds():
    record = recording("imagedream")
    network, inputs = record.network(), dict(record.inputs)
    inputs["sample"] = inputs["sample"].clone()
    inputs["sample"][4::5] = 123.0
    assert torch.equal(network(**inputs), network(**record.inputs))


def test_weight_zero_leaves_the_picture_out():
    record = recording("imagedream")
    inputs = {k: v for k, v in record.inputs.items() if k not in ("sample", "timestep")}
    network = record.network()
    text_only = UNet(**{**record.config, "ip_dim": 0})
    text_only.load_state_dict(record.state, strict=False)
    without = {key: value for key, value in inputs.items() if key != "image_features"}
    sample, timestep = record.inputs["sample"], record.inputs["timestep"]
    ours = network.denoise(sample, timestep, network.prepare(**inputs, ip_weight=0.0))
    theirs = text_only.denoise(sample, timestep, text_only.prepare(**without))
    assert (ours - theirs).abs().max() <= 1e-5
    assert (ours - record.out).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_in_half_precision_it_calculates_in_the_samples(recorded, dtype):
    network = recorded.network().to(dtype)
    out = network(**recorded.inputs)
    assert out.dtype == torch.float32
    # The weights of the recording are exact in fp16, and cost bf16 three digits.
    assert (out - recorded.out).abs().max() <= (2e-4 if dtype == torch.float16 else 0.2)


def test_wrong_arguments_are_named(recorded):
    network, inputs = recorded.network(), recorded.inputs
    for change, message in (
        ({"num_frames": 3}, "whole objects of 3 frames"),
        ({"camera": inputs["camera"][:, :12]}, r"camera of shape \[\d+, 16\]"),
        ({"encoder_hidden_states": inputs["encoder_hidden_states"][1:]}, "encoder_hidden_states"),
        ({"sample": inputs["sample"][:, :3]}, r"latents \[\d+, 4, h, w\]"),
        ({"sample": inputs["sample"][..., :15]}, "multiples of 2, got 16 x 15"),
        ({"timestep": torch.tensor(7)}, "one timestep per frame"),
    ):
        with pytest.raises(ValueError, match=message):
            network(**{**inputs, **change})


def test_picture_and_network_must_fit():
    with_picture, text_only = recording("imagedream"), recording("mvdream")
    with pytest.raises(ValueError, match="ImageDream's U-Net, which needs image_features"):
        with_picture.network()(**{**with_picture.inputs, "image_features": None})
    with pytest.raises(ValueError, match="MVDream's U-Net, which knows text only"):
        text_only.network()(**text_only.inputs, image_features=torch.zeros(8, 257, 1280))
    with pytest.raises(ValueError, match="one reference latent for each of 2"):
        reference = with_picture.inputs["reference_latents"][:1]
        with_picture.network()(**{**with_picture.inputs, "reference_latents": reference})
