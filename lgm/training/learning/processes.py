"""Ranks, and tensors that are sharded over them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ...network.unet import MVAttention, ResBlock
from .network import Network


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def place(value: Tensor, parameter: Tensor) -> None:
    """Copy a whole tensor into a parameter, of which this process may have a part only."""
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(
            value.to(local(parameter).device), parameter.device_mesh, parameter.placements
        )
    local(parameter).copy_(local(value))


def shard(network: Network) -> None:
    """Split weights, gradients and optimizer over the processes, layer by layer (FSDP)."""
    from torch.distributed.fsdp import fully_shard

    network.to(memory_format=torch.contiguous_format)  # all that it can split
    for module in network.modules():
        if isinstance(module, (ResBlock, MVAttention)):
            fully_shard(module)
    fully_shard(network)


def average_gradients(parameters: list[Tensor]) -> None:
    """The mean of all processes' gradients, in one message."""
    if world() == 1:
        return
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= world()
    parts = flat.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad.copy_(part.view_as(parameter))
