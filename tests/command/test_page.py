"""The demo's page as text, and in a browser where playwright and Chromium or Chrome are there."""

import base64
import gzip
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from lgm import io as splat_io
from lgm.cameras import orbit_poses
from lgm.command import page as page_module
from lgm.command.page import DemoMesh, DemoPage, DemoViewer, viewer_code
from lgm.gaussians import Gaussians
from lgm.io.spz import write_spz
from lgm.mesh import Mesh
from lgm.mesh.draw import draw_mesh
from lgm.pictures import encode
from lgm.render.turntable import draw

FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
AZIMUTH, ELEVATION, FOVY, SIDE = 30, 15, 35, 256
# The mesh at whole pixels of the window, with nothing before it and white behind it.
BARE = f"""#solid {{
  position: fixed; top: 0; right: 0; width: {SIDE}px; border: 0; border-radius: 0;
  background: #fff !important;
}}
#solid span {{ display: none; }}"""
COUNT_DRAWS = """window.draws = 0;
const { prototype } = WebGL2RenderingContext, { drawElements } = prototype;
prototype.drawElements = function (...all) {
  window.draws++;
  return drawElements.apply(this, all);
};"""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """A box around no origin, whose texture has another color everywhere."""
    shape = trimesh.creation.box((0.9, 0.5, 1.3)).subdivide().subdivide()
    vertices = torch.tensor(shape.vertices, dtype=torch.float32) + torch.tensor([0.3, -0.2, 0.1])
    low, high = vertices.aminmax(dim=0)
    along = torch.tensor(shape.vertices @ [0.9, 0.3, -0.2], dtype=torch.float32)
    uvs = torch.stack([(vertices[:, 1] - low[1]) / (high - low)[1], along + 0.5], dim=1)
    y, x = torch.meshgrid(torch.linspace(0, 1, 128), torch.linspace(0, 1, 128), indexing="ij")
    texture = torch.stack([x, y, 0.5 + 0.3 * (5 * x + 9 * y).sin()], dim=-1)
    return Mesh(
        vertices,
        torch.tensor(shape.faces.copy()),
        normals=torch.tensor(shape.vertex_normals.copy(), dtype=torch.float32),
        uvs=0.05 + 0.9 * uvs.clamp(0, 1),
        texture=texture,
    )


@pytest.fixture(scope="module")
def solid(mesh) -> DemoMesh:
    picture = encode.jpeg(torch.full((3, 8, 8), 0.7))
    return DemoMesh(
        mesh.export(None), mesh.face_count, 128, picture, {"a & b": picture}, AZIMUTH, ELEVATION
    )


def page_html(solid: DemoMesh | None, viewer: DemoViewer | None = None) -> str:
    frames = [torch.full((3, 8, 8), shade) for shade in (0.0, 0.3, 0.6, 0.9)]
    pictures = {str(number): encode.jpeg(frame) for number, frame in enumerate(frames)}
    sprite = encode.jpeg(encode.contact_sheet(torch.stack(frames), columns=2))
    return DemoPage(
        "<Cup>", 65536, pictures, pictures, sprite, 4, 2, b"", solid, {"read": 1.5}, "", viewer
    ).html()


@pytest.fixture(scope="module")
def html(solid) -> str:
    return page_html(solid)


def expected(mesh: Mesh, azimuth: float, elevation: float, zoom: float = 1.0) -> np.ndarray:
    low, high = mesh.vertices.aminmax(dim=0)
    center = (low + high) / 2
    radius = (mesh.vertices - center).norm(dim=1).max().item()
    pose = orbit_poses([azimuth], elevation, radius / math.sin(math.radians(FOVY / 2)))
    pose[:, :3, 3] += center
    fovy = 2 * math.degrees(math.atan(math.tan(math.radians(FOVY / 2)) / zoom))
    return draw_mesh(mesh, pose, SIDE, fovy)[0][0].permute(1, 2, 0).numpy()


