"""NIfTI files (.nii, .nii.gz) to the same volume as the DICOM they came from.

The affine (NIfTI-1: sform before qform, RAS, units of xyzt_units) becomes LPS in mm; stored axes,
whatever their order and direction, are permuted and flipped to (slice, row, column) with slices to
the head, rows to the back and columns to the left. Values are scaled by scl_slope and scl_inter and
rounded to whole HU. NIfTI declares no padding: where the lowest value lies below -2048 HU, which
stored CT values do not reach, and fills at least a hundredth of the volume, it is padding that the
DICOM header declared (-2000 stored is -3024 HU) and becomes air, as it does there. Padding at -2048
or above is left as it is on both roads unless a DICOM header declares it.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CTReadError
from .findings import Collector
from .limits import Limits
from .planes import fitted_affine
from .plausibility import LOWEST_STORED_HU, check_values, common_floor
from .repair import unshear
from .report import GeometryReport, Policy
from .resample import fit_in_plane
from .volume import AIR_HU, CTVolume, rounded_spacing

__all__ = ["StoredGrid", "is_nifti", "read_nifti", "stored_grid"]

_UNITS_MM = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
#: Length of a NIfTI-2 header, as it reads in either byte order.
_NIFTI2_SIZES = (540, int.from_bytes((540).to_bytes(4, "big"), "little"))
#: qform and sform may differ by this at the volume's corners: qform holds float32 quaternions.
FORM_TOLERANCE_MM = 0.1
#: Cosine of the angle between two axes above which the grid counts as sheared (0.1 degrees).
SHEAR_COSINE = 1.7e-3
OBLIQUE_DEGREES = 1.0
FEW_SLICES = 8


@dataclass(frozen=True)
class StoredGrid:
    """How a NIfTI file stores its volume.

    Attributes
    ----------
    shape : tuple of int
        Of the stored axes.
    order, flips : list
        Which stored axis is slice, row and column of the volume that :func:`read_nifti` gives, and
        whether it runs the other way.
    affine : numpy.ndarray
        (4, 4): index (slice, row, column, 1) of that volume to mm, LPS.
    header : nibabel.Nifti1Header
        The file's own.
    """

    shape: tuple[int, int, int]
    order: list[int]
    flips: list[bool]
    affine: np.ndarray
    header: Any


def stored_grid(path: Path) -> StoredGrid:
    """How a NIfTI file stores its volume; only its header is read.

    Raises
    ------
    CTReadError
        As :func:`read_nifti`.
    """
    collector = Collector("warn")
    image = _load(path)
    shape = _shape(image, path)
    affine = _lps_affine(image, path, collector)
    order, flips = _axes(affine[:3, :3], path, collector)
    affine, _ = _reordered(affine, shape, order, flips)
    return StoredGrid(shape, order, flips, affine, image.header)


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI; a folder may bear such a name and hold DICOM."""
    return path.name.lower().endswith((".nii", ".nii.gz")) and not path.is_dir()


def read_nifti(
    path: Path, policy: Policy, *, in_plane: int | None = None, limits: Limits | None = None
) -> CTVolume:
    """Read a NIfTI file; arguments and result as for :func:`ct_video_hf.read_ct`.

    Raises
    ------
    CTReadError
        A damaged file, several volumes, colour or complex values, NaN, a singular affine, or what
        the policy refuses.
    """
    collector = Collector(policy)
    image = _load(path)
    shape = _shape(image, path)
    (limits or Limits()).check_volume(shape, path.name)
    affine = _lps_affine(image, path, collector)
    order, flips = _axes(affine[:3, :3], path, collector)
    collector.stop_on_errors()
    hu = _values(image, shape, order, flips, path, collector)
    affine, stored = _reordered(affine, shape, order, flips)
    if len(hu) < 2:
        collector.fail("single_slice", f"{path.name} holds a single slice", [path.name])
    affine, hu = _shear(affine, hu, path, collector)
    oblique = _oblique(affine, collector)
    if len(hu) < FEW_SLICES:
        collector.add("too_few_slices", f"only {len(hu)} slices: a volume, but hardly a study")
    floor = common_floor(hu, below=LOWEST_STORED_HU)
    if floor is not None:
        places = hu == floor
        hu[places] = AIR_HU
        collector.add(
            "pixel_padding",
            f"{np.count_nonzero(places)} voxels of {floor} HU, which no tissue has, were taken as "
            f"padding and set to air",
        )
    check_values(hu, collector)
    hu_min, hu_max = int(hu.min()), int(hu.max())
    report = GeometryReport(
        slices=hu.shape[0],
        rows=hu.shape[1],
        columns=hu.shape[2],
        spacing_mm=rounded_spacing(affine),
        orientation="axial",
        modality=None,
        transfer_syntaxes=[],
        hu_min=hu_min,
        hu_max=hu_max,
        policy=policy,
        findings=collector.findings,
        source="nifti",
        oblique_degrees=round(oblique, 4),
    )
    if in_plane is not None:
        affine = fitted_affine(affine, hu.shape[1], hu.shape[2], in_plane)
        hu = fit_in_plane(hu, in_plane)
    return CTVolume(
        hu=np.ascontiguousarray(hu),
        affine=affine,
        slice_ids=[str(place) for place in stored],
        source_index=list(stored),
        report=report,
    )


