"""What a DICOM object is, when it is not a CT image, and what a file is, when it is not DICOM."""

from __future__ import annotations

from .errors import CTReadError

__all__ = ["describe_strange_bytes", "refuse_other_kinds"]

#: CT Image, Enhanced CT Image, Legacy Converted Enhanced CT Image (PS3.4 table B.5-1).
CT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.2.2",
    }
)
_STANDARD = "1.2.840.10008."

_NAMES = {
    "1.2.840.10008.1.3.10": "a DICOMDIR, the index of a medium",
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.1": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "a colour secondary capture",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.4": "an MR image",
    "1.2.840.10008.5.1.4.1.1.4.1": "an enhanced MR image",
    "1.2.840.10008.5.1.4.1.1.128": "a PET image",
    "1.2.840.10008.5.1.4.1.1.1": "a computed radiograph",
    "1.2.840.10008.5.1.4.1.1.1.1": "a digital radiograph",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "a digital radiograph",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF document",
    "1.2.840.10008.5.1.4.1.1.481.1": "a radiotherapy image",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.481.3": "a radiotherapy structure set",
    "1.2.840.10008.5.1.4.1.1.481.5": "a radiotherapy plan",
}
_MODALITIES = {
    "MR": "an MR image", "PT": "a PET image", "NM": "a nuclear medicine image",
    "US": "an ultrasound image", "CR": "a computed radiograph", "DX": "a digital radiograph",
    "RG": "a radiograph", "MG": "a mammogram", "XA": "an X-ray angiogram",
    "RF": "a fluoroscopy image", "SC": "a secondary capture", "OT": "an image of another kind",
    "SEG": "a segmentation", "SR": "a structured report", "DOC": "a document",
    "PR": "a presentation state", "KO": "a key object selection", "REG": "a registration",
    "RTSTRUCT": "a radiotherapy structure set", "RTDOSE": "a radiotherapy dose",
    "RTPLAN": "a radiotherapy plan", "RTIMAGE": "a radiotherapy image",
    "SM": "a slide microscopy image", "ECG": "an electrocardiogram",
}  # fmt: skip

_SIGNATURES = [
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "gzip data (NIfTI is read when named .nii.gz; unpack anything else)"),
    (b"PK\x03\x04", "a zip archive (read when it is named itself, not inside another)"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\xfd7zXZ", "xz data"),
    (b"BZh", "bzip2 data"),
    (b"NRRD", "an NRRD file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x5c\x01\0\0", "a NIfTI file (named .nii when read directly)"),
    (b"\0\0\x01\x5c", "a NIfTI file (named .nii when read directly)"),
]


def refuse_other_kinds(name: str, sop_class: str | None, modality: str | None) -> None:
    """Raise CTReadError ``not_ct`` for an object that says that it is not a CT image.

    A missing modality and a SOP class that is missing, private or unknown (hashed, in anonymised
    sets) are no reason to refuse.
    """
    if sop_class in CT_CLASSES:
        kind = None
    elif sop_class in _NAMES:
        kind = f"{_NAMES[sop_class]} (SOP class {sop_class})"
    elif sop_class is not None and sop_class.startswith(_STANDARD):
        kind = f"no CT image but {_dictionary_name(sop_class)} (SOP class {sop_class})"
    else:
        kind = None
    if kind is None and modality not in (None, "CT"):
        kind = f"{_MODALITIES.get(modality, 'no CT image')} (Modality {modality[:16]!r})"
    if kind is not None:
        raise CTReadError(f"{name} is {kind}; only CT images are read", code="not_ct")


def _dictionary_name(uid: str) -> str:
    from pydicom._uid_dict import UID_dictionary

    entry = UID_dictionary.get(uid)
    return f"an object of kind {entry[0]!r}" if entry else "an object of an unknown standard kind"


def describe_strange_bytes(head: bytes) -> str:
    """What a file that is not DICOM seems to be, as an apposition: ", but a PNG picture"."""
    if not head:
        return ": it is empty"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return f", but {name}"
    if not head.strip(b"\0"):
        return ": it begins with zeros only"
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head[:128]):
        return ", but text"
    return ": its first bytes match no known kind of file"
