"""What is known of the studies of a set, before any of them is read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CTDataError
from .marks import Marks, SliceMarks

__all__ = [
    "SPLITS",
    "SPLIT_NAMES",
    "LabelsTable",
    "SideTable",
    "SliceMarks",
    "StudyEntry",
    "data_folder",
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
        One a label column: 0.0, 1.0, or -1.0 (unknown); empty when the table has no label for the
        study.
    ranges : tuple of (int, int)
        Half-open ranges of positive slices, in the table's order.
    range_labels : tuple of int
        The label that each range shows, as its place among the label names; empty when there is
        only one label.
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
    range_labels: tuple[int, ...] = ()

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


def table_of_studies(data_dir: str | os.PathLike) -> LabelsTable:
    """Every scan directly inside ``data_dir`` (folder, .zip, .nii, .nii.gz), without labels.

    Raises
    ------
    CTDataError
        When there is none.
    """
    root = data_folder(data_dir)
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


def data_folder(data_dir: str | os.PathLike) -> Path:
    """The folder, which has to exist."""
    root = Path(data_dir)
    if not root.is_dir():
        raise CTDataError(f"the data folder {root} does not exist or is not a folder")
    return root
