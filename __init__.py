"""ComfyUI's entry point: the nodes in `nodes/`, and what the page loads from `web/`."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from comfy_api.latest import ComfyExtension, io  # exists inside ComfyUI only

    class LGMExtension(ComfyExtension):
        async def get_node_list(self):
            if not hasattr(io, "Splat"):
                logging.warning(
                    "LGM Splats needs ComfyUI 0.28 or newer, this one has no SPLAT type yet: "
                    "update ComfyUI to get the LGM nodes."
                )
                return []
            from .nodes import NODES
            from .nodes.border import host

            host.register_model_folder()
            return NODES

    return LGMExtension()
