""".splat: 32-byte records."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgm.gaussians import flip_y_z
from lgm.io import read_splat, write_splat

FUZZ = settings(max_examples=60, deadline=None, database=None)


def record(x=1.0, y=-2.0, z=-3.0, scale=0.1, rgba=(255, 0, 51, 102), rotation=(255, 128, 128, 128)):
    return struct.pack("<6f8B", x, y, z, scale, 2 * scale, 3 * scale, *rgba, *rotation)


def test_record_written_by_hand():
    gaussians = read_splat(record() * 2)
    assert gaussians.count == 2
    torch.testing.assert_close(gaussians.positions[0, 1], torch.tensor([1.0, 2, 3]))
    torch.testing.assert_close(gaussians.scales[0, 1], torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(gaussians.colors[0, 1], torch.tensor([1, 0, 0.2]))
    torch.testing.assert_close(gaussians.opacities[0, 1], torch.tensor([0.4]))
    torch.testing.assert_close(gaussians.rotations[0, 1].abs(), torch.tensor([0.0, 1, 0, 0]))


def test_quaternion_order_is_wxyz():
    data = record(rotation=(128, 128, 128 + 77, 128 + 102))  # 0, 0, 0.6, 0.8 in steps of 1/128
    expected = torch.tensor([0, 0, 0.6, 0.8])
    found = read_splat(data, frame="y-up").rotations[0, 0]
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_round_trip(gaussians, assert_same):
    # Bytes are half a step off at most: 1/510 for color and opacity. A quaternion's step is 1/128
    # (a whole one at +1, which 255 can't reach); a matrix entry moves by up to about four halves.
    back = read_splat(write_splat(None, gaussians))
    assert_same(back, gaussians, scales=0, rotations=0.03, opacities=2e-3, colors=2e-3)


def test_frame(gaussians, assert_same):
    data = write_splat(None, gaussians)
    turned = flip_y_z(read_splat(data, frame="y-up"))
    assert_same(turned, read_splat(data))
    assert struct.unpack_from("<f", data, 4)[0] == -float(gaussians.positions[0, 0, 1])


def test_zero_quaternion_is_no_rotation():
    gaussians = read_splat(record(rotation=(128,) * 4), frame="y-up")
    assert gaussians.rotations[0, 0].tolist() == [1, 0, 0, 0]


BAD_FILES = [
    (b"", "has 0 bytes"),
    (record()[:-1], "has 31 bytes"),
    (record() + b"\0", "has 33 bytes"),
    (record(y=math.nan), "1 NaN or infinite values in y"),
    (record() + record(scale=math.inf), "in scale_0"),
    (record(scale=-0.1), "3 negative scales"),
]


@pytest.mark.parametrize(("data", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_bad_files_are_refused_with_the_reason(data, message):
    with pytest.raises(ValueError, match=message):
        read_splat(data)


@FUZZ
@given(st.integers(0, 5), st.data())
def test_any_bytes_are_read_or_refused(read_or_refuse, count, draw):
    read_or_refuse(read_splat, draw.draw(st.binary(max_size=200)))
    read_or_refuse(read_splat, draw.draw(st.binary(min_size=32 * count, max_size=32 * count)))


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 255)), max_size=4))
def test_damaged_files_are_read_or_refused(read_or_refuse, changes):
    data = bytearray(record() * 2)
    for position, value in changes:
        data[position] = value
    read_or_refuse(read_splat, bytes(data))
