"""The pack loaded as ComfyUI loads it, a package under its folder's name, with a stand-in for
ComfyUI beside it."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).parent / "standin"
PACK = "lgm_pack"  # any name: the pack's own imports are relative

sys.path.insert(0, str(STANDIN))


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """name -> node class; `pack.module(name)` is a module of the pack."""
    import folder_paths

    folder_paths.models_dir = str(tmp_path_factory.mktemp("models"))
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)

    async def load():
        extension = await module.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    nodes = asyncio.run(load())
    return Pack({node.define_schema().node_id: node for node in nodes})


class Pack(dict):
    @staticmethod
    def module(name: str):
        return importlib.import_module(f"{PACK}.{name}")

    def border(self) -> SimpleNamespace:
        """Every conversion between ComfyUI's types and the library's, by name."""
        names = ("splats", "pictures", "meshes", "cameras")
        modules = [self.module(f"nodes.border.{name}") for name in names]
        return SimpleNamespace(**{k: v for m in modules for k, v in vars(m).items()})

    def run(self, node_id: str, **given):
        """The outputs of a node; what isn't given takes its default, as in the page."""
        return self.output(node_id, **given).args

    def output(self, node_id: str, **given):
        node = self[node_id]
        schema = node.define_schema()
        values = {}
        for entry in schema.inputs:
            if entry.id in given:
                value = given.pop(entry.id)
                if entry.io_type == "COMFY_DYNAMICCOMBO_V3":
                    value = _chosen(entry, value)
            elif "default" in entry.options:
                value = entry.options["default"]
            else:
                assert entry.options.get("optional"), f"{node_id} needs {entry.id}"
                continue
            values[entry.id] = value
        assert not given, f"{node_id} has no input {list(given)}"
        if getattr(schema, "is_input_list", False):
            values = {k: v if isinstance(v, list) else [v] for k, v in values.items()}
        with torch.inference_mode():
            result = node.execute(**values)
        assert len(result.args) == len(schema.outputs)
        return result


def _chosen(entry, value: dict) -> dict:
    """A dynamic combo's value with the defaults of the chosen option filled in."""
    option = next(o for o in entry.options["options"] if o.key == value[entry.id])
    defaults = {e.id: e.options["default"] for e in option.inputs if "default" in e.options}
    return {**defaults, **value}


@pytest.fixture(scope="session")
def views(pack):
    """Four views [4, H, W, 3] of a bundled object, and their masks."""
    return pack.run("LGM_ExampleViews", object="avocado")


@pytest.fixture(scope="session")
def model(pack):
    return pack.run("LGM_LoadModel")[0]


@pytest.fixture(scope="session")
def small_model(pack):
    """A network of 32 px maps that draws the visual hull, nearly, with a corrector that changes it:
    for all that the bundled one's quality is of no matter to."""
    presets, network_of = pack.module("lgm.network.presets"), pack.module("lgm.network.model").LGM
    corrector = presets.Preset(
        down_channels=(32, 32), down_attention=(False, False),
        up_channels=(32, 32), up_attention=(False, False),
        splat_size=32, input_size=32, decoding="correction",
    )  # fmt: skip
    preset = presets.Preset(
        down_channels=(32, 32, 32), down_attention=(False, False, True),
        up_channels=(32, 32), up_attention=(False, False),
        splat_size=32, input_size=64, decoding="hull", poles=True, corrector=corrector,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = network_of(preset).eval()
        for last, std in ((network.conv, 0.02), (network.corrector.conv_out, 2e-4)):
            torch.nn.init.normal_(last.weight, std=std)
            torch.nn.init.zeros_(last.bias)
    network.fast = False
    cpu = torch.device("cpu")
    return pack.module("nodes.model").patcher_of(network, cpu, cpu)


@pytest.fixture(scope="session")
def splat(pack, small_model, views):
    return pack.run("LGM_Reconstruct", model=small_model, views=views[0])[0]
