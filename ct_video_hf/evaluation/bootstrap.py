"""Intervals: the patient-clustered percentile bootstrap, and DeLong's for the AUROC.

The bootstrap draws patients with replacement, all of a patient's studies (or clips) together,
because two studies of one patient are not two independent observations. A draw is a vector of
counts, so a metric that takes weights is computed on many draws at once without copying a case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..errors import CTVideoError
from .metrics import auroc

__all__ = [
    "Interval",
    "bootstrap_intervals",
    "delong_difference",
    "delong_interval",
    "draw_counts",
    "percentile_interval",
]

#: Cells of a block of draws; bounds the memory at a few times 8 MB whatever the set's size.
_CELLS_PER_BLOCK = 1 << 20


@dataclass(frozen=True)
class Interval:
    """A value with its interval; ``nan`` where undefined.

    Attributes
    ----------
    value, low, high : float
    undefined_resamples : int
        Draws on which the metric was undefined (one class only); they are left out.
    """

    value: float
    low: float
    high: float
    undefined_resamples: int = 0


def draw_counts(clusters, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks (draws, n) of how often each case is drawn, whole clusters at a time.

    Parameters
    ----------
    clusters : array_like, (n,)
        Which cluster (patient) each case belongs to.
    resamples : int
    seed : int
        The same seed draws the same clusters, whatever the metric.
    """
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS_PER_BLOCK // max(member.size, count))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(0, count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count
        counts = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield counts[:, member].astype(np.float64)


def bootstrap_intervals(
    metrics: dict[str, Callable],
    labels,
    scores,
    clusters,
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of several metrics on the same draws.

    Parameters
    ----------
    metrics : dict of str to callable
        ``metric(labels, scores, weights)``, as in :data:`ct_video_hf.evaluation.metrics.METRICS`.
    labels, scores, clusters : array_like, (n,)
        ``clusters`` names the patient of each case.
    resamples : int
        0 gives the values with undefined bounds.
    confidence : float
        Share of the draws between the bounds, 0.95 for a 95 % interval.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    clusters = np.asarray(clusters)
    if clusters.shape != labels.shape:
        raise CTVideoError(
            f"one cluster a case: {labels.size} cases, clusters of shape {clusters.shape}"
        )
    if not 0 < confidence < 1:
        raise CTVideoError(f"confidence must lie between 0 and 1, found {confidence}")
    values = {name: metric(labels, scores) for name, metric in metrics.items()}
    # Nothing is drawn for a metric that is undefined on the cases themselves.
    wanted = {name: metrics[name] for name, value in values.items() if not np.isnan(value)}
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    if wanted and resamples:
        for counts in draw_counts(clusters, resamples, seed):
            for name, metric in wanted.items():
                drawn[name].append(metric(labels, scores, counts))
    return {
        name: percentile_interval(value, drawn.get(name, []), confidence)
        for name, value in values.items()
    }


def percentile_interval(value: float, blocks: list[np.ndarray], confidence: float) -> Interval:
    """The interval of a value from its draws, given in blocks; undefined draws are left out."""
    if not blocks:
        return Interval(value, np.nan, np.nan)
    draws = np.concatenate(blocks)
    defined = draws[~np.isnan(draws)]
    missing = int(draws.size - defined.size)
    if not defined.size:
        return Interval(value, np.nan, np.nan, missing)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(value, float(low), float(high), missing)


def _placements(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Each positive's share of negatives below it, and each negative's share of positives above.

    The structural components of DeLong et al. (1988), ties counting one half, found by sorting.
    """
    labels, scores = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    positives, negatives = scores[labels], scores[~labels]

    def share_below(values, others):
        ordered = np.sort(others)
        left = np.searchsorted(ordered, values, side="left")
        right = np.searchsorted(ordered, values, side="right")
        return (left + right) / (2 * max(others.size, 1))

    return share_below(positives, negatives), 1 - share_below(negatives, positives)


def _needs_two_of_each(labels) -> None:
    positives = int(np.sum(labels))
    if min(positives, len(labels) - positives) < 2:
        raise CTVideoError(
            "DeLong's variance needs two positive and two negative cases, found "
            f"{positives} positive of {len(labels)}"
        )


def delong_interval(labels, scores, *, confidence: float = 0.95) -> Interval:
    """AUROC with DeLong's normal interval, cut to 0..1. It takes cases as independent."""
    value = auroc(labels, scores)
    if np.isnan(value):
        return Interval(value, np.nan, np.nan)
    _needs_two_of_each(labels)
    by_positive, by_negative = _placements(labels, scores)
    error = np.sqrt(
        by_positive.var(ddof=1) / by_positive.size + by_negative.var(ddof=1) / by_negative.size
    )
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Interval(value, float(max(0.0, value - reach)), float(min(1.0, value + reach)))


def delong_difference(labels, scores_a, scores_b) -> tuple[float, float]:
    """AUROC(a) - AUROC(b) on the same cases, and its two-sided p value (DeLong et al. 1988).

    The p value is ``nan`` when the two scores rank the cases alike, so that nothing varies.
    """
    difference = auroc(labels, scores_a) - auroc(labels, scores_b)
    if np.isnan(difference):
        return np.nan, np.nan
    _needs_two_of_each(labels)
    by_positive, by_negative = (
        a - b
        for a, b in zip(_placements(labels, scores_a), _placements(labels, scores_b), strict=True)
    )
    variance = by_positive.var(ddof=1) / by_positive.size
    variance += by_negative.var(ddof=1) / by_negative.size
    if variance <= 0:
        return difference, np.nan
    return difference, 2 * (1 - NormalDist().cdf(abs(difference) / np.sqrt(variance)))
