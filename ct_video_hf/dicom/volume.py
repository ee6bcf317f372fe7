"""The volume that reading a scan gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .report import GeometryReport

__all__ = ["AIR_HU", "CTVolume", "VolumeMemory"]

#: HU given to voxels that hold no measurement: pixel padding and everything outside the scan.
AIR_HU = -1024


@dataclass(eq=False, repr=False)
class CTVolume:
    """A chest CT in Hounsfield units on one grid with fixed patient axes.

    Attributes
    ----------
    hu : numpy.ndarray
        int16, shape (slice, row, column), C-contiguous. Slices ascend from feet to head, rows grow
        to the back (P) and columns to the left (L).
    affine : numpy.ndarray
        float64 (4, 4): maps the index (slice, row, column, 1) to the voxel's centre (x, y, z, 1)
        in mm, LPS.
    slice_ids : list of (str or None)
        One per slice: the SOP Instance UID, ``UID#n`` for frame n (1-based) of a multi-frame
        object, the index along the stored axis for NIfTI; None for a slice that policy "repair"
        put more than half a spacing from any measured one. These are identifiers: write them only
        where the user asked for them.
    source_index : list of (int or None)
        One per slice: its place in source order (InstanceNumber, then file name, then frame) among
        the images of the volume, from 0.
    report : GeometryReport
        What was found on the way, without identifiers.
    """

    hu: np.ndarray
    affine: np.ndarray
    slice_ids: list[str | None]
    source_index: list[int | None]
    report: GeometryReport

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(slice, row, column) in mm; the first is the distance between planes."""
        return _spacing(self.affine)

    def position(self, slice_index: float, row: float = 0.0, column: float = 0.0) -> np.ndarray:
        """Centre in mm (x, y, z), LPS, of a voxel index, which need not be whole."""
        return (self.affine @ np.array([slice_index, row, column, 1.0]))[:3]

    @property
    def z_mm(self) -> np.ndarray:
        """float64 (slices,): the z coordinate of the middle of each slice, mm."""
        centre_row = (self.hu.shape[1] - 1) / 2
        centre_column = (self.hu.shape[2] - 1) / 2
        return np.array(
            [self.position(index, centre_row, centre_column)[2] for index in range(len(self.hu))]
        )

    def __repr__(self) -> str:
        """Shape, spacing and findings; no identifier and no values."""
        spacing = "x".join(f"{length:.4g}" for length in self.spacing)
        codes = ", ".join(sorted(self.report.codes())) or "none"
        shape = "x".join(map(str, self.hu.shape))
        return f"CTVolume({shape} (slice, row, column), {spacing} mm, findings: {codes})"

    def __len__(self) -> int:
        return len(self.hu)


class VolumeMemory:
    """Memory for volumes that are read one after another, each used up before the next is read.

    New memory of a volume's size is taken from the system, cleared, and given back each time, which
    costs a tenth of the time of reading and far more on a virtual machine that is short of it.

    Parameters
    ----------
    most_bytes : int
        Larger volumes get memory of their own, so that a process keeps no more than this.
    """

    def __init__(self, most_bytes: int = 160 * 2**20) -> None:
        self._most = most_bytes
        self._held = np.empty(0, np.int16)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """int16 of a shape, whatever it holds; the array that was given before is overwritten."""
        count = math.prod(shape)
        if 2 * count > self._most:
            return np.empty(shape, np.int16)
        if count > self._held.size:
            self._held = np.empty(0, np.int16)  # never both at once
            self._held = np.empty(count, np.int16)
        return self._held[:count].reshape(shape)


def rounded_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """The spacing that an affine means, as reports show it: to a millionth of a mm."""
    slices, rows, columns = _spacing(affine)
    return round(slices, 6), round(rows, 6), round(columns, 6)


def _spacing(affine: np.ndarray) -> tuple[float, float, float]:
    step, row, column = (affine[:3, axis] for axis in range(3))
    normal = np.cross(column, row)
    normal = normal / np.linalg.norm(normal)
    return float(abs(step @ normal)), float(np.linalg.norm(row)), float(np.linalg.norm(column))
