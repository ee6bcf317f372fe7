"""Scans and tables of patients, told by what a file holds and not by its name."""

from __future__ import annotations

import csv
import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

from .private_text import is_identifying

__all__ = ["what_of_patients"]

_HEAD = 4096
_MEMBERS = 1000
_NAMES = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".arrow")
_MAGIC = (
    (b"NRRD0", "an NRRD volume"),
    (b"ARROW1", "an Arrow file, as prepared sets have"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
)
_VR = re.compile(rb"(AE|AS|AT|CS|DA|DS|DT|IS|LO|LT|PN|SH|ST|TM|UI|UL|US)\Z")


def what_of_patients(path: Path) -> str | None:
    """What of patients a file holds, in words; None for all others.

    DICOM with and without its preamble, NIfTI, NRRD, MetaImage, Arrow, HDF5 and NumPy arrays are
    known by their first bytes, inside gzip, zip and tar as well; CSV, TSV and Parquet tables by
    columns that name a patient or a study, or hold volumes.

    Parameters
    ----------
    path : pathlib.Path
        A regular file.
    """
    if path.name.lower().endswith(_NAMES):
        return "a scan, by its name"
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    found = _what_head(head)
    if found is not None:
        return found
    if head.startswith(b"\x1f\x8b"):
        return _inside(_gzip_head(path))
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(path)
    if head[257:262] == b"ustar":
        return _of_tar(path)
    if head.startswith(b"PAR1"):
        return _of_parquet(path)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _of_table(head)
    return None


def _inside(head: bytes | None) -> str | None:
    found = None if head is None else _what_head(head)
    return None if found is None else f"{found}, packed"


def _what_head(head: bytes) -> str | None:
    if head[128:132] == b"DICM" or _is_bare_dicom(head):
        return "a DICOM file"
    if _is_nifti(head):
        return "a NIfTI volume"
    if head.startswith((b"ObjectType = Image", b"NDims = ")) or b"\nElementDataFile" in head:
        return "a MetaImage volume"
    return next((words for magic, words in _MAGIC if head.startswith(magic)), None)


def _is_bare_dicom(head: bytes) -> bool:
    """A data set without preamble: group 0002 or 0008 first (PS3.5, 7.1), either byte order."""
    if len(head) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", head[:4])
        if group not in (2, 8) or element > 0x0100:
            continue
        if _VR.match(head[4:6]):
            return True
        (length,) = struct.unpack(f"{order}I", head[4:8])
        value = head[8 : 8 + length]
        if 0 < length <= 64 and length % 2 == 0 and re.fullmatch(rb"[ -~]+\0?", value):
            return True
        if (element, length) == (0, 4):  # a group length, which counts bytes
            return True
    return False


def _is_nifti(head: bytes) -> bool:
    if len(head) < 348:
        return False
    sizes = {struct.unpack(f"{order}i", head[:4])[0] for order in "<>"}
    if 348 in sizes:
        return head[344:348] in (b"n+1\0", b"ni1\0") or head[38:39] == b"r"  # r: Analyze 7.5
    return 540 in sizes and head[4:7] in (b"n+2", b"ni2")


def _gzip_head(path: Path) -> bytes | None:
    try:
        with gzip.open(path) as stream:
            return stream.read(_HEAD)
    except (OSError, EOFError, zlib.error):
        return None


def _of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist()[:_MEMBERS]:
                if member.flag_bits & 1 or member.is_dir():
                    continue
                with archive.open(member) as stream:
                    found = _inside(stream.read(_HEAD))
                if found is not None:
                    return found
    except (OSError, zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError):
        return None
    return None


def _of_tar(path: Path) -> str | None:
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                stream = archive.extractfile(member) if member.isreg() else None
                found = None if stream is None else _inside(stream.read(_HEAD))
                if found is not None or number >= _MEMBERS:
                    return found
    except (OSError, tarfile.TarError):
        return None
    return None


def _of_parquet(path: Path) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return "a Parquet file that cannot be read"
    names = [name for name in schema.names if is_identifying(name)]
    if names:
        return f"a table with the column {names[0]}"
    wide = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_list, pa.types.is_large_list)
    if any(check(kind) for kind in schema.types for check in wide):
        return "a Parquet file with volumes or other long values"
    return None


def _of_table(head: bytes) -> str | None:
    first = head.decode("utf-8-sig", errors="replace").splitlines()[:1]
    for line in first:
        for separator in (",", ";", "\t", "|"):
            for name in next(csv.reader(io.StringIO(line), delimiter=separator), []):
                if is_identifying(name.strip()):
                    return f"a table with the column {name.strip()}"
    return None
