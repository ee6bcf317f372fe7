"""Fetching published checkpoints: once, resumed, verified.

Files come from the address that the authors published, which are plain web servers and not the
Hub; they are kept in ``ct_video_hf`` inside the Hugging Face home folder.
"""

from __future__ import annotations

import email.utils
import hashlib
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants
from tqdm.auto import tqdm

from .records import WeightRecord

__all__ = ["DownloadError", "cached_path", "fetch", "sha256_of"]

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0
ATTEMPTS = 5
PAUSE_S = 1.0
LONGEST_PAUSE_S = 120.0
_CHUNK = 1 << 20
_GONE_FOR_GOOD = frozenset({400, 401, 403, 404, 405, 410, 451})


class DownloadError(OSError):
    """A published checkpoint could not be fetched or is not the file that was published."""


def cached_path(record: WeightRecord, cache_dir: str | Path | None = None) -> Path:
    """Where the file of ``record`` is kept, downloaded or not.

    Raises
    ------
    ValueError
        For weights without an address: those are never downloaded.
    """
    if record.url is None:
        raise ValueError("These weights have no address to download them from.")
    folder = Path(constants.HF_HOME) / "ct_video_hf" if cache_dir is None else Path(cache_dir)
    return folder / Path(urllib.parse.urlsplit(record.url).path).name


