"""The labels table: which studies there are, and what is known of them.

One row a study, or several when it holds several lesions. Columns (``study`` alone is required):

==============  ===================================================================================
study           path of the scan relative to the data folder: a DICOM folder, a zip or a NIfTI file
label           0 or 1: is the finding present in the study
slice_start,    half-open range of slices that show the finding, as indices into the volume that
slice_stop      :func:`ct_video_hf.read_ct` gives (0 is the slice nearest to the feet)
patient         whose study it is; studies of one patient stay in one split
split           train, validation (or val, valid, dev) or test
weight          above 0; how often clips of the study are drawn in training, 1 when left out
==============  ===================================================================================

What is known of the slices follows from the rows of a study. With slice ranges, the slices in any
of them are positive and all others negative. Without, a study with label 0 has no positive slice,
and in a study with label 1 nothing is known of the single slice.

Multi-label tables name their columns (``label_columns=["effusion", "nodule"]``); these have labels
of studies only, no slice ranges.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from .errors import CTDataError
from .marks import Marks, SliceMarks

if TYPE_CHECKING:
    import pandas

__all__ = [
    "SPLITS",
    "LabelsTable",
    "SideTable",
    "SliceMarks",
    "StudyEntry",
    "read_labels_table",
    "table_of_studies",
]

#: The names of the splits, in this order everywhere.
SPLITS = ("train", "validation", "test")

#: Names of splits that tables may use, in lower case, and what they mean.
SPLIT_NAMES = {name: name for name in SPLITS} | {
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
}
_OTHER_COLUMNS = ("study", "slice_start", "slice_stop", "patient", "split", "weight")
_READERS = "CSV (.csv), Parquet (.parquet) or JSON lines (.jsonl)"


@dataclass(frozen=True)
class StudyEntry:
    """What the table says of one study.

    Attributes
    ----------
    study : str
        As written in the table.
    path : pathlib.Path
        Where the scan is.
    labels : tuple of float
        One a label column, 0.0 or 1.0; empty when the table has no label for the study.
    ranges : tuple of (int, int)
        Half-open ranges of positive slices, in the table's order.
    patient, split : str or None
        None where the table does not say.
    weight : float
    row : int
        First row of the study in the table; the header is row 1.
    marks : Marks or None
        Labels of single slices by SOP Instance UID, where the source knows them by name.
    series : str or None
        Series Instance UID, where ``path`` may hold more than this series.
    """

    study: str
    path: Path
    labels: tuple[float, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()
    patient: str | None = None
    split: str | None = None
    weight: float = 1.0
    row: int = 0
    marks: Marks | None = None
    series: str | None = None

    @property
    def patient_key(self) -> str:
        """The patient, or the study itself where the patient is not known."""
        return self.study if self.patient is None else self.patient


@dataclass(frozen=True)
class SideTable:
    """A further table of a set, written beside its studies as ``<name>.csv``.

    Rows name their study in the column ``study``, as the labels table does; in the set it bears the
    study's id. Rows of studies that are not in the set are left out.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...] = field(repr=False)


@dataclass(frozen=True)
class LabelsTable:
    """All studies of a table in its order.

    Attributes
    ----------
    entries : tuple of StudyEntry
    label_names : tuple of str
        One name a label, or none.
    has_patients : bool
        Whether the table says whose each study is.
    secret_names : bool
        Whether names of studies identify, so that a set has hashes in their place unless its maker
        says otherwise.
    parameters : dict
        What the labels were made with; a set is begun and continued with the same.
    side_tables : tuple of SideTable
    label_weights : tuple of float
        One a label, where the source has an official metric that weighs them.
    finding : int or None
        Place of the label that makes a study positive in counts and strata; None: any of them.
    draw_from : tuple of str
        Patients from whom splits are drawn, in this order, where they are more than those of
        ``entries``: studies that an option leaves out must not move others between splits.
    """

    entries: tuple[StudyEntry, ...]
    label_names: tuple[str, ...] = ()
    has_patients: bool = False
    secret_names: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    side_tables: tuple[SideTable, ...] = ()
    label_weights: tuple[float, ...] = ()
    finding: int | None = None
    draw_from: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)


