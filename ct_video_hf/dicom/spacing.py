"""Fitting a uniform grid to positions along the slice normal; tolerances as in ``geometry``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["SpacingFit", "fit_spacing", "tolerance_mm"]

MIN_TOLERANCE_MM = 0.011  # three positions rounded to 0.01 mm, 0.005 each but twice in a row
MAX_TOLERANCE_MM = 0.05
TOLERANCE_FRACTION = 0.01
TENTHS_TOLERANCE_MM = 0.06
#: Noise in the direction cosines moves a projection by this from the tenths of its header.
TENTHS_NOISE_MM = 0.005


@dataclass
class SpacingFit:
    """How positions along the normal fit a uniform grid.

    ``index`` is each slice's place on the grid of spacing ``step``: 0, 1, 2, ... where the series
    is complete, with leaps where slices are missing, and None where no grid fits.
    """

    step: float
    tolerance: float
    uniform: bool
    index: np.ndarray | None
    tenths: bool = False


def tolerance_mm(step: float) -> float:
    """Tolerated distance along the normal from a grid of that spacing, mm."""
    return float(np.clip(TOLERANCE_FRACTION * step, MIN_TOLERANCE_MM, MAX_TOLERANCE_MM))


def in_whole_tenths(values: np.ndarray) -> bool:
    """Whether all values are written in tenths of a millimetre while their spacing is not."""
    tenths = values * 10
    step = (tenths[-1] - tenths[0]) / (len(tenths) - 1)
    if np.abs(tenths - np.round(tenths)).max() > 10 * TENTHS_NOISE_MM:
        return False
    # of complete series a whole step needs no such rounding; where slices are missing the mean
    # says nothing, and steps of one tenth more or less do
    gaps = np.diff(np.round(tenths))
    return bool(abs(step - round(step)) > 0.02 and len(set(gaps[gaps < 1.5 * np.median(gaps)])) > 1)


def fit_spacing(along: np.ndarray) -> SpacingFit:
    """Fit a uniform grid to sorted positions along the normal.

    Parameters
    ----------
    along : ndarray, shape (slices,)
        Ascending, mm, at least two.
    """
    count = len(along)
    gaps = np.diff(along)
    step = float((along[-1] - along[0]) / (count - 1))
    tolerance = tolerance_mm(step)
    whole = np.arange(count)
    if np.abs(along - along[0] - step * whole).max() <= tolerance:
        return SpacingFit(step, tolerance, True, whole)
    median = float(np.median(gaps))
    if in_whole_tenths(along):
        near = float(np.mean(gaps[gaps < 1.5 * median]))
        index = np.concatenate([[0], np.cumsum(np.maximum(np.round(gaps / near), 1).astype(int))])
        slope, start = np.polyfit(index, along, 1)
        if np.abs(along - start - slope * index).max() <= TENTHS_TOLERANCE_MM:
            step = float((along[-1] - along[0]) / index[-1])
            complete = bool(index[-1] == count - 1)
            return SpacingFit(step, 2 * TENTHS_TOLERANCE_MM, complete, index, tenths=True)
    smallest = float(np.mean(gaps[gaps <= 1.05 * gaps.min()]))
    for candidate in (median, smallest):
        if candidate < 0.3 * median:
            continue
        leaps = np.maximum(np.round(gaps / candidate), 1).astype(int)
        index = np.concatenate([[0], np.cumsum(leaps)])
        step = float((along[-1] - along[0]) / index[-1])
        tolerance = tolerance_mm(step)
        if np.abs(along - along[0] - step * index).max() <= tolerance:
            return SpacingFit(step, tolerance, False, index)
    return SpacingFit(median, tolerance_mm(median), False, None)
