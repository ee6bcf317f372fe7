"""One study on its way from scan to file; this is what a worker process runs."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CTVideoError
from .labels import StudyEntry
from .manifest import digest_of
from .row_file import write_row
from .rows import positive_slices, study_row

if TYPE_CHECKING:
    from ..dicom import CTVolume
    from ..dicom.report import Finding

__all__ = [
    "StudyTask",
    "fingerprint",
    "lost_study",
    "prepare_study",
    "release_memory",
    "scan_fingerprint",
]


#: Each thread's memory of the volume at work; see :func:`release_memory`.
_held = threading.local()

_FINDINGS = "ct_video_hf.dicom.findings"  # the reader's logger


@dataclass(frozen=True)
class StudyTask:
    """One study on its way through a worker; picklable."""

    entry: StudyEntry
    study_id: str
    patient_hash: str
    split: str
    salt: str
    size: int
    policy: str
    slice_ids: bool
    reject: tuple[str, ...] = ()
    threads: int | None = None  # of the reader; None lets it choose
    finding: int | None = None  # the label that makes the study positive; None: any
    window: tuple[float, float] | None = None  # kept in 8 bits instead of HU

    @property
    def key(self) -> str:
        return hashlib.sha256(self.study_id.encode()).hexdigest()[:16]

    @property
    def row_digest(self) -> str:
        """Changes when the table says something else of the study."""
        entry = self.entry
        said = [entry.labels, entry.ranges, entry.weight, self.split, self.patient_hash]
        if entry.range_labels:
            said.append(entry.range_labels)
        if entry.marks is not None:
            said.append(entry.marks.said())
        if self.finding is not None:
            said.append(self.finding)
        return digest_of(said)[:16]


def fingerprint(task: StudyTask) -> str:
    """Changes when a file of the scan is added, removed, resized or rewritten."""
    return scan_fingerprint(task.entry.path, task.salt)


def scan_fingerprint(path: Path, salt: str = "") -> str:
    """HMAC of the relative path, size and time of every file of a scan."""
    if not path.exists():
        return "missing"
    if path.is_dir():
        found = list(_file_stamps(os.fspath(path), ""))
    else:
        status = path.stat()
        found = [f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}"]
    text = "\n".join(found).encode(errors="surrogateescape")
    return hmac.new(salt.encode(), text, hashlib.sha256).hexdigest()[:32]


def _file_stamps(folder: str, inside: str) -> Iterator[str]:
    """Name, size and time of each file, folder by folder; 1.79 million of them must be quick."""
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    folders = [entry for entry in entries if entry.is_dir()]
    names = {entry.name for entry in folders}
    for entry in entries:
        if entry.name not in names:
            status = entry.stat()
            yield f"{inside}{entry.name}\0{status.st_size}\0{status.st_mtime_ns}"
    for entry in folders:
        if not entry.is_symlink():
            yield from _file_stamps(entry.path, f"{inside}{entry.name}/")


def prepare_study(task: StudyTask, target: str) -> dict[str, Any]:
    """Read and write one study; runs in a worker. Returns its record, or a reject."""
    read = _read(task)
    return read if isinstance(read, dict) else _store(task, read, target)


def lost_study(task: StudyTask, target: str) -> dict[str, str]:
    """The reject of a study of which workers died, one after the other."""
    return {
        "study": task.study_id,
        "code": "worker_died",
        "reason": "every worker that took it died, for want of memory or by a file that ends the "
        "process that decodes it; it is tried again by the same command",
    }


def release_memory() -> None:
    """Give back what this thread keeps from one study to the next."""
    vars(_held).clear()


def _read(task: StudyTask) -> tuple[CTVolume, str] | dict[str, str]:
    """The volume and the fingerprint of its files, or a reject."""
    # outside the try: a broken installation is no broken study
    from ..dicom import VolumeMemory, read_ct

    if not hasattr(_held, "memory"):
        _held.memory = VolumeMemory()
    try:
        stamp = fingerprint(task)
        with _findings_unsaid():
            volume = read_ct(
                task.entry.path,
                task.policy,
                series=task.entry.series,
                in_plane=task.size,
                workers=task.threads,
                memory=_held.memory,
            )
    except Exception as error:  # whatever a broken file provokes must not end the run
        return _rejected(task, error)
    unwanted = [f for f in volume.report.findings if f.code in task.reject]
    if unwanted:
        return {"study": task.study_id, "code": unwanted[0].code, "reason": _told(unwanted)}
    return volume, stamp


def _store(task: StudyTask, read: tuple[CTVolume, str], target: str) -> dict[str, Any]:
    """Write what was read; the record, or a reject where the labels do not fit the scan."""
    volume, stamp = read
    try:
        row = _row(task, volume)
        marks = task.entry.marks
        remarks = [] if marks is None else marks.remarks(volume.slice_ids, row["z_mm"])
    except Exception as error:
        return _rejected(task, error)
    size, digest = write_row(row, Path(target))
    return {
        "study_id": task.study_id,
        "key": task.key,
        "split": task.split,
        "patient_hash": task.patient_hash,
        "shape": row["shape"],
        "spacing": [round(value, 6) for value in row["spacing"]],
        "labels": row["labels"],
        "positive": row["study_label"] == 1,
        "positive_slices": positive_slices(row),
        "remarks": remarks,
        "findings": sorted({f.code for f in volume.report.findings if f.severity == "warning"}),
        "bytes": size,
        "xxh3": digest,
        "fingerprint": stamp,
        "row": task.row_digest,
    }


def _rejected(task: StudyTask, error: Exception) -> dict[str, str]:
    """The reason names files; who writes it hides them where they are secret."""
    return {"study": task.study_id, **_reject(error)}


@contextmanager
def _findings_unsaid() -> Iterator[None]:
    """Findings go to the report and are counted: thousands of lines in a log help nobody."""
    findings = logging.getLogger(_FINDINGS)
    level = findings.level
    findings.setLevel(logging.ERROR)
    try:
        yield
    finally:
        findings.setLevel(level)


def _told(findings: list[Finding]) -> str:
    return "; ".join(f"{finding.code}: {finding.message}" for finding in findings)


def _row(task: StudyTask, volume: CTVolume) -> dict[str, Any]:
    return study_row(
        volume,
        study_id=task.study_id,
        patient_hash=task.patient_hash,
        split=task.split,
        labels=task.entry.labels,
        ranges=task.entry.ranges,
        range_labels=task.entry.range_labels,
        marks=task.entry.marks,
        finding=task.finding,
        weight=task.entry.weight,
        slice_ids=task.slice_ids,
        window=task.window,
    )


def _reject(error: Exception) -> dict[str, str]:
    """Code and reason without identifiers: only our own errors are trusted with their text."""
    if isinstance(error, CTVideoError):
        return {"code": getattr(error, "code", "bad_labels"), "reason": str(error)}
    if isinstance(error, OSError):
        name = Path(error.filename).name if isinstance(error.filename, str) else "a file"
        return {
            "code": "unreadable_file",
            "reason": f"{name}: {error.strerror or 'cannot be read'}",
        }
    place = traceback.extract_tb(error.__traceback__)[-1]
    return {
        "code": "unexpected_error",
        "reason": f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}; please "
        "report this",
    }
