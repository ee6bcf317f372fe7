"""Where a scan's bytes are: the files of a folder tree, one file, or the members of a zip archive.

Nothing is ever extracted to disk. Files are opened only to be read and closed again at once, so a
source can be read from several threads; one that is a file can be pickled.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .errors import CTReadError
from .frame import Source
from .limits import Limits

__all__ = ["FileSource", "ZipSource", "open_sources"]

#: Endings of files that accompany scans. One is opened all the same when it bears DICOM's mark.
_OTHER_SUFFIXES = frozenset({
    ".7z", ".avi", ".bat", ".bmp", ".csv", ".db", ".doc", ".docx", ".exe", ".gif", ".gz", ".htm",
    ".html", ".ini", ".jpeg", ".jpg", ".js", ".json", ".log", ".md", ".mhd", ".mp4", ".nii",
    ".npy", ".npz", ".nrrd", ".pdf", ".png", ".ppt", ".py", ".rar", ".rtf", ".sh", ".sql", ".tar",
    ".tif", ".tiff", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".xz", ".yaml", ".yml", ".zip",
})  # fmt: skip
_OTHER_NAMES = frozenset({"dicomdir", "thumbs.db", "desktop.ini", "readme", "license", "lockfile"})
_OTHER_FOLDERS = frozenset({"__macosx"})
_MARK_END = 132  # preamble of 128 bytes, then "DICM"

_UNSAFE = "unsafe_zip"


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on disk."""

    path: str
    size: int

    @property
    def name(self) -> str:
        """File name without its folders."""
        return os.path.basename(self.path)

    @property
    def folder(self) -> str:
        """Where the file lies; tells files apart, never shown."""
        return os.path.dirname(self.path)

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """Bytes from ``start``, fewer where the file ends. Raises CTReadError."""
        wanted = max(0, self.size - start) if length is None else length
        try:
            with _opened(self.path) as file:
                data = _read_at(file, wanted, start)
                # one read is one system call, and may give less than asked for
                if length is not None and len(data) < min(length, self.size - start):
                    data += _rest(file, length - len(data), start + len(data))
                return data
        except OSError as error:
            raise _os_error(error, self.name) from error

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fill a buffer of bytes from ``start``; how many there were. Raises CTReadError."""
        try:
            with _opened(self.path) as file:
                done = 0
                while done < len(buffer):
                    count = _read_into_at(file, buffer[done:], start + done)
                    if not count:
                        break
                    done += count
                return done
        except OSError as error:
            raise _os_error(error, self.name) from error


class _opened:
    """A file's number while the block runs: a third of the time that a file object takes."""

    __slots__ = ("_number", "_path")

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._number = os.open(self._path, _READ_ONLY)
        return self._number

    def __exit__(self, *_: object) -> None:
        os.close(self._number)


_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _read_at(file: int, length: int, start: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, length, start)
    os.lseek(file, start, os.SEEK_SET)  # Windows
    return os.read(file, length)


def _read_into_at(file: int, buffer: memoryview, start: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file, [buffer], start)
    data = _read_at(file, len(buffer), start)
    buffer[: len(data)] = data
    return len(data)


def _rest(file: int, length: int, start: int) -> bytes:
    parts = []
    while length > 0:
        part = _read_at(file, length, start)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        start += len(part)
    return b"".join(parts)


class ZipSource:
    """A member of an open zip archive, expanded in memory whenever it is read."""

    __slots__ = ("_archive", "_member")

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._member = member

    @property
    def name(self) -> str:
        """File name without its folders."""
        return PurePosixPath(self._member.filename).name

    @property
    def folder(self) -> str:
        """The member's folder; tells members apart, never shown."""
        return str(PurePosixPath(self._member.filename).parent)

    @property
    def size(self) -> int:
        """Expanded size in bytes."""
        return self._member.file_size

    def read(self, start: int = 0, length: int | None = None) -> bytes:
        """Bytes from ``start``, fewer where the member ends. Raises CTReadError."""
        stop = self.size if length is None else min(self.size, start + length)
        try:
            with self._archive.open(self._member) as file:
                # ZipExtFile never gives more than the announced size, and checks the CRC at its end
                return file.read(stop)[start:]
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CTReadError(
                f"{self.name}: the zip archive is damaged here ({error})", code="bad_zip"
            ) from error
        except (NotImplementedError, RuntimeError) as error:
            raise CTReadError(
                f"{self.name}: this zip member cannot be expanded ({error}); unpack the archive "
                "and name the folder",
                code="bad_zip",
            ) from error
        except OSError as error:
            raise _os_error(error, self.name) from error


