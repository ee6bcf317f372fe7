"""Headers: from the bytes of a DICOM file to :class:`Frame`.

Only the header is read, up to the pixel data, and only what the reader uses of it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from . import syntax as uids
from .elements import Header, Layout, NeedMoreBytes, OddStructure, pydicom_elements, walk
from .errors import CTReadError
from .frame import Frame, Source
from .frame_fields import META, TRANSFER_SYNTAX, WANTED, frames_of
from .limits import Limits
from .refusals import describe_strange_bytes
from .values import Values

__all__ = ["FIRST_READ", "LoadedHeader", "deflated_data_set", "load_header", "read_frames"]

#: Bytes that most headers fit into.
FIRST_READ = 8 * 1024
_GROWTH = 8


@dataclass(frozen=True, slots=True)
class LoadedHeader:
    """A header, and the bytes that it was read from.

    ``start`` is where the data set begins in ``data``; None where the elements do not stand there
    as they were read (a deflated data set, or one that only pydicom made sense of).
    """

    header: Header
    meta: Values
    data: bytes
    start: int | None


def read_frames(source: Source, limits: Limits | None = None) -> list[Frame]:
    """The frames of one file: one, or as many as an enhanced multi-frame CT object holds.

    Parameters
    ----------
    source : Source
    limits : Limits, optional

    Returns
    -------
    list of Frame
        In stored order. Fields that the header lacks, or that make no sense there, are None.

    Raises
    ------
    CTReadError
        ``not_dicom``, ``truncated_file``, ``no_pixel_data``, ``not_ct``, ``bad_header``,
        ``bad_geometry``, ``bad_rescale``, ``too_large``, and what reading the source raises.
    """
    limits = limits or Limits()
    loaded = load_header(source, limits)
    return frames_of(loaded.header, loaded.meta, source, limits)


# --- bytes to elements --------------------------------------------------------------------------


def load_header(source: Source, limits: Limits, data: bytes | None = None) -> LoadedHeader:
    """The header and the file meta information, reading no more of the file than needed.

    Parameters
    ----------
    source : Source
    limits : Limits
    data : bytes, optional
        The file's beginning where it has been read already, at least :data:`FIRST_READ` bytes.

    Raises
    ------
    CTReadError
        ``not_dicom``, ``truncated_file``, ``bad_header``, ``too_large``, and what reading raises.
    """
    length = FIRST_READ if data is None else max(FIRST_READ, len(data))
    while True:
        if data is None:
            data = source.read(0, length)
        whole = len(data) < length or length >= source.size
        try:
            return _parse(data, source, whole, limits)
        except NeedMoreBytes:
            if whole:
                raise CTReadError(
                    f"{source.name} ends inside its header, after {len(data)} bytes: the file is "
                    "cut off or damaged",
                    code="truncated_file",
                ) from None
        limits.check("max_header_bytes", length, f"{source.name}: its header's size")
        length *= _GROWTH
        data = None


def _parse(data: bytes, source: Source, whole: bool, limits: Limits) -> LoadedHeader:
    start = _dataset_start(data, source.name)
    meta, start = _read_meta(data, start, whole)
    syntax = meta.text(TRANSFER_SYNTAX)
    layout = _layout(syntax, data, start, source.name)
    if syntax is None:
        syntax = uids.IMPLICIT_LITTLE if layout.implicit else uids.EXPLICIT_LITTLE
        if layout.order == ">":
            syntax = uids.BIG_ENDIAN
    plain = syntax != uids.DEFLATED
    if not plain:
        data, start, whole = _expand(source, start, limits), 0, True
    try:
        header = walk(data, start, layout, WANTED, whole=whole)
    except OddStructure as odd:
        if not whole:
            raise NeedMoreBytes from odd
        header, plain = _second_opinion(data, start, layout, source.name), False
    header.transfer_syntax = syntax
    return LoadedHeader(header, meta, data, start if plain else None)


def _second_opinion(data: bytes, start: int, layout: Layout, name: str) -> Header:
    try:
        header = pydicom_elements(data, start, layout, WANTED)
    except OddStructure as error:
        raise CTReadError(
            f"{name} is damaged: its header cannot be read ({error.__cause__.__class__.__name__})",
            code="truncated_file",
        ) from error
    if header.pixel_offset is None and not header.has_float_pixels:
        raise CTReadError(
            f"{name} is damaged: no pixel data follow its malformed header", code="truncated_file"
        )
    return header


def _dataset_start(data: bytes, name: str) -> int:
    """Where elements begin: behind the preamble, or at once where there is none."""
    if data[128:132] == b"DICM":
        return 132
    if not data:
        raise CTReadError(f"{name} is empty (0 bytes)", code="truncated_file")
    if _guess_layout(data, 0) is None:
        raise CTReadError(
            f"{name} is not DICOM{describe_strange_bytes(data[:256])}", code="not_dicom"
        )
    return 0


def _read_meta(data: bytes, start: int, whole: bool) -> tuple[Values, int]:
    """File meta information (group 2, always explicit VR little endian) and where it ends."""
    position = start
    elements = {}
    while data[position : position + 2] == b"\x02\0":
        tag = 0x00020000 | int.from_bytes(data[position + 2 : position + 4], "little")
        vr = data[position + 4 : position + 6]
        if vr in (b"OB", b"UN", b"SQ", b"UT", b"OW"):
            length, head = int.from_bytes(data[position + 8 : position + 12], "little"), 12
        else:
            length, head = int.from_bytes(data[position + 6 : position + 8], "little"), 8
        stop = position + head + length
        if stop > len(data):
            raise NeedMoreBytes
        if tag in META:
            elements[tag] = (vr.decode("latin-1"), data[position + head : stop])
        position = stop
    if position >= len(data) and not whole:
        raise NeedMoreBytes
    return Values(elements, "<"), position


def _layout(syntax: str | None, data: bytes, start: int, name: str) -> Layout:
    if syntax is None:
        layout = _guess_layout(data, start)
        if layout is None:
            raise CTReadError(
                f"{name} names no transfer syntax and none can be guessed", code="bad_header"
            )
        return layout
    if syntax == uids.IMPLICIT_LITTLE:  # some writers announce it above explicit elements
        vr = data[start + 4 : start + 6]
        return Layout(not (vr.isalpha() and vr.isupper()), "<")
    return Layout(False, ">" if syntax == uids.BIG_ENDIAN else "<")


def _guess_layout(data: bytes, start: int) -> Layout | None:
    """How a data set without meta information is written, from its first element; None if not."""
    head = data[start : start + 8]
    if len(head) < 8:
        return None
    has_vr = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] in (b"\x02\0", b"\x08\0") and has_vr:
        return Layout(False, "<")
    if head[:2] == b"\0\x08" and has_vr:
        return Layout(False, ">")
    if head[:2] == b"\x08\0" and int.from_bytes(head[4:8], "little") < 1024 and head[3] < 0x30:
        return Layout(True, "<")
    return None


def deflated_data_set(source: Source, limits: Limits) -> bytes:
    """The expanded data set of a file in the deflated syntax (PS3.5 A.5).

    Raises
    ------
    CTReadError
        ``too_large`` above ``limits.max_file_bytes``, ``truncated_file`` for damaged data.
    """
    head = source.read(0, FIRST_READ)
    _, start = _read_meta(head, _dataset_start(head, source.name), len(head) >= source.size)
    return _expand(source, start, limits)


def _expand(source: Source, start: int, limits: Limits) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = engine.decompress(source.read(start), limits.max_file_bytes)
    except zlib.error as error:
        raise CTReadError(
            f"{source.name}: its deflated data set is damaged ({error})", code="truncated_file"
        ) from error
    if engine.unconsumed_tail:
        limits.check("max_file_bytes", len(data) + 1, f"{source.name}: its expanded size")
    if not engine.eof:
        raise CTReadError(f"{source.name}: its deflated data set is cut off", code="truncated_file")
    return data
