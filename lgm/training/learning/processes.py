"""Ranks, and tensors that are sharded over them (FSDP)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ...network.unet import MVAttention, ResBlock
from .network import Network


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local(parameter: Tensor) -> Tensor:
    """This process's shard of a tensor, or all of it where it is not sharded."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def full_tensor(parameter: Tensor) -> Tensor:
    """All of a tensor. Collective for a sharded one: call it on every rank."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def copy_into(parameter: Tensor, value: Tensor) -> None:
    """Copy all of a tensor into a parameter that may be sharded. Collective: call it on every
    rank.
    """
    if isinstance(parameter, DTensor):
        value = distribute_tensor(
            value.to(local(parameter).device), parameter.device_mesh, parameter.placements
        )
    local(parameter).copy_(local(value))


def shard(network: Network) -> None:
    """Shard weights, gradients and optimizer over the processes, layer by layer (FSDP).
    Collective: call it on every rank.
    """
    from torch.distributed.fsdp import fully_shard

    network.to(memory_format=torch.contiguous_format)  # FSDP can't split channels_last
    for module in network.modules():
        if isinstance(module, (ResBlock, MVAttention)):
            fully_shard(module)
    fully_shard(network)


def average_gradients(parameters: list[Tensor]) -> None:
    """Average the gradients over all processes, in one message. Collective: call it on every
    rank.
    """
    if world() == 1:
        return
    gradients = []
    for parameter in parameters:
        assert parameter.grad is not None  # CUDA graphs keep them all
        gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
