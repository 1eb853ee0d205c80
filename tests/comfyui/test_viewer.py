"""The viewer in ComfyUI's page: what it shows, what it sends to the graph, what it survives."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lgm.gaussians import Gaussians
from lgm.io import read_splat_file, write_ply, write_splat_file
from lgm.render import render

from .page import FIT, open_page
from .prompts import four_views, node
from .proxy import behind_proxy

SIDE = 256  # pixels: software GL draws about one of these a second
CROWD = 24
RENDERERS = {"classic": False, "vue": True}

VIEWERS = """() => window.app.canvas.graph.nodes.flatMap((n) =>
  n.widgets?.find((w) => w.viewer)?.viewer ?? [])"""
FIRST = f"({VIEWERS})()[0]"

# Counts the graphics contexts that the page asks for from now on.
COUNT_CONTEXTS = """() => {
  window.lgmContexts = new Set();
  const before = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    const context = before.call(this, kind, ...rest);
    if (context && String(kind).startsWith('webgl')) window.lgmContexts.add(context);
    return context;
  };
}"""

LOADED = "() => performance.getEntriesByType('resource').map((e) => [e.name, e.decodedBodySize])"
SERIALIZED = "() => JSON.parse(JSON.stringify(window.app.graph.serialize()))"
COMMAND = "window.app.extensionManager.command.execute"
PAUSE = "await new Promise((done) => setTimeout(done, 300))"

BASE64 = """(blob) => new Promise((done) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(',')[1]);
  reader.readAsDataURL(blob);
})"""

DROP = """async ([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  const event = { bubbles: true, cancelable: true, dataTransfer: data };
  document.querySelector('.lgm-viewer').dispatchEvent(new DragEvent('drop', event));
}"""


class Viewer:
    """One of the viewers of a page, by default the first."""

    def __init__(self, page, index=0):
        self.page, self.index = page, index

    def js(self, code):
        """Runs code with `v`, the viewer, and waits for its picture."""
        return self.page.page.evaluate(
            f"""async () => {{
              const v = ({VIEWERS})()[{self.index}];
              const work = async () => {{
                const result = await (async () => {{ {code} }})();
                await v.idle();
                return result;
              }};
              const late = new Promise((_, fail) => setTimeout(() => fail('late'), 60_000));
              return Promise.race([work(), late]);
            }}"""
        )

    def wait(self, state="ready"):
        path = f'.lgm-viewer[data-state="{state}"]'
        self.page.page.wait_for_selector(path, state="attached", timeout=60_000)
        self.js("")

    def canvas(self):
        """What is on the screen, RGBA [H, W, 4], 0..1."""
        return pixels(self.js("return v.canvas.toDataURL().split(',')[1]"))

    def picture(self):
        """What "Save picture" saves."""
        return pixels(self.js(f"return ({BASE64})(await v.picture())"))

    def click(self, name):
        self.page.page.locator(f'.lgm-viewer [data-tool="{name}"]').first.click()

    def drag(self, selector, x, y):
        """Pixels of the screen from the middle of an element."""
        box = self.page.page.locator(f".lgm-viewer {selector}").first.bounding_box()
        mouse = self.page.page.mouse
        start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse.move(*start)
        mouse.down()
        mouse.move(start[0] + x, start[1] + y)
        mouse.up()
        self.js("")


def pixels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA")) / 255


def on_white(rgba):
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def psnr(a, b):
    return -10 * math.log10(max(((a - b) ** 2).mean(), 1e-10))


def drawn(gaussians, camera, height, width):
    """The library's picture, [H, W, 3], of what a viewer's camera sees; its angle is the shorter
    side's."""
    names = ("position", "target", "quaternion")
    position, _, q = ([camera[name][axis] for axis in sorted(camera[name])] for name in names)
    w, x, y, z = q  # sorted: w comes first
    c2w = torch.eye(4)
    c2w[:3, 3] = torch.tensor(position)
    c2w[:3, :3] = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    half = math.tan(math.radians(camera["fov"]) / 2) * height / min(height, width)
    fovy = math.degrees(2 * math.atan(half))
    out = render(gaussians, c2w[None], (height, width), fovy, torch.ones(3))
    return out.images[0, 0].movedim(0, -1).clamp(0, 1).numpy()


def few(count=400, seed=0):
    """A ball of colored Gaussians, small enough to be drawn two dozen times."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(1, count, *shape, generator=generator)

    return Gaussians(
        positions=0.4 * torch.nn.functional.normalize(uniform(3) - 0.5, dim=-1),
        opacities=0.3 + 0.7 * uniform(1),
        scales=0.02 + 0.05 * uniform(3),
        rotations=torch.nn.functional.normalize(uniform(4) - 0.5, dim=-1),
        colors=uniform(3),
    )


@pytest.fixture(scope="module")
def ball(server):
    """A .ply in the server's input folder."""
    path = server.base / "input" / "3d" / "ball.ply"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_ply(None, few()))
    return path


def preview(object_info, **inputs):
    return node(object_info, "LGM_PreviewSplat", width=SIDE, height=SIDE, **inputs)


def of_file(object_info, **state):
    """A viewer of the ball."""
    return {"view": preview(object_info, viewer={"version": 1, "file": "3d/ball.ply", **state})}


