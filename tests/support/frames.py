"""Frame objects made by hand: headers without files, for tests of the geometry."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ct_video_hf.dicom.frame import Frame

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@dataclass(frozen=True)
class NamedSource:
    """A source that has a name and nothing to read."""

    name: str
    size: int = 0

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        raise AssertionError("geometry must not read bytes")


def make_frame(name: str = "a.dcm", **changes) -> Frame:
    """One axial plane of 512x512 at the origin; any field of Frame may be changed."""
    values = {
        "source": NamedSource(name),
        "frame_index": 0,
        "number_of_frames": 1,
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "sop_instance_uid": f"1.2.3.4.{name}",
        "patient_id": "P",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "modality": "CT",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "instance_number": None,
        "acquisition_number": 1,
        "series_number": 2,
        "position": (0.0, 0.0, 0.0),
        "orientation": AXIAL,
        "pixel_spacing": (0.7, 0.7),
        "slice_thickness": 2.5,
        "gantry_tilt": 0.0,
        "rows": 512,
        "columns": 512,
        "samples_per_pixel": 1,
        "photometric": "MONOCHROME2",
        "bits_allocated": 16,
        "bits_stored": 16,
        "signed": True,
        "padding_value": None,
        "padding_limit": None,
        "slope": 1.0,
        "intercept": -1024.0,
        "rescale_type": None,
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "manufacturer": None,
        "kernel": None,
        "kvp": None,
    }
    fields = {field: None for field in Frame.__dataclass_fields__ if field not in values}
    return Frame(**{**fields, **values, **changes})


def make_stack(z, *, prefix: str = "s", origin=(-100.0, -120.0), **changes) -> list[Frame]:
    """One frame at each z."""
    return [
        make_frame(
            f"{prefix}{number:03d}.dcm",
            position=(origin[0], origin[1], float(height)),
            instance_number=number + 1,
            **changes,
        )
        for number, height in enumerate(z)
    ]


def shuffled(frames: list[Frame], seed: int = 0) -> list[Frame]:
    """The same frames in another order, with instance numbers that contradict the positions."""
    order = np.random.default_rng(seed).permutation(len(frames))
    return [replace(frames[place], instance_number=int(place) * 7 % 11) for place in order]
