"""In-plane resampling: every plane of a volume onto a square of a given size.

OpenCV's int16 paths lose precision in some versions, so planes are resampled as unsigned 16-bit
numbers, HU + 1024.
"""

from __future__ import annotations

import cv2
import numpy as np

from .volume import AIR_HU

__all__ = ["fit_in_plane", "fit_plane", "to_hu", "to_uint16"]

_OFFSET = -AIR_HU
_MAX_HU = int(np.iinfo(np.int16).max)


def to_uint16(hu: np.ndarray) -> np.ndarray:
    """HU + 1024 as uint16, clipped to 0..65535; fractions are rounded."""
    shifted = hu.astype(np.int32) if hu.dtype.kind in "iub" else np.rint(hu)
    shifted = shifted + _OFFSET
    return np.clip(shifted, 0, 65535).astype(np.uint16)


def to_hu(values: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_uint16`, as int16 (saturating at 32767 HU)."""
    return np.minimum(values.astype(np.int32) - _OFFSET, _MAX_HU).astype(np.int16)


def fit_plane(plane: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """One uint16 plane (row, column) of HU + 1024 onto (size, size).

    A plane that is not square is first padded to one with air, centred (the odd line goes to the
    end). Shrinking averages areas, enlarging interpolates linearly. What has to be computed goes
    to ``out`` (contiguous) where it is given; a plane that fits already is returned as it is.
    """
    rows, columns = plane.shape
    side = max(rows, columns)
    if rows != columns:
        square = np.zeros((side, side), np.uint16)  # 0 is air
        top, left = (side - rows) // 2, (side - columns) // 2
        square[top : top + rows, left : left + columns] = plane
        plane = square
    if side == size:
        return plane
    method = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return cv2.resize(plane, (size, size), dst=out, interpolation=method)


def fit_in_plane(hu: np.ndarray, size: int) -> np.ndarray:
    """Planes of HU onto ``size`` x ``size``.

    Parameters
    ----------
    hu : numpy.ndarray
        (row, column) or (slice, row, column); int16, or another number type.
    size : int
        Rows and columns of the result.

    Returns
    -------
    numpy.ndarray
        Of the same number of dimensions and the same dtype. HU below -1024 become -1024.

    Raises
    ------
    ValueError
        For a size below 1, or an array of another number of dimensions.

    See Also
    --------
    fit_plane : padding and interpolation.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if hu.ndim not in (2, 3) or 0 in hu.shape:
        raise ValueError(f"expected (slice, row, column) or (row, column), got shape {hu.shape}")
    planes = hu if hu.ndim == 3 else hu[None]
    result = np.empty((len(planes), size, size), hu.dtype)
    for plane, target in zip(planes, result, strict=True):
        target[...] = to_hu(fit_plane(to_uint16(plane), size))
    return result if hu.ndim == 3 else result[0]
