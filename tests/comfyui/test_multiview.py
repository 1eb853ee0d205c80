"""MVDream and ImageDream in ComfyUI, with reduced networks: by its own sampler, and by the node
that draws with the library alone.

Most of the first is measured in one process of ComfyUI's Python (`multiview_core.py`); what the
page would do is done on a server.
"""

import io
import json
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file

from .client import PREVIEW_MESSAGES, Run, files
from .comfyui import PACK, PROBE, ROOT, Server
from .prompts import node
from .released_files import (
    IP_DIM,
    SCHEDULER,
    TEXT,
    UNET,
    VAE,
    VISION,
    write_tokenizer,
    write_vae,
)

FIXTURE = ROOT / "tests" / "data" / "multiview_mini.safetensors"
SCRIPT = Path(__file__).with_name("multiview_core.py")
KINDS = ("mvdream", "imagedream")
ORIGINAL = 2e-4  # to what the official network gave, as the fixture's README says
SAME = 1e-4  # of the result's spread: the same sum in another order, over a whole sampling


@pytest.fixture(scope="module")
def measured(comfyui, python, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("multiview")
    command = [python, "-B", str(SCRIPT), str(comfyui), str(ROOT), str(FIXTURE), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_cores_network_gives_what_the_official_one_did(measured, kind):
    assert measured["parity"][f"{kind} to the original"] < ORIGINAL


@pytest.mark.parametrize("kind", KINDS)
def test_objects_of_a_batch_do_not_see_each_other(measured, kind):
    assert measured["parity"][f"{kind} one object by one"] < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_cores_network_has_the_released_tensors(measured, kind):
    found = measured["released_size"][kind]
    released = {"mvdream": (867_572_164, 690), "imagedream": (941_672_900, 773)}
    assert (found["parameters"], found["tensors"]) == released[kind]
    assert found["as the library"] and found["out of a LoRA's reach"] == []


def test_dynamic_memory_management_gets_what_it_wants(measured):
    found = measured["dynamic"]
    assert found["class"] == ["Exchanged", "ModelPatcher"]
    assert found["weights"] == ["torch.float16"]  # as in the file, whatever was asked for


def test_half_precision_weights_are_cast_by_core(measured):
    assert measured["precisions"]["error"] < ORIGINAL
    assert measured["precisions"]["weights"] == ["torch.float16"]


@pytest.mark.parametrize("kind", KINDS)
def test_cores_ddim_draws_what_the_library_does(measured, kind):
    """In the order of `lgm`: the library's frames 1, 2, 3, 0."""
    assert measured["sampling"][f"{kind} by the library"] < SAME


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides(measured, kind):
    assert measured["sampling"][f"{kind} again"] == 0
    assert measured["sampling"][f"{kind} other seed"] > 0.5


def test_samplers_of_core_run(measured):
    finite = {name: ok for name, ok in measured["sampling"].items() if name.endswith("finite")}
    assert len(finite) == 10 and all(finite.values()), finite


def test_the_picture_counts_as_much_as_told(measured):
    assert measured["sampling"]["strength matters"] > 0.01


def test_a_latent_of_another_size_takes_the_picture_along(measured):
    assert measured["sampling"]["another size"] == [8, 4, 24, 20]


@pytest.mark.parametrize("kind", KINDS)
def test_both_halves_of_the_guidance_may_run_together_or_apart(measured, kind):
    found = measured["splitting"][kind]
    assert found["rows"] == [[16], [8]]
    assert found["error"] < SAME


def test_loras_of_stable_diffusion_act(measured):
    found = measured["lora"]
    assert found["unknown"] == []
    assert found["acts"] > 0.01 and found["as merged"] < SAME and found["comes off"] == 0


def test_memory_is_cores_business(measured):
    found = measured["memory"]
    assert found["left"] == 0 and found["again"] == 0
    assert found["kept back"] > 50 and found["in part"] < 1e-5
    assert found["layers not core's"] == []


def test_a_saved_model_loads_again(measured):
    assert measured["memory"]["saved"] == 0


@pytest.mark.parametrize("kind, frames", [("mvdream", 4), ("imagedream", 5)])
def test_patches_of_attention_see_single_frames(measured, kind, frames):
    found = measured["patches"]
    rows = 2 * 2 * frames  # both halves of the guidance, two objects
    assert found[f"{kind} shapes"] == [[rows, 64], [rows, 256]]
    assert all(0 < found[f"{kind} {node}"] < 100 for node in ("FreeU", "PAG", "HyperTile"))


def test_controlnets_add_nothing_to_the_hidden_frame(measured):
    views_are_kept, hidden, none_stays, single = measured["patches"]["control"]
    assert views_are_kept and hidden == 0 and none_stays and single == 1


def test_the_first_camera_stands_in_front_and_above(measured):
    """The front is Blender's +x, and the second view a quarter turn to the object's left."""
    cameras = torch.tensor(measured["node_results"]["cameras"]).reshape(4, 4, 4)
    above = torch.deg2rad(torch.tensor(20.0))
    level, height = above.cos(), above.sin()
    places = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]]) * level
    torch.testing.assert_close(cameras[:, :2, 3], places, atol=1e-6, rtol=0)
    torch.testing.assert_close(cameras[:, 2, 3], height.expand(4), atol=1e-6, rtol=0)
    assert measured["node_results"]["cameras are told twice"]


