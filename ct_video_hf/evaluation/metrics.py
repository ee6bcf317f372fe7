"""Metrics of a binary score, in numpy, each defined once for a point value and for resamples.

Every function takes ``labels`` (n,) of 0 and 1 and ``scores`` (n,), larger meaning more suspicious,
and optional ``weights``: (n,) or (resamples, n) counts, such as a bootstrap draws. Without weights
or with (n,) the result is a float, with (resamples, n) an array (resamples,). The unweighted
values equal scikit-learn's where it has the metric.

What cannot be computed is ``nan``, never 0: a score that is NaN, or a class that is absent where
the metric needs it. :func:`undefined_reason` says which it was.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import CTVideoError

__all__ = [
    "METRICS",
    "OF_PROBABILITIES",
    "RATES",
    "auprc",
    "auroc",
    "brier",
    "expected_calibration_error",
    "log_loss",
    "precision_recall_curve",
    "rate_at_threshold",
    "roc_curve",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
    "undefined_reason",
]

#: Needs both classes / needs a probability; see :func:`undefined_reason`.
_NEED_BOTH_CLASSES = frozenset(
    {"auroc", "sensitivity_at_90_specificity", "specificity_at_90_sensitivity"}
)
_NEED_A_POSITIVE = frozenset({"auprc"})


def _checked(labels, scores, weights=None):
    """Arrays as float64, weights as (resamples, n), and whether a single value was asked for."""
    labels = np.asarray(labels)
    scores = np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise CTVideoError(
            f"labels and scores must be two vectors of one length, found shapes {labels.shape} "
            f"and {scores.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        wrong = labels[~np.isin(labels, (0, 1))][0]
        raise CTVideoError(
            f"labels must be 0 or 1, found {wrong!r}; leave unknown labels out before scoring"
        )
    labels = labels.astype(np.float64)
    if weights is None:
        return labels, scores, np.ones((1, labels.size)), True
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape[-1] != labels.size or weights.ndim not in (1, 2):
        raise CTVideoError(
            f"weights must be ({labels.size},) or (resamples, {labels.size}), found {weights.shape}"
        )
    return labels, scores, np.atleast_2d(weights), weights.ndim == 1


def _finish(values: np.ndarray, single: bool):
    return float(values[0]) if single else values


def _undefined(count: int, single: bool):
    return _finish(np.full(count, np.nan), single)


def _sums_per_score(labels, scores, weights):
    """Weight of the positives and of the negatives at each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    weights, labels = weights[:, order], labels[order]
    total = np.add.reduceat(weights, starts, axis=1)
    positive = np.add.reduceat(weights * labels, starts, axis=1)
    return positive, total - positive, ordered[starts]


def _divide(numerator, denominator):
    """Quotient where the denominator is above 0, nan elsewhere."""
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _rankable(labels, scores) -> bool:
    return labels.size > 0 and not np.isnan(scores).any()


def auroc(labels, scores, weights=None):
    """Area under the ROC curve; a tie between a positive and a negative counts one half."""
    labels, scores, weights, single = _checked(labels, scores, weights)
    if not _rankable(labels, scores):
        return _undefined(len(weights), single)
    positive, negative, _ = _sums_per_score(labels, scores, weights)
    negatives = negative.sum(axis=1)
    # negatives ranked strictly below a score, plus half of those that share it
    below = negatives[:, None] - np.cumsum(negative, axis=1) + 0.5 * negative
    won = np.einsum("rg,rg->r", positive, below)
    return _finish(_divide(won, positive.sum(axis=1) * negatives), single)


def auprc(labels, scores, weights=None):
    """Average precision: precision summed over the steps of recall, without interpolation."""
    labels, scores, weights, single = _checked(labels, scores, weights)
    if not _rankable(labels, scores):
        return _undefined(len(weights), single)
    positive, negative, _ = _sums_per_score(labels, scores, weights)
    true_positives = np.cumsum(positive, axis=1)
    called = true_positives + np.cumsum(negative, axis=1)
    precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
    return _finish(_divide((positive * precision).sum(axis=1), true_positives[:, -1]), single)


def _rates(labels, scores, weights):
    positive, negative, thresholds = _sums_per_score(labels, scores, weights)
    zero = np.zeros((len(positive), 1))
    true_rate = _divide(np.cumsum(positive, axis=1), positive.sum(axis=1, keepdims=True))
    false_rate = _divide(np.cumsum(negative, axis=1), negative.sum(axis=1, keepdims=True))
    return np.hstack([zero, false_rate]), np.hstack([zero, true_rate]), thresholds