def _load(path: Path):
    import nibabel

    try:
        return _open(path)
    except FileNotFoundError:
        raise CTReadError(f"{path.name} does not exist", code="path_not_found") from None
    except PermissionError:
        raise CTReadError(
            f"{path.name} may not be read: no permission", code="no_permission"
        ) from None
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
    ) as error:
        raise CTReadError(
            f"{path.name} is no readable NIfTI file ({type(error).__name__}); .nii has to be plain "
            f"NIfTI-1 or -2 and .nii.gz the same compressed by gzip",
            code="unreadable_file",
        ) from None


def _shape(image, path: Path) -> tuple[int, int, int]:
    shape = image.shape
    if len(shape) > 3 and set(shape[3:]) == {1}:
        shape = shape[:3]
    if len(shape) == 2:
        raise CTReadError(f"{path.name} holds a single plane, no volume", code="single_slice")
    if len(shape) != 3:
        raise CTReadError(
            f"{path.name} has the shape {tuple(image.shape)}: several volumes or none; write the "
            f"one that you mean to a file of its own",
            code="several_volumes",
        )
    if min(shape) < 1:
        raise CTReadError(
            f"{path.name} has the shape {tuple(shape)}: its header is damaged",
            code="no_pixel_data",
        )
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise CTReadError(
            f"{path.name} holds values of type {dtype}; CT is one real number a voxel",
            code="not_ct",
        )
    return tuple(int(length) for length in shape)


def _lps_affine(image, path: Path, collector: Collector) -> np.ndarray:
    header = image.header
    has_forms = "sform_code" in header
    sform = header.get_sform(coded=True)[0] if has_forms else None
    qform = header.get_qform(coded=True)[0] if has_forms else None
    if sform is None and qform is None:
        collector.add(
            "no_nifti_orientation",
            f"{path.name} says neither by qform nor by sform where it lies; left and right cannot "
            f"be told",
            [path.name],
        )
    if sform is not None and qform is not None:
        ends = np.array([np.zeros(3), np.array(image.shape[:3]) - 1])
        ends = np.column_stack([ends, np.ones(2)])
        distance = float(np.linalg.norm(ends @ (sform - qform).T, axis=1).max())
        if distance > FORM_TOLERANCE_MM:
            collector.add(
                "nifti_forms_disagree",
                f"qform and sform of {path.name} put one corner {distance:.3f} mm apart",
                [path.name],
                expected_mm=0.0,
                found_mm=distance,
            )
    units = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "mm"
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, dtype=float)
    affine[:3] *= _UNITS_MM[units]
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() < 1e-6:
        raise CTReadError(f"{path.name} has an unusable affine", code="bad_affine")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 0.1:
        raise CTReadError(f"{path.name} has axes in one plane", code="bad_affine")
    return affine


def _axes(linear: np.ndarray, path: Path, collector: Collector) -> tuple[list[int], list[bool]]:
    """Which stored axis becomes slice, row and column, and which of them are flipped."""
    from nibabel.orientations import io_orientation

    padded = np.eye(4)
    padded[:3, :3] = linear  # LPS, so that +1 already means left, back, head
    orientation = io_orientation(padded)
    order = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in (2, 1, 0)]
    flips = [bool(orientation[axis, 1] < 0) for axis in order]
    return order, flips