def test_users_see_four_latents_an_object(measured):
    found = measured["node_results"]
    assert found["latent"] == [8, 4, 16, 16] and found["image latent"] == [16, 4, 16, 16]
    assert found["text"] == [[8, 4, 16, 16], True]
    assert found["image"] == [[16, 4, 16, 16], True]
    assert found["decoded"] == [4, 128, 128, 3]


def test_each_picture_makes_its_own_objects(measured):
    found = measured["node_results"]
    assert found["features"] == [4, 257, 1280] and found["references"] == [4, 4, 16, 16]
    same, other, same_again = found["picture by picture"]
    assert same == same_again == 0 and other > 0.01
    assert found["hidden"] == [0, 0]


def test_encoders_get_what_the_library_prepares(measured):
    one_step = 1 / 255 / 0.26  # of 8 bits, after CLIP's normalization: the resamplers round apart
    assert measured["node_results"]["clip pixels"] < 1.01 * one_step
    assert measured["node_results"]["vae pixels"] < 1e-6


@pytest.mark.parametrize(
    "mistake, words",
    {
        "sd": "without cameras",
        "diffusers": "diffusers' layout",
        "lgm": "is an LGM file",
        "half": "download it again",
        "gap": "attn1.to_q.weight is missing",
        "no cameras": "put Multi-View Text Conditioning between",
        "no picture": "Multi-View Image Conditioning, but the positive one is of text alone",
        "a picture": "but the positive one is of a picture",
        "three latents": "4 latents for each object, got 3",
        "sd15 text": "has 768",
        "sdxl text": "has 2048",
        "odd size": "multiples of 8, got 250 x 128",
        "white": "all white background",
        "clip-l": "needs CLIP ViT-H/14",
        "vae": "VAE of Stable Diffusion 1 or 2",
        "splat without vae": "needs a VAE",
        "splat without lgm": "needs an LGM model",
    }.items(),
)
def test_mistakes_are_named(measured, mistake, words):
    assert words in measured["errors"][mistake]


@pytest.mark.parametrize(
    "name, steps, pictures, size",
    [
        ("rough", 5, 4, [512, 512]),  # steps 1, 2, 4 and 5: the first, every other, the last
        ("views", 2, 2, [512, 512]),
        ("both", 2, 2, [1024, 512]),
        ("splat", 1, 1, [512, 512]),
    ],
)
def test_previews_show_and_change_nothing(measured, name, steps, pictures, size):
    found = measured["sampling_previews"][name]
    assert found["error"] == 0 and found["said"] == []
    assert found["core's"] == list(range(steps))
    assert found["steps"] == list(range(1, steps + 1))
    assert found["pictures"] == pictures and found["size"] == size
    assert found["colors"] > 100


def test_a_preview_that_fails_goes_away_with_one_line(measured):
    found = measured["sampling_previews"]["broken"]
    assert found["error"] == 0 and found["pictures"] == 0
    assert found["said"] == ["The sampling preview is off, since it failed: no such kernel"]


def test_cancel_is_no_failure_of_a_preview(measured):
    assert measured["sampling_previews"]["cancel"] == "raised"


def test_the_splat_in_a_preview_knows_the_elevation(measured):
    assert measured["sampling_previews"]["elevation"] == pytest.approx([25, 0], abs=1e-4)


