"""Element values from bytes: numbers and text, tolerant of what real headers hold.

A value that makes no sense becomes None; whoever needs it says so. Source of the value
representations: DICOM PS3.5 table 6.2-1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

from .elements import Element

__all__ = ["Values"]

_NUMBERS = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "SV": "q", "UV": "Q",
}  # fmt: skip
#: What implicit VR means for the binary numbers that the reader asks for.
_IMPLICIT = {
    0x00280002: "US", 0x00280010: "US", 0x00280011: "US", 0x00280100: "US", 0x00280101: "US",
    0x00280102: "US", 0x00280103: "US", 0x00209057: "UL", 0x00209128: "UL", 0x00209156: "US",
}  # fmt: skip


class Values:
    """Typed access to elements.

    Parameters
    ----------
    elements : mapping of tag to (VR, value)
    order : {"<", ">"}
        Byte order of binary numbers.
    """

    __slots__ = ("_elements", "_encoding", "_order")

    def __init__(
        self, elements: Mapping[int, Element], order: str, encoding: str = "latin-1"
    ) -> None:
        self._elements = elements
        self._order = order
        self._encoding = encoding

    def __contains__(self, tag: int) -> bool:
        return tag in self._elements

    def raw(self, tag: int) -> tuple[str, bytes] | None:
        """VR and bytes; None for a missing or empty element, or a sequence."""
        element = self._elements.get(tag)
        if element is None or not isinstance(element[1], bytes) or not element[1]:
            return None
        return element

    def items(self, tag: int) -> list[Values]:
        """The items of a sequence, none when it is missing."""
        element = self._elements.get(tag)
        if element is None or not isinstance(element[1], list):
            return []
        return [Values(item, self._order, self._encoding) for item in element[1]]

    def text(self, tag: int) -> str | None:
        """The value as it stands, without padding; None when empty or missing."""
        found = self.raw(tag)
        if found is None:
            return None
        return _text(found[1], self._encoding)

    def texts(self, tag: int) -> tuple[str, ...]:
        """The values of a text with several."""
        whole = self.text(tag)
        return tuple(part.strip(" \0") for part in whole.split("\\")) if whole else ()

    def numbers(self, tag: int) -> tuple[float | None, ...]:
        """All values as numbers, None for each that is not one. NaN and infinity pass."""
        found = self.raw(tag)
        if found is None:
            return ()
        vr = found[0] if found[0] not in ("", "UN") else _IMPLICIT.get(tag, "")
        return _numbers(vr, self._order, found[1])

    def number(self, tag: int) -> float | None:
        """The first value, None when there is none or it is not a number."""
        found = self.numbers(tag)
        return found[0] if found else None

    def whole(self, tag: int) -> int | None:
        """The first value as an integer; None unless it is whole."""
        value = self.number(tag)
        if value is None or value != value or value in (float("inf"), float("-inf")):
            return None
        return int(value) if value == int(value) else None

    def vector(self, tag: int, length: int) -> tuple[float, ...] | None:
        """Exactly ``length`` numbers, None otherwise; NaN and infinity pass."""
        found = self.numbers(tag)
        if len(found) != length or None in found:
            return None
        return tuple(float(value) for value in found)

    def bits(self, tag: int, signed: bool) -> int | None:
        """A 16-bit number read with the given sign, whatever the VR says.

        PixelPaddingValue is often written with the wrong one of US and SS.
        """
        found = self.raw(tag)
        if found is None:
            return None
        if found[0] in ("DS", "IS", "LO", "SH"):
            value = self.whole(tag)
            if value is None or not -0x8000 <= value <= 0xFFFF:
                return None
            return _with_sign(value & 0xFFFF, signed)
        if len(found[1]) == 2:
            return _with_sign(struct.unpack(f"{self._order}H", found[1])[0], signed)
        if len(found[1]) == 4:
            return struct.unpack(f"{self._order}{'i' if signed else 'I'}", found[1])[0]
        return None


def _with_sign(value: int, signed: bool) -> int:
    return value - 0x10000 if signed and value > 0x7FFF else value


@lru_cache(maxsize=4096)
def _text(value: bytes, encoding: str) -> str | None:
    return value.decode(encoding, "replace").strip(" \0\t\r\n") or None


@lru_cache(maxsize=4096)  # most numbers are the same in all slices
def _numbers(vr: str, order: str, value: bytes) -> tuple[float | None, ...]:
    kind = _NUMBERS.get(vr)
    if kind is not None:
        count = len(value) // struct.calcsize(kind)
        return struct.unpack_from(f"{order}{count}{kind}", value)
    return tuple(_number(part) for part in value.decode("latin-1").split("\\"))


def _number(text: str) -> float | None:
    text = text.strip(" \0\t\r\n")
    if not text or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:  # a decimal comma, against the standard, from writers under another locale
        return float(text.replace(",", ".", 1))
    except ValueError:
        return None
