"""Telling series apart and choosing one.

Files belong to one series when they share study and Series Instance UID (PS3.3 C.7.3.1); files
without a Series Instance UID are grouped by folder, orientation and matrix.

The rule of choice. Of the series that hold at least two axial planes at different positions, the
one with the most planes is read; on a tie the one with the thinnest spacing, then the lowest
series number, then the first in file order. Others are named in the finding ``several_series``.
Series of different studies or patients are never weighed against each other: that is the error
``several_studies`` until the caller names a series.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from .axes import plane_name, plane_normal
from .errors import CTReadError
from .findings import Collector, name_files
from .frame import Frame

__all__ = ["SeriesGroup", "SeriesInfo", "choose_series", "group_series", "list_series"]

#: Two positions nearer than this are one position: a tenth of the thinnest reconstruction in use,
#: ten times the rounding of a header that writes whole micrometres.
SAME_POSITION_MM = 0.01

#: A series or group of other orientation is a localizer when it has fewer images than this and
#: fewer than a tenth of the volume's slices, or simply no more than three.
LOCALIZER_IMAGES = 10


@dataclass(frozen=True)
class SeriesInfo:
    """One series under a path, as ``inspect --list-series`` shows it.

    ``index`` counts from 1 and is what ``series="#1"`` takes. The UID is an identifier: it is held
    for those who ask for it and left out of ``repr`` and :meth:`to_dict`.
    """

    index: int
    series_number: int | None
    modality: str | None
    slices: int
    rows: int
    columns: int
    spacing_mm: float | None
    orientation: str
    chosen: bool
    series_instance_uid: str | None = field(default=None, repr=False)

    def to_dict(self) -> dict:
        """JSON-able, without the UID."""
        result = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del result["series_instance_uid"]
        return result

    def describe(self) -> str:
        """One line for a person."""
        number = "" if self.series_number is None else f" (number {self.series_number})"
        spacing = "" if self.spacing_mm is None else f", {self.spacing_mm:g} mm apart"
        plural = "" if self.slices == 1 else "s"
        return (
            f"#{self.index}{number}: {self.slices} {self.orientation} slice{plural} of "
            f"{self.rows}x{self.columns}{spacing}"
        )


@dataclass
class SeriesGroup:
    """The frames of one series, with what the choice needs to know of them."""

    frames: list[Frame]
    index: int = 0
    orientation: str = "unknown"
    planes: int = 0  # distinct positions of its axial planes; of all its planes if none is axial
    spacing_mm: float | None = None

    @property
    def tier(self) -> int:
        """0 a stack of axial planes, 1 one axial plane, 2 no geometry, 3 not axial."""
        if self.orientation == "axial":
            return 0 if self.planes > 1 else 1
        return 2 if self.orientation == "unknown" else 3

    @property
    def rank(self) -> tuple:
        """Smallest is read."""
        number = self.frames[0].series_number
        return (
            self.tier,
            -self.planes,
            np.inf if self.spacing_mm is None else self.spacing_mm,
            np.inf if number is None else number,
            self.index,
        )

    def info(self, chosen: bool = False) -> SeriesInfo:
        """What may be shown of it."""
        first = self.frames[0]
        return SeriesInfo(
            index=self.index,
            series_number=first.series_number,
            modality=first.modality,
            slices=max(self.planes, 1),
            rows=first.rows,
            columns=first.columns,
            spacing_mm=None if self.spacing_mm is None else round(self.spacing_mm, 4),
            orientation=self.orientation,
            chosen=chosen,
            series_instance_uid=first.series_instance_uid,
        )


def is_localizer(images: int, slices: int) -> bool:
    """Whether so few images of another orientation are localizers beside so many slices."""
    return images <= 3 or (images < LOCALIZER_IMAGES and images * 10 <= slices)


def group_series(frames: list[Frame]) -> list[SeriesGroup]:
    """The series among the frames, ordered by series number, then by first appearance."""
    groups: dict[tuple, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[_key(frame)].append(frame)
    result = [_measure(SeriesGroup(part)) for group in groups.values() for part in _studies(group)]
    result.sort(
        key=lambda group: (
            np.inf if group.frames[0].series_number is None else group.frames[0].series_number
        )
    )
    for index, group in enumerate(result, start=1):
        group.index = index
    return result


def _key(frame: Frame) -> tuple:
    if frame.series_instance_uid is not None:
        return (frame.series_instance_uid,)
    orientation = None
    if frame.orientation is not None:
        orientation = tuple(round(cosine, 2) for cosine in frame.orientation)
    folder = getattr(frame.source, "folder", None)
    return (None, folder, orientation, frame.rows, frame.columns)


def _studies(frames: list[Frame]) -> list[list[Frame]]:
    """One series UID in several studies is several series; a missing study UID splits nothing."""
    named = {frame.study_instance_uid for frame in frames} - {None}
    if len(named) <= 1:
        return [frames]
    parts: dict[str | None, list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[frame.study_instance_uid].append(frame)
    return list(parts.values())


def _measure(group: SeriesGroup) -> SeriesGroup:
    names = [plane_name(frame.orientation) for frame in group.frames]
    located = [
        (frame, name)
        for frame, name in zip(group.frames, names, strict=True)
        if name != "unknown" and frame.position is not None
    ]
    if not located:
        group.planes = len(group.frames)
        return group
    kinds = [name for _, name in located]
    group.orientation = "axial" if "axial" in kinds else max(set(kinds), key=kinds.count)
    # of an axial series with strays only the axial planes count
    members = [frame for frame, name in located if name == group.orientation]
    normal = plane_normal(members[0].orientation)
    along = np.sort(np.array([frame.position for frame in members], dtype=float) @ normal)
    gaps = np.diff(along)
    gaps = gaps[gaps > SAME_POSITION_MM]
    group.planes = len(gaps) + 1
    if len(gaps):
        group.spacing_mm = float(np.median(gaps))
    return group


def list_series(groups: list[SeriesGroup]) -> list[SeriesInfo]:
    """What may be shown of each series; the one that the rule chooses is marked."""
    best = min(groups, key=lambda group: group.rank, default=None)
    return [group.info(chosen=group is best) for group in groups]


def choose_series(
    groups: list[SeriesGroup], collector: Collector, series: str | int | None = None
) -> SeriesGroup:
    """The series to read: the one that ``series`` names, else by the rule above.

    Parameters
    ----------
    groups : list of SeriesGroup
        From :func:`group_series`; not empty.
    collector : Collector
        Takes the findings ``several_series``, ``localizer_dropped`` and ``non_axial_series``.
    series : str or int, optional
        A Series Instance UID, a series number, or ``"#n"``: the n-th of the list (from 1). A
        number that no series bears is taken as a place in the list.

    Raises
    ------
    CTReadError
        ``several_studies``, ``no_such_series`` or ``ambiguous_series``.
    """
    if series is not None:
        return _named(groups, str(series).strip())
    chosen = min(groups, key=lambda group: group.rank)
    rivals = [group for group in groups if group.tier == chosen.tier]
    _refuse_several_studies(rivals, collector)
    if chosen.tier == 1 and len(rivals) > 1:
        collector.fail(
            "single_slice",
            f"{len(rivals)} series of one axial slice each, and one slice is no volume; if they "
            f"belong together, their Series Instance UIDs were lost: write one and the same into "
            f"all, or none",
            [frame.label for group in rivals for frame in group.frames],
        )
    if chosen.tier != 0:
        return chosen  # not a stack: what is wrong with it is told where it is looked at
    _report_others(groups, chosen, collector)
    return chosen


def _named(groups: list[SeriesGroup], wanted: str) -> SeriesGroup:
    listing = "; ".join(group.info().describe() for group in groups)
    by_place = [group for group in groups if f"#{group.index}" == wanted]
    by_uid = [group for group in groups if group.frames[0].series_instance_uid == wanted]
    by_number = [group for group in groups if str(group.frames[0].series_number) == wanted]
    by_bare_place = [group for group in groups if str(group.index) == wanted]
    found = by_place or by_uid or by_number or by_bare_place
    if not found:
        raise CTReadError(
            f"no series {wanted!r} here. There are: {listing}. Name one by '#index', by its "
            f"series number or by its Series Instance UID",
            code="no_such_series",
        )
    if len(found) > 1:
        raise CTReadError(
            f"series {wanted!r} names {len(found)} series. There are: {listing}. Name one by "
            f"'#index'",
            code="ambiguous_series",
        )
    return found[0]


def _refuse_several_studies(rivals: list[SeriesGroup], collector: Collector) -> None:
    first = [group.frames[0] for group in rivals]
    studies = {frame.study_instance_uid for frame in first} - {None}
    patients = {frame.patient_id for group in rivals for frame in group.frames} - {None, ""}
    if len(studies) <= 1 and len(patients) <= 1:
        return
    what = f"{len(patients)} patients" if len(patients) > 1 else f"{len(studies)} studies"
    listing = "; ".join(group.info().describe() for group in rivals)
    collector.fail(
        "several_studies",
        f"the images come from {what}; a volume is read from one. Name its folder, or choose a "
        f"series (series=, --series): {listing}",
    )


def _report_others(groups: list[SeriesGroup], chosen: SeriesGroup, collector: Collector) -> None:
    alternatives = [group for group in groups if group.tier == 0 and group is not chosen]
    if alternatives:
        listing = "; ".join(group.info().describe() for group in alternatives)
        collector.add(
            "several_series",
            f"{len(alternatives) + 1} axial series are here; read {chosen.info().describe()} (most "
            f"slices, then thinnest spacing, then lowest number). Left out: {listing}. Choose "
            f"another with series= or --series '#index'",
        )
    for group in groups:
        if group is chosen or group.tier == 0:
            continue
        names = [frame.label for frame in group.frames]
        few = is_localizer(len(names), chosen.planes)
        if group.tier == 3 and not few:
            collector.add(
                "non_axial_series",
                f"left out a {group.orientation} series of {len(names)} images",
                names,
            )
            continue
        what = {1: "axial, all at one position", 2: "without position or orientation"}.get(
            group.tier, group.orientation
        )
        collector.add(
            "localizer_dropped",
            f"dropped {len(names)} image{'' if len(names) == 1 else 's'} of another series "
            f"({what}): {name_files(names)}",
            names,
        )
