"""How a labels table is laid out, where it is not laid out as ours is, and where its scans lie."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CTDataError

if TYPE_CHECKING:
    import pandas

__all__ = ["ALL_OTHERS", "OTHER_COLUMNS", "TableLayout", "find_by_name", "read_frame"]

#: Columns that are no labels.
OTHER_COLUMNS = (
    "study",
    "slice_start",
    "slice_stop",
    "slice_label",
    "patient",
    "split",
    "weight",
)

#: In place of label columns: every column that is none of the others.
ALL_OTHERS = "*"

_READERS = "CSV (.csv), Parquet (.parquet) or JSON lines (.jsonl)"


@dataclass(frozen=True)
class TableLayout:
    r"""Where a table differs from ours.

    Attributes
    ----------
    study_column : str
        The column that names the scans.
    label_columns : tuple of str or None
        The label columns; None: ``label`` alone. ``("*",)``: every column that is no other.
    find_by_name : bool
        The scans are named by their file or folder name, wherever below the data folder they lie.
    patient_pattern, split_pattern : str or None
        Regular expression with one group that finds the patient, or the split, in the name of a
        study: ``^((?:train|valid)_\d+)_`` and ``^(train|valid)_`` for CT-RATE.
    empty_labels : {"refuse", "unknown"}
        Empty label cells: refuse the table, or take them for unknown (-1).
    missing_scans : {"refuse", "drop"}
        Studies without a scan: refuse the table, or leave them out.
    """

    study_column: str = "study"
    label_columns: tuple[str, ...] | None = None
    find_by_name: bool = False
    patient_pattern: str | None = None
    split_pattern: str | None = None
    empty_labels: str = "refuse"
    missing_scans: str = "refuse"

    def __post_init__(self) -> None:
        _known("empty_labels", self.empty_labels, ("refuse", "unknown"))
        _known("missing_scans", self.missing_scans, ("refuse", "drop"))
        for name in ("patient_pattern", "split_pattern"):
            pattern = getattr(self, name)
            try:
                groups = 1 if pattern is None else re.compile(pattern).groups
            except re.error as error:
                raise CTDataError(f"{name} {pattern!r} is no regular expression: {error}") from None
            if groups != 1:
                raise CTDataError(
                    f"{name} {pattern!r} has {groups} groups; one in parentheses is needed, "
                    "others are written (?:...)"
                )

    def arranged(self, frame: pandas.DataFrame, table: str) -> tuple[pandas.DataFrame, list[str]]:
        """The table with our column names and columns from patterns, and its label columns.

        Raises
        ------
        CTDataError
            For columns that are missing, unknown, named twice, or given twice.
        """
        frame = self._with_study(frame, table)
        found = list(frame.columns)
        names = self._label_columns(found, table)
        _check_columns(table, found, names)
        for column in ("patient", "split"):
            pattern = getattr(self, f"{column}_pattern")
            if pattern is not None:
                if column in found:
                    raise CTDataError(
                        f"{table} has a column {column!r} and {column}_pattern is given: one or "
                        "the other"
                    )
                frame[column] = _captured(table, frame["study"], pattern, f"{column}_pattern")
        return frame, names

    def _with_study(self, frame: pandas.DataFrame, table: str) -> pandas.DataFrame:
        found = list(frame.columns)
        if self.study_column not in found:
            raise CTDataError(
                f"{table}: no column {self.study_column!r}; found {', '.join(map(repr, found))}. "
                "Columns are separated by commas; another column that names the scans is given "
                "with study_column (--study-column)."
            )
        if self.study_column != "study" and "study" in found:
            raise CTDataError(
                f"{table} has a column 'study' beside {self.study_column!r}: rename it, or leave "
                "study_column out"
            )
        return frame.rename(columns={self.study_column: "study"})

    def _label_columns(self, found: Sequence[str], table: str) -> list[str]:
        if self.label_columns is None:
            return ["label"] if "label" in found else []
        if self.label_columns == (ALL_OTHERS,):
            return [name for name in found if name not in OTHER_COLUMNS]
        names = list(self.label_columns)
        clash = sorted(set(names) & set(OTHER_COLUMNS))
        if clash or len(set(names)) != len(names):
            raise CTDataError(f"label columns {names}: names repeat or clash with {clash}")
        missing = [name for name in names if name not in found]
        if missing:
            raise CTDataError(f"{table}: no label column {', '.join(map(repr, missing))}")
        return names


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise CTDataError(f"{name} is {value!r}; known are {', '.join(known)}")


def _check_columns(table: str, found: list[str], labels: list[str]) -> None:
    unknown = [name for name in found if name not in (*OTHER_COLUMNS, *labels)]
    if unknown:
        raise CTDataError(
            f"{table}: unknown column {', '.join(map(repr, unknown))}; known are "
            f"{', '.join((*OTHER_COLUMNS, *(labels or ['label'])))}. Name the label columns of a "
            "multi-label table with label_columns (--label-columns)."
        )
    if ("slice_start" in found) != ("slice_stop" in found):
        raise CTDataError(f"{table}: slice_start and slice_stop go together; one is missing")
    ranges = "slice_start" in found
    if ranges and len(labels) > 1 and "slice_label" not in found:
        raise CTDataError(
            f"{table}: with {len(labels)} labels, a column slice_label has to say which of them "
            "each slice range shows"
        )
    if "slice_label" in found and not (ranges and labels):
        raise CTDataError(
            f"{table}: slice_label says which label a slice range shows; slice_start, slice_stop "
            "and label columns go with it"
        )


def _captured(table: str, studies: pandas.Series, pattern: str, name: str) -> list[str]:
    compiled = re.compile(pattern)
    found = []
    for number, study in enumerate(studies, start=2):
        match = compiled.search(str(study))
        if match is None or not match.group(1):
            raise CTDataError(
                f"{table} row {number}: {name} {pattern!r} finds nothing in {study!r}"
            )
        found.append(match.group(1))
    return found


def read_frame(path: Path) -> pandas.DataFrame:
    """The table with its cells as they are written: no guessing of types.

    Raises
    ------
    CTDataError
        When it cannot be read, has no rows, two columns of one name, or a row of more cells than
        there are columns.
    """
    import pandas as pd

    if not path.is_file():
        raise CTDataError(f"the labels table {path} does not exist or is no file")
    kind = path.suffix.lower()
    try:
        if kind == ".csv":
            frame = _csv_frame(path)
        elif kind == ".parquet":
            frame = pd.read_parquet(path)
        elif kind == ".jsonl":
            frame = _json_frame(path)
        else:
            raise CTDataError(f"the labels table {path.name} is not {_READERS}")
    except CTDataError:
        raise
    except UnicodeDecodeError as error:
        raise CTDataError(
            f"the labels table {path.name} is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from error
    except (ValueError, OSError, csv.Error) as error:  # pandas' parsers raise ValueErrors
        raise CTDataError(f"the labels table {path.name} cannot be read: {error}") from error
    if frame.empty:
        raise CTDataError(f"the labels table {path.name} has no rows")
    return frame


def _csv_frame(path: Path) -> pandas.DataFrame:
    """Not by pandas, which renames the second of two equal columns and shifts long rows."""
    import pandas as pd

    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = [row for row in csv.reader(stream) if row]
    names, cells = (rows[0], rows[1:]) if rows else ([], [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CTDataError(f"{path.name} has several columns {', '.join(map(repr, twice))}")
    for number, row in enumerate(cells, start=2):
        if any(row[len(names) :]):
            raise CTDataError(
                f"{path.name} row {number} has {len(row)} cells, and there are {len(names)} columns"
            )
        row[:] = [*row, *[""] * (len(names) - len(row))][: len(names)]
    return pd.DataFrame(cells, columns=names, dtype=str)


def _json_frame(path: Path) -> pandas.DataFrame:
    import pandas as pd

    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        row = json.loads(line) if line.strip() else {}
        if not isinstance(row, dict):
            raise CTDataError(f"{path.name} line {number} is no JSON object")
        rows += [row] if row else []
    return pd.DataFrame(rows, dtype=object)


def find_by_name(root: Path, names: Iterable[str]) -> dict[str, Path]:
    """Where files and folders of these names lie below ``root``; one walk finds them all.

    Raises
    ------
    CTDataError
        When a name is there more than once.
    """
    wanted = set(names)
    paths = sorted(name for name in wanted if "/" in name)
    if paths:
        raise CTDataError(
            f"{len(paths)} studies of the table are paths, first {paths[0]!r}; names without "
            "folders are found by name (find_by_name)"
        )
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(root):
        hits = wanted.intersection(files) | wanted.intersection(folders)
        for name in sorted(hits):
            place = Path(folder) / name
            if name in found:
                raise CTDataError(
                    f"{name!r} is in the data folder more than once, as "
                    f"{found[name].relative_to(root)} and {place.relative_to(root)}: name a folder "
                    "that holds one of them, or give paths in the table"
                )
            found[name] = place
        folders[:] = [name for name in folders if name not in hits]  # a scan's own files
    return found
