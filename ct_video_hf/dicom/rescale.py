"""Stored values to HU: bits, sign, padding, inversion, rescale; and onto a smaller plane.

Source: DICOM PS3.5 8.1.1 (bits), PS3.3 C.7.5.1.1.2 (padding), C.11.1 (rescale).
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from .frame import Frame
from .resample import fit_plane
from .volume import AIR_HU

__all__ = ["PlaneStats", "Stored", "looks_like_hu", "plane_to_hu", "stored_values"]

_LOW, _HIGH = -32768, 32767
#: Where tissue lies. Padding announced in there is believed only at the image's edge.
_TISSUE = (-900, 3071)


class PlaneStats(NamedTuple):
    """What one plane held; minimum and maximum after padding became air."""

    hu_min: int
    hu_max: int
    padded: int = 0
    clipped: int = 0
    doubtful_padding: bool = False


class Stored(NamedTuple):
    """A plane of stored values, sign and unused bits put right, and its padding."""

    values: np.ndarray  # (row, column), integer
    low: int
    high: int
    padding: np.ndarray | None  # bool, None when there is none


def stored_values(cells: np.ndarray, frame: Frame, *, lossy_codec: bool = False) -> Stored:
    """Stored values from the cells of the allocated size.

    Parameters
    ----------
    cells : numpy.ndarray
        (row, column), unsigned, native byte order, of ``bits_allocated``.
    lossy_codec : bool
        Values beyond the stored bits are overshoot, to be clipped; otherwise the bits above the
        stored ones mean nothing.
    """
    lowest, highest = _limits(frame)
    values = cells.view(f"i{cells.itemsize}") if frame.signed else cells
    low, high = _extremes(values)
    padding = None
    if frame.padding_value is not None and not lowest <= frame.padding_value <= highest:
        padding = _padding_mask(values, low, high, frame)
    if low < lowest or high > highest:
        if lossy_codec:
            values = np.clip(values, lowest, highest)
        else:
            spare = cells.itemsize * 8 - frame.bits_stored
            values = np.right_shift(np.left_shift(values, spare), spare)
        low, high = _extremes(values)
    if padding is None and frame.padding_value is not None:
        padding = _padding_mask(values, low, high, frame)
    return Stored(values, low, high, padding)


def _extremes(values: np.ndarray) -> tuple[int, int]:
    if values.itemsize == 2 and values.size:  # one pass for both, if none is below 0
        low, high, _, _ = cv2.minMaxLoc(values.view(np.uint16))
        if values.dtype.kind == "u" or high < 0x8000:
            return int(low), int(high)
    return int(values.min()), int(values.max())


def _limits(frame: Frame) -> tuple[int, int]:
    """Least and greatest value of the stored bits."""
    if frame.signed:
        return -(1 << (frame.bits_stored - 1)), (1 << (frame.bits_stored - 1)) - 1
    return 0, (1 << frame.bits_stored) - 1


def _padding_mask(values: np.ndarray, low: int, high: int, frame: Frame) -> np.ndarray | None:
    """Voxels from PixelPaddingValue to PixelPaddingRangeLimit; None when there is none."""
    first = last = frame.padding_value
    if frame.padding_limit is not None:
        first, last = sorted((first, frame.padding_limit))
    if first > high or last < low:
        return None
    if first == last:
        mask = values == first
    else:
        mask = (values >= max(first, low)) & (values <= min(last, high))
    return mask if mask.any() else None


def plane_to_hu(
    stored: Stored,
    frame: Frame,
    target: np.ndarray,
    *,
    invert: bool = False,
    flip_rows: bool = False,
    flip_columns: bool = False,
    size: int | None = None,
) -> PlaneStats:
    """Write HU into ``target``, int16 (row, column) or (size, size).

    Padding becomes air. What lies beyond int16 is clipped. With ``size`` the plane is fitted as by
    :func:`ct_video_hf.dicom.resample.fit_in_plane`, without a full-size copy in HU where possible.
    """
    slope = 1.0 if frame.slope is None else frame.slope
    intercept = 0.0 if frame.intercept is None else frame.intercept
    values, low, high = stored.values, stored.low, stored.high
    if invert:
        total = sum(_limits(frame))
        values, low, high = total - values.astype(np.int64), total - high, total - low
    simple = slope == 1.0 and intercept == int(intercept) and values.itemsize == 2
    offset = int(intercept) if simple else 0
    if simple and stored.padding is None and low + offset >= _LOW and high + offset <= _HIGH:
        flips = (flip_rows, flip_columns)
        _shift_into(values, low, offset, target, flips, size)
        return PlaneStats(low + offset, high + offset)

    hu, clipped = _rescale(values, low, high, slope, intercept, stored.padding)
    padded, doubtful = 0, False
    if stored.padding is not None:
        mask = stored.padding
        if not invert:
            doubtful = _is_tissue(frame, slope, intercept)
            mask = _touching_edge(mask) if doubtful else mask
        hu[mask] = AIR_HU
        padded = int(np.count_nonzero(mask))
    stats = PlaneStats(int(hu.min()), int(hu.max()), padded, clipped, doubtful)
    _place(hu, target, (flip_rows, flip_columns), size)
    return stats


def _shift_into(
    values: np.ndarray,
    low: int,
    offset: int,
    target: np.ndarray,
    flips: tuple[bool, bool],
    size: int | None,
) -> None:
    """The common case: 16 bits, whole offset, nothing clipped. Sums wrap to the right result."""
    if size is None:
        np.add(_flipped(values.view(np.int16), flips), _wrapped(offset), out=target)
        return
    shift = offset - AIR_HU
    if low + shift < 0:
        values = np.maximum(values, values.dtype.type(-shift), out=_scratch(values, "clipped"))
    raised = values.view(np.uint16)
    late = 0
    if shift and low >= 0 and _is_halved(raised, size):
        late = shift
    elif shift:
        shift_by = _wrapped(shift).view(np.uint16)
        raised = np.add(raised, shift_by, out=_scratch(raised, "raised"))
    if any(flips):
        raised = np.ascontiguousarray(_flipped(raised, flips))
    fitted = fit_plane(raised, size, target.view(np.uint16))
    np.add(fitted.view(np.int16), _wrapped(late + AIR_HU), out=target)


def _is_halved(plane: np.ndarray, size: int) -> bool:
    """Whether fitting gives whole-number means of four: then adding may come after it."""
    return plane.shape == (2 * size, 2 * size)


_memory = threading.local()


def _scratch(like: np.ndarray, name: str) -> np.ndarray:
    """An array that this thread uses again for its next plane; new ones cost more than the sums."""
    found = getattr(_memory, name, None)
    if found is None or (found.shape, found.dtype) != (like.shape, like.dtype):
        found = np.empty(like.shape, like.dtype)
        setattr(_memory, name, found)
    return found


@lru_cache(maxsize=64)  # the planes of a scan share it
def _wrapped(offset: int) -> np.int16:
    """An offset modulo 2**16, as int16."""
    return np.uint16(offset & 0xFFFF).astype(np.int16)


def _flipped(plane: np.ndarray, flips: tuple[bool, bool]) -> np.ndarray:
    if flips[0]:
        plane = plane[::-1]
    return plane[:, ::-1] if flips[1] else plane


def _place(hu: np.ndarray, target: np.ndarray, flips: tuple[bool, bool], size: int | None) -> None:
    hu = _flipped(hu, flips)
    if size is None:
        target[...] = hu
        return
    raised = (np.maximum(hu, AIR_HU).astype(np.int32) - AIR_HU).astype(np.uint16)
    fitted = fit_plane(np.ascontiguousarray(raised), size)
    np.add(fitted.view(np.int16), np.int16(AIR_HU), out=target)


def _rescale(
    values: np.ndarray,
    low: int,
    high: int,
    slope: float,
    intercept: float,
    padding: np.ndarray | None,
) -> tuple[np.ndarray, int]:
    """HU as int16 and how many measured voxels were clipped. Whole numbers stay exact."""
    if slope == int(slope) and intercept == int(intercept):
        ends = [int(slope) * end + int(intercept) for end in (low, high)]
        wide = np.int32 if max(map(abs, [low, high, *ends])) < 1 << 30 else np.float64
        result = values.astype(wide) * wide(slope) + wide(intercept)
    else:
        result = values * np.float64(slope)
        result += intercept
        np.rint(result, out=result)
        ends = [slope * low + intercept, slope * high + intercept]
    if min(ends) >= _LOW and max(ends) <= _HIGH:
        return result.astype(np.int16), 0
    beyond = (result < _LOW) | (result > _HIGH)
    if padding is not None:
        beyond &= ~padding
    return np.clip(result, _LOW, _HIGH).astype(np.int16), int(np.count_nonzero(beyond))


def _is_tissue(frame: Frame, slope: float, intercept: float) -> bool:
    """Whether a single padding value is one that tissue takes as well."""
    first = frame.padding_value
    last = first if frame.padding_limit is None else frame.padding_limit
    if abs(last - first) > 1:
        return False  # a deliberate range
    return _TISSUE[0] <= slope * first + intercept <= _TISSUE[1]


def _touching_edge(mask: np.ndarray) -> np.ndarray:
    """The parts of a mask that touch the image's edge (4-connected)."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    kept = np.unique(edge)
    return np.isin(labels, kept[kept > 0])


def looks_like_hu(hu: np.ndarray) -> float:
    """The share of voxels between air and bone marrow, -1100 to 500 HU."""
    return float(np.mean((hu >= -1100) & (hu <= 500)))
