"""Small DICOM studies with a labels table, as a user's folder of scans."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ct_video_hf.dicom.write import write_series

COLUMNS = ("study", "label", "slice_start", "slice_stop", "patient", "split")


def random_hu(seed: int, slices: int = 24, side: int = 32) -> np.ndarray:
    """int16 (slices, side, side): a body in air with noise, HU from -1024 to about 1500."""
    random = np.random.default_rng(seed)
    hu = np.full((slices, side, side), -1000, np.int16)
    hu[:, side // 6 : -side // 6, side // 8 : -side // 8] = 40
    hu[:, side // 3 : -side // 3, side // 4 : -side // 4] = -850
    hu[:, side // 2, side // 2] = 1500
    return (hu + random.integers(-24, 25, hu.shape)).astype(np.int16)


def write_study(folder: Path, seed: int, slices: int = 24, side: int = 32, **options: Any) -> Path:
    """A DICOM series of :func:`random_hu`."""
    options = {"key": f"study-{seed}", "spacing": (2.5, 1.5, 1.5)} | options
    write_series(random_hu(seed, slices, side), folder, **options)
    return folder


def write_table(path: Path, rows: Sequence[dict[str, Any]], columns=COLUMNS) -> Path:
    """A labels table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_folder_set(folder: Path, studies: int = 6, slices: int = 24, side: int = 32) -> Path:
    """Scans and labels.csv for source "folder": odd studies positive in slices 4 to 11.

    Two thirds of the studies are in train, the rest in test; slice counts grow by one a study.
    """
    rows = []
    for number in range(studies):
        write_study(folder / f"s{number}", number, slices + number, side)
        row: dict[str, Any] = {"study": f"s{number}", "label": number % 2, "patient": f"p{number}"}
        row["split"] = "train" if number < studies * 2 // 3 else "test"
        if number % 2:
            row |= {"slice_start": 4, "slice_stop": 12}
        rows.append(row)
    write_table(folder / "labels.csv", rows)
    return folder
