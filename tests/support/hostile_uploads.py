"""Uploads that mean harm, or that somebody took for a scan, and what their error speaks of."""

from __future__ import annotations

import gzip
import io
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pydicom

from ct_video_hf.dicom.write import write_series

from .prediction import SPACING, chest_hu

__all__ = ["EXCERPT", "HOSTILE", "MARKUP", "NAME", "chest_files", "excerpt", "marked_up", "zipped"]

EXCERPT = Path(__file__).parents[1] / "data" / "lidc_idri_0001"
#: Files are called as patients are.
NAME = "MILLER^JOHN_1961"
#: What a header must not do to the page that shows it.
MARKUP = "<img src=x onerror=window.pwned=1>"


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip archive at ``path`` of files by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def excerpt(folder: Path, name: str = "scan.zip") -> Path:
    """The real scan of the tests as a zip."""
    files = {f"{NAME}/{NAME}_{path.name}": path.read_bytes() for path in EXCERPT.glob("*.dcm")}
    return zipped(folder / name, files)


def chest_files(folder: Path, slices: int = 24, **options) -> list[Path]:
    """A generated chest as DICOM files."""
    options = {"key": "a", "spacing": SPACING, "patient_id": NAME} | options
    write_series(chest_hu(slices), folder, **options)
    return sorted(folder.iterdir())


def marked_up(path: Path) -> Path:
    """A zip of a sound scan whose headers and names of files hold markup."""
    keywords = (
        "PatientName", "SeriesDescription", "StudyDescription", "Manufacturer",
        "ConvolutionKernel", "ManufacturerModelName",
    )  # fmt: skip
    folder = path.with_suffix("")
    files = chest_files(folder, extra=dict.fromkeys(keywords, MARKUP))
    return zipped(path, {f"{MARKUP}{file.name}": file.read_bytes() for file in files})


def _bomb(path: Path) -> None:
    zipped(path, {f"{number}.dcm": bytes(256 << 20) for number in range(2)})


def _picture(path: Path) -> None:
    _, encoded = cv2.imencode(".png", chest_hu(1)[0].astype(np.uint8))
    path.write_bytes(encoded.tobytes())


def _damaged(path: Path) -> None:
    files = {source.name: source.read_bytes() for source in EXCERPT.glob("*.dcm")}
    for name in list(files)[::3]:
        files[name] = files[name][: len(files[name]) // 2]
    zipped(path, files)


def _holed(path: Path) -> None:
    """A slice is missing."""
    sources = sorted(EXCERPT.glob("*.dcm"))
    del sources[12]
    zipped(path, {f"{NAME}_{source.name}": source.read_bytes() for source in sources})


def _linked(path: Path) -> None:
    """Members that are links to a file and a folder of the server."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, target in (("a.dcm", "/etc/passwd"), ("b", "/etc")):
            member = zipfile.ZipInfo(name)
            member.create_system = 3  # Unix
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, target)


def _tiny_files(path: Path) -> None:
    zipped(path, {f"{NAME}_{number}.dcm": b"x" for number in range(10_000)})


def _declared(path: Path) -> None:
    """A slice of a few kilobytes that says to have 2 GiB of pixels."""
    header = pydicom.dcmread(min(EXCERPT.glob("*.dcm")))
    header.Rows = header.Columns = 32_768
    header.save_as(path)


def _announced(path: Path) -> None:
    """Pixel data whose length says 2 GiB, and a few bytes of it."""
    header = pydicom.dcmread(min(EXCERPT.glob("*.dcm")))
    header.decompress()
    written = io.BytesIO()
    header.save_as(written)
    data = written.getvalue()
    at = data.index(b"\xe0\x7f\x10\x00OW") + 8
    path.write_bytes(data[:at] + (2**31 - 2).to_bytes(4, "little") + data[at + 4 : at + 4004])


def _not_numbers(path: Path) -> None:
    values = chest_hu(24).astype(np.float32).T
    values[40:50] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.4, -1.4, 2.5, 1.0])), path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


#: By name: what writes it, and what its error must speak of.
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "bomb.zip": (_bomb, "expand|zip|larger"),
    "outside.zip": (lambda path: zipped(path, {"../../../evil.dcm": b"x" * 2000}), "outside"),
    "absolute.zip": (lambda path: zipped(path, {"/tmp/evil.dcm": b"x" * 2000}), "outside"),
    "linked.zip": (_linked, "link"),
    "tiny_files.zip": (_tiny_files, "10,000|10000"),
    "picture.png": (_picture, "DICOM"),
    "picture.nii.gz": (_picture, "NIfTI|gzip"),
    "empty.dcm": (_empty, "DICOM|empty"),
    "empty.zip": (_empty, "zip|empty"),
    "notes.txt": (lambda path: path.write_text("hello " * 400), "DICOM"),
    "half.zip": (lambda path: path.write_bytes(excerpt(path.parent).read_bytes()[:90_000]), "zip"),
    "hollow.nii.gz": (lambda path: path.write_bytes(gzip.compress(bytes(400))), "NIfTI"),
    "not_numbers.nii": (_not_numbers, "no number|not finite|NaN|values"),
    "damaged.zip": (_damaged, "pixel|decod|file"),
    "holed.zip": (_holed, "missing|gap|mm"),
    "declared.dcm": (_declared, "32,?768|pixel|slice"),
    "announced.dcm": (_announced, "pixel|bytes|length|slice"),
}
