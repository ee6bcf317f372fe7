"""What must not be published in a text: identifiers of patients, secrets, places on a machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["find_private", "find_private_json", "is_identifying"]

_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (words, re.compile(pattern))
    for words, pattern in (
        ("an access token of the Hub", r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}\b"),
        ("an AWS access key", r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[0-9A-Z]{16}\b"),
        (
            "an AWS secret key",
            r"(?i)\baws.{0,30}?(?:secret|key)[\w\"']{0,12}\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
        ),
        ("a private key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"),
        ("a GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}"),
        (
            "an API key",
            r"\bsk-[A-Za-z0-9_-]{20,}|\bAIza[\w-]{35}|\bxox[abeprs]-[\w-]{10,}|\bglpat-[\w-]{20,}",
        ),
        ("a web token", r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."),
        ("a password in an address", r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/:@\"']+@"),
        (
            "a password",
            r"(?i)\b(?:password|passwd|client_secret|api_?key|access_token|auth_token)[\"']?"
            r"\s*[:=]\s*[\"']?[^\s\"',}]{6,}",
        ),
        ("a DICOM UID", r"\b[0-2](?:\.(?:0|[1-9]\d*)){6,}\b"),
        ("a mail address", r"(?i)\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b"),
        (
            "a person's name as DICOM writes it",
            r"\b[A-Z][^\W\d_'’-]*[^\W\d_]['’-]?[^\W\d_]*\^[^\W\d_]{2,}",
        ),
        (
            "a place on a machine",
            # not 3/4, he/she, https://host/data/x, nor /dev alone; POSIX, Windows, shares, file:
            r"(?<![\w.:/~<-])~?/[A-Za-z_][\w.-]*/[\w.\-/]+|(?<![\w.:/~-])~/[\w.\-/]+"
            r"|\b[A-Za-z]:\\+[\w.\- \\]+|\\{2,}[\w.-]+\\+[\w.$-]+|\bfile:/+[\w.\-/]+",
        ),
    )
)

#: DICOM's and everybody's words for who was scanned, when and where, without spaces and lines.
_IDENTIFYING = re.compile(
    r"""(other)?patients?(id|ids|name|names|birthdate|birthtime|address|telephonenumbers|hash|hashes)
    |patients?|patientsname|patientsmothersbirthname|issuerofpatientid|accessionnumber
    |(study|series|sopinstance|frameofreference)(instance)?uid|studyids?
    |(study|series|acquisition|content)(date|time)|institution(name|address)|stationname
    |(referring|performing|requesting)physicians?(name)?|physiciansofrecord|operatorsname
    |deviceserialnumber|mrn|medicalrecordnumber|ssn|socialsecuritynumber|nhsnumber|nationalid
    |hospitalnumber|dateofbirth|birthdate|dob|firstname|lastname|surname|givenname|familyname""",
    re.VERBOSE,
)


def is_identifying(name: str) -> bool:
    """Whether a key or a table's column holds who was scanned, when or where, by its name."""
    return _IDENTIFYING.fullmatch(re.sub(r"[\W_]+", "", name).lower()) is not None


def find_private(text: str) -> list[str]:
    """Every kind of thing that a text must not hold, with its first line, and without repeating it.

    Returns
    -------
    list of str
        Such as ``"a DICOM UID (line 3)"``; empty for a text that may be published.
    """
    found = []
    for words, pattern in _RULES:
        match = pattern.search(text)
        if match is not None:
            found.append(f"{words} (line {text.count(chr(10), 0, match.start()) + 1})")
    return found


def find_private_json(content: Any) -> list[str]:
    """:func:`find_private` of decoded strings, and keys that name who was scanned.

    Escapes in a JSON file (``\\u002f``) hide nothing from it.
    """
    found = []
    for text, is_key in _strings(content):
        found += [hit.partition(" (line")[0] for hit in find_private(text)]
        if is_key and is_identifying(text):
            found.append(f"what identifies a patient or a study, by its key ({text})")
    return sorted(set(found))


def _strings(content: Any) -> Iterator[tuple[str, bool]]:
    """Strings of a JSON document, each with whether it is a key."""
    waiting = [content]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            for key in entry:
                yield key, not isinstance(entry[key], bool | int | float)  # counts may stay
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry
        elif isinstance(entry, str):
            yield entry, False
