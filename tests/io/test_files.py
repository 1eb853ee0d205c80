"""Files are whole or absent, and named by their suffix."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from lgm.gaussians import colors_toward
from lgm.io import FORMATS, read_splat_file, write_atomically, write_splat_file
from lgm.io.files import read_source

WRITABLE = [suffix for suffix, format_ in FORMATS.items() if format_.write]
LOSSY = {
    ".splat": {"opacities": 0.01, "rotations": 0.03, "colors": 0.01},
    ".spz": {"positions": 1e-4},
}
LOSSY[".spz"] |= {"opacities": 0.01, "scales": 0.04, "rotations": 0.03, "colors": 0.01}


@pytest.mark.parametrize("suffix", WRITABLE)
def test_every_suffix_comes_back_from_the_disk(suffix, gaussians, assert_same, tmp_path):
    path = tmp_path / f"A splat {suffix.upper()}"
    data = write_splat_file(path, gaussians)
    assert path.read_bytes() == data
    assert_same(read_splat_file(path), gaussians, **LOSSY.get(suffix, {}))
    assert_same(read_splat_file(data, suffix), gaussians, **LOSSY.get(suffix, {}))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", WRITABLE)
def test_what_is_bright_from_above_is_so_in_every_format(suffix, random_gaussians):
    """All formats but .splat, which has no room for bands; the frame is turned there and back."""
    gaussians = random_gaussians(50, bands=8)
    back = FORMATS[suffix].read(FORMATS[suffix].write(None, gaussians))
    if suffix == ".splat":
        assert back.sh is None
        return
    for eye in (torch.tensor([0.0, 3, 0.5]), torch.tensor([2.0, -1, 1])):
        expected = colors_toward(gaussians, eye)
        torch.testing.assert_close(colors_toward(back, eye), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("suffix", WRITABLE)
def test_only_single_visible_finite_objects_are_written(
    suffix, random_gaussians, assert_same, tmp_path
):
    write, read = FORMATS[suffix].write, FORMATS[suffix].read
    path = tmp_path / "splat"
    one = random_gaussians(20)

    with pytest.raises(ValueError, match=r"holds one object, got a batch of 2: .*item\(i\)"):
        write(path, random_gaussians(20, batch=2))
    one.scales[0, 3, 1] = float("nan")
    with pytest.raises(ValueError, match="1 NaN or infinite values in scales"):
        write(path, one)
    with pytest.raises(ValueError, match="None of 20 Gaussians"):
        write(path, random_gaussians(20).map(lambda tensor: tensor * 0))
    assert not path.exists()

    faint = random_gaussians(20)
    faint.opacities[0, [0, 7]] = 0.0049
    faint.opacities[0, 1] = 0.005  # the threshold itself stays
    assert_same(read(write(None, faint)), faint.visible(), **LOSSY.get(suffix, {}))
    assert faint.visible().count == 18


def test_gradients_and_half_precision_are_written_too(gaussians, assert_same):
    half = gaussians.map(lambda tensor: tensor.half())
    needs_grad = half.map(lambda tensor: tensor.clone().requires_grad_())
    written = FORMATS[".glb"].write(None, needs_grad)
    expected = half.to(dtype=gaussians.positions.dtype)
    assert_same(FORMATS[".glb"].read(written), expected, rotations=2e-3)  # half is not unit


def test_unknown_names_are_refused(gaussians, tmp_path):
    with pytest.raises(ValueError, match=r"\*\.obj: known are \.ply"):
        write_splat_file(tmp_path / "a.obj", gaussians)
    with pytest.raises(ValueError, match=r"\*\.gltf: known are"):
        write_splat_file(tmp_path / "a.gltf", gaussians)
    with pytest.raises(ValueError, match="suffix="):
        read_splat_file(b"ply\n")
    with pytest.raises(ValueError, match="'upside-down'"):
        read_splat_file(b"", ".glb", frame="upside-down")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(monkeypatch, tmp_path):
    path = tmp_path / "a.ply"
    path.write_bytes(b"old")
    real_open = Path.open

    def open_on_a_full_disk(self, mode="r", *args, **kwargs):
        file = real_open(self, mode, *args, **kwargs)
        if "x" in mode:
            write = file.write

            class Full:
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    file.close()

                def write(self, data):
                    write(data[: len(data) // 2])
                    raise OSError(errno.ENOSPC, "No space left on device")

            return Full()
        return file

    monkeypatch.setattr(Path, "open", open_on_a_full_disk)
    with pytest.raises(
        RuntimeError, match=r"Can't write .*a\.ply: No space left on device\. Choose"
    ):
        write_atomically(path, b"x" * 1000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_can_not_be_written_say_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in ("missing/a.ply", "file/a.ply", "folder"):
        with pytest.raises(RuntimeError, match="Can't write"):
            write_atomically(tmp_path / path, b"data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_written_files_have_ordinary_permissions(tmp_path):
    write_atomically(tmp_path / "atomic", b"")
    (tmp_path / "ordinary").write_bytes(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_sources_that_can_not_be_read_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.ply: there is no such file"):
        read_source(tmp_path / "nothing.ply")
    with pytest.raises(ValueError, match="not a regular file"):
        read_source(tmp_path)
    with pytest.raises(ValueError, match=r"a\.spz is not"):
        (tmp_path / "a.spz").write_bytes(b"not gzip")
        read_splat_file(str(tmp_path / "a.spz"))
