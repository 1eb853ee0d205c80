"""The viewer in ComfyUI's page: how soon it shows a splat, what two dozen of them cost, and how it
turns a large one.

    python benchmarks/viewer.py --comfyui DIR [--python PYTHON] [--viewers 24] [--only orbit]

A ComfyUI on the CPU and a headless Chromium that draws in software, for each way of drawing nodes.
The graph makes 98,304 Gaussians of an example object, with the model that is included.

first, next: seconds from the message that the node has run to its picture, in a page that has not
shown any yet, and of another splat in the same page. all: until every one of the viewers, on 400
Gaussians each, has its picture. contexts: of WebGL, that the page has made. idle: CPU seconds a
second of all of Chromium's processes, while nobody touches the page; empty: the same page before,
with an empty graph.

Orbit: a .ply of that object, or of as many smaller Gaussians around the same places, is opened in a
node with a picture of `view` CSS pixels, and dragged for three seconds by the mouse. first: seconds
from asking for the file to its picture, the engine being there. frame, worst: milliseconds between
pictures while dragging, median and longest. pixels: width of the last picture of the drag, in part
of the full one. sharp: milliseconds from letting go to the sharp, sorted picture. idle: CPU as
above. heap, buffers: MB of the page's JavaScript with this splat, after a collection, and of its
typed arrays. Needs the Python package playwright.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from viewer_page import enlarged, example

from lgm.io import write_ply
from tests.comfyui.comfyui import Server, find_comfyui, find_python
from tests.comfyui.page import FIT, browser, open_page
from tests.comfyui.prompts import four_views
from tests.comfyui.test_viewer import COUNT_CONTEXTS, FIRST, few, of_file, preview

COUNT = 65_536  # to be turned
MADE = 98_304  # by the graph
RENDERERS = {"classic": False, "HTML": True}
LARGE = 1_000_000
QUIET = 10  # seconds that idle pages are watched
DRAG = 3  # seconds

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


# The drag's pictures: when each was there, and how wide it is.
RECORD = f"""() => {{
  const viewer = {FIRST};
  const noted = window.lgmDrag = [];
  window.lgmRecord = new MutationObserver(() => {{
    noted.push([performance.now(), viewer.canvas.width]);
  }});
  window.lgmRecord.observe(viewer.element, {{ attributeFilter: ['data-frames'] }});
}}"""
# Waits for all that the GPU was given.
GPU = """(viewer) => {
  const gl = viewer.engine.renderer.getContext();
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
}"""
OPEN = f"""async (file) => {{
  const viewer = {FIRST};
  const before = viewer.element.dataset.frames;
  const start = performance.now();
  viewer.state.file = file;
  viewer.settled = viewer.showFile();
  await viewer.idle();
  while (viewer.element.dataset.frames === before) await new Promise((next) => setTimeout(next, 5));
  ({GPU})(viewer);
  return [(performance.now() - start) / 1000, viewer.loaded.splat.item.count, viewer.canvas.width];
}}"""
LET_GO = f"""() => new Promise((done) => window.addEventListener('pointerup', async () => {{
  const start = performance.now();
  await new Promise((next) => setTimeout(next));
  const viewer = {FIRST};
  await viewer.idle();
  ({GPU})(viewer);
  done(performance.now() - start);
}}, {{ capture: true, once: true }}))"""
GRAPHICS = f"""() => {{
  const gl = {FIRST}.engine.renderer.getContext();
  return gl.getParameter(gl.getExtension('WEBGL_debug_renderer_info').UNMASKED_RENDERER_WEBGL);
}}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--comfyui", type=Path, default=find_comfyui(), help="a checkout of ComfyUI"
    )
    parser.add_argument("--python", help="that has ComfyUI's packages; default: beside it")
    parser.add_argument("--viewers", type=int, default=24)
    parser.add_argument("--only", choices=["start", "orbit"], help="one of the two tables")
    args = parser.parse_args()
    if not args.comfyui:
        parser.error("needs --comfyui, or COMFYUI_DIR")
    python = args.python or find_python(args.comfyui)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        server = Server(args.comfyui.resolve(), python, base, beside_browser=True)
        files = base / "input" / "3d"
        files.mkdir(exist_ok=True)
        (files / "ball.ply").write_bytes(write_ply(None, few()))
        if args.only != "start":
            whole = example()
            for count in (COUNT, LARGE):
                (files / f"{count}.ply").write_bytes(write_ply(None, enlarged(whole, count)))
        server.start()
        try:
            with browser() as chromium:
                print(
                    f"{platform.machine()}, {os.cpu_count()} cores; Chromium {chromium.version}, "
                    "WebGL in software"
                )
                if args.only != "orbit":
                    start_table(chromium, server, args.viewers)
                if args.only != "start":
                    orbit_table(chromium, server)
        finally:
            server.stop()


