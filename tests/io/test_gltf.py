"""glTF with KHR_gaussian_splatting: what the standard says, and documents that lie."""

from __future__ import annotations

import base64
import copy
import io
import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from lgm.gaussians import colors_toward
from lgm.io import read_gltf, write_gltf

FUZZ = settings(max_examples=100, deadline=None, database=None)
KHR = "KHR_gaussian_splatting"


def glb(document, binary: bytes = b"", version: int = 2) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    body += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", version, 12 + len(body)) + body


def unpack(data: bytes) -> tuple[dict, bytes]:
    """JSON and binary chunk of a GLB, by the letter of the specification."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    start = 20 + size
    rest, kind = struct.unpack_from("<I4s", data, start)
    assert kind == b"BIN\0" and rest % 4 == 0 and start + 8 + rest == length
    return json.loads(data[20:start]), data[start + 8 :]


BANDS = [f"{KHR}:SH_DEGREE_{l}_COEF_{i}" for l in (1, 2, 3) for i in range(2 * l + 1)]


def by_hand(
    types: dict[str, tuple[int, str]] | None = None,
    space: str = "srgb_rec709_display",
    bands: list[str] = (),
):
    """Two equal Gaussians, interleaved; `types`: component type and struct code by semantic.

    `bands`: higher ones to add, which grow by 0.1 from each to the next and by 1 from red to blue.
    """
    values = {
        "POSITION": ("VEC3", (1, 2, 3)),
        f"{KHR}:ROTATION": ("VEC4", (0, 0, 0, 1)),  # x, y, z, w
        f"{KHR}:SCALE": ("VEC3", (1, 2, 3)),
        f"{KHR}:OPACITY": ("SCALAR", (1,)),
        f"{KHR}:SH_DEGREE_0_COEF_0": ("VEC3", (0, 1, -1)),
    }
    values |= {name: ("VEC3", (i / 10, i / 10 + 1, i / 10 + 2)) for i, name in enumerate(bands)}
    accessors, record = [], b""
    for semantic, (kind, value) in values.items():
        component, code = (types or {}).get(semantic, (5126, "f"))
        normalized = semantic.endswith(("ROTATION", "OPACITY")) and component != 5126
        largest = {5120: 127, 5121: 255, 5122: 32767, 5123: 65535}.get(component, 1)
        numbers = [round(v * largest) for v in value] if normalized else value
        accessor = {"bufferView": 0, "byteOffset": len(record), "componentType": component}
        accessors.append(accessor | {"count": 2, "type": kind, "normalized": normalized})
        record += struct.pack(f"<{len(value)}{code}", *numbers)
        record += bytes(-len(record) % 4)
    splat = {"kernel": "ellipse", "colorSpace": space}
    primitive = {"mode": 0, "attributes": {s: i for i, s in enumerate(values)}}
    document = {
        "asset": {"version": "2.0"},
        "extensionsUsed": [KHR],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive | {"extensions": {KHR: splat}}]}],
        "accessors": accessors,
        "bufferViews": [{"buffer": 0, "byteLength": 2 * len(record), "byteStride": len(record)}],
        "buffers": [{"byteLength": 2 * len(record)}],
    }
    return document, record * 2


def edited(*path, value=None, base=None) -> bytes:
    """A valid file with the JSON entry at `path` replaced; removed if there is no value."""
    document, binary = by_hand() if base is None else base
    *parents, last = path
    target = document
    for key in parents:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return glb(document, binary)


def test_round_trip_is_lossless(gaussians, assert_same):
    assert_same(
        read_gltf(write_gltf(None, gaussians)), gaussians, positions=0, opacities=0, scales=0
    )


def test_attributes_are_those_of_the_standard(gaussians):
    """+y up, linear scale, opacity 0..1, quaternion xyzw, degree-0 color: without our reader."""
    document, binary = unpack(write_gltf(None, gaussians))
    assert document["extensionsUsed"] == [KHR] and document["asset"]["version"] == "2.0"
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert primitive["extensions"][KHR] == {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
    }

    def attribute(semantic: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][semantic]]
        view = document["bufferViews"][accessor["bufferView"]]
        assert accessor["componentType"] == 5126 and view["byteOffset"] % 4 == 0
        data = binary[view["byteOffset"] :][: view["byteLength"]]
        return np.frombuffer(data, "<f4").reshape(accessor["count"], -1)

    record = gaussians.map(lambda tensor: tensor.double())
    for semantic, expected in {
        "POSITION": record.positions,
        f"{KHR}:ROTATION": record.rotations.roll(-1, -1),
        f"{KHR}:SCALE": record.scales,
        f"{KHR}:OPACITY": record.opacities,
        f"{KHR}:SH_DEGREE_0_COEF_0": (record.colors - 0.5) * 2 * np.sqrt(np.pi),
    }.items():
        np.testing.assert_allclose(attribute(semantic), expected[0], atol=1e-6)
    accessor = document["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_array_equal(accessor["max"], gaussians.positions[0].amax(0))
    np.testing.assert_array_equal(accessor["min"], gaussians.positions[0].amin(0))


def test_viewers_without_splats_see_an_upright_point_cloud(gaussians):
    scene = trimesh.load(io.BytesIO(write_gltf(None, gaussians)), file_type="glb")
    (points,) = scene.geometry.values()
    np.testing.assert_allclose(points.vertices, gaussians.positions[0], atol=1e-6)
    # COLOR_0 is linear: middle gray, sRGB 0.5, is 0.214 of white.
    gaussians = gaussians.map(torch.Tensor.clone)
    gaussians.colors[:] = 0.5
    scene = trimesh.load(io.BytesIO(write_gltf(None, gaussians)), file_type="glb")
    (points,) = scene.geometry.values()
    assert (points.colors[:, :3] == round(0.2140 * 255)).all()


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize(
    "types",
    [
        {},
        {
            f"{KHR}:ROTATION": (5120, "b"),
            f"{KHR}:SCALE": (5121, "B"),
            f"{KHR}:OPACITY": (5121, "B"),
        },
        {
            f"{KHR}:ROTATION": (5122, "h"),
            f"{KHR}:SCALE": (5123, "H"),
            f"{KHR}:OPACITY": (5123, "H"),
        },
        {"POSITION": (5122, "h")},
    ],
)
def test_every_permitted_type_is_read(types, embedded):
    document, binary = by_hand(types)
    data = glb(document, binary)
    if embedded:
        uri = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
        document["buffers"][0]["uri"] = uri
        data = json.dumps(document, indent=1).encode()
    gaussians = read_gltf(data)
    close = torch.testing.assert_close
    for index in range(2):
        close(gaussians.positions[0, index], torch.tensor([1.0, 2, 3]))
        close(gaussians.rotations[0, index], torch.tensor([1.0, 0, 0, 0]))
        close(gaussians.scales[0, index], torch.tensor([1.0, 2, 3]))
        close(gaussians.opacities[0, index], torch.tensor([1.0]))
        close(gaussians.colors[0, index], torch.tensor([0.5, 0.78209479, 0.21790521]))


def test_linear_colors_become_srgb():
    gray = read_gltf(glb(*by_hand(space="lin_rec709_display", bands=BANDS[:3])))
    torch.testing.assert_close(gray.colors[0, 0, 0], torch.tensor(0.7353570))  # of linear 0.5
    assert gray.sh is None  # said in the docstring: what is linear in light isn't in sRGB


@pytest.mark.parametrize("bands", [3, 8, 15])
def test_higher_bands_are_attributes_of_the_standard(bands, random_gaussians, assert_same):
    gaussians = random_gaussians(40, bands=bands)
    data = write_gltf(None, gaussians)
    assert_same(read_gltf(data), gaussians, positions=0, opacities=0, scales=0, sh=0)
    names = unpack(data)[0]["meshes"][0]["primitives"][0]["attributes"]
    assert [name for name in names if "SH_DEGREE" in name][1:] == BANDS[:bands]
    sh = read_gltf(glb(*by_hand(bands=BANDS[:bands]))).sh
    expected = torch.arange(bands)[:, None] / 10 + torch.arange(3)
    torch.testing.assert_close(sh, expected.expand(1, 2, -1, -1))


def test_turned_nodes_show_turned_sides():
    """A color seen in a direction moves with the node: a quarter turn about z takes x to y."""
    document, binary = by_hand(bands=BANDS)
    plain = read_gltf(glb(document, binary))
    document["nodes"][0] |= {"rotation": [0, 0, 0.5**0.5, 0.5**0.5], "scale": [2, 2, 2]}
    turned = read_gltf(glb(document, binary))
    for x, y, z in [(3.0, 0.5, 1.0), (-1.0, 2.0, 0.3), (0.4, 0.1, -2.0)]:
        expected = colors_toward(plain, plain.positions[0, 0] + torch.tensor([x, y, z]))
        found = colors_toward(turned, turned.positions[0, 0] + torch.tensor([-y, x, z]))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_splats_with_and_without_bands_are_joined():
    document, binary = by_hand(bands=BANDS[:3])
    plain = copy.deepcopy(document["meshes"][0]["primitives"][0])
    for name in BANDS[:3]:
        del plain["attributes"][name]
    document["meshes"][0]["primitives"].append(plain)
    sh = read_gltf(glb(document, binary)).sh
    assert sh.shape == (1, 4, 3, 3) and sh[0, :2].any() and not sh[0, 2:].any()


NODES = [
    {"translation": [1, 2, 3], "rotation": [0, 0, 0.6, 0.8], "scale": [2, 2, 2], "mesh": 0},
    # The same as a matrix, column by column: cos = 0.28, sin = 0.96.
    {"matrix": [0.56, 1.92, 0, 0, -1.92, 0.56, 0, 0, 0, 0, 2, 0, 1, 2, 3, 1], "mesh": 0},
]


@pytest.mark.parametrize("node", NODES)
def test_nodes_place_their_splat(node, rotation_matrices):
    base = by_hand()
    base[0]["nodes"] = [{"children": [1], "translation": [0, 0, 10]}, node]
    gaussians = read_gltf(glb(*base))
    close = torch.testing.assert_close
    close(gaussians.positions[0, 0], torch.tensor([0.56 - 3.84 + 1, 1.92 + 1.12 + 2, 6 + 3 + 10.0]))
    close(gaussians.scales[0, 0], torch.tensor([2.0, 4, 6]))
    expected = torch.tensor([[0.28, -0.96, 0], [0.96, 0.28, 0], [0, 0, 1]], dtype=torch.float64)
    close(rotation_matrices(gaussians.rotations)[0, 0], expected, atol=1e-6, rtol=0)


@FUZZ
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: max(map(abs, q)) > 0.1))
def test_rotated_nodes_rotate_ellipsoids_and_centers_alike(rotation_matrices, xyzw):
    document, binary = by_hand()
    document["nodes"][0]["rotation"] = xyzw
    gaussians = read_gltf(glb(document, binary))
    turn = rotation_matrices(torch.nn.functional.normalize(torch.tensor(xyzw).roll(1), dim=0))
    close = torch.testing.assert_close
    close(rotation_matrices(gaussians.rotations)[0, 0], turn, atol=1e-5, rtol=0)
    center = turn @ torch.tensor([1.0, 2, 3]).double()
    close(gaussians.positions[0, 0].double(), center, atol=1e-5, rtol=0)


def test_all_splats_of_the_scene_are_joined():
    document, binary = by_hand()
    first = document["meshes"][0]["primitives"][0]
    second = copy.deepcopy(first)
    document["accessors"] += copy.deepcopy(document["accessors"])
    second["attributes"] = {key: index + 5 for key, index in second["attributes"].items()}
    document["bufferViews"].append({**document["bufferViews"][0], "byteOffset": len(binary)})
    for accessor in document["accessors"][5:]:
        accessor["bufferView"] = 1
    document["meshes"] += [{"primitives": [second, {"attributes": {"POSITION": 0}}]}]
    document["nodes"] = [{"mesh": 0}, {"mesh": 1}, {"mesh": 0}]  # the last is in no scene
    document["scenes"] = [{"nodes": [0, 1]}]
    assert read_gltf(glb(document, binary * 2)).count == 4
    del document["scenes"], document["scene"]
    assert read_gltf(glb(document, binary * 2)).count == 4


def test_no_other_file_is_opened(tmp_path, monkeypatch):
    document, binary = by_hand()
    (tmp_path / "data.bin").write_bytes(binary)
    monkeypatch.chdir(tmp_path)
    for uri in ("data.bin", str(tmp_path / "data.bin"), (tmp_path / "data.bin").as_uri(), "//h/x"):
        document["buffers"][0]["uri"] = uri
        (tmp_path / "splat.gltf").write_text(json.dumps(document))
        with pytest.raises(ValueError, match=r"splat\.gltf keeps data in other files"):
            read_gltf(tmp_path / "splat.gltf")


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def copies(count: int) -> bytes:
    document, binary = by_hand()
    document["nodes"] *= count
    document["scenes"][0]["nodes"] = list(range(count))
    return glb(document, binary)


def values(offset: int, *numbers: float) -> bytes:
    document, binary = by_hand()
    changed = bytearray(binary)
    struct.pack_into(f"<{len(numbers)}f", changed, offset, *numbers)
    return glb(document, bytes(changed))


PRIMITIVE = ("meshes", 0, "primitives", 0)
SPLAT = (*PRIMITIVE, "extensions", KHR)
CHAIN = [{"children": [i + 1], "scale": [1e14] * 3} for i in range(50)] + [{"mesh": 0}]
BAD_FILES = [
    (b"", "JSON can't be read"),
    (b"[]", "JSON is not an object"),
    (b"{}", "no Gaussian splat"),
    (b"\xff\xfe\x00", "JSON can't be read"),
    (nested(200_000), "JSON can't be read"),
    (b"1" * 10_000, "is not a valid glTF"),
    (b"glTF", "ends within its header"),
    (glb(*by_hand(), version=1), "version 1"),
    (glb(*by_hand())[:-1], "needed are version 2"),
    (glb(*by_hand())[:8] + struct.pack("<I", 12), "first chunk is not JSON"),
    (glb(*by_hand()).replace(b"JSON", b"JSOM"), "first chunk is not JSON"),
    (glb(*by_hand())[:12] + struct.pack("<I", 10**9) + glb(*by_hand())[16:], "is truncated"),
    (edited(*SPLAT), "no mesh in its scene"),
    (edited(*PRIMITIVE, "attributes", "POSITION"), "lacks POSITION"),
    (edited(*PRIMITIVE, "attributes", value={}), "lacks POSITION, .*COEF_0"),
    (edited(*SPLAT, "kernel", value="cube"), "kernel or color space"),
    (edited(*SPLAT, "colorSpace", value=["x"]), "kernel or color space"),
    (edited("scene", value=3), r"there is no scenes\[3\]"),
    (edited("nodes", 0, "mesh", value=7), r"there is no meshes\[7\]"),
    (edited("nodes", 0, "mesh", value=-1), r"there is no meshes\[\?\]"),
    (edited("nodes", 0, "children", value=[0]), r"nodes\[0\] has two parents"),
    (edited("nodes", 0, "scale", value=[1, 2, 1]), "unevenly"),
    (edited("nodes", 0, "scale", value=[0, 0, 0]), "unevenly"),
    (edited("nodes", 0, "scale", value=[-1, 1, 1]), "mirrors"),
    (edited("nodes", 0, "scale", value=[1, 1]), "a node's scale is not 3 numbers"),
    (edited("nodes", 0, "matrix", value=["1"] * 16), "matrix is not 16 numbers"),
    (edited("nodes", 0, "translation", value=[float("nan"), 0, 0]), "translation is not 3 numbers"),
    (edited("nodes", 0, "translation", value=[10**400, 0, 0]), "translation is not 3 numbers"),
    (edited("nodes", value=CHAIN), "unevenly"),
    (edited("accessors", 0, "count", value=0), "0 values of POSITION"),
    (edited("accessors", 0, "count", value=3), "3 values of POSITION end at byte"),
    (edited("accessors", 0, "count", value=1), r"different counts \[1, 2\]"),
    (
        edited("accessors", 0, "count", value=10**15),
        "says it holds 1,000,000,000,000,000 Gaussians",
    ),
    (edited("accessors", 0, "count", value=2**63), "count has to be a whole number"),
    (edited("accessors", 0, "count", value=True), "count has to be a whole number"),
    (edited("accessors", 0, "byteOffset", value=-4), "byteOffset has to be a whole number"),
    (edited("accessors", 0, "byteOffset", value=9999), "2 values of POSITION end"),
    (edited("accessors", 0, "componentType", value=5124), "POSITION is not a VEC3"),
    (edited("accessors", 0, "componentType", value=[]), "componentType has to be"),
    (edited("accessors", 0, "type", value="VEC4"), "POSITION is not a VEC3"),
    (edited("accessors", 0, "sparse", value={}), "stores POSITION sparsely"),
    (edited("accessors", 0, "bufferView"), "stores POSITION sparsely"),
    (edited("accessors", 0, "bufferView", value=1), r"there is no bufferViews\[1\]"),
    (edited("bufferViews", 0, "byteStride", value=1), "2 values of POSITION end"),
    (edited("bufferViews", 0, "byteLength", value=10**9), "in a buffer of 112"),
    (edited("bufferViews", 0, "byteLength"), "byteLength has to be a whole number"),
    (edited("bufferViews", 0, "buffer", value=1), r"there is no buffers\[1\]"),
    (edited("buffers", 0, "uri", value="data:;base64,*"), r"can't decode buffers\[0\]"),
    (edited("buffers", 0, "uri", value="data:,abc"), "not base64"),
    (edited("buffers", 0, "uri", value="/etc/hostname"), "other files, which are not opened"),
    (edited("buffers", 0, "uri", value=5), "other files, which are not opened"),
    (glb(*by_hand(bands=BANDS[:4])), "4 higher bands are not all of degree 1, 1-2 or 1-3"),
    (glb(*by_hand(bands=BANDS[3:8])), "5 higher bands are not all"),
    (values(0, float("nan")), "1 NaN or infinite values in POSITION"),
    (values(28, -1), "1 negative scales"),
    (values(40, 1.5), "1 opacities outside 0..1"),
    (copies(1000), "2,000 Gaussians, too many for its size"),
]
COMPRESSED = by_hand()
COMPRESSED[0]["meshes"][0]["primitives"][0]["extensions"][KHR]["extensions"] = {"KHR_spz": {}}
BAD_FILES.append((edited(*PRIMITIVE, "attributes", base=COMPRESSED), "compressed with KHR_spz"))


@pytest.mark.parametrize(("data", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_bad_files_are_refused_with_the_reason(data, message, read_or_refuse):
    assert read_or_refuse(read_gltf, data) is None  # little memory
    with pytest.raises(ValueError, match=message):
        read_gltf(data)


def test_zero_quaternion_is_no_rotation():
    assert read_gltf(values(12, 0, 0, 0, 0)).rotations[0, 0].tolist() == [1, 0, 0, 0]


def slots(value, path=()):
    """Every place in a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(pairs):
        yield (*path, key)
        if isinstance(child, (dict, list)):
            yield from slots(child, (*path, key))


