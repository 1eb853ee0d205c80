"""GroupNorm with SiLU, and the scaled sum of two branches, each in as few passes over memory as the
device allows.

On CUDA with Triton: channels-last kernels with fp32 statistics and their own backward
(`norm_triton`). On CPUs with numba, where no gradient is asked for: `norm_numba`. Elsewhere, and
under `torch.compile`, which fuses by itself: plain torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..machine.optional import uses_triton, why_no_numba

# With fewer in a map, starting threads costs more than torch takes. Of one map, not of all, so that
# an object's numbers don't depend on how many others it comes with.
ELEMENTS_PER_THREAD = 1 << 16


def _uses_numba(x: Tensor, *affine: Tensor) -> bool:
    """Whether it is worth it, and no one asks for a gradient."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *affine))
    large = x[:1].numel() >= ELEMENTS_PER_THREAD * torch.get_num_threads()
    return large and _is_channels_last(x) and not learns and not why_no_numba()


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int = 32, eps: float = 1e-5, silu: bool = True
) -> Tensor:
    """SiLU(GroupNorm(x)), or GroupNorm(x) alone.

    Args:
        x: [N, C, H, W], float16, bfloat16 or float32; statistics are float32 in any case.
        weight, bias: [C], of any floating dtype.

    Returns:
        [N, C, H, W] of x's dtype; channels-last where kernels ran, else in x's format.
    """
    if uses_triton(x):
        return _GroupNormSiLU.apply(x, weight, bias, groups, eps, silu)
    if _uses_numba(x, weight, bias):
        from .norm_numba import group_norm_silu as kernel

        return kernel(x, weight, bias, groups, eps, silu)
    # torch's own kernel for channels-last maps on the CPU loses up to three digits where a group's
    # mean is far from zero; the one for contiguous maps doesn't, and is faster.
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    exact = x.float().contiguous() if x.device.type == "cpu" else x.float()
    y = F.group_norm(exact, groups, weight.float(), bias.float(), eps)
    # No one else holds y; SiLU's backward needs its input, so only inference may overwrite it.
    y = F.silu(y, inplace=not y.requires_grad) if silu else y
    return y.to(x.dtype, memory_format=layout)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def scaled_sum(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * (a + b) for two [N, C, H, W] of one shape and dtype."""
    if uses_triton(a) and a.dtype == b.dtype and a.dim() == 4:
        return _ScaledSum.apply(a, b, scale)
    return (a + b).mul_(scale)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _GroupNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps, silu):
        from .norm_triton import normalize

        x = channels_last(x)
        with torch.cuda.device_of(x):
            y, mean, rstd = normalize(x, weight, bias, groups, eps, silu)
        ctx.save_for_backward(
            x, weight, bias, mean, rstd
        )  # y is cheaper to compute again than to keep
        ctx.silu = silu
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        from .norm_backward_triton import normalize_backward

        x, *affine_and_moments = ctx.saved_tensors
        grads = normalize_backward(channels_last(grad), x, *affine_and_moments, ctx.silu)
        return *grads, None, None, None


class _ScaledSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, scale):
        from .norm_triton import scaled_sum as kernel

        ctx.scale = scale
        with torch.cuda.device_of(a):
            return kernel(channels_last(a), channels_last(b), scale)

    @staticmethod
    def backward(ctx, grad):  # ty: ignore[incompatible-method-override]
        grad = grad * ctx.scale
        return grad, grad, None