def show(page, prompt):
    page.problems()  # of the test before, if it failed
    page.load_prompt(prompt)
    page.page.wait_for_selector(".lgm-viewer", state="attached")
    page.page.evaluate(FIT)
    page.settle(300)
    return Viewer(page)


@pytest.fixture(scope="module")
def classic(chromium, server, object_info):
    with open_page(chromium, server, vue=False) as opened:
        opened.settle()
        yield opened


def test_page_without_a_viewer_loads_nothing_of_it(classic):
    ours = [(name, size) for name, size in classic.page.evaluate(LOADED) if "LGM" in name]
    scripts = [(name, size) for name, size in ours if "/web/" in name or ".js" in name]
    assert scripts
    assert not [name for name, _ in ours if "viewer" in name]
    assert sum(size for _, size in scripts) <= 15_000


@pytest.mark.parametrize("renderer", RENDERERS)
def test_splat_is_shown_cropped_and_given_back(
    chromium, server, object_info, renderer, shots, tell
):
    with open_page(chromium, server, vue=RENDERERS[renderer]) as page:
        page.settle()
        prompt = four_views(object_info) | {
            "view": preview(object_info, splat=["splat", 0]),
            "save": node(object_info, "LGM_SaveSplat", splat=["view", 0], filename_prefix="viewed"),
            "image": node(object_info, "PreviewImage", images=["view", 1]),
        }
        prompt["views"]["inputs"]["object"] = "fox"
        viewer = show(page, prompt)
        assert page.run() == "success"
        viewer.wait()

        # The same camera shows the same in the library.
        viewer.js("v.lookFrom([120, 20])")
        state = viewer.js("return v.promptValue()")
        shown = viewer.js("return v.payload")
        gaussians = read_gaussians(server, shown["splat"])
        canvas = on_white(viewer.canvas())
        height, width = canvas.shape[:2]
        likeness = psnr(canvas, drawn(gaussians, state["camera"], height, width))
        tell(f"viewer against the library's renderer, {renderer}: {likeness:.1f} dB")
        assert likeness > 40

        # A crop by its handle reaches the graph, and the camera stays.
        viewer.click("crop")
        viewer.drag('[data-side="+Z"]', *toward(page, "+Z", "-Z"))
        edit = viewer.js("return v.state.edit")
        assert edit["crop"]["size"][2] < 0.8 * shown["extent"]["size"][2]
        page.shot(shots / f"Viewer, crop ({renderer}).png")
        viewer.click("crop")
        assert page.run() == "success"
        viewer.wait()
        assert viewer.js("return v.promptValue()")["camera"] == state["camera"]
        outputs = page.page.evaluate("() => window.app.nodeOutputs")
        (saved,) = (f for o in outputs.values() for f in o.get("lgm_files", []))
        left = read_gaussians(server, saved)
        kept = viewer.js("return v.payload.count_kept")
        assert left.count == kept < gaussians.count
        assert f"{kept:,} of {gaussians.count:,}" in viewer.js("return v.facts.textContent")
        low = edit["crop"]["center"][2] - edit["crop"]["size"][2] / 2
        high = edit["crop"]["center"][2] + edit["crop"]["size"][2] / 2
        z = left.positions[0, :, 2]
        assert low - 1e-3 <= z.min() and z.max() <= high + 1e-3

        # The node's picture is the cropped splat from the viewer's camera.
        (image,) = (f for o in outputs.values() for f in o.get("images", []))
        given = np.asarray(Image.open(io.BytesIO(server.download(image))).convert("RGB")) / 255
        assert given.shape == (SIDE, SIDE, 3)
        assert psnr(on_white(viewer.picture()), given) > 40
        page.shot(shots / f"Viewer ({renderer}).png")
        assert not page.problems()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_viewer_works_behind_a_reverse_proxy(chromium, server, object_info, ball, renderer):
    """Under a path of another server: nothing of ours may ask for anything outside of it."""
    with (
        behind_proxy(server.port, "/studio/comfy") as url,
        open_page(chromium, server, RENDERERS[renderer], url) as page,
    ):
        asked = []
        page.page.on("request", lambda request: asked.append(request.url))
        page.settle()
        prompt = four_views(object_info) | {
            "view": preview(object_info, splat=["splat", 0]),
            "image": node(object_info, "PreviewImage", images=["view", 1]),
        }
        viewer = show(page, prompt)
        assert page.run() == "success"
        viewer.wait()
        assert viewer.js("return v.loaded.splat.item.count") > 1000
        assert on_white(viewer.canvas()).min() < 0.5  # there is an object in the picture
        viewer.click("crop")
        assert page.run() == "success"
        ours = [name for name in asked if "LGM" in name or "filename=" in name]
        assert any(name.endswith("/viewer/engine.mjs") for name in ours)
        assert any("filename=" in name for name in ours)
        assert all(name.startswith(f"{url}/") for name in ours)
        # The page itself asks for the pictures of its progress icon at the server's root.
        assert not [text for text in page.problems() if "/assets/images/favicon" not in text]


