"""Reading RSNA STR PE's train.csv: 1.79 million rows, one a slice, checked as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import CTDataError
from .labels import SPLIT_NAMES
from .rsna_labels import ID_COLUMNS, IMAGE_LABEL, STUDY_LABELS, inconsistencies

__all__ = ["SliceTable", "read_slice_table"]

_STUDY, _SERIES, _SOP = ID_COLUMNS
_SHOWN = 8


@dataclass(eq=False)
class SliceTable:
    """The rows of train.csv, without repeats, and what they say of each study.

    Attributes
    ----------
    name : str
        File name, for messages.
    studies, series : list of str
        Ids in the order in which they first appear, which the paper's split starts from.
    study, scan : numpy.ndarray
        int32 (rows,): place of the row's study and series in these lists.
    sop : pyarrow.Array
        string (rows,): SOP Instance UIDs.
    image : numpy.ndarray
        int8 (rows,): PE on the image.
    row : numpy.ndarray
        int64 (rows,): the row's number in the file; the header is row 1.
    exams : dict
        Study column -> int8 (studies,), the first row's value.
    splits : list of str or None
        Split of each study where the file has such a column.
    flaws : dict
        Rule in words -> studies (places) that break it.
    leak : str or None
        Said when slices of one study are in several splits.
    repeats : int
        Rows left out because they repeat another one.
    """

    name: str
    studies: list[str]
    series: list[str]
    study: np.ndarray
    scan: np.ndarray
    sop: pa.Array
    image: np.ndarray
    row: np.ndarray
    exams: dict[str, np.ndarray]
    splits: list[str] | None = None
    flaws: dict[str, np.ndarray] = field(default_factory=dict)
    leak: str | None = None
    repeats: int = 0

    @property
    def positive(self) -> np.ndarray:
        """bool (studies,): PE is seen on an image."""
        return np.bincount(self.study, self.image == 1, len(self.studies)) > 0

    def first_rows(self) -> np.ndarray:
        """int64 (studies,): number of each study's first row."""
        _, first = np.unique(self.study, return_index=True)
        return self.row[first]

    def scans(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """(study, series, places of its rows), series by series in order of first appearance."""
        order = np.argsort(self.scan, kind="stable")
        ends = np.cumsum(np.bincount(self.scan, minlength=len(self.series)))
        for series, rows in enumerate(np.split(order, ends[:-1])):
            yield int(self.study[rows[0]]), series, rows

    def describe_flaws(self) -> str:
        """Every rule that is broken, with the first rows of the studies that break it."""
        first = self.first_rows()
        parts = [
            f"{rule} ({_rows(first[studies])}; {len(studies)} studies)"
            for rule, studies in self.flaws.items()
        ]
        return "; ".join(parts)


def read_slice_table(path: str | os.PathLike, *, need: tuple[str, ...] = ()) -> SliceTable:
    """Read and check train.csv, or a table with the same columns.

    Parameters
    ----------
    path : path
        CSV with the three UID columns and ``pe_present_on_image``; study columns are taken where
        they are there, other columns are passed over.
    need : tuple of str
        Study columns that have to be there.

    Raises
    ------
    CTDataError
        With the numbers of the rows at fault: columns that are missing, empty cells, labels other
        than 0 and 1, a slice named twice with different content, a series in two studies.
        Contradicting labels and a study in two splits are told in ``flaws`` and ``leak`` instead.
    """
    path = Path(path)
    columns, split_column = _columns(path, need)
    table = _read(path, columns, split_column)
    labels = [name for name in columns if name not in ID_COLUMNS]
    row = np.arange(2, table.num_rows + 2)
    keep = _without_repeats(path.name, table, row)
    repeats = table.num_rows - len(keep)
    if repeats:
        table, row = table.take(pa.array(keep)), row[keep]
    studies, study = _ids(table, _STUDY)
    series, scan = _ids(table, _SERIES)
    values = {name: table.column(name).to_numpy() for name in labels}
    _refuse_shared_series(path.name, scan, study, row)
    splits, leak = None, None
    if split_column:
        splits, leak = _study_splits(path.name, table.column(split_column), study, row)
    result = SliceTable(
        name=path.name,
        studies=studies,
        series=series,
        study=study,
        scan=scan,
        sop=table.column(_SOP).combine_chunks(),
        image=values.pop(IMAGE_LABEL),
        row=row,
        exams={},
        splits=splits,
        leak=leak,
        repeats=repeats,
    )
    _add_exams(result, values)
    return result


def _columns(path: Path, need: tuple[str, ...]) -> tuple[list[str], str | None]:
    """The columns to read, and the one that gives splits."""
    if not path.is_file():
        raise CTDataError(f"the table {path} does not exist; name RSNA's train.csv with labels")
    with path.open(encoding="utf-8-sig") as stream:
        found = [name.strip().strip('"') for name in stream.readline().split(",")]
    wanted = (*ID_COLUMNS, IMAGE_LABEL, *need)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise CTDataError(
            f"{path.name}: no column {', '.join(map(repr, missing))}; found {', '.join(found)}"
        )
    known = [name for name in (*ID_COLUMNS, IMAGE_LABEL, *STUDY_LABELS) if name in found]
    split = next((name for name in ("split", "Split") if name in found), None)
    return known, split


def _read(path: Path, columns: list[str], split: str | None) -> pa.Table:
    from pyarrow import csv

    words = pa.dictionary(pa.int32(), pa.string())
    kinds: dict[str, pa.DataType] = {name: pa.int8() for name in columns}
    kinds |= {_STUDY: words, _SERIES: words, _SOP: pa.string()}
    if split:
        kinds[split] = words
    options = csv.ConvertOptions(
        column_types=kinds, include_columns=list(kinds), strings_can_be_null=True, null_values=[""]
    )
    try:
        table = csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as error:
        raise _bad_cell(path, columns, error) from error
    if not table.num_rows:
        raise CTDataError(f"{path.name} has no rows")
    for name in kinds:
        column = table.column(name)
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy()) + 2
            raise CTDataError(f"{path.name}: {name} is empty in {_rows(rows)}")
        if pa.types.is_integer(column.type):
            values = column.to_numpy()
            rows = np.flatnonzero((values != 0) & (values != 1)) + 2
            if len(rows):
                raise CTDataError(
                    f"{path.name}: {name} is {values[rows[0] - 2]} in {_rows(rows)}; labels are 0 "
                    "or 1"
                )
    return table


