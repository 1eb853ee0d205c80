"""The server starts with the pack in it, and pays nothing for that."""

import re

from .comfyui import PACK, traceback_lines

HEAVY = {"diffusers", "transformers", "rembg", "numba", "gsplat", "trimesh"}


def test_pack_loads_under_any_folder_name(server, tell):
    assert "IMPORT FAILED" not in server.log
    assert not traceback_lines(server.log)
    times = re.findall(r"([\d.]+) seconds: .*" + re.escape(PACK), server.log)
    assert len(times) == 1
    tell(f"import time of the pack, as the log says: {times[0]} s")


def test_loading_imports_nothing_heavy(server):
    imported = server.imported_at_start
    assert imported, "the probe saw no import of the pack: it watches nothing"
    assert not HEAVY & {name.partition(".")[0] for name in imported}