def assert_shows(page, picture: np.ndarray) -> None:
    page.wait_for_timeout(150)
    shown = page.locator("#solid").screenshot()
    shown = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB")) / 255
    assert shown.shape == picture.shape
    assert np.abs(shown - picture).mean() < 0.004  # a third of a shade, and outlines
    assert (np.abs(shown - picture).max(-1) > 0.05).mean() < 0.015


def test_page_is_one_file_and_holds_the_mesh_itself(html, mesh):
    (text,) = re.findall(r'<script type="text/plain" id="glb">(.*?)</script>', html)
    assert base64.b64decode(text, validate=True) == mesh.export(None)
    assert not re.search(r"https?://|//cdn|@import", html)
    assert all(url.startswith("data:") for url in re.findall(r'src="([^"]*)"', html))
    assert "&lt;Cup&gt;" in html and "<Cup>" not in html and "a &amp; b" in html


def test_without_a_mesh_nothing_tells_of_one(html):
    """All that says or does something with a mesh; the styles are the same."""
    without = page_html(None)
    shown = [re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL) for text in (without, html)]
    words = ("mesh", "triangles", "WebGL", 'id="glb"', 'id="solid"')
    assert [word for word in words if word in shown[0]] == []
    assert all(word in shown[1] for word in words)
    assert re.findall(r'href="([^"]*)"', without) == [
        "splat.ply", "turntable.mp4", "views.png", "novel.png"
    ]  # fmt: skip
    assert "$" not in shown[0]


