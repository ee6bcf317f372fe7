"""Splits by patient, and nested fractions of the training patients.

The procedure is the study's (arXiv 2304.00546): ids in the order in which they first appear, then
scikit-learn's ``train_test_split`` twice with ``random_state=2``. Its shuffle is numpy's legacy
generator, whose stream is frozen, so that a split is the same on every platform.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_csv
from .errors import CTDataError
from .labels import SPLITS, LabelsTable
from .manifest import is_positive

__all__ = [
    "PAPER_FRACTIONS",
    "assign_splits",
    "nested_fractions",
    "read_split_file",
    "split_patients",
    "write_fraction_file",
    "write_split_file",
]

#: Training set sizes that :func:`write_fraction_file` says the members of.
PUBLISHED_FRACTIONS = (0.01, 0.05, 0.10, 0.25, 0.50, 1.0)

#: Shares of train, validation and test in the study.
PAPER_FRACTIONS = (0.70, 0.15, 0.15)


def split_patients(
    patients: Sequence[Hashable],
    fractions: Sequence[float] = PAPER_FRACTIONS,
    random_state: int = 2,
) -> dict[Hashable, str]:
    """Draw a split for every patient.

    Parameters
    ----------
    patients : sequence
        Ids, repeats allowed; their order of first appearance matters.
    fractions : three floats
        Shares of train, validation and test; they add up to 1, zeros are allowed.
    random_state : int

    Returns
    -------
    dict
        patient -> "train", "validation" or "test", in order of first appearance.

    Raises
    ------
    CTDataError
        For shares that do not add up, or too few patients to give every split one.
    """
    from sklearn.model_selection import train_test_split

    unique = list(dict.fromkeys(patients))
    counts = _counts(len(unique), fractions)
    parts: dict[str, list] = {name: [] for name in SPLITS}
    if sum(counts > 0) == 1:
        parts[SPLITS[int(np.argmax(counts))]] = unique
    else:
        rest = unique
        train, held_out = counts[0], counts[1] + counts[2]
        if train and held_out:
            parts["train"], rest = train_test_split(
                unique, test_size=int(held_out), random_state=random_state
            )
        if counts[1] and counts[2]:
            parts["validation"], parts["test"] = train_test_split(
                rest, test_size=int(counts[2]), random_state=random_state
            )
        else:
            parts["validation" if counts[1] else "test"] = rest
    of = {patient: name for name, members in parts.items() for patient in members}
    return {patient: of[patient] for patient in unique}


def _counts(n: int, fractions: Sequence[float]) -> np.ndarray:
    """Patients in each split: held-out shares are rounded up, as scikit-learn does."""
    shares = np.asarray(fractions, float)
    if shares.shape != (3,) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise CTDataError(
            f"split shares {list(fractions)}: three numbers of at least 0 that add up to 1 are "
            "expected (train, validation, test)"
        )
    # rounded to 9 digits first: 0.30000000000000004 * 1010 must not become 304
    held_out = int(np.ceil(round((shares[1] + shares[2]) * n, 9)))
    share = shares[2] / (shares[1] + shares[2]) if held_out else 0.0
    test = int(np.ceil(round(share * held_out, 9)))
    counts = np.array([n - held_out, held_out - test, test])
    empty = [name for name, k, f in zip(SPLITS, counts, shares, strict=True) if f > 0 and k < 1]
    if empty:
        raise CTDataError(
            f"{n} patient(s) are too few for shares {shares.tolist()}: nobody is left for "
            f"{', '.join(empty)}. Add studies, give a split column, or change the shares."
        )
    return counts


def assign_splits(
    table: LabelsTable,
    fractions: Sequence[float] = PAPER_FRACTIONS,
    random_state: int = 2,
    given: Mapping[str, str] | None = None,
) -> list[str]:
    """The split of every study of a table.

    A split in ``given`` (study -> split, from a split file) or in the table stands, and covers all
    studies of that patient; the other patients are drawn by :func:`split_patients`.

    Raises
    ------
    CTDataError
        When ``given`` puts a patient in two splits or names studies that the table lacks.
    """
    given = dict(given or {})
    unknown = sorted(set(given) - {entry.study for entry in table.entries})
    if unknown:
        raise CTDataError(
            f"the split file names {len(unknown)} studies that are not in the table, first "
            f"{unknown[0]!r}"
        )
    fixed: dict[str, str] = {}
    for entry in table.entries:
        split = given.get(entry.study, entry.split)
        if split is not None and fixed.setdefault(entry.patient_key, split) != split:
            raise CTDataError(
                f"row {entry.row}: the patient is in {split!r} here and in "
                f"{fixed[entry.patient_key]!r} before; a patient must be in one split"
            )
    keys = table.draw_from or [entry.patient_key for entry in table.entries]
    open_ = [key for key in keys if key not in fixed]
    drawn = split_patients(open_, fractions, random_state) if open_ else {}
    return [fixed.get(e.patient_key) or drawn[e.patient_key] for e in table.entries]


def nested_fractions(
    patients: Sequence[Hashable],
    positive: Sequence[bool],
    fractions: Sequence[float],
    seed: int = 0,
) -> dict[float, list[Hashable]]:
    """Draw patients for several training set sizes; each set contains all smaller ones.

    Stratified: patients with and without a positive study are drawn separately, each class in its
    own share (rounded, at least one patient). numpy's legacy generator makes the draw, so it is the
    same on every platform and numpy version.

    Parameters
    ----------
    patients : sequence
        One a study; repeats are studies of one patient. Their order of first appearance matters.
    positive : sequence of bool
        One a study.
    fractions : sequence of float
        In (0, 1].
    seed : int

    Returns
    -------
    dict
        fraction -> patients in order of first appearance.
    """
    bad = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if bad:
        raise CTDataError(f"fractions {bad}: each must be above 0 and at most 1")
    hit: dict[Hashable, bool] = {}
    for patient, flag in zip(patients, positive, strict=True):
        hit[patient] = hit.get(patient, False) or bool(flag)
    random = np.random.RandomState(seed)
    orders = []
    for stratum in (True, False):
        members = [patient for patient, flag in hit.items() if flag == stratum]
        orders.append([members[place] for place in random.permutation(len(members))])
    result = {}
    for fraction in fractions:
        chosen: set[Hashable] = set()
        for order in orders:
            chosen.update(order[: max(1, int(np.floor(fraction * len(order) + 0.5)))])
        result[fraction] = [patient for patient in hit if patient in chosen]
    return result


def write_fraction_file(
    path: str | os.PathLike, studies: Sequence[Mapping[str, Any]], seed: int = 0
) -> Path:
    """Write which training studies belong to which data fraction: what can be published.

    The CSV has a row a training study: its name and the smallest fraction of
    :data:`PUBLISHED_FRACTIONS` that holds it; every larger one holds it too.

    Parameters
    ----------
    path : path
    studies : sequence of mapping
        The records of a manifest, in their order.
    seed : int
        Of :func:`nested_fractions`.
    """
    train = [study for study in studies if study["split"] == "train"]
    patients = [study["patient_hash"] for study in train]
    positive = [is_positive(study) for study in train]
    drawn = nested_fractions(patients, positive, PUBLISHED_FRACTIONS, seed) if train else {}
    smallest: dict[Hashable, float] = {}
    for fraction in sorted(drawn, reverse=True):
        smallest |= dict.fromkeys(drawn[fraction], fraction)
    rows = [
        {"study": study["study_id"], "fraction": f"{smallest[study['patient_hash']]:g}"}
        for study in train
    ]
    return write_csv(path, ("study", "fraction"), rows)


def write_split_file(path: str | os.PathLike, splits: Mapping[str, str]) -> Path:
    """Write study -> split as CSV (columns study, split): what can be published and used again."""
    rows = ({"study": study, "split": split} for study, split in splits.items())
    return write_csv(path, ("study", "split"), rows)


def read_split_file(path: str | os.PathLike) -> dict[str, str]:
    """Read what :func:`write_split_file` wrote.

    Raises
    ------
    CTDataError
        For other columns, an unknown split or a study named twice, with the row number.
    """
    path = Path(path)
    result: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != ["study", "split"]:
            raise CTDataError(f"{path.name}: the columns must be study, split")
        for number, row in enumerate(reader, start=2):
            if row["split"] not in SPLITS:
                raise CTDataError(
                    f"{path.name} row {number}: split {row['split']!r}; known are "
                    f"{', '.join(SPLITS)}"
                )
            if row["study"] in result:
                raise CTDataError(f"{path.name} row {number}: {row['study']!r} is named twice")
            result[row["study"]] = row["split"]
    return result
