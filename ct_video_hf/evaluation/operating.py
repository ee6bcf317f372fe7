"""What a threshold does on studies that did not choose it, with intervals."""

from __future__ import annotations

from functools import partial

import numpy as np

from .bootstrap import bootstrap_intervals
from .calibration import OperatingPoint
from .metrics import RATES, rate_at_threshold

__all__ = ["operating_point_report"]


def operating_point_report(
    points: tuple[OperatingPoint, ...], labels, scores, clusters, **intervals
) -> list[dict]:
    """Rates of each operating point with patient-clustered intervals, ready for JSON.

    Predictive values hold for the share of positive studies in this split only.

    Parameters
    ----------
    points : tuple of OperatingPoint
    labels, scores, clusters : array_like, (n,)
        Of studies; scores not calibrated.
    **intervals
        ``resamples``, ``seed``, ``confidence`` of :func:`.bootstrap.bootstrap_intervals`.
    """
    report = []
    for point in points:
        metrics = {
            name: partial(rate_at_threshold, threshold=point.threshold, rate=name) for name in RATES
        }
        entry: dict = {"rule": point.rule, "words": point.words, "threshold": point.threshold}
        for name, found in bootstrap_intervals(
            metrics, labels, scores, clusters, **intervals
        ).items():
            values = (found.value, found.low, found.high)
            shown = [None if np.isnan(value) else float(value) for value in values]
            entry[name] = dict(zip(("value", "low", "high"), shown, strict=True))
        report.append(entry)
    return report