SLOTS = list(slots(by_hand()[0]))
SCALARS = st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=5)
SCALARS |= st.sampled_from([2**31, 2**53, 2**64, 10**400, 5120, 5121, 5125, 5126, "VEC3", "data:"])
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(SLOTS), JSON), min_size=1, max_size=3))
def test_documents_with_anything_anywhere_are_read_or_refused(read_or_refuse, changes):
    document, binary = by_hand()
    for path, value in changes:
        target = document
        for key in path[:-1]:
            fits = isinstance(target, (dict, list)) and key in (
                target if isinstance(target, dict) else range(len(target))
            )
            target = target[key] if fits else {}
        if isinstance(target, dict) or (
            isinstance(target, list) and path[-1] in range(len(target))
        ):
            target[path[-1]] = value
    read_or_refuse(read_gltf, glb(document, binary))


@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6)), max_size=4), st.floats(0, 1))
def test_damaged_files_are_read_or_refused(read_or_refuse, changes, end):
    data = bytearray(glb(*by_hand()))
    for place, value in changes:
        start = int(place * len(data))
        data[start : start + len(value)] = value
    read_or_refuse(read_gltf, bytes(data))
    read_or_refuse(read_gltf, bytes(data[: int(end * len(data))]))


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(read_or_refuse, tail):
    for head in (b"", b"{", b"glTF", glb(b"")[:12]):
        read_or_refuse(read_gltf, head + tail)