@contextmanager
def open_sources(
    path: str | os.PathLike[str], limits: Limits | None = None
) -> Iterator[list[Source]]:
    """The files that may be DICOM under a path, in the order of their folders and names.

    Parameters
    ----------
    path : path
        A folder (searched with its subfolders; links are followed, loops end), a file, or a zip
        archive, which stays open until the context ends. Hidden files, ``DICOMDIR``, ``__MACOSX``
        and files with endings of other kinds (.xml, .csv, .png, ...) are passed over unless they
        bear DICOM's mark.
    limits : Limits, optional

    Yields
    ------
    list of Source

    Raises
    ------
    CTReadError
        ``path_not_found``, ``no_permission``, ``empty_folder``, ``no_dicom`` (nothing but other
        kinds of files), ``bad_zip``, ``unsafe_zip``, ``encrypted_zip``, ``too_large``,
        ``read_failed``.
    """
    path = Path(path)
    limits = limits or Limits()
    name = path.name or os.path.basename(os.path.abspath(path))
    archive = _open_if_zip(path, name)
    if archive is None:
        yield _plain_sources(path, name, limits)
        return
    with archive:
        yield _zip_sources(archive, name, limits)


def _open_if_zip(path: Path, name: str) -> zipfile.ZipFile | None:
    try:
        if not path.is_dir() and path.is_file() and _is_zip(path):
            return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise CTReadError(
            f"{name} is a damaged or incomplete zip archive ({error})", code="bad_zip"
        ) from error
    except OSError as error:
        raise _os_error(error, name) from error
    return None


def _plain_sources(path: Path, name: str, limits: Limits) -> list[Source]:
    try:
        status = path.stat()
    except OSError as error:
        raise _os_error(error, name) from error
    if stat.S_ISDIR(status.st_mode):
        return _folder_sources(path, name, limits)
    if not stat.S_ISREG(status.st_mode):
        raise CTReadError(f"{name} is neither a file nor a folder", code="path_not_found")
    limits.check("max_file_bytes", status.st_size, f"{name}: its size")
    return [FileSource(os.fspath(path), status.st_size)]


# --- folders ----------------------------------------------------------------------------------


def _folder_sources(root: Path, where: str, limits: Limits) -> list[Source]:
    found: list[Source] = []
    passed: Counter[str] = Counter()
    total = 0
    for entry in _walk(os.fspath(root)):
        if _passed_over(entry.name, lambda entry=entry: _head_of_file(entry.path)):
            passed[_kind(entry.name)] += 1
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:  # a link to nowhere: reading it says so, as of a damaged file
            found.append(FileSource(entry.path, 0))
            continue
        except OSError as error:
            raise _os_error(error, entry.name) from error
        if not stat.S_ISREG(status.st_mode):
            passed["special file"] += 1
            continue
        limits.check("max_file_bytes", status.st_size, f"{entry.name}: its size")
        total += status.st_size
        found.append(FileSource(entry.path, status.st_size))
        limits.check("max_files", len(found), f"{where}: the number of files")
        limits.check("max_total_bytes", total, f"{where}: the size of all files together")
    if not found:
        raise _nothing(where, passed)
    return found


