"""RSNA STR PE as a source: train.csv and the DICOM tree ``train/<Study>/<Series>/<SOP>.dcm``.

=============  ====================================================================================
target         labels of a study
=============  ====================================================================================
pe             one, ``pe``: is PE seen on any image; each slice has its own (the paper's task)
official       ``pe_present_on_image`` and the nine exam labels of the challenge's metric, with its
               weights; slices have their own image label, and an exam label holds for every clip
all            ``pe_present_on_image`` and the thirteen study columns of train.csv
=============  ====================================================================================

Every series is a scan of its own. The published set has one a study; where a study has several,
they are named ``Study/Series`` and stay in one split. The set names no patients.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .errors import CTDataError
from .labels import LabelsTable, StudyEntry
from .marks import UNKNOWN, SliceMarks
from .prepare_options import Provenance
from .rsna_labels import EXAM_WEIGHTS, IMAGE_LABEL, IMAGE_WEIGHT, OFFICIAL_LABELS, STUDY_LABELS
from .rsna_table import SliceTable, read_slice_table

__all__ = ["RSNA_PROVENANCE", "TARGETS", "rsna_pe_table"]

logger = logging.getLogger(__name__)

RSNA_PROVENANCE = Provenance(
    "rsna_pe",
    description="CT pulmonary angiography studies of the RSNA STR Pulmonary Embolism Detection "
    "challenge of 2020, labelled slice by slice and by study.",
    licence="RSNA's terms of the challenge: non-commercial use and academic research only; the "
    "images, and clips made from them, must not be redistributed.",
    citation="Colak E, Kitamura FC, Hobbs SB, et al. The RSNA Pulmonary Embolism CT Dataset. "
    "Radiology: Artificial Intelligence 2021;3(2):e200254. doi:10.1148/ryai.2021200254",
    redistributable=False,
)

#: Label names of each target.
TARGETS = {
    "pe": ("pe",),
    "official": OFFICIAL_LABELS,
    "all": (IMAGE_LABEL, *STUDY_LABELS),
}

_CHOICES = {
    "target": tuple(TARGETS),
    "contradictions": ("refuse", "keep", "drop"),
    "indeterminate": ("keep", "drop", "unknown"),
    "missing_scans": ("refuse", "drop"),
    "missing_slices": ("reject", "ignore"),
    "unlisted_slices": ("reject", "unknown", "negative"),
}
_OTHERS = {"reject": None, "unknown": UNKNOWN, "negative": 0}
_ABSENT = {"reject": "refuse", "ignore": "ignore"}


def rsna_pe_table(
    data_dir: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    target: str = "pe",
    contradictions: str = "refuse",
    indeterminate: str = "keep",
    missing_scans: str = "refuse",
    missing_slices: str = "reject",
    unlisted_slices: str = "reject",
) -> LabelsTable:
    """The studies of RSNA STR PE.

    Parameters
    ----------
    data_dir : path
        The folder of ``train/`` and ``train.csv``, or ``train/`` itself.
    labels : path, optional
        The table; ``train.csv`` in or beside ``data_dir`` when None.
    target : {"pe", "official", "all"}
        See the module.
    contradictions : {"refuse", "keep", "drop"}
        Studies whose labels break a rule of :func:`.rsna_labels.inconsistencies`, or whose study
        columns differ between rows: refuse the table, keep them (study columns as in the first
        row), or leave them out. The message or a warning names the rows.
    indeterminate : {"keep", "drop", "unknown"}
        Studies that could not be read for PE: keep their labels (no image is positive), leave them
        out, or mark every other label unknown (-1).
    missing_scans : {"refuse", "drop"}
        Studies of the table without a folder.
    missing_slices : {"reject", "ignore"}
        Slices of the table that the scan does not have: the study becomes a reject, or their labels
        are left aside.
    unlisted_slices : {"reject", "unknown", "negative"}
        Slices of the scan that the table does not have: the study becomes a reject, or they get
        this label.

    Returns
    -------
    LabelsTable
        Splits are drawn from all studies of train.csv in the order of their first row, whatever
        the options leave out; a column ``split`` of the table wins.

    Raises
    ------
    CTDataError
        For unknown options and whatever is wrong with table or folder.
    """
    chosen = {
        "target": target,
        "contradictions": contradictions,
        "indeterminate": indeterminate,
        "missing_scans": missing_scans,
        "missing_slices": missing_slices,
        "unlisted_slices": unlisted_slices,
    }
    for name, value in chosen.items():
        if value not in _CHOICES[name]:
            raise CTDataError(f"{name} is {value!r}; known are {', '.join(_CHOICES[name])}")
    root, path = _places(Path(data_dir), None if labels is None else Path(labels))
    need = [name for name in TARGETS[target] if name in STUDY_LABELS]
    if indeterminate != "keep":
        need.append("indeterminate")
    table = read_slice_table(path, need=tuple(need))
    left_out = _contradictory(table, contradictions) | _missing(table, root, missing_scans)
    if indeterminate == "drop":
        left_out |= table.exams["indeterminate"] == 1
    if left_out.all():
        raise CTDataError(f"{table.name}: the options leave out all {len(left_out)} studies")

    def marks(values: dict[str, int]) -> SliceMarks:
        return SliceMarks.from_mapping(
            values, others=_OTHERS[unlisted_slices], absent=_ABSENT[missing_slices]
        )

    unknown = table.exams["indeterminate"] == 1 if indeterminate == "unknown" else None
    return LabelsTable(
        _entries(table, root, target, left_out, unknown, marks),
        TARGETS[target],
        label_weights=(IMAGE_WEIGHT, *EXAM_WEIGHTS.values()) if target == "official" else (),
        finding=None if target == "pe" else 0,
        draw_from=tuple(table.studies),
        parameters={name: value for name, value in chosen.items() if name != "missing_scans"},
    )


def _places(data_dir: Path, labels: Path | None) -> tuple[Path, Path]:
    """The folder of the studies, and the table."""
    if not data_dir.is_dir():
        raise CTDataError(f"the data folder {data_dir} does not exist or is not a folder")
    root = data_dir / "train" if (data_dir / "train").is_dir() else data_dir
    if labels is not None:
        return root, labels
    for folder in (data_dir, root.parent):
        if (folder / "train.csv").is_file():
            return root, folder / "train.csv"
    raise CTDataError(
        f"there is no train.csv in {data_dir} or beside it; name the table with labels (--labels)"
    )


def _contradictory(table: SliceTable, handling: str) -> np.ndarray:
    """bool (studies,): left out for contradicting labels; refuses, or says what is kept."""
    wrong = [table.leak] if table.leak else []
    if table.flaws and handling == "refuse":
        wrong.append(
            f"labels contradict each other: {table.describe_flaws()}. Correct the table, or say "
            "contradictions keep or drop (--contradictions) to take or leave such studies"
        )
    if wrong:
        raise CTDataError(f"{table.name}: {'. Also, '.join(wrong)}")
    mask = np.zeros(len(table.studies), bool)
    for studies in table.flaws.values():
        mask[studies] = True
    if mask.any():
        verb = "left out" if handling == "drop" else "kept"
        logger.warning(
            "%s: %d studies with contradicting labels are %s: %s",
            table.name,
            mask.sum(),
            verb,
            table.describe_flaws(),
        )
    if table.repeats:
        logger.warning("%s: %d rows repeat another and count once", table.name, table.repeats)
    return mask if handling == "drop" else np.zeros_like(mask)


def _missing(table: SliceTable, root: Path, handling: str) -> np.ndarray:
    """bool (studies,): without a folder. One listing answers for all studies."""
    there = {entry.name for entry in os.scandir(root)}
    mask = np.array([study not in there for study in table.studies])
    if mask.any():
        said = f"{mask.sum()} of {len(mask)} studies of {table.name} are not in {root.name}"
        if handling == "refuse":
            raise CTDataError(
                f"{said}: complete the download, or say missing_scans drop (--missing-scans) to "
                "prepare what is there"
            )
        logger.warning("%s and are left out", said)
    unlisted = len(there - set(table.studies) - {"train.csv"})
    if unlisted:
        logger.warning("%d entries of %s are not in %s", unlisted, root.name, table.name)
    return mask


def _entries(
    table: SliceTable,
    root: Path,
    target: str,
    left_out: np.ndarray,
    unknown: np.ndarray | None,
    marks: Callable[[dict[str, int]], SliceMarks],
) -> tuple[StudyEntry, ...]:
    scans = list(table.scans())
    several = np.bincount([study for study, _, _ in scans], minlength=len(left_out)) > 1
    exams = np.stack(
        [table.positive.astype(np.int8)]
        + [table.exams[name] for name in TARGETS[target] if name in table.exams],
        axis=1,
    ).astype(float)
    if unknown is not None:
        exams[unknown] = UNKNOWN
        if "indeterminate" in TARGETS[target]:
            exams[unknown, TARGETS[target].index("indeterminate")] = 1.0
    entries = []
    for study, series, rows in scans:
        if left_out[study]:
            continue
        name, folder = table.studies[study], table.series[series]
        image, labels = table.image[rows], exams[study].copy()
        if several[study] and labels[0] == 1:
            labels[0] = float(image.any())  # PE may be seen in one of the series only
        if unknown is not None and unknown[study]:
            image = np.full(len(rows), UNKNOWN, np.int8)
        names = table.sop.take(rows).to_pylist()
        entries.append(
            StudyEntry(
                study=f"{name}/{folder}" if several[study] else name,
                path=root / name / folder,
                labels=tuple(labels.tolist()),
                patient=name,
                split=table.splits[study] if table.splits else None,
                row=int(table.row[rows[0]]),
                marks=marks(dict(zip(names, image.tolist(), strict=True))),
            )
        )
    return tuple(entries)
