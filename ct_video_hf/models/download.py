"""Fetching published checkpoints: once, resumed, verified.

Files come from the address that the authors published, which are plain web servers and not the
Hub; they are kept in ``ct_video_hf`` inside the Hugging Face home folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
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
    with the published one; where nobody published one, the hash of the first download is kept
    beside the file and later uses are compared with it.

    Parameters
    ----------
    record : WeightRecord
        What to fetch.
    cache_dir : path, optional
        Folder to keep it in, instead of ``ct_video_hf`` in the Hugging Face home.

    Raises
    ------
    DownloadError
        When the server cannot be reached or refuses, the hash differs, or the file is absent in
        offline mode (``HF_HUB_OFFLINE=1``).
    """
    path = cached_path(record, cache_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            if constants.is_offline_mode():
                raise DownloadError(
                    f"{path.name} is not in the cache and HF_HUB_OFFLINE is set. Download "
                    f"{record.url} elsewhere and put it at {path}."
                )
            part = path.with_name(path.name + ".part")
            _download(record.url, part)
            _verify(part, record.sha256, record.url)
            _write_pin(path, sha256_of(part))
            os.replace(part, path)
        else:
            _verify(path, record.sha256 or _read_pin(path), record.url)
    return path


def _pin(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write_pin(path: Path, digest: str) -> None:
    draft = _pin(path).with_suffix(".tmp")
    draft.write_text(digest + "\n", encoding="ascii")
    os.replace(draft, _pin(path))


def _read_pin(path: Path) -> str | None:
    pin = _pin(path)
    if pin.exists():
        return pin.read_text(encoding="ascii").strip()
    _write_pin(path, sha256_of(path))  # a file that the user put there
    return None


def _verify(path: Path, expected: str | None, url: str) -> None:
    if expected is None:
        return
    found = sha256_of(path)
    if not found.startswith(expected):
        path.unlink()
        raise DownloadError(
            f"{path.name} from {url} has sha256 {found}; {expected} was expected. The damaged or "
            "exchanged file has been removed; try again."
        )


def _download(url: str, part: Path) -> None:
    """Fill ``part`` from ``url``, going on after what is there."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is neither http nor https.")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _transfer(url, part)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is there does not fit the file: start over
                part.unlink(missing_ok=True)
            elif error.code in _GONE_FOR_GOOD:
                raise DownloadError(f"{url} answered {error.code} {error.reason}.") from error
            problem: Exception = error
        except (OSError, HTTPException) as error:
            problem = error
        else:
            return
        logger.warning("Download of %s, attempt %d of %d: %s", url, attempt, ATTEMPTS, problem)
        if attempt < ATTEMPTS:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
    raise DownloadError(
        f"{url} could not be downloaded in {ATTEMPTS} attempts; the last said: {problem}. What "
        "arrived is kept and the next try goes on from there."
    ) from problem


def _transfer(url: str, part: Path) -> None:
    tag_file = part.with_name(part.name + ".etag")
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "ct-video-hf"}
    if have and tag_file.exists():
        headers |= {"Range": f"bytes={have}-", "If-Range": tag_file.read_text(encoding="latin-1")}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        resumed = answer.status == 206
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag, encoding="latin-1")
        _store(answer, part, have if resumed else 0)
    tag_file.unlink(missing_ok=True)


def _store(answer: HTTPResponse, part: Path, start: int) -> None:
    length = answer.headers.get("Content-Length")
    total = None if length is None else start + int(length)
    name = part.name.removesuffix(".part")
    with (
        part.open("ab" if start else "wb") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name) as bar,
    ):
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        size = file.tell()
    if total is not None and size != total:
        raise OSError(f"the connection ended after {size} of {total} bytes")
