"""What /object_info tells the page about the nodes."""

import json

import pytest

from ..nodes.test_schemas import contract

NODES = {
    "LGM_ArrangeViews",
    "LGM_BakeSplatTexture",
    "LGM_CameraPath",
    "LGM_CropSplat",
    "LGM_ExampleViews",
    "LGM_FilterSplat",
    "LGM_ImageConditioning",
    "LGM_LoadModel",
    "LGM_LoadMultiViewModel",
    "LGM_MultiViewDiffusion",
    "LGM_PrepareImage",
    "LGM_PreviewSplat",
    "LGM_Reconstruct",
    "LGM_RefineMesh",
    "LGM_RenderSplat",
    "LGM_SamplingPreview",
    "LGM_SaveSplat",
    "LGM_SplatToMesh",
    "LGM_TextConditioning",
}


@pytest.fixture(scope="module")
def ours(object_info) -> dict:
    return {name: info for name, info in object_info.items() if name.startswith("LGM_")}


def inputs_of(declared: dict) -> dict:
    """Every input by name, those behind the choices of a dynamic combo too."""
    found = {}
    every = declared.get("required", {}) | declared.get("optional", {})
    for name, (kind, *options) in every.items():
        found[name] = options[0] if options else {}
        if kind == "COMFY_DYNAMICCOMBO_V3":
            for choice in found[name]["options"]:
                inner = inputs_of(choice["inputs"])
                found |= {f"{name}.{key}": value for key, value in inner.items()}
    return found


def test_every_node_is_there(ours):
    # Ids never change: a workflow saved by any version names them.
    assert set(ours) == NODES


def test_schemas_are_those_the_stand_in_makes(ours, data):
    """The tests without ComfyUI see the nodes through a stand-in: here is what it stands for."""
    snapshot = json.loads((data / "node_schemas.json").read_text(encoding="utf-8"))
    for info in ours.values():
        info["input"].pop("hidden", None)  # ComfyUI's own business: no workflow stores it
    found = {name: contract(info) for name, info in ours.items()}
    assert stored(json.loads(json.dumps(found))) == stored(snapshot)


def stored(value):
    """Without what ComfyUI adds about how it draws a widget."""
    if isinstance(value, list):
        return [stored(item) for item in value]
    if isinstance(value, dict):
        drawn = {"multiselect", "multiline", "socketless"}
        return {key: stored(item) for key, item in value.items() if key not in drawn}
    return value


def test_nodes_stand_in_one_place_of_the_menu(ours):
    assert {info["category"] for info in ours.values()} == {"3d/LGM"}
    assert all(info["display_name"] and info["description"] for info in ours.values())


def test_every_input_and_output_has_a_tooltip(ours):
    without = [
        f"{node}.{name}"
        for node, info in ours.items()
        for name, options in inputs_of(info["input"]).items()
        if not options.get("tooltip")
    ]
    without += [
        f"{node}.{name}"
        for node, info in ours.items()
        for name, tooltip in zip(info["output_name"], info["output_tooltips"], strict=True)
        if not tooltip
    ]
    assert not without
