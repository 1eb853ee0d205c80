"""The check of cameras: right ones pass for any object, and every usual mistake is told."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from lgm.cameras import orbit_poses
from lgm.training.evaluation_set import render_pictures
from lgm.training.packs.obj import Material, SourceMesh
from lgm.training.packs.surfaces import to_mesh
from lgm.training.procedural.objects import procedural_objects
from lgm.training.renders import cameras_check
from lgm.training.renders.cameras_check import Silhouettes, check_cameras, check_objects, coverage
from lgm.training.renders.shard_writer import ShardWriter
from lgm.training.renders.shards import Shards, Views

pytest.importorskip("numba")

FOVY = 49.1
SIZE = 160


def cameras(count: int) -> torch.Tensor:
    """Half of them on a low ring, the others anywhere."""
    generator = torch.Generator().manual_seed(0)
    ring = torch.arange(count // 2) * 360 / (count // 2)
    azimuths = 360 * torch.rand(count - len(ring), generator=generator)
    elevations = 110 * torch.rand(len(azimuths), generator=generator) - 40
    return torch.cat([orbit_poses(ring, 5.0), orbit_poses(azimuths, elevations)])


def objects_of(soup, poses, size=SIZE) -> list[Views]:
    pictures, _ = render_pictures(soup, size, poses, 2)
    ids = tuple(range(len(poses)))
    return [Views(f"object {i}", p, poses, FOVY, ids) for i, p in enumerate(pictures)]


def mesh_of(*parts: trimesh.Trimesh):
    shape = trimesh.util.concatenate(parts)
    faces = np.asarray(shape.faces)
    source = SourceMesh(
        np.asarray(shape.vertices, float), faces, np.full((len(faces), 3, 2), np.nan),
        np.zeros(len(faces), int), (Material((0.2, 0.5, 0.8)),),
    )  # fmt: skip
    return to_mesh(source, {}).soup()


def rod(start, end, radius=0.012):
    return trimesh.creation.cylinder(radius, segment=[start, end], sections=8)


def thin_objects():
    """Frames, wires and plates, a pixel or two thick."""
    table = [rod((x, -1, z), (x, 0, z), 0.02) for x in (-0.8, 0.8) for z in (-0.5, 0.5)]
    table.append(trimesh.creation.box((1.8, 0.02, 1.2)))
    cube = [
        rod(np.roll((-1, a, b), k), np.roll((1, a, b), k))
        for k in range(3) for a in (-1, 1) for b in (-1, 1)
    ]  # fmt: skip
    turns = np.linspace(0, 12, 60)
    spiral = np.stack([np.cos(turns), turns / 6 - 1, np.sin(turns)], 1)
    spring = [rod(a, b, 0.02) for a, b in pairwise(spiral)]
    plate = [trimesh.creation.box((2, 0.01, 1))]
    return [mesh_of(*parts) for parts in (table, cube, spring, plate)]


@pytest.fixture(scope="module")
def objects() -> list[Views]:
    """Three whose outlines tell more than those of bodies of revolution."""
    return objects_of(procedural_objects([0, 6, 7]), cameras(8))


@pytest.mark.slow
def test_right_cameras_pass_for_every_object():
    everything = objects_of(procedural_objects(list(range(8))), cameras(8))
    for soup in thin_objects():
        everything += objects_of(soup, cameras(8), 256)
    found = [coverage(Silhouettes.of(views)) for views in everything]
    assert min(found) > 0.99, found


def test_right_cameras_pass_at_any_size(objects):
    for size in (64, 200, 512):
        views = objects_of(procedural_objects([7]), cameras(6), size)
        assert check_objects(views) > 0.99


def test_soft_and_hard_edges_pass(objects):
    soup, poses = procedural_objects([7]), cameras(8)
    (views,) = objects_of(soup, poses, 256)
    blurred = torch.nn.functional.avg_pool2d(views.images.float(), 3, 1, 1).round().byte()
    hard = views.images.clone()
    hard[:, 3] = torch.where(hard[:, 3] > 127, 255, 0)
    for images in (blurred, hard):
        assert check_objects([changed(views, images=images)]) > 0.97


def test_an_object_that_reaches_over_the_border_passes():
    (views,) = objects_of(procedural_objects([0]), orbit_poses([0.0, 50, 100, 170, 260], 10, 0.9))
    assert (views.images[:, 3, :, 0].any(1) | views.images[:, 3, 0].any(1)).any()
    assert check_objects([views]) > 0.99


def changed(views: Views, **fields) -> Views:
    return Views(**{**vars(views), **fields})


def inverted(c2w):
    return torch.linalg.inv(c2w)


def transposed(c2w):
    turned = c2w.clone()
    turned[:, :3, :3] = c2w[:, :3, :3].mT
    return turned


def opencv(c2w):
    return c2w * torch.tensor([1.0, -1, -1, 1])


def mirrored_azimuth(c2w):
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    return mirror @ c2w @ mirror


def mirrored_elevation(c2w):
    mirror = torch.diag(torch.tensor([1.0, -1, 1, 1]))
    return mirror @ c2w @ mirror


def swapped_positions(c2w):
    swapped = c2w.clone()
    swapped[:, :3, 3] = c2w[:, [0, 2, 1], 3] * torch.tensor([1.0, -1, 1])
    return swapped


def scattered(c2w):
    factor = 1 + 0.3 * torch.linspace(-1, 1, len(c2w))[torch.randperm(len(c2w))]
    moved = c2w.clone()
    moved[:, :3, 3] *= factor[:, None]
    return moved


def z_up(c2w):
    """The same cameras in Blender's world."""
    turn = torch.eye(4)
    turn[:3, :3] = cameras_check.Z_UP.T
    return turn @ c2w


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (inverted, "inverted"),
        (lambda c2w: opencv(inverted(c2w)), "inverted"),
        (lambda c2w: inverted(opencv(c2w)), "inverted"),
        (transposed, "transposed"),
        (opencv, "OpenCV"),
        (mirrored_azimuth, "azimuth"),
        (mirrored_elevation, "elevation"),
        (swapped_positions, "swapped"),
        (lambda c2w: c2w * torch.tensor([-1.0, 1, -1, 1]), "PyTorch3D"),
        (scattered, "one distance"),
        (z_up, r"other --up"),
    ],
)
def test_every_mistake_is_refused_and_named(objects, change, word):
    wrong = [changed(views, c2w=change(views.c2w)) for views in objects]
    with pytest.raises(ValueError, match=word) as caught:
        check_objects(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_mistake_that_a_change_of_axes_follows_is_named(objects):
    """World-to-camera matrices of Blender's world, converted as if they were camera-to-world."""
    for axes in (torch.ones(4), torch.tensor([1.0, -1, -1, 1])):
        files = [torch.linalg.inv(z_up(views.c2w) * axes) for views in objects]
        turn = torch.eye(4)
        turn[:3, :3] = cameras_check.Z_UP
        wrong = [
            changed(v, c2w=turn @ f * axes) for v, f in zip(objects, files, strict=True)
        ]  # fmt: skip
        with pytest.raises(ValueError, match=r"inverted|other --up"):
            check_objects(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("fovy", [39.6, 60.0])
def test_another_field_of_view_is_refused_and_the_right_one_named(fovy):
    views = objects_of(procedural_objects([0, 7]), cameras(8), 320)
    wrong = [changed(each, fovy=fovy) for each in views]
    with pytest.raises(ValueError, match=rf"about (47.1|49.1|51) degrees instead of {fovy:.4g}"):
        check_objects(wrong)


def test_nonsense_is_refused_without_a_guess(objects):
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    wrong = [changed(views, c2w=views.c2w[order]) for views in objects]
    with pytest.raises(ValueError, match="none of the usual"):
        check_objects(wrong)


@pytest.mark.slow
def test_one_wrong_object_of_many_is_refused_by_name(objects, tmp_path):
    wrong = [*objects[:2], changed(objects[2], name="lamp", c2w=opencv(objects[2].c2w))]
    with pytest.raises(ValueError, match=r"'lamp'.*cameras_check\.png"):
        check_objects(wrong, tmp_path / "cameras_check.png")
    picture = np.asarray(Image.open(tmp_path / "cameras_check.png")).reshape(-1, 3).tolist()
    colors = set(map(tuple, picture))
    assert {(240, 120, 0), (150, 150, 150)} <= colors


def save(folder, objects):
    with ShardWriter(folder) as writer:
        for views in objects:
            writer.add(views.name, views.images, views.c2w, views.fovy)
    return Shards(folder)


@pytest.mark.slow
def test_datasets_are_checked(objects, tmp_path):
    assert check_cameras(save(tmp_path / "good", objects)) > 0.99
    bad = [*objects[:2], changed(objects[2], c2w=mirrored_azimuth(objects[2].c2w))]
    with pytest.raises(ValueError, match="azimuth"):
        check_cameras(save(tmp_path / "bad", bad), picture=tmp_path / "check.png")
    assert (tmp_path / "check.png").exists()


def test_a_dataset_of_another_distance_is_refused(objects, tmp_path):
    far = []
    for views in objects:
        moved = views.c2w.clone()
        moved[:, :3, 3] *= 2
        far.append(changed(views, c2w=moved))
    with pytest.raises(ValueError, match=r"are 3 from the origin, needed is 1\.5"):
        check_cameras(save(tmp_path, far))


def test_empty_pictures_are_left_out_and_empty_objects_refused(objects):
    images = objects[0].images.clone()
    images[3] = 0
    assert check_objects([changed(objects[0], images=images)]) > 0.99
    with pytest.raises(ValueError, match="object 0"):
        check_objects([changed(objects[0], images=torch.zeros_like(images))])
