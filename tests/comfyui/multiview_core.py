"""Run by ComfyUI's own Python: measures MVDream and ImageDream as a MODEL of the real core, on the
CPU and with reduced networks, and prints a JSON object of what it found.

    python multiview_core.py COMFYUI REPOSITORY FIXTURE FOLDER
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
from pathlib import Path

COMFYUI, ROOT, FIXTURE, FOLDER = (Path(argument).resolve() for argument in sys.argv[1:5])
sys.path.insert(0, str(COMFYUI))
sys.argv = ["main.py", "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from comfy.clip_vision import ClipVisionModel  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

PACK = "lgm_pack"
CPU = torch.device("cpu")
SCALE = 0.18215
KINDS = ("mvdream", "imagedream")
FRAMES = {"mvdream": 4, "imagedream": 5}


def load_pack() -> None:
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


load_pack()
nodes = importlib.import_module(f"{PACK}.nodes.multiview_conditioning")
core = importlib.import_module(f"{PACK}.nodes.multiview_model")
previews = importlib.import_module(f"{PACK}.nodes.sampling_preview")
library = importlib.import_module(f"{PACK}.lgm.multiview")
lgm_model = importlib.import_module(f"{PACK}.nodes.model")

with safe_open(FIXTURE, "pt") as opened:
    META = json.loads(opened.metadata()["meta"])
    GIVEN = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118


class Log(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())


LOG = Log()
logging.getLogger().addHandler(LOG)
logging.getLogger().setLevel(logging.INFO)


# What is measured -----------------------------------------------------------------------------


def fixture_file(kind: str) -> Path:
    path = FOLDER / f"{kind}.safetensors"
    if not path.exists():
        state = {key: GIVEN[f"weights.{key}"] for key in META[kind]["tensors"]}
        save_file(state, path, {"config": json.dumps(META[kind]["config"])})
    return path


def wide_file(kind: str) -> Path:
    """Random weights that fit the text and picture of the real encoders."""
    path = FOLDER / f"wide_{kind}.safetensors"
    if not path.exists():
        torch.manual_seed(5)
        config = META[kind]["config"] | {"context_dim": 1024}
        state = library.UNet(**config).state_dict()
        save_file(state, path, {"config": json.dumps(config)})
    return path


def fixture_inputs(kind: str) -> dict:
    """Of two objects, without ImageDream's hidden frame."""
    frames = FRAMES[kind]

    def views(name: str) -> torch.Tensor:
        return GIVEN[f"{kind}.{name}"].unflatten(0, (-1, frames))[:, :4].flatten(0, 1)

    return {name: views(name) for name in ("sample", "timestep", "camera", "out")}


def fixture_conditioning(kind: str, objects: slice = slice(2)) -> dict:
    rows = slice(4 * objects.start if objects.start else 0, 4 * objects.stop)
    given = {core.CAMERAS: fixture_inputs(kind)["camera"][rows]}
    if kind == "imagedream":
        seen = GIVEN["image_features_i8"][None].float() / 32
        features = torch.cat([torch.zeros_like(seen), seen])
        given[core.FEATURES] = features[objects]
        given[core.REFERENCE] = GIVEN["imagedream.reference_latents"][objects] / SCALE
        given[core.STRENGTH] = 1.0
    text = GIVEN["text"].float()[objects].repeat_interleave(4, 0)
    return {"cross_attn": text, **given}


def predicted(model, kind: str, objects: slice = slice(2)) -> torch.Tensor:
    """The noise that core's whole way through the model gives for the fixture's inputs."""
    inputs = {name: x.unflatten(0, (2, 4))[objects].flatten(0, 1)
              for name, x in fixture_inputs(kind).items()}  # fmt: skip
    sample = inputs["sample"]
    told = fixture_conditioning(kind, objects)
    conds = model.extra_conds(device=CPU, noise=sample, prompt_type="positive", **told)
    conds = {
        name: value.process_cond(batch_size=len(sample), area=None).cond
        for name, value in conds.items()
    }
    sigma = model.model_sampling.sigma(inputs["timestep"])
    over = sigma[:, None, None, None]
    noisy = sample * (over**2 + 1).sqrt()
    clean = model.apply_model(noisy, sigma, transformer_options={}, **conds)
    return (noisy - clean) / over


