"""A study's log-odds to the probabilities of its result, calibrated where that holds."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    logit = float(study[label])
    scores = [sigmoid(float(value)) for value in study]
    probabilities, words = scores, not_calibrated
    if words is None:
        probabilities = loaded.calibration.apply(study).tolist()
        words = loaded.calibration.words()
    found = {
        "study_probability": probabilities[label],
        "study_score": scores[label],
        "study_logit": logit,
        "label": labels[label],
        "study_probabilities": dict(zip(labels, probabilities, strict=True)),
        "calibrated": not_calibrated is None,
        "calibration": words,
    }
    if found["calibrated"]:
        found["operating_points"] = [
            {
                "rule": point.rule,
                "words": point.words,
                "threshold": point.threshold,
                "positive": scores[label] >= point.threshold,
            }
            for point in loaded.calibration.operating_points
        ]
    return found


def why_not_calibrated(
    loaded: LoadedModel, labels: list[str], stride: int | None, tta: str | None = None
) -> str | None:
    """Why the model's calibration does not hold for what is done; None: it does."""
    calibration, processor = loaded.calibration, loaded.processor
    if calibration is None:
        return "the model has none"
    if len(labels) != 1:
        return "it is for one label, and the model has several"
    if (calibration.aggregation, calibration.top_k) != loaded.aggregation:
        return "it was fitted for another rule of study scores"
    if tta is not None:
        return "it was fitted without test-time augmentation"
    usual = processor.stride or processor.num_frames
    if stride not in (None, usual):
        return f"it was fitted for clips {usual} slices apart"
    return None
