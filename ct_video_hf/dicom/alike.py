"""Headers of slices that are written like an earlier one of the same scan.

The slices of a series have the same elements in the same order, and most of them say the same. Of a
header that was read in full a pattern is kept: the bytes that decide how it is read (tags, value
representations, lengths, and every value that the reader uses) and the places of the few values
that each slice has for itself. A header whose bytes agree with the pattern would be read in full to
the same frame but for those values; so only they are read. All others are read in full, and that is
where every complaint comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .elements import PIXEL_DATA, UNDEFINED, Span, spans
from .errors import CTReadError
from .frame import Frame, Source
from .frame_fields import META, OF_ONE_SLICE, WANTED, encoding_of, frames_of, of_one_slice
from .headers import FIRST_READ, LoadedHeader, load_header
from .limits import Limits
from .values import Values

__all__ = ["AlikeSlices"]

_META_LONG = (b"OB", b"UN", b"SQ", b"UT", b"OW")
_MARK = 132  # where elements begin behind the preamble
_PATTERNS = 4
#: Patterns are made no more where so many were in vain: slices that have nothing in common.
_VAIN = 24


class AlikeSlices:
    """Reads the headers of one scan, file after file.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._length = FIRST_READ
        self._patterns: list[_Pattern] = []
        self._vain = 0

    def frames(self, source: Source) -> list[Frame]:
        """The same as :func:`ct_video_hf.dicom.headers.read_frames`."""
        data = source.read(0, self._length)
        for place, pattern in enumerate(self._patterns):
            frame = pattern.frame(data, source, self._limits)
            if frame is not None:
                if place:
                    self._patterns.insert(0, self._patterns.pop(place))
                self._vain = 0
                return [frame]
        loaded = load_header(source, self._limits, data)
        frames = frames_of(loaded.header, loaded.meta, source, self._limits)
        self._length = max(FIRST_READ, len(loaded.data))
        if len(frames) == 1 and self._vain < _VAIN and _can_repeat(loaded):
            self._vain += 1
            self._learn(loaded, frames[0])
        return frames

    def _learn(self, loaded: LoadedHeader, frame: Frame) -> None:
        elements = _elements(loaded)
        for place, pattern in enumerate(self._patterns):
            wider = pattern.widened(elements, loaded, frame)
            if wider is not None:
                self._patterns[place] = wider
                return
        self._patterns.insert(0, _Pattern(elements, frozenset(), loaded, frame))
        del self._patterns[_PATTERNS:]


def _can_repeat(loaded: LoadedHeader) -> bool:
    """A header that stands in the file as it was read, with no sequence that is looked into."""
    nested = any(isinstance(value, list) for _, value in loaded.header.elements.values())
    return loaded.start is not None and loaded.data[128:_MARK] == b"DICM" and not nested


def _elements(loaded: LoadedHeader) -> list[Span]:
    """All elements of a header: file meta information (always explicit), then the data set."""
    data, position = loaded.data, _MARK
    found = []
    while position < loaded.start:
        vr = data[position + 4 : position + 6]
        head, width = (12, 4) if vr in _META_LONG else (8, 2)
        value = position + head
        stop = value + int.from_bytes(data[value - width : value], "little")
        tag = 0x00020000 | int.from_bytes(data[position + 2 : position + 4], "little")
        found.append(Span(tag, vr.decode("latin-1"), position, value, stop, width, True))
        position = stop
    return [*found, *spans(data, loaded.start, loaded.header.layout)]


def _is_free(element: Span) -> bool:
    """Whether each slice may say something else: the reader makes no use of it, or reads it."""
    if not element.counted or element.tag == PIXEL_DATA:
        return False
    return element.tag in OF_ONE_SLICE or element.tag not in WANTED | META


def _fixed(data: bytes, element: Span) -> bytes:
    """What has to be the same: all of an element, of a free one tag and VR."""
    stop = element.value - element.width if _is_free(element) else element.stop
    return data[element.start : stop]


