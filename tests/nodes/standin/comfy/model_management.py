"""A computer without an accelerator."""

import torch

cancelled = False
loaded: list = []  # (patchers, bytes asked for) of every load


class InterruptProcessingException(Exception):
    pass


def throw_exception_if_processing_interrupted():
    global cancelled
    if cancelled:
        cancelled = False
        raise InterruptProcessingException


def get_torch_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def intermediate_device():
    return torch.device("cpu")


def intermediate_dtype():
    return torch.float32


def should_use_fp16(device=None):
    return False


def get_free_memory(device=None):
    return 8 << 30


def load_models_gpu(models, memory_required=0):
    loaded.append((models, memory_required))
