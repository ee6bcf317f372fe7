"""RSNA's official metric and its label-consistency check, from a predictions table.

An exam label's probability is the study's score of that label. An image's is the highest clip score
of the image label among the clips that hold the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..data.rsna_labels import (
    EXAM_WEIGHTS,
    IMAGE_LABEL,
    IMAGE_WEIGHT,
    OFFICIAL_LABELS,
    inconsistencies,
)
from .bootstrap import draw_counts, percentile_interval
from .predictions import SLICE_LABELS, aggregate
from .rsna import log_loss_terms, rsna_weighted_log_loss
from .several import by_label, has_several_labels

__all__ = ["is_official", "rsna_report"]


@dataclass(frozen=True)
class _Exams:
    """Exams whose labels are all known, with their images.

    ``labels`` and ``scores`` (exam, 9) in the order of ``EXAM_WEIGHTS``; ``image_labels`` and
    ``image_scores`` (image,), and the exam of each image; the patient of each exam.
    """

    labels: np.ndarray
    scores: np.ndarray
    image_labels: np.ndarray
    image_scores: np.ndarray
    image_exam: np.ndarray
    patients: np.ndarray


def is_official(table: pd.DataFrame) -> bool:
    """Whether a table holds the ten official labels with the labels of slices."""
    if not has_several_labels(table) or SLICE_LABELS not in table.columns:
        return False
    return set(table["label_name"]) == set(OFFICIAL_LABELS)


def rsna_report(
    table: pd.DataFrame, *, aggregation: str, top_k: int, resamples: int, seed: int,
    confidence: float,
) -> dict:  # fmt: skip
    """Weighted log loss with a patient-clustered interval, and which rules scores break at 0.5.

    Parameters
    ----------
    table : DataFrame
        One for which :func:`is_official` holds.
    aggregation, top_k
        How exam scores are made of clip scores.
    resamples, seed, confidence
        See :func:`.bootstrap.bootstrap_intervals`.

    Returns
    -------
    dict
        ``rsna/weighted_log_loss`` (value, low, high, n exams, images) and
        ``rsna/label_consistency`` (share of consistent exams, broken rules with exams, exams that
        were left out for a label that is not known).
    """
    exams, left_out = _exams(table, aggregation, top_k)
    count = len(exams.labels)
    if not count:
        entry = {"value": None, "low": None, "high": None, "n": 0, "undefined": "no exam with all "
                 "labels known"}  # fmt: skip
        return {"rsna/weighted_log_loss": entry}
    value = rsna_weighted_log_loss(
        exams.labels, exams.scores, exams.image_labels, exams.image_scores, exams.image_exam
    )
    losses, weights = _parts(exams)
    draws = [
        (counts @ losses) / (counts @ weights)
        for counts in draw_counts(exams.patients, resamples, seed)
    ]
    found = percentile_interval(value, draws, confidence)
    bounds = (None if np.isnan(b) else float(b) for b in (found.low, found.high))
    low, high = bounds
    return {
        "rsna/weighted_log_loss": {
            "value": value, "low": low, "high": high, "n": count,
            "images": len(exams.image_labels),
        },
        "rsna/label_consistency": _consistency(exams) | {"exams_left_out": left_out},
    }  # fmt: skip


def _exams(table: pd.DataFrame, aggregation: str, top_k: int) -> tuple[_Exams, int]:
    tables = by_label(table)
    studies = {name: aggregate(tables[name], aggregation, top_k=top_k) for name in EXAM_WEIGHTS}
    first = next(iter(studies.values()))
    labels = np.stack([rows["label"].to_numpy() for rows in studies.values()], axis=1)
    scores = np.stack([rows["score"].to_numpy() for rows in studies.values()], axis=1)
    images = {study: _images(rows) for study, rows in tables[IMAGE_LABEL].groupby("study_id")}
    known = np.array(
        [bool((row >= 0).all()) and images[study] is not None
         for study, row in zip(first["study_id"], labels, strict=True)]
    )  # fmt: skip
    kept = [images[study] for study in first["study_id"][known]]
    sizes = [len(truth) for truth, _ in kept]
    return _Exams(
        labels=labels[known],
        scores=scores[known],
        image_labels=np.concatenate([np.empty(0, int), *(truth for truth, _ in kept)]),
        image_scores=np.concatenate([np.empty(0), *(score for _, score in kept)]),
        image_exam=np.repeat(np.arange(len(kept)), sizes),
        patients=first["patient_hash"].to_numpy(dtype=str)[known],
    ), int((~known).sum())


def _images(clips: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels and scores of a study's images that lie in a clip; None where a label is unknown."""
    end = int(clips["clip_stop"].max())
    truth, score = np.full(end, -1), np.full(end, -1.0)
    for clip in clips.itertuples():
        word = getattr(clip, SLICE_LABELS)
        if not isinstance(word, str) or len(word) != clip.clip_stop - clip.clip_start:
            return None
        here = slice(clip.clip_start, clip.clip_stop)
        truth[here] = ["?01".index(sign) - 1 for sign in word]
        score[here] = np.maximum(score[here], clip.score)
    inside = score >= 0
    return (truth[inside], score[inside]) if (truth[inside] >= 0).all() else None


def _parts(exams: _Exams) -> tuple[np.ndarray, np.ndarray]:
    """Of each exam its weighted loss and its weights, images included."""
    count = len(exams.labels)
    weights = np.array(list(EXAM_WEIGHTS.values()))
    images = np.bincount(exams.image_exam, minlength=count)
    share = np.bincount(exams.image_exam, exams.image_labels, count) / images
    of_images = np.bincount(
        exams.image_exam, log_loss_terms(exams.image_labels, exams.image_scores), count
    )
    losses = log_loss_terms(exams.labels, exams.scores) @ weights
    return (
        losses + IMAGE_WEIGHT * share * of_images,
        weights.sum() + IMAGE_WEIGHT * share * images,
    )


def _consistency(exams: _Exams) -> dict:
    highest = np.zeros(len(exams.labels))
    np.maximum.at(highest, exams.image_exam, exams.image_scores)
    scores = dict(zip(EXAM_WEIGHTS, (exams.scores >= 0.5).T, strict=True))
    broken = inconsistencies(highest >= 0.5, scores)
    wrong = np.any(list(broken.values()), axis=0) if broken else np.zeros(len(highest), bool)
    return {
        "consistent": float(1 - wrong.mean()),
        "n": len(highest),
        "broken_rules": {rule: int(exams_.sum()) for rule, exams_ in broken.items()},
    }