def toward(page, from_side, to_side, part=0.4):
    """Pixels for a part of the way from one handle to another."""
    boxes = (
        page.page.locator(f'.lgm-viewer [data-side="{side}"]').bounding_box()
        for side in (from_side, to_side)
    )
    start, end = ((box["x"], box["y"]) for box in boxes)
    return [part * (b - a) for a, b in zip(start, end, strict=True)]


def read_gaussians(server, file):
    path = server.base / file["filename"]
    path.write_bytes(server.download(file))
    return read_splat_file(path)


def test_picture_as_seen_reaches_the_graph(classic, server, object_info, ball):
    prompt = of_file(object_info, look={"mode": "normal"})
    prompt["view"]["inputs"]["picture"] = "as seen"
    prompt["image"] = node(object_info, "PreviewImage", images=["view", 1])
    viewer = show(classic, prompt)
    viewer.wait()
    seen = viewer.picture()
    assert classic.run() == "success"
    viewer.js("")
    first, again = viewer.js("return Promise.all([v.promptValue(), v.promptValue()])")
    assert first["seen"] == again["seen"]  # else the graph would compute everything again
    outputs = classic.page.evaluate("() => window.app.nodeOutputs")
    (image,) = (f for o in outputs.values() for f in o.get("images", []))
    given = np.asarray(Image.open(io.BytesIO(server.download(image))).convert("RGB")) / 255
    assert psnr(on_white(seen), given) > 40
    assert not classic.problems()


def test_looking_around_in_another_way_computes_nothing_again(classic, object_info, ball):
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    before = viewer.js("return v.promptValue()")
    viewer.js("v.setLook({ mode: 'depth', scale: 0.5, opacity_cut: 0.2, wipe: 0.3 })")
    assert viewer.js("return v.promptValue()") == before
    viewer.js("v.setLook({ background: '#204060' })")
    assert viewer.js("return v.promptValue()") != before


def test_workflow_keeps_everything_and_reset_forgets_it(classic, object_info, ball):
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    viewer.js(
        "v.lookFrom([30, 40]); v.toggleCrop(); v.setEdit({ min_opacity: 0.5, max_scale: 0.06 });"
        "v.setLook({ mode: 'points', background: 'checker', scale: 0.7 })"
    )
    saved = viewer.js("return v.saved()")
    picture = viewer.picture()
    workflow = classic.page.evaluate(SERIALIZED)
    viewer.js("v.reset()")
    reset = viewer.js("return v.saved()")
    assert (reset["camera"], reset["edit"]["crop"], reset["look"]["mode"]) == (None, None, "splat")
    classic.load(workflow)
    viewer.wait()
    assert viewer.js("return v.saved()") == saved
    assert psnr(viewer.picture(), picture) > 60
    assert not classic.problems()


def test_last_result_is_shown_when_a_workflow_is_opened_again(classic, server, object_info, ball):
    viewer = show(classic, of_file(object_info))
    assert classic.run() == "success"
    viewer.wait()
    workflow = classic.page.evaluate(SERIALIZED)
    classic.load(workflow)
    viewer.wait()
    assert viewer.js("return v.payload.count") == few().count


@pytest.mark.parametrize("suffix", ["ply", "splat", "spz", "glb"])
def test_dropped_file_is_shown_and_becomes_the_input(
    classic, server, object_info, tmp_path, suffix
):
    viewer = show(classic, {"view": preview(object_info)})
    viewer.wait("empty")
    content = write_splat_file(tmp_path / f"dropped.{suffix}", few(count=123, seed=1))
    classic.page.evaluate(DROP, [base64.b64encode(content).decode(), f"dropped.{suffix}"])
    viewer.wait()
    assert "123 Gaussians" in viewer.js("return v.facts.textContent")
    assert viewer.js("return v.promptValue()")["file"] == f"3d/dropped.{suffix}"
    assert classic.run() == "success"
    viewer.wait()
    assert viewer.js("return v.payload.count") == 123
    assert not classic.problems()


def test_error_is_shown_in_the_node(classic, object_info):
    text = base64.b64encode(b"ply\nformat nonsense\n").decode()
    viewer = show(classic, {"view": preview(object_info)})
    viewer.wait("empty")
    classic.page.evaluate(DROP, [text, "broken.ply"])
    viewer.wait("error")
    message = classic.page.locator(".lgm-message").first
    assert message.is_visible() and message.get_attribute("role") == "alert"
    assert len(message.inner_text()) > 10


def test_keys_and_pointer_turn_the_view(classic, object_info, ball):
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    azimuth = viewer.js("return v.orbit().azimuth")
    canvas = classic.page.locator(".lgm-viewer canvas").first
    canvas.focus()
    canvas.press("ArrowRight")
    turned = viewer.js("return v.orbit().azimuth")
    assert abs((turned - azimuth + 180) % 360 - 180) > 5
    viewer.drag("canvas", 60, 0)
    assert viewer.js("return v.orbit().azimuth") != turned
    distance = viewer.js("return v.orbit().distance")
    canvas.press("+")
    assert viewer.js("return v.orbit().distance") < distance
    # Neither the graph nor the node has moved.
    names = classic.page.locator(".lgm-viewer button:visible").evaluate_all(
        "(all) => all.map((b) => b.getAttribute('aria-label') || b.textContent.trim())"
    )
    assert all(names)


