"""Models compared on the same studies: differences of mean AUROCs, paired, with intervals.

Several runs of one arm (its seeds) are one estimate: the mean of their AUROCs. All estimates are
resampled with the same draws of patients, so a difference of two of them, or a mean over many, is
paired by itself: what the runs share, the patients, varies together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import CTVideoError
from .bootstrap import Interval, delong_difference, draw_counts
from .metrics import auroc
from .predictions import aggregate

__all__ = ["Comparison", "PairedStudies", "compare_arithmetic", "holm"]


@dataclass(frozen=True)
class Comparison:
    """A difference of two estimates on the same studies.

    Attributes
    ----------
    value, low, high : float
        The difference and its percentile interval over patients.
    p : float
        Two-sided: DeLong's where each side is one run and each patient has one study, else from
        the share of draws on either side of zero. ``nan`` where nothing varies.
    test : str
        How ``p`` was found, in words.
    """

    value: float
    low: float
    high: float
    p: float
    test: str


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979); ``nan`` stays and does not count."""
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    adjusted = np.full(values.shape, np.nan)
    highest = 0.0
    for place, index in enumerate(known[np.argsort(values[known], kind="stable")]):
        highest = max(highest, min(1.0, values[index] * (known.size - place)))
        adjusted[index] = highest
    return adjusted.tolist()


class PairedStudies:
    """The study scores of several runs on the same labelled studies.

    Parameters
    ----------
    runs : mapping of str to DataFrame
        Run name -> studies as :func:`.predictions.aggregate` gives them: study_id, patient_hash,
        label, score. Studies of unknown label (-1) do not count.
    resamples, seed, confidence
        See :func:`.bootstrap.bootstrap_intervals`.

    Raises
    ------
    CTVideoError
        Two runs hold different studies, labels or patients: their scores do not compare.
    """

    def __init__(
        self,
        runs: Mapping[str, pd.DataFrame],
        *,
        resamples: int = 2000,
        seed: int = 0,
        confidence: float = 0.95,
    ) -> None:
        if not runs:
            raise CTVideoError("there is no run to compare")
        self._confidence = confidence
        self._scores: dict[str, np.ndarray] = {}
        first = None
        for name, table in runs.items():
            known = table[table["label"] >= 0].sort_values("study_id")
            facts = known[["study_id", "label", "patient_hash"]].reset_index(drop=True)
            if first is None:
                first, origin = facts, name
            elif not facts.equals(first):
                raise CTVideoError(
                    f"the runs {origin} and {name} were scored on different studies, labels or "
                    f"patients ({len(first)} and {len(facts)} studies); evaluate both on one split "
                    "of one prepared set"
                )
            self._scores[name] = known["score"].to_numpy(dtype=np.float64)
        self.labels = first["label"].to_numpy()
        self._clusters = first["patient_hash"].to_numpy(dtype=str)
        self._draws: dict[str, np.ndarray] = self._resample(resamples, seed)

    def __len__(self) -> int:
        return len(self.labels)

    def _resample(self, resamples: int, seed: int) -> dict[str, np.ndarray]:
        drawn: dict[str, list[np.ndarray]] = {name: [] for name in self._scores}
        if resamples and len(self.labels):
            for counts in draw_counts(self._clusters, resamples, seed):
                for name, scores in self._scores.items():
                    drawn[name].append(auroc(self.labels, scores, counts))
        return {
            name: np.concatenate(parts) if parts else np.empty(0) for name, parts in drawn.items()
        }

    def _estimate(self, arms: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
        """Mean over arms of each arm's mean over runs: the value and its draws."""
        values = [np.mean([auroc(self.labels, self._scores[run]) for run in arm]) for arm in arms]
        draws = [np.mean([self._draws[run] for run in arm], axis=0) for arm in arms]
        return float(np.mean(values)), np.mean(draws, axis=0)

    def _interval(self, value: float, draws: np.ndarray) -> Interval:
        defined = draws[~np.isnan(draws)]
        missing = int(draws.size - defined.size)
        if np.isnan(value) or not defined.size:
            return Interval(value, np.nan, np.nan, missing)
        tail = (1 - self._confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Interval(value, float(low), float(high), missing)

    def auroc(self, *arms: Sequence[str]) -> Interval:
        """AUROC of one arm (a list of its runs), or the mean over several arms.

        Parameters
        ----------
        *arms : sequence of str
            Each the names of an arm's runs.
        """
        return self._interval(*self._estimate(arms))

    def difference(
        self, arms_a: Sequence[Sequence[str]], arms_b: Sequence[Sequence[str]]
    ) -> Comparison:
        """Mean AUROC of ``arms_a`` minus that of ``arms_b``.

        Parameters
        ----------
        arms_a, arms_b : sequence of sequence of str
            Arms, each the names of its runs; one arm of each to compare two, several to compare
            means over models.
        """
        value_a, draws_a = self._estimate(arms_a)
        value_b, draws_b = self._estimate(arms_b)
        interval = self._interval(value_a - value_b, draws_a - draws_b)
        single = [len(arms) == 1 and len(arms[0]) == 1 for arms in (arms_a, arms_b)]
        alone = len(np.unique(self._clusters)) == len(self._clusters)
        positives = int(self.labels.sum())
        enough = min(positives, len(self.labels) - positives) >= 2
        if all(single) and alone and enough:
            scores = [self._scores[arms[0][0]] for arms in (arms_a, arms_b)]
            p, test = delong_difference(self.labels, *scores)[1], "DeLong, paired"
        else:
            p, test = _bootstrap_p(draws_a - draws_b), "paired bootstrap over patients"
        return Comparison(interval.value, interval.low, interval.high, p, test)


def _bootstrap_p(differences: np.ndarray) -> float:
    """Twice the smaller share of draws at or beyond zero, each share counting one draw more."""
    defined = differences[~np.isnan(differences)]
    if not defined.size or np.ptp(defined) == 0:
        return np.nan
    below, above = (defined <= 0).sum(), (defined >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (defined.size + 1)))


def compare_arithmetic(
    exact: pd.DataFrame,
    other: pd.DataFrame,
    *,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
    resamples: int = 2000,
    seed: int = 0,
) -> dict:
    """What another arithmetic changes in the scores of one model, ready for JSON.

    Parameters
    ----------
    exact, other : DataFrame
        Predictions tables of the same clips.
    aggregation, top_k, label_from
        See :func:`.predictions.aggregate`.

    Returns
    -------
    dict
        ``study_auroc_exact``, ``study_auroc``, their ``difference`` (other minus exact) with
        ``low`` and ``high`` over patients, None where undefined; ``rank_correlation`` of clip
        logits (Spearman); ``largest_logit_difference``.
    """
    rules = {"top_k": top_k, "label_from": label_from}
    runs = {
        name: aggregate(table, aggregation, **rules)
        for name, table in (("exact", exact), ("other", other))
    }
    paired = PairedStudies(runs, resamples=resamples, seed=seed)
    found = paired.difference([["other"]], [["exact"]])
    ranks = exact["logit"].rank().corr(other["logit"].rank())
    values = {
        "study_auroc_exact": paired.auroc(["exact"]).value,
        "study_auroc": paired.auroc(["other"]).value,
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "rank_correlation": float(ranks),
        "largest_logit_difference": float((exact["logit"] - other["logit"]).abs().max()),
    }
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}
