"""Tables of what the readers marked: a row a scan, a nodule, an annotation, a stretch of slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from .annotations import RATINGS, ScanAnnotations
from .nodules import Nodule, diameter_mm, group_annotations, slice_key
from .rules import POSITIVE, LabelRule, OutlineMarks, rate_nodule, study_label
from .tree import SeriesPlace

__all__ = [
    "ANNOTATION_COLUMNS",
    "NODULE_COLUMNS",
    "SCAN_COLUMNS",
    "STRETCH_COLUMNS",
    "annotation_rows",
    "nodule_rows",
    "outlined_labels",
    "scan_row",
    "stretch_rows",
]

_RATING_COLUMNS = ("internal_structure" if r == "internalStructure" else r for r in RATINGS)
_RATING_OF = dict(zip(_RATING_COLUMNS, RATINGS, strict=True))

SCAN_COLUMNS = (
    "study", "label", "readers", "annotations", "unrated_annotations", "single_point_outlines",
    "exclusions", "nodules", "nodules_of_3_readers", "small_nodules", "non_nodules",
    "outlined_slices", "positive_outlined_slices",
)  # fmt: skip
NODULE_COLUMNS = (
    "study", "nodule", "readers", "annotations", "x_mm", "y_mm", "z_mm", "row", "column",
    "diameter_mm", "diameter_pixels", "z_low_mm", "z_high_mm", "outlined_slices", "class",
    *_RATING_OF, "malignancy_of_each",
)  # fmt: skip
ANNOTATION_COLUMNS = (
    "study", "nodule", "reader", "annotation", "z_low_mm", "z_high_mm", "outlines", "exclusions",
    "single_points", "diameter_pixels", *_RATING_OF,
)  # fmt: skip
STRETCH_COLUMNS = ("study", "label", "z_low_mm", "z_high_mm", "outlined_slices")


def nodule_rows(
    scan: ScanAnnotations,
    rule: LabelRule | None = None,
    place: SeriesPlace | None = None,
    study: str | None = None,
) -> list[dict[str, Any]]:
    """One row a nodule of 3 mm or more, in the order of :func:`.nodules.group_annotations`.

    Parameters
    ----------
    scan : ScanAnnotations
    rule : LabelRule, optional
        Whose target decides ``class``: positive, negative or uncertain.
    place : SeriesPlace, optional
        Gives mm: without it ``x_mm`` and ``y_mm`` are empty, and ``diameter_mm`` too where the
        annotations do not know the size of a pixel.
    study : str, optional
        Name of the study in the table; the Series Instance UID when None.

    Returns
    -------
    list of dict
        Keys :data:`NODULE_COLUMNS`. x, y and z are the centroid (LPS); row and column are pixels of
        the scan as it was taken; ratings are means over the readers who gave them.
    """
    rule = rule or LabelRule()
    pixel = scan.pixel_mm
    if place is not None and place.pixel_mm is not None:
        pixel = float(np.mean(place.pixel_mm))
    rows = []
    for number, nodule in enumerate(group_annotations(scan.annotations), start=1):
        row, column, z = nodule.centroid
        low, high = nodule.span
        x, y = (None, None) if place is None else place.in_plane_mm(row, column)
        rows.append(
            {
                "study": study or scan.series_uid,
                "nodule": number,
                "readers": nodule.readers,
                "annotations": len(nodule.annotations),
                "x_mm": _rounded(x),
                "y_mm": _rounded(y),
                "z_mm": _rounded(z),
                "row": _rounded(row),
                "column": _rounded(column),
                "diameter_mm": _rounded(pixel and nodule.diameter_mm(pixel)),
                "diameter_pixels": _rounded(nodule.diameter_mm(1.0)),
                "z_low_mm": low,
                "z_high_mm": high,
                "outlined_slices": nodule.slices,
                "class": _CLASSES[rate_nodule(nodule, rule.target)],
                **_mean_ratings(nodule),
                "malignancy_of_each": " ".join(map(str, nodule.ratings("malignancy"))),
            }
        )
    return rows


_CLASSES = {1: "positive", 0: "negative", -1: "uncertain"}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _mean_ratings(nodule: Nodule) -> dict[str, float | None]:
    means = {}
    for column, rating in _RATING_OF.items():
        values = nodule.ratings(rating)
        means[column] = round(float(np.mean(values)), 3) if values else None
    return means


def annotation_rows(scan: ScanAnnotations, study: str | None = None) -> list[dict[str, Any]]:
    """One row an annotation of 3 mm or more, keys :data:`ANNOTATION_COLUMNS`."""
    rows = []
    for number, nodule in enumerate(group_annotations(scan.annotations), start=1):
        for item in nodule.annotations:
            rows.append(
                {
                    "study": study or scan.series_uid,
                    "nodule": number,
                    "reader": item.reader + 1,
                    "annotation": item.name,
                    "z_low_mm": item.span[0],
                    "z_high_mm": item.span[1],
                    "outlines": len(item.outlines),
                    "exclusions": len(item.exclusions),
                    "single_points": item.single_points,
                    "diameter_pixels": round(diameter_mm(item, 1.0), 3),
                    **dict(zip(_RATING_OF, item.ratings, strict=True)),
                }
            )
    return rows


def scan_row(scan: ScanAnnotations, rule: LabelRule, study: str | None = None) -> dict[str, Any]:
    """Counts and the label of one scan, keys :data:`SCAN_COLUMNS`; an empty label is left out."""
    label, marks = study_label(scan, rule)
    nodules = group_annotations(scan.annotations)
    slices = outlined_labels(scan, marks)
    return {
        "study": study or scan.series_uid,
        "label": None if label is None else int(label),
        "readers": scan.readers,
        "annotations": len(scan.annotations),
        "unrated_annotations": sum(not item.rated for item in scan.annotations),
        "single_point_outlines": sum(item.single_points for item in scan.annotations),
        "exclusions": sum(len(item.exclusions) for item in scan.annotations),
        "nodules": len(nodules),
        "nodules_of_3_readers": sum(nodule.readers >= 3 for nodule in nodules),
        "small_nodules": len(scan.small),
        "non_nodules": len(scan.others),
        "outlined_slices": len(slices),
        "positive_outlined_slices": sum(value == POSITIVE for value in slices.values()),
    }


def outlined_labels(scan: ScanAnnotations, marks: OutlineMarks) -> dict[float, int]:
    """z -> label of every slice that anything is outlined on (or that the file names), by z alone.

    An annotation file does not list the slices of its series, so these are the slices of which it
    alone can tell. Slices between them get their labels once the scan is read.
    """
    z, labels = _along(scan, marks)
    return dict(zip(z[::2].tolist(), labels[::2].tolist(), strict=True))


def _along(scan: ScanAnnotations, marks: OutlineMarks) -> tuple[np.ndarray, np.ndarray]:
    """z and label of the slices that are known, and of the gaps between them, in turn."""
    heights = {slice_key(z): z for z in scan.slice_z_mm}
    for annotation in scan.annotations:
        for outline in annotation.outlines:
            heights.setdefault(slice_key(outline.z_mm), outline.z_mm)
    if not heights:
        return np.empty(0), np.empty(0, np.int8)
    known = np.array(sorted(heights.values()))
    z = np.empty(2 * len(known) - 1)
    z[::2], z[1::2] = known, (known[1:] + known[:-1]) / 2
    return z, marks.by_height().resolve([None] * len(z), z)


def stretch_rows(
    scan: ScanAnnotations, rule: LabelRule, study: str | None = None
) -> list[dict[str, Any]]:
    """The stretches of positive (1) and unknown (-1) slices, keys :data:`STRETCH_COLUMNS`.

    Every slice of the series from ``z_low_mm`` to ``z_high_mm`` has the label, those too that no
    outline lies on.
    """
    _, marks = study_label(scan, rule)
    rows: list[dict[str, Any]] = []
    previous = 0
    for place, (z, label) in enumerate(zip(*_along(scan, marks), strict=True)):
        is_slice = place % 2 == 0
        if label and label != previous and is_slice:
            rows.append(
                {
                    "study": study or scan.series_uid,
                    "label": int(label),
                    "z_low_mm": float(z),
                    "z_high_mm": float(z),
                    "outlined_slices": 1,
                }
            )
        elif label and is_slice:
            rows[-1]["z_high_mm"] = float(z)
            rows[-1]["outlined_slices"] += 1
        previous = label if label == previous or is_slice else 0
    return rows
