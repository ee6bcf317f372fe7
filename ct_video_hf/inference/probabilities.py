"""A study's log-odds to the probabilities of its result, calibrated where that holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..evaluation import LabelCalibrations
from .loading import LoadedModel
from .results import sigmoid

__all__ = ["study_probabilities", "why_not_calibrated"]


def study_probabilities(
    study: np.ndarray,
    loaded: LoadedModel,
    labels: list[str],
    label: int,
    not_calibrated: str | None,
) -> dict[str, Any]:
    """The part of a result that says how likely the labels are.

    Parameters
    ----------
    study : numpy.ndarray
        Log-odds (label,).
    loaded : LoadedModel
        For its calibration.
    labels : list of str
    label : int
        The label that ``study_probability`` is about.
    not_calibrated : str or None
        From :func:`why_not_calibrated`.
    """
    each = [
        _of_label(float(value), loaded, name, not_calibrated)
        for value, name in zip(study, labels, strict=True)
    ]
    chosen = each[label]
    found = {
        "study_probability": chosen["probability"],
        "study_score": chosen["score"],
        "study_logit": float(study[label]),
        "label": labels[label],
        "study_probabilities": {
            name: one["probability"] for name, one in zip(labels, each, strict=True)
        },
        "calibrated": chosen["calibrated"],
        "calibration": chosen["calibration"],
    }
    if chosen["calibrated"]:
        found["operating_points"] = chosen["operating_points"]
    if len(labels) > 1:
        found["labels"] = dict(zip(labels, each, strict=True))
    return found


def _of_label(
    logit: float, loaded: LoadedModel, label: str, not_calibrated: str | None
) -> dict[str, Any]:
    """A label's probability, score, how it was calibrated or why not, and operating points."""
    score = sigmoid(logit)
    reason = not_calibrated or loaded.calibration.why_not(label)
    found = {"probability": score, "score": score, "calibrated": reason is None}
    if reason is not None:
        return found | {"calibration": reason}
    calibration = loaded.calibration.of(label)
    return {
        **found,
        "probability": float(calibration.apply([logit])[0]),
        "calibration": calibration.words(),
        "operating_points": [
            {
                "rule": point.rule,
                "words": point.words,
                "threshold": point.threshold,
                "positive": score >= point.threshold,
            }
            for point in calibration.operating_points
        ],
    }


def why_not_calibrated(
    loaded: LoadedModel, labels: list[str], stride: int | None, tta: str | None = None
) -> str | None:
    """Why the model's calibration does not hold for what is done; None: it does."""
    calibration, processor = loaded.calibration, loaded.processor
    if calibration is None:
        return "the model has none"
    if isinstance(calibration, LabelCalibrations):
        if len(labels) == 1:
            return "it is for several labels, and the model has one"
    elif len(labels) != 1:
        return "it is for one label, and the model has several"
    if not calibration.fits(*loaded.aggregation):
        return "it was fitted for another rule of study scores"
    if tta is not None:
        return "it was fitted without test-time augmentation"
    usual = processor.stride or processor.num_frames
    if stride not in (None, usual):
        return f"it was fitted for clips {usual} slices apart"
    return None
