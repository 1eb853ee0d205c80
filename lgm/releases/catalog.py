"""What was released: the files, where they are on Hugging Face, and what ComfyUI calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

HUB_REPOSITORY = "ashawkey/LGM"
RELEASED = {  # short name -> file name in HUB_REPOSITORY
    "lgm_fixrot_fp16": "model_fp16_fixrot.safetensors",
    "lgm_fixrot": "model_fixrot.safetensors",
    "lgm_legacy_fp16": "model_fp16.safetensors",
}
FIXED_NAME = RELEASED["lgm_fixrot_fp16"]
TEXT, IMAGE = "mvdream", "imagedream"  # short names of the two releases
LGM = "lgm"  # of LGM's own, which is one file
COMPONENTS = {  # folder -> files, of which the weights may also be cut into several
    "scheduler": ("scheduler_config.json",),
    "text_encoder": ("config.json", "model.safetensors"),
    "tokenizer": ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"),
    "unet": ("config.json", "diffusion_pytorch_model.safetensors"),
    "vae": ("config.json", "diffusion_pytorch_model.safetensors"),
}
IMAGE_ENCODER = {"image_encoder": ("config.json", "model.safetensors")}
NOT_NEEDED = ("special_tokens_map.json", "tokenizer_config.json")  # tokenizers load without
ONE_FILE_TOKENIZER = "tokenizer.json"  # what transformers 5 saves instead of the others


@dataclass(frozen=True)
class Release:
    """Folders of components on Hugging Face, in diffusers' layout."""

    title: str
    repository: str
    components: dict[str, tuple[str, ...]]
    gigabytes: float

    @property
    def folder(self) -> str:
        return self.repository.split("/")[1]

    @property
    def files(self) -> list[str]:
        """What the pipeline reads; none of the Python that is there, too."""
        return [f"{name}/{file}" for name, files in self.components.items() for file in files]


RELEASES = {
    TEXT: Release("MVDream", "ashawkey/mvdream-sd2.1-diffusers", COMPONENTS, 2.6),
    IMAGE: Release(
        "ImageDream", "ashawkey/imagedream-ipmv-diffusers", COMPONENTS | IMAGE_ENCODER, 4.0
    ),
}

# For ComfyUI's own loaders: release -> component -> folder in ComfyUI's models, and name there.
# Text encoder and VAE are Stable Diffusion 2.1's, so those of MVDream serve both.
NATIVE = {
    TEXT: {
        "unet": ("diffusion_models", "mvdream.safetensors"),
        "text_encoder": ("text_encoders", "mvdream_text_encoder.safetensors"),
        "vae": ("vae", "mvdream_vae.safetensors"),
    },
    IMAGE: {
        "unet": ("diffusion_models", "imagedream.safetensors"),
        "image_encoder": ("clip_vision", "imagedream_image_encoder.safetensors"),
    },
}
SHARED = ("text_encoder", "vae")


class NativeFile(NamedTuple):
    """A released file, and where ComfyUI looks for it."""

    repository: str
    file: str  # in the repository
    directory: str  # in ComfyUI's models
    name: str  # there

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


def native_files(name: str) -> list[NativeFile]:
    """What ComfyUI's own loaders need for `mvdream`, `imagedream` or `lgm`."""
    if name == LGM:
        return [NativeFile(HUB_REPOSITORY, FIXED_NAME, LGM, FIXED_NAME)]
    sources = {component: name for component in NATIVE[name]}
    sources |= {component: TEXT for component in SHARED}
    return [
        NativeFile(
            RELEASES[source].repository,
            f"{component}/{RELEASES[source].components[component][-1]}",  # weights come last
            *NATIVE[source][component],
        )
        for component, source in sources.items()
    ]
