"""Model cards: what the folder's files say and nothing else, with code that runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from ct_video_hf.dicom.write import write_series
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import AGGREGATIONS
from ct_video_hf.hub import check_card_text, check_model_card, write_model_card
from ct_video_hf.hub.card_figures import pictures_in
from tests.support.attention import write_attention
from tests.support.prediction import SPACING, chest_hu, tiny_model_folder
from tests.support.stranger import run_as_stranger

ROOT = Path(__file__).parents[2]

TRAINING = {
    "command": "ct-video-hf train --data set --output nodules",
    "arguments": {"output": "nodules", "epochs": 20.0, "lr": 0.0003, "sampling": "balanced"},
    "backbone": "slow_tiny",
    "weights": "none",
    "data": {
        "set": "phantom-64",
        "manifest": {
            "provenance": {
                "name": "phantom",
                "description": "Generated chest CT.",
                "licence": "Apache-2.0",
            },
            "patients_known": True,
            "rejected": 2,
            "studies": [{"study_id": "MILLER_ADA_1970"}],
        },
        "counts": {
            "train": {"studies": 64, "positive_studies": 31, "clips": 256, "positive_clips": 47},
        },
    },
    "seed": 7,
    "epochs_run": 12,
    "versions": {"ct_video_hf": "0.1.0", "torch": "2.14.1"},
    "hardware": {"device": "cpu", "processes": 1},
}
METRICS = {
    "clip/auroc": {"value": 0.9123, "low": 0.85, "high": 0.96, "n": 120, "positives": 40},
    "study/auroc": {"value": 0.94, "low": 0.8, "high": 1.0, "n": 24, "positives": 12},
    "study/auprc": {"value": None, "low": None, "high": None, "n": 24, "positives": 0,
                    "undefined": "no positive case"},
    "aggregation": "max",
    "interval": "percentile bootstrap over patients",
    "confidence": 0.95,
    "resamples": 2000,
    "split": "test",
}  # fmt: skip


@pytest.fixture
def bare(tmp_path):
    return tiny_model_folder(tmp_path / "model")


@pytest.fixture
def trained(bare):
    (bare / "training_config.json").write_text(json.dumps(TRAINING))
    (bare / "metrics.json").write_text(json.dumps(METRICS))
    return bare


def test_the_facts_are_on_the_card(trained):
    path = write_model_card(trained)
    text = path.read_text()
    assert path == trained / "README.md"
    assert check_model_card(trained) == []
    assert text.startswith("---\n")
    for fact in (
        "# nodules",
        "| clip | auroc | 0.912 | 0.850 to 0.960 | 120 | 40 |",
        "| study | auroc | 0.940 | 0.800 to 1.000 | 24 | 12 |",
        "| study | auprc | undefined (no positive case) |",
        "95 % interval",
        "2000 resamples",
        "| train | 64 | 31 | 256 | 47 |",
        "random; no pretraining",
        "| seed | 7 |",
        "| highest learning rate | 0.0003 |",
        "left out: 2.",
        "split by patient",
        "C -600 W 1500 HU",
        "torch 2.14.1",
        "ct-video-hf train --data set --output nodules",
        "24 studies only",
        "Not for clinical use",
    ):
        assert fact in text, fact


def test_metadata_for_the_hub(trained):
    card = ModelCard.load(write_model_card(trained, license="apache-2.0"))
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "video-classification")
    assert data.license == "apache-2.0"
    results = {result.metric_name: result for result in data.eval_results}
    assert set(results) == {"clip/auroc", "study/auroc"}  # the undefined one is no result
    assert results["study/auroc"].metric_value == 0.94
    assert results["study/auroc"].metric_args == {"low": 0.8, "high": 1.0, "n": 24, "positives": 12}
    assert results["study/auroc"].dataset_name == "phantom-64"


def test_nothing_that_was_not_measured(bare):
    text = write_model_card(bare).read_text()
    assert check_model_card(bare) == []
    assert "## Results\n\nNot measured." in text
    assert "was not trained here" in text
    assert "model-index" not in text
    assert "license_name: not-stated" in text
    results = text.partition("## Results")[2].partition("## Limits")[0]
    assert not re.search(r"\d", results)


def test_kinetics_weights_and_their_licence_stand_apart(trained):
    record = TRAINING | {"backbone": "slow_r50", "weights": "kinetics"}
    (trained / "training_config.json").write_text(json.dumps(record))
    text = write_model_card(trained).read_text()
    assert "Kinetics-400" in text
    for row in ("| licence of the code |", "| their licence |", "| licence of these weights |"):
        assert row in text


def test_no_study_names_on_the_card(trained):
    assert "MILLER" not in write_model_card(trained).read_text()


def test_a_path_of_the_machine_stops_the_card(trained):
    record = TRAINING | {"command": "ct-video-hf train --data /home/ada/scans"}
    (trained / "training_config.json").write_text(json.dumps(record))
    (trained / "README.md").write_text("old")
    with pytest.raises(CTVideoError, match="/home/ada/scans"):
        write_model_card(trained)
    assert (trained / "README.md").read_text() == "old"
    assert not list(trained.glob(".*.md"))


def test_the_name_of_a_run_that_is_just_finishing(trained):
    hidden = trained.rename(trained.with_name(".finished"))
    assert "# nodules" in write_model_card(hidden).read_text()


def test_out_and_model_id(trained, tmp_path):
    path = write_model_card(trained, model_id="lab/nodules-r50", out=tmp_path / "cards" / "x.md")
    assert 'pipeline("lab/nodules-r50")' in path.read_text()
    assert "# nodules-r50" in path.read_text()
    assert not (trained / "README.md").exists()


def test_what_is_no_model_folder(tmp_path):
    with pytest.raises(CTVideoError, match="no model folder"):
        write_model_card(tmp_path / "nothing")
    with pytest.raises(CTVideoError, match=r"config\.json is missing"):
        write_model_card(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("## Limits", "## Praise", "“Limits” is missing"),
        ("Not for clinical use", "For clinical use", "“Not for clinical use” is missing"),
        ("pipeline_tag: video-classification\n", "", "lacks pipeline_tag"),
        ("library_name:", "library_name: [", "not valid YAML"),
        ("torch 2.14.1", "torch {{ version }}", "placeholder"),
        ("torch 2.14.1", "1.2.840.113654.2.55.1234567", "DICOM UID"),
        ("torch 2.14.1", "ada@example.org", "mail address"),
        ("torch 2.14.1", "hf_" + "a" * 30, "access token"),
        ("torch 2.14.1", "/Users/ada/x", "/Users/ada/x"),
        ("value: 0.94", "value: .nan", "study/auroc"),
        ("name: study/auroc", "name: auroc", "clips or studies"),
        ("license: other", "license: other\nx: 1", None),
    ],
)
def test_checking(trained, old, new, words):
    text = write_model_card(trained).read_text()
    assert old in text
    problems = check_card_text(text.replace(old, new))
    if words is None:
        assert problems == []
    else:
        assert any(words in problem for problem in problems), problems


def test_checking_files(trained, tmp_path):
    assert check_model_card(tmp_path) == ["README.md is missing"]
    (trained / "figures").mkdir()
    (trained / "figures" / "roc.png").write_bytes(b"")
    write_model_card(trained)
    assert check_model_card(trained) == []
    (trained / "figures" / "roc.png").unlink()
    assert check_model_card(trained) == ["the picture figures/roc.png is missing"]


def test_a_picture_for_dark_pages(trained):
    """Shown where it is there; either file is missed by the check once it is gone."""
    (trained / "figures").mkdir()
    for name in ("roc.png", "roc_dark.png", "pr.png", "scores_dark.png"):
        (trained / "figures" / name).write_bytes(b"")
    text = write_model_card(trained).read_text()
    assert (
        "<picture>\n"
        '  <source media="(prefers-color-scheme: dark)" srcset="figures/roc_dark.png">\n'
        '  <img alt="ROC curve on the test studies" src="figures/roc.png">\n'
        "</picture>\n"
    ) in text
    assert "![Precision and recall on the test studies](figures/pr.png)" in text
    assert pictures_in(text) == [
        "figures/pr.png", "figures/roc_dark.png", "figures/roc.png",
    ]  # fmt: skip
    assert check_model_card(trained) == []
    for name in ("roc.png", "roc_dark.png"):
        (trained / "figures" / name).unlink()
    assert check_model_card(trained) == [
        "the picture figures/roc_dark.png is missing",
        "the picture figures/roc.png is missing",
    ]


@pytest.mark.slow
def test_the_code_on_the_card_runs(tmp_path, monkeypatch):
    """Both blocks as they stand, with the package and without it: the same study scores."""
    hu = chest_hu(30)
    write_series(hu, tmp_path / "scan", spacing=SPACING)
    np.save(tmp_path / "scan.npy", hu)
    blocks = []
    for method in AGGREGATIONS:
        folder = tiny_model_folder(tmp_path / method, study_aggregation=method, study_top_k=2)
        if method == "attention":
            write_attention(folder)
        text = write_model_card(folder, model_id=method).read_text()
        blocks.append(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert {len(found) for found in blocks} == {2}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with_package, alone = ("\n".join(codes) for codes in zip(*blocks, strict=True))
    first = [float(line.split()[0]) for line in _run(with_package, tmp_path).splitlines()]
    shown = run_as_stranger(alone, folder=tmp_path)
    second = [float(number) for number in re.findall(r"tensor\(\[([\d.]+)", shown)]
    assert second == pytest.approx(first, abs=1e-3)
    assert len({round(score, 3) for score in first}) == len(AGGREGATIONS)  # the rule matters


def _run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
