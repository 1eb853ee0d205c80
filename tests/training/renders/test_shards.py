"""Shards: what was written is read, by us and by WebDataset, and a crash loses nothing."""

import hashlib
import json
import pickle
import tarfile
import threading

import pytest
import torch

from lgm.cameras import orbit_poses
from lgm.training.renders import shard_writer, shards
from lgm.training.renders.shard_writer import ShardWriter
from lgm.training.renders.shards import INDEX, Shards, encode_picture

SIZE = 16


def views(seed: int, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with all kinds of alpha, and cameras on a ring of alternating heights."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 4, SIZE, SIZE), generator=generator).to(torch.uint8)
    images[:, 3, : SIZE // 2] = torch.tensor([0, 255])[torch.arange(SIZE) % 2].to(torch.uint8)
    images[:, :3] = torch.where(images[:, 3:] > 0, images[:, :3], 255)
    elevation = torch.tensor([5.0, 50.0]).repeat(count)[:count]
    return images, orbit_poses(torch.linspace(0, 300, count), elevation)


def write(folder, names, **limits):
    with ShardWriter(folder, {"size": SIZE}, **limits) as writer:
        for name in names:
            if name not in writer.names:
                writer.add(name, *views(hash_of(name)), fovy=40.0)


def hash_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


NAMES = ("chair 1", "chair.2", "tables/round.glb", "ÄÖ", "chair_1", "x" * 200, "lamp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write(folder, NAMES, objects_per_shard=3)
    return folder


def test_objects_are_read_as_they_were_written(folder):
    data = Shards(folder)
    assert data.names == list(NAMES) and len(data) == len(NAMES)
    assert [data.view_count(i) for i in range(len(data))] == [6] * len(NAMES)
    for index, name in enumerate(NAMES):
        images, c2w = views(hash_of(name))
        order = [4, 0, 0, 5]
        found = data.read(index, order)
        assert (found.name, found.fovy, found.ids) == (name, 40.0, tuple(order))
        assert torch.equal(found.images, images[order])
        assert torch.equal(found.c2w, c2w[order])
    data.verify()


def test_shards_hold_the_stated_number_of_objects(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        INDEX, "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"
    ]  # fmt: skip
    counts = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            counts.append(sum(name.endswith(".json") for name in tar.getnames()))
    assert counts == [3, 3, 1]


def test_bytes_bound_a_shard_too(tmp_path):
    write(tmp_path, NAMES, bytes_per_shard=1)
    assert len(list(tmp_path.glob("*.tar"))) == len(NAMES)
    assert Shards(tmp_path).names == list(NAMES)


def test_webdataset_streams_them(folder):
    webdataset = pytest.importorskip("webdataset")
    files = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(files, shardshuffle=False))
    assert len(samples) == len(NAMES)
    for sample, name in zip(samples, NAMES, strict=True):
        facts = json.loads(sample["json"])
        assert facts["name"] == name and facts["views"] == 6
        images, _ = views(hash_of(name))
        for view in range(6):
            assert torch.equal(shards.decode_picture(sample[f"{view:03d}.webp"]), images[view])


def test_files_of_a_sample_are_neighbors_of_one_name(folder):
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        keys = [name.split(".")[0] for name in names]
        assert len(set(keys)) == sum(a != b for a, b in zip(keys, [None, *keys], strict=False))
        for key in set(keys):
            assert names[keys.index(key) :][:7] == [
                f"{key}.json", *(f"{key}.{view:03d}.webp" for view in range(6))
            ]  # fmt: skip


def test_inputs_are_the_ring_or_else_low_views_or_else_all(tmp_path):
    images, c2w = views(1)
    above = orbit_poses([0.0, 90.0], 60.0)
    with ShardWriter(tmp_path) as writer:
        writer.add("ring", images, c2w, 40.0, ring=[1, 3])
        writer.add("low", images, c2w, 40.0)
        writer.add("above", images[:2], above, 40.0)
    data = Shards(tmp_path)
    assert [data.inputs(i) for i in range(3)] == [[1, 3], [0, 2, 4], [0, 1]]


def test_the_digest_tells_datasets_apart_and_equal_ones_alike(folder, tmp_path):
    write(tmp_path / "same", NAMES, objects_per_shard=3)
    write(tmp_path / "other", NAMES[::-1], objects_per_shard=3)
    digest = Shards(folder).digest
    assert Shards(tmp_path / "same").digest == digest != Shards(tmp_path / "other").digest


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Crash(BaseException):
    pass


@pytest.mark.parametrize("done", range(len(NAMES)))
def test_a_crash_between_objects_leaves_no_trace(folder, tmp_path, done):
    with pytest.raises(Crash), ShardWriter(tmp_path, {"size": SIZE}, objects_per_shard=3) as writer:
        for name in NAMES[:done]:
            writer.add(name, *views(hash_of(name)), fovy=40.0)
        raise Crash
    if done:
        with pytest.raises(ValueError, match=r"unfinished: run the same .* again"):
            Shards(tmp_path)
        with ShardWriter(tmp_path, {"size": SIZE}) as writer:
            assert writer.names == set(NAMES[:done])
            writer.limits = (3, 1 << 30)
            for name in NAMES[done:]:
                writer.add(name, *views(hash_of(name)), fovy=40.0)
        assert Shards(tmp_path).names == list(NAMES)
    write(tmp_path, NAMES, objects_per_shard=3)
    assert contents(tmp_path) == contents(folder)


def test_a_torn_shard_is_repaired_wherever_it_is_torn(folder, tmp_path):
    whole = (folder / "shard-000000.tar").read_bytes()
    end = Shards(folder).samples[1].end
    cuts = [0, 1, 511, 512, 700, *range(1024, len(whole), 3571), end - 1, end, end + 1, len(whole)]
    for number, cut in enumerate(cuts):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "shard-000000.partial").write_bytes(whole[:cut])
        write(place, NAMES, objects_per_shard=3)
        assert contents(place) == contents(folder), cut


def test_a_shard_renamed_but_not_indexed_is_kept(folder, tmp_path):
    (tmp_path / "shard-000000.tar").write_bytes((folder / "shard-000000.tar").read_bytes())
    with ShardWriter(tmp_path, {"size": SIZE}, objects_per_shard=3) as writer:
        assert writer.names == set(NAMES[:3])
    assert (tmp_path / "shard-000000.tar").read_bytes() == whole_shard(folder)


def whole_shard(folder):
    return (folder / "shard-000000.tar").read_bytes()


def test_a_full_disk_tears_nothing(folder, tmp_path, monkeypatch):
    real, room = shard_writer._write_all, [40_000]

    def write_some(file, data):
        if len(data) > room[0]:
            real(file, data[: room[0]])
            raise OSError(28, "No space left on device")
        room[0] -= len(data)
        real(file, data)

    monkeypatch.setattr(shard_writer, "_write_all", write_some)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, NAMES, objects_per_shard=100)
    names = {s.name for s in shard_writer._scan((tmp_path / "shard-000000.partial").open("rb"), 0,
                                          {}, lambda _: None)}  # fmt: skip
    assert names and names < set(NAMES)
    monkeypatch.undo()
    write(tmp_path, NAMES, objects_per_shard=100)
    assert Shards(tmp_path).names == list(NAMES)
    Shards(tmp_path).verify()


