"""Scans that visitors look at: on disk, under names that cannot be guessed, for a while."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..dicom import CTVolume
from ..errors import CTVideoError
from .limits import DemoLimits

if TYPE_CHECKING:
    from ..inference.saliency import SaliencyMap

__all__ = ["Kept", "Store"]

_PREFIX = "ct-video-demo-"
_LOCK = ".lock"  # held while a server lives
_NEW_S = 60.0  # a folder may be younger than its lock
_DELETIONS = 20


@dataclass(eq=False)
class Kept:
    """One visitor's scan and its result, or a table.

    Attributes
    ----------
    token : str
        Its name in addresses.
    session : str
        The page that it belongs to.
    folder : pathlib.Path
        Where its volume lies.
    volume, result : CTVolume and dict, or None
    map : SaliencyMap or None
        Where the score comes from.
    no_map : str
        Why there is none, for people.
    files : dict of str to bytes
        What can be downloaded, by name.
    """

    token: str
    session: str
    folder: Path
    volume: CTVolume | None = None
    result: dict[str, Any] | None = None
    map: SaliencyMap | None = None
    no_map: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    touched: float = 0.0

    @property
    def bytes(self) -> int:
        """About what it takes."""
        held = sum(len(content) for content in self.files.values())
        held += 0 if self.map is None else self.map.grid.nbytes
        return held + (0 if self.volume is None else self.volume.hu.nbytes)


class Store:
    """Keeps scans until their page is closed, their time is over, or room is needed.

    Everything lies in one temporary folder of mode 0700, which goes with :meth:`close`. What a
    server left that was killed goes when the next one of the same user starts on that machine.

    Attributes
    ----------
    root : pathlib.Path
    uploads : pathlib.Path
        In it, where files arrive that have not been read yet.
    """

    def __init__(self, limits: DemoLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        _sweep_abandoned()
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        self._mine = FileLock(self.root / _LOCK, thread_local=False)
        self._mine.acquire()
        self.uploads = self.root / "uploads"
        self.uploads.mkdir(mode=0o700)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._arrived: dict[str, set[Path]] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._sweep, daemon=True, name="ct-video-demo-sweep").start()

    def __len__(self) -> int:
        return len(self._kept)

    def room(self, session: str) -> Kept:
        """A new, empty place, not yet found by :meth:`get`."""
        token = secrets.token_urlsafe(24)
        folder = self.root / token
        folder.mkdir(mode=0o700)
        return Kept(token, session, folder)

    def put(self, kept: Kept) -> None:
        """Keep; what a session kept before goes, then the oldest of others while room is short."""
        with self._lock:
            gone = [old for old in self._kept.values() if old.session == kept.session]
            kept.touched = self._clock()
            self._kept[kept.token] = kept
            others = sorted(self._kept.values(), key=lambda one: one.touched)
            total = sum(one.bytes for one in others if one not in gone)
            for old in others:
                if total <= self.limits.keep_bytes or old is kept:
                    break
                if old not in gone:
                    gone.append(old)
                    total -= old.bytes
            for old in gone:
                del self._kept[old.token]
        self._remove(gone)

    def get(self, token: str) -> Kept | None:
        """What is kept under a token; looking at it keeps it longer."""
        with self._lock:
            kept = self._kept.get(token)
            if kept is not None:
                kept.touched = self._clock()
            return kept

    def discard(self, kept: Kept) -> None:
        """Delete one place, kept or not."""
        with self._lock:
            self._kept.pop(kept.token, None)
        self._remove([kept])

    def arrived(self, session: str, paths: list[str]) -> None:
        """Remember that uploads belong to a page; :meth:`forget` deletes what is still there."""
        with self._lock:
            self._arrived.setdefault(session, set()).update(map(self.arrival, paths))

    def own(self, path: str | os.PathLike) -> Path:
        """Move an upload that has just arrived to a folder of its own; where it lies then.

        Gradio names its folder by content, and two visitors who send the same scan would read, and
        delete, the same file. The new name is random, and as long as the old one.
        """
        found = self.arrival(path)
        folder = self.uploads / secrets.token_hex(len(found.parent.name) // 2)
        folder.mkdir(mode=0o700)
        try:
            os.replace(found, folder / found.name)
        except FileNotFoundError:
            folder.rmdir()
            return found
        with suppress(OSError):  # others lie beside it
            found.parent.rmdir()
        return folder / found.name

    def arrival(self, path: str | os.PathLike) -> Path:
        """The path of an upload; what lies anywhere else is nobody's to name.

        Raises
        ------
        CTVideoError
            When it is not in :attr:`uploads`.
        """
        found = Path(os.path.realpath(path))
        if self.uploads not in found.parents:
            raise CTVideoError("This is no uploaded file. Drop a zip, DICOM files or NIfTI.")
        return found

    def room_for(self, count: int) -> bool:
        """Whether this many bytes may arrive."""
        held = sum(size for _, size, _ in self._uploaded())
        return held + count <= self.limits.arriving_bytes

    def forget(self, session: str) -> None:
        """Delete everything of a page that was closed."""
        with self._lock:
            arrived = self._arrived.pop(session, set())
            gone = [kept for kept in self._kept.values() if kept.session == session]
            for kept in gone:
                del self._kept[kept.token]
        for path in arrived:
            self._delete_upload(path)
        self._remove(gone)

    def expire(self) -> None:
        """Delete what nobody has looked at for ``keep_seconds``, and uploads never read."""
        with self._lock:
            latest = self._clock() - self.limits.keep_seconds
            gone = [kept for kept in self._kept.values() if kept.touched < latest]
            for kept in gone:
                del self._kept[kept.token]
        self._remove(gone)
        for path, _, written in self._uploaded():
            if written < time.time() - self.limits.arrived_seconds:
                self._delete_upload(path)
        with self._lock:
            for session, paths in list(self._arrived.items()):
                if not any(path.exists() for path in paths):
                    del self._arrived[session]

    def _delete_upload(self, path: Path) -> None:
        """A file, and the folder that was made for it alone."""
        path.unlink(missing_ok=True)
        if path.parent != self.uploads:
            with suppress(OSError):  # others lie beside it, or it is gone
                path.parent.rmdir()

    def _uploaded(self) -> list[tuple[Path, int, float]]:
        """Path, bytes and time of writing of what has arrived, in whole or in part."""
        found = []
        for folder, _, names in os.walk(self.uploads):
            for name in names:
                path = Path(folder) / name
                with suppress(FileNotFoundError):  # read in the meantime
                    about = path.stat()
                    found.append((path, about.st_size, about.st_mtime))
        return found

    def close(self) -> None:
        """Delete everything."""
        self._closed.set()
        with self._lock:
            self._kept.clear()
            self._arrived.clear()
        self._mine.release()
        for _ in range(_DELETIONS):  # an upload that is still arriving may write in between
            shutil.rmtree(self.root, ignore_errors=True)
            if not self.root.exists():
                break
            time.sleep(0.1)

    def _sweep(self) -> None:
        while not self._closed.wait(min(60.0, self.limits.keep_seconds)):
            self.expire()

    @staticmethod
    def _remove(gone: list[Kept]) -> None:
        for kept in gone:
            kept.volume = kept.result = kept.map = None
            kept.files = {}
            shutil.rmtree(kept.folder, ignore_errors=True)


def _sweep_abandoned() -> None:
    """Delete folders of servers that were killed: nobody holds their locks any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):  # another user's, a living server's, or gone
            about = folder.lstat()
            old = about.st_mtime < time.time() - _NEW_S
            if not (stat.S_ISDIR(about.st_mode) and old and (folder / _LOCK).is_file()):
                continue
            with FileLock(folder / _LOCK, blocking=False):
                shutil.rmtree(folder)
