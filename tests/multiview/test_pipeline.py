import json
import math
import shutil
import sys

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ModelMixin,
    UNet2DConditionModel,
)

from lgm.multiview import MultiViewPipeline, MultiViewUNet
from lgm.multiview.conditioning import VIEW_ORDER, camera_rows, tokenize
from lgm.multiview.sampling import Conditions

from .conftest import KINDS, recording

SMALL = {"size": 16, "num_inference_steps": 3}  # pixels; latents of 8
WHITE = torch.ones(3, 24, 24)


def picture(seed=0):
    image = WHITE.clone()
    image[:, 6:18, 6:18] = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return image


@pytest.fixture(scope="module")
def pipelines(released_folders):
    loaded = {}
    for kind, folder in released_folders.items():
        loaded[kind] = MultiViewPipeline.from_pretrained(folder)
        loaded[kind].set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def text(pipelines):
    return pipelines["mvdream"]


@pytest.fixture
def image(pipelines):
    return pipelines["imagedream"]


@pytest.fixture(params=KINDS)
def both(request, pipelines):
    """A pipeline, and the arguments that it can't do without."""
    given = {"image": picture()} if request.param == "imagedream" else {}
    return pipelines[request.param], given | SMALL


# The trajectory ----------------------------------------------------------------------------------


def plain_ddim(network, inputs, noise, steps, guidance):
    """DDIM with guidance as the papers write it: Song et al. 2021 eq. 12 with sigma 0, Ho and
    Salimans 2022; 1000 steps of scaled-linear betas, leading spacing, offset 1."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)
    stride = 1000 // steps
    x = noise
    for t in [i * stride + 1 for i in range(steps)][::-1]:
        at = torch.full((len(x),), t)
        absent, given = (network(x, at, **half) for half in inputs)
        e = absent + guidance * (given - absent)
        now = signal[t].item()
        then = signal[max(t - stride, 0)].item()
        clean = (x - math.sqrt(1 - now) * e) / math.sqrt(now)
        x = math.sqrt(then) * clean + math.sqrt(1 - then) * e
    return x


@pytest.mark.parametrize(("kind", "guidance"), [("mvdream", 7.5), ("imagedream", 5.0)])
def test_thirty_steps_follow_the_plain_loop(pipelines, kind, guidance):
    record = recording(kind)
    network, frames = record.network(), record.inputs["num_frames"]
    texts = record.inputs["encoder_hidden_states"][::frames]  # of two objects
    camera = camera_rows(with_image=kind == "imagedream")
    common = {"camera": camera, "num_frames": frames}
    absent = {"encoder_hidden_states": texts[:1].expand(frames, -1, -1)} | common
    given = {"encoder_hidden_states": texts[1:].expand(frames, -1, -1)} | common
    extra = {}
    if kind == "imagedream":
        features = record.inputs["image_features"][-1:]
        reference = record.inputs["reference_latents"][1:, :, :8, :8]
        extra = {"features": features, "reference": reference}
        absent["image_features"] = torch.zeros(frames, *features.shape[1:])
        absent["reference_latents"] = torch.zeros_like(reference)
        given["image_features"] = features.expand(frames, -1, -1)
        given["reference_latents"] = reference
    noise = torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = plain_ddim(network, (absent, given), noise, 30, guidance)
    conditions = Conditions(texts[1:], texts[:1], camera[None], **extra)
    ours = pipelines[kind].denoise(conditions, noise[None], 30, guidance)
    assert expected.std() > 0.5
    assert (ours[0] - expected).abs().max() <= 1e-3


def test_released_schedule_visits_the_originals_steps(text):
    for steps, expected in ((30, [958, 925, 34, 1]), (50, [981, 961, 21, 1])):
        text.scheduler.set_timesteps(steps)
        visited = text.scheduler.timesteps.tolist()
        assert visited[:2] + visited[-2:] == expected


# Laws of the whole way ---------------------------------------------------------------------------


def test_views_are_pictures_and_a_seed_decides_on_them(both):
    pipeline, given = both
    views = pipeline("a cat", seed=1, **given).views
    assert views.shape == (1, 4, 3, 16, 16)
    assert views.dtype == torch.float32
    assert views.min() >= 0 and views.max() <= 1 and views.std() > 0.01
    assert torch.equal(views, pipeline("a cat", seed=1, **given).views)
    assert not torch.equal(views, pipeline("a cat", seed=2, **given).views)
    assert not torch.equal(views, pipeline("a dog", seed=1, **given).views)
    other = pipeline("a cat", seed=1, negative_prompt="a dog", **given).views
    assert not torch.equal(views, other)
    raised = pipeline("a cat", seed=1, elevation=30, **given).views
    assert not torch.equal(views, raised)


def test_two_pictures_give_two_objects(image):
    views = image(image=torch.stack([picture(0), picture(1)]), seed=1, **SMALL).views
    single = image(image=picture(1), seed=2, **SMALL).views
    assert (views[1] - single[0]).abs().max() <= 1e-4


def test_batch_equals_singles(both):
    pipeline, given = both
    options = {"eta": 1.0, "negative_prompt": "dull"} | given
    batch = pipeline(["a cat", "a dog"], seed=5, **options).views
    for n, prompt in enumerate(["a cat", "a dog"]):
        single = pipeline(prompt, seed=5 + n, **options).views
        assert (batch[n] - single[0]).abs().max() <= 1e-4
    repeated = pipeline("a cat", num_images=2, seed=5, **options).views
    assert (repeated[0] - batch[0]).abs().max() <= 1e-4
    assert (repeated[0] - repeated[1]).abs().max() > 1e-3


def test_seeds_draw_as_the_global_generator_does(both):
    """The original seeds torch, draws the reference's posterior, then the latents."""
    pipeline, given = both
    torch.manual_seed(11)
    from_global = pipeline("a cat", **given).views
    assert torch.equal(from_global, pipeline("a cat", seed=11, **given).views)
    generator = torch.Generator().manual_seed(11)
    assert torch.equal(from_global, pipeline("a cat", generator=generator, **given).views)

    torch.manual_seed(11)
    if "image" in given:
        torch.randn(1, 4, 8, 8)
    noise = torch.randn(1, 5 if "image" in given else 4, 4, 8, 8)
    torch.manual_seed(11)
    assert torch.equal(from_global, pipeline("a cat", latents=noise, **given).views)


