"""A saliency map as NIfTI that lies over its scan in a viewer."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..dicom.nifti import SHEAR_COSINE, StoredGrid, stored_grid
from ..errors import CTVideoError
from ..files import replacing

if TYPE_CHECKING:
    from .saliency import SaliencyMap

__all__ = ["lies_on", "write_nifti"]

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Corners of two grids that are the same differ by less (headers hold float32).
_SAME_MM = 0.01


def write_nifti(
    saliency: SaliencyMap, path: str | os.PathLike, like: str | os.PathLike | None = None
) -> Path:
    """Write a map as float32 NIfTI-1.

    Parameters
    ----------
    saliency : SaliencyMap
    path : path-like
        Ending in .nii or .nii.gz. It replaces an older file only when it is complete.
    like : path-like, optional
        The NIfTI file that the scan came from: the map gets its shape, the order and direction of
        its axes, and its qform and sform. Without it the axes are (column, row, slice) of the
        volume and the affine is the volume's, so that the map lies over the scan in any viewer
        that goes by patient coordinates.

    Returns
    -------
    pathlib.Path
        ``path``. The file holds no identifier; nothing of the other file's header but its geometry.

    Raises
    ------
    CTVideoError
        Another ending, or a file that is on another grid than the map.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise CTVideoError(f"{path.name}: a NIfTI file ends in .nii or .nii.gz.")
    layout = _volumes_own(saliency) if like is None else _as_stored(saliency, Path(like))
    with replacing(path) as partial, _stream(partial) as stream:
        stream.write(_header(layout))
        for plane in _planes(saliency, layout):
            stream.write(np.ascontiguousarray(plane, dtype="<f4").tobytes())
    return path


def lies_on(saliency: SaliencyMap, path: str | os.PathLike) -> bool:
    """Whether a map is on the grid of a NIfTI file, which a repaired scan is not."""
    return _same_grid(saliency, stored_grid(Path(path)))


@dataclass(frozen=True)
class _Layout:
    """Stored shape and forms; which axis of the volume each stored axis is, and its direction."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    flipped: tuple[bool, ...]
    sform: tuple[np.ndarray | None, int]
    qform: tuple[np.ndarray | None, int]
    units: str


def _volumes_own(saliency: SaliencyMap) -> _Layout:
    affine = _TO_RAS @ saliency.affine[:, [2, 1, 0, 3]]
    units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    sheared = np.abs(units.T @ units - np.eye(3)).max() > SHEAR_COSINE  # then it has no quaternion
    qform = (None, 0) if sheared else (affine, 1)
    return _Layout(saliency.shape[::-1], (2, 1, 0), (False,) * 3, (affine, 1), qform, "mm")


def _as_stored(saliency: SaliencyMap, like: Path) -> _Layout:
    stored = stored_grid(like)
    if not _same_grid(saliency, stored):
        shape = "x".join(str(length) for length in saliency.shape)
        raise CTVideoError(
            f"The map ({shape} slices, rows, columns) is not on the grid of {like.name}. Give the "
            "file that the scan was read from, or none where the scan was repaired or resized."
        )
    axes = tuple(stored.order.index(axis) for axis in range(3))
    flipped = tuple(stored.flips[axis] for axis in axes)
    header = stored.header
    sform, scode = header.get_sform(coded=True)
    qform, qcode = header.get_qform(coded=True)
    if not scode and not qcode:
        sform, scode = header.get_best_affine(), 0
    return _Layout(
        shape=stored.shape,
        axes=axes,
        flipped=flipped,
        sform=(sform, int(scode)),
        qform=(qform, int(qcode)),
        units=header.get_xyzt_units()[0],
    )


def _same_grid(saliency: SaliencyMap, stored: StoredGrid) -> bool:
    if tuple(stored.shape[axis] for axis in stored.order) != saliency.shape:
        return False
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(saliency.shape) - 1)
    corners = np.column_stack([corners, np.ones(8)])
    return bool(np.abs(corners @ (stored.affine - saliency.affine).T).max() < _SAME_MM)


def _header(layout: _Layout) -> bytes:
    import nibabel

    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(layout.shape)
    best = layout.sform[0] if layout.sform[0] is not None else layout.qform[0]
    header.set_zooms(np.linalg.norm(best[:3, :3], axis=0))
    if layout.qform[1]:
        header.set_qform(*layout.qform)
    header.set_sform(*layout.sform)
    header.set_xyzt_units(layout.units)
    header["cal_min"], header["cal_max"] = 0.0, 1.0
    header["descrip"] = b"ct_video_hf saliency, not for clinical use"
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)  # no extensions


def _planes(saliency: SaliencyMap, layout: _Layout) -> Iterator[np.ndarray]:
    """What is stored, the first stored axis being fastest: planes of (second, first) axis."""
    first, second, third = layout.axes
    turn = [slice(None, None, -1 if flip else 1) for flip in layout.flipped]
    if third != 0:  # stored slices are no slices of the scan: the whole map, once
        whole = saliency.values.transpose(third, second, first)
        yield from whole[turn[2], turn[1], turn[0]]
        return
    for index in range(saliency.shape[0])[turn[2]]:
        plane = saliency.plane(index)
        plane = plane if second == 1 else plane.T
        yield plane[turn[1], turn[0]]


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO | Any]:
    with path.open("wb") as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", compresslevel=3, fileobj=file, mtime=0) as packed:
            yield packed
