"""One row a study: the columns of a prepared set.

A study's volume is kept once, in a ``large_binary`` column: as HU + 1024, or (``window`` is then
its centre and width) one HU window of it in 8 bits, half the size and quicker still, but for that
one window only; see :mod:`.stored_volume`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .errors import CTDataError
from .marks import UNKNOWN
from .stored_volume import StoredVolume

if TYPE_CHECKING:
    from ..dicom import CTVolume, GeometryReport
    from .marks import Marks

__all__ = ["SCHEMA", "STUDY", "VOLUME", "positive_slices", "slice_labels", "study_row"]

#: The one column that is not in the index of a set.
VOLUME = "volume"
#: The one that names the row.
STUDY = "study_id"

SCHEMA = pa.schema(
    [
        ("study_id", pa.string()),
        ("patient_hash", pa.string()),
        ("split", pa.string()),
        ("volume", pa.large_binary()),
        ("window", pa.list_(pa.float64())),
        ("shape", pa.list_(pa.int32(), 3)),
        ("spacing", pa.list_(pa.float64(), 3)),
        ("z_mm", pa.list_(pa.float64())),
        ("slice_labels", pa.list_(pa.int8())),
        ("study_label", pa.int8()),
        ("labels", pa.list_(pa.float32())),
        ("weight", pa.float64()),
        ("slice_ids", pa.list_(pa.string())),
        ("report", pa.string()),
    ]
)


def slice_labels(
    slices: int,
    labels: Sequence[float],
    ranges: Sequence[tuple[int, int]],
    marks: Marks | None = None,
    slice_ids: Sequence[str | None] = (),
    z_mm: Sequence[float] | np.ndarray = (),
    range_labels: Sequence[int] = (),
) -> np.ndarray:
    """int8 labels of the slices: 1, 0, or -1 where nothing is known.

    The array is empty when nothing is known of single slices. With several labels it holds those of
    each slice one after the other, (slice, label) flattened; ``range_labels`` are the places of the
    labels that the ranges show.

    Raises
    ------
    CTDataError
        When a range leaves the study, marks name slices that it does not have, or marks contradict
        the study's label.
    """
    if marks is not None:
        return _marked_slices(labels, marks, slice_ids, z_mm)
    beyond = [stop for _, stop in ranges if stop > slices]
    if beyond:
        raise CTDataError(
            f"the labels table marks slices up to {max(beyond) - 1}, but the study has {slices} "
            "(0 is the slice nearest to the feet); was the table made for another series?"
        )
    if not ranges and (len(labels) != 1 or labels[0] != 0):
        return np.empty(0, np.int8)
    owners = range_labels or [0] * len(ranges)
    table = _absent(slices, labels)
    table[:, list(set(owners))] = 0
    for (start, stop), owner in zip(ranges, owners, strict=True):
        table[start:stop, owner] = 1
    return table.reshape(-1)


def _absent(slices: int, labels: Sequence[float]) -> np.ndarray:
    """int8 (slices, labels): 0 where the study does not have the label, else -1 (unknown)."""
    study = np.where(np.asarray(labels) == 0, 0, UNKNOWN).astype(np.int8)
    return np.repeat(study[None], slices, axis=0)


def _marked_slices(
    labels: Sequence[float],
    marks: Marks,
    slice_ids: Sequence[str | None],
    z_mm: Sequence[float] | np.ndarray,
) -> np.ndarray:
    """Marks brought to the slices; of the other labels only the absence in the study is known."""
    if marks.label >= len(labels):
        raise CTDataError(
            f"slices are marked for label {marks.label}, but the study has {len(labels)} label(s)"
        )
    table = _absent(len(slice_ids), labels)
    resolved = marks.resolve(slice_ids, z_mm)
    if labels[marks.label] == 0 and (resolved == 1).any():
        raise CTDataError(
            f"{int((resolved == 1).sum())} slices are marked positive in a study whose label is 0"
        )
    table[:, marks.label] = resolved
    return table.reshape(-1)


def positive_slices(row: dict[str, Any]) -> int | None:
    """Slices of a row with any label 1; None when nothing is known of single slices."""
    marks = row["slice_labels"]
    if not len(marks):
        return None
    return int((marks.reshape(row["shape"][0], -1) == 1).any(axis=1).sum())


def _published_report(report: GeometryReport) -> str:
    """The report as JSON; findings lose their text and files, whose names may be UIDs."""
    data = report.to_dict()
    data["findings"] = [
        {key: value for key, value in finding.items() if key not in ("message", "files")}
        for finding in data["findings"]
    ]
    return json.dumps(data, sort_keys=True)


def study_row(
    volume: CTVolume,
    *,
    study_id: str,
    patient_hash: str,
    split: str,
    labels: Sequence[float],
    ranges: Sequence[tuple[int, int]],
    range_labels: Sequence[int] = (),
    marks: Marks | None = None,
    finding: int | None = None,
    weight: float = 1.0,
    slice_ids: bool = False,
    window: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """The row of a study; it holds on to the array of ``volume``.

    With ``window`` (centre, width in HU) the row holds that window in 8 bits.
    """
    known = [float(label) for label in labels]
    z_mm = volume.z_mm
    return {
        "study_id": study_id,
        "patient_hash": patient_hash,
        "split": split,
        "volume": StoredVolume(volume.hu, volume.report.hu_min, window),
        "window": [] if window is None else [float(value) for value in window],
        "shape": list(volume.hu.shape),
        "spacing": list(volume.spacing),
        "z_mm": z_mm.tolist(),
        "slice_labels": slice_labels(
            len(volume.hu), known, ranges, marks, volume.slice_ids, z_mm, range_labels
        ),
        "study_label": _study_label(known if finding is None else [known[finding]]),
        "labels": known,
        "weight": float(weight),
        "slice_ids": [name or "" for name in volume.slice_ids] if slice_ids else [],
        "report": _published_report(volume.report),
    }


def _study_label(labels: Sequence[float]) -> int:
    """1 when any label is 1, else -1 when one is unknown or there is none, else 0."""
    if any(label == 1 for label in labels):
        return 1
    return 0 if labels and min(labels) == 0 else UNKNOWN
