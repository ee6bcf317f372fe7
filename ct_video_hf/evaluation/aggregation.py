"""How the scores of a study's clips become the study's score; asked here by everybody."""

from __future__ import annotations

import numpy as np

from ..errors import CTVideoError
from .attention import pooled_log_odds

__all__ = ["AGGREGATIONS", "check_aggregation", "describe_aggregation", "study_score"]

#: ``max`` is the rule of arXiv 2304.00546. ``mean_top_k`` averages the highest scores (all, where
#: there are fewer). ``noisy_or`` is one minus the product of (1 - score): the probability of at
#: least one positive clip if clips were independent. ``attention`` weighs clips as a head has
#: learned, see :mod:`.attention`.
AGGREGATIONS = ("max", "mean_top_k", "noisy_or", "attention")


def check_aggregation(method: str, top_k: int) -> None:
    """Refuse an unknown ``method``, or a ``top_k`` below 1."""
    if method not in AGGREGATIONS:
        raise CTVideoError(f"unknown aggregation {method!r}; choose from {', '.join(AGGREGATIONS)}")
    if top_k < 1:
        raise CTVideoError(f"top_k must be at least 1, found {top_k}")


def study_score(
    scores: np.ndarray,
    method: str = "max",
    top_k: int = 3,
    attention: np.ndarray | None = None,
) -> float:
    """The score of a study, 0..1, from the scores (n,) of its clips.

    Parameters
    ----------
    scores, method, top_k
        See :data:`AGGREGATIONS`.
    attention : numpy.ndarray, optional
        (n, 2): what an attention head gives each clip, see :mod:`.attention`. Needed by
        ``attention``, which does not look at ``scores``.

    Raises
    ------
    CTVideoError
        For an unknown method, a ``top_k`` below 1, or ``attention`` without what it needs.
    """
    check_aggregation(method, top_k)
    if method == "attention":
        if attention is None:
            raise CTVideoError(
                "aggregation attention needs what an attention head gives each clip, and there is "
                "none: score a model that has a head"
            )
        return float(0.5 * (1 + np.tanh(0.5 * pooled_log_odds(attention[:, 0], attention[:, 1]))))
    if method == "max":
        return float(scores.max())
    if method == "mean_top_k":
        return float(np.sort(scores)[-top_k:].mean())
    return float(-np.expm1(np.log1p(-np.minimum(scores, 1 - 1e-15)).sum()))


def describe_aggregation(method: str, top_k: int) -> str:
    """The rule in words, for results, pictures and cards."""
    check_aggregation(method, top_k)
    if method == "mean_top_k":
        return f"mean of the {top_k} highest clips"
    return {
        "max": "max over clips",
        "noisy_or": "noisy-or over clips",
        "attention": "learned attention over clips",
    }[method]
