"""Calibration recovers what is known, keeps ranks, and survives the file."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import (
    aggregate,
    auroc,
    calibrate_table,
    evaluate_predictions,
    fit_calibration,
    format_metrics,
    make_predictions,
    read_calibration,
)
from ct_video_hf.evaluation.calibration import Calibration, score_log_odds
from ct_video_hf.evaluation.calibration_labels import holds_for
from ct_video_hf.evaluation.figures import write_figures
from ct_video_hf.evaluation.predictions import check_predictions
from ct_video_hf.evaluation.several import by_label


def studies(n=4000, temperature=2.5, seed=0, split="validation"):
    """Studies whose log-odds are ``temperature`` times too large."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.2, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-true))).astype(int)
    return pd.DataFrame(
        {
            "study_id": [f"s{i}" for i in range(n)],
            "patient_hash": [f"p{i}" for i in range(n)],
            "split": split,
            "label": labels,
            "score": 1 / (1 + np.exp(-temperature * true)),
            "clips": 1,
        }
    )


def table(split="test", seed=1, n=200):
    cases = studies(n, seed=seed, split=split)
    rng = np.random.default_rng(seed)
    return make_predictions(
        study_id=cases["study_id"],
        patient_hash=cases["patient_hash"],
        split=cases["split"],
        clip_start=np.zeros(n),
        clip_stop=np.full(n, 8),
        label=cases["label"],
        logit=score_log_odds(cases["score"]),
        study_label=cases["label"],
        manufacturer=rng.choice(np.array(["A", "B"]), n),
        spacing_mm=rng.choice([0.625, 2.0, 5.0], n),
        slices=rng.integers(100, 400, n),
    )


def test_temperature_is_found_and_equals_scikit_learns_slope():
    cases = studies()
    found = fit_calibration(cases, "temperature")
    assert found.parameters["temperature"] == pytest.approx(2.5, rel=0.12)
    odds = score_log_odds(cases["score"])[:, None]
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(odds, cases["label"])
    assert found.parameters["temperature"] == pytest.approx(1 / model.coef_[0, 0], rel=1e-3)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_probabilities_become_right_and_ranks_do_not_turn(method):
    found = fit_calibration(studies(), method)
    other = studies(seed=7)
    odds = score_log_odds(other["score"])
    probabilities = found.apply(odds)
    before = np.mean((other["score"] - other["label"]) ** 2)
    after = np.mean((probabilities - other["label"]) ** 2)
    assert after < before
    order = np.argsort(odds)
    assert (np.diff(probabilities[order]) >= 0).all()
    assert 0 < probabilities.min() <= probabilities.max() < 1
    if method == "temperature":
        assert auroc(other["label"], probabilities) == auroc(other["label"], other["score"])


def test_operating_points_keep_their_word():
    cases = studies(400)
    labels, scores = cases["label"].to_numpy(), cases["score"].to_numpy()
    points = {point.rule: point for point in fit_calibration(cases).operating_points}
    for point in points.values():
        called = scores >= point.threshold
        assert point.sensitivity == pytest.approx(called[labels == 1].mean())
        assert point.specificity == pytest.approx((~called)[labels == 0].mean())
    assert points["sensitivity_90"].sensitivity >= 0.9
    above = scores[scores > points["sensitivity_90"].threshold].min()
    assert (scores[labels == 1] >= above).mean() < 0.9, "the highest such threshold"
    assert points["specificity_90"].specificity >= 0.9
    below = scores[scores < points["specificity_90"].threshold].max()
    assert (scores[labels == 0] < below).mean() < 0.9, "the lowest such threshold"
    best = max(np.mean(scores[labels == 1] >= t) + np.mean(scores[labels == 0] < t) for t in scores)
    youden = points["youden"]
    assert youden.sensitivity + youden.specificity == pytest.approx(best)


def test_useless_scores_call_nobody_rather_than_everybody():
    cases = studies(60).assign(score=0.5)
    point = {p.rule: p for p in fit_calibration(cases).operating_points}["specificity_90"]
    assert point.threshold > 0.5
    assert (point.sensitivity, point.specificity) == (0.0, 1.0)


