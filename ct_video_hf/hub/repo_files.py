"""Hashes of files: as a repository of the Hub tells them, and of what is sent there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

__all__ = ["hashes_of", "hashes_on_hub"]

_CHUNK = 1 << 20


def hashes_on_hub(api: Any, repo: str, revision: str, kind: str = "model") -> dict[str, str]:
    """Path -> SHA-256 of a large file, git's SHA-1 of a small one; ``kind`` as in ``repo_type``."""
    entries = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in entries
        if hasattr(entry, "blob_id")
    }


def hashes_of(entry: Path | bytes) -> tuple[str, str]:
    """SHA-256 of a file or its content, and git's SHA-1: the Hub tells the one or the other."""
    size = entry.stat().st_size if isinstance(entry, Path) else len(entry)
    large, small = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if isinstance(entry, bytes):
        large.update(entry)
        small.update(entry)
    else:
        with entry.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                large.update(chunk)
                small.update(chunk)
    return large.hexdigest(), small.hexdigest()
