import numpy as np
import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation.bootstrap import (
    bootstrap_intervals,
    delong_difference,
    delong_interval,
    draw_counts,
)
from ct_video_hf.evaluation.metrics import METRICS, auroc

from .test_metrics import cases


def test_draws_take_whole_patients():
    patients = np.array(["b", "a", "b", "c", "a"])
    blocks = np.concatenate(list(draw_counts(patients, 500, seed=3)))
    assert blocks.shape == (500, 5)
    assert (blocks[:, 0] == blocks[:, 2]).all()
    assert (blocks[:, 1] == blocks[:, 4]).all()
    # as many patients are drawn as there are, each once on average
    assert (blocks[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert np.abs(blocks.mean(axis=0) - 1).max() < 0.15


def test_interval_is_what_resampling_one_by_one_gives():
    labels, scores = cases(0, n=80)
    patients = np.arange(80) // 2
    found = bootstrap_intervals({"auroc": auroc}, labels, scores, patients, resamples=300, seed=5)
    counts = np.concatenate(list(draw_counts(patients, 300, seed=5))).astype(int)
    slow = [auroc(np.repeat(labels, row), np.repeat(scores, row)) for row in counts]
    low, high = np.quantile(slow, [0.025, 0.975])
    assert found["auroc"].low == pytest.approx(low, abs=1e-12)
    assert found["auroc"].high == pytest.approx(high, abs=1e-12)


def test_seed_decides_and_metrics_share_their_draws():
    labels, scores = cases(1)
    patients = np.arange(labels.size)
    kwargs = {"resamples": 200, "seed": 9}
    alone = bootstrap_intervals({"auroc": auroc}, labels, scores, patients, **kwargs)["auroc"]
    every = bootstrap_intervals(METRICS, labels, scores, patients, **kwargs)["auroc"]
    other = bootstrap_intervals({"auroc": auroc}, labels, scores, patients, resamples=200, seed=10)[
        "auroc"
    ]
    assert alone == every
    assert alone.low != other.low


def test_repeated_studies_of_a_patient_do_not_narrow_the_interval():
    labels, scores = cases(2, n=60)
    once = bootstrap_intervals(
        {"auroc": auroc}, labels, scores, np.arange(60), resamples=400, seed=0
    )["auroc"]
    four = bootstrap_intervals(
        {"auroc": auroc},
        np.repeat(labels, 4),
        np.repeat(scores, 4),
        np.repeat(np.arange(60), 4),
        resamples=400,
        seed=0,
    )["auroc"]
    assert (four.low, four.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_undefined_draws_are_left_out_and_counted():
    labels = np.array([1, 0, 0, 0])
    found = bootstrap_intervals(
        {"auroc": auroc}, labels, [0.9, 0.1, 0.2, 0.95], np.arange(4), resamples=500, seed=0
    )["auroc"]
    # the only positive is missing from (3/4)^4 of the draws, and makes up (1/4)^4 of them
    assert found.undefined_resamples / 500 == pytest.approx(0.32, abs=0.06)
    assert found.low < found.value <= found.high


def test_one_class_has_no_interval():
    found = bootstrap_intervals({"auroc": auroc}, [1, 1], [0.1, 0.2], [0, 1], resamples=10)["auroc"]
    assert np.isnan([found.value, found.low, found.high]).all()


def test_coverage_of_the_truth():
    """Of 200 small sets, about 95 % of the intervals hold the true AUROC of 0.76."""
    rng = np.random.default_rng(0)
    truth, inside = 0.7602, 0  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for trial in range(200):
        labels = np.r_[np.zeros(60, int), np.ones(60, int)]
        scores = rng.normal(size=120) + labels
        found = bootstrap_intervals(
            {"auroc": auroc}, labels, scores, np.arange(120), resamples=300, seed=trial
        )["auroc"]
        inside += found.low <= truth <= found.high
    assert 0.89 <= inside / 200 <= 0.985


def test_delong_against_its_definition():
    """The variance from the kernel matrix of all pairs, as DeLong et al. (1988) write it."""
    labels, scores = cases(5, n=70)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    kernel = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    variance = kernel.mean(axis=1).var(ddof=1) / positives.size
    variance += kernel.mean(axis=0).var(ddof=1) / negatives.size
    found = delong_interval(labels, scores)
    assert found.value == pytest.approx(kernel.mean())
    assert found.high - found.value == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)


def test_delong_and_bootstrap_agree():
    labels, scores = cases(6, n=600)
    bootstrap = bootstrap_intervals(
        {"auroc": auroc}, labels, scores, np.arange(600), resamples=3000, seed=0
    )["auroc"]
    normal = delong_interval(labels, scores)
    assert (normal.low, normal.high) == pytest.approx((bootstrap.low, bootstrap.high), abs=0.01)


def test_paired_difference():
    labels, scores = cases(8, n=400)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    difference, p = delong_difference(labels, scores, noise)
    assert difference == pytest.approx(auroc(labels, scores) - auroc(labels, noise))
    assert p < 1e-4
    assert np.isnan(delong_difference(labels, scores, 2 * scores)[1])
    # under the null p is uniform: about one in ten below 0.1
    small = [
        delong_difference(labels, rng.normal(size=400), rng.normal(size=400))[1] < 0.1
        for _ in range(200)
    ]
    assert 0.04 <= np.mean(small) <= 0.17


def test_wrong_use():
    with pytest.raises(CTVideoError, match="cluster"):
        bootstrap_intervals({"auroc": auroc}, [0, 1], [0.1, 0.2], [0])
    with pytest.raises(CTVideoError, match="confidence"):
        bootstrap_intervals({"auroc": auroc}, [0, 1], [0.1, 0.2], [0, 1], confidence=95)
    with pytest.raises(CTVideoError, match="two positive"):
        delong_interval([0, 0, 1], [0.1, 0.2, 0.3])
