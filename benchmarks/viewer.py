"""The viewer in ComfyUI's page: how soon it shows a splat, and what two dozen of them cost.

    python benchmarks/viewer.py --comfyui DIR [--python PYTHON] [--viewers 24]

A ComfyUI on the CPU and a headless Chromium that draws in software, for each way of drawing nodes.
The graph makes 65,536 Gaussians of an example object, with the model that is included.

first, next: seconds from the message that the node has run to its picture, in a page that has not
shown any yet, and of another splat in the same page. all: until every one of the viewers, on 400
Gaussians each, has its picture. contexts: of WebGL, that the page has made. idle: CPU seconds a
second of all of Chromium's processes, while nobody touches the page; empty: the same page before,
with an empty graph. Needs the Python package playwright.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgm.io import write_ply
from tests.comfyui.comfyui import Server, find_comfyui, find_python
from tests.comfyui.page import FIT, browser, open_page
from tests.comfyui.prompts import four_views
from tests.comfyui.test_viewer import COUNT_CONTEXTS, FIRST, few, of_file, preview

COUNT = 65_536
RENDERERS = {"classic": False, "HTML": True}
QUIET = 10  # seconds that idle pages are watched

# Notes when the viewer's node has run, and when its next picture is there.
WATCH = f"""() => {{
  const noted = window.lgmNoted = {{ ran: 0, drawn: 0 }};
  const viewer = {FIRST};
  window.app.api.addEventListener('executed', ({{ detail }}) => {{
    if (detail.output?.lgm_preview) Object.assign(noted, {{ ran: performance.now(), drawn: 0 }});
  }});
  new MutationObserver(() => {{
    if (noted.ran) noted.drawn ||= performance.now();
  }}).observe(viewer.element, {{ attributes: true, attributeFilter: ['data-frames'] }});
}}"""
DRAWN = "() => window.lgmNoted.drawn && (window.lgmNoted.drawn - window.lgmNoted.ran) / 1000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--comfyui", type=Path, default=find_comfyui(), help="a checkout of ComfyUI"
    )
    parser.add_argument("--python", help="that has ComfyUI's packages; default: beside it")
    parser.add_argument("--viewers", type=int, default=24)
    args = parser.parse_args()
    if not args.comfyui:
        parser.error("needs --comfyui, or COMFYUI_DIR")
    python = args.python or find_python(args.comfyui)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        ball = base / "input" / "3d" / "ball.ply"
        server = Server(args.comfyui.resolve(), python, base, beside_browser=True)
        ball.parent.mkdir(exist_ok=True)
        ball.write_bytes(write_ply(None, few()))
        server.start()
        try:
            with browser() as chromium:
                print(
                    f"{platform.machine()}, {os.cpu_count()} cores; Chromium {chromium.version}, "
                    f"WebGL in software; {COUNT:,} Gaussians, {args.viewers} viewers\n"
                )
                print(
                    f"{'nodes':10s}{'first s':>9s}{'next s':>9s}{'all s':>9s}{'contexts':>10s}"
                    f"{'idle':>8s}{'empty':>8s}"
                )
                for name, vue in RENDERERS.items():
                    print(f"{name:10s}" + row(chromium, server, vue, args.viewers), flush=True)
        finally:
            server.stop()


def row(chromium, server: Server, vue: bool, viewers: int) -> str:
    first, following = first_frames(chromium, server, vue)
    seconds, contexts, idle, empty = crowd(chromium, server, vue, viewers)
    return f"{first:9.2f}{following:9.2f}{seconds:9.1f}{contexts:10d}{idle:8.2f}{empty:8.2f}"


def first_frames(chromium, server: Server, vue: bool) -> tuple[float, float]:
    """Seconds to the first picture of a page, and to the next splat's."""
    info = server.json("/object_info")
    with open_page(chromium, server, vue) as page:
        page.settle()
        prompt = four_views(info, opacity_threshold=0)
        page.load_prompt(prompt | {"view": preview(info, splat=["splat", 0])})
        page.page.wait_for_selector(".lgm-viewer", state="attached")
        page.page.evaluate(FIT)
        page.page.evaluate(WATCH)
        seconds = []
        for elevation in (0, 1):
            page.page.evaluate(
                """(value) => { window.app.graph.nodes.flatMap((node) => node.widgets ?? [])
                  .find((widget) => widget.name === 'elevation').value = value }""",
                elevation,
            )
            ended = page.run()
            if ended != "success":
                raise RuntimeError(f"The graph has to run, but: {ended}")
            drawn = page.page.wait_for_function(DRAWN, timeout=120_000)
            seconds.append(drawn.json_value())
            page.settle(2000)
        count = page.page.evaluate(f"() => {FIRST}.payload.count")
        if count != COUNT:
            raise RuntimeError(f"The graph has to make {COUNT:,} Gaussians, not {count:,}.")
    return seconds[0], seconds[1]


def crowd(chromium, server: Server, vue: bool, viewers: int) -> tuple[float, int, float, float]:
    """Seconds until all are drawn; contexts; CPU seconds a second, idle, with and without them."""
    info = server.json("/object_info")
    with open_page(chromium, server, vue) as page:
        page.settle(4000)
        page.page.evaluate("() => window.app.graph.clear()")
        empty = cpu_load(chromium, page)
        page.page.evaluate(COUNT_CONTEXTS)
        one = of_file(info)["view"]
        start = time.perf_counter()
        page.load_prompt({str(number): one for number in range(1, viewers + 1)})
        page.page.evaluate(
            "() => window.app.graph.nodes.forEach((node, i) => { node.pos = "
            "[(i % 6) * 520, Math.floor(i / 6) * 800]; })"
        )
        page.page.evaluate(FIT)
        page.page.wait_for_function(
            f"() => document.querySelectorAll('.lgm-viewer[data-frames]').length === {viewers}",
            timeout=300_000,
        )
        seconds = time.perf_counter() - start
        page.settle(4000)
        idle = cpu_load(chromium, page)
        contexts = page.page.evaluate("() => window.lgmContexts.size")
    return seconds, contexts, idle, empty


def cpu_load(chromium, page) -> float:
    """CPU seconds a second of all processes of the browser, as long as nothing happens."""
    session = chromium.new_browser_cdp_session()

    def spent() -> float:
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        return sum(process["cpuTime"] for process in processes)

    before = spent()
    page.settle(1000 * QUIET)
    after = spent()
    session.detach()
    return (after - before) / QUIET


if __name__ == "__main__":
    main()