def loaded(path: Path, dtype=torch.float32):
    patcher = core.load(str(path), dtype)
    management.load_models_gpu([patcher])
    return patcher


def parity() -> dict:
    found = {}
    for kind in KINDS:
        model = loaded(fixture_file(kind)).model
        expected = fixture_inputs(kind)["out"]
        both = predicted(model, kind)
        found[f"{kind} to the original"] = apart(both, expected)
        alone = torch.cat([predicted(model, kind, slice(i, i + 1)) for i in range(2)])
        found[f"{kind} one object by one"] = apart(both, alone)
    return found


def released_size() -> dict:
    """Whether core's network has exactly the released tensors, without making any."""
    found = {}
    for kind, ip_dim in (("mvdream", 0), ("imagedream", 16)):
        with torch.device("meta"):
            network = library.UNet(ip_dim=ip_dim)
        config, state = core.for_core(network)
        made = core.CoreMultiViewUNet(
            **config.unet_config, device="meta", operations=comfy.ops.disable_weight_init
        )
        ours = {key: list(tensor.shape) for key, tensor in made.state_dict().items()}
        named = set(comfy.utils.unet_to_diffusers(config.unet_config).values())
        found[kind] = {
            "parameters": sum(tensor.numel() for tensor in made.state_dict().values()),
            "tensors": len(ours),
            "as the library": ours == {key: list(tensor.shape) for key, tensor in state.items()},
            "out of a LoRA's reach": [
                key
                for key in ours
                if ".transformer_blocks." in key and "_ip." not in key and key not in named
            ],
        }
    return found


def dynamic() -> dict:
    """With dynamic VRAM core puts another class into this place, and wants the file's tensors as
    they are.
    """
    patchers = comfy.model_patcher
    usual = patchers.CoreModelPatcher

    class Exchanged(patchers.ModelPatcher):
        def is_dynamic(self):
            return True

    patchers.CoreModelPatcher = Exchanged
    patcher = core.load(str(fixture_file("imagedream")), torch.float32)
    twin = patcher.cached_patcher_init[0](*patcher.cached_patcher_init[1], disable_dynamic=True)
    patchers.CoreModelPatcher = usual
    kept = {str(p.dtype) for p in patcher.model.diffusion_model.parameters()}
    return {"class": [type(patcher).__name__, type(twin).__name__], "weights": sorted(kept)}


def precisions() -> dict:
    """The fixture's weights are exact in fp16, so core's casting must not change the result."""
    model = loaded(fixture_file("imagedream"), torch.float16).model
    expected = fixture_inputs("imagedream")["out"]
    kinds = {str(p.dtype) for p in model.diffusion_model.parameters()}
    return {"error": apart(predicted(model, "imagedream"), expected), "weights": sorted(kinds)}


def conditioning(kind: str, objects: int = 2, size: int = 16, strength: float = 1.0) -> tuple:
    """positive, negative and latent as our nodes make them, with random text and picture."""
    made = torch.Generator().manual_seed(3)
    width = 1024
    texts = [[[torch.randn(1, 77, width, generator=made), {}]] for _ in range(2)]
    cameras = nodes.view_cameras(10.0, 0.0)
    shown, hidden = {}, {}
    if kind == "imagedream":
        shown = {
            core.FEATURES: torch.randn(objects, 257, 1280, generator=made),
            core.REFERENCE: torch.randn(objects, 4, size, size, generator=made),
        }
        hidden = {name: torch.zeros_like(x[:1]) for name, x in shown.items()}
        shown[core.STRENGTH] = hidden[core.STRENGTH] = strength
    shown[core.CAMERAS] = hidden[core.CAMERAS] = cameras
    positive = nodes.with_values(texts[0], "positive", shown)
    negative = nodes.with_values(texts[1], "negative", hidden)
    return positive, negative, torch.zeros(4 * objects, 4, size, size)


def sampled(patcher, kind: str, sampler="euler", scheduler="normal", **options) -> torch.Tensor:
    given = {"seed": 1, "steps": 3, "cfg": 5.0, "callback": None, **options}
    told = given.pop("told", None) or conditioning(kind)
    positive, negative, latent = told
    noise = comfy.sample.prepare_noise(latent, given["seed"], None)
    return comfy.sample.sample(
        patcher, noise, given["steps"], given["cfg"], sampler, scheduler, positive, negative,
        latent, seed=given["seed"], disable_pbar=True, callback=given["callback"],
    )  # fmt: skip


