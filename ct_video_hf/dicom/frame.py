"""What the reader knows of one image plane before its pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Frame", "Source"]


class Source(Protocol):
    """Where the bytes of one DICOM file are: a file on disk or a member of a zip archive."""

    @property
    def name(self) -> str:
        """File name without its folders, for messages (folders may carry a patient's name)."""
        ...

    @property
    def size(self) -> int:
        """Size in bytes, uncompressed."""
        ...

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes from ``start``; to the end when None. Raises CTReadError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Header of one image plane: a single-frame file, or one frame of an enhanced CT object.

    Lengths are in mm in the patient coordinate system of DICOM PS3.3 C.7.6.2.1.1 (LPS: x grows to
    the left, y to the back, z to the head). Fields that the header lacks are None.
    """

    source: Source
    frame_index: int  # 0-based; 0 for a single-frame object
    number_of_frames: int

    # identity; used for grouping, never shown unless asked for
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    patient_id: str | None
    sop_class_uid: str | None
    modality: str | None
    image_type: tuple[str, ...]
    instance_number: int | None
    acquisition_number: int | None
    series_number: int | None

    # geometry
    position: tuple[float, float, float] | None  # ImagePositionPatient: centre of first voxel
    orientation: tuple[float, float, float, float, float, float] | None  # row then column cosines
    pixel_spacing: tuple[float, float] | None  # (between rows, between columns), mm
    slice_thickness: float | None
    gantry_tilt: float | None  # GantryDetectorTilt, degrees

    # pixels
    rows: int
    columns: int
    samples_per_pixel: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding_value: int | None  # PixelPaddingValue in stored values, sign already corrected
    padding_limit: int | None  # PixelPaddingRangeLimit, likewise
    slope: float | None
    intercept: float | None
    rescale_type: str | None
    transfer_syntax: str  # UID

    # acquisition, for subgroup tables
    manufacturer: str | None
    kernel: str | None
    kvp: float | None

    # where the pixel data are in the file (in its expanded data set for the deflated syntax)
    pixel_offset: int | None = None  # of the value, not of the element
    pixel_length: int | None = None  # None: undefined, or not known
    pixel_vr: str | None = None
    high_bit: int | None = None
    lossy: bool = False  # LossyImageCompression "01", or a syntax that always loses

    @property
    def label(self) -> str:
        """How messages name this frame: the file's name, and the frame where there are several."""
        if self.number_of_frames > 1:
            return f"{self.source.name} frame {self.frame_index + 1}"
        return self.source.name
