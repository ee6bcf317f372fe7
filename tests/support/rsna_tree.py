"""A folder of the shape of RSNA STR PE, at any size: hashed UIDs, trimmed headers, train.csv.

By hand, for a set of the real number of studies (about a minute)::

    python -m tests.support.rsna_tree FOLDER --studies 7279
"""

from __future__ import annotations

import argparse
import csv
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ct_video_hf.data.rsna_labels import ID_COLUMNS, IMAGE_LABEL, STUDY_LABELS
from ct_video_hf.dicom.write import write_series
from tests.support.dicom_folders import random_hu

#: In the order of the published file.
COLUMNS = (*ID_COLUMNS, IMAGE_LABEL, *STUDY_LABELS)

#: As in the published files: no patient, no dates, and a SOP Class UID that names no class.
_CLASS = {"SOPClassUID": "80e30f500244"}
_TRIMMED = ("PatientID", "PatientName", "AccessionNumber", "StudyDate", "StudyID", "StudyTime")


def hashed(*parts: object) -> str:
    """Twelve hexadecimal digits, as the published UIDs are."""
    return sha256("/".join(map(str, parts)).encode()).hexdigest()[:12]


def exam_labels(kind: str, random: np.random.Generator) -> dict[str, int]:
    """Study columns of a consistent exam: "negative", "indeterminate" or "positive"."""
    labels = dict.fromkeys(STUDY_LABELS, 0)
    if kind == "negative":
        return labels | {"negative_exam_for_pe": 1, "qa_motion": int(random.random() < 0.1)}
    if kind == "indeterminate":
        return labels | {"indeterminate": 1, "qa_contrast": 1}
    ratio = "rv_lv_ratio_gte_1" if random.random() < 0.4 else "rv_lv_ratio_lt_1"
    side = ("leftsided_pe", "rightsided_pe", "central_pe")[int(random.integers(3))]
    return labels | {ratio: 1, side: 1, "chronic_pe": int(random.random() < 0.1)}


def write_scan(folder: Path, seed: int, slices: int, side: int = 32, series: int = 0) -> list[str]:
    """``folder/<Study>/<Series>/<SOP>.dcm``; returns the SOP Instance UIDs from feet to head."""
    study, scan = hashed(seed), hashed(seed, series)
    names = [hashed(seed, series, place) for place in range(slices)]
    uids = {"StudyInstanceUID": study, "SeriesInstanceUID": scan}
    write_series(
        random_hu(seed, slices, side),
        folder / study / scan,
        spacing=(2.0, 1.5, 1.5),
        origin=(-24.0, -24.0, 100.0 + seed % 7),
        signed=False,
        bits_stored=12,
        file_names=[f"{name}.dcm" for name in names],
        extra=_CLASS | uids,
        slice_extra=[{"SOPInstanceUID": name} for name in names],
        missing=_TRIMMED,
    )
    return names


def rows_of(seed: int, kind: str, names: list[str], series: int = 0) -> list[dict[str, Any]]:
    """The rows of a scan in an order that is not the order of its slices; PE in the upper half."""
    random = np.random.default_rng(seed)
    labels = exam_labels(kind, random)
    ids = {"StudyInstanceUID": hashed(seed), "SeriesInstanceUID": hashed(seed, series)}
    rows = [
        ids
        | {"SOPInstanceUID": name, IMAGE_LABEL: int(kind == "positive" and 2 * z >= len(names))}
        | labels
        for z, name in enumerate(names)
    ]
    random.shuffle(rows)
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]], columns=COLUMNS) -> Path:
    """train.csv."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_rsna_tree(
    folder: Path, studies: int = 8, slices: tuple[int, int] = (8, 12), side: int = 32
) -> list[dict[str, Any]]:
    """``train/`` and ``train.csv``; studies 1, 4, 7 ... are positive, the sixth indeterminate.

    Returns the rows, to be changed and written again.
    """
    rows = []
    for seed in range(studies):
        count = slices[0] + seed % (slices[1] - slices[0] + 1)
        kind = "positive" if seed % 3 == 1 else "indeterminate" if seed == 5 else "negative"
        rows += rows_of(seed, kind, write_scan(folder / "train", seed, count, side))
    write_rows(folder / "train.csv", rows)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=7279)
    parser.add_argument("--slices", type=int, nargs=2, default=(3, 6), metavar=("LEAST", "MOST"))
    arguments = parser.parse_args()
    made = write_rsna_tree(arguments.folder, arguments.studies, tuple(arguments.slices))
    print(f"{arguments.studies} studies, {len(made)} slices in {arguments.folder}")
