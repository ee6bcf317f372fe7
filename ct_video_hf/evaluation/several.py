"""Several labels at once: each label's metrics, and their mean over the labels with its interval.

A predictions table of several labels has one row a clip and label, and the column ``label_name``.
The rows of one label are an ordinary predictions table, so nothing else has to know of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from .bootstrap import Interval, draw_counts, percentile_interval
from .calibration import score_log_odds
from .metrics import METRICS, OF_PROBABILITIES
from .predictions import LABEL_NAME, aggregate

__all__ = ["by_label", "has_several_labels", "mean_metrics", "mean_of_points"]


def has_several_labels(table: pd.DataFrame) -> bool:
    """Whether a predictions table names its labels."""
    return LABEL_NAME in table.columns


def by_label(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Label name -> its own predictions table, in the order of the labels."""
    return {
        str(name): rows.drop(columns=LABEL_NAME).reset_index(drop=True)
        for name, rows in table.groupby(LABEL_NAME, sort=False)
    }


def mean_of_points(values: dict[str, dict[str, float]]) -> dict[str, float]:
    """The mean over labels of each metric, over the labels where it is defined.

    Parameters
    ----------
    values : dict
        Label name -> metric -> value, nan where undefined.
    """
    names = next(iter(values.values()))
    means = {}
    for name in names:
        found = [of_label[name] for of_label in values.values() if not np.isnan(of_label[name])]
        means[name] = float(np.mean(found)) if found else float("nan")
    return means


def mean_metrics(
    table: pd.DataFrame,
    *,
    aggregation: str,
    top_k: int,
    label_from: str,
    resamples: int,
    seed: int,
    confidence: float,
    calibration=None,
) -> Iterator[tuple[str, Interval, int, list[str]]]:
    """Means over labels with intervals: name, interval, cases, and the labels that they are over.

    With a ``calibration`` (:class:`.calibration_labels.LabelCalibrations`) also
    ``study/brier_calibrated`` and so on, over the labels that it calibrates.

    Patients are drawn once for all labels. A label whose metric is undefined on the cases
    themselves is left out of the mean; a draw in which another one is undefined is left out of the
    interval and counted.
    """
    tables = by_label(table)
    rules = {"top_k": top_k, "label_from": label_from}
    studies = {name: aggregate(rows, aggregation, **rules) for name, rows in tables.items()}
    levels = [("clip/{}", tables, METRICS), ("study/{}", studies, METRICS)]
    if calibration is not None:
        of_probabilities = {name: METRICS[name] for name in OF_PROBABILITIES}
        levels.append(("study/{}_calibrated", _calibrated(studies, calibration), of_probabilities))
    for title, cases, metrics in levels:
        columns = {name: _arrays(rows) for name, rows in cases.items()}
        patients = next(iter(cases.values()))["patient_hash"].to_numpy(dtype=str)
        values = {
            metric: {
                name: function(labels[known], scores[known])
                for name, (labels, scores, known) in columns.items()
            }
            for metric, function in metrics.items()
        }
        drawn = _drawn(columns, values, patients, resamples, seed)
        for metric, found in values.items():
            over = [name for name, value in found.items() if not np.isnan(value)]
            value = float(np.mean([found[name] for name in over])) if over else float("nan")
            yield (
                title.format(metric),
                percentile_interval(value, drawn[metric], confidence),
                len(patients),
                over,
            )


def _calibrated(studies: dict[str, pd.DataFrame], calibration) -> dict[str, pd.DataFrame]:
    """The studies of the labels that are calibrated, with probabilities for scores."""
    return {
        name: rows.assign(score=calibration.of(name).apply(score_log_odds(rows["score"])))
        for name, rows in studies.items()
        if calibration.of(name) is not None
    }


def _arrays(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = rows["label"].to_numpy()
    return labels, rows["score"].to_numpy(dtype=np.float64), labels >= 0


def _drawn(
    columns: dict, values: dict, patients: np.ndarray, resamples: int, seed: int
) -> dict[str, list[np.ndarray]]:
    """Metric -> its mean over labels in every draw, in blocks."""
    blocks: dict[str, list[np.ndarray]] = {metric: [] for metric in values}
    for counts in draw_counts(patients, resamples, seed) if resamples else ():
        for metric, found in values.items():
            function: Callable = METRICS[metric]
            of_labels = [
                function(labels[known], scores[known], counts[:, known])
                for name, (labels, scores, known) in columns.items()
                if not np.isnan(found[name])
            ]
            if of_labels:
                blocks[metric].append(np.mean(of_labels, axis=0))
    return blocks
