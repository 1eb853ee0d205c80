"""The GLB container: a JSON chunk and a binary chunk (glTF 2.0, section 4)."""

from __future__ import annotations

import json
import struct
from typing import Any

FLOAT, UNSIGNED_BYTE, POINTS, ARRAY_BUFFER = 5126, 5121, 0, 34962
GLB_HEADER, CHUNK_HEADER = struct.Struct("<4sII"), struct.Struct("<I4s")
JSON_CHUNK, BIN_CHUNK = b"JSON", b"BIN\0"
MAX_JSON_BYTES = 64 << 20  # of embedded data, which counts, nearly a million Gaussians


def glb(document: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = (
        CHUNK_HEADER.pack(len(text), JSON_CHUNK)
        + text
        + CHUNK_HEADER.pack(len(binary), BIN_CHUNK)
        + binary
    )
    return GLB_HEADER.pack(b"glTF", 2, GLB_HEADER.size + len(chunks)) + chunks


def parse(name: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON document, and the binary chunk of a GLB (empty if there is none)."""
    binary = b""
    text = data
    if data.startswith(b"glTF"):
        chunks = glb_chunks(name, data)
        if not chunks or chunks[0][0] != JSON_CHUNK:
            raise ValueError(f"{name} is not a valid GLB: its first chunk is not JSON.")
        text = chunks[0][1]
        binary = next((chunk for kind, chunk in chunks[1:] if kind == BIN_CHUNK), b"")
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(
            f"{name} has {len(text):,} bytes of JSON, at most {MAX_JSON_BYTES:,} are read: "
            "save it as .glb."
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested very deeply
        raise ValueError(
            f"{name} is not a valid glTF: its JSON can't be read ({error})."
        ) from error
    if not isinstance(document, dict):
        raise ValueError(f"{name} is not a valid glTF: its JSON is not an object.")
    return document, binary


def glb_chunks(name: str, data: bytes) -> list[tuple[bytes, bytes]]:
    """Type and content of the first two chunks; the format defines no more."""
    if len(data) < GLB_HEADER.size:
        raise ValueError(f"{name} is not a valid GLB: it ends within its header.")
    _, version, length = GLB_HEADER.unpack_from(data)
    if version != 2 or length > len(data):
        raise ValueError(
            f"{name} is not a valid GLB: it says version {version} and {length:,} bytes, "
            f"needed are version 2 and the {len(data):,} bytes there are."
        )
    chunks, offset = [], GLB_HEADER.size
    while len(chunks) < 2 and offset + CHUNK_HEADER.size <= length:
        size, kind = CHUNK_HEADER.unpack_from(data, offset)
        offset += CHUNK_HEADER.size
        if offset + size > length:
            raise ValueError(
                f"{name} is truncated: a GLB chunk of {size:,} bytes, {length - offset:,} follow."
            )
        chunks.append((kind, data[offset : offset + size]))
        offset += size
    return chunks
