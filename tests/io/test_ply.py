"""PLY: the official writer's bytes, and every dialect of the format."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from lgm.gaussians import Gaussians, flip_y_z
from lgm.io import read_ply, write_ply

FIXTURE = Path(__file__).parents[1] / "data" / "ply.safetensors"
FIELDS = (
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
FUZZ = settings(max_examples=60, deadline=None, database=None)
CODES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"}
CODES |= {"float": "f", "double": "d"}

# One Gaussian by hand: above the origin in memory, so at y = -2 in the file.
ROW = dict(zip(FIELDS, [1, -2, -3, 0, 1, -1, 0, -1, -2, -3, 1, 0, 0, 0], strict=True))


def build(
    row: dict[str, float] = ROW,
    *,
    count: int | None = None,
    rows: int = 1,
    format: str = "binary_little_endian",
    types: dict[str, str] | None = None,
    newline: str = "\n",
    before: tuple[str, bytes] = ("", b""),
    after: tuple[str, bytes] = ("", b""),
    extra: str = "",
) -> bytes:
    """A PLY written with nothing but struct; `before` and `after` are elements with their data."""
    types = {key: "float" for key in row} | (types or {})
    lines = [
        "ply",
        f"format {format} 1.0",
        "comment made by hand: element face 3",
        extra,
        before[0],
    ]
    lines += [f"element vertex {rows if count is None else count}"]
    lines += [f"property {types[key]} {key}" for key in row]
    lines += [after[0], "end_header", ""]
    header = newline.join(line for line in "\n".join(lines[:-1]).split("\n") if line) + newline
    if format == "ascii":
        body = " ".join(map(str, row.values())).encode() + newline.encode()
    else:
        order = ">" if "big" in format else "<"
        body = b"".join(struct.pack(order + CODES[types[k]], v) for k, v in row.items())
    return header.encode() + before[1] + body * rows + after[1]


def assert_row(gaussians: Gaussians, count: int = 1) -> None:
    """`ROW` as it should be in memory."""
    close = torch.testing.assert_close
    assert gaussians.count == count
    for index in range(count):
        close(gaussians.positions[0, index], torch.tensor([1.0, 2, 3]))
        close(gaussians.opacities[0, index], torch.tensor([0.5]))
        close(gaussians.scales[0, index], torch.tensor([-1.0, -2, -3]).exp())
        close(gaussians.rotations[0, index].abs(), torch.tensor([0.0, 1, 0, 0]))  # half a turn on x
        close(
            gaussians.colors[0, index],
            torch.tensor([0.5, 0.5 + 0.28209479, 0.5 - 0.28209479]),
        )


@pytest.fixture(scope="module")
def fixture():
    tensors = load_file(FIXTURE)
    names = ("positions", "opacities", "scales", "rotations", "colors")
    record = Gaussians(*(tensors[name][None] for name in names))
    return record, tensors["kept"].bool(), tensors["bytes"].numpy().tobytes()


def test_bytes_equal_the_official_writer(fixture):
    record, kept, official = fixture
    written = write_ply(None, record)
    start = len(official) - int(kept.sum()) * 56
    assert written[:start] == official[:start]
    found, expected = (np.frombuffer(data[start:], "<f4") for data in (written, official))
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=0)


def test_official_file_gives_the_kept_rows(fixture, assert_same):
    record, kept, official = fixture
    # The official writer adds 1e-8 to scales, and the smallest here is 7e-4.
    assert_same(read_ply(official), record.select(kept), scales=3e-5, opacities=2e-6)


def test_frame_of_original_files_is_one_half_turn_away(gaussians, assert_same):
    data = write_ply(None, flip_y_z(gaussians))  # what the original code writes for these Gaussians
    assert_same(read_ply(data, frame="y-up"), gaussians)
    with pytest.raises(ValueError, match="y-down"):
        read_ply(data, frame="z-up")


def test_file_without_bands_has_the_14_properties_of_the_official_one(gaussians):
    header = write_ply(None, gaussians).split(b"end_header")[0].decode()
    assert re.findall("property float (.*)", header) == list(FIELDS)


@pytest.mark.parametrize("bands", [3, 8, 15])
def test_higher_bands_come_back_exactly(bands, random_gaussians, assert_same):
    gaussians = random_gaussians(40, bands=bands)
    data = write_ply(None, gaussians)
    assert_same(read_ply(data), gaussians, sh=0)
    header = data.split(b"end_header")[0].decode()
    rest = [f"f_rest_{i}" for i in range(3 * bands)]
    assert re.findall("property float (.*)", header) == [*FIELDS[:6], *rest, *FIELDS[6:]]


@pytest.mark.parametrize("format", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize(("count", "kept"), [(9, 3), (24, 8), (45, 15), (72, 15)])
def test_bands_of_red_come_before_those_of_green_and_blue(format, count, kept):
    """In any order of properties; of degree 4 what is kept is degrees 1 to 3."""
    rest = {f"f_rest_{i}": i - 7 for i in reversed(range(count))}
    sh = read_ply(build(rest | ROW, format=format, rows=2), frame="y-up").sh
    expected = [[channel * count // 3 + i - 7 for channel in range(3)] for i in range(kept)]
    assert sh.tolist() == [[expected, expected]]


def test_base_colors_outside_of_0_1_stay_beside_bands_only():
    row = ROW | {"f_dc_0": 4, "f_dc_1": -4}
    assert read_ply(build(row)).colors[0, 0, :2].tolist() == [1, 0]
    bright = read_ply(build(row | {f"f_rest_{i}": 0 for i in range(9)})).colors[0, 0]
    torch.testing.assert_close(
        bright[:2], torch.tensor([0.5 + 4 * 0.28209479, 0.5 - 4 * 0.28209479])
    )


def test_what_is_above_has_a_negative_y_in_the_file(gaussians):
    data = write_ply(None, gaussians)
    rows = np.frombuffer(data[-56 * gaussians.count :], "<f4").reshape(-1, 14)
    np.testing.assert_array_equal(rows[:, 1], -gaussians.positions[0, :, 1])


def test_covariances_turn_with_the_positions(gaussians, rotation_matrices):
    """Turning the file's ellipsoids by hand gives those in memory: R_mem = T R_file."""
    data = write_ply(None, gaussians)
    in_file = read_ply(data, frame="y-up")
    turn = torch.diag(torch.tensor([1.0, -1, -1]).double())
    torch.testing.assert_close(
        turn @ rotation_matrices(in_file.rotations),
        rotation_matrices(read_ply(data).rotations),
        atol=1e-6,
        rtol=0,
    )


