"""Text or one picture to four views with ComfyUI's own samplers: MVDream and ImageDream as MODEL
and CONDITIONING.

What the nodes make is in the order of `lgm`: front, left, back, right. The network has no order of
its own, so this is a matter of the cameras alone, and decoded views go straight to Reconstruct.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..lgm.multiview.conditioning import VIEW_ORDER, VIEWS, camera_rows, check_image, latent_pixels
from .border import host
from .border.pictures import image_from_pictures, on_color, pictures_from_image, with_alpha

TEXT_WIDTH = 1024  # of Stable Diffusion 2.1's text encoder
FEATURES_SHAPE = (257, 1280)  # of CLIP ViT-H/14
LATENT_CHANNELS = 4
PIXELS_PER_LATENT = 8
SIZE = 256  # pixels, in training

# What a CONDITIONING carries beside the text; `multiview_model` reads it.
CAMERAS = "lgm_cameras"  # [4, 16]
FEATURES = "lgm_image_features"  # [B, 257, 1280]
REFERENCE = "lgm_reference_latents"  # [B, 4, h, w], as the VAE gives them
STRENGTH = "lgm_ip_strength"


class TextConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_TextConditioning",
            display_name="Multi-View Text Conditioning",
            category=host.CATEGORY,
            description="Tells MVDream what to draw and from where, and makes the empty latents of "
            "the four views. Decoded, they come in the order front, left, back, right.",
            search_aliases=["mvdream", "text to 3d", "text to views", "multi-view"],
            inputs=[
                *_texts("MVDream draws best what a few plain words name."),
                *_cameras(),
                *_latents("Number of objects with this prompt, each of four views."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls, positive, negative, elevation, azimuth_start, width, height, batch_size
    ) -> io.NodeOutput:
        cameras = view_cameras(elevation, azimuth_start)
        return io.NodeOutput(
            with_values(positive, "positive", {CAMERAS: cameras}),
            with_values(negative, "negative", {CAMERAS: cameras}),
            empty_latent(batch_size, width, height),
        )


class ImageConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGM_ImageConditioning",
            display_name="Multi-View Image Conditioning",
            category=host.CATEGORY,
            description="Shows ImageDream a picture of an object and tells it from where to draw "
            "it, and makes the empty latents of the four views. Decoded, they come in the order "
            "front, left, back, right.",
            search_aliases=["imagedream", "image to 3d", "image to views", "multi-view"],
            inputs=[
                *_texts("It helps to name what the picture shows; empty works, too."),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="CLIP ViT-H/14, from Load CLIP Vision: ImageDream's image encoder.",
                ),
                io.Vae.Input("vae", tooltip="Of Stable Diffusion 1 or 2, from Load VAE."),
                io.Image.Input(
                    "image",
                    tooltip="The object from the front, on white, in the middle, with some space "
                    "around: Prepare Image makes it so. Each picture of a batch is an object.",
                ),
                *_cameras(),
                *_latents("Number of objects for each picture, each of four views."),
                io.Float.Input(
                    "ip_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How much the picture counts beside the text; 1 is as trained. At 0 "
                    "only its hidden frame is left.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        clip_vision,
        vae,
        image,
        elevation,
        azimuth_start,
        width,
        height,
        batch_size,
        ip_strength,
    ) -> io.NodeOutput:
        latent = empty_latent(len(image) * batch_size, width, height)
        pictures = square_on_white(image)
        features = image_features(clip_vision, pictures).repeat_interleave(batch_size, dim=0)
        host.check_cancelled()
        reference = reference_latents(vae, pictures, width, height)
        reference = reference.repeat_interleave(batch_size, dim=0)
        common = {CAMERAS: view_cameras(elevation, azimuth_start), STRENGTH: ip_strength}
        shown = {FEATURES: features, REFERENCE: reference}
        hidden = {name: torch.zeros_like(values[:1]) for name, values in shown.items()}
        return io.NodeOutput(
            with_values(positive, "positive", common | shown),
            with_values(negative, "negative", common | hidden),
            latent,
        )


def view_cameras(elevation: float, azimuth_start: float) -> Tensor:
    """Cameras [4, 16] in LGM's order, the first `azimuth_start` degrees from the front."""
    return camera_rows(elevation, azimuth_start)[list(VIEW_ORDER)]


def with_values(conditioning: list, name: str, values: dict) -> list:
    """The conditioning with what the multi-view model wants to know beside the text.

    Raises:
        ValueError: the text is not of Stable Diffusion 2's encoder.
    """
    told = []
    for text, options in conditioning:
        if text.shape[-1] != TEXT_WIDTH:
            raise ValueError(
                f"The multi-view models need text by Stable Diffusion 2.1's CLIP, {TEXT_WIDTH} "
                f"numbers a token, but {name} has {text.shape[-1]}: load that text encoder (Load "
                "CLIP, type stable_diffusion)."
            )
        # One prompt for each object: all its views get it.
        rows = text if len(text) == 1 else text.repeat_interleave(VIEWS, dim=0)
        told.append([rows, {**options, **values}])
    return told


