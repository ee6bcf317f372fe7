"""Bytes of DICOM data elements and files, for :mod:`.write`.

Source: DICOM PS3.5 section 7 (elements) and PS3.10 section 7 (files).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CTVideoError
from . import syntax as uids
from .encode_pixels import encapsulate, encode_frame

__all__ = ["Encoding", "FileEncoder", "element_key", "encode_elements", "merge", "replace_file"]

_LONG_VRS = frozenset(
    {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
)
_NUMBERS = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "SV": "q", "UV": "Q",
}  # fmt: skip

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_IMPLEMENTATION = "2.25.218911574098371562017480211"

Key = tuple[int, str]  # tag, VR
Keyword = str | tuple[int, int, str]


class Encoding:
    """How elements are written: byte order, and whether the VR stands in the file."""

    def __init__(self, *, implicit: bool = False, big_endian: bool = False) -> None:
        self.implicit = implicit
        self.order = ">" if big_endian else "<"
        self.tag = struct.Struct(f"{self.order}HH")
        self.long = struct.Struct(f"{self.order}I")
        self.short = struct.Struct(f"{self.order}H")


def element_key(keyword: str | tuple[int, int, str], *, signed: bool) -> Key:
    """Tag and VR of a keyword, or of a ``(group, element, VR)`` triple given as it stands.

    Parameters
    ----------
    signed : bool
        Decides elements that are "US or SS" by Pixel Representation.
    """
    if isinstance(keyword, tuple):
        group, element, vr = keyword
        return (group << 16) | element, vr
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None:
        raise CTVideoError(f"{keyword!r} is not the keyword of a DICOM attribute")
    vr = dictionary_VR(tag)
    if vr.startswith("US or SS"):
        vr = "SS" if signed else "US"
    elif " or " in vr:
        vr = vr.rsplit(" ", 1)[-1]
    return int(tag), vr


def encode_elements(elements: Mapping[Key, Any], encoding: Encoding) -> bytes:
    """A data set: its elements in ascending order of tag."""
    return b"".join(
        _encode_element(tag, vr, elements[tag, vr], encoding) for tag, vr in sorted(elements)
    )


def _encode_element(tag: int, vr: str, value: Any, encoding: Encoding) -> bytes:
    body = _encode_value(vr, value, encoding)
    return element_head(tag, vr, len(body), encoding) + body


def element_head(tag: int, vr: str, length: int, encoding: Encoding) -> bytes:
    """Tag, VR (unless implicit) and length; ``0xFFFFFFFF`` is the undefined length."""
    head = encoding.tag.pack(tag >> 16, tag & 0xFFFF)
    if encoding.implicit:
        return head + encoding.long.pack(length)
    if vr in _LONG_VRS:
        return head + vr.encode("ascii") + b"\0\0" + encoding.long.pack(length)
    return head + vr.encode("ascii") + encoding.short.pack(length)


def _encode_value(vr: str, value: Any, encoding: Encoding) -> bytes:
    if vr == "SQ":
        return _encode_sequence(value, encoding)
    if isinstance(value, (bytes, bytearray, memoryview)):
        body = bytes(value)
        return body + b"\0" * (len(body) % 2)
    if value is None:
        return b""
    values = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if vr in _NUMBERS:
        return struct.pack(f"{encoding.order}{len(values)}{_NUMBERS[vr]}", *values)
    if vr == "DS":
        text = "\\".join(v if isinstance(v, str) else decimal_string(float(v)) for v in values)
    else:
        text = "\\".join(str(v) for v in values)
    body = text.encode("latin-1")
    return body + (b"\0" if vr == "UI" else b" ") * (len(body) % 2)


def _encode_sequence(items: Sequence[Mapping[Key, Any]], encoding: Encoding) -> bytes:
    parts = []
    for item in items:
        body = encode_elements(item, encoding)
        parts += [encoding.tag.pack(0xFFFE, 0xE000), encoding.long.pack(len(body)), body]
    return b"".join(parts)


def decimal_string(value: float) -> str:
    """A DS of at most 16 characters, as near to ``value`` as those allow (PS3.5 table 6.2-1)."""
    text = repr(value)
    if text.endswith(".0"):
        text = text[:-2]
    digits = 16
    while len(text) > 16:
        digits -= 1
        text = f"{value:.{digits}g}"
    return text


class FileEncoder:
    """Turns attributes and planes into the bytes of one file."""

    def __init__(
        self, transfer_syntax: str, signed: bool, preamble: bool, meta: bool, missing: frozenset
    ) -> None:
        self.transfer_syntax = transfer_syntax
        self.codec = uids.syntax_of(transfer_syntax).codec
        self.signed = signed
        self.preamble = preamble
        self.meta = meta
        self.missing = {element_key(keyword, signed=signed)[0] for keyword in missing}
        self.encoding = Encoding(
            implicit=transfer_syntax == uids.IMPLICIT_LITTLE,
            big_endian=transfer_syntax == uids.BIG_ENDIAN,
        )
        self._keys: dict[Keyword, Key] = {}

    def keyed(self, attributes: Mapping[Keyword, Any]) -> dict[Key, Any]:
        """Attributes by tag and VR, without the missing ones; sequences all the way down."""
        result: dict[Key, Any] = {}
        for keyword, value in attributes.items():
            key = self._keys.get(keyword)
            if key is None:
                key = self._keys[keyword] = element_key(keyword, signed=self.signed)
            if key[0] in self.missing:
                continue
            if key[1] == "SQ":
                value = [self.keyed(item) for item in value]
            result = merge(result, {key: value})
        return result

    def pixel_data(
        self, planes: Sequence[np.ndarray], bits_stored: int, fragments: int, table: str | None
    ) -> dict[Key, Any]:
        """The pixel data element, and the extended offset table where one is asked for."""
        if self.codec != "raw":
            frames = [encode_frame(plane, self.transfer_syntax, bits_stored) for plane in planes]
            body, elements = encapsulate(frames, fragments=fragments, offset_table=table)
            elements[0x7FE00010, "OB"] = body
            return elements
        order = self.encoding.order
        body = b"".join(plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes)
        vr = "OW" if self.encoding.implicit or planes[0].itemsize > 1 else "OB"
        if vr == "OW" and order == ">" and planes[0].itemsize == 1:
            raise CTVideoError("8-bit pixels in OW are not written big endian")
        return {(0x7FE00010, vr): body + b"\0" * (len(body) % 2)}

    def file(self, elements: Mapping[Key, Any], pixels: Mapping[Key, Any]) -> bytes:
        """Preamble, meta information and data set."""
        head = {key: value for key, value in elements.items() if key[0] < 0x7FE00010}
        tail = {key: value for key, value in elements.items() if key[0] > 0x7FE00010}
        parts = [encode_elements(head, self.encoding)]
        for (tag, vr), value in sorted(pixels.items()):
            if tag in self.missing:
                continue
            undefined = tag == 0x7FE00010 and self.codec != "raw"
            length = 0xFFFFFFFF if undefined else len(value)
            parts += [element_head(tag, vr, length, self.encoding), value]
        parts.append(encode_elements(tail, self.encoding))
        data = b"".join(parts)
        if self.transfer_syntax == uids.DEFLATED:
            packer = zlib.compressobj(wbits=-15)
            data = packer.compress(data) + packer.flush()
            data += b"\0" * (len(data) % 2)
        start = b"\0" * 128 + b"DICM" if self.preamble else b""
        return start + (self._meta(elements) if self.meta else b"") + data

    def _meta(self, elements: Mapping[Key, Any]) -> bytes:
        body = encode_elements(
            {
                (0x00020001, "OB"): b"\0\1",
                (0x00020002, "UI"): elements.get((0x00080016, "UI"), _CT_IMAGE),
                (0x00020003, "UI"): elements.get((0x00080018, "UI"), "2.25.1"),
                (0x00020010, "UI"): self.transfer_syntax,
                (0x00020012, "UI"): _IMPLEMENTATION,
            },
            Encoding(),
        )
        return struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def merge(first: Mapping[Key, Any], second: Mapping[Key, Any]) -> dict[Key, Any]:
    """Both; where a tag stands in both, whatever its VR, the second one's."""
    taken = {tag for tag, _ in second}
    return {key: value for key, value in first.items() if key[0] not in taken} | dict(second)


def replace_file(path: Path, data: bytes) -> None:
    """Write beside the target, then rename: a half-written file never bears the name."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data)
    os.replace(partial, path)
