"""The viewer on a GPU: how smoothly a browser without a window turns a splat, dragged by the mouse.

    python benchmarks/viewer_page.py [--chromium PATH] [--counts 65536 1000000] [--out DIR]

The pack's own viewer (web/viewer, web/vendor) in a bare page, with a picture of 900 x 700 pixels.
The splats: an example object by the model that is included, as so many smaller Gaussians around the
same places. Each is opened in a browser of its own and dragged twice, for six seconds.

pace: 60 Hz is what a user has, with an event of the mouse every 8 ms; free is as fast as it goes,
without a limit of frames, with an event every ms. At most four events wait for the page's answer.
drag: the first, and the second with all warm. frame, 95 %, worst: ms between pictures while
dragging, median, 95th percentile and longest. GPU: ms of drawing a picture by the GPU's own clock,
median; – where the browser has no timer queries. sort: ms from asking for a new order of the
Gaussians to having it, median; pictures don't wait for it. sharp: ms from letting go to the sharp,
sorted picture. first: ms from asking for the file to its sorted picture, the engine being there.
scale: width of the drag's smallest picture, in part of the full one.

The JSON of --out has more of their spread, and that of page_ms, between frames of the page, and of
gpu_update_ms, which the GPU takes to prepare a sorting. Linux and macOS; needs no other package.
"""

from __future__ import annotations

import argparse
import base64
import functools
import itertools
import json
import math
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from lgm import load_model
from lgm.gaussians import Gaussians
from lgm.io import write_ply
from lgm.pictures.views import example_objects, view_files
from lgm.pipeline import reconstruct_files

BROWSERS = ("chrome-headless-shell", "chromium", "google-chrome")
FLAGS = """
--headless --no-sandbox --remote-debugging-pipe --no-first-run --disable-extensions
--disable-dev-shm-usage --disable-background-networking --disable-component-update
--disable-background-timer-throttling --disable-renderer-backgrounding
--disable-backgrounding-occluded-windows --mute-audio --disable-breakpad --disable-gpu-watchdog
--ignore-gpu-blocklist --enable-gpu --enable-gpu-rasterization --hide-scrollbars
--window-size=1000,860 --force-device-scale-factor=1 --no-proxy-server
"""
ANGLE = {
    "gl-egl": "--use-gl=angle --use-angle=gl-egl",
    "vulkan": "--use-gl=angle --use-angle=vulkan --enable-features=Vulkan --disable-vulkan-surface",
    "default": "",
}
SOFTWARE = r"swiftshader|llvmpipe|softpipe"

OBJECT = "fox"
SMALL = 400  # Gaussians of the splat that is opened first
DRAG = 6  # seconds
TURN = 3  # seconds that the mouse takes for its ellipse
PACES = {  # seconds from one event of the mouse to the next, and what Chromium is told
    "60 Hz": (0.008, ""),
    "free": (0.001, "--disable-frame-rate-limit --disable-gpu-vsync"),
}
AHEAD = 4  # events without an answer; a system folds those that a page is too slow for
ANSWER, PAGE = 30, 180  # seconds that the browser and the page may take

# Chromium takes commands from its file 3 and answers in 4, whatever these are here.
LAUNCH = """import os, sys
commands, answers, *chromium = sys.argv[1:]
os.dup2(int(commands), 3)
os.dup2(int(answers), 4)
os.execv(chromium[0], chromium)"""

HTML = """<!doctype html>
<meta charset="utf-8">
<body style="background: #ccc">
<div id="place" style="position: absolute; left: 10px; top: 10px; width: 902px"></div>
"""
LOADED = """new Promise((done) =>
  document.readyState === "complete" ? done() : addEventListener("load", () => done()))"""
RENDERER = """(() => {
  const gl = document.createElement("canvas").getContext("webgl2")
  return gl?.getParameter(gl.getExtension("WEBGL_debug_renderer_info").UNMASKED_RENDERER_WEBGL)
})()"""

HEAD = "| Gaussians | pace | drag | frame | 95 % | worst | GPU | sort | sharp | first | scale |"


