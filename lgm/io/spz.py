"""`.spz` (Niantic, 2024): quantized columns, one after the other, in a gzip stream.

The format's own documentation says +y up; ComfyUI core and most files in circulation hold the 3DGS
frame (+y down), as converted from PLY. We write and by default read +y down, to agree with core.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..gaussians import Gaussians
from ..spherical_harmonics import BAND_WIDTHS, SH_C0
from .columns import Columns, Frame, from_columns, is_y_down, to_columns
from .files import Source, read_source, write_atomically

HEADER = struct.Struct("<4sIIBBBB")  # magic, version, count, SH degree, fractional bits, flags, 0
MAGIC = b"NGSP"
MAX_COUNT = 10_000_000  # the limit of Niantic's own reader of versions 1 to 3

LOD_FLAG = 0x80  # Spark's level-of-detail tree: parents would be drawn on top of their children

COLOR_RANGE = SH_C0 / 0.15  # bytes span this much color around 0.5, some beyond 0..1
MAX_FRACTIONAL_BITS = 16  # 1.5e-5 of a unit; 12 is usual, but our objects are only two units wide
SH_VECTORS = (0, 3, 8, 15, 24)  # beyond the base color, by degree

MASK = 0x1FF  # 9 bits of magnitude in a smallest-three quaternion; a tenth bit is the sign


@dataclass(frozen=True)
class Header:
    version: int
    count: int
    degree: int
    fractional_bits: int

    @property
    def widths(self) -> dict[str, int]:
        """Bytes per Gaussian of every column, in file order."""
        return {
            "positions": 6 if self.version == 1 else 9,
            "opacities": 1,
            "colors": 3,
            "scales": 3,
            "rotations": 4 if self.version == 3 else 3,
            "sh": 3 * SH_VECTORS[self.degree],
        }


def write_spz(path: str | Path | None, gaussians: Gaussians) -> bytes:
    """The bytes of an `.spz` of version 3 (+y down), also written to `path` unless it is None.

    Gaussians fainter than 0.005 are left out; the others keep their order. Rounding: positions to
    2^-16 units (coarser beyond 128 units), opacity to 1/255, color to 1/136, scales to steps of 6
    percent within [4.5e-5, 379], quaternion components to 1/723, higher bands to 1/128 within
    [-1, 127/128].

    Raises:
        ValueError: a batch other than one, values that are not finite, nothing visible, positions
            beyond 2^23 units.
        RuntimeError: the file can't be written.
    """
    columns = to_columns(gaussians, y_down=True)
    bits = fractional_bits(columns.positions)
    parts = (
        pack_positions(columns.positions, bits),
        to_bytes(columns.opacities * 255),
        to_bytes(((columns.colors - 0.5) / COLOR_RANGE + 0.5) * 255),
        to_bytes((np.log(columns.scales.clip(1e-9)) + 10) * 16),
        pack_rotations(columns.rotations),
        *([] if columns.sh is None else [to_bytes(columns.sh * 128 + 128)]),  # red is next to green
    )
    degree = 0 if columns.sh is None else SH_VECTORS.index(columns.sh.shape[1])
    header = HEADER.pack(MAGIC, 3, len(columns.positions), degree, bits, 0, 0)
    data = gzip.compress(b"".join([header, *(part.tobytes() for part in parts)]), mtime=0)
    if path is not None:
        write_atomically(path, data)
    return data


def read_spz(source: Source, *, frame: Frame = "y-down") -> Gaussians:
    """Gaussians [1, N, ..] (float32, CPU, y-up) of an `.spz` file, versions 1 to 3.

    Args:
        source: a path, or the bytes.
        frame: what the file holds; see the top of this module.

    Bands of degree 4 are dropped.

    Raises:
        ValueError: another version, a truncated or damaged stream, more data than the header says,
            zero or more than ten million Gaussians, values that are not finite.
    """
    y_down = is_y_down(frame)
    name, data = read_source(source)
    header, raw = unpack(name, data)
    columns = Columns(
        positions=unpack_positions(raw["positions"], header),
        opacities=raw["opacities"] / 255,
        scales=np.exp(raw["scales"] / 16 - 10),
        rotations=unpack_rotations(raw["rotations"]),
        colors=(raw["colors"] / 255 - 0.5) * COLOR_RANGE + 0.5,
        sh=unpack_sh(raw["sh"]) if header.degree else None,
    )
    return from_columns(name, columns, y_down=y_down)


def unpack(name: str, data: bytes) -> tuple[Header, dict[str, np.ndarray]]:
    """The header and the columns, [N, bytes] uint8 each.

    A small stream can hold gigabytes, so only what the header accounts for is ever decompressed.
    """
    if data.startswith(MAGIC):
        raise ValueError(
            f"{name} is an .spz of version 4 (Zstandard); versions 1, 2 and 3 are supported."
        )
    stream = zlib.decompressobj(wbits=31)
    try:
        header = parse_header(name, stream.decompress(data, HEADER.size))
        size = header.count * sum(header.widths.values())
        body = stream.decompress(stream.unconsumed_tail, size)
        rest = 1 << 20  # extension records
        while rest > 0 and stream.unconsumed_tail:  # read to the checksum, keep nothing
            rest -= len(stream.decompress(stream.unconsumed_tail, min(rest, 1 << 24)))
    except zlib.error as error:
        raise ValueError(
            f"{name} is not a readable .spz: its gzip stream is damaged ({error})."
        ) from error
    if len(body) < size:
        raise ValueError(
            f"{name} is truncated: its header says {header.count:,} Gaussians, "
            f"which take {size:,} bytes, but {len(body):,} follow."
        )
    if not stream.eof:
        problem = "goes on far beyond what its header says" if rest <= 0 else "is truncated"
        raise ValueError(f"{name} is not a readable .spz: its gzip stream {problem}.")
    ends = np.cumsum([header.count * width for width in header.widths.values()])[:-1]
    parts = np.split(np.frombuffer(body, np.uint8), ends)
    return header, {
        column: part.reshape(header.count, width)
        for (column, width), part in zip(header.widths.items(), parts, strict=True)
    }


def parse_header(name: str, data: bytes) -> Header:
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise ValueError(
            f"{name} is not an .spz file: its gzip stream does not start with an NGSP header."
        )
    _, version, count, degree, bits, flags, _ = HEADER.unpack(data)
    if version not in (1, 2, 3):
        raise ValueError(
            f"{name} is an .spz of version {version}; versions 1, 2 and 3 are supported."
        )
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(
            f"{name} says it holds {count:,} Gaussians; 1 to {MAX_COUNT:,} are supported."
        )
    if degree >= len(SH_VECTORS) or bits > 31:
        raise ValueError(
            f"{name} has a damaged .spz header: SH degree {degree}, {bits} fractional bits."
        )
    if flags & LOD_FLAG:
        raise ValueError(
            f"{name} holds a level-of-detail tree, which is not supported: export plain Gaussians."
        )
    return Header(version, count, degree, bits)


def to_bytes(values: np.ndarray) -> np.ndarray:
    return values.round().clip(0, 255).astype(np.uint8)


def fractional_bits(positions: np.ndarray) -> int:
    """Count the fractional bits that 24-bit fixed point leaves beside the largest coordinate."""
    largest = float(np.abs(positions).max())
    for bits in range(MAX_FRACTIONAL_BITS, -1, -1):
        if round(largest * (1 << bits)) < 1 << 23:
            return bits
    raise ValueError(
        f"An .spz holds positions up to 8,388,607 units, got {largest:.3g}: scale the splat down."
    )


def pack_positions(positions: np.ndarray, bits: int) -> np.ndarray:
    """[N, 9] little-endian 24-bit integers."""
    fixed = (positions * (1 << bits)).round().astype("<i4")
    return np.ascontiguousarray(fixed).view(np.uint8).reshape(-1, 3, 4)[..., :3].reshape(-1, 9)


def unpack_positions(raw: np.ndarray, header: Header) -> np.ndarray:
    """[N, 3] from half floats (version 1) or 24-bit fixed point."""
    if header.version == 1:
        return np.ascontiguousarray(raw).view("<f2").astype(np.float32)
    shifted = np.zeros((header.count, 3, 4), np.uint8)
    shifted[..., 1:] = raw.reshape(-1, 3, 3)  # the sign bit at the top of 32
    fixed = shifted.view("<i4")[..., 0] >> 8  # arithmetic shift extends the sign
    return (fixed / 2.0**header.fractional_bits).astype(np.float32)


def pack_rotations(rotations: np.ndarray) -> np.ndarray:
    """[N, 4] bytes: which of x, y, z, w is largest in 2 bits, then the others in 10 bits each."""
    lengths = np.linalg.norm(rotations, axis=1, keepdims=True)
    xyzw = np.roll(rotations / np.where(lengths > 0, lengths, 1), -1, axis=1)
    largest = np.abs(xyzw).argmax(axis=1)[:, None]
    xyzw = np.where(
        np.take_along_axis(xyzw, largest, 1) < 0, -xyzw, xyzw
    )  # q and -q are one rotation
    magnitudes = (np.abs(xyzw) * np.sqrt(2) * MASK).round().clip(0, MASK).astype(np.uint32)
    words = largest[:, 0].astype(np.uint32)
    codes = magnitudes | ((xyzw < 0).astype(np.uint32) << 9)
    for axis in range(4):
        words = np.where(largest[:, 0] == axis, words, (words << 10) | codes[:, axis])
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)


def unpack_rotations(raw: np.ndarray) -> np.ndarray:
    """[N, 4] quaternions wxyz from smallest-three words, or from bytes x, y, z before version 3."""
    if raw.shape[1] == 3:
        xyz = raw / 127.5 - 1
        return np.concatenate([remaining(xyz), xyz], axis=1)
    words = np.ascontiguousarray(raw).view("<u4")[:, 0]
    largest = words >> 30
    xyzw = np.zeros((len(words), 4))
    for axis in (3, 2, 1, 0):  # the last one packed is in the lowest bits
        stored = largest != axis
        magnitude = (words & MASK) / (MASK * np.sqrt(2))
        xyzw[:, axis] = np.where(stored, np.where(words & (MASK + 1), -magnitude, magnitude), 0)
        words = np.where(stored, words >> 10, words)
    xyzw[np.arange(len(xyzw)), largest] = remaining(xyzw)[:, 0]
    return np.roll(xyzw, 1, axis=1)


def unpack_sh(raw: np.ndarray) -> np.ndarray:
    """[N, M, 3] coefficients of degrees 1 to 3 from bytes, 128 being zero."""
    vectors = raw.reshape(len(raw), -1, 3)[:, : BAND_WIDTHS[-1]]
    return (vectors.astype(np.float32) - 128) / 128


def remaining(others: np.ndarray) -> np.ndarray:
    """[N, 1] the non-negative component that makes the quaternion's length one."""
    return np.sqrt((1 - (others**2).sum(axis=1, keepdims=True)).clip(0))
