"""Makes the workflows, their pictures and the blueprints with the page of a running ComfyUI.

    python tools/workflows.py --url http://127.0.0.1:8188 [NAME ...]

They go into example_workflows/ and subgraphs/; NAME makes only that one. The ComfyUI has this pack
in its custom_nodes, and nothing that changes the page. Needs this project's requirements, the
Python package playwright, and an installed Chromium or Chrome. What the workflows are is written in
tools/workflows/graphs.py; the page itself builds them, so that they are what a user would save, and
runs them, so that their pictures show what they make. Workflows that need large model files are not
run; these may be empty files under the right names, and the pictures are sketches.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import uuid
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for lgm

from workflows import thumbnails  # noqa: E402
from workflows.graphs import BLUEPRINTS, WORKFLOWS, Blueprint, Workflow  # noqa: E402

EXAMPLES, SUBGRAPHS = ROOT / "example_workflows", ROOT / "subgraphs"
SCRIPT = ROOT / "tools" / "workflows" / "page.js"

FLAGS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    # Nodes are taller as HTML than on the canvas: a layout that fits the first fits both.
    "Comfy.VueNodes.Enabled": True,
    "Comfy.VueNodes.AutoScaleLayout": False,
}
READY = """() => window.app?.graph && window.app.canvas && window.app.extensionManager
    && LiteGraph.registered_node_types.MarkdownNote"""
SETTLED = 1500  # milliseconds until the page has done what it does late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which workflows; default all")
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument(
        "--no-pictures", dest="pictures", action="store_false", help="don't run the workflows"
    )
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browsers = ("chromium", "chromium-browser", "google-chrome", "chrome")
        path = next(filter(None, map(shutil.which, browsers)), None)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = opened(browser, options.url)
        for blueprint in chosen(BLUEPRINTS, options.names):
            write_json(SUBGRAPHS / f"{blueprint.name}.json", blueprint_file(page, blueprint))
        for workflow in chosen(WORKFLOWS, options.names):
            write_json(EXAMPLES / f"{workflow.name}.json", workflow_file(page, workflow))
            if options.pictures:
                if workflow.name in thumbnails.SKETCHED:
                    picture = thumbnails.SKETCHED[workflow.name]()
                else:
                    picture = thumbnails.DRAWN[workflow.name](ran(page, options.url, workflow))
                path = EXAMPLES / f"{workflow.name}.jpg"
                path.write_bytes(thumbnails.jpeg(picture))
                print(path.relative_to(ROOT))
        browser.close()


def chosen(items: list, names: list[str]) -> list:
    return [item for item in items if not names or item.name in names]


def opened(browser, url: str) -> Page:
    """ComfyUI's page, ready to build in."""
    context = browser.new_context(viewport={"width": 1920, "height": 1080}, locale="en")
    context.request.post(f"{url}/settings", data=SETTINGS)
    page = context.new_page()
    page.goto(url)
    page.wait_for_function(READY, timeout=120_000)
    page.wait_for_timeout(SETTLED)  # the page opens its default workflow late
    return page


def workflow_file(page: Page, workflow: Workflow) -> dict:
    """The workflow as the page saves it."""
    saved = built(page, workflow.spec(), "save")
    saved["id"] = fixed_id(workflow.name)
    return saved


def blueprint_file(page: Page, blueprint: Blueprint) -> dict:
    """The blueprint as the page publishes it: a graph of one node, and what that is made of."""
    saved = built(page, blueprint.spec(), "fold")
    (inside,) = saved["definitions"]["subgraphs"]
    inside |= {"category": blueprint.category, "description": blueprint.description}
    saved["extra"] = {
        "BlueprintDescription": blueprint.description,
        "BlueprintSearchAliases": blueprint.aliases,
    }
    saved["id"] = fixed_id(blueprint.name)
    made_up = [inside["id"], *(socket["id"] for socket in inside["inputs"] + inside["outputs"])]
    text = json.dumps(saved)
    for number, random_id in enumerate(made_up):
        text = text.replace(random_id, fixed_id(f"{blueprint.name}/{number}"))
    return json.loads(text)


def built(page: Page, spec: dict, finish: str) -> dict:
    """What the page's function `finish` makes of the graph that `spec` describes."""
    script = SCRIPT.read_text(encoding="utf-8")
    page.evaluate(f"(spec) => {script}.build(spec)", spec)
    page.wait_for_function(f"() => {script}.measured()")
    page.wait_for_timeout(SETTLED)
    return page.evaluate(f"(spec) => {script}.{finish}(spec)", spec)


def ran(page: Page, url: str, workflow: Workflow) -> thumbnails.Outputs:
    """Runs the workflow that the page shows; gives the files each node has made, by its key.

    Raises:
        RuntimeError: it was refused, or it failed.
    """
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    web = page.context.request
    answer = web.post(f"{url}/prompt", data={"prompt": prompt}).json()
    if answer.get("error") or answer.get("node_errors"):
        raise RuntimeError(f"{workflow.name} is refused: {json.dumps(answer, indent=1)}")
    start, history = time.monotonic(), {}
    while not history:
        time.sleep(0.5)
        history = web.get(f"{url}/history/{answer['prompt_id']}").json()
    (run,) = history.values()
    if run["status"]["status_str"] != "success":
        raise RuntimeError(f"{workflow.name} failed: {json.dumps(run['status'], indent=1)}")
    print(f"{workflow.name}: {time.monotonic() - start:.1f} s")
    ids = {key: str(number) for number, key in enumerate(workflow.spec()["nodes"], start=1)}

    def outputs(key: str) -> list[bytes]:
        kinds = run["outputs"][ids[key]]
        shown = [kinds[kind] for kind in ("images", "3d") if kind in kinds]
        return [web.get(f"{url}/view", params=file).body() for files in shown for file in files]

    return outputs


def fixed_id(name: str) -> str:
    """The page makes up new ids every time: files that say the same shall be the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"lgm-splats/{name}"))


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
