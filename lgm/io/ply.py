"""3DGS PLY (Kerbl et al. 2023): one element `vertex`, 14 properties or more, +y down.

Stored: opacity as logit, scale as natural logarithm, color as spherical harmonic of degree 0,
quaternion w, x, y, z; where colors depend on the direction, `f_rest_*` holds the higher bands, all
of red before green before blue. Facts about PLY itself: Turk 1994.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..gaussians import Gaussians
from ..spherical_harmonics import BAND_WIDTHS, SH_C0
from .columns import Columns, Frame, from_columns, is_y_down, require_finite, to_columns
from .files import Source, read_source, write_atomically

FIELDS = (
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)

TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
REST_COUNTS = (*(3 * width for width in BAND_WIDTHS), 72)  # of degree 4, the bands up to 3 are read
MAX_HEADER_BYTES = 1 << 16  # a 3DGS header with all bands has 1.5 KB


def write_ply(path: str | Path | None, gaussians: Gaussians) -> bytes:
    """The bytes of a binary 3DGS PLY (+y down), also written to `path` unless it is None.

    As the official writer: Gaussians fainter than 0.005 are left out, opacities clamped to
    [1e-6, 1 - 1e-6] before the logit, 1e-8 added to scales before the logarithm.

    Raises:
        ValueError: a batch other than one, values that are not finite, nothing visible.
        RuntimeError: the file can't be written.
    """
    columns = to_columns(gaussians, y_down=True)
    count = len(columns.positions)
    opacities = columns.opacities.clip(1e-6, 1 - 1e-6)
    sh = np.empty((count, 0, 3), np.float32) if columns.sh is None else columns.sh
    rest = sh.swapaxes(1, 2).reshape(count, -1)
    table = np.concatenate(
        [
            columns.positions,
            (columns.colors - 0.5) / SH_C0,
            rest,
            np.log(opacities / (1 - opacities)),
            np.log(columns.scales + 1e-8),
            columns.rotations,
        ],
        axis=1,
    )
    names = (*FIELDS[:6], *rest_fields(rest.shape[1]), *FIELDS[6:])
    properties = [f"property float {name}" for name in names]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(table)}",
        *properties,
        "end_header",
        "",
    ]
    data = "\n".join(header).encode("ascii") + table.astype("<f4").tobytes()
    if path is not None:
        write_atomically(path, data)
    return data


def read_ply(source: Source, *, frame: Frame = "y-down") -> Gaussians:
    """Gaussians [1, N, ..] (float32, CPU, y-up) of a 3DGS PLY, binary or ASCII.

    Args:
        source: a path, or the bytes.
        frame: what the file holds; a PLY can't say. "y-up" reads files of the original LGM code.

    Properties may come in any order, scalar type and byte order; unknown ones are ignored. Bands of
    degree 4 are dropped.

    Raises:
        ValueError: anything else, naming the file and the property.
    """
    y_down = is_y_down(frame)
    name, data = read_source(source)
    header = parse_header(name, data)
    table = (ascii_table if header.order == "" else binary_table)(name, data, header)
    require_finite(name, header.fields, table)
    positions, dc, logits, log_scales, rotations, rest = np.split(table, [3, 6, 7, 10, 14], axis=1)
    sh = rest.reshape(len(rest), 3, -1).swapaxes(1, 2)[:, : BAND_WIDTHS[-1]]
    with np.errstate(over="ignore"):  # overflow gives 0 or infinity, and infinity is refused next
        opacities, scales = 1 / (1 + np.exp(-logits)), np.exp(log_scales)
    colors = dc * SH_C0 + 0.5
    columns = Columns(positions, opacities, scales, rotations, colors, sh if sh.size else None)
    return from_columns(name, columns, y_down=y_down)


def rest_fields(count: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{index}" for index in range(count))


@dataclass
class Element:
    name: str
    count: int
    properties: dict[str, str]  # name -> numpy type code, in file order; "list" for a list

    @property
    def has_lists(self) -> bool:
        return "list" in self.properties.values()

    @property
    def rest_count(self) -> int:
        return sum(key.startswith("f_rest_") for key in self.properties)

    @property
    def stride(self) -> int:
        """Bytes per record; lists have none."""
        return sum(np.dtype(code).itemsize for code in self.properties.values())


@dataclass(frozen=True)
class Header:
    order: str  # numpy byte order, "" for ASCII
    before: list[Element]  # that precede `vertex` in the file
    vertex: Element
    size: int  # bytes

    @property
    def fields(self) -> tuple[str, ...]:
        """The properties that are read."""
        return (*FIELDS, *rest_fields(self.vertex.rest_count))


def parse_header(name: str, data: bytes) -> Header:
    """The header up to and including `end_header`, with vertices that are Gaussians."""
    lines, size = header_lines(name, data)
    order = None
    elements: list[Element] = []
    for line in lines:
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", format_, "1.0"] if format_ in FORMATS and order is None:
                order = FORMATS[format_]
            case ["element", element, count] if count.isdecimal() and len(count) <= 18:
                elements.append(Element(element, int(count), {}))
            case ["property", "list", length, item, key] if (
                elements and length in TYPES and item in TYPES
            ):
                add_property(name, elements[-1], key, "list")
            case ["property", kind, key] if elements and kind in TYPES:
                add_property(name, elements[-1], key, TYPES[kind])
            case _:
                raise ValueError(
                    f"{name} is not a valid PLY: can't understand the header line {line[:80]!r}."
                )
    if order is None:
        raise ValueError(f"{name} is not a valid PLY: the header has no format line.")
    names = [element.name for element in elements]
    if names.count("vertex") != 1:
        raise ValueError(
            f"{name} is not a Gaussian splat: it needs one PLY element vertex, found {names[:5]}."
        )
    position = names.index("vertex")
    require_splat(name, elements[position])
    return Header(order, elements[:position], elements[position], size)


def header_lines(name: str, data: bytes) -> tuple[list[str], int]:
    """Lines between `ply` and `end_header`, and the size of all of it in bytes."""
    newline = next((n for n in (b"\r\n", b"\n", b"\r") if data.startswith(b"ply" + n)), None)
    if newline is None:
        raise ValueError(f"{name} is not a PLY file: it does not start with the line ply.")
    head = data[:MAX_HEADER_BYTES]
    end = head.find(newline + b"end_header" + newline)
    if end < 0:
        raise ValueError(
            f"{name} is not a valid PLY: no end_header in the first {len(head):,} bytes."
        )
    lines = head[:end].decode("latin-1").split(newline.decode())[1:]
    return lines, end + len(b"end_header") + 2 * len(newline)


def add_property(name: str, element: Element, key: str, code: str) -> None:
    if key in element.properties:
        raise ValueError(
            f"{name} is not a valid PLY: element {element.name} has the property {key} twice."
        )
    element.properties[key] = code


def require_splat(name: str, vertex: Element) -> None:
    if "packed_position" in vertex.properties:
        raise ValueError(
            f"{name} is a compressed PLY, which is not supported: export it as plain PLY or .spz."
        )
    missing = [field for field in FIELDS if field not in vertex.properties]
    if missing:
        kind = (
            "looks like a mesh or point cloud, not a Gaussian splat"
            if len(missing) > 8
            else "is incomplete"
        )
        raise ValueError(f"{name} {kind}: its vertices lack the properties {', '.join(missing)}.")
    if vertex.has_lists:
        lists = [key for key, code in vertex.properties.items() if code == "list"]
        raise ValueError(
            f"{name} has list properties in its vertices ({', '.join(lists[:3])}): remove them."
        )
    rest = vertex.rest_count
    if rest not in REST_COUNTS or not vertex.properties.keys() >= set(rest_fields(rest)):
        raise ValueError(
            f"{name} has {rest} properties f_rest_*, needed are f_rest_0 to f_rest_8, f_rest_23 or "
            "f_rest_44 (spherical harmonics of degree 1, 2 or 3): export it again."
        )
    if vertex.count == 0:
        raise ValueError(f"{name} has zero vertices: there is nothing to show.")


def binary_table(name: str, data: bytes, header: Header) -> np.ndarray:
    """[N, columns] float32 in the order of `header.fields`, from a binary body."""
    start = header.size
    for element in header.before:
        if element.has_lists:
            raise ValueError(
                f"{name} has lists (element {element.name}) before its vertices: save it without."
            )
        start += element.count * element.stride
    codes, count, stride = header.vertex.properties, header.vertex.count, header.vertex.stride
    fields = header.fields
    require_bytes(name, count, count * stride, len(data) - start)
    sizes = [np.dtype(code).itemsize for code in codes.values()]
    offsets = dict(zip(codes, np.cumsum([0, *sizes]).tolist(), strict=False))
    layout = {  # the columns where they lie; what is between them is never read
        "names": fields,
        "formats": [header.order + codes[field] for field in fields],
        "offsets": [offsets[field] for field in fields],
        "itemsize": stride,
    }
    record: np.dtype[Any] = np.dtype(layout)
    rows = np.frombuffer(data, record, count=count, offset=start)
    table = np.empty((count, len(fields)), np.float32)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is refused
        for column, field in enumerate(fields):
            table[:, column] = rows[field]
    return table


def ascii_table(name: str, data: bytes, header: Header) -> np.ndarray:
    """[N, columns] float32 in the order of `header.fields`, from an ASCII body, a record a line."""
    count, keys = header.vertex.count, list(header.vertex.properties)
    require_bytes(
        name, count, count * (2 * len(keys)) - 1, len(data) - header.size
    )  # a digit and a space each
    text = io.TextIOWrapper(io.BytesIO(data[header.size :]), encoding="latin-1")
    skip = min(sum(element.count for element in header.before), len(data))
    rows = list(islice((line for line in text if not line.isspace()), skip, skip + count))
    if len(rows) < count:
        raise ValueError(
            f"{name} is truncated: its header says {count:,} vertices, {len(rows):,} lines follow."
        )
    try:
        columns = [keys.index(field) for field in header.fields]
        return np.loadtxt(rows, np.float32, comments=None, usecols=columns, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{name} is not a valid ASCII PLY ({error}).") from error


def require_bytes(name: str, count: int, needed: int, found: int) -> None:
    """Checked before anything is allocated: the count comes from a file nobody vouches for."""
    if needed > max(found, 0):
        raise ValueError(
            f"{name} is truncated: its header says {count:,} vertices, "
            f"which take {needed:,} bytes, but {max(found, 0):,} follow."
        )
