"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import CTVideoError

__all__ = ["check_writable", "move_into_place", "replacing", "write_csv"]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` when the block ends well.

    Folders above ``path`` are made. After an error nothing is left, and an older ``path`` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")  # the suffix may tell a format
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if str(error.filename) == str(partial):
            error.filename = str(path)
        raise
    finally:
        if os.path.lexists(partial):
            partial.unlink()


def check_writable(folder: str | os.PathLike) -> None:
    """Try to write in a folder, before work whose result shall go there; nothing is left of it.

    A folder that is not there yet is not made: work that is refused would leave it empty. The
    nearest one above it is tried.

    Raises
    ------
    CTVideoError
        When nothing can be written there.
    """
    folder = Path(folder)
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise CTVideoError(f"nothing can be written to the folder {folder}: {reason}") from error


def write_csv(
    path: str | os.PathLike, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]
) -> Path:
    """Write a table as CSV (UTF-8, one newline a row); what a row lacks is an empty cell."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return Path(path)


def move_into_place(stage: Path, target: Path, *, last: str) -> None:
    """Move everything in ``stage`` to the folder ``target``, the entry ``last`` after the others.

    Both lie on one disk. Entries of the same name are replaced, others stay; ``stage`` goes.
    """
    for entry in sorted(stage.iterdir(), key=lambda entry: entry.name == last):
        there = target / entry.name
        if there.is_dir():
            shutil.rmtree(there)
        os.replace(entry, there)
    stage.rmdir()
