import json

import numpy as np
import pandas as pd
import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import (
    aggregate,
    evaluate_predictions,
    format_metrics,
    make_predictions,
    point_metrics,
    read_predictions,
    write_json,
    write_predictions,
)
from ct_video_hf.evaluation.adapters import CtAuroc
from ct_video_hf.evaluation.figures import plot_learning_curve, plot_roc, plot_scores


def logit(p):
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def table(**changes):
    columns = {
        "study_id": ["s2", "s1", "s1", "s1"],
        "patient_hash": ["p2", "p1", "p1", "p1"],
        "split": ["test"] * 4,
        "clip_start": [0, 64, 0, 32],
        "clip_stop": [32, 90, 32, 64],
        "label": [0, 0, 1, 0],
        "logit": logit([0.2, 0.3, 0.9, 0.5]),
        "study_label": [0, 1, 1, 1],
    }
    return make_predictions(**(columns | changes))


def big(seed=0, studies=40, clips=3):
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(studies) % 2, clips)
    return make_predictions(
        study_id=np.repeat([f"s{i:03}" for i in range(studies)], clips),
        patient_hash=np.repeat([f"p{i // 2}" for i in range(studies)], clips),
        split=["test"] * (studies * clips),
        clip_start=np.tile(np.arange(clips) * 32, studies),
        clip_stop=np.tile(np.arange(clips) * 32 + 32, studies),
        label=label,
        logit=rng.normal(size=studies * clips) + 1.5 * label,
        study_label=label,
    )


def test_rows_are_ordered_and_scores_are_sigmoids():
    made = table()
    assert made["study_id"].tolist() == ["s1", "s1", "s1", "s2"]
    assert made["clip_start"].tolist() == [0, 32, 64, 0]
    np.testing.assert_allclose(made["score"], [0.9, 0.5, 0.3, 0.2])
    extreme = table(logit=[-800.0, 800.0, 0.0, 0.0])["score"]
    assert extreme.between(0, 1).all()


@pytest.mark.parametrize(
    ("method", "expected"),
    [("max", 0.9), ("mean_top_k", 0.7), ("noisy_or", 1 - 0.1 * 0.5 * 0.7)],
)
def test_aggregation(method, expected):
    studies = aggregate(table(), method, top_k=2).set_index("study_id")
    assert studies.loc["s1", "score"] == pytest.approx(expected)
    assert studies.loc["s2", "score"] == pytest.approx(0.2)
    assert studies.loc["s1", "clips"] == 3


def test_study_label_rules():
    # A positive study none of whose clips has enough positive slices.
    made = table(label=[0, 0, 0, 0])
    assert aggregate(made).set_index("study_id").loc["s1", "label"] == 1
    assert aggregate(made, label_from="clips").set_index("study_id").loc["s1", "label"] == 0
    unknown = table(study_label=[-1, -1, -1, -1], label=[-1, 0, 1, -1])
    assert aggregate(unknown).set_index("study_id")["label"].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_start": [0, 0, 0, 32]}, r"1 clip\(s\) appear twice.*study s1"),
        ({"logit": [0.0, np.nan, 0.0, 0.0]}, "1 of 4 scores are NaN, in study s1"),
        ({"label": [0, 2, 1, 0]}, "column label holds"),
        ({"patient_hash": ["p2", "p1", "p3", "p1"]}, "two study labels or two patients"),
    ],
)
def test_unsound_tables_are_refused(changes, message):
    with pytest.raises(CTVideoError, match=message):
        table(**changes)


def test_unknown_method_is_refused():
    with pytest.raises(CTVideoError, match="noisy_or"):
        aggregate(table(), "median")


def test_write_and_read_back(tmp_path):
    made = table(study_id=["007", "1", "1", "1"])  # ids that look like numbers stay text
    for path in write_predictions(made, tmp_path):
        pd.testing.assert_frame_equal(read_predictions(path), made, check_dtype=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.csv", "predictions.parquet"]
    with pytest.raises(CTVideoError, match="no predictions table"):
        read_predictions(tmp_path / "other.csv")


def test_report_names_levels_and_says_how_it_was_made(tmp_path):
    made = big()
    report = evaluate_predictions(made, resamples=100, seed=4)
    assert report["clip/auroc"]["n"] == 120
    assert report["study/auroc"]["n"] == 40
    assert report["study/auroc"]["positives"] == 20
    assert report["study/auroc"]["low"] <= report["study/auroc"]["value"]
    assert (report["aggregation"], report["resamples"], report["seed"]) == ("max", 100, 4)
    assert report["patients"] == 20
    for name, value in point_metrics(made).items():
        assert report[name]["value"] == pytest.approx(value)
    path = write_json(report, tmp_path / "metrics.json")
    assert json.loads(path.read_text()) == report
    assert "study/auroc" in format_metrics(report)


def test_report_of_one_class_is_undefined(tmp_path):
    report = evaluate_predictions(table(label=[0] * 4, study_label=[0] * 4), resamples=50)
    assert report["study/auroc"]["value"] is None
    assert report["study/auroc"]["undefined"] == "only one class: every label is 0"
    assert report["study/brier"]["value"] is not None
    write_json(report, tmp_path / "metrics.json")  # strict JSON: a NaN would raise
    assert "undefined" in format_metrics(report)


def test_unknown_labels_do_not_count():
    report = evaluate_predictions(
        table(label=[0, -1, 1, -1], study_label=[-1, 1, 1, 1]), resamples=0
    )
    assert report["clip/auroc"]["n"] == 2
    assert report["unknown_labels"] == {"clips": 2, "studies": 0}


def test_evaluate_adapter_is_the_same_function():
    made = aggregate(big())
    labels, scores = made["label"].tolist(), made["score"].tolist()
    metric = CtAuroc()
    plain = metric.compute(predictions=scores, references=labels)
    assert plain == {"auroc": pytest.approx(point_metrics(big())["study/auroc"])}
    report = evaluate_predictions(big(), resamples=100, seed=2)
    clustered = CtAuroc().compute(
        predictions=scores,
        references=labels,
        groups=made["patient_hash"].tolist(),
        resamples=100,
        seed=2,
    )
    assert clustered["low"] == pytest.approx(report["study/auroc"]["low"])
    assert np.isnan(CtAuroc().compute(predictions=[0.1], references=[1])["auroc"])


def test_figures_are_written(tmp_path):
    history = [
        {"epoch": 1, "step": 4, "loss": 0.7},
        {"epoch": 1, "step": 4, "eval_loss": 0.6, "eval_study/auroc": 0.7},
        {"epoch": 2, "step": 8, "loss": 0.5},
        {"epoch": 2, "step": 8, "eval_loss": 0.5, "eval_study/auroc": 0.8},
    ]
    written = [
        plot_roc(big(), tmp_path / "roc.png", resamples=50),
        plot_roc(table(label=[0] * 4, study_label=[0] * 4), tmp_path / "one.png", resamples=50),
        plot_scores(big(), tmp_path / "scores.png"),
        plot_learning_curve(history, tmp_path / "curve.png"),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in written)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written)