def roc_curve(labels, scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False positive rate, true positive rate and threshold, from (0, 0) to (1, 1).

    A study is called positive where its score is at or above the threshold; the first threshold
    is infinity.
    """
    labels, scores, weights, _ = _checked(labels, scores)
    if not _rankable(labels, scores):
        raise CTVideoError("a ROC curve needs at least one score and none that is NaN")
    false_rate, true_rate, thresholds = _rates(labels, scores, weights)
    return false_rate[0], true_rate[0], np.r_[np.inf, thresholds]


def precision_recall_curve(labels, scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and threshold, from the highest score down.

    A case is called positive where its score is at or above the threshold.
    """
    labels, scores, weights, _ = _checked(labels, scores)
    if not _rankable(labels, scores) or not labels.any():
        raise CTVideoError(
            "a precision-recall curve needs a positive case and no score that is NaN"
        )
    positive, negative, thresholds = _sums_per_score(labels, scores, weights)
    hits, alarms = np.cumsum(positive[0]), np.cumsum(negative[0])
    return hits / hits[-1], hits / (hits + alarms), thresholds


def _best_rate(labels, scores, weights, wanted: float, kind: str):
    labels, scores, weights, single = _checked(labels, scores, weights)
    if not 0 <= wanted <= 1:
        raise CTVideoError(f"a rate lies between 0 and 1, found {wanted}")
    if not _rankable(labels, scores):
        return _undefined(len(weights), single)
    false_rate, true_rate, _ = _rates(labels, scores, weights)
    specificity = 1 - false_rate
    limit, gain = (specificity, true_rate) if kind == "sensitivity" else (true_rate, specificity)
    # 1e-12: 1 - 0.1 is a hair below 0.9, and nine of ten right does meet a rate of 0.9
    best = np.where(limit >= wanted - 1e-12, gain, -1.0).max(axis=1)
    both = ~np.isnan(false_rate[:, -1]) & ~np.isnan(true_rate[:, -1])
    return _finish(np.where(both, best, np.nan), single)


def sensitivity_at_specificity(labels, scores, weights=None, *, specificity: float = 0.9):
    """Highest sensitivity among thresholds whose specificity is at least ``specificity``."""
    return _best_rate(labels, scores, weights, specificity, "sensitivity")


def specificity_at_sensitivity(labels, scores, weights=None, *, sensitivity: float = 0.9):
    """Highest specificity among thresholds whose sensitivity is at least ``sensitivity``."""
    return _best_rate(labels, scores, weights, sensitivity, "specificity")


def _probabilities(scores):
    if np.isnan(scores).any():
        return None
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise CTVideoError(
            f"probabilities lie between 0 and 1, found {scores.min():.4g} to {scores.max():.4g}; "
            "logits belong through a sigmoid first"
        )
    return scores


def _weighted_mean(errors, weights, single):
    return _finish(_divide(weights @ errors, weights.sum(axis=1)), single)


def brier(labels, scores, weights=None):
    """Mean squared difference of probability and label (Brier 1950, one class)."""
    labels, scores, weights, single = _checked(labels, scores, weights)
    if _probabilities(scores) is None:
        return _undefined(len(weights), single)
    return _weighted_mean((scores - labels) ** 2, weights, single)


def log_loss(labels, scores, weights=None):
    """Mean binary cross-entropy in nats; probabilities are kept one float64 eps off 0 and 1."""
    labels, scores, weights, single = _checked(labels, scores, weights)
    if _probabilities(scores) is None:
        return _undefined(len(weights), single)
    eps = np.finfo(np.float64).eps
    clipped = np.clip(scores, eps, 1 - eps)
    errors = -(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))
    return _weighted_mean(errors, weights, single)


def expected_calibration_error(labels, scores, weights=None, *, bins: int = 10):
    """Mean gap of observed rate and mean probability over ``bins`` equal-width bins.

    Each bin counts by its share of the cases (Naeini et al. 2015). Bins are (lower, upper], the
    first includes 0.
    """
    labels, scores, weights, single = _checked(labels, scores, weights)
    if _probabilities(scores) is None:
        return _undefined(len(weights), single)
    which = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    member = np.zeros((labels.size, bins))
    member[np.arange(labels.size), which] = scores - labels
    return _finish(
        _divide(np.abs(weights @ member).sum(axis=1), weights.sum(axis=1)),
        single,
    )


#: Rate at a threshold -> (the cases that it is a share of, the cases that it counts).
RATES = {
    "sensitivity": ("positive", "called"),
    "specificity": ("negative", "cleared"),
    "positive_predictive_value": ("called", "positive"),
    "negative_predictive_value": ("cleared", "negative"),
}


def rate_at_threshold(labels, scores, weights=None, *, threshold: float, rate: str):
    """One of :data:`RATES` where a case is called positive at or above ``threshold``."""
    labels, scores, weights, single = _checked(labels, scores, weights)
    if np.isnan(scores).any():
        return _undefined(len(weights), single)
    called = (scores >= threshold).astype(np.float64)
    groups = {"positive": labels, "negative": 1 - labels, "called": called, "cleared": 1 - called}
    among, counted = (groups[name] for name in RATES[rate])
    return _finish(_divide(weights @ (among * counted), weights @ among), single)


def _sensitivity_at_90(labels, scores, weights=None):
    return sensitivity_at_specificity(labels, scores, weights, specificity=0.9)


def _specificity_at_90(labels, scores, weights=None):
    return specificity_at_sensitivity(labels, scores, weights, sensitivity=0.9)


#: name -> function(labels, scores, weights=None); what a report holds for clips and for studies.
METRICS: dict[str, Callable] = {
    "auroc": auroc,
    "auprc": auprc,
    "sensitivity_at_90_specificity": _sensitivity_at_90,
    "specificity_at_90_sensitivity": _specificity_at_90,
    "brier": brier,
    "log_loss": log_loss,
    "expected_calibration_error": expected_calibration_error,
}
#: Those that a calibration can change; those of ranks it cannot.
OF_PROBABILITIES = ("brier", "log_loss", "expected_calibration_error")


def undefined_reason(name: str, labels, scores) -> str | None:
    """Why the metric ``name`` has no value on these cases, or None when it has one."""
    labels, scores, _, _ = _checked(labels, scores)
    if not labels.size:
        return "no case with a known label"
    missing = int(np.isnan(scores).sum())
    if missing:
        return f"{missing} of {scores.size} scores are NaN"
    if name in _NEED_BOTH_CLASSES and labels.min() == labels.max():
        return f"only one class: every label is {int(labels[0])}"
    if name in _NEED_A_POSITIVE and labels.max() == 0:
        return "no positive case"
    return None