def square_on_white(image: Tensor) -> Tensor:
    """Pictures [N, 3, S, S] from an IMAGE of any sides, padded, on white where they have alpha.

    Raises:
        ValueError: not pictures, or one that shows nothing but white.
    """
    pictures = on_color(with_alpha(pictures_from_image(image)), "#ffffff")
    height, width = pictures.shape[-2:]
    return check_image(padded_to(pictures, max(height, width), max(height, width)))


def padded_to(pictures: Tensor, height: int, width: int) -> Tensor:
    """[N, 3, height, width] with white around the smaller pictures."""
    top, left = (height - pictures.shape[-2]) // 2, (width - pictures.shape[-1]) // 2
    bottom, right = height - pictures.shape[-2] - top, width - pictures.shape[-1] - left
    return F.pad(pictures, (left, right, top, bottom), value=1.0)


def image_features(clip_vision, pictures: Tensor) -> Tensor:
    """What CLIP sees, [N, 257, 1280], before its last layer.

    Raises:
        ValueError: another image encoder than ViT-H/14.
    """
    eight_bit = (pictures * 255).floor() / 255  # ImageDream's pictures went through uint8
    features = clip_vision.encode_image(image_from_pictures(eight_bit)).penultimate_hidden_states
    if features is None or tuple(features.shape[1:]) != FEATURES_SHAPE:
        found = "none" if features is None else " x ".join(map(str, features.shape[1:]))
        raise ValueError(
            "ImageDream needs CLIP ViT-H/14, whose features are "
            f"{' x '.join(map(str, FEATURES_SHAPE))}, got {found}: choose its image encoder in "
            "Load CLIP Vision."
        )
    return features


def reference_latents(vae, pictures: Tensor, width: int, height: int) -> Tensor:
    """The pictures as latents [N, 4, height / 8, width / 8].

    Raises:
        ValueError: not a VAE of Stable Diffusion 1 or 2.
    """
    side = min(width, height)
    pixels = (latent_pixels(pictures, side) + 1) / 2  # ComfyUI's VAE takes 0..1
    latents = vae.encode(image_from_pictures(padded_to(pixels, height, width)))
    expected = (LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    if tuple(latents.shape[1:]) != expected:
        raise ValueError(
            "ImageDream needs the VAE of Stable Diffusion 1 or 2, whose latents here are "
            f"{list(expected)}, got {list(latents.shape[1:])}: choose that VAE."
        )
    return latents


def empty_latent(objects: int, width: int, height: int) -> dict:
    """Four latents for each object.

    Raises:
        ValueError: sides that are no whole number of latents.
    """
    if width % PIXELS_PER_LATENT or height % PIXELS_PER_LATENT:
        raise ValueError(
            f"Views need sides that are multiples of {PIXELS_PER_LATENT}, got {width} x {height}: "
            f"{SIZE} x {SIZE} is what the models were trained with."
        )
    sides = (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    return {
        "samples": host.outgoing(torch.zeros(objects * VIEWS, LATENT_CHANNELS, *sides)),
        "downscale_ratio_spacial": PIXELS_PER_LATENT,  # spelled so in core
    }


def _texts(hint: str) -> list:
    return [
        io.Conditioning.Input(
            "positive",
            tooltip=f"From CLIP Text Encode with Stable Diffusion 2.1's CLIP. {hint}",
        ),
        io.Conditioning.Input(
            "negative",
            tooltip="The same for what should not be there, such as blurry or low quality; may be "
            "empty.",
        ),
    ]


def _cameras() -> list:
    return [
        io.Float.Input(
            "elevation",
            default=0.0,
            min=-90.0,
            max=90.0,
            step=1.0,
            tooltip="Height of the four cameras in degrees; positive = camera above the object, "
            "looking down. LGM wants 0; set the same in Reconstruct Gaussians. (Some other "
            "programs count the other way.)",
        ),
        io.Float.Input(
            "azimuth_start",
            default=0.0,
            min=-180.0,
            max=180.0,
            step=1.0,
            advanced=True,
            tooltip="Where the first view is taken from, in degrees: 0 = the front, 90 = the "
            "object's own left. The others follow in quarter turns.",
        ),
    ]


def _latents(batch: str) -> list:
    sides = [
        io.Int.Input(
            name,
            default=SIZE,
            min=64,
            max=1024,
            step=PIXELS_PER_LATENT,
            tooltip=f"{name.capitalize()} of each view in pixels. The models were trained with "
            f"{SIZE}; other sizes often show parts twice.",
        )
        for name in ("width", "height")
    ]
    return [*sides, io.Int.Input("batch_size", default=1, min=1, max=16, tooltip=batch)]


def _outputs() -> list:
    return [
        io.Conditioning.Output(display_name="positive", tooltip="For KSampler's positive."),
        io.Conditioning.Output(display_name="negative", tooltip="For KSampler's negative."),
        io.Latent.Output(
            display_name="latent",
            tooltip="Empty latents for KSampler, four for each object: front, left, back, right.",
        ),
    ]