def test_too_few_studies_or_an_unknown_method_are_refused():
    few = studies(60)
    few["label"] = [1] * 9 + [0] * 51
    with pytest.raises(CTVideoError, match=r"10 studies of either class, found 9 positive of 60"):
        fit_calibration(few)
    with pytest.raises(CTVideoError, match="choose from temperature, isotonic"):
        fit_calibration(studies(100), "platt")


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_the_file_gives_back_what_was_written(method, tmp_path):
    found = fit_calibration(studies(200), method, aggregation="noisy_or")
    found.write(tmp_path)
    again = read_calibration(tmp_path)
    assert again == found
    assert read_calibration(tmp_path / "nowhere") is None
    assert "validation studies" in again.words()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "magic"},
        {"parameters": {"temperature": -1}},
        {"parameters": {}},
        {"extra": 1},
        {"method": "isotonic", "parameters": {"log_odds": [1, 0], "probability": [0.1, 0.2]}},
        {"method": "isotonic", "parameters": {"log_odds": [0, 1], "probability": [0.1, 1.2]}},
    ],
)
def test_a_damaged_file_is_refused(change, tmp_path):
    content = fit_calibration(studies(100)).to_dict() | change
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(CTVideoError, match=r"calibration\.json"):
        read_calibration(tmp_path)
    with pytest.raises(CTVideoError, match="is no calibration"):
        Calibration.from_dict(content)


def test_the_report_measures_calibration_points_and_subgroups():
    validation = aggregate(table("validation", seed=3))
    calibration = fit_calibration(validation)
    report = evaluate_predictions(table(), resamples=100, calibration=calibration)
    assert report["study/brier_calibrated"]["value"] < report["study/brier"]["value"]
    assert report["calibration"]["split"] == "validation"
    for point in report["operating_points"]:
        for rate in ("sensitivity", "specificity", "positive_predictive_value"):
            assert point[rate]["low"] <= point[rate]["value"] <= point[rate]["high"]
    groups = {(entry["by"], entry["group"]): entry for entry in report["subgroups"]}
    assert {by for by, _ in groups} == {"manufacturer", "spacing_mm", "slices"}
    assert {group for by, group in groups if by == "spacing_mm"} == {
        "up to 1.25 mm", "1.25 to 2.5 mm", "above 2.5 mm",
    }  # fmt: skip
    for by in ("manufacturer", "spacing_mm", "slices"):
        assert sum(e["studies"] for (name, _), e in groups.items() if name == by) == 200
    members = table()[lambda t: t["manufacturer"] == "A"]
    assert groups["manufacturer", "A"]["value"] == auroc(members["label"], members["score"])
    json.dumps(report, allow_nan=False)


def test_a_subgroup_of_one_class_is_undefined_with_its_reason():
    cases = table()
    cases.loc[cases["manufacturer"] == "B", ["label", "study_label"]] = 0
    report = evaluate_predictions(cases, resamples=0)
    entry = next(e for e in report["subgroups"] if e["group"] == "B")
    assert entry["value"] is None
    assert "only one class" in entry["undefined"]


def test_figures_come_light_and_dark(tmp_path):
    calibration = fit_calibration(aggregate(table("validation", seed=3)))
    written = write_figures(table(), tmp_path, calibration=calibration, resamples=50)
    assert {path.name for path in written} == {
        f"{name}{end}.png" for name in ("roc", "pr", "scores", "reliability")
        for end in ("", "_dark")
    }  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in written)


# ---- several labels ------------------------------------------------------------------------------