# On a server ---------------------------------------------------------------------------------

# A text encoder of Stable Diffusion 2.1 takes its time: the first node has its output's form. The
# second writes an IMAGE as it is, where ComfyUI's own would round it to 8 bits.
TEST_PACK = "lgm_test_nodes"
TEST_NODES = """
import folder_paths
import torch
from safetensors.torch import save_file

class Text:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "test"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": ("INT", {"default": 0})}})

    def make(self, seed):
        made = torch.Generator().manual_seed(seed)
        return ([[torch.randn(1, 77, 1024, generator=made), {}]],)

class Keep:
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "keep"
    CATEGORY = "test"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"images": ("IMAGE",)}})

    def keep(self, images):
        name = "kept.safetensors"
        save_file({"images": images.contiguous()}, folder_paths.get_output_directory() + "/" + name)
        return {"ui": {"kept": [{"filename": name, "subfolder": "", "type": "output"}]}}

NODE_CLASS_MAPPINGS = {"LGMTestText": Text, "LGMTestKeep": Keep}
"""
RELEASED = "mini/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def multiview_server(comfyui, python, tmp_path_factory):
    """A server with a reduced MVDream, in a released folder and as a file, and a LoRA for it."""
    server = with_test_nodes(comfyui, python, tmp_path_factory.mktemp("multiview_server"))
    write_models(server.base / "models")
    server.start()
    if "LGM_LoadMultiViewModel" not in server.json("/object_info"):
        server.stop()
        pytest.fail("the pack has no LGM_LoadMultiViewModel", pytrace=False)
    yield server
    server.stop()


def with_test_nodes(comfyui, python, base: Path) -> Server:
    flags = ("--whitelist-custom-nodes", PACK, PROBE.name, TEST_PACK, "--preview-method", "auto")
    server = Server(comfyui, python, base, flags)
    pack = base / "custom_nodes" / TEST_PACK / "__init__.py"
    pack.parent.mkdir()
    pack.write_text(TEST_NODES)
    return server


def write_models(models: Path) -> None:
    from lgm.multiview import UNet

    config = {
        "model_channels": 64, "attention_resolutions": [1], "num_res_blocks": 1,
        "channel_mult": [1, 2], "context_dim": 1024, "camera_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    state = UNet(**config).state_dict()
    for path in (models / "diffusers" / RELEASED, models / "diffusion_models" / "mv.safetensors"):
        path.parent.mkdir(parents=True)
        save_file(state, path)
    config_file = models / "diffusers" / "mini" / "unet" / "config.json"
    config_file.write_text(json.dumps({"_class_name": "MultiViewUNetModel", **config}))
    other = models / "diffusers" / "sd" / "unet" / "config.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    other.with_name(Path(RELEASED).name).write_bytes(b"")
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_v"
    pair = {
        f"{name}.lora_up.weight": torch.randn(128, 4),
        f"{name}.lora_down.weight": torch.randn(4, 128),
    }
    (models / "loras").mkdir()
    save_file(pair, models / "loras" / "style.safetensors")


def text_to_views(unet: str = RELEASED, steps: int = 3, lora: bool = False, side: int = 64) -> dict:
    model = ["model", 0]
    prompt = {
        "model": {
            "class_type": "LGM_LoadMultiViewModel",
            "inputs": {"unet_name": unet, "weight_dtype": "default"},
        },
        "positive": {"class_type": "LGMTestText", "inputs": {"seed": 1}},
        "negative": {"class_type": "LGMTestText", "inputs": {"seed": 2}},
        "told": {
            "class_type": "LGM_TextConditioning",
            "inputs": {
                "positive": ["positive", 0], "negative": ["negative", 0], "elevation": 0.0,
                "azimuth_start": 0.0, "width": side, "height": side, "batch_size": 2,
            },
        },
    }  # fmt: skip
    if lora:
        prompt["lora"] = {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": model, "lora_name": "style.safetensors", "strength_model": 1.0},
        }
        model = ["lora", 0]
    prompt["watched"] = {
        "class_type": "LGM_SamplingPreview",
        "inputs": {"model": model, "every_n": 1, "show": "views", "yaw": 0.0, "pitch": 0.0},
    }
    prompt["sample"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["watched", 0], "positive": ["told", 0], "negative": ["told", 1],
            "latent_image": ["told", 2], "seed": 3, "steps": steps, "cfg": 5.0,
            "sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0,
        },
    }  # fmt: skip
    prompt["save"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["sample", 0], "filename_prefix": "views"},
    }
    return prompt


