"""A Python that has no packages but those that a requirements.txt names, and what those need.

This package is hidden where it is installed, and found where a script lies beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_HOOK = """
import sys
from importlib.machinery import PathFinder

HIDDEN = frozenset({hidden})


class Listed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None and name in HIDDEN:
            return PathFinder.find_spec(name, sys.path[:1], target)
        return PathFinder.find_spec(name, path, target)


sys.meta_path[:] = [
    Listed if finder is PathFinder else finder
    for finder in sys.meta_path
    if not getattr(finder, "__module__", "").startswith("__editable__")
]
"""


def hide_unlisted(lines: Iterable[str], folder: Path) -> Path:
    """A folder for PYTHONPATH that hides every installed package that ``lines`` do not ask for."""
    kept = _closure(lines)
    hidden = [
        module
        for module, names in metadata.packages_distributions().items()
        if not kept.intersection(map(_plain, names))
    ]
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HOOK.format(hidden=json.dumps(sorted(hidden))))
    return folder


def _closure(lines: Iterable[str]) -> set[str]:
    """Names of the distributions that requirements lead to, among those installed."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in lines]
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = _plain(wanted.name)
        for part in ("", *wanted.extras):
            if (name, part) in found:
                continue
            found.add((name, part))
            try:
                needed = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # another system's
                continue
            waiting += [(Requirement(line), part) for line in needed]
    return {name for name, _ in found}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
