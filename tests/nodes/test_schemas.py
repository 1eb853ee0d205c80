"""What saved workflows rely on never changes unseen: ids, order, types and defaults of all sockets.

After a change that is meant (a new node, a new input at the end):
    LGM_UPDATE_SNAPSHOT=1 python -m pytest tests/nodes/test_schemas.py
"""

from __future__ import annotations

import json
import os

UNSEEN = ("tooltip", "display_name", "advanced")  # of an input: no workflow stores these


def contract(info: dict) -> dict:
    """The part of a node's /object_info entry that workflows store or depend on."""
    return {
        "output_node": info["output_node"],
        "input": {group: _inputs(inputs) for group, inputs in info["input"].items()},
        "output": list(
            zip(info["output_name"], info["output"], info["output_is_list"], strict=True)
        ),
    }


def _inputs(inputs: dict) -> list:
    """As a list: the order of widgets is how workflow files tell them apart."""
    kept = []
    for name, (io_type, options) in inputs.items():
        options = {key: value for key, value in options.items() if key not in UNSEEN}
        if io_type == "COMFY_DYNAMICCOMBO_V3":
            options["options"] = [
                {"key": o["key"], "inputs": {g: _inputs(i) for g, i in o["inputs"].items()}}
                for o in options["options"]
            ]
        kept.append([name, io_type, options])
    return kept


def test_schemas_are_as_released(pack, data):
    path = data / "node_schemas.json"
    found = {name: contract(node.define_schema().info()) for name, node in pack.items()}
    if os.environ.get("LGM_UPDATE_SNAPSHOT"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    released = json.loads(path.read_text())
    assert json.loads(json.dumps(found)) == released


def test_every_id_has_the_packs_prefix(pack):
    for name, node in pack.items():
        schema = node.define_schema()
        assert name.startswith("LGM_") and schema.category == "3d/LGM"