class Failed(Exception):
    """The browser does not do what it has to; says why, in a sentence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chromium", default=next(filter(shutil.which, BROWSERS), ""))
    parser.add_argument("--counts", type=int, nargs="+", default=[65_536, 1_000_000])
    parser.add_argument("--angle", nargs="+", choices=ANGLE, default=ANGLE, help="tried in turn")
    parser.add_argument("--software", action="store_true", help="WebGL without a GPU will do")
    parser.add_argument("--out", type=Path, help="folder for results.json and pictures of the page")
    args = parser.parse_args()
    chromium = shutil.which(args.chromium)
    if not chromium:
        parser.error(f"needs a Chromium: --chromium PATH, or {' or '.join(BROWSERS)} in PATH")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # browsers end too
    try:
        backend = choose(chromium, args.angle, args.software)
        measure_all(chromium, backend, args.counts, args.out)
    except Failed as error:
        sys.exit(str(error))


def choose(chromium: str, backends: Iterable[str], software: bool) -> dict[str, Any]:
    """The first of ANGLE's backends that draws on a GPU: its flags, and who draws."""
    found = []
    for name in backends:
        flags = [*ANGLE[name].split(), *(["--enable-unsafe-swiftshader"] if software else [])]
        try:
            with closing(Browser(chromium, flags)) as browser:
                browser.open("about:blank")
                renderer = browser.evaluate(RENDERER) or ""
                version = browser.call("Browser.getVersion")["product"]
        except Failed as error:
            found.append(f"{name}: {error}")
            continue
        if renderer and (software or not re.search(SOFTWARE, renderer, re.IGNORECASE)):
            return {"chromium": version, "renderer": renderer, "flags": flags}
        found.append(f"{name}: {renderer or 'no WebGL 2'}")
    raise Failed(f"needs WebGL 2 on a GPU, or --software; {'; '.join(found)}")