@pytest.fixture(scope="module")
def browsers():
    """Starts Chromium with flags."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as api:

        def start(flags):
            try:
                return api.chromium.launch(executable_path=path, args=flags)
            except playwright.Error as error:
                pytest.skip(f"needs Chromium: {error.message.splitlines()[0]}")

        yield start


@pytest.fixture(scope="module")
def chromium(browsers):
    with browsers(FLAGS) as browser:
        yield browser


def opened(browser, path, **context):
    """The page, and the list that its console fills with complaints."""
    page = browser.new_context(offline=True, **context).new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.add_init_script(COUNT_DRAWS)
    page.goto(path.as_uri())
    return page, complaints


def written(html: str, folder: Path) -> Path:
    file = folder / "index.html"
    # An empty video would be a complaint of its own.
    file.write_text(re.sub(r"<video .*?</video>", "", html), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def path(html, tmp_path_factory):
    return written(html, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def bare_path(tmp_path_factory):
    """Of the page without a mesh."""
    return written(page_html(None), tmp_path_factory.mktemp("page"))


@pytest.fixture
def page(chromium, path):
    page, complaints = opened(chromium, path)
    page.wait_for_selector("#solid.live")
    page.add_style_tag(content=BARE)
    yield page
    page.context.close()
    assert not complaints


@pytest.mark.slow
def test_mesh_looks_as_our_own_renderer_draws_it(page, mesh):
    assert_shows(page, expected(mesh, AZIMUTH, ELEVATION))


def test_mouse_turns_and_keys_zoom(page, mesh):
    box = page.locator("#solid").bounding_box()
    x, y = box["x"] + 80, box["y"] + 100
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 64, y + 32, steps=4)  # a side is half a turn
    page.mouse.up()
    assert_shows(page, expected(mesh, AZIMUTH - 45, ELEVATION + 22.5))
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    assert_shows(page, expected(mesh, AZIMUTH - 52.5, ELEVATION + 22.5, zoom=1.2))
    page.keyboard.press("Home")
    assert_shows(page, expected(mesh, AZIMUTH, ELEVATION))


def test_wheel_is_the_pages_until_the_mesh_is_clicked(page, mesh):
    solid = page.locator("#solid")
    box = solid.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.wheel(0, 100)
    page.wait_for_function("scrollY === 100")
    assert_shows(page, expected(mesh, AZIMUTH, ELEVATION))
    solid.focus()
    page.mouse.wheel(0, -400 * math.log(1.5))
    assert_shows(page, expected(mesh, AZIMUTH, ELEVATION, zoom=1.5))
    assert page.evaluate("scrollY") == 100


def test_wires_and_shape_can_be_seen(page):
    solid, pictures = page.locator("#solid"), []
    for name in ("Wireframe", "Texture", "Wireframe", "Texture"):
        page.get_by_role("button", name=name).click()
        page.wait_for_timeout(150)
        pictures.append(solid.screenshot())
    assert len(set(pictures)) == 4
    shape = np.asarray(Image.open(io.BytesIO(pictures[2])).convert("RGB")).astype(int)
    assert np.ptp(shape, axis=-1).max() < 30  # gray
    assert page.get_by_role("button", name="Texture").get_attribute("aria-pressed") == "true"


def test_nothing_is_drawn_while_nothing_changes(page):
    page.wait_for_timeout(300)
    before = page.evaluate("draws")
    assert before > 0
    page.wait_for_timeout(500)
    assert page.evaluate("draws") == before
    page.locator("#solid").press("ArrowLeft")
    page.wait_for_timeout(150)
    assert page.evaluate("draws") == before + 1


def test_a_lost_context_comes_back(page, mesh):
    lose = "document.querySelector('#solid canvas').getContext('webgl2')"
    page.evaluate(f"window.lose = {lose}.getExtension('WEBGL_lose_context'); lose.loseContext()")
    page.wait_for_selector("#solid:not(.live)")
    assert page.locator("#solid img").is_visible() and page.locator(".tools").is_hidden()
    page.evaluate("lose.restoreContext()")
    page.wait_for_selector("#solid.live")
    assert_shows(page, expected(mesh, AZIMUTH, ELEVATION))


def test_download_works_without_the_file_beside(page, mesh, tmp_path):
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "mesh.glb")
    assert download.value.suggested_filename == "mesh.glb"
    assert (tmp_path / "mesh.glb").read_bytes() == mesh.export(None)


def test_without_webgl_there_is_a_picture(browsers, path):
    with browsers(["--no-sandbox", "--disable-3d-apis"]) as browser:
        page, complaints = opened(browser, path)
        page.wait_for_timeout(300)
        assert page.locator("#solid img").is_visible() and page.locator(".tools").is_hidden()
        assert "WebGL" in page.locator("#solid span").text_content()
        assert not complaints


def test_without_a_mesh_the_splat_still_turns(chromium, bare_path):
    page, complaints = opened(chromium, bare_path, reduced_motion="reduce")
    stage = page.locator("#stage")
    page.wait_for_function("document.querySelector('#stage canvas').width === 8")
    pictures = []
    for turn in (0, 270, 180, 90):  # a quarter each, as there are four frames
        assert stage.get_attribute("aria-valuenow") == str(turn)
        pictures.append(stage.screenshot())
        stage.press("ArrowRight")
    assert len(set(pictures)) == 4
    assert page.locator("img").count() == 8 and page.locator("canvas").count() == 1
    page.context.close()
    assert not complaints


@pytest.mark.parametrize("which", ["path", "bare_path"])
def test_nothing_sticks_out_sideways(chromium, request, which):
    page, _ = opened(chromium, request.getfixturevalue(which))
    page.wait_for_selector("#solid.live" if which == "path" else "#stage canvas")
    for width in (320, 390, 760, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()


@pytest.fixture(scope="module")
def splat() -> Gaussians:
    """Soft blobs of all colors, as wide as what LGM makes."""
    generator = torch.Generator().manual_seed(3)
    positions, scales, rotations, colors = (
        torch.rand(1, 400, width, generator=generator) for width in (3, 3, 4, 3)
    )
    return Gaussians(
        (positions - 0.5) * torch.tensor([0.9, 0.6, 0.4]),
        torch.full((1, 400, 1), 0.8),
        0.01 + 0.03 * scales,
        torch.nn.functional.normalize(rotations - 0.5, dim=-1),
        colors,
    )


@pytest.fixture(scope="module")
def viewer(splat) -> DemoViewer:
    return DemoViewer(viewer_code(), write_spz(None, splat), ELEVATION)


@pytest.fixture(scope="module")
def viewer_path(solid, viewer, tmp_path_factory):
    return written(page_html(solid, viewer), tmp_path_factory.mktemp("page"))


def test_page_holds_viewer_splat_and_licenses(viewer, splat):
    html = page_html(None, viewer)
    packed = dict(re.findall(r'<script type="text/plain" id="([^"]*)">(.*?)</script>', html))
    found = splat_io.read_splat_file(base64.b64decode(packed["splat"]), ".spz")
    torch.testing.assert_close(found.positions, splat.positions, atol=1e-4, rtol=0)
    code = json.loads(gzip.decompress(base64.b64decode(packed["viewer-code"])))
    assert {"viewer/viewer.mjs", "viewer/viewer.css", "vendor/viewer-engine.mjs"} < set(code)
    assert "MIT" in code["vendor/LICENSES.txt"]
    assert not re.search(r"https?://|//cdn|@import", html)


def test_without_the_viewers_files_there_is_no_button(monkeypatch, tmp_path):
    (tmp_path / "viewer").mkdir()
    (tmp_path / "viewer" / "viewer.mjs").touch()  # but no engine
    monkeypatch.setattr(page_module, "WEB", (tmp_path, tmp_path / "nowhere"))
    assert viewer_code() == {}
    assert "opener" not in page_html(None)


def opened_viewer(browser, path, **context):
    page, complaints = opened(browser, path, **context)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#opener button").click()
    page.wait_for_selector(".viewer.live", timeout=60_000)
    return page, complaints, asked


@pytest.mark.slow
def test_viewer_shows_the_splat_as_our_own_renderer_draws_it(chromium, viewer_path, splat):
    page, complaints, asked = opened_viewer(chromium, viewer_path, reduced_motion="reduce")
    page.locator("[data-tool=picture]").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save picture").click()
    shown = Image.open(download.value.path()).convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    shown = np.asarray(Image.alpha_composite(white, shown).convert("RGB")) / 255
    (drawn,) = draw(splat, orbit_poses([0.0], ELEVATION), shown.shape[0])
    error = np.square(shown - drawn.permute(1, 2, 0).numpy()).mean()
    assert -10 * math.log10(error) >= 33
    assert asked and {url.split(":")[0] for url in asked} <= {"blob", "data"}
    page.context.close()
    assert not complaints


@pytest.mark.slow
def test_viewer_compares_with_mesh_and_with_what_the_model_saw(chromium, viewer_path):
    page, complaints, _ = opened_viewer(chromium, viewer_path)
    page.locator("[data-tool=compare]").click()
    canvas, pictures = page.locator(".lgm-canvas"), []
    for name in ("Mesh", "Picture 2"):
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(500)
        pictures.append(canvas.evaluate("canvas => canvas.toDataURL()"))
    assert len(set(pictures)) == 2
    for width in (320, 390, 760, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        last = page.locator(".lgm-bar button").last.bounding_box()
        frame = page.locator(".lgm-bar").bounding_box()
        assert last["x"] + last["width"] <= frame["x"] + frame["width"]
    page.context.close()
    assert not complaints


def test_a_viewer_that_does_not_start_leaves_the_turning_picture(chromium, viewer_path, tmp_path):
    html = viewer_path.read_text(encoding="utf-8")
    broken = re.sub(r'(id="splat">)[^<]*', r"\1AAAA", html)
    page, _ = opened(chromium, written(broken, tmp_path))
    page.locator("#opener button").click()
    page.get_by_text("The viewer did not start here").wait_for()
    stage = page.locator("#stage")
    before = stage.get_attribute("aria-valuenow")
    stage.press("ArrowLeft")
    assert stage.get_attribute("aria-valuenow") != before
    page.context.close()


def test_without_webgl_the_viewer_is_not_offered(browsers, viewer_path):
    with browsers(["--no-sandbox", "--disable-3d-apis"]) as browser:
        page, complaints = opened(browser, viewer_path)
        page.wait_for_timeout(300)
        assert page.locator("#opener").is_hidden() and page.locator("#stage").is_visible()
        assert not complaints