def _bad_cell(path: Path, columns: list[str], error: Exception) -> CTDataError:
    """Name the column and row that are no number; the table is read once more for it."""
    from pyarrow import csv

    text = dict.fromkeys(columns, pa.string())
    options = csv.ConvertOptions(column_types=text, include_columns=columns)
    try:
        table = csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid:
        return CTDataError(f"{path.name} cannot be read as CSV: {error}")
    for name in columns:
        if name in ID_COLUMNS:
            continue
        cells = table.column(name).to_pylist()
        rows = [place + 2 for place, cell in enumerate(cells) if cell not in ("0", "1", "")]
        if rows:
            return CTDataError(
                f"{path.name}: {name} is {cells[rows[0] - 2]!r} in {_rows(rows)}; labels are 0 or 1"
            )
    return CTDataError(f"{path.name} cannot be read as CSV: {error}")


def _ids(table: pa.Table, name: str) -> tuple[list[str], np.ndarray]:
    """The distinct ids in order of first appearance, and the place of each row's id."""
    column = table.column(name).unify_dictionaries().combine_chunks()
    codes, ids = column.indices.to_numpy(), column.dictionary.to_pylist()
    used, first = np.unique(codes, return_index=True)
    order = np.argsort(first)
    place = np.empty(len(ids), np.int32)
    place[used[order]] = np.arange(len(used), dtype=np.int32)
    return [ids[code] for code in used[order]], place[codes]


def _without_repeats(name: str, table: pa.Table, row: np.ndarray) -> np.ndarray:
    """Places of the rows that are kept: the first of rows that are the same throughout."""
    sop = table.column(_SOP)
    if pc.count_distinct(sop).as_py() == table.num_rows:
        return np.arange(table.num_rows)
    doubled = np.flatnonzero(sop.to_pandas().duplicated(keep=False).to_numpy())
    rows = table.take(pa.array(doubled)).to_pandas().astype(str)
    same = rows.duplicated(keep="first").to_numpy()
    kept = rows[~same]
    clash = kept[kept[_SOP].duplicated(keep=False)]
    if len(clash):
        places = doubled[clash.index.to_numpy()]
        raise CTDataError(
            f"{name}: {clash[_SOP].nunique()} slices are named more than once and the rows differ, "
            f"in {_rows(row[places])}"
        )
    keep = np.ones(table.num_rows, bool)
    keep[doubled[same]] = False
    return np.flatnonzero(keep)


def _refuse_shared_series(name: str, scan: np.ndarray, study: np.ndarray, row: np.ndarray) -> None:
    _, first = np.unique(scan, return_index=True)
    strange = np.flatnonzero(study != study[first][scan])
    if len(strange):
        raise CTDataError(f"{name}: a series is in two studies, {_rows(row[strange])}")


def _study_splits(
    name: str, column: pa.ChunkedArray, study: np.ndarray, row: np.ndarray
) -> tuple[list[str], str | None]:
    """The split of each study, and what is wrong when its slices are in several."""
    column = column.unify_dictionaries().combine_chunks()
    words = [SPLIT_NAMES.get(str(word).lower()) for word in column.dictionary.to_pylist()]
    codes = column.indices.to_numpy()
    if None in words:
        rows = row[np.isin(codes, [place for place, word in enumerate(words) if word is None])]
        raise CTDataError(f"{name}: unknown split in {_rows(rows)}; known are train, valid, test")
    _, first = np.unique(study, return_index=True)
    strange = np.flatnonzero(codes != codes[first][study])
    leak = None
    if len(strange):
        leak = (
            f"slices of one study are in several splits, in {len(np.unique(study[strange]))} of "
            f"{len(first)} studies; {_rows(row[strange])} differ from the study's first row. With "
            "slices of one patient in training and test every result is worthless: split by study"
        )
    return [words[code] for code in codes[first]], leak


def _add_exams(table: SliceTable, values: dict[str, np.ndarray]) -> None:
    """Study columns, one value a study, and the rules that they break."""
    _, first = np.unique(table.study, return_index=True)
    for name, column in values.items():
        strange = np.flatnonzero(column != column[first][table.study])
        if len(strange):
            table.flaws[f"{name} differs between rows of a study"] = np.unique(table.study[strange])
        table.exams[name] = column[first]
    broken = inconsistencies(table.positive, table.exams)
    table.flaws |= {rule: np.flatnonzero(studies) for rule, studies in broken.items()}


def _rows(numbers: Any) -> str:
    numbers = [int(number) for number in numbers]
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"
