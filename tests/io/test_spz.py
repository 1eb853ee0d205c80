""".spz: every version's layout, precision, and gzip streams that lie."""

from __future__ import annotations

import gzip
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgm.gaussians import flip_y_z
from lgm.io import read_spz, write_spz

FUZZ = settings(max_examples=60, deadline=None, database=None)

# The quaternion w = x = 0, y = 0.6, z = 0.8 by hand.
BYTES_V2 = bytes([128, 204, 230])  # x, y, z as 127.5 + 127.5 q; w is what is left
WORD_V3 = (2 << 30) | (0 << 20) | (434 << 10) | 0  # z is largest; x, y = 434 / 511 / sqrt 2, w


def raw(
    version=3,
    count=None,
    rows=1,
    degree=0,
    bits=12,
    flags=0,
    magic=b"NGSP",
    position=(1.0, -2.0, -3.0),
    rotation=None,
    sh=None,
    tail=b"",
) -> bytes:
    """The uncompressed content of an .spz, by struct alone."""
    header = struct.pack(
        "<4sIIBBBB", magic, version, rows if count is None else count, degree, bits, flags, 0
    )
    if version == 1:
        positions = struct.pack("<3e", *position)
    else:
        fixed = [round(v * 2**bits) for v in position]
        positions = b"".join(struct.pack("<i", v)[:3] for v in fixed)
    default = struct.pack("<I", WORD_V3) if version == 3 else BYTES_V2
    columns = (positions, bytes([51]), bytes([128, 190, 64]), bytes([160, 144, 128]))
    bands = bytes(3 * (0, 3, 8, 15, 24)[min(degree, 4)]) if sh is None else bytes(sh)
    columns += (rotation or default, bands)
    return header + b"".join(column * rows for column in columns) + tail


def spz(*args, **kwargs) -> bytes:
    return gzip.compress(raw(*args, **kwargs))


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_file_written_by_hand(version, degree, rotation_matrices):
    gaussians = read_spz(spz(version, degree=degree, rows=2))
    assert gaussians.count == 2
    for index in range(2):
        close = torch.testing.assert_close
        close(gaussians.positions[0, index], torch.tensor([1.0, 2, 3]))
        close(gaussians.opacities[0, index], torch.tensor([0.2]))
        close(gaussians.scales[0, index], torch.tensor([1, math.exp(-1), math.exp(-2)]))
        sh = (torch.tensor([128.0, 190, 64]) / 255 - 0.5) / 0.15
        close(gaussians.colors[0, index], 0.5 + 0.28209479 * sh)
    in_file = read_spz(spz(version, degree=degree), frame="y-up").rotations
    expected = torch.tensor([[[0, 0, 0.6, 0.8]]])  # wxyz; version 3 has the larger component last
    torch.testing.assert_close(
        rotation_matrices(in_file),
        rotation_matrices(expected),
        atol=0.02 if version == 3 else 0.15,
        rtol=0,
    )


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(
    ("degree", "vectors", "kept"), [(1, 3, 3), (2, 8, 8), (3, 15, 15), (4, 24, 15)]
)
def test_bands_by_hand_have_the_channel_innermost(version, degree, vectors, kept):
    values = [(37 * i + 11) % 256 for i in range(3 * vectors)]
    sh = read_spz(spz(version, degree=degree, rows=2, sh=values), frame="y-up").sh
    expected = torch.tensor([(v - 128) / 128 for v in values]).reshape(vectors, 3)[:kept]
    assert torch.equal(sh, expected.expand(1, 2, -1, -1))


@pytest.mark.parametrize(("bands", "degree"), [(3, 1), (8, 2), (15, 3)])
def test_higher_bands_come_back_to_half_a_step(bands, degree, random_gaussians, assert_same):
    gaussians = random_gaussians(50, bands=bands)
    data = write_spz(None, gaussians)
    content = gzip.decompress(data)
    assert content[12] == degree and len(content) == 16 + 50 * (20 + 3 * bands)
    assert_same(
        read_spz(data), gaussians,
        positions=1e-5, opacities=2e-3, scales=0.032, rotations=5e-3, colors=4e-3, sh=0.5 / 128,
    )  # fmt: skip
    gaussians.sh[0, :2] = torch.tensor([-7.0, 7.0])[:, None, None]  # beyond what a byte holds
    assert read_spz(write_spz(None, gaussians), frame="y-up").sh[0, :2].abs().min() >= 127 / 128


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("sign", [-1, 1])
def test_every_component_can_be_the_largest(axis, sign, random_gaussians, assert_same):
    gaussians = random_gaussians(50)
    rotations = gaussians.rotations.clone()
    rotations[..., axis] = 3 * sign
    gaussians.rotations.copy_(torch.nn.functional.normalize(rotations, dim=-1))
    back = read_spz(write_spz(None, gaussians))
    assert_same(
        back, gaussians, positions=1e-5, opacities=2e-3, scales=0.032, rotations=5e-3, colors=4e-3
    )


def test_round_trip(gaussians, assert_same):
    # Half steps: positions 2^-17; opacity 1/510; scale exp(1/32) - 1 = 3.2 %; color 1.88 / 510;
    # three components of a quaternion 1/1445 each, the fourth up to three times that.
    back = read_spz(write_spz(None, gaussians))
    assert_same(
        back, gaussians, positions=8e-6, opacities=2e-3, scales=0.032, rotations=5e-3, colors=4e-3
    )


