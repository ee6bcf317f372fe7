"""Writes a set of phantom studies as DICOM with a table of labels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..dicom.write import write_series
from ..errors import CTVideoError
from ..files import write_csv
from ..workers import worker_results
from .phantom import PhantomParameters
from .phantom_video import VideoParameters

__all__ = ["write_phantom"]


@dataclass(frozen=True)
class _Task:
    """One study to write; the label has no part in its name, seed or headers."""

    index: int
    name: str
    split: str
    positive: bool
    seed: int


def _plan(seed: int, counts: dict[str, int]) -> Iterator[_Task]:
    """The studies of a set; half of each split is positive."""
    index = 0
    for number, (split, count) in enumerate(counts.items()):
        labels = np.arange(count) % 2 == 0
        np.random.default_rng([seed, 0, number]).shuffle(labels)
        for positive in labels:
            name = sha256(f"phantom/{seed}/{index}".encode()).hexdigest()[:12]
            yield _Task(index, name, split, bool(positive), seed)
            index += 1


def write_phantom(
    folder: str | os.PathLike,
    *,
    train: int = 240,
    validation: int = 40,
    test: int = 100,
    seed: int = 0,
    parameters: PhantomParameters | VideoParameters | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a set of generated studies as DICOM with a table of labels.

    ``folder/studies/<name>/`` holds one DICOM file a slice, in files whose names and order say
    nothing; ``folder/labels.csv`` has one row a nodule (study, patient, split, label, slice_start,
    slice_stop; a negative study has one row without slices); ``folder/nodules.csv`` the nodules'
    places. A study that is there already is kept, so that an interrupted call can be repeated.

    Parameters
    ----------
    folder : path
    train, validation, test : int
        Studies in each split; half of them are positive.
    seed : int
        The same seed and parameters give the same bytes, whatever the workers.
    parameters : PhantomParameters or VideoParameters, optional
        What kind of studies; chests with nodules by default.
    workers : int, optional
        Processes; one a core by default.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pathlib.Path
        The table of labels.

    Raises
    ------
    CTVideoError
        When the folder holds a phantom of other parameters.
    """
    folder = Path(folder)
    p = parameters or PhantomParameters()
    counts = {"train": train, "validation": validation, "test": test}
    _refuse_other_phantom(folder, seed, counts, p)
    plan = list(_plan(seed, counts))
    calls = ((task, folder, p) for task in plan)
    rows, places = [], []
    with worker_results(_write_study, calls, workers or os.cpu_count(), ordered=True) as written:
        bar = tqdm(
            zip(plan, written, strict=True),
            total=len(plan),
            desc="writing phantom studies",
            unit="study",
            disable=None if progress else True,
        )
        for task, (label, nodules) in bar:
            study = f"studies/{task.name}"
            common = {"study": study, "patient": task.name, "split": task.split}
            for nodule in nodules or [{}]:
                span = {key: nodule.get(key, "") for key in ("slice_start", "slice_stop")}
                rows.append(common | {"label": label} | span)
            places += [{"study": study} | _place_of(nodule) for nodule in nodules]
    write_csv(folder / "nodules.csv", ("study", "slice", "row", "column", "radius_mm"), places)
    columns = ["study", "patient", "split", "label", "slice_start", "slice_stop"]
    return write_csv(folder / "labels.csv", columns, rows)


def _write_study(task: _Task, folder: Path, p) -> tuple[int, list[dict]]:
    """Generate a study, write it where it is not yet there; its label and its nodules."""
    rng = np.random.default_rng([task.seed, 1, task.index])
    study = p.generate(rng, task.positive)
    target = folder / "studies" / task.name
    if not target.exists():
        partial = target.with_name(f".{task.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        half = (p.matrix - 1) / 2 * p.pixel_mm
        write_series(
            study.hu,
            partial,
            key=f"phantom/{task.seed}/{task.index}",
            spacing=(p.slice_mm, p.pixel_mm, p.pixel_mm),
            origin=(-half, -half, float(np.round(rng.uniform(-400, 100), 1))),
            shuffle=True,
            patient_id=task.name,
        )
        os.replace(partial, target)
    return study.label, study.nodules


def _place_of(nodule: dict) -> dict[str, float]:
    """Centre as voxel index and radius in mm, rounded for the table."""
    names = ("slice", "row", "column")
    place = dict(zip(names, (round(float(c), 2) for c in nodule["centre"]), strict=True))
    return place | {"radius_mm": round(float(nodule["radius_mm"]), 2)}


def _refuse_other_phantom(folder: Path, seed: int, counts: dict[str, int], p) -> None:
    """Studies of two different calls must not end up in one folder."""
    described = repr((seed, sorted(counts.items()), sorted(asdict(p).items())))
    stamp = folder / "phantom.sha256"
    digest = sha256(described.encode()).hexdigest()
    if stamp.exists() and stamp.read_text().strip() != digest:
        raise CTVideoError(
            f"{folder} holds a phantom written with other parameters: choose another folder or "
            "delete it first"
        )
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest + "\n")
