"""A study's voxels as a set keeps them, and how they get there and back.

A volume is kept once, as little-endian uint16 holding HU + 1024 in (slice, row, column) order:
exact for every HU above -1025, quick to warp, and read without a copy. A set may instead keep one
HU window of it in 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import CTDataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

__all__ = ["HU_OFFSET", "StoredVolume", "stored_window", "to_window", "volume_view"]

#: What is added to HU in storage; storage 0 is -1024 HU, which is air.
HU_OFFSET = 1024

#: Planes are converted so many bytes at a time: little enough to stay in a core's cache until the
#: file has them.
_PART_BYTES = 256 * 1024


class StoredVolume:
    """A volume of HU in the form in which a set keeps it, made a few planes at a time.

    Each pass over a whole volume fetches it from main memory, which takes longer than the sums; a
    few planes stay in the cache from their conversion until the file has them.

    Parameters
    ----------
    hu : numpy.ndarray
        int16 (slice, row, column), C-contiguous; it is not changed.
    lowest : int
        A bound below which no HU lies; what is below -1024 HU is kept as -1024.
    window : (float, float), optional
        Centre and width in HU: keep that window in 8 bits.
    """

    def __init__(
        self, hu: np.ndarray, lowest: int, window: tuple[float, float] | None = None
    ) -> None:
        self._hu = np.ascontiguousarray(hu)
        self._lowest = lowest
        self._window = window
        self.dtype = np.dtype("<u2" if window is None else "u1")
        self.nbytes = self._hu.size * self.dtype.itemsize

    def parts(self) -> Iterator[np.ndarray]:
        """The planes in order, a few in one array; it is valid until the next."""
        step = max(1, _PART_BYTES // max(1, self._hu[0].nbytes))
        memory = np.empty((step, *self._hu.shape[1:]), self.dtype)
        table = None if self._window is None else _window_table(self._window)
        for start in range(0, len(self._hu), step):
            planes = self._hu[start : start + step]
            out = memory[: len(planes)]
            if table is not None:
                np.take(table, planes.view(np.uint16), out=out, mode="clip")
            else:
                self._raise(planes, out.view(np.int16))
            yield out

    def _raise(self, planes: np.ndarray, out: np.ndarray) -> None:
        if self._lowest < -HU_OFFSET:
            planes = np.maximum(planes, -HU_OFFSET, out=out)
        np.add(planes, HU_OFFSET, out=out)  # above 31743 HU it wraps, to the right bits of uint16

    def stand_in(self) -> memoryview:
        """As many bytes as the volume has in storage, of other content."""
        return memoryview(self._hu).cast("B")[: self.nbytes]


def _window_table(window: Sequence[float]) -> np.ndarray:
    """uint8 (65536,): what each int16 HU, read as uint16, becomes in a window."""
    centre, width = window
    steps = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.float64)
    return np.rint(np.clip((steps - (centre - width / 2)) / width, 0, 1) * 255).astype(np.uint8)


def to_window(hu: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """A HU window as uint8: 0 at its lower end and below, 255 at its upper end and above.

    Parameters
    ----------
    hu : numpy.ndarray
        int16 (slice, row, column).
    window : (float, float)
        Centre and width in HU.
    """
    return _window_table(window)[np.ascontiguousarray(hu).view(np.uint16)]


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
