import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

import lgm
from lgm import LGM, PRESETS
from lgm.network.weights import LEGACY_NAME, load_model, save_model
from lgm.releases.places import find_model


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return LGM(PRESETS["demo"]).state_dict()


def test_weights_survive_the_file(tmp_path, state):
    model = LGM(PRESETS["demo"])
    model.load_state_dict(state)
    save_model(model, tmp_path / "a.safetensors", torch.float32, {"note": "x"})
    loaded = load_model(tmp_path / "a.safetensors")
    assert loaded.preset is PRESETS["demo"]
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_storage_type_is_the_files_unless_asked(tmp_path, state, dtype):
    save_file({k: v.to(dtype) for k, v in state.items()}, tmp_path / "a.safetensors")
    assert load_model(tmp_path / "a.safetensors").conv.weight.dtype == dtype
    assert (
        load_model(tmp_path / "a.safetensors", dtype=torch.float32).conv.weight.dtype
        == torch.float32
    )


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_file({k: v for k, v in state.items() if k != "conv.bias"}, path)
    with pytest.raises(ValueError, match=r"a\.safetensors.*conv\.bias is missing"):
        load_model(path)
    save_file({**state, "junk": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="junk is unknown"):
        load_model(path)
    save_file({**state, "conv.bias": torch.zeros(13)}, path)
    with pytest.raises(ValueError, match=r"conv\.bias is \[13\] instead of \[14\]"):
        load_model(path)


def test_other_networks_are_refused(tmp_path):
    save_file({"model.weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="is this an LGM file"):
        load_model(tmp_path / "a.safetensors")


def test_integer_weights_are_refused(tmp_path, state):
    save_file(
        {**state, "conv.bias": torch.zeros(14, dtype=torch.int32)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match=r"conv\.bias must hold floating-point"):
        load_model(tmp_path / "a.safetensors")


def test_not_a_number_is_named(tmp_path, state):
    broken = {**state, "conv.bias": torch.full((14,), float("nan"))}
    save_file(broken, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"conv\.bias holds NaN"):
        load_model(tmp_path / "a.safetensors")


def test_pickles_are_never_opened(tmp_path, state):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('unpickled')",))

    for name, data in {
        "raw": pickle.dumps(Bomb(), protocol=2),
        "new": pickle.dumps(Bomb()),
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="pickle"):
            load_model(path)
    torch.save(state, tmp_path / "torch.safetensors")
    with pytest.raises(ValueError, match="pickle"):
        load_model(tmp_path / "torch.safetensors")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x10",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 100) + b"{not json",
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_corrupted_headers_are_one_sentence(tmp_path, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        load_model(path)


def test_truncated_file_is_refused(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_model(tmp_path / "a.safetensors")


def test_unknown_name_says_where_to_put_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"model_fp16_fixrot\.safetensors.*ashawkey/LGM") as error:
        find_model("lgm_fixrot_fp16", [tmp_path])
    assert str(tmp_path) in str(error.value)


def test_released_names_are_found_in_given_folders(tmp_path, state):
    save_file(state, tmp_path / "model_fp16_fixrot.safetensors")
    assert find_model("lgm_fixrot_fp16", [tmp_path]).parent == tmp_path


def test_models_folder_of_the_environment_is_searched(tmp_path, state, monkeypatch):
    save_file(state, tmp_path / "mine.safetensors")
    monkeypatch.setenv("LGM_MODELS_DIR", str(tmp_path))
    assert find_model("mine").parent == tmp_path


@pytest.mark.slow
def test_legacy_weights_draw_without_rotation(tmp_path):
    small = lgm.Preset(
        down_channels=(32, 32),
        down_attention=(False, True),
        up_channels=(32,),
        up_attention=(True,),
        splat_size=32,
        input_size=64,
    )
    model = LGM(small).eval()
    views = torch.rand(4, 3, 64, 64)
    before = model.reconstruct(views)
    assert before.rotations[..., 0].min() < 0.99
    model.identity_rotations = True
    after = model.reconstruct(views)
    assert torch.equal(after.rotations, torch.tensor([1.0, 0, 0, 0]).expand_as(after.rotations))
    assert torch.equal(after.positions, before.positions)


def test_legacy_file_is_recognized_by_name(tmp_path, state):
    save_file(state, tmp_path / LEGACY_NAME)
    assert load_model(tmp_path / LEGACY_NAME).identity_rotations
    save_file(state, tmp_path / "other.safetensors")
    assert not load_model(tmp_path / "other.safetensors").identity_rotations


def test_official_layout_loads_without_memory_for_two(tmp_path):
    """Every tensor of the tiny preset, in fp16, under its official key."""
    with torch.device("meta"):
        layout = LGM(PRESETS["tiny"]).state_dict()
    save_file(
        {k: torch.zeros(v.shape, dtype=torch.float16) for k, v in layout.items()},
        tmp_path / "t.safetensors",
    )
    model = load_model(tmp_path / "t.safetensors")
    assert model.preset is PRESETS["tiny"]
    assert not any(p.is_meta for p in model.parameters())


def test_metadata_is_json(tmp_path, state):
    model = LGM(PRESETS["demo"])
    save_model(model, tmp_path / "a.safetensors", torch.float16, {"steps": 3, "recipe": {"a": 1}})
    from lgm.io.safetensors import read_metadata

    assert json.loads(read_metadata(tmp_path / "a.safetensors")["recipe"]) == {"a": 1}
