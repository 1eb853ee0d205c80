"""The mesh pack: importing, simplifying, packing, fitting and augmenting; synthetic objects
only."""

import hashlib
import io
import json
import math
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lgm.cameras import FOVY, input_poses, world_to_camera
from lgm.command import dataset
from lgm.training import evaluation_set, furniture
from lgm.training.evaluation_set import (
    EVALUATION_VIEW_COUNT,
    read_depths,
    read_pictures,
    render_pictures,
    save_set,
)
from lgm.training.packs.mesh import Mesh, fit
from lgm.training.packs.obj import Material, SourceMesh, read_mtl, read_obj
from lgm.training.packs.pack import MeshPack
from lgm.training.packs.pack_file import (
    _octahedral_decode,
    _octahedral_encode,
    save_pack,
    squeeze,
    unsqueeze,
)
from lgm.training.packs.read import read_model
from lgm.training.packs.simplify import crease_normals, face_normals, simplify, weld
from lgm.training.packs.surfaces import to_mesh


def source_of(shape: trimesh.Trimesh, uvs=None, material_ids=None, materials=None) -> SourceMesh:
    faces = np.asarray(shape.faces)
    return SourceMesh(
        vertices=np.asarray(shape.vertices, dtype=float),
        faces=faces,
        uvs=np.full((len(faces), 3, 2), np.nan) if uvs is None else uvs,
        material_ids=np.zeros(len(faces), int) if material_ids is None else material_ids,
        materials=materials or (Material((0.8, 0.3, 0.2)),),
    )


