"""Writing CT series as DICOM: deterministic, fast, and with every defect that a test may want."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CTVideoError
from . import syntax as uids
from .encode import FileEncoder, Keyword, merge, replace_file
from .encode_pixels import StoredPixels

__all__ = ["uid_from", "write_series"]

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def uid_from(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 B.2) that depends on ``parts`` and on nothing else."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def write_series(
    hu: np.ndarray,
    folder: str | os.PathLike[str],
    *,
    key: str = "series",
    spacing: Sequence[float] = (2.5, 0.7, 0.7),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    orientation: Sequence[float] | Sequence[Sequence[float]] = AXIAL,
    positions: Sequence[Sequence[float]] | np.ndarray | None = None,
    transfer_syntax: str = uids.EXPLICIT_LITTLE,
    signed: bool = True,
    bits_allocated: int = 16,
    bits_stored: int = 16,
    high_bit: int | None = None,
    spare_bits: int = 0,
    slope: float = 1.0,
    intercept: float = -1024.0,
    photometric: str = "MONOCHROME2",
    padding_mask: np.ndarray | None = None,
    padding_value: int | None = None,
    padding_vr: str | None = None,
    fragments: int = 1,
    offset_table: str | None = "basic",
    patient_id: str | None = "ANON",
    study_key: str | None = None,
    file_names: Sequence[str] | None = None,
    shuffle: bool = False,
    instance_numbers: Sequence[int] | None = None,
    extra: Mapping[Keyword, Any] | None = None,
    slice_extra: Sequence[Mapping[Keyword, Any]] | None = None,
    missing: Collection[str] = (),
    preamble: bool = True,
    meta: bool = True,
) -> list[Path]:
    """Write a volume as one DICOM CT file a slice.

    The same arguments give the same bytes. The defaults are a clean axial series.

    Parameters
    ----------
    hu : numpy.ndarray
        (slice, row, column) whole HU; slices ascend along the normal of ``orientation`` (feet to
        head with the default).
    folder : path
        Made when it does not exist.
    key : str
        Every UID derives from it: another key makes another series.
    spacing : (slice, row, column) in mm
    origin : (x, y, z) in mm
        Centre of the first voxel of the first slice, LPS.
    orientation : six floats, or six for each slice
        Cosines along a row, then along a column (ImageOrientationPatient).
    positions : (slices, 3), optional
        ImagePositionPatient of each slice, instead of origin and spacing: gaps, tilt, duplicates.
    transfer_syntax : str
        UID; uncompressed (implicit, explicit, big endian, deflated), RLE, JPEG lossless, JPEG-LS,
        JPEG 2000 lossless, HTJ2K lossless. See :mod:`ct_video_hf.dicom.syntax`.
    signed, bits_allocated, bits_stored, high_bit
        Pixel Representation and bits; high_bit is ``bits_stored - 1`` unless given.
    spare_bits : int
        Pattern written into bits that hold no value, as old overlays do.
    slope, intercept : float
        ``stored = (HU - intercept) / slope``.
    photometric : {"MONOCHROME2", "MONOCHROME1"}
        MONOCHROME1 also turns the stored values round (greatest to least).
    padding_mask, padding_value, padding_vr
        Voxels (bool, shape of ``hu``) stored as ``padding_value``, which is announced as
        PixelPaddingValue; ``padding_vr`` "US" or "SS" announces it with that sign.
    fragments, offset_table
        Encapsulation, see :func:`ct_video_hf.dicom.encode_pixels.encapsulate`.
    patient_id : str or None
        None leaves PatientID out.
    study_key : str, optional
        Series with the same one belong to one study; ``key`` unless given.
    file_names : sequence of str, optional
        One a slice, may hold folders; ``IM0000.dcm`` and so on by default.
    shuffle : bool
        Give the default names in an order that has nothing to do with position.
    instance_numbers : sequence of int, optional
        1, 2, ... unless given.
    extra, slice_extra : mapping of keyword or (group, element, VR) to value
        Further or other attributes, for all slices and slice by slice. The value of a sequence is a
        list of such mappings.
    missing : collection of str
        Keywords of attributes to leave out, in the end.
    preamble, meta : bool
        Write the 128 bytes and "DICM"; write the file meta information.

    Returns
    -------
    list of pathlib.Path
        In the order of the slices.

    Raises
    ------
    CTVideoError
        Values that do not fit the bits, an unknown keyword, a syntax that cannot be written.
    """
    hu = as_volume(hu)
    pixels = StoredPixels(
        signed, bits_allocated, bits_stored,
        bits_stored - 1 if high_bit is None else high_bit,
        slope, intercept, photometric, spare_bits,
    )  # fmt: skip
    stored = _stored_values(hu, pixels, padding_mask, padding_value)
    orientations = per_slice(orientation, len(hu))
    if positions is None:
        positions = slice_positions(orientations[0], origin, spacing[0], len(hu))
    numbers = list(instance_numbers or range(1, len(hu) + 1))
    names = list(file_names or _default_names(len(hu), key if shuffle else None))
    _check_lengths(len(hu), positions=positions, instance_numbers=numbers, file_names=names)

    common = image_attributes(hu.shape[1:], pixels, spacing)
    common |= identity(key, study_key or key, patient_id)
    common |= _padding(padding_value, padding_vr, signed)
    common |= dict(extra or {})
    encoder = FileEncoder(transfer_syntax, signed, preamble, meta, frozenset(missing))
    fixed = encoder.keyed(common)

    paths = [Path(folder) / name for name in names]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        own = {
            "SOPInstanceUID": uid_from(key, "slice", index),
            "InstanceNumber": numbers[index],
            "ImagePositionPatient": [float(v) for v in positions[index]],
            "ImageOrientationPatient": [float(v) for v in orientations[index]],
        }
        if slice_extra is not None:
            own |= slice_extra[index]
        frame = encoder.pixel_data([stored[index]], bits_stored, fragments, offset_table)
        replace_file(path, encoder.file(merge(fixed, encoder.keyed(own)), frame))
    return paths


def as_volume(hu: np.ndarray) -> np.ndarray:
    hu = np.asarray(hu)
    if hu.ndim != 3 or 0 in hu.shape:
        raise CTVideoError(f"expected HU of shape (slice, row, column), got {hu.shape}")
    return hu


def _stored_values(
    hu: np.ndarray, pixels: StoredPixels, mask: np.ndarray | None, padding: int | None
) -> list[np.ndarray]:
    """One stored plane a slice. Padding is written as it stands, outside slope and intercept."""
    if (mask is None) and padding is not None:
        mask = np.zeros(hu.shape, bool)
    planes = []
    for index, plane in enumerate(hu):
        if mask is not None and padding is None:
            raise CTVideoError("padding_mask needs a padding_value")
        if mask is None:
            planes.append(pixels.place(pixels.store(plane)))
            continue
        safe = np.where(mask[index], 0, plane)
        values = pixels.store(safe)
        values[mask[index]] = padding
        planes.append(pixels.place(values))
    return planes


def image_attributes(
    shape: tuple[int, ...], pixels: StoredPixels, spacing: Sequence[float]
) -> dict[Keyword, Any]:
    return {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": _CT_IMAGE,
        "Modality": "CT",
        "Manufacturer": "ct_video_hf",
        "BodyPartExamined": "CHEST",
        "SliceThickness": spacing[0],
        "KVP": 120,
        "ConvolutionKernel": "STANDARD",
        "PatientPosition": "HFS",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": pixels.photometric,
        "Rows": shape[0],
        "Columns": shape[1],
        "PixelSpacing": [spacing[1], spacing[2]],
        "BitsAllocated": pixels.bits_allocated,
        "BitsStored": pixels.bits_stored,
        "HighBit": pixels.high_bit,
        "PixelRepresentation": int(pixels.signed),
        "WindowCenter": -600,
        "WindowWidth": 1500,
        "RescaleIntercept": pixels.intercept,
        "RescaleSlope": pixels.slope,
        "RescaleType": "HU",
    }


def identity(key: str, study_key: str, patient_id: str | None) -> dict[Keyword, Any]:
    result: dict[Keyword, Any] = {
        "StudyInstanceUID": uid_from(study_key, "study"),
        "SeriesInstanceUID": uid_from(key, "series"),
        "FrameOfReferenceUID": uid_from(study_key, "frame of reference"),
        "SeriesNumber": 1,
        "AcquisitionNumber": 1,
    }
    if patient_id is not None:
        result["PatientID"] = patient_id
    return result


def _padding(value: int | None, vr: str | None, signed: bool) -> dict[Keyword, Any]:
    if value is None:
        return {}
    vr = vr or ("SS" if signed else "US")
    if vr == "US":
        value &= 0xFFFF
    elif value > 0x7FFF:
        value -= 0x10000
    return {(0x0028, 0x0120, vr): value}


def per_slice(orientation: Any, slices: int) -> np.ndarray:
    axes = np.asarray(orientation, float)
    if axes.shape == (6,):
        return np.broadcast_to(axes, (slices, 6))
    if axes.shape != (slices, 6):
        raise CTVideoError(f"orientation must be 6 numbers or ({slices}, 6), got {axes.shape}")
    return axes


def slice_positions(
    orientation: np.ndarray, origin: Sequence[float], step: float, slices: int
) -> np.ndarray:
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(origin, float) + np.arange(slices)[:, None] * step * normal


def _default_names(slices: int, shuffle_key: str | None) -> list[str]:
    names = [f"IM{index:04d}.dcm" for index in range(slices)]
    if shuffle_key is not None:
        seed = int.from_bytes(hashlib.sha256(shuffle_key.encode()).digest()[:8], "big")
        np.random.default_rng(seed).shuffle(names)
    return names


def _check_lengths(slices: int, **sequences: Any) -> None:
    for name, values in sequences.items():
        if len(values) != slices:
            raise CTVideoError(f"{name} has {len(values)} entries for {slices} slices")
