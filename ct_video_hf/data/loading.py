"""Opening prepared sets as ``datasets``, without copying or reading a volume."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CTDataError
from .labels import SPLITS
from .manifest import is_positive, read_manifest

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["load_prepared", "study_files", "summarize_set", "verify_set"]


def study_files(
    folder: str | os.PathLike, split: str | None = None, manifest: dict[str, Any] | None = None
) -> list[str]:
    """Paths of the studies of a split (or all) in the order of the labels table.

    Raises
    ------
    CTDataError
        When the set is not complete, or a file is missing or has another size than it should.
    """
    folder = Path(folder)
    manifest = manifest or read_manifest(folder)
    studies = os.path.join(folder, "studies")
    files = []
    for record in manifest["studies"]:
        if split not in (None, "all", record["split"]):
            continue
        name = f"{record['key']}.arrow"
        path = os.path.join(studies, name)
        _check_size(path, f"studies/{name}", folder, record["bytes"])
        files.append(path)
    return files


def _check_size(path: str | os.PathLike, name: str, folder: Path, expected: int) -> None:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        size = None
    if size != expected:
        found = "is missing" if size is None else f"has {size} bytes"
        raise CTDataError(
            f"{name} of {folder.name} {found}, {expected} bytes are expected: the copy is "
            "incomplete, or run the same `prepare` again to make it anew"
        )


def _check_index(folder: Path, manifest: dict[str, Any]) -> None:
    """Size and hash: the small columns of all studies are read in a few milliseconds."""
    index = folder / "index.arrow"
    _check_size(index, index.name, folder, manifest["index"]["bytes"])
    _check_digest(folder, index.name, manifest["index"]["xxh3"])


def _check_digest(folder: Path, name: str, expected: str) -> None:
    from .row_file import file_digest

    if file_digest(folder / name) != expected:
        raise CTDataError(
            f"{name} of {folder.name} is not what was prepared (its hash differs): copy it again, "
            "or delete it and run the same `prepare`"
        )


def load_prepared(
    folder: str | os.PathLike,
    split: str | None = None,
    *,
    fraction: float | None = None,
    fraction_seed: int = 0,
) -> Dataset | DatasetDict:
    """Open a prepared set.

    Parameters
    ----------
    folder : path
    split : {"train", "validation", "test", "all"}, optional
        None gives a ``DatasetDict`` of the splits that have studies.
    fraction : float, optional
        Keep this share of the patients of the train split, see
        :func:`.splits.nested_fractions`; smaller shares are contained in larger ones.
    fraction_seed : int

    Returns
    -------
    datasets.Dataset or datasets.DatasetDict
        One row a study; a study's file is mapped into memory when its volume is looked at.

    Raises
    ------
    CTDataError
        When the set is not complete or damaged, or the split has no studies.
    """
    from datasets import DatasetDict

    folder = Path(folder)
    manifest = read_manifest(folder)
    _check_index(folder, manifest)
    if split not in (None, "all", *SPLITS):
        raise CTDataError(f"split is {split!r}; known are {', '.join(SPLITS)}, all")
    if fraction is not None and split not in (None, "train"):
        raise CTDataError(f"fraction applies to the train split, not to {split!r}")
    names = [name for name in SPLITS if manifest["splits"][name]] if split is None else [split]
    parts = {}
    for name in names:
        parts[name] = _map_files(folder, manifest, name)
        if fraction is not None and name == "train":
            rows = _rows_of_fraction(manifest, fraction, fraction_seed)
            parts[name] = parts[name].select(rows)
    return DatasetDict(parts) if split is None else parts[split]


def _rows_of_fraction(manifest: dict[str, Any], fraction: float, seed: int) -> list[int]:
    from .splits import nested_fractions

    records = [record for record in manifest["studies"] if record["split"] == "train"]
    patients = [record["patient_hash"] for record in records]
    positive = [is_positive(record) for record in records]
    kept = set(nested_fractions(patients, positive, [fraction], seed)[fraction])
    return [row for row, patient in enumerate(patients) if patient in kept]


def _map_files(folder: Path, manifest: dict[str, Any], split: str) -> Dataset:
    from datasets import Dataset, DatasetInfo, Split

    from .mapped import MappedSetTable
    from .rows import SCHEMA

    files = study_files(folder, split, manifest)
    if not files:
        raise CTDataError(f"the split {split!r} of {folder.name} has no studies")
    rows = [
        row for row, record in enumerate(manifest["studies"]) if split in ("all", record["split"])
    ]
    stamp = hashlib.sha256((folder / "manifest.json").read_bytes())
    stamp.update(split.encode())
    return Dataset(
        MappedSetTable.from_files(folder / "index.arrow", rows, files, SCHEMA),
        info=DatasetInfo(
            description=manifest["provenance"]["description"],
            license=manifest["provenance"]["licence"],
        ),
        split=Split(split),
        fingerprint=stamp.hexdigest()[:16],
    )


def summarize_set(
    folder: str | os.PathLike,
    *,
    num_frames: int = 32,
    stride: int | None = None,
    min_positive_slices: int = 4,
    tail: str = "pad",
) -> dict[str, Any]:
    """Counts of a prepared set, for people and for ``inspect SET --json``.

    Returns
    -------
    dict
        ``splits``: for each split that has studies ``studies``, ``patients``, ``slices``,
        ``positive_studies``, ``positive_slices``, ``clips``, ``positive_clips`` (null in an
        unlabelled set), ``weakly_labelled_clips`` (label of the study) and
        ``studies_without_clips`` (too few slices, or of unknown label); further ``clip_rule``
        (the parameters of :func:`.clips.build_clip_index` that count clips), ``size``,
        ``label_names``, ``rejected``, ``provenance``.
    """
    from .clips import build_clip_index

    manifest = read_manifest(folder)
    rule = {
        "num_frames": num_frames,
        "stride": num_frames if stride is None else stride,
        "min_positive_slices": min_positive_slices,
        "tail": tail,
    }
    labelled = bool(manifest["label_names"])
    splits = {}
    for name, data in load_prepared(folder).items():
        members = [record for record in manifest["studies"] if record["split"] == name]
        finding = manifest.get("finding")
        index = build_clip_index(data, **rule, finding=finding, lenient=True)
        splits[name] = {
            "studies": len(members),
            "patients": len({record["patient_hash"] for record in members}),
            "slices": sum(record["shape"][0] for record in members),
            "positive_studies": sum(is_positive(record) for record in members),
            "positive_slices": sum(record["positive_slices"] or 0 for record in members),
            "clips": len(index),
            "positive_clips": int(index.positive.sum()) if labelled else None,
            "weakly_labelled_clips": int(index.weak.sum()) if labelled else 0,
            "studies_without_clips": len(members) - len(set(index.study.tolist())),
        }
    return {
        "splits": splits,
        "clip_rule": rule,
        "size": manifest["parameters"]["size"],
        "label_names": manifest["label_names"],
        "rejected": manifest["rejected"],
        "provenance": manifest["provenance"],
    }


def verify_set(folder: str | os.PathLike) -> int:
    """Check the hash of every study file and of the index against the manifest.

    Returns
    -------
    int
        How many studies were checked.

    Raises
    ------
    CTDataError
        Naming the first file that is not what was prepared.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    study_files(folder, manifest=manifest)
    _check_index(folder, manifest)
    for record in manifest["studies"]:
        _check_digest(folder, f"studies/{record['key']}.arrow", record["xxh3"])
    return len(manifest["studies"])
