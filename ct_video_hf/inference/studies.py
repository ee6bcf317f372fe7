"""Which studies lie under a path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CTVideoError

__all__ = ["Study", "find_studies"]

_ONE_FILE = (".zip", ".nii", ".nii.gz")
_SLICE_ENDINGS = (".dcm", ".dicom", ".ima")
_NO_SCANS = {"__MACOSX", "DICOMDIR"}
# A data element of group 0002 or 0008 in little endian: DICOM without the preamble.
_BARE_STARTS = (b"\x02\x00", b"\x08\x00")


@dataclass(frozen=True)
class Study:
    """A study to read: ``path`` for ``read_ct`` and ``name``, relative to the folder given."""

    name: str
    path: Path


def find_studies(paths: Iterable[str | Path] | str | Path) -> list[Study]:
    """Tell one scan from a folder of studies, and list the studies in order.

    The rule, for each path:

    1. A file (zip, NIfTI, DICOM) is one study.
    2. A folder with slice files directly in it is one study.
    3. Otherwise each zip, NIfTI file and folder directly in it is a study. A folder that has
       subfolders instead of slices is looked into, as in patient/study/series trees: series
       folders side by side with the same StudyInstanceUID are one study together, named by the
       folder that holds them. A folder in which nothing is found stays in the list, so that
       reading it tells what is wrong with it.

    Parameters
    ----------
    paths : path or iterable of paths

    Returns
    -------
    list of Study
        Names are relative to the path given (with ``/``); a path that is one study goes by its
        own name. With several paths each name starts with its path's own.

    Raises
    ------
    CTVideoError
        A path that does not exist, or two studies of the same name.
    """
    given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not given:
        raise CTVideoError("No scan was given.")
    studies: list[Study] = []
    for path in given:
        if not path.exists():
            raise CTVideoError(f"There is no file or folder {path.name!r} at the path given.")
        studies += _under(path, prefix=_own_name(path) if len(given) > 1 else "")
    names = [study.name for study in studies]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CTVideoError(
            f"Two studies would be called {twice!r}. Give the folder that holds both instead."
        )
    return studies


def _own_name(path: Path) -> str:
    return path.resolve().name


def _under(path: Path, prefix: str) -> list[Study]:
    if path.is_file() or _has_slices(path):
        return [Study(_own_name(path), path)]
    found = _inside(path)
    if found in ([], [path]):
        return [Study(_own_name(path), path)]
    names = [place.relative_to(path).as_posix() for place in found]
    return [
        Study(f"{prefix}/{name}" if prefix else name, place)
        for name, place in zip(names, found, strict=True)
    ]


def _inside(folder: Path, *, top: bool = True) -> list[Path]:
    """Studies among the children of a folder that holds no slices itself."""
    found: list[Path] = []
    series: list[Path] = []
    for child in _children(folder):
        if child.is_file():
            if child.name.lower().endswith(_ONE_FILE):
                found.append(child)
        elif _has_slices(child):
            series.append(child)
        else:
            found += _inside(child, top=False) or [child]
    if series and not found and _one_study(series, top=top):
        return [folder]
    return sorted(found + series)


def _one_study(series: list[Path], *, top: bool) -> bool:
    """Whether sibling series folders, with nothing beside them, make up one study."""
    if len(series) == 1:
        return not top  # a folder of studies may hold just one
    uids = {_study_uid(folder) for folder in series}
    return len(uids) == 1 and None not in uids


def _children(folder: Path) -> list[Path]:
    return sorted(
        child
        for child in folder.iterdir()
        if not child.name.startswith(".") and child.name not in _NO_SCANS
    )


def _has_slices(folder: Path) -> bool:
    return any(child.is_file() and _is_slice(child) for child in _children(folder))


def _is_slice(path: Path) -> bool:
    name = path.name.lower()
    if name.endswith(_ONE_FILE):
        return False
    if name.endswith(_SLICE_ENDINGS):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False  # reading the study will say so
    return start[128:] == b"DICM" or start[:2] in _BARE_STARTS


def _study_uid(folder: Path) -> str | None:
    """StudyInstanceUID of the first slice of a series folder; None where it cannot be had."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    first = next(child for child in _children(folder) if child.is_file() and _is_slice(child))
    try:
        header = dcmread(
            first, stop_before_pixels=True, specific_tags=["StudyInstanceUID"], force=True
        )
    except (InvalidDicomError, OSError, ValueError, EOFError):
        return None
    uid = header.get("StudyInstanceUID")
    return str(uid) if uid else None