VIEWS = {
    **{"Front": (0, 0), "Left": (90, 0), "Back": (180, 0), "Right": (270, 0)},
    **{"+X": (90, 0), "−X": (270, 0), "+Y": (0, 90), "−Y": (0, -90), "+Z": (0, 0), "−Z": (180, 0)},
}


def test_buttons_of_the_camera_look_from_where_they_say(classic, object_info, ball):
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    viewer.click("camera")
    for name, (azimuth, elevation) in VIEWS.items():
        viewer.js("v.lookFrom([33, 11])")
        classic.page.locator(".lgm-panel button:visible", has_text=name).click()
        orbit = viewer.js("return v.orbit()")
        assert orbit["elevation"] == pytest.approx(elevation, abs=0.1)
        assert (orbit["azimuth"] - azimuth + 180) % 360 - 180 == pytest.approx(0, abs=0.1)
        if name.isalpha():  # LGM's own camera
            assert (orbit["distance"], orbit["fov"]) == pytest.approx((1.5, 49.1), abs=1e-2)
            assert orbit["target"] == pytest.approx([0, 0, 0], abs=1e-3)
    lens = classic.page.locator(".lgm-panel input:visible")
    lens.fill("20")
    assert viewer.js("return v.orbit().fov") == pytest.approx(20)
    assert not classic.problems()


def test_saved_picture_is_a_png_of_the_nodes_size_with_alpha(classic, object_info, ball, tmp_path):
    prompt = of_file(object_info)
    prompt["view"]["inputs"] |= {"width": 320, "height": 192}
    viewer = show(classic, prompt)
    viewer.wait()
    viewer.click("picture")
    save = classic.page.get_by_role("button", name="Save picture, 320 × 192")
    with classic.page.expect_download() as started:
        save.click()
    path = tmp_path / started.value.suggested_filename
    started.value.save_as(path)
    image = Image.open(path)
    assert (path.suffix, image.format, image.mode) == (".png", "PNG", "RGBA")
    assert image.size == (320, 192)
    alpha = np.asarray(image)[..., 3]
    assert alpha[0, 0] == 0 and alpha[88:104, 152:168].max() > 200
    assert psnr(np.asarray(image) / 255, viewer.picture()) > 60
    assert not classic.problems()


def graph_view(page):
    """What a gesture on the viewer may not move: the graph, and the node in it."""
    return page.page.evaluate(
        "() => [window.app.canvas.ds.scale, ...window.app.canvas.ds.offset, "
        "...window.app.graph.nodes[0].pos]"
    )


@pytest.mark.parametrize("renderer", RENDERERS)
def test_drag_moves_and_wheel_and_pinch_zoom(chromium, server, object_info, ball, renderer):
    with open_page(chromium, server, vue=RENDERERS[renderer]) as page:
        page.settle()
        viewer = show(page, of_file(object_info))
        viewer.wait()
        graph = graph_view(page)
        mouse, keyboard = page.page.mouse, page.page.keyboard
        box = page.page.locator(".lgm-viewer canvas").first.bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        side = min(box["width"], box["height"])

        # A drag with the right button, or with Shift, takes what is under the pointer along.
        for button, key in (("right", None), ("left", "Shift")):
            viewer.js("v.lookFrom([0, 0])")
            before = viewer.js("return v.orbit()")
            if key:
                keyboard.down(key)
            mouse.move(*middle)
            mouse.down(button=button)
            mouse.move(middle[0] + side / 4, middle[1] + side / 8)
            mouse.up(button=button)
            if key:
                keyboard.up(key)
            after = viewer.js("return v.orbit()")
            across = 2 * before["distance"] * math.tan(math.radians(before["fov"]) / 2)
            moved = [b - a for a, b in zip(before["target"], after["target"], strict=True)]
            assert moved == pytest.approx([-across / 4, across / 8, 0], abs=0.02 * across)
            for name in ("azimuth", "elevation", "distance"):
                assert after[name] == pytest.approx(before[name], abs=1e-2)

        # Away from the user is nearer; nothing else changes.
        viewer.js("v.lookFrom([20, 10])")
        start = viewer.js("return v.orbit()")
        mouse.move(*middle)
        mouse.wheel(0, -300)
        page.settle(100)
        nearer = viewer.js("return v.orbit()")
        mouse.wheel(0, 300)
        page.settle(100)
        again = viewer.js("return v.orbit()")
        assert nearer["distance"] < 0.9 * start["distance"]
        assert again["distance"] == pytest.approx(start["distance"], rel=1e-3)
        for orbit in (nearer, again):
            assert orbit["azimuth"] == pytest.approx(start["azimuth"], abs=0.02)
            assert orbit["target"] == pytest.approx(start["target"], abs=1e-3)

        pinch(page, middle, side / 8, side / 4)
        page.page.wait_for_function(
            f"(most) => {FIRST}.orbit().distance < most && !{FIRST}.moving",
            arg=0.55 * again["distance"],
        )
        pinched = viewer.js("return v.orbit()")
        assert pinched["distance"] == pytest.approx(again["distance"] / 2, rel=0.05)
        assert pinched["azimuth"] == pytest.approx(again["azimuth"], abs=0.5)

        assert graph_view(page) == graph
        assert not page.page.locator(".litecontextmenu").count()
        assert not page.problems()


