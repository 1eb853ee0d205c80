"""ComfyUI's own page in a headless browser: the only thing that knows how a workflow file becomes a
prompt, and the only place where a pack's JavaScript runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .client import Client

# WebGL in software: machines for tests have no GPU.
FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
SIZE = {"width": 1600, "height": 1000}

# What a fresh user folder always gives, with or without a pack: files that don't exist yet, the
# frontend's own complaint, and its search for the models of its default workflow.
EXPECTED_404 = ("/user.css", "/api/userdata", "/favicon.ico")
EXPECTED_ERRORS = ("ComfyApp graph accessed before initialization", "huggingface.co")
# With --disable-api-nodes the page forbids its own 3D view to load the textures of a .glb.
EXPECTED_ERRORS += (
    "Connecting to 'blob:",
    "Fetch API cannot load blob:",
    "THREE.GLTFLoader: Couldn't load texture blob:",
)

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Release.Status": "skipped",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.VueNodes.AutoScaleLayout": False,
    "Comfy.Minimap.Visible": False,
}

READY = "() => window.app?.graph && window.app?.canvas && window.app?.extensionManager"

# Remembers how the run ends; the page itself only shows it.
WATCH = """() => {
  window.lgmTest = { ended: null };
  for (const [event, name] of Object.entries({
    execution_success: 'success', execution_error: 'error', execution_interrupted: 'interrupted',
  })) window.app.api.addEventListener(event, (e) => {
    const why = e.detail?.exception_message;
    window.lgmTest.ended = why ? `${name}: ${why}` : name;
  });
}"""

FIT = """() => {
  const { canvas, graph } = window.app;
  const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  for (const node of [...graph.nodes, ...graph.groups]) for (const axis of [0, 1]) {
    low[axis] = Math.min(low[axis], node.pos[axis] - 40);
    high[axis] = Math.max(high[axis], node.pos[axis] + node.size[axis] + 40);
  }
  const { clientWidth, clientHeight } = canvas.canvas;
  const [left, top] = [60, 100];  // the page's own bars
  const free = [clientWidth - left, clientHeight - top];
  const fits = free.map((length, axis) => length / (high[axis] - low[axis]));
  const scale = Math.min(1, ...fits);
  canvas.ds.scale = scale;
  canvas.ds.offset = [0, 1].map((axis) =>
    ([left, top][axis] + free[axis] / 2) / scale - (low[axis] + high[axis]) / 2);
  canvas.setDirty(true, true);
}"""

CLICKABLE_DOWNLOADS = """() => [...document.querySelectorAll('a[download]')].filter((link) => {
  const { left, top, width, height } = link.getBoundingClientRect();
  return document.elementFromPoint(left + width / 2, top + height / 2) === link;
}).map((link) => link.href.replace(location.origin, ''))"""


class Page:
    """One open page, and what its console and its network have to complain about."""

    def __init__(self, page, url: str):
        self.page, self.url = page, url
        self._problems: list[str] = []
        page.route("**/*", self._stay_home)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._problems.append(f"page error: {error}"))
        page.on("response", self._response)
        page.goto(url, wait_until="domcontentloaded", timeout=120_000)
        page.wait_for_function(READY, timeout=120_000)
        page.evaluate(WATCH)

    def _stay_home(self, route):
        """Nothing may leave this machine."""
        wanted = route.request.url
        if wanted.startswith((self.url, "data:", "blob:")):
            route.continue_()
        else:
            self._problems.append(f"external request: {wanted}")
            route.abort()

    def _console(self, message):
        where = message.location.get("url", "")
        own = where.startswith(f"{self.url}/assets/")
        expected = own and any(text in message.text for text in EXPECTED_ERRORS)
        # A failed request is reported with its address by _response.
        failed = message.text.startswith("Failed to load resource")
        if message.type == "error" and not expected and not failed:
            self._problems.append(f"console: {message.text[:500]} @{where}")

    def _response(self, response):
        expected = any(name in response.url for name in EXPECTED_404)
        if response.status >= 400 and not expected:
            self._problems.append(f"{response.status}: {response.url}")

    def problems(self) -> list[str]:
        """The complaints since they were last asked for."""
        found, self._problems = self._problems, []
        return found

    def extensions(self) -> list[str]:
        """Names of the extensions that the page's scripts have registered."""
        return self.page.evaluate("() => window.app.extensions.map((e) => e.name)")

    def can_make(self, node: str) -> bool:
        """Whether the page manages to make a node of this type; why not, is among the problems."""
        return self.page.evaluate("(type) => !!window.LiteGraph.createNode(type)", node)

    def load(self, workflow: dict) -> None:
        """Opens a UI-format workflow in place of the one shown."""
        self.page.evaluate("(graph) => window.app.loadGraphData(graph, true, true)", workflow)

    def load_prompt(self, prompt: dict) -> None:
        """Opens a prompt in API format in place of the workflow shown; the page lays it out."""
        self.page.evaluate("(prompt) => window.app.loadApiJson(prompt, 'test')", prompt)

    def prompt(self) -> dict:
        """The opened workflow in API format."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def missing_nodes(self) -> list[str]:
        """Types of the opened workflow that no pack of the server knows."""
        return self.page.evaluate(
            "() => window.app.graph.nodes.filter((n) => n.has_errors).map((n) => n.type)"
        )

    def run(self, timeout: float = 300) -> str:
        """Presses Queue; success, interrupted, or why not: "error: ...", "refused: ..."."""
        self.page.evaluate("() => { window.lgmTest.ended = null }")
        with self.page.expect_response(lambda r: r.url.endswith("/prompt")) as posted:
            self.page.evaluate("() => window.app.queuePrompt(0, 1)")
        reply = posted.value.json()
        if reply.get("error") or reply["node_errors"]:
            # In part, perhaps: the rest may run, and end in success.
            return f"refused: {reply.get('error')} {json.dumps(reply['node_errors'])}"
        ended = self.page.wait_for_function("() => window.lgmTest.ended", timeout=timeout * 1000)
        return ended.json_value()

    def settle(self, milliseconds: int = 1500) -> None:
        """Previews are fetched and drawn after the run has ended."""
        self.page.wait_for_timeout(milliseconds)

    def downloads(self) -> list[str]:
        """Paths of the files that the page has links to, as far as one can click them."""
        self.page.evaluate(FIT)
        self.settle(1000)
        return self.page.evaluate(CLICKABLE_DOWNLOADS)

    def shot(self, path: Path) -> None:
        """A picture of the whole graph."""
        self.page.evaluate(FIT)
        self.settle(1000)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, timeout=60_000)


def installed_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browser() -> Iterator:
    """A Chromium of this machine, else playwright's own. Skips the test when there is none."""
    reason = "needs the Python package playwright, and Chromium or Chrome"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch(executable_path=installed_browser(), args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"{reason} ({str(error).splitlines()[0]})")
        yield chromium
        chromium.close()


@contextmanager
def open_page(browser, server: Client, vue: bool, url: str = "") -> Iterator[Page]:
    """`vue`: nodes drawn as HTML ("Nodes 2.0"), or on the classic canvas. `url`: the server's by
    another way than its own."""
    server.fetch("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": vue})
    context = browser.new_context(viewport=SIZE, locale="en")
    yield Page(context.new_page(), url or server.url)
    context.close()  # a page left open goes on drawing its 3D previews