def test_without_guidance_only_the_conditional_half_runs(both, monkeypatch):
    pipeline, given = both
    rows = []
    denoise = pipeline.unet.denoise
    monkeypatch.setattr(
        pipeline.unet, "denoise", lambda x, *a: rows.append(len(x)) or denoise(x, *a)
    )
    plain = pipeline("a cat", seed=1, guidance_scale=1.0, **given).views
    frames = 5 if "image" in given else 4
    assert rows == [frames] * 3
    just_above = pipeline("a cat", seed=1, guidance_scale=1 + 1e-6, **given).views
    assert rows[3:] == [2 * frames] * 3
    assert (plain - just_above).abs().max() <= 1e-4
    assert torch.equal(plain, pipeline("a cat", seed=1, guidance_scale=0.0, **given).views)


def test_default_guidance_is_lgms(both):
    pipeline, given = both
    lgms = 5.0 if "image" in given else 7.5
    views = pipeline("a cat", seed=1, guidance_scale=lgms, **given).views
    assert torch.equal(views, pipeline("a cat", seed=1, **given).views)


def test_order_is_a_permutation_of_the_frames(both):
    pipeline, given = both
    frames = pipeline("a cat", seed=1, order="model", **given).views
    views = pipeline("a cat", seed=1, **given).views
    assert torch.equal(views, frames[:, list(VIEW_ORDER)])


@pytest.mark.parametrize(
    "kind",
    [
        EulerDiscreteScheduler,
        EulerAncestralDiscreteScheduler,
        DPMSolverMultistepScheduler,
        HeunDiscreteScheduler,
    ],
)
def test_other_schedulers_work(text, monkeypatch, kind):
    monkeypatch.setattr(text, "scheduler", kind.from_config(text.scheduler.config))
    guesses = []
    views = text("a cat", seed=1, on_step=lambda i, n, x: guesses.append((i, n, x)), **SMALL).views
    assert views.std() > 0.01
    assert torch.equal(views, text("a cat", seed=1, **SMALL).views)
    assert [guess[0] for guess in guesses] == list(range(1, guesses[-1][1] + 1))


def test_guess_of_the_last_step_is_what_ddim_finishes_with(both):
    pipeline, given = both
    guesses = []
    views = pipeline("a cat", seed=1, on_step=lambda *a: guesses.append(a), **given).views
    assert [(step, total) for step, total, _ in guesses] == [(1, 3), (2, 3), (3, 3)]
    assert guesses[0][2].shape == (1, 4, 4, 8, 8)
    # From t = 1 to t = 0, DDIM goes almost all the way to its guess.
    assert (pipeline.decode(guesses[-1][2]) - views).abs().max() <= 0.05
    assert (pipeline.decode(guesses[0][2]) - views).abs().max() > 0.05


