"""What a fitted model shows of itself: its calibration, scores, predictions and figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import CTVideoError
from .calibration import Calibration
from .calibration_labels import LabelCalibrations, calibrate_table
from .figures import write_figures
from .figures_labels import write_label_figures
from .predictions import write_predictions
from .report import evaluate_predictions, write_json

__all__ = ["Evidence", "gather_evidence", "write_report"]

logger = logging.getLogger(__name__)

#: Splits that a model may be scored on; the first that there is counts.
_SCORED = ("test", "validation")


@dataclass(frozen=True)
class Evidence:
    """A model's predictions and what they give.

    Attributes
    ----------
    tables : mapping of str to pandas.DataFrame
        Split -> predictions of its clips.
    scored : str or None
        The split that ``metrics`` is of.
    metrics : dict or None
        As from :func:`.report.evaluate_predictions`; None where nothing is scored.
    calibration : Calibration, LabelCalibrations or None
        Fitted on the validation studies.
    rules, draws : dict
        ``aggregation``, ``top_k``, ``label_from``; ``resamples``, ``seed``.
    """

    tables: Mapping[str, pd.DataFrame]
    scored: str | None
    metrics: dict[str, Any] | None
    calibration: Calibration | LabelCalibrations | None
    rules: dict[str, Any]
    draws: dict[str, int]

    def write(self, folder: Path) -> None:
        """Put calibration, predictions, metrics and figures into a model's folder."""
        if self.calibration is not None:
            self.calibration.write(folder)
        for split, table in self.tables.items():
            if split != self.scored:
                write_predictions(table, folder, f"predictions_{split}")
        if self.scored:
            held = _held(self.calibration, self.scored)
            how = {**self.draws, **self.rules}
            write_report(folder, self.tables[self.scored], self.metrics, held, **how)


def gather_evidence(
    tables: Mapping[str, pd.DataFrame],
    left_out: Mapping[str, dict[str, Any]],
    *,
    calibration: str,
    rules: dict[str, Any],
    resamples: int,
    seed: int,
) -> Evidence:
    """Calibrate on the validation studies and score the test split, or validation without one.

    Parameters
    ----------
    tables : mapping
        Split -> predictions; of ``validation`` and ``test`` what there is.
    left_out : mapping
        Split -> what was not scored of it, see :func:`.tables.left_out`.
    calibration : str
        Method of :func:`.calibration_labels.calibrate_table`, or "none".
    rules : dict
        ``aggregation``, ``top_k`` and ``label_from`` of :func:`.report.evaluate_predictions`.
    resamples, seed : int
        Of the intervals.
    """
    fitted = _calibration(tables.get("validation"), calibration, rules)
    draws = {"resamples": resamples, "seed": seed}
    scored = next((split for split in _SCORED if split in tables), None)
    metrics = None
    if scored:
        metrics = evaluate_predictions(
            tables[scored],
            **rules,
            **draws,
            left_out=left_out[scored],
            calibration=_held(fitted, scored),
        )
    return Evidence(tables, scored, metrics, fitted, rules, draws)


def write_report(
    folder: Path,
    table: pd.DataFrame,
    report: dict[str, Any],
    calibration: Calibration | LabelCalibrations | None,
    *,
    resamples: int,
    seed: int,
    **rules: Any,
) -> None:
    """``metrics.json``, the predictions that it is of, and ``figures`` into ``folder``."""
    write_predictions(table, folder)
    figures = folder / "figures"
    if "labels" in report:
        write_label_figures(report, figures)
    else:
        draws = {"resamples": resamples, "seed": seed}
        write_figures(table, figures, calibration=calibration, **draws, **rules)
    write_json(report, folder / "metrics.json")


def _held(
    calibration: Calibration | LabelCalibrations | None, scored: str
) -> Calibration | LabelCalibrations | None:
    """On the studies that it was fitted on it would only flatter."""
    return calibration if scored == "test" else None


def _calibration(
    validation: pd.DataFrame | None, method: str, rules: dict[str, Any]
) -> Calibration | LabelCalibrations | None:
    """None, with a word, where it cannot be fitted; a word, too, of each label left out."""
    if method == "none" or validation is None:
        return None
    try:
        found = calibrate_table(validation, method, **rules)
    except CTVideoError as error:
        logger.warning("the model is not calibrated: %s", error)
        return None
    for label, reason in getattr(found, "missing", {}).items():
        logger.warning("the label %s is not calibrated: %s", label, reason)
    return found
