"""MVDream and ImageDream as a MODEL for ComfyUI's own samplers.

The network is core's Stable Diffusion 2.1 U-Net, run as it is, so that LoRAs, patches, attention
backends and memory management of core work. Around it: the cameras go in where core takes class
labels, the views of an object are joined in self-attention, and ImageDream's picture enters as a
hidden fifth frame and as tokens beside the text.

Rows of a batch are the views of object 0, then of object 1, and so on, conditional and
unconditional parts in any order. Imported when a model is loaded: what is below needs the real
ComfyUI, not the tests' stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.ldm.modules.attention as attention
import comfy.model_base
import comfy.model_detection
import comfy.model_management as management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn
from torch.nn import LayerNorm as TorchLayerNorm
from torch.nn import Linear as TorchLinear

from ..lgm.multiview.conditioning import VIEWS, per_frame
from ..lgm.multiview.resampler import Resampler
from ..lgm.multiview.unet import UNet
from ..lgm.multiview.weights import load_unet
from .multiview_conditioning import CAMERAS, FEATURES, REFERENCE, STRENGTH

OURS, CORES = "camera_embed.", "label_emb.0."  # keys of the same two layers
PICTURE = "lgm_picture"  # in transformer_options


@dataclass(frozen=True)
class Picture:
    """What cross-attention reads of the given picture."""

    tokens: Tensor  # [rows, T, C], like one word each
    strength: Tensor  # [rows, 1, 1]


class ImageAttention(attention.CrossAttention):
    """Attention to the text and, with the same queries, to the picture; the results are added."""

    def __init__(self, query_dim: int, context_dim: int, heads: int, dim_head: int, **made_of):
        super().__init__(query_dim, context_dim, heads, dim_head, **made_of)
        operations = made_of["operations"]
        place = {"dtype": made_of["dtype"], "device": made_of["device"]}
        self.to_k_ip = operations.Linear(context_dim, heads * dim_head, bias=False, **place)
        self.to_v_ip = operations.Linear(context_dim, heads * dim_head, bias=False, **place)

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):  # noqa: B006
        def attend(k: Tensor, v: Tensor, **options) -> Tensor:
            return attention.optimized_attention(
                q,
                k,
                v,
                self.heads,
                attn_precision=self.attn_precision,
                transformer_options=transformer_options,
                **options,
            )

        picture: Picture = transformer_options[PICTURE]
        q = self.to_q(x)
        text = attend(self.to_k(context), self.to_v(context if value is None else value), mask=mask)
        # Attention is linear in its values, so the strength may go into them.
        values = picture.strength * self.to_v_ip(picture.tokens)
        return self.to_out(text + attend(self.to_k_ip(picture.tokens), values))


class CoreMultiViewUNet(UNetModel):
    """Core's U-Net over all views of an object at once.

    Args:
        ip_dim: tokens that a picture becomes; 0 is MVDream.
        config: of core's U-Net.
    """

    def __init__(self, *, ip_dim: int = 0, dtype=None, device=None, operations=None, **config):
        made_of = {"dtype": dtype, "device": device, "operations": operations}
        super().__init__(**config, **made_of)
        self.has_image = ip_dim > 0
        if not self.has_image:
            return
        context_dim = config["context_dim"]
        self.image_embed = resampler(context_dim, ip_dim, **made_of)
        for block in self.modules():
            if isinstance(block, attention.BasicTransformerBlock):
                block.attn2 = ImageAttention(
                    block.attn2.to_q.in_features,
                    context_dim,
                    block.n_heads,
                    block.d_head,
                    attn_precision=block.attn_precision,
                    **made_of,
                )

    def _forward(
        self,
        x,
        timesteps: Any = None,
        context: Any = None,
        y: Any = None,
        control: Any = None,
        transformer_options={},  # noqa: B006  core's signature
        reference_latents: Any = None,
        image_tokens: Any = None,
        ip_strength: Any = None,
        **kwargs,
    ):
        if not self.has_image:
            options = joined(transformer_options, VIEWS)
            return super()._forward(x, timesteps, context, y, control, options, **kwargs)
        options = joined(transformer_options, VIEWS + 1)
        tokens = with_frame(image_tokens)
        strength = with_frame(ip_strength).to(tokens)[:, None, None]
        options[PICTURE] = Picture(tokens, strength)
        noise = super()._forward(
            with_frame(x, reference_latents[::VIEWS]),
            with_frame(timesteps),
            with_frame(context),
            with_frame(y, y.new_zeros(len(y) // VIEWS, y.shape[1])),  # the picture has no camera
            with_control_frame(control, len(x)),
            options,
            **kwargs,
        )
        return noise.unflatten(0, (-1, VIEWS + 1))[:, :VIEWS].flatten(0, 1)


def resampler(context_dim: int, tokens: int, dtype, device, operations) -> Resampler:
    """The library's resampler, of core's layers: core moves and casts its weights, too."""

    def exchange(module: nn.Module) -> None:
        for name, child in module.named_children():
            match child:
                case TorchLinear():
                    bias = child.bias is not None
                    layer = operations.Linear(child.in_features, child.out_features, bias, **place)
                    setattr(module, name, layer)
                case TorchLayerNorm():
                    layer = operations.LayerNorm(child.normalized_shape, eps=child.eps, **place)
                    setattr(module, name, layer)
                case _:
                    exchange(child)

    place = {"dtype": dtype, "device": device}
    with torch.device("meta"):
        made = Resampler(context_dim, tokens)
    exchange(made)
    made.latents = nn.Parameter(torch.empty(made.latents.shape, **place))
    return made


def with_frame(rows: Tensor, frame: Tensor | None = None) -> Tensor:
    """[5 B, ...] from [4 B, ...]: each object's views and one frame [B, ...] more; default what its
    first view has.
    """
    views = rows.unflatten(0, (-1, VIEWS))
    frame = views[:, 0] if frame is None else frame
    return torch.cat([views, frame[:, None].to(rows)], dim=1).flatten(0, 1)


def with_control_frame(control: dict | None, rows: int) -> dict | None:
    """What ControlNets add to the views; they add nothing to the hidden frame."""

    def padded(added: Tensor | None) -> Tensor | None:
        if added is None or len(added) != rows:  # one for all rows
            return added
        return with_frame(added, torch.zeros_like(added[::VIEWS]))

    if control is None:
        return None
    return {place: [padded(added) for added in layers] for place, layers in control.items()}


def joined(transformer_options: dict, frames: int) -> dict:
    """The options with all frames of an object in one self-attention. Other people's patches see
    single frames, as in any Stable Diffusion.
    """

    def join(n: Tensor, context: Tensor, value: Tensor, extra_options: dict):
        return tuple(x.unflatten(0, (-1, frames)).flatten(1, 2) for x in (n, context, value))

    def part(n: Tensor, extra_options: dict) -> Tensor:
        return n.unflatten(1, (frames, -1)).flatten(0, 1)

    patches = dict(transformer_options.get("patches", {}))
    patches["attn1_patch"] = [*patches.get("attn1_patch", []), join]
    patches["attn1_output_patch"] = [part, *patches.get("attn1_output_patch", [])]
    return {**transformer_options, "patches": patches}


class MultiViewModel(comfy.model_base.BaseModel):
    """What a sampler of core talks to."""

    def __init__(self, model_config, device=None):
        super().__init__(model_config, device=device, unet_model=CoreMultiViewUNet)
        self.ip_weight = model_config.ip_weight
        if self.diffusion_model.has_image:  # core counts the latent's frames, not the hidden one
            self.memory_usage_factor *= (VIEWS + 1) / VIEWS

    def encode_adm(self, **kwargs) -> Tensor:
        return kwargs[CAMERAS].to(kwargs["device"])

    def extra_conds(self, **kwargs) -> dict[str, Any]:
        """What the network is told, once a sampling; core repeats it for all objects."""
        check_conditioning(kwargs, self.diffusion_model.has_image)
        out = super().extra_conds(**kwargs)
        if not self.diffusion_model.has_image:
            return out
        device, size = kwargs["device"], kwargs["noise"].shape[-2:]
        features = kwargs[FEATURES].to(device, self.get_dtype_inference())
        tokens = self.diffusion_model.image_embed(features)
        strength = torch.full((1,), kwargs[STRENGTH] * self.ip_weight, device=device)
        reference = self.process_latent_in(kwargs[REFERENCE].to(device))
        if reference.shape[-2:] != size:
            reference = comfy.utils.common_upscale(reference, *size[::-1], "bilinear", "disabled")
        out["image_tokens"] = comfy.conds.CONDRegular(per_frame(tokens, VIEWS))
        out["ip_strength"] = comfy.conds.CONDRegular(strength)
        out["reference_latents"] = comfy.conds.CONDNoiseShape(per_frame(reference, VIEWS))
        return out


def check_conditioning(given: dict, has_image: bool) -> None:
    """Raise ValueError unless the conditioning and the latent are of our nodes."""
    kind, node = (
        ("ImageDream", "Multi-View Image Conditioning")
        if has_image
        else ("MVDream", "Multi-View Text Conditioning")
    )
    rows = given["noise"].shape[0]
    if given.get(CAMERAS) is None:
        raise ValueError(
            f"{kind} needs conditioning with cameras, but the {given['prompt_type']} one has none: "
            f"put {node} between the text encoder and the sampler."
        )
    if has_image != (given.get(FEATURES) is not None):
        found = "text alone" if has_image else "a picture"
        raise ValueError(
            f"{kind} needs the conditioning of {node}, but the {given['prompt_type']} one is of "
            f"{found}: connect that node, or load the other model."
        )
    if rows % VIEWS:
        raise ValueError(
            f"{kind} needs {VIEWS} latents for each object, got {rows}: connect the latent of "
            f"{node}."
        )


class MultiViewConfig(comfy.supported_models.SD20):
    """Stable Diffusion 2.1 with cameras: its sampling, latents, LoRA names and precisions."""

    ip_weight = 1.0  # how much the picture counts at strength 1

    def process_unet_state_dict_for_saving(self, state_dict: dict) -> dict:
        """Under the names that `load` reads."""
        renamed = {k.replace(CORES, OURS): tensor for k, tensor in state_dict.items()}
        return super().process_unet_state_dict_for_saving(renamed)


def for_core(network: UNet) -> tuple[MultiViewConfig, dict[str, Tensor]]:
    """How core describes this network, and its weights under core's names."""
    state = {key.replace(OURS, CORES): tensor for key, tensor in network.state_dict().items()}
    config = MultiViewConfig(comfy.model_detection.detect_unet_config(state, ""))
    block = network.middle_block[1].transformer_blocks[0]
    config.unet_config |= {
        "num_head_channels": block.attn1.head_channels,
        "ip_dim": network.ip_dim,
    }
    config.ip_weight = network.ip_weight
    return config, state


def load(path: str, dtype: torch.dtype | None = None, disable_dynamic: bool = False):
    """The MODEL in a file, in core's care.

    Args:
        dtype: what the weights are stored in; default what core takes for this device and file.
        disable_dynamic: core's, for a twin that is patched and moved as a whole.

    Raises:
        ValueError: damaged, or another model (`lgm.multiview.weights.load_unet`).
    """
    config, state = for_core(load_unet(path))
    device, offload = management.get_torch_device(), management.unet_offload_device()
    kept_in = dtype or management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(state),
    )
    cast_to = management.unet_manual_cast(kept_in, device, config.supported_inference_dtypes)
    config.set_inference_dtype(kept_in, cast_to, device=device)

    model = MultiViewModel(config)
    patchers = comfy.model_patcher  # core exchanges the class in there when it starts
    made_by = patchers.ModelPatcher if disable_dynamic else patchers.CoreModelPatcher
    patcher = made_by(model, load_device=device, offload_device=offload)
    if not management.is_device_cpu(offload):
        model.to(offload)
    model.load_model_weights(state, assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load, (path, dtype))
    return patcher
