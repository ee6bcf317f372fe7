"""The labels table of a user: which studies there are, and what is known of them.

One row a study, or several when it holds several lesions. Columns (``study`` alone is required):

==============  ===================================================================================
study           path of the scan relative to the data folder: a DICOM folder, a zip or a NIfTI file
label           0 or 1: is the finding present in the study
slice_start,    half-open range of slices that show the finding, as indices into the volume that
slice_stop      :func:`ct_video_hf.read_ct` gives (0 is the slice nearest to the feet)
slice_label     with several labels: which of them the range shows
patient         whose study it is; studies of one patient stay in one split
split           train, validation (or val, valid, dev) or test
weight          above 0; how often clips of the study are drawn in training, 1 when left out
==============  ===================================================================================

What is known of the slices follows from the rows of a study, each label for itself. With slice
ranges, the slices in any of them are positive and all others negative. Without, a study with label
0 has no positive slice, and in a study with label 1 nothing is known of the single slice.

Multi-label tables name their columns (``label_columns=["effusion", "nodule"]``, or ``["*"]`` for
every column that is none of the above). :class:`.table_layout.TableLayout` holds what else may
differ: other column names, scans found by their file name, patients and splits read from it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from .errors import CTDataError
from .labels import SPLIT_NAMES, LabelsTable, StudyEntry, data_folder
from .marks import UNKNOWN
from .table_layout import TableLayout, find_by_name, read_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["read_labels_table", "read_labels_tables"]

logger = logging.getLogger(__name__)


@dataclass
class _Draft:
    """The rows of one study while they are being gathered."""

    row: int
    values: dict[str, Any]
    ranges: list[tuple[int, int]] = field(default_factory=list)
    range_labels: list[int] = field(default_factory=list)


def read_labels_table(
    path: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
    layout: TableLayout | None = None,
    label_columns: Sequence[str] | None = None,
    must_exist: bool = True,
) -> LabelsTable:
    """Read and check a labels table.

    Parameters
    ----------
    path : path
        CSV, Parquet or JSON lines, by its ending.
    data_dir : path
        The folder that the ``study`` column is relative to.
    layout : TableLayout, optional
        Where the table is laid out in another way than ours.
    label_columns : sequence of str, optional
        Short for a layout that differs in nothing else.
    must_exist : bool
        Look whether the scans are there.

    Returns
    -------
    LabelsTable

    Raises
    ------
    CTDataError
        With the numbers of the rows at fault (the header is row 1): unknown or missing columns,
        scans that are not there, labels other than 0 and 1, rows of a study that contradict each
        other or repeat, a patient in two splits.
    """
    return read_labels_tables(
        [path], data_dir, layout=layout, label_columns=label_columns, must_exist=must_exist
    )


def read_labels_tables(
    paths: Sequence[str | os.PathLike],
    data_dir: str | os.PathLike,
    *,
    layout: TableLayout | None = None,
    label_columns: Sequence[str] | None = None,
    must_exist: bool = True,
) -> LabelsTable:
    """Read tables of one layout as one, such as one a split; see :func:`read_labels_table`."""
    if layout is None:
        layout = TableLayout(label_columns=None if label_columns is None else tuple(label_columns))
    elif label_columns is not None:
        raise CTDataError("label_columns are part of the layout; give them there")
    root = data_folder(data_dir)
    entries: list[StudyEntry] = []
    names: list[str] | None = None
    patients = []
    for path in map(Path, paths):
        frame, found = layout.arranged(read_frame(path), path.name)
        if names is not None and found != names:
            raise CTDataError(f"{path.name} has the labels {found}, {Path(paths[0]).name} {names}")
        names = found
        drafts = _gather(path.name, frame, names)
        entries += [
            _entry(path.name, study, draft, root, names, layout) for study, draft in drafts.items()
        ]
        patients.append("patient" in frame.columns)
    said = ", ".join(Path(path).name for path in paths)
    entries = _located(said, entries, root, layout, must_exist)
    _refuse_same_scan_twice(said, entries)
    _refuse_leaks(said, entries)
    _refuse_half_labelled(said, entries, names)
    if not names and entries[0].labels:  # slice ranges alone say which studies are positive
        names = ["label"]
    return LabelsTable(tuple(entries), tuple(names), has_patients=all(patients))


# ---- rows ----------------------------------------------------------------------------------------


def _gather(table: str, frame: pandas.DataFrame, names: list[str]) -> dict[str, _Draft]:
    """The rows of each study, checked one by one and against each other."""
    drafts: dict[str, _Draft] = {}
    for number, record in enumerate(frame.to_dict("records"), start=2):
        where = f"{table} row {number}"
        cells = {key: _cell(value) for key, value in record.items()}
        study = _study(where, cells["study"])
        values = {name: _label(where, name, cells[name]) for name in names}
        values |= {
            "patient": cells.get("patient"),
            "split": _split(where, cells.get("split")),
            "weight": _weight(where, cells.get("weight")),
        }
        span = _range(where, cells.get("slice_start"), cells.get("slice_stop"))
        shown = _shown_label(where, span, cells.get("slice_label"), names)
        if span and names and values[names[shown]] == 0:
            raise CTDataError(
                f"{where}: label 0 with a slice range; ranges mark the slices that show the finding"
            )
        draft = drafts.setdefault(study, _Draft(number, values))
        if draft.row != number:
            _join(where, draft, values, span)
        if span:
            draft.ranges.append(span)
            draft.range_labels.append(shown)
    return drafts


def _study(where: str, study: str | None) -> str:
    if study is None:
        raise CTDataError(f"{where}: the study is empty")
    study = study.replace("\\", "/").rstrip("/")
    if PurePosixPath(study).is_absolute() or PureWindowsPath(study).is_absolute():
        raise CTDataError(
            f"{where}: the study is an absolute path; give it relative to the data folder"
        )
    return study


def _join(where: str, draft: _Draft, values: dict[str, Any], span: tuple[int, int] | None) -> None:
    """Check a further row of a study against its first one."""
    for name, value in values.items():
        if value != draft.values[name]:
            raise CTDataError(
                f"{where}: {name} {_shown(value)} contradicts {_shown(draft.values[name])} in row "
                f"{draft.row}, which is the same study"
            )
    if span is None or not draft.ranges:
        raise CTDataError(
            f"{where}: the study is in row {draft.row} already; a study has several rows only when "
            "each has its own slice range"
        )


def _shown(value: Any) -> str:
    return "(empty)" if value is None else repr(value)


def _cell(value: Any) -> str | None:
    """A cell as text; None when it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():  # 1.0 from Parquet or JSON is 1
        value = int(value)
    text = str(value).strip()
    return None if text in ("", "<NA>", "nan", "NaN") else text