def pinch(page, middle, start, end, steps=4):
    """Two fingers, each this many pixels of the screen from the middle, above and below it."""
    session = page.page.context.new_cdp_session(page.page)
    x, y = middle
    for step in range(steps + 1):
        reach = start + (end - start) * step / steps
        points = [{"x": x, "y": y - reach, "id": 0}, {"x": x, "y": y + reach, "id": 1}]
        kind = "touchMove" if step else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_slow_drag_is_coarse_and_sharp_at_rest(chromium, server, object_info, ball, renderer):
    with open_page(chromium, server, vue=RENDERERS[renderer]) as page:
        page.settle()
        viewer = show(page, of_file(object_info))
        viewer.wait()
        full = viewer.js("return v.canvas.width")
        mouse = page.page.mouse
        box = page.page.locator(".lgm-viewer canvas").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def drag_until(width):
            """Turns on and on, as long as pictures are of another width."""
            for step in range(100):
                mouse.move(x + 20 * (step % 5), y)
                page.settle(20)
                if page.page.evaluate(f"() => {FIRST}.canvas.width") == pytest.approx(width, abs=1):
                    return
            raise AssertionError(f"no picture became {width} pixels wide")

        def rest(held):
            """Without another movement the picture becomes sharp, and then nothing is drawn."""
            page.page.wait_for_function(f"(width) => {FIRST}.canvas.width === width", arg=full)
            viewer.js("")
            assert viewer.js("return v.moving") == held
            page.settle(300)
            frames = page.page.evaluate(f"() => {FIRST}.engine.frames")
            page.settle(600)
            assert page.page.evaluate(f"() => {FIRST}.engine.frames") == frames

        # What the GPU takes decides: as long as that is little, nothing is coarse.
        viewer.js("v.engine.timeOf = async () => 10")
        mouse.move(x, y)
        mouse.down()
        for step in range(10):
            mouse.move(x + 5 * step, y)
            page.settle(20)
            assert page.page.evaluate(f"() => {FIRST}.canvas.width") == full
        mouse.up()
        rest(held=False)
        viewer.js("v.engine.timeOf = async () => 60 + 400 * v.pace.scale ** 2")
        mouse.move(x, y)
        mouse.down()
        drag_until(full / 2)
        rest(held=True)
        drag_until(full / 2)
        assert viewer.picture().shape[:2] == (SIDE, SIDE)  # what goes to the graph is never coarse
        mouse.up()
        rest(held=False)
        assert not page.problems()


