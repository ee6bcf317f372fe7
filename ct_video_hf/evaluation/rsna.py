"""The official metric of RSNA STR PE: weighted log loss over exams and their images.

Each exam label counts with its weight, each image with the image weight times the fraction of
positive images of its exam; the sum is divided by the sum of these weights (evaluation page of the
challenge; weights in :mod:`ct_video_hf.data.rsna_labels`).
"""

from __future__ import annotations

import numpy as np

from ..data.rsna_labels import EXAM_WEIGHTS, IMAGE_WEIGHT
from ..errors import CTVideoError

__all__ = ["log_loss_terms", "rsna_weighted_log_loss"]

#: Probabilities are kept this far off 0 and 1.
_EPS = 1e-15


def rsna_weighted_log_loss(
    exam_labels: np.ndarray,
    exam_scores: np.ndarray,
    image_labels: np.ndarray,
    image_scores: np.ndarray,
    image_exam: np.ndarray,
) -> float:
    """Weighted log loss in nats; smaller is better.

    Parameters
    ----------
    exam_labels, exam_scores : numpy.ndarray
        (exams, 9): labels of 0 and 1, and probabilities, in the order of
        :data:`ct_video_hf.data.rsna_labels.EXAM_WEIGHTS`.
    image_labels, image_scores : numpy.ndarray
        (images,): PE on the image, and its probability.
    image_exam : numpy.ndarray
        (images,): row of each image's exam.

    Returns
    -------
    float
        nan where a score is nan.

    Raises
    ------
    CTVideoError
        For shapes that do not fit, labels other than 0 and 1, scores that are no probabilities, or
        an exam without an image.
    """
    exam_labels, exam_scores = _checked("exam", exam_labels, exam_scores, 2)
    image_labels, image_scores = _checked("image", image_labels, image_scores, 1)
    weights = np.array(list(EXAM_WEIGHTS.values()))
    exam_of = np.asarray(image_exam)
    exams = len(exam_labels)
    if exam_labels.shape[1] != len(weights):
        raise CTVideoError(
            f"exams have {exam_labels.shape[1]} labels; the metric has {', '.join(EXAM_WEIGHTS)}"
        )
    if exam_of.shape != image_labels.shape or not np.issubdtype(exam_of.dtype, np.integer):
        raise CTVideoError(
            f"image_exam must hold a row of exams for each of {len(image_labels)} images, found "
            f"shape {exam_of.shape} of {exam_of.dtype}"
        )
    if exam_of.size and not 0 <= exam_of.min() <= exam_of.max() < exams:
        raise CTVideoError(f"image_exam names exams {exam_of.min()} to {exam_of.max()} of {exams}")
    images = np.bincount(exam_of, minlength=exams)
    if not exams or not images.all():
        raise CTVideoError(f"{int((images == 0).sum())} of {exams} exams have no image")
    share = np.bincount(exam_of, image_labels, exams) / images
    image_weights = IMAGE_WEIGHT * share[exam_of]
    total = (log_loss_terms(exam_labels, exam_scores) @ weights).sum()
    total += log_loss_terms(image_labels, image_scores) @ image_weights
    return float(total / (exams * weights.sum() + image_weights.sum()))


def log_loss_terms(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Log loss of each label, in nats, with probabilities kept off 0 and 1."""
    clipped = np.clip(scores, _EPS, 1 - _EPS)
    return -(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))


def _checked(
    name: str, labels: np.ndarray, scores: np.ndarray, axes: int
) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels, float), np.asarray(scores, float)
    if labels.shape != scores.shape or labels.ndim != axes:
        raise CTVideoError(
            f"{name} labels and scores must have one shape of {axes} axes, found {labels.shape} "
            f"and {scores.shape}"
        )
    if not np.isin(labels, (0, 1)).all():
        raise CTVideoError(f"{name} labels must be 0 or 1; leave unknown ones out before scoring")
    outside = (scores < 0) | (scores > 1)  # nan is neither
    if outside.any():
        raise CTVideoError(
            f"{name} scores must be probabilities, found {scores[outside][0]:.4g}; logits belong "
            "through a sigmoid first"
        )
    return labels, scores
