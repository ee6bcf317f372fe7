"""Turning scans into a prepared set: in parallel, resumable at any point, never a mixture.

Each study is read, brought to the in-plane size and written as one file by a worker; the parent
process keeps the journal. A run that is killed, at any moment, is continued by the same call: files
appear under their name only when whole, and a study counts as finished only once its line is in the
journal. A study that cannot be read becomes a reject with its reason, and the run goes on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..files import write_csv
from ..progress import study_progress
from .card import write_data_card
from .engine import engine_results, in_cluster
from .errors import CTDataError
from .labels import SPLITS, LabelsTable
from .manifest import (
    FORMAT_VERSION,
    SetFolder,
    count_findings,
    digest_of,
    journal_line,
    read_manifest,
    salted_hash,
    versions,
)
from .prepare_options import PrepareOptions, PrepareSummary, Provenance
from .rejects import hide_names, write_rejects
from .splits import assign_splits, write_fraction_file
from .worker import StudyTask, fingerprint, lost_study, prepare_study, release_memory

__all__ = ["prepare_table"]

logger = logging.getLogger(__name__)


def prepare_table(
    table: LabelsTable,
    out: str | os.PathLike,
    options: PrepareOptions | None = None,
    *,
    provenance: Provenance | None = None,
    split_file: dict[str, str] | None = None,
    workers: int = 1,
    prune: bool = False,
    progress: bool = True,
) -> PrepareSummary:
    """Prepare all studies of a table.

    Parameters
    ----------
    table : LabelsTable
    out : path
        A new or empty folder, or one that an earlier call with the same options began.
    options : PrepareOptions, optional
    provenance : Provenance, optional
    split_file : dict, optional
        study -> split, see :func:`.splits.read_split_file`; wins over the table.
    workers : int
        Worker processes; -1 takes all cores. Inside :func:`.engine.engine` with a Ray cluster its
        workers do the work, -1 being all of its cores.
    prune : bool
        Remove studies from the set that the table no longer names, instead of refusing.
    progress : bool
        Show a progress bar.

    Returns
    -------
    PrepareSummary

    Raises
    ------
    CTDataError
        For other parameters than those that ``out`` was begun with, another run at work on it,
        studies in it that the table lacks, or when not a single study could be read.
    """
    began = time.monotonic()
    options = options or PrepareOptions()
    provenance = provenance or Provenance("folder")
    folder = SetFolder(out)
    folder.refuse_foreign()
    splits = assign_splits(table, options.fractions, options.split_seed, split_file)
    with _only_run(folder):
        tasks, parameters = _plan(table, splits, folder, options, provenance)
        if workers != 1 or in_cluster():  # the processes share the cores
            tasks = [replace(task, threads=1) for task in tasks]
        folder.open(parameters)
        records, todo = _compare(folder, tasks, prune, progress)
        if not todo and _is_whole(folder, tasks, table):
            rejects: list[dict[str, str]] = []
        else:
            with _told_where(folder):
                journal = folder.begin_journal(records.values())
                rejects = _work(folder, journal, todo, records, workers, progress)
                _finish(folder, tasks, records, rejects, parameters, table, provenance)
    members = [records[task.study_id] for task in tasks if task.study_id in records]
    return PrepareSummary(
        out=folder.path,
        studies=len(members),
        kept=len(tasks) - len(todo),
        rejected=len(rejects),
        splits={name: sum(r["split"] == name for r in members) for name in SPLITS},
        findings=count_findings(members),
        slices=sum(r["shape"][0] for r in members),
        bytes=sum(r["bytes"] for r in members),
        seconds=time.monotonic() - began,
    )


@contextmanager
def _only_run(folder: SetFolder) -> Iterator[None]:
    """One run at a time; the lock goes with the process that holds it, however it ends."""
    from filelock import FileLock, Timeout

    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.path / ".lock", timeout=0):
            yield
    except Timeout:
        raise CTDataError(f"another run is preparing {folder.path.name} at this moment") from None


@contextmanager
def _told_where(folder: SetFolder) -> Iterator[None]:
    """A disk that is full or was taken away: nothing half-written stays, and the error says where.

    Scans that cannot be read are rejects, so that what fails here is writing to the set.
    """
    try:
        yield
    except BrokenPipeError:  # of who reads the progress
        raise
    except OSError as error:
        with suppress(OSError):
            folder.remove_leftovers()
        raise CTDataError(
            f"{folder.path} cannot be written to: {error.strerror or error}. What is finished is "
            "kept: make room, and give the same command again"
        ) from error


def _plan(
    table: LabelsTable,
    splits: Sequence[str],
    folder: SetFolder,
    options: PrepareOptions,
    provenance: Provenance,
) -> tuple[list[StudyTask], dict[str, Any]]:
    """A task a study, and what ``parameters.json`` records."""
    salt = folder.salt(options.salt)
    hashed = options.hash_study_ids
    if hashed is None:
        hashed = table.secret_names or not table.label_names
    tasks = [
        StudyTask(
            entry=entry,
            study_id=salted_hash(salt, "study", entry.study) if hashed else entry.study,
            patient_hash=salted_hash(salt, "patient", entry.patient_key),
            split=split,
            salt=salt,
            size=options.size,
            policy=options.policy,
            slice_ids=options.slice_ids,
            reject=tuple(sorted(options.reject)),
            finding=table.finding,
            window=options.store_window,
        )
        for entry, split in zip(table.entries, splits, strict=True)
    ]
    if hashed:
        _write_key(folder, tasks)
    parameters = {
        "source": provenance.name,
        "format_version": FORMAT_VERSION,
        "size": options.size,
        "store_window": options.store_window and list(options.store_window),
        "policy": options.policy,
        "slice_ids": options.slice_ids,
        "hashed_study_ids": hashed,
        "label_names": list(table.label_names),
        "salt_check": salted_hash(salt, "check", ""),
        **({"reject": sorted(options.reject)} if options.reject else {}),
        **table.parameters,
    }
    return tasks, parameters


def _write_key(folder: SetFolder, tasks: list[StudyTask]) -> None:
    """Which scan a hashed study id stands for; private."""
    rows = [{"study_id": task.study_id, "study": task.entry.study} for task in tasks]
    write_csv(folder.private / "study_key.csv", ("study_id", "study"), rows)


def _is_current(task: StudyTask, record: dict[str, Any]) -> bool:
    return record["row"] == task.row_digest and record["fingerprint"] == fingerprint(task)


def _compare(
    folder: SetFolder, tasks: list[StudyTask], prune: bool, progress: bool
) -> tuple[dict[str, dict[str, Any]], list[StudyTask]]:
    """What is in the folder and still true, and what is left to do."""
    records = folder.records()
    strangers = set(records) - {task.study_id for task in tasks}
    if strangers and not prune:
        raise CTDataError(
            f"{folder.path.name} holds {len(strangers)} studies that the labels table does not "
            "name. Choose a new folder, or say prune (--prune) to take them out of the set."
        )
    known = [task for task in tasks if task.study_id in records]
    # threads: looking at thousands of files is waiting, on a network drive above all
    with ThreadPoolExecutor(8) as pool:
        current = pool.map(_is_current, known, [records[task.study_id] for task in known])
        shown = study_progress(
            current, len(known), what="checking prepared studies", show=progress and bool(known)
        )
        kept = {task.study_id for task, same in zip(known, shown, strict=True) if same}
    if len(kept) < len(known):
        logger.warning("inputs or labels of %d studies have changed", len(known) - len(kept))
    todo = [task for task in tasks if task.study_id not in kept]
    return {study: records[study] for study in records if study in kept}, todo


def _is_whole(folder: SetFolder, tasks: list[StudyTask], table: LabelsTable) -> bool:
    """Nothing to do: the manifest lists exactly these studies in this order, and side tables."""
    if not (folder.path / "manifest.json").is_file():
        return False
    manifest = read_manifest(folder.path)
    if not folder.index.is_file() or folder.index.stat().st_size != manifest["index"]["bytes"]:
        return False
    listed = [record["study_id"] for record in manifest["studies"]]
    if listed != [task.study_id for task in tasks]:
        return False
    return manifest.get("side_tables", {}) == _side_digests(table)


def _side_digests(table: LabelsTable) -> dict[str, str]:
    return {side.name: digest_of([side.columns, side.rows]) for side in table.side_tables}


def _write_side_tables(
    folder: SetFolder, tasks: list[StudyTask], records: dict[str, Any], table: LabelsTable
) -> None:
    """The tables beside the studies, under the names that the studies have in the set."""
    names = {task.entry.study: task.study_id for task in tasks if task.study_id in records}
    for side in table.side_tables:
        rows = (row | {"study": names[row["study"]]} for row in side.rows if row["study"] in names)
        write_csv(folder.path / f"{side.name}.csv", side.columns, rows)


def _work(
    folder: SetFolder,
    journal: Path,
    todo: list[StudyTask],
    records: dict[str, dict[str, Any]],
    workers: int,
    progress: bool,
) -> list[dict[str, str]]:
    """Prepare what is left; fills ``records`` and returns the rejects."""
    rejects = []
    scans = {task.study_id: task.entry for task in todo}
    calls = ((task, str(folder.study_file(task.key))) for task in todo)
    total = len(todo) + len(records)
    try:
        with (
            journal.open("a", encoding="utf-8", newline="\n") as stream,
            engine_results(prepare_study, calls, workers, lost_study) as results,
        ):
            for result in study_progress(results, total, done=len(records), show=progress):
                if "reason" in result:
                    study = result["study"]
                    if study != scans[study].study:  # the name is a secret
                        told = hide_names(result["reason"], scans[study].path, study)
                        result = result | {"reason": told, "named": result["reason"]}
                    rejects.append(result)
                    logger.warning("study %s is left out: %s", study, result["reason"])
                    continue
                for remark in result["remarks"]:
                    logger.warning("study %s: %s", result["study_id"], remark)
                _see(folder, result)
                records[result["study_id"]] = result
                stream.write(journal_line(result))
                stream.flush()
    finally:
        release_memory()
    return rejects


def _see(folder: SetFolder, record: dict[str, Any]) -> None:
    """Refuse a study that was written where this process does not see it."""
    file = folder.study_file(record["key"])
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        size = None
    if size != record["bytes"]:
        raise CTDataError(
            f"a worker wrote a study that is not in {folder.path.name} as this process sees it: "
            "every node must see the set's folder, and the scans, under the same path (a shared "
            "file system)"
        )


def _finish(
    folder: SetFolder,
    tasks: list[StudyTask],
    records: dict[str, dict[str, Any]],
    rejects: list[dict[str, str]],
    parameters: dict[str, Any],
    table: LabelsTable,
    provenance: Provenance,
) -> None:
    """Write what belongs to a whole set; files that no study claims are removed."""
    order = {task.study_id: place for place, task in enumerate(tasks)}
    rejects.sort(key=lambda reject: order[reject["study"]])
    hidden = bool(parameters["hashed_study_ids"])
    write_rejects(folder.path, folder.private, rejects, hidden=hidden)
    members = [records[task.study_id] for task in tasks if task.study_id in records]
    if not members:
        raise CTDataError(
            f"none of {len(tasks)} studies could be read; the first: {rejects[0]['reason']}. All "
            f"reasons: {folder.path / 'rejects.csv'}"
        )
    folder.remove_leftovers()  # of workers that died on a cluster
    claimed = {f"{record['key']}.arrow" for record in members}
    for file in folder.studies.glob("*.arrow"):
        if file.name not in claimed:
            file.unlink()
    manifest = {
        "parameters": parameters,
        "versions": versions(),
        "provenance": asdict(provenance),
        "patients_known": table.has_patients,
        "label_names": list(table.label_names),
        "label_weights": list(table.label_weights),
        "finding": table.finding,
        "splits": {name: sum(r["split"] == name for r in members) for name in SPLITS},
        "rejected": len(rejects),
        "side_tables": _side_digests(table),
        "studies": members,
    }
    _write_side_tables(folder, tasks, records, table)
    write_fraction_file(folder.path / "fractions.csv", members)
    write_data_card(folder.path, manifest, rejects)
    folder.finish(manifest)
