"""Pictures on their way to the network."""

from __future__ import annotations

import pytest
import torch
from server import PromptServer

SIDES = ("front", "left", "back", "right")


@pytest.fixture(scope="module")
def numbered():
    """Four pictures [4, 8, 8, 3], each of its own gray."""
    return torch.tensor([0.1, 0.3, 0.5, 0.7])[:, None, None, None].expand(4, 8, 8, 3)


def grays(views):
    return [round(float(value), 4) for value in views[:, 4, 4, 0]]


# Example Views ------------------------------------------------------------------------------------


def test_examples_are_four_views_of_a_real_object(pack):
    options = pack["LGM_ExampleViews"].define_schema().inputs[0].options["options"]
    assert len(options) >= 5
    for name in options:
        views, masks = pack.run("LGM_ExampleViews", object=name)
        assert views.shape[0] == 4 and views.shape[-1] == 3 and masks.shape == views.shape[:3]
        assert 0.05 < masks.mean() < 0.8
        assert (views[masks == 0] == 1).all()  # white


# Arrange Views ------------------------------------------------------------------------------------


def test_named_images_batch_and_grid_agree(pack, numbered):
    named = dict(zip(SIDES, numbered[:, None], strict=True))
    top, bottom = torch.cat([*numbered[:2]], dim=1), torch.cat([*numbered[2:]], dim=1)
    sources = (
        {"source": "four images", **named},
        {"source": "batch", "images": numbered},
        {"source": "2x2 grid", "grid": torch.cat([top, bottom])[None]},
    )
    for source in sources:
        views, sheet = pack.run("LGM_ArrangeViews", source=source)
        torch.testing.assert_close(views, numbered)
        assert sheet.shape == (1, 8, 32, 3)
        assert grays(sheet[0].reshape(8, 4, 8, 3).movedim(1, 0)) == [0.1, 0.3, 0.5, 0.7]


def test_two_objects_stay_apart(pack, numbered):
    both = torch.cat([numbered, numbered + 0.05])
    named = {side: both[[i, i + 4]] for i, side in enumerate(SIDES)}
    views, sheets = pack.run("LGM_ArrangeViews", source={"source": "four images", **named})
    torch.testing.assert_close(views, both)
    assert len(sheets) == 2


def test_orders(pack, numbered):
    def arranged(**order):
        return grays(
            pack.run("LGM_ArrangeViews", source={"source": "batch", "images": numbered, **order})[0]
        )

    # MVDream starts at the object's own right, and its second picture is the front.
    assert arranged(order="MVDream") == [0.3, 0.5, 0.7, 0.1]
    assert arranged(order="custom", custom_order="3 2 1 0") == [0.7, 0.5, 0.3, 0.1]


def test_custom_order_chooses_from_many(pack, numbered):
    six = torch.cat([numbered, numbered[:2] + 0.05])
    source = {"source": "batch", "images": six, "order": "custom", "custom_order": "5,3,1,0"}
    assert grays(pack.run("LGM_ArrangeViews", source=source)[0]) == [0.35, 0.7, 0.3, 0.1]


def test_masks_make_the_rest_background(pack, numbered):
    masks = torch.zeros(4, 8, 8)
    masks[:, 2:6, 2:6] = 1
    views, _ = pack.run(
        "LGM_ArrangeViews", source={"source": "batch", "images": numbered}, masks=masks
    )
    assert (views[:, 0, 0] == 1).all()
    assert grays(views) == [0.1, 0.3, 0.5, 0.7]


def test_pictures_of_other_shapes_are_padded_not_stretched(pack):
    square = torch.full((1, 8, 8, 3), 0.5)
    wide = torch.full((1, 8, 16, 3), 0.5)
    sides = {side: square for side in SIDES} | {"left": wide}
    views, _ = pack.run("LGM_ArrangeViews", source={"source": "four images", **sides})
    assert views.shape == (4, 8, 8, 3)
    assert (views[1, :2] == 1).all() and (views[1, -2:] == 1).all()  # white bars
    torch.testing.assert_close(views[1, 3:5], torch.full((2, 8, 3), 0.5))


def test_a_mask_of_the_background_is_understood(pack, numbered):
    masks = torch.zeros(4, 8, 8)
    masks[:, 2:6, 2:6] = 1
    source = {"source": "batch", "images": numbered}
    ours = pack.run("LGM_ArrangeViews", source=source, masks=masks)[0]
    torch.testing.assert_close(
        pack.run("LGM_ArrangeViews", source=source, masks=1 - masks)[0], ours
    )


@pytest.mark.parametrize(
    "source, needed",
    [
        ({"source": "batch", "images": torch.rand(3, 8, 8, 3)}, "got 3"),
        ({"source": "2x2 grid", "grid": torch.rand(1, 2, 2, 3)}, "2x2 grid"),
        (
            {"source": "batch", "images": torch.rand(4, 8, 8, 3), "order": "custom",
             "custom_order": "0, 1"},
            "four numbers",
        ),
        (
            {"source": "batch", "images": torch.rand(4, 8, 8, 3), "order": "custom",
             "custom_order": "0, 1, 2, 9"},
            "picture 9",
        ),
        (
            {"source": "four images", "front": torch.rand(2, 8, 8, 3),
             "left": torch.rand(1, 8, 8, 3), "back": torch.rand(1, 8, 8, 3),
             "right": torch.rand(1, 8, 8, 3)},
            "equally many",
        ),
    ],
)  # fmt: skip
def test_wrong_pictures_are_named(pack, source, needed):
    with pytest.raises(ValueError, match=needed):
        pack.run("LGM_ArrangeViews", source=source)