def sha256_of(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(record: WeightRecord, cache_dir: str | Path | None = None) -> Path:
    """Download published weights, or find them in the cache, and verify them.

    A cut download goes on where it stopped, in this process or a later one. The hash is compared
    with the published one and with that of the first download, which is kept beside the file. A
    file that lies in a cache which may only be read is used as it is found there.

    Parameters
    ----------
    record : WeightRecord
        What to fetch.
    cache_dir : path, optional
        Folder to keep it in, instead of ``ct_video_hf`` in the Hugging Face home.

    Raises
    ------
    DownloadError
        When the server cannot be reached, refuses, or sends something else than the file; when the
        hash differs, the disk is full or the cache cannot be written; or when the file is absent in
        offline mode (``HF_HUB_OFFLINE=1``).
    """
    path = cached_path(record, cache_dir)
    with _locked(path) as may_write:
        if path.exists():
            _verify(path, record, may_write)
            return path
        if constants.is_offline_mode():
            raise DownloadError(
                f"{path.name} is not in the cache and HF_HUB_OFFLINE is set. Download "
                f"{record.url} elsewhere and put it at {path}."
            )
        if not may_write:
            raise DownloadError(
                f"{path.name} is not in the cache, and nothing can be written to {path.parent}. "
                "Name another folder with HF_HOME or cache_dir."
            )
        part = path.with_name(path.name + ".part")
        _download(record.url, part)
        _refuse_web_page(part, record.url)
        digest = sha256_of(part)
        if record.sha256 is not None and not digest.startswith(record.sha256):
            part.unlink()
            raise DownloadError(_mismatch(path.name, record.url, digest, record.sha256))
        _write_pin(path, digest)
        os.replace(part, path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Keep other processes away from ``path``; False where its folder may only be read."""
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _pin(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write_pin(path: Path, digest: str) -> None:
    draft = _pin(path).with_suffix(".tmp")
    draft.write_text(digest + "\n", encoding="ascii")
    os.replace(draft, _pin(path))


def _verify(path: Path, record: WeightRecord, may_write: bool) -> None:
    """Compare a cached file with the published hash and with the pinned one."""
    found, pin = sha256_of(path), _pin(path)
    if pin.exists():
        pinned = pin.read_text(encoding="ascii").strip()
    else:  # a file that the user put there
        pinned = found
        if may_write and (record.sha256 is None or found.startswith(record.sha256)):
            _write_pin(path, found)
    for expected in (record.sha256, pinned):
        if expected is None or found.startswith(expected):
            continue
        words = "The damaged or exchanged file lies in the cache and cannot be removed."
        if may_write:
            path.unlink()
            pin.unlink(missing_ok=True)
            words = "The damaged or exchanged file has been removed; try again."
        raise DownloadError(f"{_mismatch(path.name, record.url, found, expected)} {words}")


def _mismatch(name: str, url: str | None, found: str, expected: str) -> str:
    return f"{name} from {url} has sha256 {found}; {expected} was expected."


def _refuse_web_page(part: Path, url: str) -> None:
    """A login page or a portal's answer is no checkpoint, whatever its status."""
    with part.open("rb") as file:
        start = file.read(64).lstrip()
    if not start or start.startswith(b"<"):
        part.unlink()
        what = "a web page" if start else "nothing"
        raise DownloadError(
            f"{url} answered with {what} instead of a checkpoint; a proxy or a login may be in the "
            "way. Download it with a browser and give its path, or put it into the cache."
        )


class _Failed(OSError):
    """An attempt that may go better later; ``pause`` is what the server asks for, in seconds."""

    def __init__(self, problem: Exception, pause: float | None = None) -> None:
        super().__init__(str(problem))
        self.pause = pause


def _download(url: str, part: Path) -> None:
    """Fill ``part`` from ``url``, going on after what is there."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is neither http nor https.")
    failures, most = 0, _size(part)
    while True:
        try:
            _attempt(url, part)
            return
        except _Failed as error:
            problem = error
        failures = 0 if _size(part) > most else failures + 1
        most = max(most, _size(part))
        logger.warning("Download of %s stopped at %d bytes: %s", url, _size(part), problem)
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"{url} could not be downloaded: {ATTEMPTS} attempts in a row brought nothing; the "
                f"last said: {problem}. What arrived is kept and the next try goes on from there."
            ) from problem
        usual = PAUSE_S * 2 ** max(failures - 1, 0)
        time.sleep(usual if problem.pause is None else problem.pause)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _attempt(url: str, part: Path) -> None:
    """One request; problems that may pass become :class:`_Failed`, others DownloadError."""
    try:
        _transfer(url, part)
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there does not fit the file: start over
            part.unlink(missing_ok=True)
        elif error.code in _GONE_FOR_GOOD:
            raise DownloadError(f"{url} answered {error.code} {error.reason}.") from error
        raise _Failed(error, _wanted_pause(error.headers.get("Retry-After"))) from error
    except (OSError, HTTPException) as error:
        raise _Failed(error) from error


def _wanted_pause(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdigit():
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_PAUSE_S)


def _transfer(url: str, part: Path) -> None:
    tag_file = part.with_name(part.name + ".etag")
    have = _size(part)
    headers = {"User-Agent": "ct-video-hf"}
    if have and tag_file.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text(encoding="latin-1")}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise DownloadError(f"{url} leads to {answer.url}, which is not encrypted.")
        start = _start_of(answer, have)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        with _local(part):
            tag_file.unlink(missing_ok=True)
            if tag and not tag.startswith("W/"):
                tag_file.write_text(tag, encoding="latin-1")
        _store(answer, part, start)
    tag_file.unlink(missing_ok=True)


def _start_of(answer: HTTPResponse, have: int) -> int:
    """Where the answer's first byte belongs: after what is there, or at the beginning."""
    if answer.status != 206:
        return 0
    sent = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
    if sent is not None and int(sent[1]) != have:
        raise DownloadError(
            f"{answer.url} was asked for the bytes from {have} on and sent those from {sent[1]} on."
        )
    return have


@contextmanager
def _local(part: Path) -> Iterator[None]:
    """Errors of the disk, which no further attempt mends."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DownloadError(
            f"{part.name.removesuffix('.part')} cannot be written to {part.parent}: {reason}. What "
            "arrived is kept; make room or name another folder with HF_HOME or cache_dir."
        ) from error


def _store(answer: HTTPResponse, part: Path, start: int) -> None:
    length = answer.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    name = part.name.removesuffix(".part")
    if total is not None:
        _check_room(part, total - (start or _size(part)))
    with _local(part):
        file = part.open("ab" if start else "wb")
    with file, tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name) as bar:
        while chunk := answer.read(_CHUNK):
            with _local(part):
                file.write(chunk)
                file.flush()
            bar.update(len(chunk))
        size = file.tell()
    if total is not None and size != total:
        raise OSError(f"the connection ended after {size} of {total} bytes")


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise DownloadError(
            f"{part.name.removesuffix('.part')} needs {needed / 1e6:,.0f} MB and {part.parent} has "
            f"{free / 1e6:,.0f} MB left. Make room, or name another folder with HF_HOME or "
            "cache_dir."
        )
