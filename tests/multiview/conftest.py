import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lgm.multiview.unet import UNet

FIXTURE = Path(__file__).parent.parent / "data" / "multiview_mini.safetensors"
KINDS = ("mvdream", "imagedream")


@dataclass
class Recording:
    """A reduced network of the original with random weights, what it was given and what it gave."""

    config: dict
    state: dict[str, Tensor]
    inputs: dict  # keyword arguments of the network
    out: Tensor

    def network(self, kind=UNet) -> UNet:
        network = kind(**self.config)
        network.load_state_dict(self.state)
        return network.requires_grad_(False).eval()


@cache
def recording(kind: str) -> Recording:
    with safe_open(FIXTURE, "pt") as file:
        meta = json.loads(file.metadata()["meta"])[kind]
        frames = meta["num_frames"]
        inputs = {key: file.get_tensor(f"{kind}.{key}") for key in ("sample", "timestep", "camera")}
        text = file.get_tensor("text").float().repeat_interleave(frames, dim=0)
        inputs |= {"encoder_hidden_states": text, "num_frames": frames}
        if kind == "imagedream":
            features = file.get_tensor("image_features_i8").float() / 32
            shown = features.expand(frames, -1, -1)
            inputs["image_features"] = torch.cat([torch.zeros_like(shown), shown])
            inputs["reference_latents"] = file.get_tensor("imagedream.reference_latents")
        state = {key: file.get_tensor(f"weights.{key}").float() for key in meta["tensors"]}
        return Recording(meta["config"], state, inputs, file.get_tensor(f"{kind}.out"))


@pytest.fixture(params=KINDS)
def recorded(request) -> Recording:
    return recording(request.param)


# A whole released folder with tiny components -----------------------------------------------------

START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path) -> None:
    """CLIP's kind of tokenizer, for small letters; "cat" and "dog" are single tokens."""
    letters = [*"!abcdefghijklmnopqrstuvwxyz,."]
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *(m.replace(" ", "") for m in merges)]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )


def save_with_prefix(module: torch.nn.Module, folder: Path, prefix: str) -> None:
    """As transformers 4 wrote it, whatever version made the module."""
    module.config.save_pretrained(folder)
    state = {
        key if key.startswith(prefix) else prefix + key: value.half().contiguous()
        for key, value in module.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def write_released_folder(folder: Path, kind: str) -> Path:
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    record = recording(kind)
    code = "raise SystemExit('remote code ran')\n"
    (folder / "unet").mkdir(parents=True)
    (folder / "pipeline_mvdream.py").write_text(code)
    (folder / "unet" / "mv_unet.py").write_text(code)
    index = {"_class_name": ["pipeline_mvdream", "MVDreamPipeline"], "_diffusers_version": "0.25.0"}
    index["unet"] = ["mv_unet", "MultiViewUNetModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    config = {"_class_name": "MultiViewUNetModel", "_diffusers_version": "0.25.0"} | record.config
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    save_file(record.state, folder / "unet" / "diffusion_pytorch_model.safetensors")

    write_tokenizer(folder / "tokenizer")
    size = {"intermediate_size": 32, "num_hidden_layers": 2}
    text = CLIPTextConfig(vocab_size=64, hidden_size=16, num_attention_heads=2, **size)
    save_with_prefix(CLIPTextModel(text), folder / "text_encoder", "text_model.")
    if kind == "imagedream":
        vision = CLIPVisionConfig(hidden_size=1280, num_attention_heads=20, patch_size=56, **size)
        save_with_prefix(CLIPVisionModel(vision), folder / "image_encoder", "vision_model.")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def released_folders(tmp_path_factory) -> dict[str, Path]:
    """Tiny MVDream and ImageDream in the released layout; not to be changed."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("released")
    return {kind: write_released_folder(root / kind, kind) for kind in KINDS}