def _walk(root: str) -> Iterator[os.DirEntry[str]]:
    """Every entry that is no folder, folder by folder, by name. A folder is entered only once."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen and status.st_ino:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            folders = [entry for entry in entries if entry.is_dir()]
        except OSError as error:
            raise _os_error(error, os.path.basename(folder)) from error
        inner = {entry.name for entry in folders}
        yield from (entry for entry in entries if entry.name not in inner)
        waiting += [
            entry.path
            for entry in reversed(folders)
            if not entry.name.startswith(".") and entry.name.lower() not in _OTHER_FOLDERS
        ]


def _head_of_file(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb", buffering=0) as file:
            return file.read(_MARK_END)
    except OSError as error:
        raise _os_error(error, os.path.basename(path)) from error


def _passed_over(name: str, head) -> bool:
    """Whether a file is left aside for its name; ``head()`` gives its first bytes."""
    lower = name.lower()
    if lower.startswith(".") or lower in _OTHER_NAMES:
        return True
    if os.path.splitext(lower)[1] not in _OTHER_SUFFIXES:
        return False
    return head()[128:_MARK_END] != b"DICM"


def _kind(name: str) -> str:
    lower = name.lower()
    if lower.startswith("."):
        return "hidden file"
    if lower in _OTHER_NAMES:
        return name
    return f"*{os.path.splitext(lower)[1]}"


def _nothing(where: str, passed: Counter[str]) -> CTReadError:
    if not passed:
        return CTReadError(f"{where} is empty: there is no file in it", code="empty_folder")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
    advice = "name the folder, zip or file that holds the DICOM images"
    if "*.gz" in passed:
        advice = "a NIfTI file (.nii.gz) is read when it is named itself; unpack any other .gz"
    elif any(kind in passed for kind in ("*.zip", "*.nii")):
        advice = "a zip archive or a NIfTI file is read when it is named itself"
    return CTReadError(f"no DICOM file in {where}, only {kinds}; {advice}", code="no_dicom")


# --- zip archives -----------------------------------------------------------------------------


def _is_zip(path: Path) -> bool:
    """By content; a truncated archive counts, so that it is named as one."""
    with path.open("rb") as file:
        head = file.read(_MARK_END)
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06") and head[128:] != b"DICM"


def _zip_sources(archive: zipfile.ZipFile, where: str, limits: Limits) -> list[Source]:
    members = archive.infolist()
    limits.check("max_files", len(members), f"{where}: the number of files in the archive")
    files = [member for member in members if not member.is_dir()]
    for member in files:
        _check_member(member, where, limits)
    _check_sizes(files, where, limits)
    found: list[Source] = []
    passed: Counter[str] = Counter()
    for member in sorted(files, key=_member_order):
        source = ZipSource(archive, member)
        parts = PurePosixPath(member.filename).parts
        hidden = any(part.startswith(".") or part.lower() in _OTHER_FOLDERS for part in parts[:-1])
        if hidden or _passed_over(source.name, lambda source=source: source.read(0, _MARK_END)):
            passed["hidden file" if hidden else _kind(source.name)] += 1
            continue
        found.append(source)
    if not found:
        raise _nothing(where, passed)
    return found


def _member_order(member: zipfile.ZipInfo) -> tuple[str, str]:
    path = PurePosixPath(member.filename)
    return str(path.parent), path.name


def _check_member(member: zipfile.ZipInfo, where: str, limits: Limits) -> None:
    name = member.orig_filename.replace("\\", "/")
    path = PurePosixPath(name)
    base = path.name
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":" or "\0" in name:
        raise CTReadError(
            f"{where}: a member named {base!r} points outside the archive; such an archive is not "
            "opened",
            code=_UNSAFE,
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise CTReadError(
            f"{where}: the member {base!r} is a link; such an archive is not opened", code=_UNSAFE
        )
    if member.flag_bits & 0x1:
        raise CTReadError(
            f"{where}: the member {base!r} is encrypted; unpack the archive with its password and "
            "name the folder",
            code="encrypted_zip",
        )
    limits.check("max_file_bytes", member.file_size, f"{where}: the expanded size of {base!r}")


def _check_sizes(members: list[zipfile.ZipInfo], where: str, limits: Limits) -> None:
    """Announced sizes, which expanding never exceeds."""
    total = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    limits.check("max_total_bytes", total, f"{where}: the expanded size of all members")
    for size, compressed, what in [
        *((m.file_size, m.compress_size, PurePosixPath(m.filename).name) for m in members),
        (total, packed, "the whole archive"),
    ]:
        if size > limits.zip_ratio_floor and size > limits.max_zip_ratio * max(compressed, 1):
            raise CTReadError(
                f"{where}: {what} expands {size // max(compressed, 1)}-fold, above the limit of "
                f"{limits.max_zip_ratio}: a zip bomb. If it is a scan, unpack it, or allow it with "
                f"limits=Limits(max_zip_ratio={size // max(compressed, 1) + 1})",
                code=_UNSAFE,
            )


def _os_error(error: OSError, name: str) -> CTReadError:
    """An error of the operating system, without the folders in its path."""
    reason = error.strerror or type(error).__name__
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return CTReadError(f"{name} does not exist ({reason})", code="path_not_found")
    if isinstance(error, PermissionError):
        return CTReadError(
            f"{name} may not be read ({reason}); check its permissions", code="no_permission"
        )
    return CTReadError(f"{name} cannot be read: {reason}", code="read_failed")
