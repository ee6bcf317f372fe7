"""A small walker over DICOM data elements that stops at the pixel data.

It reads explicit and implicit VR in both byte orders and skips nested sequences. What it does not
understand it says with :class:`OddStructure`; :func:`pydicom_elements` then takes over, with
pydicom's tolerance for broken writers. Values stay bytes, so both ways share every conversion.

Source: DICOM PS3.5 section 7 and PS3.10 section 7.1.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError

__all__ = [
    "ITEM_END",
    "PIXEL_DATA",
    "SEQUENCE_END",
    "UNDEFINED",
    "Element",
    "Header",
    "Layout",
    "NeedMoreBytes",
    "OddStructure",
    "Span",
    "pydicom_elements",
    "spans",
    "walk",
]

_PIXEL_GROUP = 0x7FE0
PIXEL_DATA = 0x7FE00010
#: Float and double float pixel data (PS3.3 C.7.6.24-25): no CT image has them.
FLOAT_PIXELS = frozenset({0x7FE00008, 0x7FE00009})
UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
_MAX_DEPTH = 16

_SHORT_VRS = frozenset(
    vr.encode()
    for vr in "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()  # noqa: SIM905
)
_LONG_VRS = frozenset(
    vr.encode()
    for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()  # noqa: SIM905
)

#: VR and value; the value of a sequence is a list of such dictionaries, else bytes.
Element = tuple[str, "bytes | list[dict[int, Element]]"]


class NeedMoreBytes(Exception):
    """The buffer ends inside an element that has to be seen whole."""


class OddStructure(Exception):
    """Something that is not well-formed DICOM; another parser may make sense of it."""


@dataclass(frozen=True)
class Layout:
    """How a data set is written."""

    implicit: bool
    order: str  # "<" or ">"

    def structs(self) -> tuple[Struct, Struct, Struct]:
        """Of (tag, VR, short length), of (tag, long length) and of a long length."""
        return _STRUCTS[self.order]


_STRUCTS = {
    order: (Struct(f"{order}HH2sH"), Struct(f"{order}HHI"), Struct(f"{order}I")) for order in "<>"
}


@dataclass(frozen=True, slots=True)
class Span:
    """Where an element stands: its tag from ``start``, its value from ``value`` to ``stop``.

    ``width`` bytes before the value say its length, unless that is undefined (``counted``).
    """

    tag: int
    vr: str
    start: int
    value: int
    stop: int
    width: int
    counted: bool


@dataclass(slots=True)
class Header:
    """The elements that were wanted, and where the pixel data are."""

    elements: dict[int, Element]
    layout: Layout
    transfer_syntax: str = ""
    pixel_offset: int | None = None
    pixel_length: int | None = None
    pixel_vr: str | None = None
    has_float_pixels: bool = False


def walk(
    buffer: bytes, start: int, layout: Layout, wanted: frozenset[int], *, whole: bool
) -> Header:
    """Walk a data set from ``start`` to its pixel data, or to the end.

    Parameters
    ----------
    buffer : bytes
        The data set's beginning.
    wanted : frozenset of int
        Tags to keep. Wanted sequences are kept with all that is in them.
    whole : bool
        Whether the data set ends where the buffer does.

    Raises
    ------
    NeedMoreBytes
        The buffer ends before the pixel data begin (always, when not ``whole``).
    OddStructure
    """
    header = Header({}, layout)
    try:
        position = _walk_top(buffer, start, header, wanted)
    except StructError as error:
        raise NeedMoreBytes from error
    if position is None:
        return header
    if position > len(buffer) or not whole:
        raise NeedMoreBytes
    return header


def _walk_top(buffer: bytes, position: int, header: Header, wanted: frozenset[int]) -> int | None:
    """None once pixel data are found, otherwise the place behind the last element."""
    layout = header.layout
    unpack_element, unpack_implicit, unpack_long = (s.unpack_from for s in layout.structs())
    implicit = layout.implicit
    end = len(buffer)
    previous = -1
    elements = header.elements
    while position < end:
        if implicit:
            group, number, length = unpack_implicit(buffer, position)
            vr = b""
            position += 8
        else:
            group, number, vr, length = unpack_element(buffer, position)
            if vr in _SHORT_VRS:
                position += 8
            elif vr in _LONG_VRS:
                (length,) = unpack_long(buffer, position + 8)
                position += 12
            else:
                raise OddStructure(f"VR {vr!r} at byte {position}")
        tag = (group << 16) | number
        if tag <= previous:
            raise OddStructure(f"tag {tag:08X} after {previous:08X}")
        previous = tag
        if group == _PIXEL_GROUP and _is_pixels(header, tag, vr, length, position):
            return None
        if length == UNDEFINED:
            # a UN of undefined length holds implicit VR little endian (PS3.5 6.2.2, note)
            inner = Layout(True, "<") if vr == b"UN" else layout
            items, position = _sequence(buffer, position, None, inner, tag in wanted, 0)
            if tag in wanted:
                elements[tag] = ("SQ", items)
            continue
        stop = position + length
        if tag in wanted:
            if stop > end:
                raise NeedMoreBytes
            if vr == b"SQ" or (implicit and tag in _SEQUENCES):
                elements[tag] = ("SQ", _sequence(buffer, position, stop, layout, True, 0)[0])
            else:
                elements[tag] = (vr.decode(), buffer[position:stop])
        position = stop
    return position


def spans(buffer: bytes, start: int, layout: Layout) -> Iterator[Span]:
    """Where the elements stand that :func:`walk` passes, the pixel data the last of them.

    For a data set that has been walked; of the pixel data only the head counts.
    """
    unpack_element, unpack_implicit, unpack_long = (s.unpack_from for s in layout.structs())
    position = start
    while True:
        group, number, length = unpack_implicit(buffer, position)
        vr, head, width = b"", 8, 4
        if not layout.implicit:
            _, _, vr, length = unpack_element(buffer, position)
            width = 2
            if vr in _LONG_VRS:
                (length,) = unpack_long(buffer, position + 8)
                head, width = 12, 4
        tag, value = (group << 16) | number, position + head
        if tag == PIXEL_DATA:
            yield Span(tag, vr.decode(), position, value, value, width, False)
            return
        if length == UNDEFINED:
            inner = Layout(True, "<") if vr == b"UN" else layout
            _, stop = _sequence(buffer, value, None, inner, False, 0)
        else:
            stop = value + length
        yield Span(tag, vr.decode(), position, value, stop, width, length != UNDEFINED)
        position = stop


def _is_pixels(header: Header, tag: int, vr: bytes, length: int, position: int) -> bool:
    """Note pixel data, whose value begins at ``position``; False for their offset tables."""
    if tag == PIXEL_DATA:
        header.pixel_offset = position
        header.pixel_length = None if length == UNDEFINED else length
        header.pixel_vr = vr.decode() or "OW"
    elif tag in FLOAT_PIXELS:
        header.has_float_pixels = True
    else:
        return False
    return True


#: Sequences that the reader looks into, for implicit VR: the functional groups (PS3.3 A.38).
_SEQUENCES = frozenset(
    {
        0x52009229, 0x52009230, 0x00289110, 0x00289145, 0x00209111, 0x00209113, 0x00209116,
        0x00189304, 0x00189314, 0x00189325, 0x00189329,
    }
)  # fmt: skip


def _sequence(
    buffer: bytes, position: int, stop: int | None, layout: Layout, keep: bool, depth: int
) -> tuple[list[dict[int, Element]], int]:
    """Items from ``position`` to ``stop`` (None: to the delimiter); and the place behind."""
    if depth > _MAX_DEPTH:
        raise OddStructure("sequences nested too deep")
    unpack_item = layout.structs()[1].unpack_from
    items: list[dict[int, Element]] = []
    while stop is None or position < stop:
        group, number, length = unpack_item(buffer, position)
        tag = (group << 16) | number
        position += 8
        if tag == SEQUENCE_END:
            return items, position
        if tag != ITEM:
            raise OddStructure(f"{tag:08X} where an item should begin")
        if length != UNDEFINED and not keep:
            position += length
            if position > len(buffer):
                raise NeedMoreBytes
            continue
        item_stop = None if length == UNDEFINED else position + length
        item, position = _item(buffer, position, item_stop, layout, keep, depth)
        if keep:
            items.append(item)
    return items, position


def _item(
    buffer: bytes, position: int, stop: int | None, layout: Layout, keep: bool, depth: int
) -> tuple[dict[int, Element], int]:
    """Elements of an item from ``position`` to ``stop`` (None: to the delimiter)."""
    unpack_element, unpack_implicit, unpack_long = (s.unpack_from for s in layout.structs())
    elements: dict[int, Element] = {}
    while stop is None or position < stop:
        group, number, length = unpack_implicit(buffer, position)
        tag = (group << 16) | number
        vr = b""
        if tag == ITEM_END:
            return elements, position + 8
        if layout.implicit:
            position += 8
        else:
            _, _, vr, length = unpack_element(buffer, position)
            if vr in _SHORT_VRS:
                position += 8
            elif vr in _LONG_VRS:
                (length,) = unpack_long(buffer, position + 8)
                position += 12
            else:
                raise OddStructure(f"VR {vr!r} in an item")
        nested = vr == b"SQ" or (layout.implicit and tag in _SEQUENCES)
        if length == UNDEFINED or (nested and keep):
            inner = Layout(True, "<") if vr == b"UN" else layout
            end = None if length == UNDEFINED else position + length
            items, position = _sequence(buffer, position, end, inner, keep, depth + 1)
            if keep:
                elements[tag] = ("SQ", items)
            continue
        if position + length > len(buffer):
            raise NeedMoreBytes
        if keep:
            elements[tag] = (vr.decode(), buffer[position : position + length])
        position += length
    return elements, position


# --- pydicom for what the walker does not understand --------------------------------------------

_PYDICOM_LOCK = threading.Lock()


def pydicom_elements(data: bytes, start: int, layout: Layout, wanted: frozenset[int]) -> Header:
    """The same as :func:`walk` on a whole file, read by pydicom.

    Raises
    ------
    OddStructure
        When pydicom cannot read it either.
    """
    from pydicom.filereader import read_dataset
    from pydicom.tag import BaseTag

    place: dict[str, int] = {}
    stream = io.BytesIO(data)
    stream.seek(start)

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if int(tag) in FLOAT_PIXELS:
            place["float"] = 1
        return int(tag) == PIXEL_DATA or int(tag) in FLOAT_PIXELS

    # pydicom warns about what it repairs, on the user's stderr; what matters is checked afterwards
    with _PYDICOM_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = read_dataset(
                stream, layout.implicit, layout.order == "<", stop_when=at_pixels
            )
            elements = _raw_elements(dataset, wanted)
        except Exception as error:  # pydicom raises about anything on malformed bytes
            raise OddStructure(f"pydicom: {type(error).__name__}: {error}") from error
    found = Layout(bool(dataset.original_encoding[0]), layout.order)
    header = Header(elements, found, has_float_pixels="float" in place)
    tail = data[stream.tell() : stream.tell() + 12]
    _locate_pixels(header, tail, stream.tell())
    return header


def _raw_elements(dataset, wanted: frozenset[int] | None) -> dict[int, Element]:
    from pydicom.dataelem import RawDataElement

    elements: dict[int, Element] = {}
    for tag in list(dataset.keys()):
        if wanted is not None and int(tag) not in wanted:
            continue
        raw = dataset.get_item(tag)
        if not isinstance(raw, RawDataElement) or raw.VR == "SQ" or int(tag) in _SEQUENCES:
            element = dataset[tag]
            if element.VR == "SQ":
                elements[int(tag)] = ("SQ", [_raw_elements(item, None) for item in element.value])
                continue
            raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement):
            elements[int(tag)] = (raw.VR or "", raw.value or b"")
        else:  # converted already, such as the character set
            elements[int(tag)] = ("LO", str(raw.value).encode("latin-1", "replace"))
    return elements


def _locate_pixels(header: Header, head: bytes, position: int) -> None:
    """Read the pixel data element's own head, at which pydicom stopped."""
    element, implicit, long = header.layout.structs()
    if len(head) < 8:
        return
    group, number, length = implicit.unpack_from(head)
    if (group << 16) | number != PIXEL_DATA:
        return
    offset, vr = position + 8, "OW"
    if not header.layout.implicit:
        _, _, raw_vr, length = element.unpack_from(head)
        vr = raw_vr.decode("latin-1")
        if raw_vr in _LONG_VRS and len(head) >= 12:
            (length,) = long.unpack_from(head, 8)
            offset = position + 12
    header.pixel_offset, header.pixel_vr = offset, vr
    header.pixel_length = None if length == UNDEFINED else length
