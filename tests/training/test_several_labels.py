"""Several labels at once, from a set to a prediction."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import ct_video_hf
from ct_video_hf.cli import main
from ct_video_hf.data import PrepareOptions, load_ct_dataset, prepare
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.rsna_labels import EXAM_WEIGHTS, IMAGE_LABEL, OFFICIAL_LABELS
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import (
    aggregate,
    read_calibration,
    read_predictions,
    rsna_weighted_log_loss,
)
from ct_video_hf.evaluation.several import by_label
from ct_video_hf.hub import check_model_card
from ct_video_hf.hub.card import write_model_card
from ct_video_hf.inference.html_report import render_report
from ct_video_hf.inference.tables import prediction_row
from ct_video_hf.training import run
from ct_video_hf.training.loss import TrainingLoss
from tests.support.clip_sets import write_clip_set
from tests.support.hub_server import HubServer
from tests.support.prediction import chest_hu, volume_of
from tests.support.rsna_tree import hashed, write_rsna_tree
from tests.support.tiny_runs import OPTIONS, REPOSITORY, words

OTHERS = ("nodule", "effusion, left")


# ---- a set whose labels belong to studies, some of them unknown ----------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return write_clip_set(tmp_path_factory.mktemp("sets") / "several", others=OTHERS)


@pytest.fixture(scope="module")
def trained(several, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "several"
    return run(data=str(several), output=str(out), write_card=write_model_card, **OPTIONS)


def test_each_label_is_scored_where_it_is_known(trained, several):
    table = read_predictions(trained.folder / "predictions.parquet")
    assert list(by_label(table)) == ["label", *OTHERS]
    truth = {row["study_id"]: row["labels"] for row in load_ct_dataset(several, "test")}
    for place, (name, rows) in enumerate(by_label(table).items()):
        studies = aggregate(rows)
        assert studies["label"].tolist() == [truth[s][place] for s in studies["study_id"]]
        known = studies[studies["label"] >= 0]
        entry = trained.metrics["labels"][name]["study/auroc"]
        assert entry["n"] == len(known) == (7, 4, 5)[place]
        assert entry["value"] == pytest.approx(roc_auc_score(known["label"], known["score"]))
        assert entry["low"] <= entry["value"] <= entry["high"]
    values = [found["study/auroc"]["value"] for found in trained.metrics["labels"].values()]
    mean = trained.metrics["study/auroc"]
    assert mean["value"] == pytest.approx(np.mean(values))
    assert mean["over"] == 3
    assert mean["low"] <= mean["value"] <= mean["high"]


def test_record_and_card_state_the_labels(trained):
    counts = trained.config["data"]["counts"]["train"]["labels"]
    assert counts["label"] == {"positive_studies": 6, "positive_clips": 6}
    assert counts["nodule"] == {
        "positive_studies": 4, "positive_clips": 12,
        "studies_of_unknown_label": 4, "clips_of_unknown_label": 12,
    }  # fmt: skip
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["id2label"] == {"0": "label", "1": "nodule", "2": "effusion, left"}
    card = (trained.folder / "README.md").read_text()
    assert "| study | auroc | " in card
    assert "mean of 3 labels" in card
    assert "| study | auroc: effusion, left | " in card
    assert (trained.folder / "figures" / "labels.png").stat().st_size > 1000
    log = pd.read_csv(trained.folder / "training_log.csv")
    assert {"eval_study/auroc", "eval_study/auroc:nodule"} <= set(log.columns)


def test_unknown_labels_teach_nothing():
    logits = torch.randn(3, 2, requires_grad=True)
    labels = torch.tensor([[1.0, -1.0], [0.0, float("nan")], [-1.0, 1.0]])
    TrainingLoss()(logits, labels).backward()
    assert (logits.grad != 0).tolist() == [[True, False], [True, False], [False, True]]


def test_evaluation_again_and_from_the_table_alone(trained, several, tmp_path, capsys):
    out = tmp_path / "again"
    line = ["evaluate", str(trained.folder), str(several), "--out", str(out), "--resamples", "50"]
    assert main([*line, "--device", "cpu", "-q"]) == 0
    assert "study/auroc: nodule" in capsys.readouterr().out
    again = json.loads((out / "metrics.json").read_text())
    assert again["labels"] == trained.metrics["labels"]
    line = ["evaluate", "--predictions", str(trained.folder / "predictions.csv"), "--json"]
    assert main([*line, "--resamples", "50"]) == 0
    assert json.loads(capsys.readouterr().out)["study/auroc"] == again["study/auroc"]


def test_labels_are_calibrated_where_validation_has_both_classes(tmp_path, capsys):
    counts = {"train": 6, "validation": 36, "test": 12}
    data = write_clip_set(
        tmp_path / "set", counts, others=("nodule", "effusion, left"), one_class="validation"
    )
    options = OPTIONS | {"epochs": 1, "write_card": write_model_card}
    result = run(data=str(data), output=str(tmp_path / "run"), **options)
    held = json.loads((result.folder / "calibration.json").read_text())["labels"]
    assert held["label"] == {
        "not_calibrated": "a calibration needs 10 studies of either class, found 0 positive of 36"
    }
    assert held["nodule"]["studies"] == 24
    assert result.metrics["study/brier_calibrated"]["over"] == 2
    assert check_model_card(result.folder) == []
    card = (result.folder / "README.md").read_text()
    assert "label: not calibrated (a calibration needs 10 studies" in card
    assert "| nodule: largest sensitivity + specificity | " in card
    line = ["evaluate", str(result.folder), str(data), "--json", "--resamples", "50", "-q"]
    assert main([*line, "--device", "cpu"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["labels"] == result.metrics["labels"]
    table = str(result.folder / "predictions.csv")
    assert main(["evaluate", "--predictions", table, "--json", "--resamples", "50"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["study/brier_calibrated"] == result.metrics["study/brier_calibrated"]
    predict = ct_video_hf.pipeline(str(result.folder), device="cpu", label="nodule")
    volume = volume_of(chest_hu(20, 36))
    found = predict(volume)
    assert found["calibrated"]
    assert found["calibration"] == read_calibration(result.folder).of("nodule").words()
    assert [one["calibrated"] for one in found["labels"].values()] == [False, True, True]
    assert found["labels"]["label"]["calibration"].endswith("found 0 positive of 36")
    temperature = held["nodule"]["parameters"]["temperature"]
    assert found["study_probability"] == pytest.approx(
        1 / (1 + np.exp(-found["study_logit"] / temperature))
    )
    row = prediction_row("scan", found)
    assert (row["calibrated:label"], row["calibrated:nodule"]) == (False, True)
    assert "found 0 positive of 36" in render_report(volume, found)
    line = ["evaluate", str(result.folder), str(data), "--split", "validation", "-q"]
    assert main([*line, "--calibrate", "isotonic", "--device", "cpu", "--resamples", "50"]) == 0
    assert read_calibration(result.folder).of("nodule").method == "isotonic"


def test_one_label_of_several(several, tmp_path, capsys):
    result = run(
        data=str(several), output=str(tmp_path / "out"), labels=["nodule"],
        class_weights="balanced", sampling="shuffle", **(OPTIONS | {"epochs": 1}),
    )  # fmt: skip
    config = json.loads((result.folder / "config.json").read_text())
    assert config["id2label"] == {"0": "nodule"}
    assert result.config["positive_weights"] == [1.0]  # 12 clips each way, 12 unknown
    assert "labels" not in result.metrics
    assert result.metrics["study/auroc"]["n"] == 4
    line = ["evaluate", str(result.folder), str(several), "--json", "--resamples", "50", "-q"]
    assert main(line) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["study/auroc"] == result.metrics["study/auroc"]


def test_wrong_labels_are_refused(several, clip_set, trained, tmp_path, capsys):
    with pytest.raises(CTDataError, match=r"no label 'nodul'; its labels: label, nodule"):
        run(data=str(several), output=str(tmp_path / "a"), labels=["nodul"], **OPTIONS)
    with pytest.raises(CTVideoError, match="label_weights has 2 values for 3 labels"):
        run(data=str(several), output=str(tmp_path / "b"), label_weights="1,2", **OPTIONS)
    assert main(["evaluate", str(trained.folder), str(clip_set), "-q"]) == 1
    assert "the set has the labels label" in capsys.readouterr().err


# ---- RSNA's official labels, from DICOM to prediction --------------------------------------------


@pytest.fixture(scope="module")
def rsna(tmp_path_factory):
    root = tmp_path_factory.mktemp("rsna")
    write_rsna_tree(root, studies=14, slices=(9, 12))
    options = PrepareOptions(size=36, salt="s", fractions=(0.5, 0.25, 0.25))
    out = root / "official"
    prepare("rsna_pe", root, out, options=options, progress=False, target="official")
    return root, out


@pytest.fixture(scope="module")
def official(rsna, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "official"
    given = OPTIONS | {"epochs": 1, "resamples": 40, "metric": "loss"}
    line = ["--data", str(rsna[1]), "--output", str(out), *words(**given), "-q"]
    assert main(["train", *line]) == 0
    return out


def test_the_official_metric_is_that_of_the_set_itself(rsna, official):
    """From the scores, and labels of images read from the set, not from the table."""
    record = json.loads((official / "training_config.json").read_text())
    assert record["label_weights"][1:] == list(EXAM_WEIGHTS.values())
    metrics = json.loads((official / "metrics.json").read_text())
    tables = by_label(read_predictions(official / "predictions.parquet"))
    assert tuple(tables) == OFFICIAL_LABELS
    exam_labels, exam_scores, images = [], [], []
    for exam, row in enumerate(load_ct_dataset(rsna[1], "test")):
        of = {name: rows[rows["study_id"] == row["study_id"]] for name, rows in tables.items()}
        exam_labels.append(row["labels"][1:])
        exam_scores.append([of[name]["score"].max() for name in EXAM_WEIGHTS])
        truth = np.reshape(row["slice_labels"], (-1, 10))[:, 0]
        for place, label in enumerate(truth):
            clips = of[IMAGE_LABEL]
            inside = clips[(clips["clip_start"] <= place) & (place < clips["clip_stop"])]
            images.append((label, inside["score"].max(), exam))
    label, score, exam_of = map(np.array, zip(*images, strict=True))
    expected = rsna_weighted_log_loss(exam_labels, exam_scores, label, score, exam_of)
    found = metrics["rsna/weighted_log_loss"]
    assert found["value"] == pytest.approx(expected)
    assert (found["n"], found["images"]) == (COUNTS_RSNA, len(images))
    assert found["low"] <= found["value"] <= found["high"]
    consistent = metrics["rsna/label_consistency"]
    assert consistent["n"] == COUNTS_RSNA
    assert 0 <= consistent["consistent"] <= 1
    assert (consistent["consistent"] == 1) == (not consistent["broken_rules"])


#: Of 14 studies a quarter, rounded.
COUNTS_RSNA = 4


TRAIN_FROM_HUB = """
import json, sys
from ct_video_hf.data import load_ct_dataset
from ct_video_hf.data.label_choice import choose_labels
from ct_video_hf.training import run
repo, out, options = sys.argv[1:]
found = choose_labels(repo, load_ct_dataset(repo, "train"), ["rv_lv_ratio_gte_1"])
assert len(found.weights) == 1
result = run(data=repo, output=out, **json.loads(options))
"""


def test_a_set_given_by_its_hub_id_keeps_names_and_weights(rsna, official, tmp_path):
    said = OPTIONS | {"epochs": 1, "test_split": "none"}
    with HubServer(tmp_path / "hub") as hub:
        environment = hub.env(tmp_path / "home") | {
            "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

        def call(*line):
            done = subprocess.run(
                [sys.executable, *map(str, line)], env=environment, capture_output=True,
                text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout

        call("-m", "ct_video_hf", "push", rsna[1], "tester/official", "-q")
        out = tmp_path / "run"
        call("-c", TRAIN_FROM_HUB, "tester/official", out, json.dumps(said))
        line = ("-m", "ct_video_hf", "evaluate", out, "tester/official", "--resamples", "20")
        report = json.loads(call(*line, "--json", "-q", "--device", "cpu"))
    config, then = (json.loads((f / "config.json").read_text()) for f in (out, official))
    assert config["id2label"] == then["id2label"]
    records = [json.loads((f / "training_config.json").read_text()) for f in (out, official)]
    weights = [record["label_weights"] for record in records]
    assert weights[0] == weights[1]
    assert len(weights[0]) == len(OFFICIAL_LABELS)
    assert set(report["labels"]) == set(OFFICIAL_LABELS)
    assert report["rsna/weighted_log_loss"]["value"] > 0


def test_a_scan_gets_a_probability_for_each_label(rsna, official, capsys):
    scan = rsna[0] / "train" / hashed(1)
    assert main(["predict", str(official), str(scan), "--json", "-q"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert tuple(answer["study_probabilities"]) == OFFICIAL_LABELS
    assert answer["calibration"].startswith("the model has none")
    assert "rsna | weighted_log_loss" in (official / "README.md").read_text()
