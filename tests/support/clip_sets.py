"""Prepared sets of synthetic studies, written without DICOM: fast, in the real format."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from ct_video_hf.data.manifest import SetFolder
from ct_video_hf.data.row_file import write_row
from ct_video_hf.data.rows import slice_labels
from ct_video_hf.data.stored_volume import HU_OFFSET, StoredVolume

#: Studies, and slices and pixels of a study: two clips of 8 slices and a short third.
COUNTS = {"train": 12, "validation": 6, "test": 7}
SLICES, SIZE = 18, 36


def _volume(rng: np.random.Generator, bright: slice | None) -> np.ndarray:
    """Noisy tissue in HU; a positive study has a bright block in some slices."""
    hu = rng.normal(-600, 120, size=(SLICES, SIZE, SIZE))
    if bright is not None:
        row, column = rng.integers(8, SIZE - 16, size=2)
        hu[bright, row : row + 9, column : column + 9] += 700
    return np.clip(hu + HU_OFFSET, 0, None).astype(np.int16) - HU_OFFSET


def write_clip_set(
    folder: Path,
    counts: dict[str, int] | None = None,
    *,
    seed: int = 0,
    one_class: str = "",
    short: str = "",
    others: tuple[str, ...] = (),
) -> Path:
    """Write a prepared set; every second study is positive, two studies share a patient.

    Studies of the split ``one_class`` are all negative. The study ``short`` has 3 slices.
    ``others`` are names of further labels, of studies alone, in turn present, absent and unknown.
    """
    rng = np.random.default_rng(seed)
    target = SetFolder(folder)
    target.open({"source": "test", "size": SIZE})
    records = []
    for split, count in (counts or COUNTS).items():
        for number in range(count):
            positive = number % 2 == 1 and split != one_class
            start = int(rng.integers(0, SLICES - 7))
            ranges = [(start, start + 7)] if positive else []
            study = f"{split}-{number:02}"
            slices = 3 if study == short else SLICES
            labels = [float(positive)]
            labels += [float((number + place) % 3) - 1 for place in range(len(others))]
            patient = hashlib.sha256(f"{split}{number // 2}".encode()).hexdigest()[:16]
            hu = _volume(rng, slice(start, start + 7) if positive else None)[:slices]
            row = {
                "study_id": study,
                "patient_hash": patient,
                "split": split,
                "volume": StoredVolume(hu, -HU_OFFSET),
                "window": [],
                "shape": [slices, SIZE, SIZE],
                "spacing": [4.0, 3.0, 3.0],
                "z_mm": (4.0 * np.arange(slices)).tolist(),
                "slice_labels": slice_labels(slices, labels, ranges),
                "study_label": int(positive),
                "labels": labels,
                "weight": 1.0,
                "slice_ids": [],
                "report": json.dumps({}),
            }
            key = hashlib.sha256(study.encode()).hexdigest()[:16]
            size, digest = write_row(row, target.study_file(key))
            records.append(
                {"study_id": study, "key": key, "split": split, "patient_hash": patient,
                 "labels": row["labels"], "shape": row["shape"],
                 "spacing": row["spacing"], "bytes": size, "xxh3": digest,
                 "positive_slices": sum(stop - first for first, stop in ranges)}
            )  # fmt: skip
    splits = {
        name: sum(r["split"] == name for r in records) for name in ("train", "validation", "test")
    }
    manifest = {
        "parameters": {"source": "test", "size": SIZE},
        "provenance": {"name": "test", "description": "noise", "licence": "none"},
        "label_names": ["label", *others],
        "splits": splits,
        "rejected": 0,
        "studies": records,
    }
    target.finish(manifest)
    return folder
