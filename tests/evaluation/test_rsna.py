"""The official RSNA metric against a loop that follows the challenge's words."""

from math import isnan, log

import numpy as np
import pytest

from ct_video_hf.data.rsna_labels import EXAM_WEIGHTS
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation.rsna import rsna_weighted_log_loss

IMAGE = 0.07361963


def bce(label, score):
    score = min(max(score, 1e-15), 1 - 1e-15)
    return -log(score) if label else -log(1 - score)


def slow(exam_labels, exam_scores, image_labels, image_scores, image_exam):
    total = weight = 0.0
    for exam in range(len(exam_labels)):
        for place, w in enumerate(EXAM_WEIGHTS.values()):
            total += w * bce(exam_labels[exam, place], exam_scores[exam, place])
            weight += w
        members = [image for image, owner in enumerate(image_exam) if owner == exam]
        share = sum(image_labels[image] for image in members) / len(members)
        for image in members:
            total += IMAGE * share * bce(image_labels[image], image_scores[image])
            weight += IMAGE * share
    return total / weight


def sample(seed, exams=6):
    random = np.random.default_rng(seed)
    exam_of = np.concatenate([np.arange(exams), random.integers(0, exams, 40)])
    random.shuffle(exam_of)
    shape = (exams, len(EXAM_WEIGHTS))
    return (
        random.integers(0, 2, shape),
        random.random(shape),
        (random.random(len(exam_of)) < 0.3).astype(int),
        random.random(len(exam_of)),
        exam_of,
    )


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_loop(seed):
    arguments = sample(seed)
    assert rsna_weighted_log_loss(*arguments) == pytest.approx(slow(*arguments), rel=1e-12)


def test_one_exam_by_hand():
    # two images, one positive: each weighs 0.0736... x 1/2; every score 0.5 costs log 2
    halves = (np.zeros((1, 9)), np.full((1, 9), 0.5), [1, 0], [0.5, 0.5], np.array([0, 0]))
    assert rsna_weighted_log_loss(*halves) == pytest.approx(log(2))
    # without a positive image, images weigh nothing
    labels, scores = np.zeros((1, 9)), np.full((1, 9), 0.25)
    loss = rsna_weighted_log_loss(labels, scores, [0, 0], [0.9, 0.9], np.array([0, 0]))
    assert loss == pytest.approx(-log(0.75))


def test_certain_and_missing_scores():
    exam_labels, _, image_labels, _, exam_of = sample(0)
    right = (exam_labels, exam_labels, image_labels, image_labels, exam_of)
    assert 0 <= rsna_weighted_log_loss(*right) < 1e-12
    wrong = rsna_weighted_log_loss(
        exam_labels, 1 - exam_labels, image_labels, image_labels, exam_of
    )
    assert 30 < wrong < 40
    scores = exam_labels.astype(float)
    scores[0, 0] = np.nan
    assert isnan(rsna_weighted_log_loss(exam_labels, scores, image_labels, image_labels, exam_of))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({1: np.full((6, 9), 1.5)}, "exam scores must be probabilities, found 1.5"),
        ({0: np.full((6, 9), -1)}, "exam labels must be 0 or 1"),
        ({0: np.zeros((6, 8)), 1: np.zeros((6, 8))}, "exams have 8 labels"),
        ({0: np.zeros((5, 9))}, "exam labels and scores must have one shape"),
        ({4: np.zeros(46, int)}, "5 of 6 exams have no image"),
        ({4: np.full(46, 6)}, "image_exam names exams 6 to 6 of 6"),
        ({4: np.zeros(46)}, "image_exam must hold a row"),
    ],
)
def test_slips(change, expected):
    arguments = list(sample(0))
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(CTVideoError, match=expected):
        rsna_weighted_log_loss(*arguments)