def test_a_finished_dataset_can_grow(folder, tmp_path):
    write(tmp_path, NAMES[:4], objects_per_shard=3)
    before = contents(tmp_path)
    write(tmp_path, NAMES[:4], objects_per_shard=3)
    assert contents(tmp_path) == before
    write(tmp_path, NAMES, objects_per_shard=3)
    data = Shards(tmp_path)
    assert data.names == list(NAMES)
    data.verify()


def test_other_settings_are_refused(tmp_path):
    write(tmp_path, NAMES[:1])
    with pytest.raises(ValueError, match=r"'size': 16.*'size': 32.*another folder"):
        ShardWriter(tmp_path, {"size": 32})
    (tmp_path / INDEX).unlink()
    with pytest.raises(ValueError, match=r"'size': 16.*'size': 32.*another folder"):
        ShardWriter(tmp_path, {"size": 32})


@pytest.mark.parametrize("change", ["none", "partial", "json", "format", "cut", "lost", "shape"])
def test_what_is_no_dataset_is_refused_in_one_sentence(folder, tmp_path, change):
    for name, data in contents(folder).items():
        (tmp_path / name).write_bytes(data)
    index = tmp_path / INDEX
    if change in ("none", "partial"):
        for path in tmp_path.iterdir():
            path.unlink()
        word = "lgm dataset"
    if change == "partial":
        (tmp_path / "shard-000000.partial").write_bytes(b"")
        word = "unfinished"
    if change in ("json", "format", "shape"):
        text = index.read_text()
        changed = {"json": text[:-9], "format": text.replace("shards-1", "shards-0")}
        index.write_text(changed.get(change, text.replace('"samples":[[', '"samples":[[0,')))
        word = "no index of this version"
    if change == "cut":
        path = tmp_path / "shard-000001.tar"
        path.write_bytes(path.read_bytes()[:-1])
        word = "shard-000001.tar has"
    if change == "lost":
        (tmp_path / "shard-000001.tar").unlink()
        word = "shard-000001.tar is missing"
    with pytest.raises(ValueError, match=word) as caught:
        Shards(tmp_path)
    assert "\n" not in str(caught.value)


