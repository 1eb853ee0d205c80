import io
import sys
import types
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from safetensors import safe_open

from lgm.pictures import load, matte
from lgm.pictures.load import load_image
from lgm.pictures.matte import cut_out, key_flat_background, load_views
from lgm.pictures.resample import (
    composite_on_white,
    has_alpha,
    recenter,
    recenter_together,
    resize_area,
    resize_rgba,
    square,
)


@pytest.fixture
def photo() -> Image.Image:
    """A smooth RGB picture, wider than high, that differs in every corner."""
    y, x = np.mgrid[0:24, 0:40]
    return Image.fromarray(np.stack([x * 6, y * 10, 255 - x * 3], axis=-1).astype(np.uint8))


def disc(background=(1.0, 1.0, 1.0), color=(0.8, 0.2, 0.1), size=64, radius=20.0):
    """A soft-edged disc [3, S, S] and its coverage [S, S]."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = ((x - size / 2) ** 2 + (y - size / 2) ** 2).sqrt()
    alpha = (radius - distance + 0.5).clamp(0, 1)
    color, background = (torch.tensor(c)[:, None, None] for c in (color, background))
    return color * alpha + background * (1 - alpha), alpha


# Reading --------------------------------------------------------------------------------------


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "convert", "tolerance"),
    [
        ("rgb.png", lambda im: im, 0),
        ("rgba.png", lambda im: im.convert("RGBA"), 0),
        ("rgb.webp", lambda im: im, 0),
        ("rgb.bmp", lambda im: im, 0),
        ("cmyk.tiff", lambda im: im.convert("CMYK"), 2),
        pytest.param(
            "ycbcr.tiff",
            lambda im: im.convert("YCbCr"),
            3,
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 12 can't read its own file"
            ),
        ),
        ("palette.png", lambda im: im.quantize(256), 16),
        ("cmyk.jpg", lambda im: im.convert("CMYK"), 24),
    ],
)
def test_every_color_mode_shows_the_same_picture(tmp_path, photo, name, convert, tolerance):
    options = {"lossless": True} if name.endswith("webp") else {}
    rgba = load_image(save(tmp_path / name, convert(photo), **options))
    expected = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    assert (rgba[:3] * 255 - expected).abs().max() <= tolerance + 1e-3
    assert not has_alpha(rgba)


def test_gray_depths_agree(tmp_path, photo):
    gray = np.array(photo.convert("L"))
    full = gray.astype(np.uint16) * 257  # the 16-bit value of the same brightness
    pictures = {
        "8.png": Image.fromarray(gray),
        "16.png": Image.fromarray(full),
        "16.tiff": Image.fromarray(full),
        "32.tiff": Image.fromarray(full.astype(np.int32)),
        "float.tiff": Image.fromarray((gray / 255).astype(np.float32)),
    }
    for name, picture in pictures.items():
        rgba = load_image(save(tmp_path / name, picture))
        expected = torch.from_numpy(gray / 255).float().expand(3, -1, -1)
        torch.testing.assert_close(rgba[:3], expected, atol=1e-6, rtol=0, msg=name)


def test_one_bit_and_palette_transparency(tmp_path):
    bits = Image.new("1", (8, 8))
    bits.paste(1, (4, 0, 8, 8))
    assert load_image(save(tmp_path / "1.png", bits))[0, 0].tolist() == [0] * 4 + [1] * 4
    palette = Image.new("P", (8, 8))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (0, 0, 8, 4))
    rgba = load_image(save(tmp_path / "p.png", palette, transparency=0))
    assert rgba[3, :4].eq(1).all() and rgba[3, 4:].eq(0).all()
    torch.testing.assert_close(rgba[:3, 0, 0] * 255, torch.tensor([200.0, 100, 50]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", photo, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    assert (orientation >= 5) == (expected.shape[0] > expected.shape[1])
    rgba = load_image(path)
    assert (rgba[:3].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8).tolist() == (
        expected.tolist()
    )


def test_huge_pictures_load_and_pillows_limit_stays(tmp_path, monkeypatch):
    path = save(tmp_path / "huge.png", Image.new("L", (8192, 8192), 100), compress_level=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    rgba = load_image(path, longest=512)
    assert rgba.shape == (4, 512, 512) and rgba[0].sub(100 / 255).abs().max() < 1e-6
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_deep_gray_is_reduced_too(tmp_path):
    path = save(tmp_path / "deep.png", Image.fromarray(np.full((90, 130), 13107, np.uint16)))
    rgba = load_image(path, longest=32)
    assert rgba.shape == (4, 23, 33)
    torch.testing.assert_close(rgba[:3], torch.full((3, 23, 33), 0.2))


def test_reduction_weights_colors_by_alpha(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, ::2] = (200, 0, 0, 255)  # every other column hides green
    pixels[:, 1::2] = (0, 255, 0, 0)
    rgba = load_image(save(tmp_path / "stripes.png", Image.fromarray(pixels)), longest=4)
    assert rgba.shape == (4, 4, 4)
    torch.testing.assert_close(
        rgba[:, 0, 0], torch.tensor([200 / 255, 0, 0, 0.5]), atol=5e-3, rtol=0
    )


def damaged(tmp_path, photo):
    frames = [photo, ImageOps.mirror(photo)]
    for name, image, options in (
        ("animated.gif", photo, {"save_all": True, "append_images": frames[1:]}),
        ("animated.png", photo, {"save_all": True, "append_images": frames[1:]}),
        ("pages.tiff", photo, {"save_all": True, "append_images": frames[1:]}),
        ("dot.png", Image.new("RGB", (1, 1)), {}),
        ("line.png", Image.new("RGB", (1, 50)), {}),
        ("clear.png", Image.new("RGBA", (9, 9)), {}),
        ("nan.tiff", Image.fromarray(np.full((9, 9), np.nan, np.float32)), {}),
    ):
        yield save(tmp_path / name, image, **options)
    for suffix in ("png", "jpg", "gif", "webp", "tiff", "bmp"):
        path = save(tmp_path / f"cut.{suffix}", photo)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        yield path
    for name, data in (("text.png", b"no picture"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(data)
        yield tmp_path / name
    yield tmp_path / "missing.png"
    yield tmp_path


def test_unusable_files_are_refused_by_name(tmp_path, photo):
    for path in damaged(tmp_path, photo):
        with pytest.raises(ValueError, match=path.name):
            load_image(path)


def test_too_large_is_refused_before_decoding(tmp_path, monkeypatch, photo):
    path = save(tmp_path / "large.png", photo)
    monkeypatch.setattr(load, "MAX_SIDE", 39)
    with pytest.raises(ValueError, match="40 x 24"):
        load_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "TGA", "PPM"])
def test_random_damage_gives_a_picture_or_a_sentence(tmp_path, photo, kind):
    buffer = io.BytesIO()
    photo.save(buffer, kind)
    whole = buffer.getvalue()

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, len(whole)),
        st.lists(
            st.tuples(st.integers(0, min(len(whole), 200) - 1), st.integers(0, 255)), max_size=4
        ),
    )
    def check(length, flips):
        broken = bytearray(whole)
        for position, value in flips:
            broken[position] = value
        path = tmp_path / "broken"
        path.write_bytes(broken[:length] if length % 2 else broken)
        try:
            rgba = load_image(path)
        except ValueError as error:
            assert "broken" in str(error)
        else:
            assert rgba.isfinite().all() and rgba.min() >= 0 and rgba.max() <= 1

    check()


# Resampling -----------------------------------------------------------------------------------


def test_resize_area_is_the_block_mean():
    x = torch.rand(3, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(resize_area(x, 4, 5), F.avg_pool2d(x, (3, 4)))


@pytest.mark.parametrize("size", [(7, 11), (12, 3), (1, 1), (12, 20)])
def test_shrinking_keeps_the_mean(size):
    x = torch.rand(2, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(resize_area(x, *size).mean((1, 2)), x.mean((1, 2)))


def test_enlarging_by_a_whole_factor_repeats_pixels():
    x = torch.rand(1, 3, 4)
    torch.testing.assert_close(
        resize_area(x, 6, 12), x.repeat_interleave(2, 1).repeat_interleave(3, 2)
    )


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_recenter_equals_the_original(data, name):
    with safe_open(data / "recenter.safetensors", "pt") as file:
        rgba = file.get_tensor(f"{name}.in").permute(2, 0, 1) / 255
        expected = file.get_tensor(f"{name}.out").permute(2, 0, 1)
        expected_float = file.get_tensor("tall.out_float").permute(2, 0, 1).float()
    ours = recenter(rgba)
    # The original truncates to bytes, where a last-bit difference costs a whole 1.
    difference = ((ours * 255).byte().int() - expected.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01
    if name == "tall":
        torch.testing.assert_close(ours, expected_float, atol=1e-3, rtol=0)


def test_recenter_puts_a_large_object_into_the_border():
    rgba = torch.zeros(4, 100, 60)
    rgba[:, 2:99, 5:56] = 1
    mask = recenter(rgba)[3] > 0
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    assert mask.shape == (100, 100)
    assert (rows.min(), rows.max()) == (10, 89)  # 0.8 of the side, in the middle
    assert abs(int(columns.min() + columns.max()) - 99) <= 1


def test_recenter_needs_an_object():
    with pytest.raises(ValueError, match="mask is empty"):
        recenter(torch.zeros(4, 9, 9))


INPUTS = Path(__file__).parents[2] / "example_workflows" / "inputs"


def object_box(rgba):
    """Top, bottom, left, right of what is more than matte noise, the ends excluded."""
    solid = rgba[3] > 0.05
    rows, columns = solid.any(1).nonzero()[:, 0], solid.any(0).nonzero()[:, 0]
    return tuple(map(int, (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)))


def heights_and_widths(pictures):
    boxes = torch.tensor([object_box(picture) for picture in pictures])
    return (boxes[:, 1] - boxes[:, 0]).tolist(), (boxes[:, 3] - boxes[:, 2]).tolist()


@pytest.fixture(scope="module", params=["spot", "fox", "water_bottle"])
def example_views(request):
    paths = [INPUTS / request.param / f"{azimuth}.png" for azimuth in (0, 90, 180, 270)]
    return torch.stack([cut_out(square(load_image(path), 256))[0] for path in paths])


def rescaled_and_shifted(views):
    """The views as four careless photos of 300 x 400 pixels."""
    photos = torch.zeros(4, 4, 300, 400)
    for photo, view, size, y, x in zip(
        photos, views, (256, 180, 221, 110), (10, 60, 79, 150), (5, 200, 100, 0), strict=True
    ):
        photo[:, y : y + size, x : x + size] = resize_rgba(view, size, size)
    return photos


def test_recentering_together_brings_heights_together(example_views):
    photos = rescaled_and_shifted(example_views)
    assert len(set(heights_and_widths(photos)[0])) > 2
    together = recenter_together(photos)
    assert together.shape == (4, 4, 400, 400)
    heights, widths = heights_and_widths(together)
    assert max(heights) - min(heights) <= 1
    assert abs(max(heights + widths) - 0.8 * 400) <= 1
    true_heights, true_widths = heights_and_widths(example_views)
    for height, width, true_height, true_width in zip(
        heights, widths, true_heights, true_widths, strict=True
    ):
        # The boxes of the smallest photo are known to a pixel of about 80.
        assert width / height == pytest.approx(true_width / true_height, rel=0.04)
    for picture in together:
        top, bottom, left, right = object_box(picture)
        assert abs(top + bottom - 400) <= 2 and abs(left + right - 400) <= 2


def test_recentering_together_undoes_scale_and_place(example_views):
    expected = recenter_together(F.pad(example_views, (72, 72, 72, 72)))
    together = recenter_together(rescaled_and_shifted(example_views))
    ours, theirs = composite_on_white(together[:1]), composite_on_white(expected[:1])
    assert (ours - theirs).abs().mean() < 0.01  # the photo that kept its size
    assert (composite_on_white(together) - composite_on_white(expected)).abs().mean() < 0.02


def test_recentering_together_ignores_matte_noise_and_hidden_colors():
    rgba = torch.zeros(2, 4, 60, 80)
    rgba[:, 1] = 1  # hidden green
    rgba[0, :, 10:40, 20:30] = torch.tensor([1.0, 0, 0, 1])[:, None, None]
    rgba[0, :, 11:39:2, 20:30] = torch.tensor([0.0, 1, 0, 0])[:, None, None]
    rgba[1, :, 20:50, 5:65] = torch.tensor([1.0, 0, 0, 1])[:, None, None]
    clean = recenter_together(rgba)
    noise = 0.049 * torch.rand(2, 60, 80, generator=torch.Generator().manual_seed(0))
    noise[0, 10:40, 20:30] = 0
    rgba[:, 3] = torch.maximum(rgba[:, 3], noise)
    torch.testing.assert_close(recenter_together(rgba), clean)
    # 60 of 30 x 60 is the largest extent: it fills 64 of 80, so heights are 32.
    assert [object_box(picture) for picture in clean] == [(24, 56, 34, 45), (24, 56, 8, 72)]
    assert (clean[:, 1] * clean[:, 3]).max() < 1e-6


def test_recentering_together_of_one_tall_picture_is_recentering():
    rgba = torch.zeros(1, 4, 100, 60)
    rgba[:, :, 2:99, 5:56] = 1
    assert object_box(recenter_together(rgba)[0])[:2] == (10, 90)
    assert recenter_together(rgba.half()).dtype == torch.float16


def test_recentering_together_says_what_is_wrong():
    rgba = torch.zeros(3, 4, 8, 8)
    rgba[[0, 2], :, 2:6, 2:6] = 1
    rgba[1, 3] = 0.04
    with pytest.raises(ValueError, match=r"Picture 2 shows no object \(alpha is 0\.04"):
        recenter_together(rgba)
    with pytest.raises(ValueError, match=r"\[V, 4, H, W\] with alpha, got \[3, 3, 8, 8\]"):
        recenter_together(rgba[:, :3])
    with pytest.raises(ValueError, match="below 1, got 1"):
        recenter_together(rgba[[0, 2]], 1.0)


def test_square_pads_in_the_middle_and_never_bleeds_hidden_color():
    rgba = torch.zeros(4, 8, 16)
    rgba[1] = 1  # hidden green
    rgba[:, :, 4:12] = torch.tensor([1.0, 0, 0, 1])[:, None, None]
    out = square(rgba, 6)
    assert out.shape == (4, 6, 6)
    assert out[3].sum() == pytest.approx(8 * 8 / 16**2 * 36, rel=1e-5)
    torch.testing.assert_close(out, out.flip(1))
    visible = out[:, out[3] > 0]
    assert visible[0].min() > 0.999 and visible[1].max() < 1e-3


# Cutting out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.2, 0.7, 0.3), (0.0, 0.0, 0.0)])
def test_keyer_recovers_coverage_and_color(background):
    image, truth = disc(background)
    keyed = key_flat_background(image)
    assert (keyed[3] - truth).abs().max() < 0.03
    solid = truth > 0.1
    assert (keyed[:3] - torch.tensor([0.8, 0.2, 0.1])[:, None, None])[:, solid].abs().max() < 0.03
    again = keyed[:3] * keyed[3] + torch.tensor(background)[:, None, None] * (1 - keyed[3])
    assert (again - image).abs().max() < 0.03


def test_keyer_survives_jpeg_noise():
    image, truth = disc()
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) * 0.06 - 0.03
    keyed = key_flat_background((image + noise).clamp(0, 1))
    assert (keyed[3] - truth).abs().mean() < 0.01


def test_keyer_keeps_enclosed_parts_in_the_background_color_of_photos():
    image, _ = disc()
    image[:, 28:36, 28:36] = 1
    noise = 0.02 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    assert key_flat_background(image - noise)[3, 28:36, 28:36].min() == 1


def test_keyer_sees_through_holes_of_rendered_pictures():
    image, _ = disc()
    image[:, 28:36, 28:36] = 1
    alpha = key_flat_background(image)[3]
    assert alpha[29:35, 29:35].max() == 0
    assert alpha[24, 24] == 1


def test_keyer_gives_up_where_nothing_is_flat_or_nothing_is_there():
    assert key_flat_background(torch.rand(3, 32, 32)) is None
    assert key_flat_background(torch.full((3, 32, 32), 0.5)) is None


def pictures_to_cut() -> dict[str, torch.Tensor]:
    """One of each kind [4, 64, 64]; `mask` is a mask [1, 64, 64]."""
    image, _ = disc()
    alpha = torch.ones(1, 64, 64)
    half, mask = alpha.clone(), torch.zeros(1, 64, 64)
    half[:, :32] = 0
    mask[:, 16:48, 16:48] = 1
    busy = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    return {
        "transparent": torch.cat([busy, half]),
        "flat": torch.cat([image, alpha]),
        "busy": torch.cat([busy, alpha]),
        "blank": torch.cat([torch.full((3, 64, 64), 0.5), alpha]),
        "mask": mask,
    }


# What `auto` does: picture, with a mask, with rembg's network here -> how it is cut out. "refused"
# is where nothing tells the object, "no object" where all is background.
AUTO = [
    ("transparent", True, True, "mask"),
    ("flat", True, True, "mask"),
    ("busy", True, False, "mask"),
    ("transparent", False, True, "alpha"),
    ("transparent", False, False, "alpha"),
    ("flat", False, True, "flat background"),
    ("flat", False, False, "flat background"),
    ("busy", False, True, "rembg"),
    ("busy", False, False, "refused"),
    ("blank", False, True, "no object"),
    ("blank", False, False, "no object"),
]


@pytest.fixture
def rembg(monkeypatch):
    """Call it with True for a rembg that finds the upper half, with False for none."""

    def install(ready: bool) -> None:
        upper = torch.zeros(1, 64, 64)
        upper[:, :32] = 1
        monkeypatch.setattr(matte, "rembg_is_ready", lambda: ready)
        monkeypatch.setattr(matte, "rembg_alpha", lambda image: upper)

    return install


@pytest.mark.parametrize(("name", "masked", "ready", "way"), AUTO)
def test_auto_means_the_same_everywhere(tmp_path, caplog, rembg, name, masked, ready, way):
    rembg(ready)
    pictures = pictures_to_cut()
    rgba, mask = pictures[name], pictures["mask"] if masked else None
    kept = way in ("refused", "no object")
    if kept:
        expected = rgba
        with pytest.raises(ValueError, match="several colors" if way == "refused" else "nothing"):
            cut_out(rgba, "auto", mask)
        with pytest.raises(ValueError, match="several colors" if way == "refused" else "nothing"):
            matte.object_picture(rgba, mask)
    else:
        expected, said = cut_out(rgba, "auto", mask)
        assert said == way
        torch.testing.assert_close(expected, cut_out(rgba, way, mask)[0])
        torch.testing.assert_close(
            matte.object_picture(rgba, mask), composite_on_white(square(recenter(expected), 64))
        )
        assert cut_out(rgba, "auto", mask, otherwise="keep")[1] == way
    if way == "refused":
        same, said = cut_out(rgba, "auto", otherwise="keep")
        assert same is rgba and said == "none"
    if masked:
        return
    other = save_rgba(tmp_path / "other.png", pictures["transparent"])
    views = load_views([save_rgba(tmp_path / "view.png", rgba), other, other, other], 64)
    assert views.shape[1] == (3 if kept else 4)
    view = views[0] if kept else composite_on_white(views[0])
    torch.testing.assert_close(view, composite_on_white(expected), atol=0.03, rtol=0)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == (way == "refused")
    assert all(message.startswith("1 of 4 views keep their background") for message in warned)
    if name != "transparent":
        four = rgba[:3].expand(4, 3, 64, 64)
        if way == "no object":
            with pytest.raises(ValueError, match="0°, front, shows nothing"):
                matte.views_on_white(four)
            return
        on_white, left = matte.views_on_white(four)
        assert left == (4 if kept else 0)
        whole = rgba[:3] if kept else composite_on_white(recenter(cut_out(rgba)[0]))
        torch.testing.assert_close(on_white[3], whole)


def test_a_way_that_is_asked_for_is_taken(monkeypatch):
    pictures = pictures_to_cut()
    rgba = pictures["transparent"]
    assert cut_out(rgba, "none", pictures["mask"]) == (rgba, "none")
    assert cut_out(rgba, "alpha", pictures["mask"])[0] is rgba
    assert torch.equal(cut_out(rgba, "mask", pictures["mask"])[0][3:], pictures["mask"])
    with pytest.raises(ValueError, match="needs a mask"):
        cut_out(rgba, "mask")
    with pytest.raises(ValueError, match="four channels"):
        cut_out(pictures["flat"], "alpha")
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(RuntimeError, match="pip install"):
        cut_out(rgba, "rembg")


def test_rembg_offline_names_the_file(monkeypatch):
    def offline(model):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "rembg", types.SimpleNamespace(new_session=offline))
    with pytest.raises(RuntimeError, match=r"u2net\.onnx"):
        cut_out(torch.ones(4, 8, 8), "rembg")


# Views ----------------------------------------------------------------------------------------


def save_rgba(path, rgba):
    pixels = (rgba * 255).round().byte().permute(1, 2, 0).numpy()
    return save(path, Image.fromarray(pixels))


def test_views_stay_where_they_are(tmp_path):
    rgba = torch.zeros(4, 64, 64)
    rgba[:, 4:20, 40:60] = torch.tensor([0.2, 0.4, 0.6, 1])[:, None, None]
    views = load_views([save_rgba(tmp_path / "v.png", rgba)] * 4, size=32)
    assert views.shape == (4, 4, 32, 32)
    torch.testing.assert_close(views[2], F.avg_pool2d(rgba, 2), atol=1e-5, rtol=0)


def test_views_without_a_known_outline_come_on_white(tmp_path):
    noise = save_rgba(
        tmp_path / "noise.png", torch.cat([torch.rand(3, 40, 20), torch.ones(1, 40, 20)])
    )
    clear = save_rgba(tmp_path / "clear.png", F.pad(torch.ones(4, 8, 8), (4, 4, 4, 4)))
    views = load_views([noise, clear, clear, clear], size=40)
    assert views.shape == (4, 3, 40, 40)
    assert views[0, :, :, :10].eq(1).all()  # the padding of the narrow picture


def test_composite_on_white_takes_any_batch():
    rgba = torch.rand(2, 4, 4, 5, 5)
    expected = rgba[:, :, :3] * rgba[:, :, 3:] + 1 - rgba[:, :, 3:]
    torch.testing.assert_close(composite_on_white(rgba), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_float_pictures_need_finite_pixels(tmp_path, value):
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[3, 3] = value
    path = tmp_path / "gray.tif"
    Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=r"gray\.tif .*NaN or infinite"):
        load_image(path)


def test_a_folder_is_no_damaged_picture(tmp_path):
    with pytest.raises(ValueError, match="can't be read"):
        load_image(tmp_path)


def test_four_even_pictures_show_no_object(tmp_path):
    blank, spot = tmp_path / "blank.png", tmp_path / "spot.png"
    picture = Image.new("RGB", (16, 16), "white")
    picture.save(blank)
    picture.putpixel((8, 8), (0, 0, 0))
    picture.save(spot)
    with pytest.raises(ValueError, match=r"blank\.png .* no object"):
        load_views([blank] * 4, 16)
    assert load_views([spot, blank, blank, blank], 16).shape[0] == 4  # thin, seen from its edge