def start_table(chromium, server: Server, viewers: int) -> None:
    print(f"\n{MADE:,} Gaussians, {viewers} viewers\n")
    print(
        f"{'nodes':10s}{'first s':>9s}{'next s':>9s}{'all s':>9s}{'contexts':>10s}"
        f"{'idle':>8s}{'empty':>8s}"
    )
    for name, vue in RENDERERS.items():
        print(f"{name:10s}" + row(chromium, server, vue, viewers), flush=True)


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
        if count != MADE:
            raise RuntimeError(f"The graph has to make {MADE:,} Gaussians, not {count:,}.")
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


@dataclass(frozen=True)
class Orbit:
    """What one file costs in one node; see the table's explanation above."""

    gaussians: int
    view: tuple[int, int]
    first: float
    frames: list[float]  # milliseconds between pictures of the drag
    pixels: float
    sharp: float
    idle: float
    heap: float
    buffers: float


def orbit_table(chromium, server: Server) -> None:
    head = ("frame ms", "worst ms", "pixels", "sharp ms", "idle", "heap MB", "buffers MB")
    is_first = True
    for count in (COUNT, LARGE):
        with open_page(chromium, server, vue=False) as page:
            page.settle()
            page.load_prompt(of_file(server.json("/object_info")))
            page.page.wait_for_selector(".lgm-viewer[data-frames]", state="attached")
            page.page.evaluate(FIT)
            page.settle(500)
            if is_first:
                print(f"\ndrawn by {page.page.evaluate(GRAPHICS)}\n")
                print(
                    f"{'Gaussians':>10s}{'view':>10s}{'first s':>9s}"
                    + "".join(f"{text:>{len(text) + 2}s}" for text in head)
                )
                is_first = False
            one = orbit(chromium, page, count)
        values = (
            *(f"{median(one.frames):.0f}", f"{max(one.frames):.0f}", f"{one.pixels:.2f}"),
            *(f"{one.sharp:.0f}", f"{one.idle:.2f}", f"{one.heap:.0f}", f"{one.buffers:.0f}"),
        )
        view = "{}x{}".format(*one.view)
        print(
            f"{one.gaussians:10,d}{view:>10s}{one.first:9.2f}"
            + "".join(f"{v:>{len(text) + 2}s}" for v, text in zip(values, head, strict=True)),
            flush=True,
        )


def orbit(chromium, page, count: int) -> Orbit:
    """Opens a file in the page's viewer, drags it for a while and lets go."""
    first, gaussians, wide = page.page.evaluate(OPEN, f"3d/{count}.ply")
    page.settle(1000)
    box = page.page.locator(".lgm-canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.evaluate(RECORD)
    mouse = page.page.mouse
    mouse.move(*middle)
    mouse.down()
    start = time.perf_counter()
    while (now := time.perf_counter() - start) < DRAG:
        angle = 2 * math.pi * now / DRAG
        mouse.move(middle[0] + 150 * math.sin(angle), middle[1] + 60 * (1 - math.cos(angle)))
    drag = page.page.evaluate("() => { window.lgmRecord.disconnect(); return window.lgmDrag }")
    page.page.evaluate(f"() => {{ window.lgmLetGo = ({LET_GO})() }}")  # not waited for
    mouse.up()
    sharp = page.page.evaluate("() => window.lgmLetGo")
    page.settle(1000)
    times = [moment for moment, _ in drag]
    session = page.page.context.new_cdp_session(page.page)
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    session.detach()
    return Orbit(
        gaussians=gaussians,
        view=(round(box["width"]), round(box["height"])),
        first=first,
        frames=[b - a for a, b in pairwise(times)] or [1000.0 * DRAG],
        pixels=drag[-1][1] / wide if drag else 1.0,
        sharp=sharp,
        idle=cpu_load(chromium, page),
        heap=usage["usedSize"] / 1e6,
        buffers=usage.get("backingStorageSize", 0) / 1e6,
    )


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
