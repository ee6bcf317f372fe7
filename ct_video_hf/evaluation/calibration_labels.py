"""A calibration of each of several labels, fitted on validation studies and kept in one file.

``calibration.json`` of a model of one label is a :class:`.calibration.Calibration`; of a model of
several it has ``labels``: name -> a calibration, or ``not_calibrated``, the reason. Both kinds
answer the same questions (``of``, ``why_not``, ``fits``, ``split``, ``words``), so that hardly
anybody has to tell them apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import CTVideoError
from .calibration import CALIBRATION_FILE, Calibration, fit_calibration, write_calibration
from .predictions import aggregate
from .several import by_label, has_several_labels

__all__ = ["LabelCalibrations", "calibrate_table", "holds_for", "read_calibration"]


@dataclass(frozen=True)
class LabelCalibrations:
    """Of several labels each one's calibration, or why it has none.

    Attributes
    ----------
    calibrations : dict of str to Calibration
        At least one.
    missing : dict of str to str
        Label -> why it is not calibrated.
    """

    calibrations: dict[str, Calibration]
    missing: dict[str, str]

    def of(self, label: str) -> Calibration | None:
        """The calibration of a label; None where it has none."""
        return self.calibrations.get(label)

    def why_not(self, label: str) -> str | None:
        """Why a label is not calibrated; None: it is."""
        if label in self.calibrations:
            return None
        return self.missing.get(label, "it is none of the labels that were calibrated")

    def fits(self, aggregation: str, top_k: int, label_from: str | None = None) -> bool:
        """Whether it was fitted for study scores made by these rules."""
        return all(one.fits(aggregation, top_k, label_from) for one in self.calibrations.values())

    @property
    def split(self) -> str:
        """What it was fitted on."""
        return next(iter(self.calibrations.values())).split

    def words(self) -> str:
        """What it is and what it rests on, label by label."""
        told = [f"{name}: {one.words()}" for name, one in self.calibrations.items()]
        told += [f"{name}: none ({reason})" for name, reason in self.missing.items()]
        return "; ".join(told)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        each = {name: one.to_dict() for name, one in self.calibrations.items()}
        return {"labels": each | {n: {"not_calibrated": why} for n, why in self.missing.items()}}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> LabelCalibrations:
        """What :meth:`to_dict` gave.

        Raises
        ------
        CTVideoError
            As of :meth:`.calibration.Calibration.from_dict`, or without any calibration.
        """
        labels = content["labels"]
        if not isinstance(labels, dict) or not all(isinstance(v, dict) for v in labels.values()):
            raise CTVideoError(f"{CALIBRATION_FILE} is no calibration: labels are not objects")
        missing = {
            str(name): str(entry["not_calibrated"])
            for name, entry in labels.items()
            if "not_calibrated" in entry
        }
        found = {
            str(name): Calibration.from_dict(entry)
            for name, entry in labels.items()
            if name not in missing
        }
        if not found:
            raise CTVideoError(f"{CALIBRATION_FILE} is no calibration: it has none of any label")
        return cls(found, missing)

    def write(self, folder) -> Path:
        """Write ``calibration.json`` into a model folder; returns its path."""
        return write_calibration(self.to_dict(), folder)


def read_calibration(folder) -> Calibration | LabelCalibrations | None:
    """The calibration of a model folder, or None where it has none.

    Raises
    ------
    CTVideoError
        When the file is not a calibration.
    """
    path = Path(folder) / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CTVideoError(f"{CALIBRATION_FILE} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CTVideoError(f"{CALIBRATION_FILE} holds no JSON object")
    kind = LabelCalibrations if "labels" in content else Calibration
    return kind.from_dict(content)


def calibrate_table(
    table: pd.DataFrame,
    method: str = "temperature",
    *,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
) -> Calibration | LabelCalibrations:
    """Fit what a model is calibrated with on the predictions table of its validation split.

    Of several labels each is fitted on the studies where it is known; one with too few studies of a
    class stays as it is, and the reason is kept.

    Parameters
    ----------
    table : DataFrame
        A predictions table of one label or several.
    method, aggregation, top_k, label_from
        See :func:`.calibration.fit_calibration`.

    Raises
    ------
    CTVideoError
        For an unknown method, or too few studies of a class for every label.
    """
    rules = {"aggregation": aggregation, "top_k": top_k, "label_from": label_from}

    def fit(rows: pd.DataFrame) -> Calibration:
        studies = aggregate(rows, aggregation, top_k=top_k, label_from=label_from)
        return fit_calibration(studies, method, **rules)

    if not has_several_labels(table):
        return fit(table)
    found: dict[str, Calibration] = {}
    missing: dict[str, str] = {}
    for name, rows in by_label(table).items():
        try:
            found[name] = fit(rows)
        except CTVideoError as error:
            missing[name] = str(error)
    if not found:
        words = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise CTVideoError(f"no label can be calibrated: {words}")
    return LabelCalibrations(found, missing)


def holds_for(
    calibration: Calibration | LabelCalibrations, table: pd.DataFrame, rules: dict
) -> bool:
    """Whether a calibration speaks of the scores of a predictions table.

    It was fitted by the same ``rules`` (aggregation, top_k, label_from), for one label or several
    as the table has, and on other studies than the table's.
    """
    if isinstance(calibration, LabelCalibrations) != has_several_labels(table):
        return False
    if has_several_labels(table) and not any(map(calibration.of, by_label(table))):
        return False
    if not calibration.fits(**rules):
        return False
    return calibration.split not in set(table["split"])