@dataclass
class _Draft:
    """The rows of one study while they are being gathered."""

    row: int
    values: dict[str, Any]
    ranges: list[tuple[int, int]] = field(default_factory=list)


def table_of_studies(data_dir: str | os.PathLike) -> LabelsTable:
    """Every scan directly inside ``data_dir`` (folder, .zip, .nii, .nii.gz), without labels.

    Raises
    ------
    CTDataError
        When there is none.
    """
    root = _data_folder(data_dir)
    entries = [
        StudyEntry(study=path.name, path=path, row=number)
        for number, path in enumerate(sorted(root.iterdir()), start=1)
        if not path.name.startswith(".")
        and (path.is_dir() or path.name.lower().endswith((".zip", ".nii", ".nii.gz")))
    ]
    if not entries:
        raise CTDataError(
            f"no study in {root.name}: every folder, zip or NIfTI file directly inside the data "
            "folder is taken for a study. Give a labels table to name studies elsewhere."
        )
    return LabelsTable(tuple(entries))


def read_labels_table(
    path: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
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
    label_columns : sequence of str, optional
        The label columns of a multi-label table; ``["label"]`` when None.
    must_exist : bool
        Refuse a table that names scans which are not there.

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
    path = Path(path)
    root = _data_folder(data_dir)
    frame = _read_frame(path)
    names = ("label",) if label_columns is None else tuple(label_columns)
    _check_columns(path.name, list(frame.columns), names, asked=label_columns is not None)
    names = tuple(name for name in names if name in frame.columns)
    drafts = _gather(path.name, frame, names)
    entries = [_entry(path.name, study, draft, root, names) for study, draft in drafts.items()]
    if must_exist:
        _refuse_missing(path.name, entries)
    _refuse_same_scan_twice(path.name, entries)
    _refuse_leaks(path.name, entries)
    _refuse_half_labelled(path.name, entries, names)
    if not names and entries[0].labels:  # slice ranges alone say which studies are positive
        names = ("label",)
    return LabelsTable(tuple(entries), names, has_patients="patient" in frame.columns)


def _data_folder(data_dir: str | os.PathLike) -> Path:
    root = Path(data_dir)
    if not root.is_dir():
        raise CTDataError(f"the data folder {root} does not exist or is not a folder")
    return root


def _read_frame(path: Path) -> pandas.DataFrame:
    """The table with its cells as they are written: no guessing of types."""
    import pandas as pd

    if not path.is_file():
        raise CTDataError(f"the labels table {path} does not exist")
    kind = path.suffix.lower()
    try:
        if kind == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif kind == ".parquet":
            frame = pd.read_parquet(path)
        elif kind == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
            frame = pd.DataFrame(rows, dtype=object)
        else:
            raise CTDataError(f"the labels table {path.name} is not {_READERS}")
    except CTDataError:
        raise
    except (ValueError, UnicodeDecodeError, OSError) as error:  # pandas' parsers raise ValueErrors
        raise CTDataError(f"the labels table {path.name} cannot be read: {error}") from error
    if frame.empty:
        raise CTDataError(f"the labels table {path.name} has no rows")
    return frame


def _check_columns(table: str, found: list[str], labels: tuple[str, ...], asked: bool) -> None:
    clash = sorted(set(labels) & set(_OTHER_COLUMNS))
    if clash or len(set(labels)) != len(labels):
        raise CTDataError(f"label columns {list(labels)}: names repeat or clash with {clash}")
    known = (*_OTHER_COLUMNS, *labels)
    if "study" not in found:
        raise CTDataError(
            f"{table}: no column 'study'; found {', '.join(map(repr, found))}. Columns are "
            "separated by commas."
        )
    unknown = [name for name in found if name not in known]
    if unknown:
        raise CTDataError(
            f"{table}: unknown column {', '.join(map(repr, unknown))}; known are "
            f"{', '.join(known)}. Name the label columns of a multi-label table with "
            "label_columns (--label-columns)."
        )
    missing = [name for name in labels if name not in found]
    if asked and missing:
        raise CTDataError(f"{table}: no label column {', '.join(map(repr, missing))}")
    if ("slice_start" in found) != ("slice_stop" in found):
        raise CTDataError(f"{table}: slice_start and slice_stop go together; one is missing")
    if "slice_start" in found and len(labels) > 1:
        raise CTDataError(f"{table}: slice ranges need a single label, not {len(labels)}")


def _gather(table: str, frame: pandas.DataFrame, names: tuple[str, ...]) -> dict[str, _Draft]:
    """The rows of each study, checked one by one and against each other."""
    drafts: dict[str, _Draft] = {}
    for number, record in enumerate(frame.to_dict("records"), start=2):
        where = f"{table} row {number}"
        cells = {key: _cell(value) for key, value in record.items()}
        study = cells["study"]
        if study is None:
            raise CTDataError(f"{where}: the study is empty")
        study = study.replace("\\", "/").rstrip("/")
        if PurePosixPath(study).is_absolute() or PureWindowsPath(study).is_absolute():
            raise CTDataError(
                f"{where}: the study is an absolute path; give it relative to the data folder"
            )
        values = {name: _label(where, name, cells[name]) for name in names}
        values |= {
            "patient": cells.get("patient"),
            "split": _split(where, cells.get("split")),
            "weight": _weight(where, cells.get("weight")),
        }
        span = _range(where, cells.get("slice_start"), cells.get("slice_stop"))
        if span and names and values[names[0]] == 0:
            raise CTDataError(
                f"{where}: label 0 with a slice range; ranges mark the slices that show the finding"
            )
        draft = drafts.setdefault(study, _Draft(number, values))
        if draft.row != number:
            _join(where, draft, values, span)
        if span:
            draft.ranges.append(span)
    return drafts


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


def _entry(table: str, study: str, draft: _Draft, root: Path, names: tuple[str, ...]) -> StudyEntry:
    values = draft.values
    labels = [values[name] for name in names]
    if draft.ranges:  # a range says that the study is positive
        labels = [1.0]
    given = [label for label in labels if label is not None]
    if given and len(given) != len(labels):
        raise CTDataError(f"{table} row {draft.row}: some of the study's labels are empty")
    return StudyEntry(
        study=study,
        path=root / study,
        labels=tuple(given),
        ranges=tuple(draft.ranges),
        patient=values["patient"],
        split=values["split"],
        weight=values["weight"],
        row=draft.row,
    )


def _rows(entries: Iterable[StudyEntry]) -> str:
    numbers = [entry.row for entry in entries]
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def _refuse_missing(table: str, entries: list[StudyEntry]) -> None:
    missing = [entry for entry in entries if not entry.path.exists()]
    if missing:
        raise CTDataError(
            f"{table}: {len(missing)} of {len(entries)} scans are not in the data folder, row(s) "
            f"{_rows(missing)}; the first is {missing[0].study!r}"
        )


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


def _refuse_half_labelled(table: str, entries: list[StudyEntry], names: tuple[str, ...]) -> None:
    """Some studies labelled and others not is nearly always a slip of the table."""
    bare = [entry for entry in entries if not entry.labels]
    if bare and len(bare) != len(entries):
        why = "label" if names else "label column, and no slice range"
        raise CTDataError(
            f"{table}: {len(bare)} of {len(entries)} studies have no {why}, row(s) {_rows(bare)}; "
            "label them 0 or 1, or leave them out"
        )