def saved_latents(server, prompt: dict) -> tuple[torch.Tensor, int]:
    run = server.run(prompt)
    assert run.status == "success", run.reasons()
    latents = load(server.download(run.outputs["save"]["latents"][0]))["latent_tensor"]
    return latents, run.previews


def test_only_what_may_be_a_multi_view_unet_is_offered(multiview_server):
    info = multiview_server.json("/object_info/LGM_LoadMultiViewModel")
    kind, options = info["LGM_LoadMultiViewModel"]["input"]["required"]["unet_name"][:2]
    offered = options["options"] if kind == "COMBO" else kind
    assert offered == ["mv.safetensors", RELEASED]


def test_views_come_out_of_ksampler(multiview_server):
    latents, previews = saved_latents(multiview_server, text_to_views())
    assert latents.shape == (8, 4, 8, 8) and latents.isfinite().all()
    assert previews >= 3
    from_file, _ = saved_latents(multiview_server, text_to_views("mv.safetensors"))
    torch.testing.assert_close(from_file, latents, atol=1e-4, rtol=1e-4)


def test_a_lora_changes_the_views(multiview_server):
    plain, _ = saved_latents(multiview_server, text_to_views())
    changed, _ = saved_latents(multiview_server, text_to_views(lora=True))
    assert (changed - plain).abs().max() > 0.01 * plain.std()


def test_cancel_ends_the_sampling(multiview_server):
    asked = []

    def cancel(kind, data):
        if kind == "progress_state" and not asked:
            state = data["nodes"].get("sample", {})
            if state.get("state") == "running" and state["value"] >= 1:
                asked.append(multiview_server.interrupt())

    run = multiview_server.run(text_to_views(steps=500, side=128), cancel)
    assert run.status == "interrupted"
    assert run.ended_at - asked[0] < 2


def test_a_wrong_file_is_answered_with_a_sentence(multiview_server):
    whole = multiview_server.base / "models" / "diffusers" / RELEASED
    half = multiview_server.base / "models" / "diffusion_models" / "half.safetensors"
    content = whole.read_bytes()
    header = struct.unpack("<Q", content[:8])[0]
    half.write_bytes(content[: 8 + header + 1000])
    run = multiview_server.run(text_to_views("half.safetensors"))
    half.unlink()
    assert run.status == "error" and "not a complete safetensors file" in run.error


# The node that draws with the library alone --------------------------------------------------

STEPS = 4
SHEET = (512, 512)  # pixels of a preview
JPEG = b"\xff\xd8"  # it begins so
PROMPT = "a small red wooden chair"
RELEASED_UNET = UNET | {"attention_resolutions": [2]}  # of `model_files`
NARROW = [32, 32, 32, 32]  # a VAE's channels: the real ones take half a minute for four views


@pytest.fixture(scope="session")  # or it would come after `model_files`, and gigabytes
def python_with_diffusers(python) -> str:
    needed = ("diffusers", "transformers")
    check = f"from importlib.util import find_spec as f; assert all(map(f, {needed}))"
    if subprocess.run([python, "-c", check], capture_output=True).returncode:
        pytest.skip(f"the node needs {' and '.join(needed)} in ComfyUI's Python")
    return python


