"""A head of learned attention: its formula, its files, and what a predictions table keeps of it."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import (
    aggregate,
    describe_aggregation,
    evaluate_predictions,
    format_metrics,
    make_predictions,
    point_metrics,
    read_predictions,
    study_score,
    write_predictions,
)
from ct_video_hf.evaluation.attention import (
    attention_weights,
    pooled_log_odds,
    read_attention,
)
from tests.support.attention import chance_head


def by_hand(head, features):
    """Ilse et al., equations 8 and 9, clip by clip and unit by unit; log-odds of each label."""
    part = {name: value.tolist() for name, value in head.tensors.items()}
    hidden, labels = len(part["tanh.bias"]), len(part["classifier.bias"])
    found = []
    for label in range(labels):
        shares, odds = [], []
        for x in features.tolist():
            energy = 0.0
            for unit in range(hidden):
                inner = [
                    sum(v * row[unit] for v, row in zip(x, part[f"{gate}.weight"], strict=True))
                    + part[f"{gate}.bias"][unit]
                    for gate in ("tanh", "sigmoid")
                ]
                gate = math.tanh(inner[0]) / (1 + math.exp(-inner[1]))
                energy += part["attention.weight"][unit][label] * gate
            shares.append(math.exp(energy))
            weights = part["classifier.weight"]
            odds.append(sum(v * row[label] for v, row in zip(x, weights, strict=True)))
            odds[-1] += part["classifier.bias"][label]
        pairs = zip(shares, odds, strict=True)
        found.append(sum(share * value for share, value in pairs) / sum(shares))
    return found


def test_the_formula_is_the_papers_and_the_order_of_clips_does_not_matter():
    head = chance_head(4, ("a", "b"))
    features = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    values = head.clip_values(features)
    assert values.shape == (6, 2, 2)
    odds = pooled_log_odds(values[..., 0], values[..., 1])
    np.testing.assert_allclose(odds, by_hand(head, features), rtol=1e-9)
    np.testing.assert_allclose(attention_weights(values[..., 0]).sum(0), 1)
    shuffled = head.clip_values(features[::-1])
    np.testing.assert_allclose(pooled_log_odds(shuffled[..., 0], shuffled[..., 1]), odds)
    one = head.clip_values(features[:1])
    np.testing.assert_allclose(pooled_log_odds(one[..., 0], one[..., 1]), one[0, :, 1])
    huge = np.array([1000.0, 0.0, -1000.0])
    assert attention_weights(huge).tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(CTVideoError, match=r"features \(clip, 4\), found \(2, 3\)"):
        head.clip_values(np.zeros((2, 3)))


def test_a_head_survives_its_files(tmp_path):
    head = chance_head(3, ("nodule",))
    assert read_attention(tmp_path) is None
    assert [path.name for path in head.write(tmp_path)] == [
        "attention.safetensors", "attention.json",
    ]  # fmt: skip
    again = read_attention(tmp_path)
    assert (again.labels, again.weights_sha256, again.fit) == (("nodule",), "0" * 64, {"seed": 0})
    features = np.ones((2, 3))
    np.testing.assert_array_equal(again.clip_values(features), head.clip_values(features))


def _without_json(folder):
    (folder / "attention.json").unlink()


def _of_another_format(folder):
    (folder / "attention.json").write_text(json.dumps({"format": "x"}))


def _cut(folder):
    (folder / "attention.safetensors").write_bytes(b"1234")


def _with(changes):
    def change(folder):
        file = folder / "attention.safetensors"
        save_file(load_file(file) | changes, file)

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_json, "attention.safetensors lies there without attention.json"),
        (_of_another_format, "attention.json describes no attention head"),
        (_cut, "attention.safetensors is damaged"),
        (_with({"scan": np.zeros(3, np.float32)}), "holds other tensors"),
        (_with({"tanh.bias": np.zeros(9, np.float32)}), r"tanh.bias is float32 \(9,\)"),
        (_with({"tanh.bias": np.full(5, np.nan, np.float32)}), "finite float32"),
    ],
)
def test_a_damaged_head_is_refused(tmp_path, damage, words):
    chance_head(3, ("nodule",)).write(tmp_path)
    damage(tmp_path)
    with pytest.raises(CTVideoError, match=words):
        read_attention(tmp_path)


def attended(labels=1, seed=0):
    """12 studies of 1 to 4 clips."""
    rng = np.random.default_rng(seed)
    clips = [(study, clip) for study in range(12) for clip in range(1 + study % 4)]
    made = []
    for label in range(labels):
        n = len(clips)
        named = {"label_name": [f"label {label}"] * n} if labels > 1 else {}
        made.append(
            make_predictions(
                study_id=[f"s{study:02}" for study, _ in clips],
                patient_hash=[f"p{study // 2}" for study, _ in clips],
                split=["test"] * n,
                clip_start=[8 * clip for _, clip in clips],
                clip_stop=[8 * clip + 8 for _, clip in clips],
                label=[study % 2 for study, _ in clips],
                logit=rng.normal(size=n),
                study_label=[(study + label) % 2 for study, _ in clips],
                attention_score=rng.normal(0, 3, n),
                attention_logit=rng.normal(0, 3, n),
                **named,
            )
        )
    return pd.concat(made, ignore_index=True)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_table_alone_gives_the_study_scores(tmp_path, kind):
    table = attended()
    write_predictions(table, tmp_path)
    again = read_predictions(tmp_path / f"predictions.{kind}")
    studies = aggregate(again.sample(frac=1, random_state=0), "attention").set_index("study_id")
    for study, clips in table.groupby("study_id"):
        shares = np.exp(clips["attention_score"])
        odds = (shares * clips["attention_logit"]).sum() / shares.sum()
        score = studies.loc[study, "score"]
        assert score == pytest.approx(1 / (1 + math.exp(-odds)), rel=1e-9)
    assert aggregate(again, "max")["score"].tolist() != studies["score"].tolist()


@pytest.mark.parametrize("labels", [1, 2])
def test_every_result_states_the_rule(labels):
    report = evaluate_predictions(attended(labels), aggregation="attention", resamples=20)
    assert report["aggregation"] == "attention"
    assert "study score: learned attention over clips" in format_metrics(report)
    points = point_metrics(attended(labels), aggregation="attention")
    assert points["study/auroc"] == pytest.approx(report["study/auroc"]["value"])
    assert describe_aggregation("attention", 3) == "learned attention over clips"


def test_a_table_without_attention_says_what_is_missing():
    table = attended().drop(columns=["attention_score", "attention_logit"])
    with pytest.raises(CTVideoError, match=r"lacks: no attention head was there\. Fit one: `ct"):
        aggregate(table, "attention")
    with pytest.raises(CTVideoError, match="has attention_score without its other half"):
        evaluate_predictions(attended().drop(columns="attention_logit"))
    with pytest.raises(CTVideoError, match="needs what an attention head gives"):
        study_score(np.array([0.5]), "attention")
    broken = attended()
    broken.loc[3, "attention_logit"] = np.nan
    with pytest.raises(CTVideoError, match="1 of 30 scores are NaN"):
        evaluate_predictions(broken)
