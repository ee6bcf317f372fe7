"""The files beside the studies of a prepared set: parameters, journal, manifest, private folder.

==================  ===============================================================================
studies/*.arrow     one file a study, written under a temporary name and then moved into place
index.arrow         the small columns of all studies, so that opening a set opens no study
parameters.json     what the set is made with; written first, so that a set is never a mixture
journal.jsonl       one line a finished study while a run is under way; gone when the set is whole
manifest.json       versions, parameters, counts, and each study's hash; written last
rejects.csv         studies that could not be read, with the reason
splits.csv          study and split: enough to publish or reuse the split
fractions.csv       training study and the smallest data fraction that holds it
README.md           the data card
private/            the salt of the hashes, the key to hashed study ids and, where names are
                    hashed, rejects.csv with names of files: never publish it
==================  ===============================================================================
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import first_line
from ..files import replacing, write_csv
from .errors import CTDataError
from .index import write_index
from .manifest_check import is_record, what_is_wrong

__all__ = [
    "FORMAT_VERSION",
    "SetFolder",
    "count_findings",
    "digest_of",
    "is_positive",
    "journal_line",
    "read_manifest",
    "salted_hash",
    "versions",
    "write_text",
]

#: Raised when older sets can no longer be read or continued.
FORMAT_VERSION = 2

_FORMAT = "ct_video_hf prepared set"
#: The names that :func:`ct_video_hf.files.replacing` writes under.
_HALF_WRITTEN = re.compile(r"\.\d+-.+")
_BEGINNING = re.compile(r"\.\d+-parameters\.json")
_LIBRARIES = ("numpy", "opencv-python-headless", "pyarrow", "pydicom", "imagecodecs")


def write_text(path: Path, text: str) -> None:
    """Write a text file; an older one is replaced by a complete one."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value, the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def salted_hash(salt: str, kind: str, text: str) -> str:
    """First 16 hexadecimal digits of an HMAC: tells nothing about ``text`` without the salt."""
    return hmac.new(salt.encode(), f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what is in a set."""
    found = {"ct-video-hf": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found


def is_positive(record: dict[str, Any]) -> bool:
    """Whether the study of a manifest's record counts as positive."""
    return record.get("positive", any(label > 0 for label in record["labels"]))


def count_findings(records: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Finding of reading -> how many of the studies have it, the most frequent first."""
    counts = Counter(code for record in records for code in record.get("findings", ()))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a complete prepared set.

    Raises
    ------
    CTDataError
        When the folder is no prepared set, is not complete, is damaged, or has a newer format.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    if not path.is_file():
        if (folder / "parameters.json").is_file():
            raise CTDataError(
                f"the prepared set {folder.name} is not complete: run the same `prepare` again, it "
                "goes on where it stopped"
            )
        raise CTDataError(f"{folder} is not a prepared set (no manifest.json)")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"not valid JSON: {first_line(error)}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise CTDataError(f"{folder} is not a prepared set (manifest.json of another kind)")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CTDataError(
            f"the prepared set {folder.name} has format {manifest.get('format_version')}, this "
            f"version of ct_video_hf reads {FORMAT_VERSION}: prepare it again or change the version"
        )
    wrong = what_is_wrong(manifest)
    if wrong is not None:
        raise _damaged(folder, wrong)
    return manifest


def _damaged(folder: Path, what: str) -> CTDataError:
    return CTDataError(
        f"manifest.json of {folder.name} is damaged: {what}. Copy the set again, or delete that "
        "file and run the same `prepare`, which makes the set anew"
    )


class SetFolder:
    """The folder of a set that is being prepared."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.studies = self.path / "studies"
        self.private = self.path / "private"
        self._journal = self.path / "journal.jsonl"
        self._manifest = self.path / "manifest.json"
        self.index = self.path / "index.arrow"

    def refuse_foreign(self) -> None:
        """Refuse a folder that holds something other than a prepared set, before writing."""
        if self.path.exists() and not self.path.is_dir():
            raise CTDataError(f"{self.path} is a file; a folder is needed for the prepared set")
        strangers = self.path.is_dir() and any(
            entry.name not in (".lock", "private") and not _BEGINNING.fullmatch(entry.name)
            for entry in self.path.iterdir()
        )
        if strangers and not (self.path / "parameters.json").is_file():
            raise CTDataError(
                f"{self.path} holds other files and no prepared set: choose a new or empty folder"
            )

    def study_file(self, key: str) -> Path:
        """Where the row of the study with this key lies."""
        return self.studies / f"{key}.arrow"

    # ---- before the studies ----------------------------------------------------------------------

    def salt(self, given: str | None) -> str:
        """The salt of the set: the one given, the one it has, or a new random one."""
        path = self.private / "salt"
        held = path.read_text(encoding="utf-8").strip() if path.is_file() else None
        if given is not None and held is not None and given != held:
            raise CTDataError(
                f"{self.path.name} was begun with another salt; give that one, or choose a new "
                "folder"
            )
        if held is None:
            held = given or secrets.token_hex(32)
            self.private.mkdir(parents=True, exist_ok=True)
            write_text(self.private / ".gitignore", "*\n")
            write_text(path, held + "\n")
            path.chmod(0o600)
        return held

    def open(self, parameters: dict[str, Any]) -> None:
        """Make the folder, or check that it was begun with the same parameters."""
        path = self.path / "parameters.json"
        if path.is_file():
            held = self._parameters_held(path)
            other = sorted(
                name
                for name in {*held, *parameters}
                if held.get(name, "(none)") != parameters.get(name, "(none)")
            )
            if other:
                changes = ", ".join(
                    f"{name} {held.get(name)!r} -> {parameters.get(name)!r}" for name in other
                )
                raise CTDataError(
                    f"{self.path.name} was prepared with other parameters ({changes}). A set is "
                    "never a mixture: choose a new folder, or delete this one."
                )
        # first of all: by this file a run that was killed knows the folder as its own
        write_text(path, json.dumps(parameters, indent=1, sort_keys=True) + "\n")
        self.studies.mkdir(parents=True, exist_ok=True)
        self.remove_leftovers()

    def _parameters_held(self, path: Path) -> dict[str, Any]:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(held, dict):
                raise ValueError("no JSON object")
        except (ValueError, RecursionError) as error:
            raise CTDataError(
                f"parameters.json of {self.path.name} is damaged: {first_line(error)}. What the "
                "studies in it were made with is not known: choose a new folder, or delete this one"
            ) from error
        return held

    def remove_leftovers(self) -> None:
        """Half-written files of a run that was killed; the lock says that none is at work."""
        for leftover in self.studies.glob(".*.partial"):
            leftover.unlink()
        for folder in (self.path, self.private):
            for entry in folder.iterdir() if folder.is_dir() else ():
                if _HALF_WRITTEN.match(entry.name):
                    entry.unlink()

    # ---- the records of finished studies ---------------------------------------------------------

    def records(self) -> dict[str, dict[str, Any]]:
        """Study id -> record of every finished study whose file has the size it should have.

        A line of the journal that is damaged costs its study, which is prepared again.
        """
        records = {}
        if self._manifest.is_file():
            records = {r["study_id"]: r for r in read_manifest(self.path)["studies"]}
        if self._journal.is_file():
            text = self._journal.read_text(encoding="utf-8", errors="replace")
            for record in filter(is_record, map(_from_line, text.split("\n"))):
                records[record["study_id"]] = record
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self.studies)}
        return {
            study: record
            for study, record in records.items()
            if sizes.get(f"{record['key']}.arrow") == record["bytes"]
        }

    def begin_journal(self, records: Iterable[dict[str, Any]]) -> Path:
        """Start a journal that holds ``records``; the set is incomplete from now on."""
        write_text(self._journal, "".join(journal_line(record) for record in records))
        self._manifest.unlink(missing_ok=True)
        return self._journal

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write splits, index and manifest; the set is complete."""
        studies = [{"study": r["study_id"], "split": r["split"]} for r in manifest["studies"]]
        write_csv(self.path / "splits.csv", ("study", "split"), studies)
        files = [self.study_file(record["key"]) for record in manifest["studies"]]
        described = write_index(self.index, files)
        whole = {"format": _FORMAT, "format_version": FORMAT_VERSION, "index": described} | manifest
        write_text(self._manifest, json.dumps(whole, indent=1) + "\n")
        self._journal.unlink(missing_ok=True)


def journal_line(record: dict[str, Any]) -> str:
    """The line of a finished study."""
    return json.dumps(record) + "\n"


def _from_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # torn by a kill, or damaged
        return None