def checker(size: int = 64) -> np.ndarray:
    tiles = np.indices((size, size)).sum(0) // (size // 4) % 2
    return np.stack([tiles * 255, 255 - tiles * 200, np.full_like(tiles, 60)], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def meshes() -> list[Mesh]:
    """A textured sphere and a plain box with two colors."""
    ball = trimesh.creation.icosphere(3)
    uvs = 0.5 + 0.4 * np.asarray(ball.vertices)[np.asarray(ball.faces)][..., :2]
    textured = to_mesh(
        source_of(ball, uvs=uvs, materials=(Material((1, 1, 1), "checker.png"),)),
        {"checker.png": (checker(), 1.0)},
    )
    box = trimesh.creation.box((1, 2, 0.5))
    plain = source_of(
        box, material_ids=np.arange(12) % 2, materials=(Material((1, 0, 0)), Material((0, 0, 1)))
    )
    return [textured, to_mesh(plain, {})]


@pytest.fixture(scope="module")
def pack(meshes, tmp_path_factory) -> MeshPack:
    path = tmp_path_factory.mktemp("pack") / "meshes.safetensors"
    entries = [
        {"name": name, "family": name, "split": split}
        for name, split in (("ball", "train"), ("box", "train"), ("twin", "t1"))
    ]
    save_pack(path, [*meshes, meshes[0]], entries)
    return MeshPack.load(path)


# Importing


def area(points: np.ndarray, triangles: np.ndarray) -> float:
    return float(np.linalg.norm(face_normals(points, triangles), axis=1).sum() / 2)


def test_concave_polygons_become_triangles_inside_them():
    for count in (4, 5, 10, 17):
        radius = np.where(np.arange(count) % 2, 0.35, 1.0)  # a star; with four corners an arrowhead
        angle = np.arange(count) * 2 * math.pi / count
        flat = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
        x, y = flat.T
        shoelace = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
        tilt = np.linalg.qr(np.random.default_rng(count).normal(size=(3, 3)))[0]
        points = np.pad(flat, ((0, 0), (0, 1))) @ tilt
        lines = [f"v {p[0]} {p[1]} {p[2]}" for p in points]
        numbers = " ".join(str(i - count) for i in range(count))  # counted from the end
        mesh = read_obj("\n".join([*lines, f"f {numbers}"]), lambda name: "")
        assert len(mesh.faces) == count - 2
        assert area(mesh.vertices, mesh.faces) == pytest.approx(shoelace, rel=1e-9)


def test_obj_materials_and_coordinates():
    text = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
    text += "usemtl red\nf 1/1 2/2 3/3\n"
    text += "usemtl glass pane\nf 1 2 3\nl 1 2\n"
    mtl = "newmtl red\nKd 1 0 0\nmap_Kd wood grain.png\n\nnewmtl glass pane\n\tKd 0 0 1\n\td 0.25\n"
    mesh = read_obj(text, lambda name: mtl if name == "a.mtl" else "")
    first, second = (mesh.materials[i] for i in mesh.material_ids)
    assert first == Material((1.0, 0.0, 0.0), "wood grain.png", 1.0)
    assert second == Material((0.0, 0.0, 1.0), None, 0.25)
    np.testing.assert_array_equal(mesh.uvs[0], [[0, 0], [1, 0], [0, 1]])
    assert np.isnan(mesh.uvs[1]).all()
    assert read_mtl("") == {}


def test_glass_becomes_opaque_and_pale():
    shape = trimesh.creation.box()
    mesh = to_mesh(source_of(shape, materials=(Material((0.0, 0.0, 0.0), None, 0.1),)), {})
    assert mesh.colors.min() > 0.7


def test_gltf_comes_with_its_texture_and_color(tmp_path):
    shape = trimesh.creation.box()
    uv = np.random.default_rng(0).random((len(shape.vertices), 2))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(checker()))
    shape.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    shape.export(tmp_path / "box.glb")
    mesh = read_model(tmp_path / "box.glb")
    np.testing.assert_array_equal(mesh.images[0], checker())
    assert set(mesh.textures) == {0}
    np.testing.assert_allclose(
        np.sort(mesh.uvs[:, :, 0].max(1)), np.sort(uv[shape.faces][:, :, 0].max(1)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("pbr", "color"),
    [
        ({}, (1.0, 1.0, 1.0)),
        ({"baseColorFactor": [1, 1, 1, 1]}, (1.0, 1.0, 1.0)),
        ({"baseColorFactor": [0, 1, 0, 1]}, (0.0, 1.0, 0.0)),
        ({"baseColorFactor": [1.0, 0.0, 0.2, 1.0]}, (1.0, 0.0, 0.485)),
    ],
)
def test_gltf_materials_have_the_colors_that_the_format_says(tmp_path, pbr, color):
    shape = trimesh.creation.box()
    shape.visual = trimesh.visual.TextureVisuals(material=trimesh.visual.material.PBRMaterial())
    files = trimesh.exchange.gltf.export_gltf(trimesh.Scene(shape))
    tree = json.loads(files["model.gltf"])
    tree["materials"] = [{"pbrMetallicRoughness": pbr}]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model.gltf").write_text(json.dumps(tree))
    np.testing.assert_allclose(read_model(tmp_path / "model.gltf").colors, [color], atol=0.01)


# Simplifying


def test_weld_joins_positions_and_drops_doubles():
    shape = trimesh.creation.icosphere(2)
    soup = np.asarray(shape.vertices)[np.asarray(shape.faces)].reshape(-1, 3)
    faces = np.arange(len(soup)).reshape(-1, 3)
    twice = SourceMesh(
        soup, np.vstack([faces, faces[:, ::-1]]), np.full((2 * len(faces), 3, 2), np.nan),
        np.zeros(2 * len(faces), int), (Material((1, 1, 1)),),
    )  # fmt: skip
    welded = weld(twice)
    assert len(welded.vertices) == len(shape.vertices)
    assert len(welded.faces) == len(shape.faces)


def test_simplify_keeps_shape_uvs_and_materials():
    pytest.importorskip("fast_simplification")
    ball = trimesh.creation.icosphere(5)
    corners = np.asarray(ball.vertices)[np.asarray(ball.faces)]
    half = (corners.mean(1)[:, 0] > 0).astype(int)
    uvs = np.where(half[:, None, None] == 1, corners[..., 1:], corners[..., :2] + 5)
    materials = (Material((1, 0, 0), "a"), Material((0, 1, 0), "b"))
    small = simplify(weld(source_of(ball, uvs, half, materials)), 2000)
    assert 1000 < len(small.faces) <= 3000
    assert np.linalg.norm(small.vertices[small.faces], axis=-1).min() > 0.97
    assert area(small.vertices, small.faces) == pytest.approx(4 * math.pi, rel=0.02)
    places = small.vertices[small.faces]
    right = small.material_ids == 1
    assert (places.mean(1)[right, 0] > -0.1).all() and (places.mean(1)[~right, 0] < 0.1).all()
    expected = np.where(right[:, None, None], places[..., 1:], places[..., :2] + 5)
    assert np.abs(small.uvs - expected).max() < 0.05


def test_foliage_is_thinned_but_keeps_its_volume():
    pytest.importorskip("fast_simplification")
    rng = np.random.default_rng(0)
    leaf = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]) * 0.05
    spots = rng.uniform(-1, 1, (4000, 1, 3))
    vertices = (leaf @ np.linalg.qr(rng.normal(size=(4000, 3, 3)))[0] + spots).reshape(-1, 3)
    faces = (np.array([[0, 1, 2], [0, 2, 3]]) + 4 * np.arange(4000)[:, None, None]).reshape(-1, 3)
    tree = weld(source_of(trimesh.Trimesh(vertices, faces, process=False)))
    small = simplify(tree, 2000)
    assert len(small.faces) <= 4000
    assert area(small.vertices, small.faces) > 0.8 * area(tree.vertices, tree.faces)
    used = small.vertices[np.unique(small.faces)]
    assert (np.ptp(used, axis=0) > 1.9).all()