# Prepare Image ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cutout(pack):
    """A picture [1, H, W, 3] on gray, and the object's mask [1, H, W]."""
    image, masks = pack.run("LGM_ExampleViews", object="avocado", background="#808080")
    return image[:1], masks[:1]


def overlap(a, b):
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


def test_flat_background_mask_and_alpha_cut_the_same(pack, cutout):
    image, mask = cutout
    rgba = torch.cat([image, mask[..., None]], dim=-1)
    ways = [
        pack.run("LGM_PrepareImage", image=image, center="off"),
        pack.run("LGM_PrepareImage", image=image, mask=mask, center="off"),
        pack.run("LGM_PrepareImage", image=rgba, center="off"),
    ]
    for prepared, got in ways:
        assert prepared.shape == (1, 256, 256, 3)
        assert overlap(got, ways[1][1]) > 0.97
        assert (prepared[:, :4] == 1).all()


def test_both_kinds_of_mask_are_understood(pack, cutout):
    image, mask = cutout
    ours = pack.run("LGM_PrepareImage", image=image, mask=mask)[1]
    load_images = pack.run("LGM_PrepareImage", image=image, mask=1 - mask)[1]
    torch.testing.assert_close(ours, load_images)
    explicit = pack.run("LGM_PrepareImage", image=image, mask=1 - mask, mask_shows="background")[1]
    torch.testing.assert_close(ours, explicit)


def test_an_empty_mask_is_no_mask(pack, cutout):
    image, _ = cutout
    with_empty = pack.run("LGM_PrepareImage", image=image, mask=torch.zeros(1, 64, 64))
    without = pack.run("LGM_PrepareImage", image=image)
    torch.testing.assert_close(with_empty, without)


def test_each_object_fills_all_but_the_border(pack, cutout):
    image, mask = cutout
    for border in (0.2, 0.4):
        got = pack.run("LGM_PrepareImage", image=image, mask=mask, border_ratio=border)[1][0] > 0.5
        extent = max(int(got.any(0).sum()), int(got.any(1).sum()))
        assert extent == pytest.approx(256 * (1 - border), abs=4)


def test_views_together_get_one_height(pack):
    views, masks = pack.run("LGM_ExampleViews", object="flight_helmet")
    got = pack.run("LGM_PrepareImage", image=views, mask=masks, center="views together")[1] > 0.5
    heights = got.any(2).sum(1)
    assert int(heights.max() - heights.min()) <= 2


def test_a_busy_background_needs_a_mask(pack):
    with pytest.raises(ValueError, match="connect a mask"):
        pack.run("LGM_PrepareImage", image=torch.rand(1, 32, 32, 3))
    with pytest.raises(ValueError, match="mask"):
        pack.run("LGM_PrepareImage", image=torch.rand(1, 32, 32, 3), cut_out="mask")
    with pytest.raises(ValueError, match="four channels"):
        pack.run("LGM_PrepareImage", image=torch.rand(1, 32, 32, 3), cut_out="alpha")


def test_what_auto_cannot_tell_may_stay_whole(pack, cutout):
    """The same as 'auto' where that can tell; as it is, and said, where it can't."""
    even, _ = cutout
    busy = torch.rand(even.shape, generator=torch.Generator().manual_seed(0))
    one_color = torch.full_like(even, 0.5)
    given = {"image": torch.cat([even, busy, one_color]), "cut_out": "auto, else none"}
    prepared, mask = pack.run("LGM_PrepareImage", **given, size=even.shape[1])
    assert PromptServer.texts[-1][1] == "cut out by flat background; 2 kept whole"
    as_auto = pack.run("LGM_PrepareImage", image=even, size=even.shape[1])
    torch.testing.assert_close((prepared[:1], mask[:1]), as_auto)
    torch.testing.assert_close(prepared[1:], torch.cat([busy, one_color]), atol=1e-5, rtol=0)
    assert (mask[1:] == 1).all()

    pack.run("LGM_PrepareImage", image=busy, cut_out="auto, else none")
    assert PromptServer.texts[-1][1] == "1 kept whole"
    pack.run("LGM_PrepareImage", image=busy, mask=cutout[1], cut_out="auto, else none")
    assert PromptServer.texts[-1][1] == "cut out by mask"


def test_none_keeps_the_whole_picture(pack):
    image = torch.rand(2, 64, 64, 3)
    prepared, mask = pack.run(
        "LGM_PrepareImage", image=image, cut_out="none", center="off", size=64
    )
    torch.testing.assert_close(prepared, image, atol=1e-5, rtol=0)
    assert (mask == 1).all()


def test_a_picture_that_is_all_object_keeps_its_size(pack):
    image = torch.rand(1, 64, 64, 3)
    prepared, _ = pack.run("LGM_PrepareImage", image=image, cut_out="none", size=64)
    torch.testing.assert_close(prepared, image, atol=1e-5, rtol=0)


def test_rembg_is_missing_in_one_sentence(pack, cutout, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rembg", None)
    with pytest.raises(RuntimeError, match="pip install"):
        pack.run("LGM_PrepareImage", image=cutout[0], cut_out="rembg")
