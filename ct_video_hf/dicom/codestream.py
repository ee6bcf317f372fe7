"""What a compressed frame says of itself, read before a decoder allocates anything.

Sources: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["Codestream", "describe_codestream", "has_end_marker"]

#: SOF markers: all JPEG processes but DHT (C4), JPG (C8) and DAC (CC); F7 is JPEG-LS.
_FRAME_MARKERS = (frozenset(range(0xC0, 0xD0)) | {0xF7}) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_TAIL = 64
_J2K_START = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Codestream:
    """Size and precision in a compressed frame's own header."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


def describe_codestream(data: bytes | memoryview, codec: str) -> Codestream | None:
    """The header of a JPEG, JPEG-LS or JPEG 2000 stream; None where there is none."""
    try:
        return _jpeg_2000(data) if codec in ("jpeg-2000", "htj2k") else _jpeg(data)
    except (struct.error, IndexError):
        return None


def _jpeg(data: bytes | memoryview) -> Codestream | None:
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _FRAME_MARKERS:
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            return Codestream(rows, columns, components, precision)
        position += 2 + length
    return None


def _jpeg_2000(data: bytes | memoryview) -> Codestream | None:
    start = bytes(data[:4096]).find(_J2K_START)  # behind the boxes of a JP2 file, if any
    if start < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    components, depth = struct.unpack_from(">HB", data, start + 40)
    return Codestream(bottom - top, right - left, components, (depth & 0x7F) + 1, depth > 0x7F)


def has_end_marker(data: bytes | memoryview) -> bool:
    """Whether a stream ends with EOI or EOC (both FFD9), give or take padding with zeros."""
    stop = len(data)
    while stop > 0:
        tail = bytes(data[max(0, stop - _TAIL) : stop]).rstrip(b"\0")
        if len(tail) > 1 or (tail and stop <= _TAIL):
            return tail.endswith(b"\xff\xd9")
        stop -= _TAIL - 1  # the marker may lie across the border
    return False