def test_crease_normals_smooth_balls_and_keep_box_edges():
    ball = trimesh.creation.icosphere(3)
    normals = crease_normals(np.asarray(ball.vertices), np.asarray(ball.faces))
    cosine = (normals * np.asarray(ball.vertices)[np.asarray(ball.faces)]).sum(-1)
    assert np.abs(cosine).min() > 0.999
    faces = np.asarray(ball.faces).copy()
    faces[::2] = faces[::2, ::-1]  # inconsistent windings
    mixed = crease_normals(np.asarray(ball.vertices), faces)
    assert np.abs((mixed * np.asarray(ball.vertices)[faces]).sum(-1)).min() > 0.999

    box = weld(source_of(trimesh.creation.box()))
    normals = crease_normals(box.vertices, box.faces)
    units = face_normals(box.vertices, box.faces)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    np.testing.assert_allclose(normals, np.repeat(units[:, None], 3, axis=1), atol=1e-9)


# Packing


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.int32])
@pytest.mark.parametrize("shape", [(0, 3), (7,), (5, 3, 2)])
def test_compression_is_lossless(dtype, shape):
    array = (np.random.default_rng(0).normal(size=shape) * 50).astype(dtype)
    restored = unsqueeze(squeeze(array), array.dtype.str, list(array.shape))
    np.testing.assert_array_equal(restored, array)
    assert restored.dtype == array.dtype


