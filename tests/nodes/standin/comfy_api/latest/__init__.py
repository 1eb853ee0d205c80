"""As much of ComfyUI's node interface as the nodes use: what is declared is kept, nothing is done.

Keywords that the real classes don't know are refused here, too (`KEYWORDS`).
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

COMMON = {"display_name", "optional", "tooltip", "lazy", "extra_dict"}
WIDGET = {*COMMON, "default", "socketless", "advanced"}
SOCKET = {*COMMON, "raw_link", "advanced"}
KEYWORDS = {  # of an Input, by its type on the wire
    "INT": {*WIDGET, "min", "max", "step", "control_after_generate", "display_mode"},
    "FLOAT": {*WIDGET, "min", "max", "step", "round", "display_mode"},
    "BOOLEAN": {*WIDGET, "label_on", "label_off"},
    "STRING": {*WIDGET, "multiline", "placeholder", "dynamic_prompts"},
    "COMBO": {*WIDGET, "options", "control_after_generate"},
    "COLOR": {"display_name", "optional", "tooltip", "socketless", "default", "advanced"},
    "COMFY_DYNAMICCOMBO_V3": {*COMMON, "options"},
}
WIRE = {"dynamic_prompts": "dynamicPrompts"}  # names that /object_info spells otherwise
OUTPUT_KEYWORDS = {"display_name", "tooltip", "is_output_list"}
SCHEMA_KEYWORDS = {
    "node_id", "display_name", "category", "description", "search_aliases", "inputs", "outputs",
    "hidden", "is_input_list", "is_output_node", "is_experimental",
}  # fmt: skip


def _checked(given: dict, known: set[str], what: str) -> dict:
    if unknown := set(given) - known:
        raise TypeError(f"{what} got unexpected keywords {sorted(unknown)}")
    return given


class _Input:
    def __init__(self, io_type: str, id: str, options: dict):
        known = KEYWORDS.get(io_type, SOCKET)
        self.io_type, self.id, self.options = io_type, id, _checked(options, known, io_type)

    def info(self) -> list:
        """The entry of this input in /object_info."""
        given = self.options | self.options.get("extra_dict", {})
        kept = given.keys() - {"optional", "extra_dict"}
        options = {WIRE.get(k, k): v for k, v in given.items() if k in kept}
        if self.io_type == "COMFY_DYNAMICCOMBO_V3":
            options["options"] = [
                {"key": option.key, "inputs": _inputs_info(option.inputs)}
                for option in options["options"]
            ]
        return [self.io_type, options]


class _Output:
    def __init__(self, io_type: str, options: dict):
        self.io_type = io_type
        self.options = _checked(options, OUTPUT_KEYWORDS, f"{io_type} output")


def _inputs_info(inputs: list[_Input]) -> dict:
    groups: dict[str, dict] = {}
    for entry in inputs:
        group = "optional" if entry.options.get("optional") else "required"
        groups.setdefault(group, {})[entry.id] = entry.info()
    return groups


def _type(io_type: str):
    return type(
        io_type,
        (),
        {
            "io_type": io_type,
            "Input": staticmethod(lambda id, **options: _Input(io_type, id, options)),
            "Output": staticmethod(lambda **options: _Output(io_type, options)),
        },
    )


class _Option:
    def __init__(self, key: str, inputs: list[_Input]):
        self.key, self.inputs = key, inputs


class Schema:
    def __init__(self, **declared):
        self.__dict__.update(_checked(declared, SCHEMA_KEYWORDS, "Schema"))
        self.inputs, self.outputs = (
            list(declared.get("inputs", [])),
            list(declared.get("outputs", [])),
        )
        ids = [entry.id for entry in self.inputs]
        assert len(set(ids)) == len(ids), f"input ids must be unique, got {ids}"

    def info(self) -> dict:
        """What /object_info says of the node, in its form."""
        return {
            "name": self.node_id,
            "display_name": self.display_name,
            "category": self.category,
            "description": self.description,
            "output_node": getattr(self, "is_output_node", False),
            "input": _inputs_info(self.inputs),
            "output": [output.io_type for output in self.outputs],
            "output_name": [output.options["display_name"] for output in self.outputs],
            "output_is_list": [o.options.get("is_output_list", False) for o in self.outputs],
            "output_tooltips": [output.options.get("tooltip") for output in self.outputs],
        }


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError


class ComfyExtension:
    async def on_load(self) -> None: ...


io = SimpleNamespace(
    Schema=Schema,
    ComfyNode=ComfyNode,
    NodeOutput=NodeOutput,
    Hidden=SimpleNamespace(unique_id="UNIQUE_ID", prompt="PROMPT", extra_pnginfo="EXTRA_PNGINFO"),
    Custom=_type,
    Int=_type("INT"),
    Float=_type("FLOAT"),
    Boolean=_type("BOOLEAN"),
    String=_type("STRING"),
    Combo=_type("COMBO"),
    Color=_type("COLOR"),
    Image=_type("IMAGE"),
    Mask=_type("MASK"),
    Latent=_type("LATENT"),
    Conditioning=_type("CONDITIONING"),
    Model=_type("MODEL"),
    Vae=_type("VAE"),
    ClipVision=_type("CLIP_VISION"),
    Splat=_type("SPLAT"),
    Mesh=_type("MESH"),
    Load3DCamera=_type("LOAD3D_CAMERA"),
    File3DSplatAny=_type("FILE_3D_SPLAT_ANY"),
    DynamicCombo=_type("COMFY_DYNAMICCOMBO_V3"),
)
io.DynamicCombo.Option = _Option


class SPLAT:
    def __init__(self, positions, scales, rotations, opacities, sh, counts=None):
        self.positions, self.scales, self.rotations = positions, scales, rotations
        self.opacities, self.sh, self.counts = opacities, sh, counts


class MESH:
    def __init__(
        self, vertices, faces, uvs=None, vertex_colors=None, texture=None, vertex_counts=None,
        face_counts=None, unlit=False,
    ):  # fmt: skip
        self.vertices, self.faces, self.uvs, self.vertex_colors = (
            vertices,
            faces,
            uvs,
            vertex_colors,
        )
        self.texture, self.unlit = texture, unlit
        self.vertex_counts, self.face_counts = vertex_counts, face_counts


class File3D:
    def __init__(self, source, file_format: str = ""):
        self._source, self.format = source, file_format

    def get_bytes(self) -> bytes:
        if isinstance(self._source, str):
            return Path(self._source).read_bytes()
        self._source.seek(0)
        return self._source.read()


Types = SimpleNamespace(SPLAT=SPLAT, MESH=MESH, File3D=File3D)
