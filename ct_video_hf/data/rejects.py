"""What is told of studies that were left out, in the set and in its private folder."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..files import write_csv

__all__ = ["COLUMNS", "hide_file_names", "write_rejects"]

COLUMNS = ("study", "code", "reason")

#: Shorter names are numbers and the like, which name nobody and may be words of a reason.
_SHORTEST = 4


def hide_file_names(reason: str, scan: Path) -> str:
    """The reason with ``file N`` for the names of a scan's files, N their place by name.

    Files are often called by the patient's name or by UIDs, and errors name them.

    Parameters
    ----------
    reason : str
    scan : path
        Folder, zip or file of the scan.
    """
    names = [name for name in _file_names(scan) if len(name) >= _SHORTEST]
    places = {name: place for place, name in enumerate(sorted(set(names)), start=1)}
    named = sorted((name for name in places if name in reason), key=len, reverse=True)
    if not named:
        return reason
    pattern = "|".join(map(re.escape, named))
    return re.sub(pattern, lambda match: f"file {places[match[0]]}", reason)


def _file_names(scan: Path) -> Iterable[str]:
    if scan.is_dir():
        return [name for _, folders, files in os.walk(scan) for name in (*files, *folders)]
    try:
        with zipfile.ZipFile(scan) as archive:
            return [part for name in archive.namelist() for part in name.split("/")]
    except (OSError, zipfile.BadZipFile):  # a NIfTI file, or nothing that can be opened
        return []


def write_rejects(
    folder: Path, private: Path, rejects: Iterable[Mapping[str, str]], *, hidden: bool
) -> None:
    """Write ``rejects.csv``, and where names are hidden ``private/rejects.csv``, which has them.

    Parameters
    ----------
    folder, private : path
        Of the set.
    rejects : iterable of mapping
        Keys :data:`COLUMNS`, and ``named``: the reason with the names of files.
    hidden : bool
        Whether studies have hashes for names in this set.
    """
    rows = [dict(reject) for reject in rejects]
    named = [row | {"reason": row.pop("named", row["reason"])} for row in rows]
    write_csv(folder / "rejects.csv", COLUMNS, rows)
    if hidden:
        write_csv(private / "rejects.csv", COLUMNS, named)
