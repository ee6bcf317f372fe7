"""One LIDC-IDRI XML file: from bytes to :class:`.annotations.ScanAnnotations`.

The file comes from strangers, so it is read by expat alone: a document type (and with it every
entity) is refused, nothing outside of the file is ever fetched, and size, depth and number of
elements have bounds.

``LidcReadMessage`` holds the reads of a CT series. ``IdriReadMessage`` holds those of a chest film,
and any other root is no annotation at all: both give None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from xml.parsers import expat

import numpy as np

from ..errors import CTDataError
from .annotations import RATINGS, Annotation, Outline, PointMark, ScanAnnotations

__all__ = ["MAX_XML_BYTES", "parse_lidc_xml"]

#: The largest real file has 2.2 MB.
MAX_XML_BYTES = 64 << 20
_MAX_DEPTH = 16
_MAX_ELEMENTS = 5_000_000
_MAX_TEXT = 4096
_ROOT, _FILM_ROOT = "LidcReadMessage", "IdriReadMessage"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


class _NotOurs(Exception):
    """The root is of another kind; ends the parsing."""


def parse_lidc_xml(data: bytes, name: str) -> ScanAnnotations | None:
    """Read one XML file.

    Parameters
    ----------
    data : bytes
    name : str
        The file's name, for messages.

    Returns
    -------
    ScanAnnotations or None
        None for a file of another kind than reads of a CT series.

    Raises
    ------
    CTDataError
        Naming file and line: not well-formed, a document type, beyond the bounds, or content that
        no LIDC-IDRI file has (an outline without a slice, a rating out of its range, no reader).
    """
    if len(data) > MAX_XML_BYTES:
        raise CTDataError(
            f"{name} has {len(data)} bytes; an annotation file has at most {MAX_XML_BYTES}"
        )
    reader = _Reader(name)
    try:
        reader.parser.Parse(data, True)
    except _NotOurs:
        return None
    except expat.ExpatError as error:
        raise CTDataError(
            f"{name} is not well-formed XML, line {error.lineno}: "
            f"{expat.errors.messages[error.code]}. Download it again, or take it away"
        ) from error
    return reader.result()


class _Reader:
    """State between the calls of expat."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parser = parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._refuse_document_type
        parser.EntityDeclHandler = self._refuse_document_type
        self._locals: dict[str, str] = {}
        self._depth = self._elements = self._sessions = 0
        self._keep = False
        self._buffer: list[str] = []
        self._uids: dict[str, str] = {}
        self._annotations: list[Annotation] = []
        self._small: list[PointMark] = []
        self._others: list[PointMark] = []
        self._begin_nodule()
        self._ends: dict[str, Callable[[str], None]] = {
            "SeriesInstanceUid": self._series,
            "SeriesInstanceUID": self._series,
            "StudyInstanceUID": self._study,
            "StudyInstanceUid": self._study,
            "noduleID": self._take_name,
            "nonNoduleID": self._take_name,
            "imageZposition": self._take_z,
            "imageSOP_UID": self._take_slice,
            "inclusion": self._take_inclusion,
            "xCoord": self._take_x,
            "yCoord": self._take_y,
            **{rating: self._rating(rating) for rating in RATINGS},
        }
        self._closes: dict[str, Callable[[], None]] = {
            "edgeMap": self._point,
            "locus": self._point,
            "roi": self._close_outline,
            "unblindedReadNodule": self._close_nodule,
            "nonNodule": self._close_other,
        }
        self._opens: dict[str, Callable[[], None]] = {
            "readingSession": self._open_session,
            "unblindedReadNodule": self._begin_nodule,
            "nonNodule": self._begin_nodule,
            "roi": self._begin_outline,
        }

    def result(self) -> ScanAnnotations:
        """What the whole file says."""
        for what in ("series", "study"):
            if what not in self._uids:
                raise CTDataError(f"{self.name} does not name its {what}: it cannot be used")
        if not self._sessions:
            raise CTDataError(f"{self.name} holds no reading session: nobody has read the scan")
        return ScanAnnotations(
            series_uid=self._uids["series"],
            study_uid=self._uids["study"],
            readers=self._sessions,
            annotations=tuple(self._annotations),
            small=tuple(self._small),
            others=tuple(self._others),
            origin=self.name,
        )

    # ---- called by expat -------------------------------------------------------------------------

    def _start(self, tag: str, _attributes: dict[str, str]) -> None:
        local = self._locals.get(tag)
        if local is None:
            local = self._locals[tag] = tag.rpartition(" ")[2]
        if not self._depth and local != _ROOT:
            raise _NotOurs
        self._depth += 1
        self._elements += 1
        if self._depth > _MAX_DEPTH or self._elements > _MAX_ELEMENTS:
            self._fail("more elements, or deeper ones, than any annotation file has")
        self._keep = local in self._ends
        if self._buffer:
            self._buffer.clear()
        begin = self._opens.get(local)
        if begin is not None:
            begin()

    def _text(self, text: str) -> None:
        if self._keep:
            self._buffer.append(text)
            if len(text) > _MAX_TEXT or len(self._buffer) > _MAX_TEXT:
                self._fail("a value of more characters than any annotation file has")

    def _end(self, tag: str) -> None:
        local = self._locals[tag]
        self._depth -= 1
        take = self._ends.get(local)
        if take is not None:
            take("".join(self._buffer).strip())
            self._keep = False
            return
        close = self._closes.get(local)
        if close is not None:
            close()

    def _refuse_document_type(self, *_: object) -> None:
        self._fail("a document type or an entity, which no annotation file has; it is not read")

    def _fail(self, what: str) -> None:
        raise CTDataError(f"{self.name} line {self.parser.CurrentLineNumber}: {what}")

    # ---- values ----------------------------------------------------------------------------------

    def _uid(self, text: str, what: str) -> str:
        if len(text) > 64 or not _UID.fullmatch(text):
            self._fail(f"the {what} UID is no UID")
        return text

    def _series(self, text: str) -> None:
        self._uids["series"] = self._uid(text, "series")

    def _study(self, text: str) -> None:
        self._uids["study"] = self._uid(text, "study")

    def _take_name(self, text: str) -> None:
        self._label = text

    def _take_z(self, text: str) -> None:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self._fail(f"imageZposition is {text[:20]!r}; a number of mm is expected")
        self._z = value

    def _take_slice(self, text: str) -> None:
        self._slice = self._uid(text, "slice")

    def _take_inclusion(self, text: str) -> None:
        if text.upper() not in ("TRUE", "FALSE"):
            self._fail(f"inclusion is {text[:20]!r}; TRUE or FALSE is expected")
        self._inclusion = text.upper() == "TRUE"

    def _coordinate(self, text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = -1
        if not 0 <= value < 1 << 16:
            self._fail(f"a coordinate is {text[:20]!r}; a pixel from 0 is expected")
        return value

    def _take_x(self, text: str) -> None:
        self._x = self._coordinate(text)

    def _take_y(self, text: str) -> None:
        self._y = self._coordinate(text)

    def _rating(self, rating: str) -> Callable[[str], None]:
        def take(text: str) -> None:
            try:
                value = int(text or 0)
            except ValueError:
                value = -1
            if not 0 <= value <= RATINGS[rating]:
                self._fail(f"{rating} is {text[:20]!r}; 1 to {RATINGS[rating]}, or 0, is expected")
            self._given[rating] = value or None

        return take

    # ---- things ----------------------------------------------------------------------------------

    def _open_session(self) -> None:
        self._sessions += 1

    def _begin_nodule(self) -> None:
        self._label = ""
        self._given: dict[str, int | None] = {}
        self._outlines: list[tuple[bool, Outline]] = []
        self._begin_outline()

    def _begin_outline(self) -> None:
        self._z: float | None = None
        self._slice: str | None = None
        self._inclusion = True
        self._x = self._y = -1
        self._points: list[tuple[int, int]] = []

    def _point(self) -> None:
        if self._x < 0 or self._y < 0:
            self._fail("a point lacks a coordinate")
        self._points.append((self._x, self._y))
        self._x = self._y = -1

    def _close_outline(self) -> None:
        if self._z is None or self._slice is None:
            self._fail("an outline does not say on which slice it lies")
        if not self._points:
            self._fail("an outline has no points")
        points = np.array(self._points, np.int32)
        self._outlines.append((self._inclusion, Outline(self._z, self._slice, points)))

    def _close_nodule(self) -> None:
        """A nodule of 3 mm or more when anything is outlined, below 3 mm when only marked."""
        reader = self._sessions - 1
        kept = [item for item in self._outlines if len(item[1].points) > 1]
        inside = sorted((line for included, line in kept if included), key=_height)
        if inside:
            self._annotations.append(
                Annotation(
                    reader=reader,
                    name=self._label,
                    outlines=tuple(inside),
                    exclusions=tuple(sorted((x for inc, x in kept if not inc), key=_height)),
                    ratings=tuple(self._given.get(rating) for rating in RATINGS),
                    single_points=len(self._outlines) - len(kept),
                )
            )
            return
        if kept:
            self._fail("a nodule has holes but no outline")
        for _, line in self._outlines:
            point = (int(line.points[0, 0]), int(line.points[0, 1]))
            self._small.append(PointMark(reader, self._label, line.z_mm, line.slice_id, point))

    def _close_other(self) -> None:
        if self._z is None or self._slice is None:
            self._fail("a mark does not say on which slice it lies")
        point = self._points[0] if self._points else None
        self._others.append(PointMark(self._sessions - 1, self._label, self._z, self._slice, point))


def _height(outline: Outline) -> float:
    return outline.z_mm
