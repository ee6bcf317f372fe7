"""CTVolume to prepared sets: labels, splits, clips, augmentation, sampling.

Names are imported when first used: preparing needs neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "AUGMENTATIONS": "transforms",
    "Augmentation": "transforms",
    "CLASS_MASS": "sampling",
    "CTClipDataset": "clips",
    "CTDataError": "errors",
    "CTClipStream": "streaming",
    "CTPreparedSet": "builders",
    "CTSources": "builders",
    "ClipIndex": "clips",
    "ClipTransform": "transforms",
    "LabelsTable": "labels",
    "PrepareOptions": "prepare_options",
    "PrepareSummary": "prepare_options",
    "Provenance": "prepare_options",
    "SOURCES": "sources",
    "SliceMarks": "marks",
    "StudyEntry": "labels",
    "build_clip_index": "clips",
    "clip_sampling_weights": "sampling",
    "estimate_set": "estimate",
    "load_ct_dataset": "builders",
    "load_prepared": "loading",
    "load_side_table": "side_tables",
    "nested_fractions": "splits",
    "prepare": "sources",
    "prepare_table": "prepared",
    "read_labels_table": "labels_table",
    "read_manifest": "manifest",
    "read_split_file": "splits",
    "refuse_public": "sharing",
    "split_patients": "splits",
    "stored_window": "stored_volume",
    "summarize_set": "loading",
    "verify_set": "loading",
    "write_split_file": "splits",
}

__all__ = [
    "AUGMENTATIONS",
    "CLASS_MASS",
    "SOURCES",
    "Augmentation",
    "CTClipDataset",
    "CTClipStream",
    "CTDataError",
    "CTPreparedSet",
    "CTSources",
    "ClipIndex",
    "ClipTransform",
    "LabelsTable",
    "PrepareOptions",
    "PrepareSummary",
    "Provenance",
    "SliceMarks",
    "StudyEntry",
    "build_clip_index",
    "clip_sampling_weights",
    "estimate_set",
    "load_ct_dataset",
    "load_prepared",
    "load_side_table",
    "nested_fractions",
    "prepare",
    "prepare_table",
    "read_labels_table",
    "read_manifest",
    "read_split_file",
    "refuse_public",
    "split_patients",
    "stored_window",
    "summarize_set",
    "verify_set",
    "write_split_file",
]

if TYPE_CHECKING:
    from .builders import CTPreparedSet, CTSources, load_ct_dataset
    from .clips import ClipIndex, CTClipDataset, build_clip_index
    from .errors import CTDataError
    from .estimate import estimate_set
    from .labels import LabelsTable, StudyEntry
    from .labels_table import read_labels_table
    from .loading import load_prepared, summarize_set, verify_set
    from .manifest import read_manifest
    from .marks import SliceMarks
    from .prepare_options import PrepareOptions, PrepareSummary, Provenance
    from .prepared import prepare_table
    from .sampling import CLASS_MASS, clip_sampling_weights
    from .sharing import refuse_public
    from .side_tables import load_side_table
    from .sources import SOURCES, prepare
    from .splits import nested_fractions, read_split_file, split_patients, write_split_file
    from .stored_volume import stored_window
    from .streaming import CTClipStream
    from .transforms import AUGMENTATIONS, Augmentation, ClipTransform


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