def test_extremes_of_opacity_and_scale_survive(random_gaussians):
    gaussians = random_gaussians(2)
    gaussians.opacities[0, 0] = 1.0
    gaussians.scales[0, 1] = 0.0
    back = read_ply(write_ply(None, gaussians))
    assert back.opacities[0, 0] > 0.99999
    assert (back.scales[0, 1] < 2e-8).all()


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("format", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_every_encoding_and_line_ending_is_read(format, newline):
    assert_row(read_ply(build(format=format, newline=newline, rows=3)), count=3)


@pytest.mark.parametrize("format", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["char", "short", "int", "float", "double"])
def test_every_scalar_type_is_read(kind, format):
    assert_row(read_ply(build(format=format, types=dict.fromkeys(FIELDS, kind))))


@pytest.mark.parametrize("name", ["int8", "int16", "int32", "float32", "float64"])
def test_sized_type_names_are_read(name):
    old = {
        "int8": "char",
        "int16": "short",
        "int32": "int",
        "float32": "float",
        "float64": "double",
    }
    data = build(types=dict.fromkeys(FIELDS, old[name]))
    assert_row(
        read_ply(data.replace(f"property {old[name]}".encode(), f"property {name}".encode()))
    )


@pytest.mark.parametrize("format", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_other_properties_are_ignored_in_any_order(format):
    row = dict(reversed(ROW.items()))
    row = {"nx": 9, "tag": 3, **row, "ny": 9, "segment": 200}
    assert_row(read_ply(build(row, types={"tag": "short", "segment": "uchar"}, format=format)))


@pytest.mark.parametrize("format", ["ascii", "binary_little_endian"])
def test_other_elements_are_skipped(format):
    extra = "obj_info scanned at noon\ncomment caf\u00e9"
    camera = "element camera 2\nproperty float focal\nproperty uchar id"
    data = b"1.5 2\n1.5 2\n" if format == "ascii" else struct.pack("<fBfB", 1, 2, 3, 4)
    faces = "element face 1\nproperty list uchar int vertex_indices"
    tail = b"3 0 0 0\n" if format == "ascii" else struct.pack("<Biii", 3, 0, 0, 0)
    both = build(format=format, extra=extra, before=(camera, data), after=(faces, tail))
    assert_row(read_ply(both))


def test_lists_before_the_vertices():
    faces = "element face 1\nproperty list uchar int vertex_indices"
    assert_row(
        read_ply(build(format="ascii", before=(faces, b"3 0 0 0\n")))
    )  # one line is one face
    with pytest.raises(ValueError, match="face"):
        read_ply(build(before=(faces, struct.pack("<Biii", 3, 0, 0, 0))))


def test_blank_lines_in_ascii_are_no_records():
    data = build(format="ascii", rows=2)
    assert_row(read_ply(data.replace(b"\n1 ", b"\n \n1 ") + b"\n\n"), count=2)


def test_zero_quaternion_is_no_rotation():
    gaussians = read_ply(build(ROW | {"rot_0": 0}), frame="y-up")
    assert gaussians.rotations[0, 0].tolist() == [1, 0, 0, 0]


def test_quaternions_of_any_length_are_normalized():
    for length in (1e-30, 1e-6, 3.0, 1e30):
        gaussians = read_ply(
            build(ROW | {"rot_0": 0.6 * length, "rot_2": 0.8 * length}), frame="y-up"
        )
        torch.testing.assert_close(gaussians.rotations[0, 0], torch.tensor([0.6, 0, 0.8, 0]))


def without(*keys: str) -> dict[str, float]:
    return {key: value for key, value in ROW.items() if key not in keys}


INFINITE_ROWS = [
    ({"x": math.nan}, "1 NaN or infinite values in x"),
    ({"rot_3": math.inf}, "in rot_3"),
    ({"opacity": -math.inf}, "in opacity"),
    ({"scale_1": 1000.0}, "in scale_1"),  # exp overflows
    ({"f_dc_2": math.nan}, "in f_dc_2"),
    ({f"f_rest_{i}": math.nan if i == 5 else 0 for i in range(9)}, "in f_rest_5"),
]


@pytest.mark.parametrize("format", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize(("change", "message"), INFINITE_ROWS)
def test_values_that_are_not_finite_are_refused(change, message, format):
    with pytest.raises(ValueError, match=f"the data has .*{message}"):
        read_ply(build(ROW | change, format=format))


BAD_FILES = [
    (b"", "does not start with the line ply"),
    (b"plywood\n", "does not start with the line ply"),
    (b"ply\nformat ascii 1.0\n", "no end_header"),
    (b"ply\n" + b"comment x\n" * 20_000 + build()[4:], "no end_header"),
    (build().replace(b"format binary_little_endian 1.0\n", b""), "no format line"),
    (build().replace(b"1.0\n", b"2.0\n"), "format binary_little_endian 2.0"),
    (build(format="binary_middle_endian"), "format binary_middle_endian"),
    (build().replace(b"element vertex", b"element point"), r"found \['point'\]"),
    (build(extra="element vertex 1\nproperty float x"), "needs one PLY element vertex"),
    (build(extra="property float early"), "property float early"),
    (build().replace(b"vertex 1", b"vertex -1"), "element vertex -1"),
    (build().replace(b"vertex 1", b"vertex 1_0"), "element vertex 1_0"),
    (build().replace(b"vertex 1", b"vertex " + b"9" * 5000), "can't understand"),
    (build().replace(b"float rot_3", b"quaternion rot_3"), "property quaternion rot_3"),
    (build().replace(b"float rot_3", b"float rot_2"), "rot_2 twice"),
    (build(without("rot_1", "opacity")), "is incomplete: .* opacity, rot_1"),
    (build({"x": 1, "y": 2, "z": 3}), "mesh or point cloud"),
    (build({"packed_position": 1, "packed_scale": 2}), "compressed PLY"),
    (build().replace(b"float rot_3", b"list uchar float rot_3"), "list properties .*rot_3"),
    (build(format="ascii").replace(b"float rot_3", b"list uchar float rot_3"), "list properties"),
    (build(ROW | {f"f_rest_{i}": 0 for i in range(10)}), "has 10 properties f_rest_"),
    (build(ROW | {f"f_rest_{i}": 0 for i in range(1, 10)}), "needed are f_rest_0 to f_rest_8"),
    (build(count=0), "zero vertices"),
    (build(count=2), "says 2 vertices, which take 112 bytes, but 56 follow"),
    (build(count=10**18 - 1), "999,999,999,999,999,999 vertices"),
    (build(count=10**12, format="ascii"), "1,000,000,000,000 vertices"),
    (build(count=2, format="ascii") + b"\n" * 100, "says 2 vertices, 1 lines follow"),
    (build(format="ascii")[:-3] + b"\n" + b" " * 50, "not a valid ASCII PLY"),
    (build(ROW | {"x": "one"}, format="ascii"), "not a valid ASCII PLY"),
    (build(before=("element camera 999999999999\nproperty double f", b"")), "but 0 follow"),
]


@pytest.mark.parametrize(("data", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_bad_files_are_refused_with_the_reason(data, message, read_or_refuse):
    assert read_or_refuse(read_ply, data) is None  # little memory
    with pytest.raises(ValueError, match=message):
        read_ply(data)


def test_messages_name_the_file(tmp_path):
    path = tmp_path / "chair.ply"
    path.write_bytes(build(count=0))
    with pytest.raises(ValueError, match=re.escape("chair.ply has zero vertices")):
        read_ply(path)


VALID = [
    build(ROW | {f"f_rest_{i}": i for i in range(bands)}, format=format, rows=2)
    for format in ("ascii", "binary_little_endian", "binary_big_endian")
    for bands in (0, 9)
]
HEADER_WORDS = st.sampled_from(
    [
        *(
            "ply",
            "format",
            "element",
            "property",
            "list",
            "comment",
            "end_header",
            "vertex",
            "face",
        ),
        *(
            "ascii",
            "binary_little_endian",
            "1.0",
            "0",
            "1",
            "2",
            "4294967296",
            "float",
            "char",
            "x",
        ),
        *("double", "uchar", "rot_3", "nan", "-1", "1e999", "\r", "\x00", "\xff"),
    ]
)


@FUZZ
@given(st.binary(max_size=400))
def test_any_bytes_after_a_magic_are_read_or_refused(read_or_refuse, tail):
    read_or_refuse(read_ply, tail)
    read_or_refuse(read_ply, b"ply\n" + tail)


@FUZZ
@given(st.sampled_from(VALID), st.data())
def test_damaged_files_are_read_or_refused(read_or_refuse, data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        start = draw.draw(st.integers(0, len(damaged)))
        stop = draw.draw(st.integers(start, min(len(damaged), start + 8)))
        damaged[start:stop] = draw.draw(st.binary(max_size=8))
    read_or_refuse(read_ply, bytes(damaged))
    read_or_refuse(read_ply, bytes(damaged[: draw.draw(st.integers(0, len(damaged)))]))


@FUZZ
@given(st.sampled_from(VALID), st.data())
def test_rewritten_headers_are_read_or_refused(read_or_refuse, data, draw):
    head, separator, body = data.partition(b"end_header\n")
    lines = [line.split() for line in head.decode().split("\n") if line]
    for _ in range(draw.draw(st.integers(1, 3))):
        line = lines[draw.draw(st.integers(0, len(lines) - 1))]
        word = draw.draw(st.integers(0, max(0, len(line) - 1)))
        line[word : word + 1] = draw.draw(st.lists(HEADER_WORDS, max_size=2))
    header = "".join(" ".join(line) + "\n" for line in lines).encode("latin-1")
    read_or_refuse(read_ply, header + separator + body)
