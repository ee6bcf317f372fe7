"""The CT series of a TCIA download, whatever its folders are called.

``LIDC-IDRI-0001/<study UID>/<series UID>/000001.dcm``, ``LIDC-IDRI-0001/01-01-2000-30178/
3000566.000000-03192/1-001.dcm``, a zip for each series, or all files of a patient in one folder:
names decide nothing, headers do. Series of chest films and other objects are passed over.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ...dicom.errors import CTReadError
from ...dicom.frame import Frame, Source
from ...dicom.headers import read_frames
from ...dicom.sources import FileSource, open_sources
from ..errors import CTDataError
from .paper_split import patient_number

__all__ = ["SeriesPlace", "Tree", "find_ct_series"]

#: In a folder with no more files than this, every header is read; else the first, the middle and
#: the last, and every one where these are not of one series. A chest film has one or two files, a
#: CT of the collection at least 65.
_FEW = 8
#: Endings that are never DICOM in a download; the reader knows more, this only saves opening them.
_OTHER = (".xml", ".csv", ".txt", ".json", ".md", ".pdf", ".xls", ".xlsx", ".tcia", ".html")
_OTHER_NAMES = ("license", "readme", "dicomdir")


@dataclass(frozen=True)
class SeriesPlace:
    """One CT series and where it lies.

    Attributes
    ----------
    path : pathlib.Path
        Folder or zip.
    series_uid, study_uid, patient : str
    example : str
        Name of one of its files.
    pixel_mm : (float, float) or None
        Distance between rows and between columns, mm. This and the next are None where the header
        of that file lacks them.
    origin : (float, float, float) or None
        Image Position (Patient) of one slice.
    orientation : six floats or None
        Image Orientation (Patient).
    """

    path: Path
    series_uid: str
    study_uid: str
    patient: str
    example: str
    pixel_mm: tuple[float, float] | None
    origin: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None

    def in_plane_mm(self, row: float, column: float) -> tuple[float | None, float | None]:
        """x and y (LPS, mm) of a pixel; slices of a series lie straight above each other."""
        if self.pixel_mm is None or self.origin is None or self.orientation is None:
            return None, None
        along_row, along_column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        step = along_row * self.pixel_mm[1] * column + along_column * self.pixel_mm[0] * row
        where = np.array(self.origin) + step
        return float(where[0]), float(where[1])


@dataclass
class Tree:
    """The series under a folder, by UID; objects that are no CT; places where nothing was readable.

    ``others`` counts folders and zips whose DICOM objects are all of another kind (chest films,
    segmentations).
    """

    series: dict[str, SeriesPlace] = field(default_factory=dict)
    others: int = 0
    unreadable: int = 0


@dataclass
class _Found:
    """What one folder or zip holds."""

    frames: dict[str, Frame] = field(default_factory=dict)
    kinds: Counter = field(default_factory=Counter)


def find_ct_series(root: str | os.PathLike, *, progress: bool = False) -> Tree:
    """Find every CT series under a folder.

    Raises
    ------
    CTDataError
        When the folder does not exist, holds no CT series, holds one series twice, or a series
        does not say whose it is.
    """
    root = Path(root)
    if not root.is_dir():
        raise CTDataError(f"the data folder {root} does not exist or is not a folder")
    places = list(_places(root))
    tree = Tree()
    with ThreadPoolExecutor(8) as pool:  # looking at files is waiting, above all on a network drive
        found = tqdm(
            pool.map(_look, places),
            total=len(places),
            desc="looking for series",
            unit="folder",
            disable=None if progress else True,
        )
        for place, inside in zip(places, found, strict=True):
            _enter(tree, place, inside, root)
    if not tree.series:
        raise CTDataError(
            f"no CT series in {root.name}: {tree.others} folders of other objects, "
            f"{tree.unreadable} of unreadable files. Annotations alone make tables of labels with "
            "--labels-only"
        )
    return tree


def _places(root: Path) -> Iterable[Path]:
    """Folders with files, and zips, in the order of their paths."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(folder)
        if _candidates(names):
            yield base
        yield from (base / name for name in sorted(names) if name.lower().endswith(".zip"))


def _candidates(names: Iterable[str]) -> list[str]:
    return sorted(
        name
        for name in names
        if not name.startswith(".")
        and not name.lower().endswith((*_OTHER, ".zip"))
        and name.lower() not in _OTHER_NAMES
    )


def _look(place: Path) -> _Found:
    """The CT series in one folder (its own files alone) or zip."""
    found = _Found()
    if place.is_dir():
        names = _candidates(entry.name for entry in os.scandir(place) if entry.is_file())
        _look_at(_folder_sources(place, names), found)
        return found
    try:
        with open_sources(place) as sources:
            _look_at(sources, found)
    except CTReadError as error:
        found.kinds["unreadable" if error.code != "no_dicom" else "not_dicom"] += 1
    return found


def _folder_sources(place: Path, names: list[str]) -> list[FileSource]:
    return [FileSource(os.fspath(place / name), (place / name).stat().st_size) for name in names]


def _look_at(sources: Sequence[Source], found: _Found) -> None:
    count = len(sources)
    few = range(count) if count <= _FEW else (0, count // 2, count - 1)
    for place in few:
        _look_at_one(sources[place], found)
    if count > _FEW and not (len(found.frames) == 1 and sum(found.kinds.values()) == 0):
        for place in sorted(set(range(count)) - set(few)):
            _look_at_one(sources[place], found)


def _look_at_one(source: Source, found: _Found) -> None:
    try:
        frames = read_frames(source)
    except CTReadError as error:
        known = error.code in ("not_ct", "not_dicom")
        found.kinds[error.code if known else "unreadable"] += 1
        return
    for frame in frames:
        if frame.series_instance_uid:
            found.frames.setdefault(frame.series_instance_uid, frame)
        else:
            found.kinds["unreadable"] += 1


def _enter(tree: Tree, place: Path, found: _Found, root: Path) -> None:
    if not found.frames:
        tree.unreadable += bool(found.kinds["unreadable"])
        tree.others += bool(found.kinds["not_ct"] and not found.kinds["unreadable"])
    for uid, frame in found.frames.items():
        other = tree.series.get(uid)
        if other is not None:
            raise CTDataError(
                f"one series lies in two places: {other.example} in one folder or zip and "
                f"{frame.label} in another. Take one away, or name a folder that holds one of them"
            )
        patient = frame.patient_id or patient_number(place.relative_to(root).as_posix())
        lacking = [
            name
            for name, value in (
                ("PatientID", patient),
                ("StudyInstanceUID", frame.study_instance_uid),
            )
            if not value
        ]
        if lacking:
            raise CTDataError(
                f"a CT series ({frame.label}) has no {lacking[0]}: whose it is decides the split"
            )
        tree.series[uid] = SeriesPlace(
            path=place,
            series_uid=uid,
            study_uid=frame.study_instance_uid,
            patient=patient,
            example=frame.label,
            pixel_mm=frame.pixel_spacing,
            origin=frame.position,
            orientation=frame.orientation,
        )