@pytest.mark.parametrize("steps", [1, 7])
def test_any_number_of_steps_works(text, steps):
    seen = []
    text("a cat", num_inference_steps=steps, size=8, on_step=lambda *a: seen.append(a[:2]))
    assert seen == [(n + 1, steps) for n in range(steps)]


def test_euler_is_ddim_in_other_variables(both, monkeypatch):
    """Up to the last step, which Euler's ends at no noise at all: Song et al. 2021, section 4.3."""
    pipeline, given = both
    ddim, euler = [], []
    pipeline("a cat", seed=1, on_step=lambda *a: ddim.append(a[2]), **given)
    other = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    monkeypatch.setattr(pipeline, "scheduler", other)
    pipeline("a cat", seed=1, on_step=lambda *a: euler.append(a[2]), **given)
    for ours, expected in zip(euler, ddim, strict=True):
        assert (ours - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_pictures_are_the_vaes_from_0_to_1(text):
    latents = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = text.vae.decode(latents.flatten(0, 1) / 0.18215).sample / 2 + 0.5
    pictures = text.decode(latents).flatten(0, 1)
    assert torch.allclose(pictures, expected.clamp(0, 1), atol=1e-6)
    assert ((expected > 0.01) & (expected < 0.99)).float().mean() > 0.5


def test_exception_in_the_callback_ends_the_sampling(both):
    class Cancelled(Exception):
        pass

    steps = []

    def cancel(step, total, guess):
        steps.append(step)
        raise Cancelled

    pipeline, given = both
    with pytest.raises(Cancelled):
        pipeline("a cat", seed=1, on_step=cancel, **given)
    assert steps == [1]
    assert pipeline("a cat", seed=1, **given).views.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(released_folders, both, dtype):
    pipeline, given = both
    kind = "imagedream" if "image" in given else "mvdream"
    half = MultiViewPipeline.from_pretrained(released_folders[kind], dtype)
    half.set_progress_bar_config(disable=True)
    assert half.unet.dtype == half.vae.dtype == half.text_encoder.dtype == dtype
    views = half("a cat", seed=1, **given).views
    assert (views - pipeline("a cat", seed=1, **given).views).abs().mean() <= 0.02


def test_components_take_turns_on_the_device(both, monkeypatch):
    pipeline, given = both
    expected = pipeline("a cat", seed=1, **given).views
    on_device, turns = set(), []
    make_resident = pipeline._make_resident

    def watch(name):
        make_resident(name)
        on_device.clear()
        on_device.update([pipeline._resident[0]] if pipeline._resident else [])
        turns.append(name)

    monkeypatch.setattr(pipeline, "_make_resident", watch)
    pipeline.enable_model_cpu_offload(device="cpu")
    weights = [p.data_ptr() for p in pipeline.unet.parameters()]

    def preview(step, total, guess):
        pipeline.decode(guess)  # brings the VAE in, and the U-Net back
        assert on_device == {"unet"}

    try:
        views = pipeline("a cat", seed=1, on_step=preview, **given).views
    finally:
        pipeline._offload_device = None
    assert torch.equal(views, expected)
    assert turns[-1] is None and not on_device
    assert {"text_encoder", "unet", "vae"} <= set(turns)
    assert weights == [p.data_ptr() for p in pipeline.unet.parameters()]


def test_at_most_one_component_is_away(image, monkeypatch):
    """On the meta device, where a copy of the weights takes no memory but can't be mistaken."""
    monkeypatch.setattr(image, "_offload_device", torch.device("meta"))
    networks = ("unet", "vae", "text_encoder", "image_encoder")
    before = {
        n: {k: v.clone() for k, v in getattr(image, n).state_dict().items()} for n in networks
    }

    def away():
        return {n for n in networks if any(p.is_meta for p in getattr(image, n).parameters())}

    with image.on_device("unet"):
        assert away() == {"unet"}
        with image.on_device("vae"):
            assert away() == {"vae"}
        assert away() == {"unet"}
    with pytest.raises(KeyboardInterrupt), image.on_device("image_encoder"):
        raise KeyboardInterrupt
    assert not away()
    for name in networks:
        state = getattr(image, name).state_dict()
        assert all(torch.equal(state[key], value) for key, value in before[name].items())


def test_too_little_memory_splits_the_batch(both, monkeypatch):
    pipeline, given = both
    options = {"eta": 1.0, "seed": 3} | given
    expected = pipeline(["a cat", "a dog", "dog cat"], **options).views
    denoise = pipeline.unet.denoise

    sizes = []

    def limited(sample, *rest):
        sizes.append(len(sample))
        if len(sample) > 10 and sizes[-2:] == sizes[-1:] * 2:  # several objects, in their 2nd step
            raise torch.cuda.OutOfMemoryError("too much")
        return denoise(sample, *rest)

    monkeypatch.setattr(pipeline.unet, "denoise", limited)
    views = pipeline(["a cat", "a dog", "dog cat"], **options).views
    assert (views - expected).abs().max() <= 1e-4

    def never(*_):
        raise torch.cuda.OutOfMemoryError("too much")

    monkeypatch.setattr(pipeline.unet, "denoise", never)
    with pytest.raises(RuntimeError, match=r"one object of . frames needs more memory"):
        pipeline("a cat", **options)


# Text and picture --------------------------------------------------------------------------------


def test_tokens_are_padded_with_zeros_and_cut_with_a_report(text, caplog):
    tokens = tokenize(text.tokenizer, ["cat", "dog " * 80])
    vocabulary = text.tokenizer.get_vocab()
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    assert tokens.ids[0].tolist() == [start, vocabulary["cat</w>"], end] + [0] * 74
    assert tokens.ids[1].tolist() == [start] + [vocabulary["dog</w>"]] * 75 + [end]
    assert tokens.cut == ("", " ".join(["dog"] * 5))
    assert "75 tokens but has 80" in caplog.text
    output = text(["cat", "dog " * 80], seed=1, **SMALL)
    assert output.cut == tokens.cut


def test_text_is_the_encoders_last_state(text):
    from transformers import CLIPTextModel

    hidden, _ = text.encode_prompt(["a cat", "a dog", "a cat"])
    ids = tokenize(text.tokenizer, ["a cat", "a dog", "a cat"]).ids
    assert isinstance(text.text_encoder, CLIPTextModel)
    assert torch.allclose(hidden, text.text_encoder(ids).last_hidden_state, atol=1e-6)


def test_features_are_what_the_last_layer_but_one_says(image):
    encoder = image.image_encoder
    layers = {
        name.rsplit(".", 1)[-1]: m
        for name, m in encoder.named_modules()
        if "layers." in name and name.rsplit(".", 1)[-1].isdigit()
    }
    seen = []
    hook = layers["0"].register_forward_hook(
        lambda *a: seen.append(a[2][0] if isinstance(a[2], tuple) else a[2])
    )
    features = image.encode_features(picture()[None])
    hook.remove()
    assert features.shape == (1, 17, 1280)
    assert torch.allclose(features, seen[0])


def test_reference_is_a_scaled_sample_of_the_vae(image):
    generator = torch.Generator().manual_seed(3)
    latents = image.encode_latents(picture()[None], 16, generator)
    posterior = image.vae.encode(
        torch.nn.functional.interpolate(2 * picture()[None] - 1, (16, 16), mode="bilinear")
    ).latent_dist
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(latents, (posterior.mean + posterior.std * noise) * 0.18215)


# Loading -----------------------------------------------------------------------------------------


def test_remote_code_is_never_run(released_folders, pipelines):
    assert (released_folders["mvdream"] / "pipeline_mvdream.py").is_file()
    assert not {"mv_unet", "pipeline_mvdream"} & set(sys.modules)


def test_loaded_components_are_the_files(released_folders, image):
    from safetensors.torch import load_file

    for name in ("text_encoder", "image_encoder"):
        stored = load_file(released_folders["imagedream"] / name / "model.safetensors")
        ours = getattr(image, name).state_dict()
        for key, tensor in stored.items():
            short = key.removeprefix("text_model.").removeprefix("vision_model.")
            found = ours[key] if key in ours else ours[short]
            assert torch.equal(found, tensor.float())


def test_network_is_a_diffusers_model(tmp_path, recorded):
    network = recorded.network(MultiViewUNet)
    assert isinstance(network, ModelMixin)
    assert network.config.model_channels == 32
    network.save_pretrained(tmp_path / "unet")
    loaded = MultiViewUNet.from_pretrained(tmp_path, subfolder="unet")
    assert isinstance(loaded, MultiViewUNet)
    assert dict(loaded.config)["channel_mult"] == recorded.config["channel_mult"]
    assert (loaded(**recorded.inputs) - recorded.out).abs().max() <= 2e-4


def test_pipeline_survives_saving(tmp_path, both):
    pipeline, given = both
    pipeline.save_pretrained(tmp_path)
    loaded = MultiViewPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    expected = pipeline("a cat", seed=1, **given).views
    assert torch.equal(loaded("a cat", seed=1, **given).views, expected)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("image_encoder", "lacks image_encoder/config.json"),
        ("tokenizer/merges.txt", "lacks tokenizer/merges.txt"),
        ("vae/diffusion_pytorch_model.safetensors", "vae needs .safetensors weights"),
        ("text_encoder/model.safetensors", "text_encoder needs .safetensors weights"),
        ("unet", "lacks unet/config.json"),
        ("scheduler", "lacks scheduler/scheduler_config.json"),
    ],
)
def test_missing_components_are_named(released_folders, tmp_path, missing, message):
    folder = shutil.copytree(released_folders["imagedream"], tmp_path / "x")
    gone = folder / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(ValueError, match=message):
        MultiViewPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    "file", ["vae/diffusion_pytorch_model", "text_encoder/model", "unet/diffusion_pytorch_model"]
)
def test_half_a_download_is_refused(released_folders, tmp_path, file):
    folder = shutil.copytree(released_folders["mvdream"], tmp_path / "x")
    path = folder / f"{file}.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        MultiViewPipeline.from_pretrained(folder)