@dataclass(frozen=True, slots=True)
class _Elastic:
    """An element whose value may have any length."""

    tag: int
    vr: str
    head: bytes  # tag, VR
    width: int
    order: Literal["little", "big"]

    def follow(self, data: bytes, position: int, found: dict[int, tuple[str, bytes]]) -> int | None:
        """The place behind the element at ``position``; None when it is another."""
        at = position + len(self.head)
        value = at + self.width
        if data[position:at] != self.head:
            return None
        length = int.from_bytes(data[at:value], self.order)
        if length == UNDEFINED:
            return None
        if self.tag in OF_ONE_SLICE:
            found[self.tag] = (self.vr, data[value : value + length])
        return value + length


@dataclass(slots=True)
class _Part:
    """A stretch of fixed length, and the elastic element behind it."""

    mask: int = 0
    expected: int = 0
    length: int = 0
    values: list[tuple[int, str, int, int]] = field(default_factory=list)  # tag, VR, from, to
    elastic: _Elastic | None = None


class _Pattern:
    """The bytes that headers have in common.

    Parameters
    ----------
    elements : sequence of Span
    elastic : frozenset of int
        Places of the free elements whose lengths differ as well.
    loaded : LoadedHeader
    frame : Frame
        What the header says.
    """

    def __init__(
        self,
        elements: Sequence[Span],
        elastic: frozenset[int],
        loaded: LoadedHeader,
        frame: Frame,
    ) -> None:
        self._elements = elements
        self._elastic = elastic
        self._data = loaded.data
        self._order = loaded.header.layout.order
        self._encoding = encoding_of(loaded.header)
        self._fields = {name: getattr(frame, name) for name in Frame.__slots__}
        self._parts = self._compiled(loaded.start)

    def frame(self, data: bytes, source: Source, limits: Limits) -> Frame | None:
        """The frame of a file that begins with ``data``; None where it has to be read in full."""
        found: dict[int, tuple[str, bytes]] = {}
        position = 0
        for part in self._parts:
            stop = position + part.length
            if int.from_bytes(data[position:stop], "little") & part.mask != part.expected:
                return None
            for tag, vr, start, end in part.values:
                found[tag] = (vr, data[position + start : position + end])
            position = stop
            if part.elastic is not None:
                position = part.elastic.follow(data, position, found)
                if position is None:
                    return None
        if position > min(len(data), limits.max_header_bytes):
            return None
        try:
            own = of_one_slice(Values(found, self._order, self._encoding), source.name)
        except CTReadError:  # it is told as of any other header, after what comes before it
            return None
        return Frame(**{**self._fields, **own, "source": source, "pixel_offset": position})

    def widened(
        self, elements: Sequence[Span], loaded: LoadedHeader, frame: Frame
    ) -> _Pattern | None:
        """The pattern of this header and another; None where more than free values differ."""
        if len(elements) != len(self._elements):
            return None
        elastic = set(self._elastic)
        for place, (own, other) in enumerate(zip(self._elements, elements, strict=True)):
            if _fixed(self._data, own) != _fixed(loaded.data, other):
                return None
            if own.stop - own.value != other.stop - other.value:
                elastic.add(place)
        return _Pattern(elements, frozenset(elastic), loaded, frame)

    def _compiled(self, data_set: int) -> list[_Part]:
        """What :meth:`frame` compares; 1 bits of a mask count."""
        data = self._data
        parts, part = [], _Part()
        mask = bytearray(128) + b"\xff" * (_MARK - 128)  # the preamble is anything
        begin = 0
        for place, element in enumerate(self._elements):
            if place in self._elastic:
                _close(part, data[begin : element.start], mask)
                order = "little" if element.start < data_set or self._order == "<" else "big"
                head = data[element.start : element.value - element.width]
                part.elastic = _Elastic(element.tag, element.vr, head, element.width, order)
                parts.append(part)
                part, mask, begin = _Part(), bytearray(), element.stop
                continue
            free = _is_free(element)
            mask += b"\xff" * (element.value - element.start)
            mask += (b"\0" if free else b"\xff") * (element.stop - element.value)
            if element.tag in OF_ONE_SLICE:
                place = (element.value - begin, element.stop - begin)
                part.values.append((element.tag, element.vr, *place))
        _close(part, data[begin : begin + len(mask)], mask)
        return [*parts, part]


def _close(part: _Part, data: bytes, mask: bytearray) -> None:
    part.mask = int.from_bytes(mask, "little")
    part.expected = int.from_bytes(data, "little") & part.mask
    part.length = len(mask)