def several(split, seed=3, n=300):
    """Three labels whose log-odds are too large by 2.5, too small by 2, and of one class alone."""
    parts = {
        "nodule": table(split, seed, n),
        "effusion": table(split, seed, n),
        "rare": table(split, seed, n),
    }
    effusion = parts["effusion"]
    parts["effusion"] = make_predictions(
        **effusion.drop(columns=["score", "logit"]), logit=effusion["logit"] / 5
    )
    if split == "validation":
        parts["rare"] = parts["rare"].assign(label=0, study_label=0)
    rows = pd.concat([rows.assign(label_name=name) for name, rows in parts.items()])
    return check_predictions(rows.sort_values(["study_id", "clip_start"], kind="stable"))


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_each_label_is_calibrated_and_one_of_one_class_says_why_not(tmp_path, method):
    found = calibrate_table(several("validation"), method)
    assert found.missing == {
        "rare": "a calibration needs 10 studies of either class, found 0 positive of 300"
    }
    for name, rows in by_label(several("validation")).items():
        alone = None if name == "rare" else fit_calibration(aggregate(rows), method)
        assert found.of(name) == alone
    if method == "temperature":
        values = [found.of(n).parameters["temperature"] for n in ("nodule", "effusion")]
        assert values[0] == pytest.approx(5 * values[1], rel=1e-3)
        odds = score_log_odds(aggregate(by_label(several("validation"))["effusion"])["score"])
        labels = by_label(several("validation"))["effusion"]["label"]
        model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8)
        slope = model.fit(odds[:, None], labels).coef_[0, 0]
        assert values[1] == pytest.approx(1 / slope, rel=1e-3)
    assert found.write(tmp_path).name == "calibration.json"
    assert read_calibration(tmp_path) == found
    with pytest.raises(CTVideoError, match=r"no label can be calibrated: a: .*; b: "):
        calibrate_table(pd.concat([table(n=9).assign(label_name=n) for n in "ab"]))


def test_the_report_measures_each_label_and_their_mean():
    held, test = calibrate_table(several("validation")), several("test", seed=5)
    report = evaluate_predictions(test, resamples=100, calibration=held)
    plain = evaluate_predictions(test, resamples=100)
    values = {}
    for name, rows in by_label(test).items():
        found = report["labels"][name]
        alone = evaluate_predictions(rows, resamples=100, calibration=held.of(name))
        assert found.get("study/brier_calibrated") == alone.get("study/brier_calibrated")
        assert found.get("operating_points") == alone.get("operating_points")
        if held.of(name) is not None:
            values[name] = found["study/brier_calibrated"]["value"]
            assert values[name] < found["study/brier"]["value"]
    assert report["labels"]["rare"]["not_calibrated"].startswith("a calibration needs 10")
    mean = report["study/brier_calibrated"]
    assert (mean["value"], mean["over"]) == (pytest.approx(np.mean(list(values.values()))), 2)
    assert mean["low"] < mean["value"] < mean["high"]
    assert report["study/auroc"] == plain["study/auroc"], "ranks and scores stay as they are"
    words = format_metrics(report)
    assert "calibration of rare: none (a calibration needs 10 studies" in words
    assert "calibration of nodule: temperature scaling" in words
    assert "threshold of effusion" in words


def test_a_calibration_speaks_of_other_studies_by_the_same_rules_alone():
    rules = {"aggregation": "max", "top_k": 3, "label_from": "study"}
    held = calibrate_table(several("validation"))
    assert holds_for(held, several("test"), rules)
    assert not holds_for(held, several("validation"), rules)
    assert not holds_for(held, several("test"), rules | {"aggregation": "noisy_or"})
    assert not holds_for(held, table(), rules), "of one label"
    assert not holds_for(held, several("test").assign(label_name="other"), rules)
    assert not holds_for(fit_calibration(studies(100)), several("test"), rules)


@pytest.mark.parametrize(
    "content",
    [
        {"labels": []},
        {"labels": {"a": {"not_calibrated": "few"}}},
        {"labels": {"a": {"method": "temperature"}}},
    ],
)
def test_a_damaged_file_of_several_labels_is_refused(tmp_path, content):
    (tmp_path / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(CTVideoError, match=r"calibration.json is no calibration"):
        read_calibration(tmp_path)
