"""From a :class:`Frame` to the bytes of its pixels, encapsulated or not.

Source: DICOM PS3.5 section 8 and annex A.4.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict

import numpy as np

from .codestream import describe_codestream
from .errors import CTReadError
from .frame import Frame, Source
from .headers import deflated_data_set
from .limits import Limits
from .sources import FileSource
from .syntax import DEFLATED, describe_syntax, syntax_of

__all__ = ["FrameBytes"]

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_KEPT = 2  # files of several frames whose bytes or offsets are remembered

Span = tuple[int, int]  # start, length


class _Memory:
    """A whole file in memory, as a source."""

    def __init__(self, source: Source, data: bytes) -> None:
        self.name = source.name
        self.size = len(data)
        self._data = memoryview(data)

    def read(self, start: int = 0, length: int | None = None) -> memoryview:
        return self._data[start : None if length is None else start + length]


class FrameBytes:
    """Reads frames' bytes; safe to use from several threads.

    Of files that hold one frame nothing is kept. Of a multi-frame file the offsets of its frames
    are remembered, and its bytes where they have to be expanded first (zip member, deflated).
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._memory: OrderedDict[int, _Memory] = OrderedDict()
        self._spans: OrderedDict[int, list[list[Span]]] = OrderedDict()
        self._local = threading.local()

    def raw(self, frame: Frame) -> np.ndarray:
        """Uncompressed pixels as uint8 (bytes,), valid until this thread's next call.

        Raises
        ------
        CTReadError
            ``truncated_pixels``, ``corrupt_pixels``.
        """
        length = frame.rows * frame.columns * (frame.bits_allocated // 8)
        start = frame.pixel_offset + frame.frame_index * length
        if frame.pixel_length is None:
            raise CTReadError(
                f"{frame.label}: pixel data of undefined length in an uncompressed syntax, "
                f"{describe_syntax(frame.transfer_syntax)}",
                code="corrupt_pixels",
            )
        announced = max(0, frame.pixel_length - frame.frame_index * length)
        if announced < length:
            raise _too_short(frame, announced, length)
        buffer = self._buffer(length)
        source = self._source(frame)
        if isinstance(source, FileSource):
            count = source.read_into(start, memoryview(buffer))
        else:
            data = source.read(start, length)
            count = len(data)
            buffer[:count] = np.frombuffer(data, np.uint8)
        if count < length:
            raise _too_short(frame, count, length)
        return buffer

    def compressed(self, frame: Frame) -> bytes | memoryview:
        """One compressed frame, its fragments joined.

        Raises
        ------
        CTReadError
            ``truncated_pixels``, ``corrupt_pixels``.
        """
        source = self._source(frame)
        if frame.number_of_frames == 1:
            data = memoryview(source.read(frame.pixel_offset))
            fragments, _ = _fragments(lambda at, count: data[at : at + count], 0, len(data), frame)
            return _join([data[start : start + length] for start, length in fragments], frame)
        spans = self._frame_spans(frame, source)[frame.frame_index]
        return _join([memoryview(source.read(*span)) for span in spans], frame)

    def _buffer(self, length: int) -> np.ndarray:
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) != length:
            buffer = self._local.buffer = np.empty(length, np.uint8)
        return buffer

    def _source(self, frame: Frame) -> Source | _Memory:
        """The frame's source, or its expanded bytes where frames lie inside something packed."""
        source = frame.source
        deflated = frame.transfer_syntax == DEFLATED
        if not deflated and (isinstance(source, FileSource) or frame.number_of_frames == 1):
            return source
        if frame.number_of_frames == 1:
            return _Memory(source, deflated_data_set(source, self._limits))
        with self._lock:
            found = self._memory.get(id(source))
            if found is None:
                data = deflated_data_set(source, self._limits) if deflated else source.read()
                found = self._memory[id(source)] = _Memory(source, data)
                if len(self._memory) > _KEPT:
                    self._memory.popitem(last=False)
            return found

    def _frame_spans(self, frame: Frame, source: Source | _Memory) -> list[list[Span]]:
        with self._lock:
            found = self._spans.get(id(frame.source))
            if found is None:
                found = self._spans[id(frame.source)] = _split_frames(frame, source)
                if len(self._spans) > _KEPT:
                    self._spans.popitem(last=False)
            return found


def _too_short(frame: Frame, found: int, needed: int) -> CTReadError:
    return CTReadError(
        f"{frame.label}: its pixel data have {found} bytes, {frame.rows} x {frame.columns} voxels "
        f"of {frame.bits_allocated} bits need {needed}: the file is cut off or its header is wrong",
        code="truncated_pixels",
    )


def _join(parts: list[memoryview], frame: Frame) -> bytes | memoryview:
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    if not len(data):
        raise CTReadError(f"{frame.label}: its compressed pixels are empty", code="corrupt_pixels")
    return data


def _fragments(read, start: int, size: int, frame: Frame) -> tuple[list[Span], bytes]:
    """Where the fragments are, and the basic offset table.

    ``read(start, length)`` gives bytes; the items begin at ``start`` and the file ends at ``size``.
    """
    spans: list[Span] = []
    position = start
    while position < size:
        head = bytes(read(position, 8))
        length = int.from_bytes(head[4:8], "little")
        position += 8
        if head[:4] == _DELIMITER:
            break
        if len(head) < 8 or position + length > size:
            raise CTReadError(
                f"{frame.source.name}: its compressed pixel data are cut off after "
                f"{len(spans)} fragment(s)",
                code="truncated_pixels",
            )
        if head[:4] != _ITEM:
            raise CTReadError(
                f"{frame.source.name}: its compressed pixel data are not a sequence of fragments",
                code="corrupt_pixels",
            )
        spans.append((position, length))
        position += length
    if len(spans) < 2:
        raise CTReadError(
            f"{frame.source.name}: its compressed pixel data hold no frame: the file is cut off or "
            "damaged",
            code="truncated_pixels",
        )
    table = bytes(read(*spans[0]))
    return spans[1:], table


def _split_frames(frame: Frame, source: Source | _Memory) -> list[list[Span]]:
    """Which fragments make up each frame of a multi-frame file."""
    spans, table = _fragments(source.read, frame.pixel_offset, source.size, frame)
    count = frame.number_of_frames
    if len(spans) == count:
        return [[span] for span in spans]
    offsets = np.frombuffer(table[: len(table) // 4 * 4], "<u4").astype(int)
    first = spans[0][0] - 8
    starts = [start - 8 - first for start, _ in spans]
    if len(offsets) == count and offsets[0] == 0 and set(offsets) <= set(starts):
        cuts = [bisect_left(starts, offset) for offset in sorted(offsets)]
    else:
        codec = syntax_of(frame.transfer_syntax).codec or ""
        cuts = [
            place
            for place, (start, length) in enumerate(spans)
            if describe_codestream(source.read(start, min(length, 4096)), codec) is not None
        ]
    if len(cuts) != count or cuts[:1] != [0]:
        raise CTReadError(
            f"{frame.source.name}: {len(spans)} fragments cannot be divided among {count} frames",
            code="corrupt_pixels",
        )
    return [spans[a:b] for a, b in zip(cuts, [*cuts[1:], len(spans)], strict=True)]