def test_incomplete_encoder_is_refused(released_folders, tmp_path):
    """transformers itself would fill the gap with random weights."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(released_folders["mvdream"], tmp_path / "x")
    path = folder / "text_encoder" / "model.safetensors"
    state = {k: v for k, v in load_file(path).items() if "final_layer_norm" not in k}
    save_file(state, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"2 of its tensors are missing.*final_layer_norm"):
        MultiViewPipeline.from_pretrained(folder)


def test_foreign_scheduler_class_is_refused(released_folders, tmp_path):
    folder = shutil.copytree(released_folders["mvdream"], tmp_path / "x")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "Popen"}))
    with pytest.raises(ValueError, match="must name a scheduler of diffusers, got 'Popen'"):
        MultiViewPipeline.from_pretrained(folder)


def test_components_that_do_not_fit_are_refused(image, text):
    parts = dict(image.components)
    with torch.device("meta"):
        sd = UNet2DConditionModel(block_out_channels=(32, 32, 32, 32), cross_attention_dim=16)
        wide = MultiViewUNet(**{**recording("mvdream").config, "context_dim": 24})
    for change, message in (
        ({"unet": sd}, "needs a MultiViewUNet, got a UNet2DConditionModel"),
        ({"unet": wide}, "reads text of width 24, but the text encoder's is 16"),
        ({"image_encoder": None}, "ImageDream needs its image_encoder"),
        ({"scheduler": FlowMatchEulerDiscreteScheduler()}, "predicts noise"),
        ({"scheduler": DDIMScheduler(prediction_type="v_prediction")}, "'v_prediction'"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiViewPipeline(**{**parts, **change})
    assert MultiViewPipeline(**text.components).unet is text.unet


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 18}, "multiple of 4 pixels, got 18: try 16 or 20"),
        ({"size": 0}, "multiple of 4 pixels, got 0"),
        ({"num_inference_steps": 0}, "1 to 1000 steps, got 0"),
        ({"num_inference_steps": 1000}, "1000 steps start beyond the last of training, 999"),
        ({"num_images": 0}, "num_images must be 1 or more"),
        ({"prompt": ["a", "b"], "negative_prompt": ["a"] * 3}, "2 or 1 negative prompts, got 3"),
        ({"image": picture()}, "This is MVDream"),
        ({"seed": 1, "generator": torch.Generator()}, "either a seed or generators"),
        ({"generator": [torch.Generator()] * 2}, "1 objects need 1 generators"),
        ({"latents": torch.zeros(1, 5, 4, 8, 8)}, r"latents must be \[1, 4, 4, 8, 8\]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(text, given, message):
    with pytest.raises(ValueError, match=message):
        text(**({"prompt": "a cat"} | SMALL | given))


def test_imagedream_needs_a_picture_with_something_on_it(image):
    with pytest.raises(ValueError, match="ImageDream, which needs a picture"):
        image("a cat", **SMALL)
    with pytest.raises(ValueError, match="all white background"):
        image(image=WHITE, **SMALL)


def test_eta_needs_a_scheduler_that_knows_it(text, monkeypatch):
    euler = EulerDiscreteScheduler.from_config(text.scheduler.config)
    monkeypatch.setattr(text, "scheduler", euler)
    with pytest.raises(ValueError, match="eta works with DDIM"):
        text("a cat", eta=0.5, **SMALL)


def test_not_a_number_is_a_sentence(text, monkeypatch):
    broken = text.unet.denoise
    monkeypatch.setattr(text.unet, "denoise", lambda *a: broken(*a) * float("nan"))
    with pytest.raises(RuntimeError, match="finite but hold NaN"):
        text("a cat", **SMALL)
