"""Directions of planes: normals, their names, and the patient's axes."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np

__all__ = ["head_normal", "most_common", "patient_axes", "plane_name", "plane_normal"]

#: A plane is axial when its normal lies within this angle of the patient's long axis. A gantry
#: tilts by up to 30 degrees; coronal and sagittal planes stand at 90.
AXIAL_DEGREES = 45.0


def plane_normal(orientation: tuple[float, ...]) -> np.ndarray:
    """Unit normal of a plane, row cosine x column cosine (PS3.3 C.7.6.2.1.1)."""
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    return normal / length if length > 0 else normal


@lru_cache(maxsize=1024)  # the planes of a scan share a few orientations
def plane_name(orientation: tuple[float, ...] | None) -> str:
    """axial, coronal or sagittal by the axis nearest to the normal; unknown without one."""
    if orientation is None or not np.isfinite(orientation).all():
        return "unknown"
    normal = np.abs(plane_normal(orientation))
    if not normal.any():
        return "unknown"
    if normal[2] >= np.cos(np.deg2rad(AXIAL_DEGREES)) - 1e-9:
        return "axial"
    return "sagittal" if normal[0] >= normal[1] else "coronal"


def patient_axes(orientation: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Directions in which native rows and columns grow, and whether to swap them.

    Returns
    -------
    down, across : ndarray, shape (3,)
        Unit vectors along which the row index (the column cosines of PS3.3 C.7.6.2.1.1) and the
        column index (the row cosines) grow.
    transpose : bool
        True when the row index runs nearer to the left-right axis than to the front-back axis, as
        with a patient lying on the side and an image shown table down.
    """
    across = np.asarray(orientation[:3], dtype=float)
    down = np.asarray(orientation[3:], dtype=float)
    across = across / np.linalg.norm(across)
    down = down - (down @ across) * across  # removes what header rounding left of the other
    down = down / np.linalg.norm(down)
    transpose = abs(down[0]) + abs(across[1]) > abs(down[1]) + abs(across[0])
    return down, across, bool(transpose)


def most_common(values: list) -> tuple:
    """The value that occurs most, the first of them on a tie."""
    counts = Counter(values)
    return max(counts, key=counts.get)


def head_normal(orientation: tuple[float, ...]) -> np.ndarray:
    """The slice normal, turned so that it points to the head."""
    normal = plane_normal(orientation)
    return normal if normal[2] > 0 else -normal
