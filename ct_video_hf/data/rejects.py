"""What is told of studies that were left out, in the set and in its private folder."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..files import write_csv

__all__ = ["COLUMNS", "hide_names", "write_rejects"]

COLUMNS = ("study", "code", "reason")

#: Numbers below a thousand name nobody, and stand in many a reason.
_NUMBER = re.compile(r"\d{1,3}")


def hide_names(reason: str, scan: Path, study: str) -> str:
    """The reason with ``study`` for the name of a scan and ``file N`` for those of its files.

    Folders and files are often called by the patient's name or by UIDs, and errors name them. N is
    the file's place among the names of the scan in their order.

    Parameters
    ----------
    reason : str
    scan : path
        Folder, zip or file of the scan.
    study : str
        The study's name in the set.
    """
    names = sorted(set(_file_names(scan)))
    shown = {name: f"file {place}" for place, name in enumerate(names, start=1)}
    shown[scan.name] = study
    hidden = [name for name in shown if name in reason and not _NUMBER.fullmatch(name)]
    if not hidden:
        return reason
    any_name = "|".join(map(re.escape, sorted(hidden, key=len, reverse=True)))
    # whole names alone: a scan that is called "a" does not change the words of a reason
    whole = rf"(?<![\w.-])(?:{any_name})(?![\w-]|\.\w)"
    return re.sub(whole, lambda match: shown[match[0]], reason)


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