def by_the_library(kind: str, steps: int = 10, guidance: float = 5.0) -> tuple:
    """One object by the released DDIM schedule: as our MODEL and core's sampler make them, and as
    the library's network does in its own order of frames, with its own fifth frame.
    """
    positive, negative, latent = conditioning(kind, objects=1)
    patcher = loaded(wide_file(kind))
    ms = patcher.model.model_sampling
    timesteps = torch.arange(steps).flip(0) * (1000 // steps) + 1
    sigmas = torch.cat([ms.sigma(timesteps), ms.sigma(torch.zeros(1))])
    noise = comfy.sample.prepare_noise(latent, 1, None)
    over = (sigmas**2 + 1).sqrt()
    ours = comfy.sample.sample_custom(
        # Core starts a schedule below its highest sigma with a little less noise.
        patcher, noise * over[0] / sigmas[0], guidance, comfy.samplers.sampler_object("ddim"),
        sigmas, positive, negative, latent, seed=1, disable_pbar=True,
    )  # fmt: skip

    step = importlib.import_module(f"{PACK}.lgm.multiview.sampling")
    network = library.load_unet(wide_file(kind))
    frames, (text, told) = FRAMES[kind], positive[0]
    conditions = step.Conditions(
        text=text,
        negative=negative[0][0],
        camera=library.camera_rows(10.0, with_image=frames == 5)[None],
        features=told.get(core.FEATURES),
        reference=told[core.REFERENCE] * SCALE if frames == 5 else None,
    )
    constants = step.prepare(network, conditions, guided=True)
    places = torch.argsort(torch.tensor(library.VIEW_ORDER))
    x = noise.unflatten(0, (-1, 4))[:, places]
    x = torch.cat([x, x[:, : frames - 4]], dim=1)
    cumulative = 1 / over**2
    for t, now, after in zip(timesteps, cumulative, cumulative[1:], strict=False):
        predicted = step.predict_noise(network, x, t, constants, guidance, True)
        clean = (x - (1 - now).sqrt() * predicted) / now.sqrt()
        x = after.sqrt() * clean + (1 - after).sqrt() * predicted
    theirs = x[:, list(library.VIEW_ORDER)].flatten(0, 1) * over[-1] / SCALE
    return ours, theirs


def sampling() -> dict:
    found = {}
    for kind in KINDS:
        patcher = loaded(wide_file(kind))
        ours = sampled(patcher, kind)
        native, theirs = by_the_library(kind)
        found[f"{kind} by the library"] = apart(native, theirs) / spread(theirs)
        found[f"{kind} again"] = apart(ours, sampled(patcher, kind))
        found[f"{kind} other seed"] = apart(ours, sampled(patcher, kind, seed=2)) / spread(ours)
        for sampler, scheduler in (
            ("ddim", "ddim_uniform"),
            ("dpmpp_2m", "karras"),
            ("euler_ancestral", "simple"),
            ("uni_pc", "normal"),
        ):
            told = conditioning(kind, objects=1)
            result = sampled(patcher, kind, sampler, scheduler, told=told)
            assert result.shape == (4, 4, 16, 16), result.shape
            found[f"{kind} {sampler} finite"] = bool(result.isfinite().all())
        found[f"{kind} without guidance finite"] = bool(
            sampled(patcher, kind, cfg=1.0).isfinite().all()
        )
    stronger = sampled(patcher, "imagedream", told=conditioning("imagedream", strength=2.0))
    found["strength matters"] = apart(stronger, ours) / spread(ours)
    larger = conditioning("imagedream", size=16)
    larger = (*larger[:2], torch.zeros(8, 4, 24, 20))
    found["another size"] = list(sampled(patcher, "imagedream", told=larger).shape)
    return found


def splitting() -> dict:
    """Core runs both halves of the guidance in one batch when there is memory, else in two."""
    found = {}
    for kind in KINDS:
        patcher = loaded(wide_file(kind))
        model = patcher.model
        calls = []

        def counting(executor, x, *rest, calls=calls, **named):
            calls.append(len(x))
            return executor(x, *rest, **named)

        watched = patcher.clone()
        watched.add_wrapper_with_key("diffusion_model", "counting", counting)
        together, rows = sampled(watched, kind), sorted(set(calls))
        calls.clear()
        required, model.memory_required = model.memory_required, lambda *_, **__: 1e30
        apart_ = sampled(watched, kind)
        model.memory_required = required
        found[kind] = {
            "rows": [rows, sorted(set(calls))],
            "error": apart(together, apart_) / spread(together),
        }
    return found


def lora() -> dict:
    """By its three kinds of names, each acts as if it had been in the file."""
    patcher = loaded(wide_file("imagedream"))
    before = sampled(patcher, "imagedream")
    state = load_file(wide_file("imagedream"))
    made = torch.Generator().manual_seed(9)
    names = {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q":
            "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k":
            "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj":
            "middle_block.1.transformer_blocks.0.ff.net.0.proj",
        "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_out.0":
            "output_blocks.3.1.transformer_blocks.0.attn2.to_out.0",
        "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn1.processor.to_v":
            "output_blocks.3.1.transformer_blocks.0.attn1.to_v",
    }  # fmt: skip
    weights = {}
    for name, key in names.items():
        rows, columns = state[f"{key}.weight"].shape
        up = torch.randn(rows, 2, generator=made) * 0.1
        down = torch.randn(2, columns, generator=made)
        pair = ("lora_up.weight", "lora_down.weight")
        if name.startswith("unet."):
            pair = ("lora.up.weight", "lora.down.weight")
        weights |= {f"{name}.{pair[0]}": up, f"{name}.{pair[1]}": down}
        state[f"{key}.weight"] = state[f"{key}.weight"] + 0.8 * up @ down
    with safe_open(wide_file("imagedream"), "pt") as file:
        metadata = file.metadata()
    save_file(state, FOLDER / "merged.safetensors", metadata)
    LOG.lines.clear()
    with_lora, _ = comfy.sd.load_lora_for_models(patcher, None, weights, 0.8, 0)
    unknown = [line for line in LOG.lines if "not loaded" in line.lower()]
    after = sampled(with_lora, "imagedream")
    merged = sampled(loaded(FOLDER / "merged.safetensors"), "imagedream")
    return {
        "unknown": unknown,
        "acts": apart(after, before) / spread(before),
        "as merged": apart(after, merged) / spread(before),
        "comes off": apart(sampled(patcher, "imagedream"), before),
    }


def memory() -> dict:
    """Put away, loaded in part, and saved: the same numbers."""
    patcher = loaded(wide_file("imagedream"))
    before = sampled(patcher, "imagedream")
    management.unload_all_models()
    left = len(management.loaded_models())
    again = sampled(patcher, "imagedream")
    management.unload_all_models()
    patcher.load(CPU, lowvram_model_memory=patcher.model_size() // 3)
    kept_back = sum(hasattr(m, "prev_comfy_cast_weights") for m in patcher.model.modules())
    in_part = predicted_by(patcher)
    patcher.detach()
    management.load_models_gpu([patcher])
    whole = predicted_by(patcher)
    saved = patcher.model.state_dict_for_saving(patcher.model.diffusion_model.state_dict())
    with safe_open(wide_file("imagedream"), "pt") as file:
        save_file({k: v.contiguous() for k, v in saved.items()}, FOLDER / "saved.safetensors",
                  file.metadata())  # fmt: skip
    resaved = sampled(loaded(FOLDER / "saved.safetensors"), "imagedream")
    in_tree = {name.rsplit(".", 1)[0] for name, _ in patcher.model.named_parameters()}
    uncared = [
        name
        for name, module in patcher.model.named_modules()
        if name in in_tree
        and not hasattr(module, "comfy_cast_weights")
        and name != "diffusion_model.image_embed"  # holds its 16 learned tokens itself
    ]
    return {
        "left": left,
        "again": apart(before, again),
        "kept back": kept_back,
        "in part": apart(in_part, whole),
        "saved": apart(before, resaved),
        "layers not core's": uncared,
    }


def predicted_by(patcher) -> torch.Tensor:
    positive, _, latent = conditioning("imagedream")
    x = comfy.sample.prepare_noise(latent, 7, None)
    model, (text, options) = patcher.model, positive[0]
    conds = model.extra_conds(
        device=CPU, noise=x, prompt_type="positive", cross_attn=text, **options
    )
    conds = {
        name: value.process_cond(batch_size=len(x), area=None).cond for name, value in conds.items()
    }
    return model.apply_model(x, torch.full((len(x),), 5.0), transformer_options={}, **conds)


def patches() -> dict:
    """Other people's patches of self-attention see single frames; ControlNets leave the hidden
    frame alone; core's own nodes that patch attention run."""
    from comfy_extras.nodes_freelunch import FreeU_V2
    from comfy_extras.nodes_hypertile import HyperTile
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    found = {}
    for kind in KINDS:
        patcher = loaded(wide_file(kind))
        plain = sampled(patcher, kind)
        shapes = set()

        def look(n, context, value, extra, shapes=shapes):
            shapes.add(tuple(n.shape[:2]))
            return n, context, value

        watched = patcher.clone()
        watched.set_model_attn1_patch(look)
        watched.set_model_attn1_output_patch(lambda n, extra, s=shapes: s.add(n.shape[:2]) or n)
        assert apart(sampled(watched, kind), plain) == 0
        found[f"{kind} shapes"] = sorted(map(list, shapes))
        for name, patch in (
            ("FreeU", lambda p: FreeU_V2.execute(p, 1.3, 1.4, 0.9, 0.2)[0]),
            ("PAG", lambda p: PerturbedAttentionGuidance.execute(p, 3.0)[0]),
            ("HyperTile", lambda p: HyperTile.execute(p, 64, 2, 0, False)[0]),
        ):
            result = sampled(patch(patcher), kind)
            found[f"{kind} {name}"] = apart(result, plain) / spread(plain)
    rows = torch.randn(8, 3, 2, 2)
    control = {"input": [rows, None], "middle": [rows[:1]]}
    padded = core.with_control_frame(control, 8)
    views = padded["input"][0].unflatten(0, (2, 5))
    found["control"] = [
        bool(torch.equal(views[:, :4].flatten(0, 1), rows)),
        float(views[:, 4].abs().max()),
        padded["input"][1] is None,
        len(padded["middle"][0]),
    ]
    return found


# The nodes --------------------------------------------------------------------------------------


def small_vae():
    config = {
        "params": {
            "embed_dim": 4,
            "ddconfig": {
                "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3,
                "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
                "dropout": 0.0,
            },
        }
    }  # fmt: skip
    from comfy.ldm.models.autoencoder import AutoencoderKL

    torch.manual_seed(2)
    state = {
        key: torch.randn_like(value) * (0.3 / value[0].numel() ** 0.5 if value.dim() > 1 else 0.1)
        + (".norm" in key and key.endswith("weight"))
        for key, value in AutoencoderKL(**config["params"]).state_dict().items()
    }
    return comfy.sd.VAE(sd=state, config=config)


def small_clip_vision(width: int = 1280):
    torch.manual_seed(4)
    made = ClipVisionModel(
        {
            "hidden_size": width, "image_size": 224, "intermediate_size": 32, "patch_size": 14,
            "num_attention_heads": 16, "num_hidden_layers": 2, "num_channels": 3,
            "hidden_act": "gelu", "projection_dim": 8, "layer_norm_eps": 1e-5,
            "model_type": "clip_vision_model",
        }
    )  # fmt: skip
    for parameter in made.model.parameters():
        parameter.data.normal_(std=0.02)
    return made


def texts(width: int = 1024) -> dict:
    made = torch.Generator().manual_seed(11)
    return {
        name: [[torch.randn(1, 77, width, generator=made), {"pooled_output": None}]]
        for name in ("positive", "negative")
    }


CAMERA = {"elevation": 20.0, "azimuth_start": 0.0, "width": 128, "height": 128, "batch_size": 2}


def picture() -> torch.Tensor:
    """IMAGE [1, 90, 60, 4]: a red box, transparent around."""
    image = torch.zeros(1, 90, 60, 4)
    image[:, 10:70, 10:50] = torch.tensor([0.9, 0.1, 0.1, 1.0])
    return image


def node_results() -> dict:
    found = {}
    positive, negative, latent = nodes.TextConditioning.execute(**texts(), **CAMERA).args
    rows = positive[0][1][core.CAMERAS]
    found["cameras"] = rows.tolist()
    found["latent"] = list(latent["samples"].shape)
    found["cameras are told twice"] = bool(torch.equal(rows, negative[0][1][core.CAMERAS]))
    patcher = loaded(wide_file("mvdream"))
    result = sampled(patcher, "mvdream", told=(positive, negative, latent["samples"]))
    found["text"] = [list(result.shape), bool(result.isfinite().all())]

    vae, clip_vision = small_vae(), small_clip_vision()
    given = {**texts(), "clip_vision": clip_vision, "vae": vae, "ip_strength": 1.0, **CAMERA}
    two = torch.cat([picture(), picture().flip(1)])
    positive, negative, latent = nodes.ImageConditioning.execute(image=two, **given).args
    shown, hidden = positive[0][1], negative[0][1]
    found["features"] = list(shown[core.FEATURES].shape)
    found["references"] = list(shown[core.REFERENCE].shape)
    found["picture by picture"] = [
        apart(shown[core.FEATURES][i], shown[core.FEATURES][i + 1]) for i in range(3)
    ]
    found["hidden"] = [float(hidden[name].abs().max()) for name in (core.FEATURES, core.REFERENCE)]
    found["image latent"] = list(latent["samples"].shape)
    patcher = loaded(wide_file("imagedream"))
    result = sampled(patcher, "imagedream", told=(positive, negative, latent["samples"]))
    found["image"] = [list(result.shape), bool(result.isfinite().all())]
    decoded = vae.decode(result[:4])
    found["decoded"] = list(decoded.shape)

    # What CLIP and the VAE are really given, against the library's own preparation.
    conditioning = importlib.import_module(f"{PACK}.lgm.multiview.conditioning")
    seen, clip_model, encode = {}, clip_vision.model, vae.encode

    def look(pixel_values, intermediate_output):
        seen["clip"] = pixel_values
        return clip_model(pixel_values=pixel_values, intermediate_output=intermediate_output)

    def look_and_encode(pixels):
        seen["vae"] = pixels
        return encode(pixels)

    clip_vision.model, vae.encode = look, look_and_encode
    nodes.ImageConditioning.execute(image=picture(), **given)
    square = nodes.square_on_white(picture())
    found["clip pixels"] = apart(seen["clip"], conditioning.clip_pixels(square))
    expected = conditioning.latent_pixels(square, 128).movedim(1, -1) / 2 + 0.5
    found["vae pixels"] = apart(seen["vae"], expected)
    return found


def errors() -> dict:
    """What each mistake is answered with."""
    said = {}

    def tried(name: str, call) -> None:
        try:
            call()
            said[name] = "nothing"
        except ValueError as error:
            said[name] = str(error)

    def with_keys(name: str, keys: dict) -> str:
        path = FOLDER / f"{name}.safetensors"
        save_file({key: torch.zeros(shape) for key, shape in keys.items()}, path)
        return str(path)

    sd = with_keys(
        "sd15", {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    )
    tried("sd", lambda: core.load(sd))
    named = with_keys("diffusers", {"down_blocks.0.resnets.0.conv1.weight": (32, 32, 3, 3)})
    tried("diffusers", lambda: core.load(named))
    tried("lgm", lambda: core.load(str(ROOT / "lgm/models/demo.safetensors")))
    whole = fixture_file("mvdream").read_bytes()
    (FOLDER / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    tried("half", lambda: core.load(str(FOLDER / "half.safetensors")))
    state = load_file(fixture_file("mvdream"))
    del state["input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"]
    save_file(state, FOLDER / "gap.safetensors", {"config": json.dumps(META["mvdream"]["config"])})
    tried("gap", lambda: core.load(str(FOLDER / "gap.safetensors")))

    models = {kind: loaded(wide_file(kind)) for kind in KINDS}
    told = {kind: conditioning(kind) for kind in KINDS}
    bare = [[told["mvdream"][0][0][0], {}]]
    latent = told["mvdream"][2]
    tried("no cameras", lambda: sampled(models["mvdream"], "", told=(bare, bare, latent)))
    tried("no picture", lambda: sampled(models["imagedream"], "", told=told["mvdream"]))
    tried("a picture", lambda: sampled(models["mvdream"], "", told=told["imagedream"]))
    three = (*told["mvdream"][:2], latent[:3])
    tried("three latents", lambda: sampled(models["mvdream"], "", told=three))

    text = nodes.TextConditioning.execute
    tried("sd15 text", lambda: text(**texts(768), **CAMERA))
    tried("sdxl text", lambda: text(**texts(2048), **CAMERA))
    tried("odd size", lambda: text(**texts(), **{**CAMERA, "width": 250}))
    given = {**texts(), "vae": small_vae(), "ip_strength": 1.0, **CAMERA}
    clip = {"clip_vision": small_clip_vision()}
    image = nodes.ImageConditioning.execute
    tried("white", lambda: image(image=torch.ones(1, 64, 64, 3), **given, **clip))
    small = {"clip_vision": small_clip_vision(width=1024)}
    tried("clip-l", lambda: image(image=picture(), **given, **small))

    class OtherVAE:
        def encode(self, pixels):
            return torch.zeros(len(pixels), 16, 16, 16)

    given["vae"] = OtherVAE()
    tried("vae", lambda: image(image=picture(), **given, **clip))
    preview = previews.SamplingPreview.execute
    common = {"model": models["mvdream"], "every_n": 1, "yaw": 0.0, "pitch": 0.0}
    tried("splat without vae", lambda: preview(show="both", lgm_model=object(), **common))
    tried("splat without lgm", lambda: preview(show="splat", vae=object(), **common))
    return said


def sampling_previews() -> dict:
    """What the page would be sent, and that the result stays the same whatever happens."""
    found, sent = {}, []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: sent.append((value, preview))
    )
    patcher = loaded(wide_file("mvdream"))
    told = conditioning("mvdream", objects=1)
    vae, network = small_vae(), lgm_model.LoadModel.execute("demo", "auto").args[0]
    common = {"model": patcher, "yaw": 30.0, "pitch": 15.0}

    def run(name: str, steps: int, **settings) -> None:
        sent.clear()
        LOG.lines.clear()
        called = []
        given = {"told": told, "steps": steps, "callback": lambda step, *_: called.append(step)}
        patched = previews.SamplingPreview.execute(**common, **settings).args[0]
        result = sampled(patched, "mvdream", **given)
        pictures = [preview[1] for _, preview in sent if preview]
        found[name] = {
            "error": apart(result, sampled(patcher, "mvdream", **given)),
            "core's": called[:steps],
            "steps": [value for value, _ in sent],
            "pictures": len({id(picture) for picture in pictures}),
            "size": list(pictures[-1].size) if pictures else None,
            "colors": len(pictures[-1].getcolors(1 << 20)) if pictures else 0,
            "said": [line for line in LOG.lines if "preview" in line],
        }

    run("rough", 5, every_n=2, show="both")
    run("views", 2, every_n=1, show="views", vae=vae, lgm_model=network)
    run("both", 2, every_n=2, show="both", vae=vae, lgm_model=network)
    run("splat", 1, every_n=4, show="splat", vae=vae, lgm_model=network)

    class Broken:
        patcher, vae_dtype, device = vae.patcher, torch.float32, CPU
        memory_used_decode = staticmethod(vae.memory_used_decode)

        class first_stage_model:
            @staticmethod
            def decode(latents):
                raise RuntimeError("no such kernel")

    run("broken", 2, every_n=1, show="views", vae=Broken())

    def cancel(value, total, preview, node_id=None):
        raise management.InterruptProcessingException

    comfy.utils.set_progress_bar_global_hook(cancel)
    patched = previews.SamplingPreview.execute(every_n=1, show="both", **common).args[0]
    try:
        sampled(patched, "mvdream", told=told)
        found["cancel"] = "ignored"
    except management.InterruptProcessingException:
        found["cancel"] = "raised"
    comfy.utils.set_progress_bar_global_hook(None)

    class Guider:
        conds = {"positive": [{core.CAMERAS: nodes.view_cameras(25.0, 40.0)}]}  # noqa: RUF012

    found["elevation"] = [previews.elevation_of(Guider), previews.elevation_of(object())]
    return found


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def spread(x: torch.Tensor) -> float:
    return float(x.std())


MEASURED = (
    parity, released_size, dynamic, precisions, sampling, splitting, lora, memory, patches,
    node_results, errors, sampling_previews,
)  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    results, seconds = {}, {}
    with torch.inference_mode():
        for measure in MEASURED:
            started = time.process_time()
            results[measure.__name__] = measure()
            seconds[measure.__name__] = time.process_time() - started
    results["seconds"] = seconds
    print("\n" + json.dumps(results))
