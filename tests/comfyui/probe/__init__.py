"""A pack without nodes that tells the tests what the server's process looks like inside."""

import gc
import sys

import psutil
import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


@PromptServer.instance.routes.get("/lgm_probe")
async def report(request):
    gc.collect()
    storages = {
        item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
        for item in gc.get_objects()
        if type(item) in (torch.Tensor, torch.nn.Parameter) and item.device.type == "cpu"
    }
    return web.json_response(
        {
            "imports": sorted(sys.lgm_imports),
            "resident_bytes": psutil.Process().memory_info().rss,
            "tensor_bytes": sum(storages.values()),
        }
    )
