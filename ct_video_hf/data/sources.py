"""Where scans come from, by name: each source gives a labels table and its provenance."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CTDataError
from .labels import LabelsTable, table_of_studies
from .labels_table import read_labels_table, read_labels_tables
from .prepare_options import PrepareOptions, PrepareSummary, Provenance
from .prepared import prepare_table
from .splits import read_split_file
from .table_layout import TableLayout

if TYPE_CHECKING:
    from .phantom import PhantomParameters

__all__ = ["GENERATED", "SOURCES", "Source", "open_source", "prepare"]


_COMMON = ("data_dir", "workers", "progress")


@dataclass(frozen=True)
class Source:
    """Studies that are ready to be prepared."""

    table: LabelsTable
    provenance: Provenance


def _folder(
    data_dir: str | os.PathLike,
    *,
    labels: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    label_columns: Sequence[str] | None = None,
    study_column: str = "study",
    find_by_name: bool = False,
    patient_pattern: str | None = None,
    split_pattern: str | None = None,
    empty_labels: str = "refuse",
    missing_scans: str = "refuse",
    licence: str | None = None,
    progress: bool,
    workers: int = 1,
) -> Source:
    """A user's scans: a labels table beside DICOM folders, zips or NIfTI files.

    Without ``labels``, ``labels.csv`` in the data folder is taken; without that, every scan
    directly inside the folder becomes a study without label. ``labels`` may be several tables, the
    other options are those of :class:`.table_layout.TableLayout`.
    """
    layout = TableLayout(
        study_column=study_column,
        label_columns=None if label_columns is None else tuple(label_columns),
        find_by_name=find_by_name,
        patient_pattern=patient_pattern,
        split_pattern=split_pattern,
        empty_labels=empty_labels,
        missing_scans=missing_scans,
    )
    beside = Path(data_dir) / "labels.csv"
    if labels is None and beside.is_file():
        labels = beside
    if labels is not None:
        paths = [labels] if isinstance(labels, str | os.PathLike) else list(labels)
        table = read_labels_tables(paths, data_dir, layout=layout)
    elif layout == TableLayout():
        table = table_of_studies(data_dir)
    else:
        raise CTDataError(
            "options that describe a labels table are given, but there is none: name it with "
            "labels (--labels)"
        )
    provenance = Provenance("folder")
    if licence:  # whoever states a licence has looked at it
        provenance = Provenance("folder", licence=licence, redistributable=True)
    return Source(table, provenance)


def _phantom(
    data_dir: str | os.PathLike,
    *,
    progress: bool,
    workers: int = 1,
    seed: int = 0,
    train: int = 240,
    validation: int = 40,
    test: int = 100,
    parameters: PhantomParameters | Mapping[str, Any] | None = None,
) -> Source:
    """Generated studies, written as DICOM by :func:`.phantom_files.write_phantom`."""
    from .phantom import PhantomParameters

    if isinstance(parameters, Mapping):
        parameters = PhantomParameters(**parameters)
    return _generated(
        "phantom",
        "Generated chest CT studies with nodules among vessels. A test object that says nothing "
        "about how a network fares on patients.",
        data_dir,
        train=train,
        validation=validation,
        test=test,
        seed=seed,
        parameters=parameters,
        workers=workers,
        progress=progress,
    )


def _generated(name: str, description: str, data_dir: str | os.PathLike, **how: Any) -> Source:
    """Generated studies; ``how`` are keywords of :func:`.phantom_files.write_phantom`."""
    from .phantom_files import write_phantom

    table = write_phantom(data_dir, **how)
    provenance = Provenance(
        name,
        description=description,
        licence="Generated data, free of any claim.",
        redistributable=True,
    )
    return Source(read_labels_table(table, data_dir), provenance)


def _rsna_pe(
    data_dir: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    target: str = "pe",
    contradictions: str = "refuse",
    indeterminate: str = "keep",
    missing_scans: str = "refuse",
    missing_slices: str = "reject",
    unlisted_slices: str = "reject",
    progress: bool,
    workers: int = 1,
) -> Source:
    """RSNA STR PE: train.csv and its DICOM tree, see :func:`.rsna.rsna_pe_table`."""
    from .rsna import RSNA_PROVENANCE, rsna_pe_table

    table = rsna_pe_table(
        data_dir,
        labels=labels,
        target=target,
        contradictions=contradictions,
        indeterminate=indeterminate,
        missing_scans=missing_scans,
        missing_slices=missing_slices,
        unlisted_slices=unlisted_slices,
    )
    return Source(table, RSNA_PROVENANCE)


def _phantom_video(
    data_dir: str | os.PathLike,
    *,
    progress: bool,
    workers: int = 1,
    seed: int = 0,
    train: int = 240,
    validation: int = 40,
    test: int = 40,
) -> Source:
    """Generated videos, stored as if they were scans; see :mod:`.phantom_video`."""
    from .phantom_video import VideoParameters

    return _generated(
        "phantom_video",
        "Generated videos of discs that approach or recede, stored as if their frames were slices. "
        "Nothing in them is CT.",
        data_dir,
        train=train,
        validation=validation,
        test=test,
        seed=seed,
        parameters=VideoParameters(),
        workers=workers,
        progress=progress,
    )


def _lidc_idri(
    data_dir: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    target: str = "nodule",
    rule: str | None = None,
    readers: int = 3,
    uncertain: str = "exclude",
    without_nodule: str = "negative",
    split_rule: str = "paper",
    missing_labels: str = "refuse",
    incomplete: str = "keep",
    progress: bool,
    workers: int = 1,
) -> Source:
    """A TCIA download of LIDC-IDRI in any layout; see :func:`.lidc.lidc_table`."""
    from .lidc.rules import LabelRule
    from .lidc.source import CITATION, LICENCE, lidc_table

    table, description = lidc_table(
        data_dir,
        labels=labels,
        rule=LabelRule(target, rule, readers, uncertain, without_nodule),
        split_rule=split_rule,
        missing_labels=missing_labels,
        incomplete=incomplete,
        progress=progress,
    )
    return Source(
        table,
        Provenance(
            "lidc_idri",
            description=description,
            licence=LICENCE,
            citation=CITATION,
            redistributable=True,
        ),
    )


#: name -> function of the data folder and the source's own options. A new data set is one more.
SOURCES: dict[str, Callable[..., Source]] = {
    "folder": _folder,
    "phantom": _phantom,
    "rsna_pe": _rsna_pe,
    "phantom_video": _phantom_video,
    "lidc_idri": _lidc_idri,
}


#: Sources that make their scans themselves: these need no data folder.
GENERATED = ("phantom", "phantom_video")


def open_source(
    name: str,
    data_dir: str | os.PathLike,
    *,
    workers: int = 1,
    progress: bool = True,
    **options: Any,
) -> Source:
    """The studies of a source; ``options`` are the source's own, ``workers`` make the phantom.

    Raises
    ------
    CTDataError
        For an unknown name or option, and whatever is wrong with the table.
    """
    if name not in SOURCES:
        raise CTDataError(f"there is no source {name!r}; known are {', '.join(SOURCES)}")
    source = SOURCES[name]
    known = [key for key in inspect.signature(source).parameters if key not in _COMMON]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise CTDataError(
            f"{name} has no option {', '.join(unknown)}; known are {', '.join(known)}"
        )
    return source(data_dir, workers=workers, progress=progress, **options)


def prepare(
    name: str,
    data_dir: str | os.PathLike,
    out: str | os.PathLike,
    *,
    options: PrepareOptions | None = None,
    split_file: str | os.PathLike | None = None,
    workers: int = 1,
    prune: bool = False,
    progress: bool = True,
    **source_options: Any,
) -> PrepareSummary:
    """Prepare a source into the folder ``out``; see :func:`.prepared.prepare_table`.

    Parameters
    ----------
    name : str
        A name in :data:`SOURCES`.
    data_dir, out : path
    options : PrepareOptions, optional
    split_file : path, optional
        CSV of study and split that replaces the drawn split.
    workers, prune, progress
        See :func:`.prepared.prepare_table`.
    **source_options
        Of the source, as its function in this module takes them.
    """
    source = open_source(name, data_dir, workers=workers, progress=progress, **source_options)
    return prepare_table(
        source.table,
        out,
        options,
        provenance=source.provenance,
        split_file=None if split_file is None else read_split_file(split_file),
        workers=workers,
        prune=prune,
        progress=progress,
    )
