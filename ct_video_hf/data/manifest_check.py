"""Is a manifest what :mod:`.prepared` writes? Asked before anything in it is believed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from .labels import SPLITS

__all__ = ["is_record", "what_is_wrong"]

#: Names of files are made of these; nothing else of a manifest leads to a file.
_KEY = re.compile(r"[0-9a-f]{16}")
_TABLE = re.compile(r"\w+")

_Rule = tuple[str, Callable[[Any], bool]]


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


def _list_of(*kinds: type, count: int | None = None) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        right = type(value) is list and count in (None, len(value))
        return right and all(type(each) in kinds for each in value)

    return holds


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _or_null(rule: _Rule) -> _Rule:
    expected, fits = rule
    return f"{expected} or null", lambda value: value is None or fits(value)


def _studies(value: Any) -> bool:
    return _list_of(dict)(value) and len(value) > 0


def _tables(value: Any) -> bool:
    return type(value) is dict and all(map(_TABLE.fullmatch, value))


_TEXT: _Rule = ("text", _is(str))
_OBJECT: _Rule = ("an object", _is(dict))
_COUNT: _Rule = ("a count", _count)

#: Field -> what it has to be. Those below are reached once those above are right.
_SET: dict[tuple[str, ...], _Rule] = {
    ("parameters",): _OBJECT,
    ("parameters", "size"): _COUNT,
    ("provenance",): _OBJECT,
    ("provenance", "name"): _TEXT,
    ("provenance", "description"): _TEXT,
    ("provenance", "licence"): _TEXT,
    ("label_names",): ("a list of names", _list_of(str)),
    ("splits",): _OBJECT,
    **{("splits", split): _COUNT for split in SPLITS},
    ("rejected",): _COUNT,
    ("index",): _OBJECT,
    ("index", "bytes"): _COUNT,
    ("index", "xxh3"): _TEXT,
    ("finding",): _or_null(_COUNT),
    ("label_weights",): _or_null(("a list of numbers", _list_of(int, float))),
    ("side_tables",): _or_null(("an object with names of tables", _tables)),
    ("studies",): ("a list of studies", _studies),
}

_STUDY: dict[str, _Rule] = {
    "study_id": _TEXT,
    "key": ("16 hexadecimal digits", lambda key: type(key) is str and bool(_KEY.fullmatch(key))),
    "split": (f"one of {', '.join(SPLITS)}", lambda split: split in SPLITS),
    "patient_hash": _TEXT,
    "labels": ("a list of numbers", _list_of(int, float)),
    "shape": ("three whole numbers", _list_of(int, count=3)),
    "spacing": ("three numbers", _list_of(int, float, count=3)),
    "positive_slices": _or_null(_COUNT),
    "bytes": _COUNT,
    "xxh3": _TEXT,
}


def is_record(value: Any) -> bool:
    """Whether a value is what is kept of a finished study."""
    return type(value) is dict and not any(_wrong_fields(value))


def _wrong_fields(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    return (
        (field, expected)
        for field, (expected, fits) in _STUDY.items()
        if not fits(record.get(field))
    )


def what_is_wrong(manifest: dict[str, Any]) -> str | None:
    """The first thing in a manifest that cannot be, in words; None where all of it can.

    Parameters
    ----------
    manifest : dict
        Of the format that this version reads.
    """
    for path, (expected, fits) in _SET.items():
        value: Any = manifest
        for name in path:
            value = value.get(name)
        if not fits(value):
            return f"{'.'.join(path)} is {_shown(value)}; {expected} is expected"
    studies = manifest["studies"]
    for place, record in enumerate(studies):
        for field, expected in _wrong_fields(record):
            return (
                f"studies[{place}].{field} is {_shown(record.get(field))}; {expected} is expected"
            )
    for field in ("study_id", "key"):
        value, times = Counter(record[field] for record in studies).most_common(1)[0]
        if times > 1:
            return f"{field} {value!r} is there {times} times"
    found = Counter(record["split"] for record in studies)
    for split in SPLITS:
        if manifest["splits"][split] != found[split]:
            return (
                f"it counts {manifest['splits'][split]} studies of {split} and has {found[split]}"
            )
    labels, weights = len(manifest["label_names"]), manifest.get("label_weights") or []
    if (manifest.get("finding") or 0) >= max(labels, 1) or len(weights) not in (0, labels):
        return "its finding or its weights are not those of its labels"
    return None


def _shown(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
