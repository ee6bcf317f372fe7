"""Hugging Face ``evaluate`` metrics around the numpy functions; nothing is computed here."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from .bootstrap import bootstrap_intervals
from .metrics import auroc

__all__ = ["CtAuroc"]

_DESCRIPTION = """\
Area under the ROC curve with a bootstrap interval that resamples whole groups (patients).
"""

_INPUTS = """\
predictions: list of float, a higher score is more suspicious.
references: list of int, 0 or 1.
groups: list of str, the patient of each case (optional; each case its own group without it).
"""


class CtAuroc(evaluate.Metric):
    """AUROC as an ``evaluate`` metric: ``CtAuroc().compute(predictions=..., references=...)``.

    Returns ``auroc``, and with ``groups=...`` or ``resamples=...`` also ``low`` and ``high``. One
    class only gives nan, never 0. Works offline: nothing is fetched from the Hub.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, groups=None, resamples=None, seed=0):
        if groups is None and resamples is None:
            return {"auroc": auroc(references, predictions)}
        clusters = np.arange(len(references)) if groups is None else np.asarray(groups, dtype=str)
        draws = 2000 if resamples is None else resamples
        interval = bootstrap_intervals(
            {"auroc": auroc}, references, predictions, clusters, resamples=draws, seed=seed
        )["auroc"]
        return {"auroc": interval.value, "low": interval.low, "high": interval.high}
