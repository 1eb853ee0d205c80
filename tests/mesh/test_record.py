import json
import struct
from io import BytesIO

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from lgm.mesh import Mesh

COMPONENTS = {5123: ("<u2", 2), 5125: ("<u4", 4), 5126: ("<f4", 4)}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}


@pytest.fixture
def mesh() -> Mesh:
    """A tetrahedron with everything."""
    generator = torch.Generator().manual_seed(0)
    vertices = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return Mesh(
        vertices,
        torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]),
        normals=vertices / 3**0.5,
        uvs=torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]),
        texture=torch.rand(8, 8, 3, generator=generator),
        vertex_colors=torch.rand(4, 3, generator=generator),
    )


def without(mesh: Mesh, *names: str) -> Mesh:
    return Mesh(**{name: value for name, value in vars(mesh).items() if name not in names})


def open_glb(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON and the arrays of a `.glb`, after the demands of the format that a parser may
    forgive are checked.
    """
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    rest = data[20 + size :]
    assert rest[4:8] == b"BIN\0"
    binary = rest[8:]
    assert len(binary) == struct.unpack("<I", rest[:4])[0] == document["buffers"][0]["byteLength"]
    views, end = document["bufferViews"], 0
    for view in views:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] >= end
        end = view["byteOffset"] + view["byteLength"]
    assert end <= len(binary)
    primitive = document["meshes"][0]["primitives"][0]
    arrays = {}
    for name, index in {**primitive["attributes"], "indices": primitive["indices"]}.items():
        accessor = document["accessors"][index]
        kind, width = COMPONENTS[accessor["componentType"]]
        view = views[accessor["bufferView"]]
        assert view["target"] == (34963 if name == "indices" else 34962)
        count = accessor["count"] * WIDTHS[accessor["type"]]
        assert view["byteLength"] == count * width
        values = np.frombuffer(binary, kind, count, view["byteOffset"])
        arrays[name] = values.reshape(-1, WIDTHS[accessor["type"]])
        if name == "POSITION":
            np.testing.assert_array_equal(arrays[name].min(0), np.float32(accessor["min"]))
            np.testing.assert_array_equal(arrays[name].max(0), np.float32(accessor["max"]))
    if "images" in document:
        view = views[document["images"][0]["bufferView"]]
        assert "target" not in view
        png = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        arrays["image"] = np.asarray(Image.open(BytesIO(png)))
    return document, arrays


def test_file_holds_the_mesh(mesh):
    document, arrays = open_glb(mesh.export(None))
    np.testing.assert_array_equal(arrays["POSITION"], mesh.vertices)
    np.testing.assert_array_equal(arrays["indices"].reshape(-1, 3), mesh.faces)
    np.testing.assert_array_equal(arrays["TEXCOORD_0"], mesh.uvs)
    np.testing.assert_allclose(arrays["NORMAL"], mesh.normals, atol=1e-6)
    assert np.abs(arrays["image"] / 255 - mesh.texture.numpy()).max() <= 0.5 / 255 + 1e-6
    assert document["accessors"][-1]["componentType"] == 5123
    assert document["samplers"] == [
        {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
    ]
    assert "COLOR_0" not in arrays  # it would be multiplied with the texture


def test_another_library_reads_the_same_colors(mesh):
    loaded = trimesh.load(BytesIO(mesh.export(None)), file_type="glb", process=False)
    (found,) = loaded.geometry.values()
    np.testing.assert_allclose(found.vertices, mesh.vertices, atol=1e-6)
    # trimesh counts v from the bottom.
    np.testing.assert_allclose(found.visual.uv, mesh.uvs.numpy() * [1, -1] + [0, 1], atol=1e-6)
    pixels = np.asarray(found.visual.material.baseColorTexture.convert("RGB"))
    np.testing.assert_array_equal(pixels, (mesh.texture * 255).round().byte().numpy())


def test_vertex_colors_become_linear(mesh):
    mesh = without(mesh, "texture", "uvs")
    srgb = mesh.vertex_colors.numpy()
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    document, arrays = open_glb(mesh.export(None))
    np.testing.assert_allclose(arrays["COLOR_0"], linear, atol=1e-6)
    assert "images" not in document and "textures" not in document


@pytest.mark.parametrize("unlit", [True, False])
@pytest.mark.parametrize("double_sided", [True, False])
def test_material_follows_the_options(mesh, unlit, double_sided):
    document, _ = open_glb(mesh.export(None, unlit=unlit, double_sided=double_sided))
    (material,) = document["materials"]
    assert material["doubleSided"] is double_sided
    assert ("KHR_materials_unlit" in material.get("extensions", {})) is unlit
    assert document.get("extensionsUsed", []) == ["KHR_materials_unlit"] * unlit


@pytest.mark.parametrize(("count", "component"), [(65_535, 5123), (65_536, 5125)])
def test_indices_are_long_only_where_needed(count, component):
    faces = torch.tensor([[0, 1, count - 1]])
    document, arrays = open_glb(Mesh(torch.rand(count, 3), faces).export(None))
    assert document["accessors"][-1]["componentType"] == component
    assert arrays["indices"].max() == count - 1


def test_normals_have_length_one_even_where_there_is_none(mesh):
    normals = mesh.normals * 3
    normals[1] = 0
    _, arrays = open_glb(Mesh(mesh.vertices, mesh.faces, normals=normals).export(None))
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=1), 1, atol=1e-6)


def test_export_writes_what_it_returns(mesh, tmp_path):
    data = mesh.export(tmp_path / "mesh.glb")
    assert (tmp_path / "mesh.glb").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.glb"]


def test_export_refuses_other_names_and_missing_folders(mesh, tmp_path):
    with pytest.raises(ValueError, match=r"written as \.glb.*mesh\.obj"):
        mesh.export(tmp_path / "mesh.obj")
    with pytest.raises(RuntimeError, match="Can't write"):
        mesh.export(tmp_path / "missing" / "mesh.glb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("vertices", torch.zeros(4, 2), r"vertices \[4, 3\]"),
        ("vertices", torch.full((4, 3), torch.nan), "NaN"),
        ("normals", torch.zeros(3, 3), r"normals \[4, 3\]"),
        ("uvs", torch.zeros(4, 3), r"uvs \[4, 2\]"),
        ("uvs", None, "needs uvs"),
        ("texture", torch.zeros(3, 8, 8), r"texture \[3, 8, 3\]"),
        ("texture", torch.zeros(8, 8, 3, dtype=torch.uint8), "floating point"),
        ("vertex_colors", torch.zeros(4, 4), r"vertex_colors \[4, 3\]"),
        ("faces", torch.tensor([[0, 1, 4]]), "0 to 3, got 0 to 4"),
        ("faces", torch.tensor([[0, 1, -1]]), "got -1 to 1"),
        ("faces", torch.zeros(0, 3, dtype=torch.int64), "got 0 on 4"),
        ("faces", torch.zeros(1, 3), "int64"),
    ],
)
def test_refuses_what_is_no_mesh(mesh, name, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        Mesh(**{**vars(mesh), name: value})