def _reordered(
    affine: np.ndarray, shape: tuple[int, int, int], order: list[int], flips: list[bool]
) -> tuple[np.ndarray, range]:
    """The affine of (slice, row, column), and each slice's index along the stored axis."""
    result = np.eye(4)
    origin = affine[:3, 3].copy()
    for place, (axis, flip) in enumerate(zip(order, flips, strict=True)):
        step = affine[:3, axis]
        if flip:
            origin = origin + (shape[axis] - 1) * step
            step = -step
        result[:3, place] = step
    result[:3, 3] = origin
    stored = range(shape[order[0]])
    return result, stored[::-1] if flips[0] else stored


def _open(path: Path):
    """The image; a compressed file stays open, so that its end can be reached and checked."""
    import nibabel

    if not path.name.lower().endswith(".gz"):
        return nibabel.load(path)
    stream = gzip.open(path)  # noqa: SIM115 (closed by _check_end)
    try:
        size = int.from_bytes(stream.read(4), "little")
        stream.seek(0)
        kind = nibabel.Nifti2Image if size in _NIFTI2_SIZES else nibabel.Nifti1Image
        return kind.from_stream(stream)
    except BaseException:
        stream.close()
        raise


def _check_end(image) -> None:
    """Read a compressed file to its end, where gzip compares the checksum; and close it.

    Raises OSError, EOFError or zlib.error for damaged data.
    """
    stream = image.file_map["image"].fileobj
    if stream is None:  # not compressed
        return
    with stream:
        while stream.read(1 << 20):
            pass


def _values(
    image,
    shape: tuple[int, int, int],
    order: list[int],
    flips: list[bool],
    path: Path,
    collector: Collector,
) -> np.ndarray:
    """int16 HU (slice, row, column), C-contiguous."""
    try:
        raw = np.asanyarray(image.dataobj.get_unscaled()).reshape(shape)
        _check_end(image)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise CTReadError(
            f"{path.name} is shorter than its header says, or damaged ({type(error).__name__})",
            code="truncated_file",
        ) from None
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    raw = raw.transpose(order)
    raw = raw[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    if raw.dtype == np.int16 and slope == 1 and intercept == 0:
        return np.ascontiguousarray(raw, dtype=np.int16)
    hu = np.empty(raw.shape, np.int16)
    bounds = np.iinfo(np.int16)
    clipped = 0
    for plane, target in zip(raw, hu, strict=True):
        values = plane.astype(np.float64) * slope + intercept
        if not np.isfinite(values).all():
            raise CTReadError(
                f"{path.name} holds {np.count_nonzero(~np.isfinite(values))} values in one slice "
                f"that are no numbers (NaN or infinite); replace them, for instance with -1024",
                code="not_a_number",
            )
        values = np.rint(values)
        clipped += int(np.count_nonzero((values < bounds.min) | (values > bounds.max)))
        target[...] = np.clip(values, bounds.min, bounds.max)
    if clipped:
        collector.add("clipped_values", f"{clipped} voxels beyond int16 were clipped")
    return hu


def _shear(
    affine: np.ndarray, hu: np.ndarray, path: Path, collector: Collector
) -> tuple[np.ndarray, np.ndarray]:
    """Axes that are not at right angles: a gantry tilt that the converter kept."""
    units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    step, row, column = units.T
    if abs(row @ column) > SHEAR_COSINE:
        raise CTReadError(
            f"{path.name} has rows and columns that are not at right angles", code="bad_affine"
        )
    normal = np.cross(column, row)
    cosine = float(np.clip(abs(step @ normal) / np.linalg.norm(normal), -1, 1))
    if cosine >= np.cos(SHEAR_COSINE):
        return affine, hu
    collector.add(
        "gantry_tilt",
        f"the slices of {path.name} are stacked at {np.rad2deg(np.arccos(cosine)):.2f} degrees to "
        f"their normal",
        [path.name],
    )
    collector.stop_on_errors()
    return unshear(affine, hu) if collector.policy == "repair" else (affine, hu)


def _oblique(affine: np.ndarray, collector: Collector) -> float:
    row = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    column = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    cosines = np.array([np.cross(column, row)[2], row[1], column[0]])
    degrees = float(np.rad2deg(np.arccos(np.clip(cosines, -1, 1))).max())
    if degrees > OBLIQUE_DEGREES:
        collector.add(
            "oblique",
            f"the grid stands up to {degrees:.2f} degrees oblique to the patient's axes; the "
            f"affine keeps that",
        )
    return degrees
