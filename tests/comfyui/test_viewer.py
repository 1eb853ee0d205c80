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
