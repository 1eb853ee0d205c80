"""Write locales/en/nodeDefs.json from the nodes' schemas: `python tools/locales.py`, after a change
of their texts. Translations into other languages are written by hand.

The page looks up inputs by id, those of a dynamic combo by its id, an underscore and theirs, and
outputs by their place. English is needed, too: for sockets of a dynamic combo the page has no other
tooltip than this one. It looks for it by the socket's name, so these must not get another; it never
shows one either.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "locales" / "en" / "nodeDefs.json"
WIDGETS = {"INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "COLOR", "COMFY_DYNAMICCOMBO_V3"}


def english(schemas: list) -> dict:
    """What the page needs to know of nodes, in the form of its own locale files."""
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": _inputs(schema.inputs),
            "outputs": {
                str(place): {
                    "name": output.options["display_name"],
                    "tooltip": output.options["tooltip"],
                }
                for place, output in enumerate(schema.outputs)
            },
        }
        for schema in schemas
    }


def _inputs(inputs: list, prefix: str = "") -> dict:
    texts = {}
    for entry in inputs:
        key = prefix + entry.id
        has_name = not prefix or entry.io_type in WIDGETS
        name = {"name": entry.options.get("display_name", entry.id)} if has_name else {}
        texts[key] = {**name, "tooltip": entry.options["tooltip"]}
        for option in entry.options.get("options", []):
            texts |= _inputs(getattr(option, "inputs", []), f"{key}_")
    return texts


def main() -> None:
    # The pack is a package under its folder's name, and ComfyUI's part is played by a stand-in.
    sys.path[:0] = [str(ROOT / "tests" / "nodes" / "standin"), str(ROOT.parent)]
    package = importlib.import_module(ROOT.name)
    importlib.import_module(f"{package.__name__}.nodes.border.host").register_model_folder()
    nodes = importlib.import_module(f"{package.__name__}.nodes").NODES
    texts = english([node.define_schema() for node in nodes])
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(texts, indent=2, ensure_ascii=False) + "\n"
    TARGET.write_text(content, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
