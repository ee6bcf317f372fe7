"""Writing a volume as one enhanced multi-frame CT object."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import syntax as uids
from .encode import FileEncoder, Keyword, replace_file
from .encode_pixels import StoredPixels
from .write import (
    AXIAL,
    as_volume,
    identity,
    image_attributes,
    per_slice,
    slice_positions,
    uid_from,
)

__all__ = ["write_enhanced"]

_ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"


def write_enhanced(
    hu: np.ndarray,
    path: str | os.PathLike[str],
    *,
    key: str = "enhanced",
    spacing: Sequence[float] = (2.5, 0.7, 0.7),
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    orientation: Sequence[float] | Sequence[Sequence[float]] = AXIAL,
    positions: Sequence[Sequence[float]] | np.ndarray | None = None,
    order: Sequence[int] | None = None,
    transfer_syntax: str = uids.EXPLICIT_LITTLE,
    signed: bool = True,
    bits_stored: int = 16,
    slope: float = 1.0,
    intercept: float = -1024.0,
    rescale_per_frame: Sequence[tuple[float, float]] | None = None,
    fragments: int = 1,
    offset_table: str | None = "basic",
    patient_id: str | None = "ANON",
    extra: Mapping[Keyword, Any] | None = None,
    missing: Collection[str] = (),
) -> Path:
    """Write a volume as one Enhanced CT Image file with functional groups (PS3.3 A.38).

    Orientation, pixel measures and rescale are shared, positions and frame content per frame.

    Parameters
    ----------
    hu, key, spacing, origin, orientation, positions, transfer_syntax, signed, bits_stored, slope
        As in :func:`write_series`.
    order : sequence of int, optional
        The slices in the order in which they become frames.
    rescale_per_frame : sequence of (slope, intercept), optional
        Makes the rescale differ from frame to frame (one a slice).

    Returns
    -------
    pathlib.Path
    """
    hu = as_volume(hu)
    order = list(range(len(hu)) if order is None else order)
    orientations = per_slice(orientation, len(hu))
    if positions is None:
        positions = slice_positions(orientations[0], origin, spacing[0], len(hu))
    rescales = list(rescale_per_frame or [(slope, intercept)] * len(hu))
    encoder = FileEncoder(transfer_syntax, signed, True, True, frozenset(missing))

    def storage(index: int) -> StoredPixels:
        return StoredPixels(
            signed, 16, bits_stored, bits_stored - 1, *rescales[index], "MONOCHROME2", 0
        )

    def rescale_item(index: int) -> list[dict[str, Any]]:
        found_slope, found_intercept = rescales[index]
        return [
            {
                "RescaleIntercept": found_intercept,
                "RescaleSlope": found_slope,
                "RescaleType": "HU",
            }
        ]

    shared: dict[str, Any] = {
        "PixelMeasuresSequence": [
            {"SliceThickness": spacing[0], "PixelSpacing": [spacing[1], spacing[2]]}
        ],
    }
    same_axes = len({tuple(map(float, axes)) for axes in orientations}) == 1
    if same_axes:
        shared["PlaneOrientationSequence"] = [
            {"ImageOrientationPatient": list(map(float, orientations[0]))}
        ]
    if rescale_per_frame is None:
        shared["PixelValueTransformationSequence"] = rescale_item(0)
    per_frame = []
    for place, index in enumerate(order):
        group: dict[str, Any] = {
            "FrameContentSequence": [{"InStackPositionNumber": place + 1, "StackID": "1"}],
            "PlanePositionSequence": [
                {"ImagePositionPatient": [float(v) for v in positions[index]]}
            ],
        }
        if not same_axes:
            group["PlaneOrientationSequence"] = [
                {"ImageOrientationPatient": list(map(float, orientations[index]))}
            ]
        if rescale_per_frame is not None:
            group["PixelValueTransformationSequence"] = rescale_item(index)
        per_frame.append(group)

    attributes = image_attributes(hu.shape[1:], storage(0), spacing)
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelSpacing"):
        del attributes[keyword]
    del attributes["SliceThickness"]
    attributes |= identity(key, key, patient_id)
    attributes |= {
        "SOPClassUID": _ENHANCED_CT_IMAGE,
        "SOPInstanceUID": uid_from(key, "object"),
        "InstanceNumber": 1,
        "NumberOfFrames": len(order),
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": per_frame,
    }
    attributes |= dict(extra or {})
    stored = [storage(index).place(storage(index).store(hu[index])) for index in order]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = encoder.pixel_data(stored, bits_stored, fragments, offset_table)
    replace_file(path, encoder.file(encoder.keyed(attributes), frame))
    return path