@pytest.fixture(scope="module")
def diffusers_server(comfyui, python_with_diffusers, model_files, tmp_path_factory):
    """A server with both released folders, which sees no model elsewhere on this machine."""
    base = tmp_path_factory.mktemp("diffusers_server")
    server = with_test_nodes(comfyui, python_with_diffusers, base)
    for kind in KINDS:
        link_released(model_files, base / "models" / "diffusers", kind)
    write_picture(base / "input" / "egg.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(base / "hub"))
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        server.start()
    yield server
    server.stop()
    shutil.rmtree(base / "models")


def link_released(model_files: Path, place: Path, kind: str) -> None:
    """A released folder as `write_released` makes it, but for a narrow VAE; what is large is there
    already.
    """
    from lgm.releases.catalog import RELEASES, native_files

    folder = place / RELEASES[kind].folder
    for _, file, directory, name in native_files(kind):
        (folder / file).parent.mkdir(parents=True)
        if directory != "vae":
            os.link(model_files / directory / name, folder / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VAE, "block_out_channels", NARROW)
        write_vae(folder / "vae" / "diffusion_pytorch_model.safetensors")
        write_json(folder / "vae" / "config.json", VAE)
    unet = RELEASED_UNET
    if kind == "imagedream":
        unet = unet | {"ip_dim": IP_DIM}
        write_json(folder / "image_encoder" / "config.json", VISION)
    write_json(folder / "unet" / "config.json", unet)
    write_json(folder / "text_encoder" / "config.json", TEXT)
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_tokenizer(folder / "tokenizer")


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_picture(path: Path) -> None:
    """RGBA, off the middle, with soft edges; what alpha hides is no even background."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-0.8, 1.2, 128), indexing="ij")
    waves = torch.sin(torch.stack([4 * x, 5 * y, 9 * x * (y + 2)])) / 2 + 0.5
    alpha = (8 - 8 * ((x / 0.5) ** 2 + (y / 0.8) ** 2)).clamp(0, 1)
    pixels = torch.cat([waves, alpha[None]]).mul(255).round().byte().movedim(0, -1)
    Image.fromarray(pixels.numpy()).save(path)


@dataclass
class Drawn:
    run: Run
    views: torch.Tensor  # IMAGE
    sheets: list[Image.Image]  # previews, as they came

    @classmethod
    def by(cls, server: Server, prompt: dict) -> "Drawn":
        sheets, running = [], [None]

        def look(kind, data):
            if kind == "executing":
                running.append(data["node"])
            elif kind in PREVIEW_MESSAGES and running[-1] == "views":
                sheets.append(Image.open(io.BytesIO(data[data.index(JPEG) :])))

        run = server.run(prompt, look)
        assert run.status == "success", run.reasons()
        kept = load(server.download(files(run.outputs["keep"])[0]))
        return cls(run, kept["images"], sheets)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


class Prompts:
    """With "views", what the node draws, and "keep", which keeps it as it is."""

    def __init__(self, object_info: dict):
        self.object_info = object_info

    def of_words(self, **given) -> dict:
        inputs = {"prompt": PROMPT, "steps": STEPS, **given}
        return {
            "views": node(self.object_info, "LGM_MultiViewDiffusion", **inputs),
            "keep": {"class_type": "LGMTestKeep", "inputs": {"images": ["views", 0]}},
        }

    def of_picture(self, alpha: bool = False, **given) -> dict:
        """Load Image gives the colors alone, and as a mask what is transparent."""
        loaded = {"file": node(self.object_info, "LoadImage", image="egg.png")}
        given.setdefault("image", ["file", 0])
        if alpha:
            loaded["joined"] = node(
                self.object_info, "JoinImageWithAlpha", image=["file", 0], alpha=["file", 1]
            )
            given["image"] = ["joined", 0]
        return loaded | self.of_words(**given)

    def with_splat(self, prompt: dict) -> dict:
        splat = {"model": ["model", 0], "views": ["views", 0]}
        return prompt | {
            "model": node(self.object_info, "LGM_LoadModel"),
            "splat": node(self.object_info, "LGM_Reconstruct", **splat),
            "save": node(self.object_info, "LGM_SaveSplat", splat=["splat", 0]),
        }


@pytest.fixture(scope="module")
def prompts(diffusers_server) -> Prompts:
    return Prompts(diffusers_server.json("/object_info"))


@pytest.fixture(scope="module")
def from_words(diffusers_server, prompts) -> Drawn:
    return Drawn.by(diffusers_server, prompts.with_splat(prompts.of_words()))


@pytest.fixture(scope="module")
def from_alpha(diffusers_server, prompts) -> Drawn:
    return Drawn.by(diffusers_server, prompts.with_splat(prompts.of_picture(alpha=True)))


@pytest.mark.parametrize("given, kind", [("from_words", "MVDream"), ("from_alpha", "ImageDream")])
def test_words_or_a_picture_become_a_splat(diffusers_server, request, given, kind):
    drawn = request.getfixturevalue(given)
    views = drawn.views
    assert views.shape == (4, 256, 256, 3) and views.dtype == torch.float32
    assert views.min() >= 0 and views.max() <= 1 and all(view.std() > 0.05 for view in views)
    assert any(kind in text for text in drawn.run.texts["views"])
    (file, *_) = files(drawn.run.outputs["save"])
    assert diffusers_server.download(file).startswith(b"ply\n")


@pytest.mark.parametrize("given", ["from_words", "from_alpha"])
def test_the_page_sees_all_views_as_they_come(request, given):
    drawn = request.getfixturevalue(given)
    progress = drawn.run.progress["views"]
    assert [value for value, _ in progress] == sorted(value for value, _ in progress)
    assert progress[-1] == (STEPS, STEPS)
    assert 1 <= len(drawn.sheets) <= STEPS
    for sheet in drawn.sheets:
        assert sheet.size == SHEET
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))).float()
        quarters = pixels.view(2, 256, 2, 256, 3).transpose(1, 2).flatten(0, 1)
        for number, quarter in enumerate(quarters):
            assert quarter.std() > 10
            others = quarters[[n for n in range(4) if n != number]]
            assert ((others - quarter).abs().mean(dim=(1, 2, 3)) > 5).all()


def test_a_seed_and_the_guidance_decide(diffusers_server, prompts, from_words):
    diffusers_server.forget()
    again = Drawn.by(diffusers_server, prompts.of_words())
    assert "views" in again.run.executed
    assert torch.equal(again.views, from_words.views)
    for given in ({"seed": 1}, {"guidance": 3.0}):
        other = Drawn.by(diffusers_server, prompts.of_words(**given))
        assert apart(other.views, from_words.views) > 0.1, given


def test_a_mask_is_as_good_as_alpha_and_wins_over_it(diffusers_server, prompts, from_alpha):
    masked = Drawn.by(diffusers_server, prompts.of_picture(mask=["file", 1]))
    assert torch.equal(masked.views, from_alpha.views)
    patch = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 48, "height": 96}}
    empty = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 128, "height": 96}}
    joined = {"destination": ["empty", 0], "source": ["patch", 0], "x": 40, "y": 0}
    prompt = prompts.of_picture(alpha=True, mask=["stripe", 0]) | {
        "patch": patch,
        "empty": empty,
        "stripe": {"class_type": "MaskComposite", "inputs": {**joined, "operation": "add"}},
    }
    other = Drawn.by(diffusers_server, prompt)
    assert apart(other.views, from_alpha.views) > 0.1


def test_cancel_ends_the_node_and_the_next_run_draws_the_same(
    diffusers_server, prompts, from_words, tell
):
    asked = []

    def cancel(kind, data):
        if kind == "progress_state" and not asked:
            state = data["nodes"].get("views", {})
            if state.get("state") == "running" and state["value"] >= 2:
                asked.append(diffusers_server.interrupt())

    run = diffusers_server.run(prompts.of_words(steps=500), cancel)
    assert run.status == "interrupted"
    assert run.progress["views"][-1][0] < 50
    assert run.ended_at - asked[0] < 5
    tell(f"the simple node stopped {run.ended_at - asked[0]:.2f} s after Cancel")
    diffusers_server.forget()
    again = Drawn.by(diffusers_server, prompts.of_words())
    assert torch.equal(again.views, from_words.views)


def test_a_missing_model_is_told_with_what_to_do(diffusers_server, prompts):
    place = diffusers_server.base / "models" / "diffusers"
    (whole,) = place.glob("mvdream*")
    away = whole.rename(place.parent / "away")
    absent = diffusers_server.run(prompts.of_words(seed=5))
    away.rename(whole)
    assert absent.status == "error"
    assert "MVDream is not here" in absent.error and "Choose 'download'" in absent.error
    (encoder,) = place.glob("imagedream*/image_encoder/model.safetensors")
    away = encoder.rename(place.parent / "away")
    partial = diffusers_server.run(prompts.of_picture(mask=["file", 1], seed=5))
    away.rename(encoder)
    assert partial.status == "error"
    assert "lacks image_encoder/model.safetensors" in partial.error


def test_a_model_of_the_other_kind_is_refused(diffusers_server, prompts):
    (name,) = (p.name for p in (diffusers_server.base / "models" / "diffusers").glob("image*"))
    run = diffusers_server.run(prompts.of_words(model=name))
    assert run.status == "error" and "ImageDream, which needs a picture" in run.error
    run = diffusers_server.run(prompts.of_words(prompt=" "))
    assert run.status == "error" and "A prompt or a picture is needed" in run.error
