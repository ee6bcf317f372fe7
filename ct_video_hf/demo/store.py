"""Scans that visitors look at: on disk, under names that cannot be guessed, for a while."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dicom import CTVolume
from .limits import DemoLimits

__all__ = ["Kept", "Store"]


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
    files : dict of str to bytes
        What can be downloaded, by name.
    """

    token: str
    session: str
    folder: Path
    volume: CTVolume | None = None
    result: dict[str, Any] | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    touched: float = 0.0

    @property
    def bytes(self) -> int:
        """About what it takes."""
        held = sum(map(len, self.files.values()))
        return held + (0 if self.volume is None else self.volume.hu.nbytes)


class Store:
    """Keeps scans until their page is closed, their time is over, or room is needed.

    Everything lies in one temporary folder of mode 0700, which goes with :meth:`close`.
    """

    def __init__(self, limits: DemoLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.root = Path(tempfile.mkdtemp(prefix="ct-video-demo-"))
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
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

    def forget(self, session: str) -> None:
        """Delete everything of a page that was closed."""
        with self._lock:
            gone = [kept for kept in self._kept.values() if kept.session == session]
            for kept in gone:
                del self._kept[kept.token]
        self._remove(gone)

    def expire(self) -> None:
        """Delete what nobody has looked at for ``keep_seconds``."""
        with self._lock:
            latest = self._clock() - self.limits.keep_seconds
            gone = [kept for kept in self._kept.values() if kept.touched < latest]
            for kept in gone:
                del self._kept[kept.token]
        self._remove(gone)

    def close(self) -> None:
        """Delete everything."""
        self._closed.set()
        with self._lock:
            self._kept.clear()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sweep(self) -> None:
        while not self._closed.wait(min(60.0, self.limits.keep_seconds)):
            self.expire()

    @staticmethod
    def _remove(gone: list[Kept]) -> None:
        for kept in gone:
            kept.volume = kept.result = None
            kept.files = {}
            shutil.rmtree(kept.folder, ignore_errors=True)
