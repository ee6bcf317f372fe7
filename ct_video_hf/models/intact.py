"""Files of the Hub's cache are what the Hub says they are; its client does not compare hashes.

The cache names a file by the hash that the Hub told: SHA-256 for large files, git's SHA-1 for small
ones. A byte that was flipped on the way would otherwise become a slightly wrong weight.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

__all__ = ["DamagedDownloadError", "check_cached_weights", "check_intact"]

_CHUNK = 1 << 20
_INDEX = "model.safetensors.index.json"


class DamagedDownloadError(OSError):
    """A file of the cache is not the one that the Hub has; it was removed."""


def check_intact(files: Iterable[Path], repo: str) -> None:
    """Compare files of the Hub's cache with the hashes that they are named by.

    Files whose names tell no hash, as a mirror or a file system without links makes them, are
    left alone.

    Raises
    ------
    DamagedDownloadError
        For the first file that differs. It is taken out of the cache, so that the next attempt
        fetches it anew.
    """
    for path in files:
        blob = path.resolve()
        if blob == path.absolute() or _is_named_by_its_hash(blob):
            continue
        words = "The damaged file was removed from the cache; try again."
        try:
            path.unlink()
            blob.unlink()
        except OSError:
            words = "It lies in the cache and could not be removed; remove it and try again."
        raise DamagedDownloadError(
            f"{path.name} of {repo} was damaged on its way from the Hub: its hash is not the one "
            f"that the Hub tells. {words}"
        )


def _is_named_by_its_hash(blob: Path) -> bool:
    name = blob.name
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        return True
    size = blob.stat().st_size
    hashes = [hashlib.sha256()]
    if len(name) == 40:  # git's own, or the plain one that mirrors tell
        hashes = [hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)]
        hashes.append(hashlib.sha1(usedforsecurity=False))
    with blob.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for entry in hashes:
                entry.update(chunk)
    return name in [entry.hexdigest() for entry in hashes]


def check_cached_weights(name: Any, **kwargs: Any) -> None:
    """:func:`check_intact` of the weights that ``from_pretrained(name, **kwargs)`` reads.

    Folders on this machine have no hashes to compare with.

    Raises
    ------
    DamagedDownloadError
    """
    if not isinstance(name, str) or Path(name).is_dir():
        return
    where = {
        "cache_dir": kwargs.get("cache_dir"),
        "revision": kwargs.get("_commit_hash") or kwargs.get("revision"),
    }
    index = _cached(name, _INDEX, where)
    names = ["model.safetensors"]
    if index is not None:
        check_intact([index], name)
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found = [_cached(name, file, where) for file in names]
    check_intact([path for path in found if path is not None], name)


def _cached(repo: str, file: str, where: dict[str, Any]) -> Path | None:
    path = try_to_load_from_cache(repo, file, **where)
    return Path(path) if isinstance(path, str) else None