def _label(where: str, name: str, text: str | None) -> float | None:
    if text is None:
        return None
    if text not in ("0", "1", "0.0", "1.0"):
        raise CTDataError(f"{where}: {name} is {text!r}; labels are 0 or 1")
    return float(text)


def _split(where: str, text: str | None) -> str | None:
    if text is None:
        return None
    if text.lower() not in SPLIT_NAMES:
        raise CTDataError(f"{where}: split is {text!r}; known are {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[text.lower()]


def _weight(where: str, text: str | None) -> float:
    try:
        weight = 1.0 if text is None else float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise CTDataError(f"{where}: weight is {text!r}; a number above 0 is expected")
    return weight


def _range(where: str, start: str | None, stop: str | None) -> tuple[int, int] | None:
    if start is None and stop is None:
        return None
    try:
        low, high = int(start or ""), int(stop or "")
    except ValueError:
        raise CTDataError(
            f"{where}: slice range {start!r} to {stop!r}; two whole numbers, or both empty"
        ) from None
    if not 0 <= low < high:
        raise CTDataError(
            f"{where}: slice range {low} to {high} is empty or negative; slice_stop is the first "
            "slice after the range"
        )
    return low, high


def _shown_label(
    where: str, span: tuple[int, int] | None, text: str | None, names: list[str]
) -> int:
    """Place of the label that a row's range shows."""
    if span is None:
        if text is not None:
            raise CTDataError(f"{where}: slice_label {text!r} without a slice range")
        return 0
    if text is None and len(names) > 1:
        raise CTDataError(f"{where}: the slice range has no slice_label; it is one of {names}")
    if text is not None and text not in names:
        raise CTDataError(f"{where}: slice_label is {text!r}; it is one of {names}")
    return 0 if text is None else names.index(text)


def _entry(
    table: str,
    study: str,
    draft: _Draft,
    root: Path,
    names: list[str],
    layout: TableLayout,
) -> StudyEntry:
    values = draft.values
    labels = [values[name] for name in names] or [None] * bool(draft.ranges)
    for place in draft.range_labels:  # a range says that the study is positive
        labels[place] = 1.0
    if layout.empty_labels == "unknown":
        labels = [UNKNOWN if label is None else label for label in labels]
    given = [label for label in labels if label is not None]
    if given and len(given) != len(labels):
        raise CTDataError(
            f"{table} row {draft.row}: some of the study's labels are empty; fill them, or say "
            "empty_labels unknown (--empty-labels)"
        )
    return StudyEntry(
        study=study,
        path=root / study,
        labels=tuple(map(float, given)),
        ranges=tuple(draft.ranges),
        patient=values["patient"],
        split=values["split"],
        weight=values["weight"],
        row=draft.row,
        range_labels=tuple(draft.range_labels) if len(names) > 1 else (),
    )


# ---- all studies ---------------------------------------------------------------------------------


def _located(
    table: str, entries: list[StudyEntry], root: Path, layout: TableLayout, must_exist: bool
) -> list[StudyEntry]:
    """The entries with the paths of their scans; refuses or drops those without."""
    if layout.find_by_name:
        found = find_by_name(root, [entry.study for entry in entries])
        missing = [entry for entry in entries if entry.study not in found]
        entries = [
            replace(entry, path=found[entry.study]) for entry in entries if entry.study in found
        ]
    elif must_exist:
        with ThreadPoolExecutor(8) as pool:  # on a network drive each look is a wait
            there = list(pool.map(_exists, entries))
        missing = [entry for entry, yes in zip(entries, there, strict=True) if not yes]
        entries = [entry for entry, yes in zip(entries, there, strict=True) if yes]
    else:
        return entries
    _tell_missing(table, missing, len(missing) + len(entries), layout)
    return entries


def _exists(entry: StudyEntry) -> bool:
    return entry.path.exists()


def _tell_missing(table: str, missing: list[StudyEntry], total: int, layout: TableLayout) -> None:
    if not missing:
        return
    said = (
        f"{table}: {len(missing)} of {total} scans are not in the data folder, row(s) "
        f"{_rows(missing)}; the first is {missing[0].study!r}"
    )
    if layout.missing_scans == "refuse" or len(missing) == total:
        raise CTDataError(
            f"{said}. Complete the folder, or say missing_scans drop (--missing-scans) to go on "
            "without them"
        )
    logger.warning("%s; they are left out", said)


def _rows(entries: Iterable[StudyEntry]) -> str:
    numbers = [entry.row for entry in entries]
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _refuse_same_scan_twice(table: str, entries: list[StudyEntry]) -> None:
    seen: dict[str, StudyEntry] = {}
    for entry in entries:
        place = os.path.normcase(os.path.normpath(entry.path))
        other = seen.setdefault(place, entry)
        if other is not entry:
            raise CTDataError(
                f"{table} row {entry.row}: {entry.study!r} is the same scan as {other.study!r} in "
                f"row {other.row}"
            )


def _refuse_leaks(table: str, entries: list[StudyEntry]) -> None:
    """A patient must not be in two splits."""
    seen: dict[str, StudyEntry] = {}
    for entry in entries:
        if entry.patient is None or entry.split is None:
            continue
        other = seen.setdefault(entry.patient, entry)
        if other.split != entry.split:
            raise CTDataError(
                f"{table} row {entry.row}: the patient is in {entry.split!r} here and in "
                f"{other.split!r} in row {other.row}. Studies of one patient must be in one split, "
                "or the test set leaks into training."
            )


def _refuse_half_labelled(table: str, entries: list[StudyEntry], names: list[str]) -> None:
    """Some studies labelled and others not is nearly always a slip of the table."""
    bare = [entry for entry in entries if not entry.labels]
    if bare and len(bare) != len(entries):
        why = "label" if names else "label column, and no slice range"
        advice = ", or say empty_labels unknown (--empty-labels)" if names else ""
        raise CTDataError(
            f"{table}: {len(bare)} of {len(entries)} studies have no {why}, row(s) {_rows(bare)}; "
            f"label them 0 or 1, or leave them out{advice}"
        )