def test_browser_zoom_changes_the_pixels(classic, object_info, ball):
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    before = viewer.js("return [v.canvas.width, v.canvas.height]")
    session = classic.page.context.new_cdp_session(classic.page)
    size = {name: length // 2 for name, length in classic.page.viewport_size.items()}
    # At 200 % a page has half the width, and twice the pixels on each side of a length.
    session.send(
        "Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 2, "mobile": False}
    )
    try:
        doubled = f"(width) => Math.abs({FIRST}.canvas.width - 2 * width) < 3"
        classic.page.wait_for_function(doubled, arg=before[0])
        alpha = viewer.canvas()[..., 3]
        assert alpha.shape == pytest.approx((2 * before[1], 2 * before[0]), abs=2)
        assert alpha.max() > 0.8  # it was drawn again
    finally:
        session.send("Emulation.clearDeviceMetricsOverride")
        session.detach()
    assert not classic.problems()


def test_connected_camera_is_the_view_until_it_is_moved(classic, object_info, ball):
    orbit = {"path": "orbit", "path.azimuth": 70, "path.elevation": 25, "frames": 1}
    prompt = of_file(object_info) | {
        "path": node(object_info, "LGM_CameraPath", splat=["view", 0], **orbit),
        "other": preview(object_info, splat=["view", 0], camera=["path", 0]),
    }
    show(classic, prompt)
    assert classic.run() == "success"
    with_camera = f"() => ({VIEWERS})().findIndex((v) => v.payload?.camera)"
    classic.page.wait_for_function(f"() => ({with_camera})() >= 0")
    viewer = Viewer(classic, classic.page.evaluate(with_camera))
    given, mine = viewer.js("return [v.payload.camera, v.info()]")
    assert mine == given
    angles = viewer.js("return v.orbit()")
    assert (angles["azimuth"], angles["elevation"]) == pytest.approx((70, 25), abs=0.01)
    assert viewer.js("return v.promptValue()")["camera"] is None
    viewer.js("v.lookFrom([10, 0])")
    assert viewer.js("return v.orbit().azimuth") == pytest.approx(10, abs=0.1)
    assert viewer.js("return v.promptValue()")["camera"]
    viewer.js("v.reset()")
    assert viewer.js("return v.info()") == given
    assert not classic.problems()


def test_full_screen_and_back(classic, object_info, ball):
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    viewer.js("v.lookFrom([30, 20])")
    camera = viewer.js("return v.saved()")["camera"]
    small = viewer.js("return v.canvas.width")
    viewer.click("full")
    classic.page.wait_for_function(
        "() => document.fullscreenElement?.classList.contains('lgm-viewer')"
    )
    classic.page.wait_for_function(f"(was) => {FIRST}.canvas.width > 1.5 * was", arg=small)
    assert viewer.canvas()[..., 3].max() > 0.8
    viewer.click("full")
    classic.page.wait_for_function("() => !document.fullscreenElement")
    classic.page.wait_for_function(f"(was) => {FIRST}.canvas.width === was", arg=small)
    assert viewer.js("return v.saved()")["camera"] == camera
    assert not classic.problems()


def test_every_button_has_its_place_and_says_what_it_does(classic, object_info, ball):
    """At the size of a new node, of a narrow and of a wide one."""
    both = of_file(object_info) | {
        "both": preview(object_info, splat=["view", 0], splat_b=["view", 0])
    }
    show(classic, both)
    assert classic.run() == "success"
    with_b = f"() => ({VIEWERS})().findIndex((v) => v.loaded.splat_b)"
    classic.page.wait_for_function(f"() => ({with_b})() >= 0")
    viewer = Viewer(classic, classic.page.evaluate(with_b))
    index = viewer.index
    for width in (480, 320, 400, 440, 520, 700):
        classic.page.evaluate(
            f"""(width) => {{
              const v = ({VIEWERS})()[{index}];
              const has = (n) => n.widgets?.some((w) => w.viewer === v);
              const node = window.app.graph.nodes.find(has);
              node.setSize([width, node.size[1]]);
              window.app.canvas.setDirty(true, true);
            }}""",
            width,
        )
        classic.page.wait_for_function(
            f"(width) => Math.abs(({VIEWERS})()[{index}].element.clientWidth - width) < 30",
            arg=width,
        )
        bar = viewer.js(
            """const bar = v.element.querySelector('.lgm-bar');
            const all = [...bar.querySelectorAll('button')];
            const right = bar.getBoundingClientRect().right;
            return all.map((b) => [
              b.title, b.offsetWidth, b.offsetHeight, b.getBoundingClientRect().right <= right,
            ])"""
        )
        assert len(bar) == 9
        for title, across, high, inside in bar:
            assert title and inside, (width, title)
            assert across >= 20 and high >= 24, (width, title, across, high)


def test_reset_button_forgets_what_was_set(classic, object_info, ball):
    classic.page.evaluate("() => { window.app.nodeOutputs = {} }")  # of the tests before
    viewer = show(classic, {"view": preview(object_info)})
    viewer.wait("empty")
    fresh = viewer.js("return v.saved()")
    viewer.js("v.state.file = '3d/ball.ply'; return v.showFile()")
    viewer.wait()
    viewer.js("v.lookFrom([30, 40]); v.toggleCrop(); v.setLook({ mode: 'depth', turntable: true })")
    assert viewer.js("return v.saved()") != fresh
    viewer.click("reset")
    viewer.wait("empty")  # of the dropped file, too
    assert viewer.js("return v.saved()") == fresh
    assert not classic.problems()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_mesh_and_splat_are_shown_and_hidden(chromium, server, object_info, ball, renderer, shots):
    with open_page(chromium, server, vue=RENDERERS[renderer]) as page:
        page.settle()
        prompt = of_file(object_info) | {
            "mesh": node(object_info, "LGM_SplatToMesh", splat=["view", 0], faces=500),
            "both": preview(object_info, splat=["view", 0], mesh=["mesh", 0]),
        }
        prompt["mesh"]["inputs"]["resolution"] = 64
        show(page, prompt)
        assert page.run() == "success"
        with_mesh = f"() => ({VIEWERS})().findIndex((v) => v.loaded.mesh && v.loaded.splat)"
        page.page.wait_for_function(f"() => ({with_mesh})() >= 0")
        viewer = Viewer(page, page.page.evaluate(with_mesh))
        viewer.js("v.lookFrom([30, 20]); v.open('look')")
        names = {"show_splat": "Splat", "show_mesh": "Mesh"}

        def press(name):
            page.page.locator(f'[data-toggle="{name}"]:visible').click()
            viewer.js("")

        def shown():
            pressed = page.page.locator('[data-toggle][aria-pressed="true"]:visible')
            return sorted(pressed.all_inner_texts()), viewer.picture()

        # Side by side with the mesh both are there; hiding one leaves the other alone.
        assert viewer.js("return v.comparing()") == "wipe"
        assert shown()[0] == ["Mesh", "Splat"]
        press("show_mesh")
        labels, splat = shown()
        assert (labels, viewer.js("return v.comparing()")) == (["Splat"], "off")
        press("show_splat")  # never nothing
        labels, mesh = shown()
        assert labels == ["Mesh"]
        press("show_splat")
        labels, both = shown()
        assert labels == sorted(names.values())
        page.shot(shots / f"Viewer, mesh and splat ({renderer}).png")
        for a, b in ((splat, mesh), (splat, both), (mesh, both)):
            assert psnr(on_white(a), on_white(b)) < 40
        assert min(picture[..., 3].max() for picture in (splat, mesh, both)) > 0.9

        # The workflow keeps it.
        press("show_splat")
        page.load(page.page.evaluate(SERIALIZED))
        page.page.wait_for_function(f"() => ({with_mesh})() >= 0")
        viewer = Viewer(page, page.page.evaluate(with_mesh))
        viewer.js("v.open('look')")
        labels, again = shown()
        assert labels == ["Mesh"]
        assert psnr(again, mesh) > 50
        assert not page.problems()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_undo_leaves_the_viewer_alive(chromium, server, object_info, ball, renderer):
    """It makes all nodes anew."""
    with open_page(chromium, server, vue=RENDERERS[renderer]) as page:
        page.settle()
        viewer = show(page, of_file(object_info))
        viewer.wait()
        page.load(page.page.evaluate(SERIALIZED))  # from here on the page remembers
        viewer.wait()
        page.settle(500)
        width = "window.app.graph.nodes[0].widgets.find((w) => w.name === 'width')"
        page.page.evaluate(
            f"""() => {{
              {width}.value = 512;
              window.app.extensionManager.workflow.activeWorkflow.changeTracker.checkState();
            }}"""
        )
        for command, expected in (("Undo", SIDE), ("Redo", 512)):
            page.page.evaluate(f"() => {{ window.lgmBefore = {FIRST} }}")
            page.page.evaluate(f"() => {COMMAND}('Comfy.{command}')")
            page.page.wait_for_function(f"() => {FIRST} && {FIRST} !== window.lgmBefore")
            page.page.wait_for_function(f"() => {FIRST}.element.isConnected")
            assert page.page.evaluate(f"() => {width}.value") == expected
            viewer.wait()
            page.page.wait_for_function(f"() => {FIRST}.element.dataset.frames > 0")
            assert page.page.locator(".lgm-viewer").count() == 1
        viewer.drag("canvas", 30, 0)
        assert viewer.js("return v.state.camera")
        assert not page.problems()


def test_viewer_speaks_the_language_of_the_page(chromium, server, object_info, ball, shots):
    server.fetch("/settings", {"Comfy.Locale": "zh"})
    try:
        with open_page(chromium, server, vue=True) as page:
            page.settle()
            viewer = show(page, of_file(object_info))
            viewer.wait()
            assert page.page.locator('.lgm-bar [data-tool="crop"]').inner_text() == "裁剪"
            assert "400 个高斯点" in viewer.js("return v.facts.textContent")
            viewer.click("look")
            page.shot(shots / "Viewer, Chinese.png")
            assert not page.problems()
    finally:
        server.fetch("/settings", {"Comfy.Locale": "en"})


def test_turntable_turns_until_it_is_told_not_to(classic, object_info, ball):
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    spin = f"() => {FIRST}.spin"
    classic.page.emulate_media(reduced_motion="reduce")
    viewer.click("turntable")
    classic.settle(500)
    assert classic.page.evaluate(spin) == 0
    viewer.click("turntable")
    classic.page.emulate_media(reduced_motion="no-preference")
    before = viewer.js("return v.orbit()")
    viewer.click("turntable")
    classic.page.wait_for_function(f"() => {FIRST}.spin > 3", timeout=30_000)
    viewer.click("turntable")
    after = viewer.js("return v.orbit()")
    assert (after["azimuth"] - before["azimuth"]) % 360 > 2  # it stays where it stood
    assert after["distance"] == pytest.approx(before["distance"], rel=1e-3)
    viewer.wait()  # it draws once more, where it stopped
    frames = classic.page.evaluate(f"() => {FIRST}.engine.frames")
    classic.settle(500)
    assert classic.page.evaluate(f"() => {FIRST}.engine.frames") == frames


def test_wipe_shows_a_on_its_left_and_b_on_its_right(classic, object_info, ball, shots):
    prompt = of_file(object_info) | {
        "fewer": node(object_info, "LGM_FilterSplat", splat=["view", 0], min_opacity=0.8),
        "both": preview(object_info, splat=["view", 0], splat_b=["fewer", 0]),
    }
    show(classic, prompt)
    assert classic.run() == "success"
    with_b = f"() => ({VIEWERS})().findIndex((v) => v.payload?.splat_b)"
    classic.page.wait_for_function(f"() => ({with_b})() >= 0")
    viewer = Viewer(classic, classic.page.evaluate(with_b))
    viewer.js("v.lookFrom([20, 20]); v.setLook({ compare: 'off' })")
    only_a = viewer.picture()
    viewer.js("v.setLook({ compare: 'wipe', wipe: 0 })")
    only_b = viewer.picture()
    assert psnr(on_white(only_a), on_white(only_b)) < 40
    viewer.js("v.setLook({ wipe: 0.5 })")
    both = viewer.picture()
    half = SIDE // 2
    assert psnr(both[:, : half - 1], only_a[:, : half - 1]) > 50
    assert psnr(both[:, half + 1 :], only_b[:, half + 1 :]) > 50
    viewer.js("v.flip()")
    assert psnr(viewer.picture()[:, half + 1 :], only_a[:, half + 1 :]) > 50
    viewer.js("v.setLook({ compare: 'side' })")
    classic.shot(shots / "Viewer, side by side.png")
    assert not classic.problems()


def test_a_new_result_replaces_the_old_one_without_a_gap(classic, server, object_info, ball):
    viewer = show(classic, of_file(object_info))
    assert classic.run() == "success"
    viewer.wait()
    camera = viewer.js("v.lookFrom([50, 10]); return v.promptValue()")["camera"]
    (ball.parent / "other.ply").write_bytes(write_ply(None, few(seed=3)))
    before = viewer.picture()
    viewer.js(
        """v.state.file = '3d/other.ply';
        v.watched = [];
        v.watching = setInterval(() => {
          const { width, height } = v.canvas;
          const middle = v.canvas.getContext('2d').getImageData(width / 2, height / 2, 1, 1);
          v.watched.push(middle.data[3]);
        }, 20)"""
    )
    assert classic.run() == "success"
    classic.settle(500)
    viewer.wait()
    watched = viewer.js("clearInterval(v.watching); return v.watched")
    assert len(watched) > 10 and min(watched) > 100
    assert psnr(on_white(viewer.picture()), on_white(before)) < 30  # it is another ball
    assert viewer.js("return v.promptValue()")["camera"] == camera


@pytest.mark.parametrize("renderer", RENDERERS)
def test_subgraphs_and_tabs_are_entered_and_left(
    chromium, server, object_info, ball, renderer, shots
):
    with open_page(chromium, server, vue=RENDERERS[renderer]) as page:
        page.settle()
        viewer = show(page, of_file(object_info))
        viewer.wait()
        state = viewer.js("v.lookFrom([40, 20]); v.toggleCrop(); return v.saved()")
        picture = viewer.picture()

        def same():
            viewer.wait()
            assert viewer.js("return v.saved()") == state
            assert psnr(viewer.picture(), picture) > 50
            assert viewer.canvas()[..., 3].max() > 0.5

        page.page.evaluate(f"() => {COMMAND}('Comfy.NewBlankWorkflow')")
        page.page.wait_for_selector(".lgm-viewer", state="detached")
        page.page.get_by_text("test", exact=True).first.click()
        same()
        page.page.evaluate(
            """() => {
              const { graph } = window.app;
              window.lgmSub = graph.convertToSubgraph(new Set(graph.nodes)).node;
              window.app.canvas.openSubgraph(window.lgmSub.subgraph, window.lgmSub);
            }"""
        )
        for _ in range(2):
            same()
            page.page.evaluate("() => window.app.canvas.setGraph(window.app.rootGraph)")
            page.settle(300)
            open_it = "() => window.app.canvas.openSubgraph(window.lgmSub.subgraph, window.lgmSub)"
            page.page.evaluate(open_it)
        page.page.screenshot(path=shots / f"Viewer in a subgraph ({renderer}).png")
        assert not page.problems()


def test_context_comes_back(classic, object_info, ball, shots):
    classic.page.evaluate("() => { window.app.nodeOutputs = {} }")  # of the tests before
    viewer = show(classic, of_file(object_info))
    viewer.wait()
    before = viewer.picture()
    viewer.js(f"v.engine.renderer.forceContextLoss(); {PAUSE}")
    viewer.wait("error")
    assert viewer.canvas()[..., 3].max() > 0  # the last picture is still there
    viewer.js(f"v.engine.renderer.forceContextRestore(); {PAUSE}")
    viewer.wait()
    assert psnr(viewer.picture(), before) > 50


@pytest.mark.parametrize("renderer", RENDERERS)
def test_two_dozen_viewers_share_one_context(
    chromium, server, object_info, ball, renderer, shots, tell
):
    with open_page(chromium, server, vue=RENDERERS[renderer]) as page:
        page.settle()
        page.page.evaluate(COUNT_CONTEXTS)
        state = {"version": 1, "file": "3d/ball.ply"}
        prompt = {str(i): preview(object_info, viewer=state) for i in range(1, CROWD + 1)}
        page.load_prompt(prompt)
        page.page.evaluate(
            "() => window.app.graph.nodes.forEach((n, i) => { n.pos = "
            "[(i % 6) * 480, Math.floor(i / 6) * 760]; })"
        )
        page.page.evaluate(FIT)
        page.page.wait_for_function(
            f"() => document.querySelectorAll('.lgm-viewer[data-frames]').length === {CROWD}",
            timeout=120_000,
        )
        page.settle(500)
        page.shot(shots / f"Viewers, {CROWD} ({renderer}).png")
        covered = page.page.evaluate(
            f"""() => ({VIEWERS})().map(({{ canvas }}) => {{
              const {{ width, height }} = canvas;
              const {{ data }} = canvas.getContext('2d').getImageData(0, 0, width, height);
              let sum = 0;
              for (let i = 3; i < data.length; i += 4) sum += data[i] > 127;
              return sum / (width * height);
            }})"""
        )
        assert len(covered) == CROWD
        assert min(covered) > 0.05
        assert page.page.evaluate("() => window.lgmContexts.size") == 1
        frames = page.page.evaluate(f"() => {FIRST}.engine.frames")
        page.settle(1000)
        assert page.page.evaluate(f"() => {FIRST}.engine.frames") == frames  # nobody is drawing
        tell(f"{CROWD} viewers, {renderer}: {frames} pictures drawn")
        # Gone with the nodes: nothing of them stays on the GPU's list.
        page.page.evaluate(f"() => {{ window.lgmEngine = {FIRST}.engine }}")
        page.page.evaluate("() => window.app.graph.clear()")
        page.settle(500)
        assert page.page.evaluate("() => window.lgmEngine.views.size") == 0
        assert not page.problems()
