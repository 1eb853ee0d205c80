"""ComfyUI's entry point. The nodes are still to come: today this folder is the `lgm` library."""


async def comfy_entrypoint():
    from comfy_api.latest import ComfyExtension  # exists inside ComfyUI only

    class LGMExtension(ComfyExtension):
        async def get_node_list(self):
            return []

    return LGMExtension()