def measure_all(
    chromium: str, backend: dict[str, Any], counts: list[int], out: Path | None
) -> None:
    """Prints the table row by row, and keeps the rows and pictures in `out`."""
    print(f"{platform.machine()}, {os.cpu_count()} cores; {backend['chromium']}")
    print(f"{backend['renderer']}\n\n{HEAD}\n|{'---:|' * HEAD.count(' | ')}---:|", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as address:
        write_splats(Path(folder), {SMALL, *counts})
        for pace, count in itertools.product(PACES, counts):
            flags = [*backend["flags"], *PACES[pace][1].split()]
            with closing(Browser(chromium, flags)) as browser:
                row, picture = measure(browser, address, count, pace)
            rows.append(row)
            print("\n".join(lines(row)), flush=True)
            if out:
                out.mkdir(parents=True, exist_ok=True)
                (out / f"{count}-{pace.replace(' ', '')}.png").write_bytes(picture)
                (out / "results.json").write_text(json.dumps({**backend, "rows": rows}, indent=1))


def measure(browser: Browser, address: str, count: int, pace: str) -> tuple[dict[str, Any], bytes]:
    """What one splat costs, see above, and a picture of the page with it."""
    try:
        browser.open(address)
        opened = browser.page(f"open({count})")
        time.sleep(1)
        drags = []
        for _ in range(2):
            drag(browser, opened["box"], PACES[pace][0])
            drags.append(browser.page("result()"))
            time.sleep(0.3)
        picture = base64.b64decode(browser.call("Page.captureScreenshot")["data"])
    except Failed as error:
        raise Failed(f"{count:,} Gaussians, {pace}: {error}") from None
    first = opened["first_ms"]
    return {"gaussians": count, "pace": pace, "first_ms": first, "drags": drags}, picture


def drag(browser: Browser, box: list[float], every: float) -> None:
    """Leads the picture's middle around an ellipse with the mouse, and lets go."""
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2

    def mouse(kind: str, now: float, **more: Any) -> int:
        angle = 2 * math.pi * now / TURN
        place = {"x": x + 150 * math.sin(angle), "y": y + 60 * (1 - math.cos(angle))}
        return browser.send("Input.dispatchMouseEvent", type=kind, **place, **more)

    browser.reply(mouse("mouseMoved", 0))
    browser.reply(mouse("mousePressed", 0, button="left", buttons=1, clickCount=1))
    browser.page("record()")
    waiting: list[int] = []
    start = time.perf_counter()
    while (now := time.perf_counter() - start) < DRAG:
        browser.listen(0)
        waiting = [number for number in waiting if number not in browser.replies]
        if len(waiting) < AHEAD:
            waiting.append(mouse("mouseMoved", now, button="left", buttons=1))
        passed = time.perf_counter() - start
        time.sleep(every * math.ceil(passed / every + 1e-6) - passed)
    for number in waiting:
        browser.reply(number)
    browser.page("letGo()")
    browser.reply(mouse("mouseReleased", now, button="left", buttons=0, clickCount=1))


def lines(row: dict[str, Any]) -> Iterator[str]:
    """Of the table, one a drag."""
    for number, one in enumerate(row["drags"], 1):
        times = [one["picture_ms"][key] for key in ("median", "p95", "worst")]
        times += [one["gpu_ms"]["median"], one["sort_ms"]["median"], one["sharp_ms"]]
        texts = ["–" if ms is None else f"{ms:.1f}" for ms in [*times, row["first_ms"]]]
        yield " | ".join(
            [f"| {row['gaussians']:,}", row["pace"], str(number), *texts, f"{one['scale']:.2f} |"]
        )


class Browser:
    """A Chromium without a window and one page of it, by the DevTools protocol over two pipes."""

    def __init__(self, chromium: str, flags: list[str]):
        self.profile = Path(tempfile.mkdtemp(prefix="viewer_page_"))
        commands, self.write_end = os.pipe()
        self.read_end, answers = os.pipe()
        launch = [sys.executable, "-c", LAUNCH, str(commands), str(answers), chromium]
        profile = f"--user-data-dir={self.profile / 'profile'}"
        with (self.profile / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*launch, *FLAGS.split(), *flags, profile, "about:blank"],
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log},
                pass_fds=(commands, answers),
                start_new_session=True,  # so that all of its processes can be ended
            )
        os.close(commands)
        os.close(answers)
        self.session = ""
        self.sent, self.heard = 0, b""
        self.replies: dict[int, dict[str, Any]] = {}

    def close(self) -> None:
        with suppress(Failed, subprocess.TimeoutExpired):
            self.send("Browser.close")
            self.process.wait(3)
        for _ in range(2):  # again for what was being started
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            time.sleep(0.1)
        self.process.wait()
        os.close(self.write_end)
        os.close(self.read_end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def open(self, address: str) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        size = {"width": 1000, "height": 860, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=address)
        self.evaluate(LOADED)

    def page(self, call: str) -> Any:
        """What a function of viewer_page.mjs returns."""
        return self.evaluate(f'import("/viewer_page.mjs").then((page) => page.{call})', PAGE)

    def evaluate(self, code: str, seconds: float = ANSWER) -> Any:
        wanted = {"expression": code, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", seconds, **wanted)
        if details := answer.get("exceptionDetails"):
            text = details.get("exception", {}).get("description") or details["text"]
            raise Failed(f"in the page, {text.splitlines()[0]}")
        return answer["result"].get("value")

    def call(self, method: str, seconds: float = ANSWER, **params: Any) -> dict[str, Any]:
        return self.reply(self.send(method, **params), seconds)

    def send(self, method: str, **params: Any) -> int:
        """Number of the command, by which its reply is known."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self.session
        try:  # at once: it is less than the 4 kB that a pipe takes whole
            os.write(self.write_end, json.dumps(message).encode() + b"\0")
        except OSError:
            raise self.ended() from None
        return self.sent

    def reply(self, number: int, seconds: float = ANSWER) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while number not in self.replies:
            if (left := end - time.monotonic()) <= 0:
                raise Failed(f"the browser gave no answer within {seconds} s")
            self.listen(left)
        message = self.replies.pop(number)
        if "error" in message:
            raise Failed(f"the browser refuses: {message['error']['message']}")
        return message["result"]

    def listen(self, seconds: float) -> None:
        """Takes in what the browser has to say; waits for it so long at most."""
        if not select.select([self.read_end], [], [], seconds)[0]:
            return
        part = os.read(self.read_end, 1 << 20)
        if not part:
            raise self.ended()
        *whole, self.heard = (self.heard + part).split(b"\0")
        self.replies |= {one["id"]: one for one in map(json.loads, whole) if "id" in one}

    def ended(self) -> Failed:
        last = (self.profile / "log").read_text(errors="replace").strip().splitlines()[-1:]
        return Failed(f"the browser ended ({''.join(last)[:200]})")


class Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # else large files go to the disk as well
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read())  # at once: the first picture waits for it

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of the page, beside which is what lies in the folder."""
    (folder / "index.html").write_text(HTML)
    here = Path(__file__).resolve()
    for path in (here.parents[1] / "web", here.with_suffix(".mjs")):
        (folder / path.name).symlink_to(path)
    handler = functools.partial(Files, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def write_splats(folder: Path, counts: set[int]) -> None:
    """<count>.ply of the example."""
    whole = example()
    for count in counts:
        write_ply(folder / f"{count}.ply", enlarged(whole, count))


def example() -> Gaussians:
    """An example object, by the model that is included."""
    with torch.inference_mode():
        whole = reconstruct_files(load_model("demo"), view_files(example_objects()[OBJECT]))
    return whole.visible()


def enlarged(gaussians: Gaussians, count: int) -> Gaussians:
    """Much the same splat of so many Gaussians, which together cover about the same area."""
    copies = math.ceil(count / gaussians.count)
    many = {name: x.repeat_interleave(copies, dim=1) for name, x in gaussians.tensors().items()}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(many["positions"].shape, generator=generator)
    many["positions"] = many["positions"] + 0.5 * many["scales"] * noise
    many["scales"] = many["scales"] / math.sqrt(copies)
    chosen = torch.randperm(many["positions"].shape[1], generator=generator)[:count]
    return Gaussians(**many).select(chosen)


if __name__ == "__main__":
    main()
