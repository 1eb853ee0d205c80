import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lgm
from lgm.multiview.weights import config_of, load_unet

from .conftest import KINDS

NAME = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def released(tmp_path, recorded):
    """A `unet` folder of the released layout, with the remote code that comes with it."""
    config = {"_class_name": "MultiViewUNetModel", "_diffusers_version": "0.25.0"}
    (tmp_path / "config.json").write_text(json.dumps(config | recorded.config))
    (tmp_path / "mv_unet.py").write_text("raise SystemExit('remote code ran')")
    save_file({k: v.half() for k, v in recorded.state.items()}, tmp_path / NAME)
    return tmp_path


def test_released_folder_gives_the_recorded_numbers(released, recorded):
    network = load_unet(released)
    assert next(network.parameters()).dtype == torch.float16
    assert not network.training
    assert (network(**recorded.inputs) - recorded.out).abs().max() <= 2e-4
    assert next(load_unet(released, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16


def test_single_files_load_by_what_they_say_of_themselves(tmp_path, recorded):
    prefixed = {f"model.diffusion_model.{k}": v for k, v in recorded.state.items()}
    prefixed["first_stage_model.decoder.conv_in.weight"] = torch.zeros(2)
    metadata = {"config": json.dumps(recorded.config)}
    save_file(recorded.state, tmp_path / "a.safetensors", metadata)
    save_file(prefixed, tmp_path / "b.safetensors", metadata)
    for name in ("a", "b"):
        network = load_unet(tmp_path / f"{name}.safetensors")
        assert (network(**recorded.inputs) - recorded.out).abs().max() <= 2e-4


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_is_told_from_the_shapes(kind, data):
    manifest = json.loads((data / f"{kind}_keys.json").read_text())
    told = config_of({key: tuple(shape) for key, shape in manifest["tensors"]})
    expected = {key: value for key, value in manifest["config"].items() if key != "image_size"}
    assert told == {"ip_dim": 0} | expected


def test_reduced_configuration_is_told_from_the_shapes(recorded):
    told = config_of({key: tuple(value.shape) for key, value in recorded.state.items()})
    unknown = {"num_head_channels": 64, "image_size": recorded.config["image_size"]}
    assert told | unknown == {"ip_dim": 0} | recorded.config | unknown


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"input_blocks.0.0.weight": (8, 4, 3, 3), "time_embed.0.weight": (8, 8)},
            "Stable Diffusion U-Net without cameras",
        ),
        ({"down_blocks.0.resnets.0.conv1.weight": (8, 8)}, "in diffusers' layout"),
        ({"unet.conv_in.weight": (64, 9, 3, 3), "conv.weight": (14, 14, 1, 1)}, "an LGM file"),
        ({"a": (1,)}, "none of its tensors"),
    ],
)
def test_other_models_are_named(tmp_path, tensors, message):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, path)
    with pytest.raises(ValueError, match=rf"x\.safetensors must hold the multi-view.*{message}"):
        load_unet(path)


def test_bundled_lgm_model_is_refused():
    with pytest.raises(ValueError, match="is an LGM file"):
        load_unet(Path(lgm.__file__).parent / "models" / "demo.safetensors")


def test_stable_diffusions_folder_is_refused(released):
    (released / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(ValueError, match="describes a UNet2DConditionModel"):
        load_unet(released)


def test_half_a_download_is_refused(released):
    data = (released / NAME).read_bytes()
    (released / NAME).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_unet(released)


def test_missing_files_are_named(released):
    (released / NAME).unlink()
    with pytest.raises(ValueError, match=f"needs {NAME}, which is missing"):
        load_unet(released)
    (released / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json can't be read"):
        load_unet(released)
    with pytest.raises(ValueError, match="does not exist"):
        load_unet(released / "nowhere")


@pytest.mark.parametrize("text", ["{", "[]", '{"_class_name": "MultiViewUNet", "depth": 3}'])
def test_unusable_configurations_are_refused(released, text):
    (released / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"JSON|configuration"):
        load_unet(released)


def test_missing_extra_misshapen_and_broken_tensors_are_named(released, recorded):
    state = recorded.state
    for changed, message in (
        ({k: v for k, v in state.items() if k != "out.2.bias"}, r"out\.2\.bias is missing"),
        ({**state, "junk": torch.zeros(1)}, "junk is unknown"),
        ({**state, "out.2.bias": torch.zeros(5)}, r"out\.2\.bias is \[5\] instead of \[4\]"),
        ({**state, "out.2.bias": torch.full((4,), float("inf"))}, r"out\.2\.bias must hold finite"),
    ):
        save_file(changed, released / NAME)
        with pytest.raises(ValueError, match=message):
            load_unet(released)


def test_pickles_are_never_opened(released):
    (released / NAME).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="pickle"):
        load_unet(released)


def test_full_size_folder_is_checked_without_reading_its_weights(tmp_path, data):
    """A sparse file of the released layout and size: its last tensor is missing from the header."""
    manifest = json.loads((data / "imagedream_keys.json").read_text())
    offset, header = 0, {}
    for key, shape in manifest["tensors"][:-1]:
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header).encode()
    with (tmp_path / NAME).open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + offset)
    (tmp_path / "config.json").write_text(json.dumps(manifest["config"]))
    with pytest.raises(ValueError, match=f"{manifest['tensors'][-1][0]} is missing"):
        load_unet(tmp_path)


def test_library_imports_and_networks_work_without_diffusers(tmp_path):
    root = Path(lgm.__file__).parent.parent
    script = """
import sys
import lgm, lgm.multiview
assert not {"diffusers", "transformers"} & set(sys.modules)
sys.modules["diffusers"] = sys.modules["transformers"] = None
import torch
config = dict(model_channels=32, channel_mult=(1, 1), num_head_channels=16, context_dim=16)
with torch.device("meta"):
    lgm.multiview.MultiViewUNet(**config)
try:
    lgm.multiview.MultiViewPipeline
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert "pip install diffusers transformers" in done.stdout
