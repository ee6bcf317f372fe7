"""One row a study: the columns of a prepared set, and the file that holds a row.

A study's volume is kept once, as little-endian uint16 holding HU + 1024 in (slice, row, column)
order, in a ``large_binary`` column: exact for every HU above -1025, quick to warp, and read without
a copy. A set may instead keep one HU window of it in 8 bits (``window`` is then its centre and
width): half the size and quicker still, but for that one window only. The file is an Arrow IPC
stream, which is mapped into memory as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from xxhash import xxh3_128

from .errors import CTDataError
from .marks import UNKNOWN

if TYPE_CHECKING:
    from datasets import Dataset

    from ..dicom import CTVolume, GeometryReport
    from .marks import Marks

__all__ = [
    "HU_OFFSET",
    "SCHEMA",
    "VOLUME",
    "file_digest",
    "positive_slices",
    "slice_labels",
    "stored_window",
    "study_row",
    "to_window",
    "volume_view",
    "write_row",
]

#: What is added to HU in storage; storage 0 is -1024 HU, which is air.
HU_OFFSET = 1024

#: The one column that is not in the index of a set.
VOLUME = "volume"

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
    """The row of a study; the array of ``volume`` is used up, its memory becomes the row's.

    With ``window`` (centre, width in HU) the row holds that window in 8 bits.
    """
    known = [float(label) for label in labels]
    z_mm = volume.z_mm
    return {
        "study_id": study_id,
        "patient_hash": patient_hash,
        "split": split,
        "volume": _as_stored(volume.hu, volume.report.hu_min)
        if window is None
        else to_window(volume.hu, window),
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


def _as_stored(hu: np.ndarray, lowest: int) -> np.ndarray:
    """int16 HU as uint16 HU + 1024, in place; what is below -1024 HU becomes -1024."""
    for plane in hu:
        if lowest < -HU_OFFSET:
            np.maximum(plane, -HU_OFFSET, out=plane)
        np.add(plane, HU_OFFSET, out=plane)  # above 31743 HU it wraps, to the right bits of uint16
    return hu.view("<u2")


def to_window(hu: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """A HU window as uint8: 0 at its lower end and below, 255 at its upper end and above.

    Parameters
    ----------
    hu : numpy.ndarray
        int16 (slice, row, column).
    window : (float, float)
        Centre and width in HU.
    """
    centre, width = window
    steps = np.arange(-32768, 32768, dtype=np.float64)
    table = np.rint(np.clip((steps - (centre - width / 2)) / width, 0, 1) * 255).astype(np.uint8)
    out = np.empty(hu.shape, np.uint8)
    for plane, target in zip(hu, out, strict=True):
        np.take(table, plane.astype(np.int32) + 32768, out=target)
    return out


class _HashingSink:
    """What Arrow writes goes to a file and into its hash in one pass."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = xxh3_128()
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._hash.update(view)
        while len(view):  # a raw write may take less than it is given
            view = view[self._file.write(view) :]
        self.size += len(memoryview(data))
        return len(memoryview(data))

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._file.close()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def file_digest(path: str | os.PathLike) -> str:
    """XXH3 (128 bits) of a file: finds any accident that befell it, but is no seal."""
    found = xxh3_128()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 22):
            found.update(block)
    return found.hexdigest()


def write_row(row: dict[str, Any], path: Path) -> tuple[int, str]:
    """Write a row's file under a temporary name and move it into place.

    Returns
    -------
    (int, str)
        Size in bytes and :func:`file_digest` of the file.
    """
    columns = []
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if name == "volume":
            data = np.ascontiguousarray(row[name])
            ends = np.array([0, data.nbytes], np.int64)
            buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
            columns.append(pa.Array.from_buffers(kind, 1, buffers))
        else:
            columns.append(pa.array([row[name]], kind))
    batch = pa.record_batch(columns, schema=SCHEMA)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    sink = _HashingSink(temporary)
    try:
        with (
            pa.PythonFile(sink, mode="w") as stream,
            pa.ipc.new_stream(stream, SCHEMA) as writer,
        ):
            writer.write_batch(batch)
    finally:
        sink.close()
    os.replace(temporary, path)
    return sink.size, sink.hexdigest()


def stored_window(dataset: Dataset) -> tuple[float, float] | None:
    """The HU window (centre, width) that a set keeps in 8 bits; None where it keeps HU.

    Raises
    ------
    CTDataError
        When the studies of ``dataset`` are stored in different ways.
    """
    if "window" not in dataset.column_names:
        return None
    column = dataset.select_columns(["window"]).with_format("arrow")[:]["window"]
    found = {tuple(window) for window in column.to_pylist()}
    if len(found) > 1:
        raise CTDataError(
            f"studies are stored in {len(found)} ways (windows {sorted(found)}): one set each"
        )
    return next(iter(found), None) or None


def volume_view(
    column: pa.LargeBinaryArray, row: int, shape: Sequence[int], *, eight_bit: bool = False
) -> np.ndarray:
    """A stored volume (slice, row, column) as it lies in the file: a view, nothing is copied.

    Not through ``column[row]``: making an Arrow scalar copies the bytes of the whole study.

    Parameters
    ----------
    column : pyarrow.LargeBinaryArray
    row : int
    shape : sequence of int
    eight_bit : bool
        The set keeps one window in 8 bits (its ``window`` says which).

    Returns
    -------
    numpy.ndarray
        uint16 HU + 1024, or uint8 of a window.

    Raises
    ------
    CTDataError
        When the volume has another size, as one of the other kind has.
    """
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64, 2, offset=8 * (column.offset + row))
    count, found = int(np.prod(shape)), int(ends[1] - ends[0])
    kind = np.dtype("u1" if eight_bit else "<u2")
    if found == count and not eight_bit:
        raise CTDataError(
            "the set keeps one HU window in 8 bits (prepare --store-window), HU are needed here: "
            "prepare a set without it"
        )
    if found != kind.itemsize * count:
        raise CTDataError(
            f"a stored volume has {found} bytes; its shape {tuple(shape)} needs "
            f"{kind.itemsize * count}"
        )
    return np.frombuffer(data, kind, count, offset=int(ends[0])).reshape(tuple(shape))