def damaged(folder, place, index, members):
    """A copy of the dataset where the content of some of an object's files is overwritten."""
    for name, data in contents(folder).items():
        (place / name).write_bytes(data)
    data = Shards(place)
    sample = data.samples[index]
    path = place / data.files[sample.shard][0]
    changed = bytearray(path.read_bytes())
    for member in members:
        offset, size = sample.byte_range(member)
        changed[offset : offset + size] = bytes(size)
    path.write_bytes(bytes(changed))
    return Shards(place), path


def test_unreadable_views_are_left_out_with_a_warning(folder, tmp_path, caplog):
    data, path = damaged(folder, tmp_path, 4, [2, 4])
    found = data.read(4, [0, 1, 2, 3])
    images, c2w = views(hash_of(NAMES[4]))
    assert found.ids == (0, 2)
    assert torch.equal(found.images, images[[0, 2]]) and torch.equal(found.c2w, c2w[[0, 2]])
    assert [record.args[:2] for record in caplog.records] == [(1, NAMES[4]), (3, NAMES[4])]
    with pytest.raises(ValueError, match=rf"'{NAMES[4]}' in .*{path.name} none of .* \[1, 3\]"):
        data.read(4, [1, 3])
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        data.verify()


def test_unreadable_cameras_are_named(folder, tmp_path):
    data, path = damaged(folder, tmp_path, 0, [0])
    with pytest.raises(ValueError, match=rf"cameras of '{NAMES[0]}' in .*{path.name}"):
        data.read(0, [1])


def test_processes_and_threads_read_alike(folder):
    data = Shards(folder)
    expected = [data.read(i, range(6)).images for i in range(len(data))]  # opens the files
    assert torch.equal(pickle.loads(pickle.dumps(data)).read(1, [2]).images, expected[1][2:3])

    wrong = []

    def read_all():
        for _ in range(20):
            wrong.extend(
                i for i, images in enumerate(expected)
                if not torch.equal(data.read(i, range(6)).images, images)
            )  # fmt: skip

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class AllViews(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data.read(index, range(6)).images


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_processes_read_alike(folder, start):
    if start not in torch.multiprocessing.get_all_start_methods():
        pytest.skip("this system can't")
    data = AllViews(Shards(folder))
    expected = [data[i] for i in range(len(data))]
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=1, multiprocessing_context=start, shuffle=False
    )
    for found, images in zip(loader, expected, strict=True):
        assert torch.equal(found, images)


def test_what_is_not_fit_for_training_is_refused(tmp_path):
    images, c2w = views(0)
    scaled, mirrored = c2w.clone(), c2w.clone()
    scaled[1, :3, :3] *= 1.1
    mirrored[:, :3, 0] *= -1
    half = encode_picture(images[0, :, :8, :8])
    oblong = encode_picture(images[0, :, :8])
    with ShardWriter(tmp_path) as writer:
        for arguments, word in (
            ((images, c2w[:5], 40.0), "6 pictures and cameras"),
            ((images, scaled, 40.0), "unit, perpendicular"),
            ((images, mirrored, 40.0), "unit, perpendicular"),
            ((images, c2w * float("nan"), 40.0), "unit, perpendicular"),
            ((images, c2w, 0.0), "field of view"),
            (([half, *map(encode_picture, images[1:])], c2w, 40.0), "16x16, 8x8"),
            (([oblong] * 6, c2w, 40.0), "16x8"),
            (([b"\xff\xd8\xff\xe0"] * 6, c2w, 40.0), "neither WebP nor PNG"),
            (([half[:40]] * 6, c2w, 40.0), "can't be read"),
            (([], c2w[:0], 40.0), "none"),
        ):
            with pytest.raises(ValueError, match=word) as caught:
                writer.add("a", *arguments)
            assert "a" in str(caught.value) and "\n" not in str(caught.value)
        writer.add("a", images, c2w, 40.0)
        with pytest.raises(ValueError, match=r"'a' is in .* already"):
            writer.add("a", images, c2w, 40.0)
    assert Shards(tmp_path).names == ["a"]


def test_nothing_added_makes_no_dataset(tmp_path):
    with ShardWriter(tmp_path / "new"):
        pass
    assert list((tmp_path / "new").iterdir()) == []
