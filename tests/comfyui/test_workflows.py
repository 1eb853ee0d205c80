"""Every example workflow, and every one an earlier version had, through the API and in the page."""

import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from .comfyui import ROOT
from .page import open_page
from .prompts import saved
from .test_nodes import NODES
from .workflows import (
    BLUEPRINTS,
    EXAMPLES,
    KEPT,
    SAVED,
    essence,
    keep,
    label,
    models_of,
    read,
    twin,
    version,
)

RENDERERS = {"classic": False, "vue": True}

# Gives the one node on the page, a blueprint, a picture for each IMAGE input; saves its splat.
WIRE = """() => {
  const { graph } = window.app;
  const [blueprint] = graph.nodes;
  const make = (type) => {
    const node = window.LiteGraph.createNode(type);
    graph.add(node);
    return node;
  };
  const views = make('LGM_ExampleViews');
  const pictures = blueprint.inputs.filter((input) => input.type === 'IMAGE');
  pictures.forEach((input, index) => {
    const one = make('ImageFromBatch');
    one.widgets.find((widget) => widget.name === 'batch_index').value = index;
    views.connect(0, one, 0);
    one.connect(0, blueprint, blueprint.inputs.indexOf(input));
  });
  const splat = blueprint.outputs.findIndex((output) => output.type === 'SPLAT');
  blueprint.connect(splat, make('LGM_SaveSplat'), 0);
}"""


@pytest.fixture(scope="module", autouse=True)
def models(with_models):
    """Every test here runs where no model is missing, if it doesn't start a server of its own."""


@pytest.fixture(scope="module", params=RENDERERS)
def renderer(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(chromium, server, object_info, renderer):
    with open_page(chromium, server, vue=RENDERERS[renderer]) as opened:
        yield opened


@pytest.fixture(scope="module")
def page_without_models(chromium, start_server):
    with open_page(chromium, start_server(), vue=True) as opened:
        opened.settle(4000)  # it opens its default workflow late
        yield opened


def finished(server, object_info, prompt):
    """Runs a prompt to its end; every output node of it must have had its turn."""
    run = server.run(prompt)
    assert run.status == "success", run.reasons()
    assert not run.node_errors, run.reasons()
    ends = {key for key, node in prompt.items() if object_info[node["class_type"]]["output_node"]}
    assert ends <= {*run.executed, *run.cached}
    assert ends & run.outputs.keys()


def test_this_version_keeps_all_its_workflows():
    kept = {path.name for path in SAVED if path.parent.name == version()}
    assert EXAMPLES, "example_workflows/ is empty"
    assert kept == {path.name for path in EXAMPLES}


@pytest.mark.parametrize("workflow", SAVED, ids=label)
def test_workflow_runs_through_the_api(server, object_info, workflow):
    finished(server, object_info, read(twin(workflow)))


def test_page_opens_with_the_scripts_of_the_pack(page):
    page.settle()
    assert not page.problems()
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "web").rglob("*.js")]
    named = re.findall(r"""registerExtension\(\{\s*name: ["'](.+?)["']""", "\n".join(scripts))
    assert named
    assert set(named) <= set(page.extensions())


@pytest.mark.parametrize("node", sorted(NODES))
def test_page_makes_every_node(page, node):
    assert page.can_make(node), page.problems()
    assert not page.problems()


def test_page_links_to_the_saved_file(server, page, object_info):
    page.problems()  # of the test before, if it failed
    page.load_prompt(saved(object_info))
    assert page.run() == "success"
    page.settle()
    (path,) = page.downloads()
    assert server.fetch(path)[1].startswith(b"ply\n")
    assert not page.problems()


@pytest.mark.parametrize("workflow", EXAMPLES, ids=label)
def test_workflow_runs_in_the_page(server, page, renderer, shots, workflow):
    if not models_of(read(workflow)):  # else minutes of work, seen through the API
        server.forget()
    page.problems()  # of the test before, if it failed
    page.load(read(workflow))
    page.settle()
    assert not page.missing_nodes()
    prompt = page.prompt()
    assert page.run() == "success"
    page.settle(4000)
    page.shot(shots / f"{workflow.stem} ({renderer}).png")
    assert not page.problems()
    if os.environ.get("COMFYUI_KEEP_WORKFLOWS"):
        keep(workflow, prompt)
    kept = KEPT / version() / workflow.name
    assert read(workflow) == read(kept), f"{workflow.name} changed: see docs/testing.md"
    assert essence(prompt) == essence(read(twin(kept)))


@pytest.mark.parametrize(
    "workflow", [path for path in EXAMPLES if models_of(read(path))], ids=label
)
def test_missing_models_are_offered(page_without_models, shots, workflow):
    """With their addresses, as the page's own list of them shows."""
    page = page_without_models
    models = models_of(read(workflow))
    page.load(read(workflow))
    page.settle()
    page.page.get_by_text("Show missing models").click()
    page.settle()
    page.page.screenshot(path=shots / f"{workflow.stem} (missing).png")
    assert page.page.get_by_text(f"Missing Models ({len(models)})").count() == 1
    for path in models:
        assert page.page.get_by_title(path.split("/")[1]).count(), path
    assert page.page.get_by_text("Download", exact=True).count() == len(models)


def test_saved_mesh_is_shown_in_its_colors(chromium, start_server, shots):
    """As ComfyUI starts by itself. With --disable-api-nodes the page forbids itself textures."""
    prompt = read(twin(KEPT / version() / "Four Views to Textured Mesh.json"))
    inputs = {node["class_type"]: node["inputs"] for node in prompt.values()}
    inputs["LGM_ExampleViews"]["object"] = "fox"
    inputs["LGM_SplatToMesh"] |= {"faces": 3004, "resolution": 64}
    inputs["LGM_BakeSplatTexture"] |= {"size": 256, "views": 6}
    (save,) = (key for key, node in prompt.items() if node["class_type"] == "SaveGLB")
    with open_page(chromium, start_server(api_nodes=True, beside_browser=True), vue=True) as page:
        page.settle(4000)  # it opens its default workflow late
        page.load_prompt(prompt)
        assert page.run() == "success"
        page.settle(4000)
        page.shot(shots / "Textured mesh.png")
        view = page.page.locator(f'[data-node-id="{save}"] canvas').first.screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(view)).convert("RGB")).astype(int)
    red, _, blue = pixels.reshape(-1, 3).T
    assert (red - blue > 60).mean() > 0.01  # the fox is orange; of the view's axes one is red


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=label)
def test_blueprint_makes_a_splat(page, renderer, shots, blueprint):
    page.problems()  # of the test before, if it failed
    page.load(read(blueprint))
    page.page.evaluate(WIRE)
    assert page.run() == "success"
    page.settle()
    page.shot(shots / f"{blueprint.stem} ({renderer}).png")
    assert not page.problems()