def test_large_scenes_trade_precision_for_reach(random_gaussians):
    for extent in (100, 1e4, 8e6):
        gaussians = random_gaussians(50)
        gaussians.positions.mul_(extent)
        gaussians.positions[0, 0, 0] = extent
        error = read_spz(write_spz(None, gaussians)).positions - gaussians.positions
        assert error.abs().max() <= extent * 2**-22
    gaussians.positions[0, 0, 0] = 1e7
    with pytest.raises(ValueError, match="got 1e\\+07"):
        write_spz(None, gaussians)


def test_writing_is_reproducible(gaussians):
    assert write_spz(None, gaussians) == write_spz(None, gaussians)


def test_header_says_version_3_without_bands(gaussians):
    content = gzip.decompress(write_spz(None, gaussians))
    assert content[:16] == struct.pack("<4sIIBBBB", b"NGSP", 3, gaussians.count, 0, 16, 0, 0)
    assert len(content) == 16 + 20 * gaussians.count


def test_frame(gaussians, assert_same):
    data = write_spz(None, gaussians)
    assert_same(flip_y_z(read_spz(data, frame="y-up")), read_spz(data))
    first_y = np.frombuffer(gzip.decompress(data)[19:22] + b"\0", "<i4")[0]
    assert (first_y >= 1 << 23) == bool(gaussians.positions[0, 0, 1] > 0)  # negative: above


def test_extension_records_after_the_data_are_skipped():
    tail = struct.pack("<II", 0xADBE0002, 12) + bytes(12)
    assert read_spz(spz(flags=2, tail=tail)).count == 1


def test_quaternions_longer_than_one_are_normalized():
    length = read_spz(spz(2, rotation=bytes([255, 255, 255]))).rotations.norm()
    torch.testing.assert_close(length, torch.tensor(1.0))
    length = read_spz(spz(3, rotation=struct.pack("<I", 0xFFFFFFFF))).rotations.norm()
    torch.testing.assert_close(length, torch.tensor(1.0))


def bomb(megabytes: int = 150) -> bytes:
    """A small stream that goes on with zeros after what its header accounts for."""
    stream = zlib.compressobj(1, wbits=31)
    blocks = [stream.compress(raw()), *(stream.compress(bytes(1 << 20)) for _ in range(megabytes))]
    return b"".join(blocks) + stream.flush()


BOMB = bomb()
GOOD = spz(rows=3)

BAD_FILES = [
    (b"", "does not start with an NGSP header"),
    (b"not gzip at all", "gzip stream is damaged"),
    (gzip.compress(b""), "NGSP header"),
    (gzip.compress(raw()[:15]), "NGSP header"),
    (spz(magic=b"PLY!"), "NGSP header"),
    (raw(4), "version 4"),
    (spz(0), "version 0"),
    (spz(4), "version 4"),
    (spz(count=0), "holds 0 Gaussians"),
    (spz(count=10_000_001), "holds 10,000,001 Gaussians"),
    (spz(count=2**32 - 1), "holds 4,294,967,295 Gaussians"),
    (spz(count=10_000_000), "take 200,000,000 bytes, but 20 follow"),
    (spz(count=2), "says 2 Gaussians, which take 40 bytes, but 20 follow"),
    (spz(degree=5), "SH degree 5"),
    (spz(degree=1, sh=[128] * 8), "says 1 Gaussians, which take 29 bytes, but 28 follow"),
    (gzip.compress(raw(bits=0)[:13] + b"\xff" + raw()[14:]), "255 fractional bits"),
    (spz(flags=0x80), "level-of-detail"),
    (spz(1, position=(math.inf, 0, 0)), "1 NaN or infinite values in x"),
    (GOOD[:-1], "truncated"),
    (GOOD[:-9], "truncated"),
    (GOOD[:20], "truncated|NGSP header"),
    (GOOD[:-8] + bytes(4) + GOOD[-4:], "damaged .*incorrect data check"),
    (BOMB, "far beyond what its header says"),
]


@pytest.mark.parametrize(("data", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_bad_files_are_refused_with_the_reason(data, message, read_or_refuse):
    assert read_or_refuse(read_spz, data) is None  # little memory
    with pytest.raises(ValueError, match=message):
        read_spz(data)


def test_a_bomb_is_a_bomb():
    assert len(BOMB) < 1_000_000  # and 150 MB inside


@FUZZ
@given(st.binary(max_size=200), st.sampled_from([1, 2, 3]))
def test_any_content_is_read_or_refused(read_or_refuse, tail, version):
    read_or_refuse(read_spz, tail)
    read_or_refuse(read_spz, gzip.compress(tail))
    read_or_refuse(read_spz, gzip.compress(struct.pack("<4sI", b"NGSP", version) + tail))


@FUZZ
@given(st.sampled_from([1, 2, 3]), st.data())
def test_damaged_files_are_read_or_refused(read_or_refuse, version, draw):
    content = bytearray(raw(version, rows=2, degree=1))
    for _ in range(draw.draw(st.integers(1, 3))):
        start = draw.draw(st.integers(0, len(content)))
        stop = draw.draw(st.integers(start, min(len(content), start + 8)))
        content[start:stop] = draw.draw(st.binary(max_size=8))
    read_or_refuse(read_spz, gzip.compress(bytes(content)))
    packed = bytearray(gzip.compress(raw(version)))
    packed[draw.draw(st.integers(0, len(packed) - 1))] = draw.draw(st.integers(0, 255))
    read_or_refuse(read_spz, bytes(packed))
