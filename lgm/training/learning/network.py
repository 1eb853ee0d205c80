"""The network as training runs it: recomputed, captured, distributed."""

from __future__ import annotations

import torch
from torch import Tensor, autocast, nn

from ...network.model import LGM
from ...network.unet import Block


class Network(nn.Module):
    """What learns: `LGM.features` and `LGM.corrections` as a module of their own, with LGM's names
    for its weights.
    """

    def __init__(self, model: LGM):
        super().__init__()
        self.unet, self.conv, self.corrector = model.unet, model.conv, model.corrector

    def forward(self, x: Tensor, views: int, correct: bool = False) -> Tensor:
        """[B * V, 14, h, w] float32 from [B * V, C, S, S]."""
        with autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            return self.layers(x, views, correct)

    def layers(self, x: Tensor, views: int, correct: bool) -> Tensor:
        """`forward` in the precision that is set around it."""
        return (self.corrector(x, views) if correct else self.conv(self.unet(x, views))).float()


def recalculate_layers(model: LGM) -> None:
    """Keep the layers' inputs alone and calculate the rest again when gradients need it."""
    for module in model.modules():
        if isinstance(module, Block):
            module.recompute = True


def for_training(model: LGM, device: torch.device) -> LGM:
    """The model where and as it trains fastest. cuDNN's search for algorithms stays off: on an H100
    it took half a minute and chose slower ones.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return model.to(device, memory_format=torch.channels_last).train()
