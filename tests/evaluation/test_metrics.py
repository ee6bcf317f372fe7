import numpy as np
import pytest
from sklearn import metrics as sk

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation.metrics import (
    METRICS,
    auprc,
    auroc,
    brier,
    expected_calibration_error,
    log_loss,
    roc_curve,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
    undefined_reason,
)


def cases(seed, n=200, decimals=2):
    """Labels and scores with many ties (two decimals)."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(int)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + labels - 0.5)))
    return labels, np.round(scores, decimals)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_equal_scikit_learn(seed, decimals):
    labels, scores = cases(seed, decimals=decimals)
    assert auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    expected = sk.average_precision_score(labels, scores)
    assert auprc(labels, scores) == pytest.approx(expected, abs=1e-12)
    assert brier(labels, scores) == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-12)
    assert log_loss(labels, scores) == pytest.approx(sk.log_loss(labels, scores), abs=1e-12)
    false_rate, true_rate, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    ours = roc_curve(labels, scores)
    np.testing.assert_allclose(ours[0], false_rate, atol=1e-12)
    np.testing.assert_allclose(ours[1], true_rate, atol=1e-12)
    for wanted in (0.5, 0.8, 0.9, 1.0):
        best = true_rate[1 - false_rate >= wanted - 1e-12].max()
        found = sensitivity_at_specificity(labels, scores, specificity=wanted)
        assert found == pytest.approx(best, abs=1e-12)
        best = (1 - false_rate)[true_rate >= wanted - 1e-12].max()
        found = specificity_at_sensitivity(labels, scores, sensitivity=wanted)
        assert found == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_weights_are_repetitions(name):
    labels, scores = cases(7, n=60)
    counts = np.random.default_rng(1).integers(0, 4, size=(6, 60))
    together = METRICS[name](labels, scores, counts)
    for row, value in zip(counts, together, strict=True):
        repeated = METRICS[name](np.repeat(labels, row), np.repeat(scores, row))
        assert value == pytest.approx(repeated, abs=1e-12)
        assert METRICS[name](labels, scores, row) == pytest.approx(repeated, abs=1e-12)


def test_a_rate_of_exactly_nine_in_ten_is_reached():
    labels = np.r_[np.zeros(10, int), np.ones(10, int)]
    scores = np.r_[np.linspace(0.0, 0.4, 9), 0.9, np.linspace(0.5, 0.8, 10)]
    assert sensitivity_at_specificity(labels, scores, specificity=0.9) == 1.0


def test_all_scores_equal_is_chance():
    assert auroc([0, 1, 0, 1], [0.3] * 4) == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_undefined_and_not_zero(label):
    labels, scores = np.full(5, label), np.linspace(0.1, 0.9, 5)
    assert np.isnan(auroc(labels, scores))
    assert f"every label is {label}" in undefined_reason("auroc", labels, scores)
    assert np.isnan(sensitivity_at_specificity(labels, scores))
    assert np.isnan(specificity_at_sensitivity(labels, scores))
    assert np.isnan(auprc(labels, scores)) == (label == 0)
    assert (undefined_reason("auprc", labels, scores) is None) == (label == 1)
    assert undefined_reason("brier", labels, scores) is None


@pytest.mark.parametrize("name", METRICS)
def test_nan_scores_are_undefined_and_not_chance(name):
    labels, scores = cases(3)
    scores[4] = np.nan
    assert np.isnan(METRICS[name](labels, scores))
    assert undefined_reason(name, labels, scores) == "1 of 200 scores are NaN"


@pytest.mark.parametrize("name", METRICS)
def test_no_case_is_undefined(name):
    assert np.isnan(METRICS[name]([], []))
    assert undefined_reason(name, [], []) == "no case with a known label"


def test_calibration_error_of_a_known_case():
    # Bin (0, 0.1] holds 0.05 with label 0 and bin (0.9, 1] two of 0.95, one of them positive.
    value = expected_calibration_error([0, 0, 1], [0.05, 0.95, 0.95])
    assert value == pytest.approx(1 / 3 * 0.05 + 2 / 3 * 0.45)


def test_wrong_input_is_refused():
    with pytest.raises(CTVideoError, match="-1"):
        auroc([0, 1, -1], [0.1, 0.2, 0.3])
    with pytest.raises(CTVideoError, match="shapes"):
        auroc([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(CTVideoError, match="sigmoid"):
        log_loss([0, 1], [-3.0, 3.0])
