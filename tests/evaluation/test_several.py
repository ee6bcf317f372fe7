import numpy as np
import pandas as pd
import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import aggregate, evaluate_predictions, make_predictions
from ct_video_hf.evaluation.several import by_label


def table_of(labels: int, studies: int = 40, unknown: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(labels)
    parts = []
    for place in range(labels):
        truth = random.integers(0, 2, studies)
        truth[random.random(studies) < unknown] = -1
        count = 2 * studies
        parts.append(
            make_predictions(
                study_id=np.repeat([f"s{i:02}" for i in range(studies)], 2),
                patient_hash=np.repeat([f"p{i // 2:02}" for i in range(studies)], 2),
                split=["test"] * count,
                clip_start=[0, 8] * studies,
                clip_stop=[8, 16] * studies,
                label=np.repeat(truth, 2),
                study_label=np.repeat(truth, 2),
                logit=random.normal(size=count) + np.repeat(truth, 2),
                label_name=[f"label {place}"] * count,
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_the_mean_over_one_label_is_that_label():
    """The same draws of patients: the interval too."""
    table = table_of(1)
    several = evaluate_predictions(table, resamples=200)
    alone = evaluate_predictions(by_label(table)["label 0"], resamples=200)
    for name in ("clip/auroc", "study/auroc", "study/brier"):
        for key in ("value", "low", "high"):
            assert several[name][key] == pytest.approx(alone[name][key]), name
    assert several["labels"]["label 0"]["study/auroc"] == alone["study/auroc"]


def test_the_mean_of_several_is_narrower_than_each():
    report = evaluate_predictions(table_of(6, unknown=0.2), resamples=200)
    each = [found["study/auroc"] for found in report["labels"].values()]
    mean = report["study/auroc"]
    assert mean["value"] == pytest.approx(np.mean([entry["value"] for entry in each]))
    widths = [entry["high"] - entry["low"] for entry in each]
    assert mean["high"] - mean["low"] < min(widths)
    assert all(entry["n"] < mean["n"] == 40 for entry in each)


def test_a_label_of_one_class_is_left_out_of_the_mean_and_says_why():
    table = table_of(3)
    one = table["label_name"] == "label 1"
    table.loc[one, ["label", "study_label"]] = 0
    report = evaluate_predictions(table, resamples=50)
    assert report["study/auroc"]["over"] == 2
    assert "only one class" in report["labels"]["label 1"]["study/auroc"]["undefined"]


def test_rows_of_several_labels_make_no_study_score_together():
    with pytest.raises(CTVideoError, match="has several labels"):
        aggregate(table_of(2))