def test_packed_normals_are_within_a_degree():
    normals = np.random.default_rng(0).normal(size=(5000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    decoded = _octahedral_decode(torch.from_numpy(_octahedral_encode(normals).astype(np.int8)))
    cosine = (decoded.numpy() * normals).sum(1).clip(-1, 1)
    assert np.degrees(np.arccos(cosine)).max() < 1.0


def test_pack_draws_like_its_meshes(pack, meshes):
    pytest.importorskip("numba")
    together = render_pictures(pack.soup([1, 0]), 64)[0].float() / 255
    for item, mesh in ((0, meshes[1]), (1, meshes[0])):
        alone = render_pictures(mesh.soup(resolution=128), 64)[0][0].float() / 255
        assert (together[item, :, 3] - alone[:, 3]).abs().mean() < 2e-3
        assert ((together[item] - alone) * alone[:, 3:]).abs().mean() < 0.01


def test_pack_lists_and_splits(pack):
    assert (pack.train_indices, pack.t1_indices, pack.t2_indices) == ([0, 1], [2], [])
    assert len(pack.atlas) == 1  # equal textures are stored once
    assert set(pack.draw_indices(50, np.random.default_rng(0))) == {0, 1}


def test_a_file_that_is_no_pack_is_named(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match=r"other\.safetensors.*lgm dataset"):
        MeshPack.load(other)
    other.write_bytes(b"not a tensor file")
    with pytest.raises(ValueError, match=r"other\.safetensors.*lgm dataset"):
        MeshPack.load(other)


# Fitting and augmenting


def test_fit_spans_the_asked_part_of_the_tightest_input_view():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(60, 3, 3, generator=generator) * torch.tensor([1.0, 3.0, 0.2]) + 7
    objects = torch.arange(60) // 20
    fill = torch.tensor([0.6, 0.95, 0.8])
    fitted = fit(corners, objects, fill)
    cameras = world_to_camera(input_poses())
    for item in range(3):
        points = fitted[objects == item].reshape(-1, 3)
        torch.testing.assert_close(points.amax(0), -points.amin(0), atol=1e-5, rtol=0)
        local = torch.einsum("vij,nj->vni", cameras[:, :3, :3], points) + cameras[:, None, :3, 3]
        screen = (local[..., :2] / local[..., 2:]).abs() / math.tan(math.radians(FOVY) / 2)
        assert float(screen.max()) == pytest.approx(float(fill[item]), abs=1e-4)
        assert float(points.abs().max()) < 1


def test_augmentation_follows_its_seed_and_nothing_else(pack):
    first, again, other = (
        pack.draw_augmentation([0, 1, 0], np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name))
    assert not torch.equal(first.linear, other.linear)
    assert ((first.colors >= 0) & (first.colors <= 1)).all()
    assert (first.textures < len(pack.atlas)).all()


def test_augmented_normals_stay_on_the_surface(pack):
    rng = np.random.default_rng(1)
    for _ in range(5):
        soup = pack.soup([0], pack.draw_augmentation([0], rng))
        faces = torch.linalg.cross(
            soup.corners[:, 1] - soup.corners[:, 0], soup.corners[:, 2] - soup.corners[:, 0]
        )
        cosine = (torch.nn.functional.normalize(faces, dim=-1)[:, None] * soup.normals).sum(-1)
        assert cosine.abs().min() > 0.9


def test_a_hue_turn_changes_textures_not_grays(pack):
    tints = torch.cat(
        [pack.draw_augmentation([0], np.random.default_rng(seed)).tints for seed in range(40)]
    )
    turned = (tints - torch.eye(3)).abs().amax((1, 2)) > 0.01
    assert 8 < int(turned.sum()) < 32
    gray = tints @ torch.full((3,), 0.5)
    assert (gray.amax(1) - gray.amin(1)).max() < 1e-5


# The split and the files


def test_heldout_lists_are_frozen():
    lists = evaluation_set.heldout()
    names = [*lists["t1"], *lists["t2"]]
    assert len(names) == len(set(names))
    assert all(name.split("/")[0] in furniture.LICENSES for name in names)
    assert lists["t0"]["first_seed"] >= 2_000_000_000  # training draws its seeds below
    assert all({"name", "author", "source", "license"} <= set(model) for model in lists["t3"])
    digest = hashlib.sha256(
        json.dumps([lists[tier] for tier in ("t0", "t1", "t2")]).encode()
    ).hexdigest()
    assert digest == "b6c06c498135199d9994c6c04b9fcca14152ed5af8b4549422a3f3799ef09fd4"


@pytest.fixture()
def debian_package(tmp_path):
    """A .deb in the real package's layout, with one object per library."""
    box = "mtllib b.mtl\n" + "".join(
        f"v {x} {y} {z}\n" for x in (0, 2) for y in (0, 1) for z in (0, 1)
    ) + "usemtl wood\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"  # fmt: skip
    for quad in (
        (1, 2, 4, 3),
        (5, 7, 8, 6),
        (1, 5, 6, 2),
        (3, 4, 8, 7),
        (1, 3, 7, 5),
        (2, 6, 8, 4),
    ):
        box += "f " + " ".join(f"{corner}/{i + 1}" for i, corner in enumerate(quad)) + "\n"
    picture = io.BytesIO()
    Image.fromarray(checker()).save(picture, "PNG")
    tar_data = io.BytesIO()
    with tarfile.open(fileobj=tar_data, mode="w:xz") as tar:
        for number, library in enumerate(sorted(furniture.LICENSES)):
            sh3f = io.BytesIO()
            with zipfile.ZipFile(sh3f, "w") as archive:
                catalog = "name#1=Box with lid\ncategory#1=Office\nmodel#1=/m/box.obj\n"
                catalog += "creator#1=Caf\\u00e9\n"
                catalog += f"width#1={2 + number}\nheight#1=1\ndepth#1=1\n"
                archive.writestr("PluginFurnitureCatalog.properties", catalog.encode("latin-1"))
                archive.writestr("m/box.obj", box)
                archive.writestr("m/b.mtl", "newmtl wood\nKd 1 1 1\nmap_Kd wood.png\n")
                archive.writestr("m/wood.png", picture.getvalue())
            info = tarfile.TarInfo(f"./usr/share/sweethome3d/furniture/{library}.sh3f")
            info.size = sh3f.tell()
            tar.addfile(info, io.BytesIO(sh3f.getvalue()))

    def member(name: str, data: bytes) -> bytes:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        return head + data + b"\n" * (len(data) % 2)

    path = tmp_path / "furniture.deb"
    path.write_bytes(
        b"!<arch>\n"
        + member("debian-binary", b"2.0\n")
        + member("data.tar.xz", tar_data.getvalue())
    )
    return path


def test_dataset_from_a_debian_package(debian_package, tmp_path, capsys):
    pytest.importorskip("numba")
    models = tmp_path / "models" / "Cube"
    models.mkdir(parents=True)
    trimesh.creation.box().export(models / "cube.glb")
    arguments = [
        "--out",
        str(tmp_path / "out"),
        "--deb",
        str(debian_package),
        "--eval-objects",
        str(models.parent),
    ]
    assert dataset.main([*arguments, "--eval-size", "16", "--eval-count", "1"]) == 0
    assert "5 train" in capsys.readouterr().out
    pack = MeshPack.load(tmp_path / "out" / "meshes.safetensors")
    assert [entry["license"] for entry in pack.entries] == [
        furniture.LICENSES[n] for n in sorted(furniture.LICENSES)
    ]
    assert {entry["creator"] for entry in pack.entries} == {"Café"}
    assert {entry["family"] for entry in pack.entries} == {"box/café"}
    extent = pack.corners[: int(pack.triangle_starts[1])].flatten(0, 1).abs().amax(0)
    torch.testing.assert_close(extent, torch.tensor([1, 0.5, 0.5]), atol=1e-3, rtol=0)
    with safe_open(tmp_path / "out" / "evaluation.safetensors", "pt") as file:
        assert json.loads(file.metadata()["tiers"]) == ["t0", "t3"]
        assert json.loads(file.metadata()["names"])[1] == "Cube"
        assert read_pictures(file).shape == (2, EVALUATION_VIEW_COUNT, 4, 16, 16)


def test_dataset_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="sweethome3d-furniture"):
        list(furniture.open_libraries(tmp_path))
    (tmp_path / "x.deb").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x\.deb is not a Debian package"):
        list(furniture.open_libraries(tmp_path / "x.deb"))


def test_evaluation_pictures_are_stored_exactly(pack, tmp_path):
    pytest.importorskip("numba")
    soup = pack.soup([0])
    path = tmp_path / "set.safetensors"
    assert save_set(path, 32, [(soup, {"name": "ball", "tier": "t1", "license": "CC0-1.0"})]) == 1
    pictures, depths = render_pictures(soup, 32)
    with safe_open(path, "pt") as file:
        stored = read_pictures(file)
        torch.testing.assert_close(read_depths(file), depths[:, :4], atol=2e-3, rtol=0)
    visible = pictures[:, :, 3:] > 0
    assert torch.equal(stored * visible, pictures * visible)
    assert torch.equal(stored[:, :, 3], pictures[:, :, 3])


def test_the_committed_evaluation_set_holds_only_heldout_objects():
    lists = evaluation_set.heldout()
    known = {
        "t0": {f"procedural/{lists['t0']['first_seed'] + i}" for i in range(lists["t0"]["count"])},
        "t1": set(lists["t1"]),
        "t2": set(lists["t2"]),
        "t3": {model["name"] for model in lists["t3"]},
    }
    path = Path(__file__).parents[2] / "data" / "evaluation_mini.safetensors"
    with safe_open(path, "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        pictures, depths = read_pictures(file), read_depths(file)
        torch.testing.assert_close(file.get_tensor("c2w")[:4], input_poses())
    assert all(n in known[t] for n, t in zip(metadata["names"], metadata["tiers"], strict=True))
    assert set(metadata["tiers"]) == set(known)
    assert pictures.shape == (len(metadata["names"]), EVALUATION_VIEW_COUNT, 4, 128, 128)
    # Depth and coverage were drawn together.
    assert torch.equal(depths > 0, pictures[:, :4, 3] > 0)
