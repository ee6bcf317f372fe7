"""What preparing a set would take, before anything is written."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .labels import LabelsTable, StudyEntry
from .prepare_options import PrepareOptions
from .worker import StudyTask, prepare_study, release_memory

__all__ = ["estimate_set"]


def estimate_set(
    table: LabelsTable, options: PrepareOptions | None = None, *, workers: int = 1, sample: int = 3
) -> dict[str, Any]:
    """What preparing a table would take, from preparing ``sample`` studies spread over it.

    Returns
    -------
    dict
        ``studies``, ``input_bytes``, ``estimated_output_bytes``, ``estimated_seconds`` with
        ``workers`` processes (as if each were as fast as one alone), ``processes``, ``sampled`` and
        ``sample_rejects`` (reasons). The estimates are None when no sampled study could be read.
    """
    from joblib import effective_n_jobs

    from ..dicom import read_ct  # noqa: F401  before the clock starts: a run imports it once

    processes = effective_n_jobs(workers)
    options = options or PrepareOptions()
    entries = table.entries
    picks = sorted({round(i * (len(entries) - 1) / max(sample - 1, 1)) for i in range(sample)})
    read = written = 0
    seconds, rejects = 0.0, []
    with tempfile.TemporaryDirectory(prefix="ct-video-hf-") as folder:
        for place in picks:
            began = time.monotonic()
            task = _task(entries[place], options, threads=None if workers == 1 else 1)
            result = prepare_study(task, os.path.join(folder, "study"))
            if "reason" in result:
                rejects.append(result["reason"])
                continue
            seconds += time.monotonic() - began
            read += _bytes_of(entries[place].path)
            written += result["bytes"]
    release_memory()
    total = sum(_bytes_of(entry.path) for entry in entries)
    share = total / read if read else None
    return {
        "studies": len(entries),
        "input_bytes": total,
        "estimated_output_bytes": round(written * share) if share else None,
        "estimated_seconds": round(seconds * share / processes, 1) if share else None,
        "processes": processes,
        "sampled": len(picks),
        "sample_rejects": rejects,
    }


def _task(entry: StudyEntry, options: PrepareOptions, threads: int | None) -> StudyTask:
    return StudyTask(
        entry=entry,
        study_id=entry.study,
        patient_hash="",
        split="train",
        salt="",
        size=options.size,
        policy=options.policy,
        slice_ids=options.slice_ids,
        window=options.store_window,
        reject=options.reject,
        threads=threads,
    )


def _bytes_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(_sizes(path))


def _sizes(folder: str | os.PathLike) -> Iterator[int]:
    """Bytes of each file below a folder; of 1.79 million of them this must be quick."""
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            elif entry.is_file():
                yield entry.stat().st_size
