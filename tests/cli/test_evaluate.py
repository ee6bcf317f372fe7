import json

import pytest

from ct_video_hf.cli import main
from ct_video_hf.training import run
from tests.support.clip_sets import write_clip_set
from tests.support.tiny_runs import OPTIONS


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory):
    """A test study of 3 slices has no clip of 8."""
    return write_clip_set(tmp_path_factory.mktemp("sets") / "noise", short="test-06")


@pytest.fixture(scope="module")
def trained(clip_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "model"
    given = OPTIONS | {"epochs": 1, "min_positive_slices": 3}
    given |= {"aggregation": "mean_top_k", "top_k": 2, "stride": 4}
    return run(data=str(clip_set), output=str(out), **given).folder


def test_evaluate_repeats_the_scores_of_training(trained, clip_set, tmp_path, capsys):
    out = tmp_path / "results"
    line = [str(trained), str(clip_set), "--out", str(out), "--json", "--resamples", "50"]
    assert main(["evaluate", *line, "--device", "cpu", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "metrics.json").read_text())
    before = json.loads((trained / "metrics.json").read_text())
    assert report["clip/auroc"]["positives"] == before["clip/auroc"]["positives"]
    assert (report["aggregation"], report["top_k"]) == ("mean_top_k", 2)
    assert before["aggregation"] == "mean_top_k"
    for name in ("clip/auroc", "study/auroc", "study/brier"):
        assert report[name]["value"] == pytest.approx(before[name]["value"], abs=1e-6)
    assert {path.name for path in out.iterdir()} == {
        "figures",
        "metrics.json",
        "predictions.csv",
        "predictions.parquet",
    }


def test_a_study_too_short_for_a_clip_is_named(trained, clip_set, capsys):
    wanted = {"studies": 1, "study_ids": ["test-06"], "clips_of_uncertain_label": 0}
    before = json.loads((trained / "metrics.json").read_text())
    assert before["left_out"] == wanted
    assert before["study/auroc"]["n"] == 6
    record = json.loads((trained / "training_config.json").read_text())
    assert record["data"]["counts"]["test"]["left_out"] == wanted
    assert record["data"]["counts"]["train"]["left_out"]["studies"] == 0
    line = [str(trained), str(clip_set), "--resamples", "20", "--device", "cpu", "-q"]
    assert main(["evaluate", *line]) == 0
    shown = capsys.readouterr().out
    assert "not scored, no clip (too few slices?): 1 studies: test-06" in shown
    assert "study score: mean of the 2 highest clips" in shown


def test_evaluate_again_from_the_table_needs_no_model(trained, capsys):
    table = str(trained / "predictions.parquet")
    line = ["--predictions", table, "--aggregation", "noisy_or", "--json", "--resamples", "20"]
    assert main(["evaluate", *line]) == 0
    assert json.loads(capsys.readouterr().out)["aggregation"] == "noisy_or"


def test_a_refusal_leaves_no_empty_folder(tmp_path, capsys):
    line = ["--predictions", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "a" / "b")]
    assert main(["evaluate", *line]) == 1
    assert "none.parquet" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_wrong_use(trained, capsys):
    for line in ([str(trained)], [str(trained), "set", "--predictions", "x.csv"]):
        with pytest.raises(SystemExit) as leave:
            main(["evaluate", *line])
        assert leave.value.code == 2
    capsys.readouterr()


def test_a_calibration_is_fitted_on_validation_kept_and_measured_on_test(
    trained, tmp_path_factory, capsys
):
    data = write_clip_set(
        tmp_path_factory.mktemp("sets") / "more", {"train": 2, "validation": 22, "test": 8}
    )
    common = [str(trained), str(data), "--resamples", "20", "--device", "cpu", "-q", "--json"]
    assert not (trained / "calibration.json").exists(), "3 + 3 validation studies are too few"
    assert main(["evaluate", *common, "--split", "validation", "--calibrate", "temperature"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert "study/brier_calibrated" not in fitted, "it would flatter"
    assert main(["evaluate", *common]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["calibration"]["studies"] == 22
    assert measured["calibration"]["aggregation"] == "mean_top_k"
    assert measured["study/brier_calibrated"]["n"] == 8
    assert {point["rule"] for point in measured["operating_points"]} == {
        "youden", "sensitivity_90", "specificity_90",
    }  # fmt: skip
    assert main(["evaluate", *common, "--aggregation", "max"]) == 0
    assert "calibration" not in json.loads(capsys.readouterr().out), "fitted for another rule"
    with pytest.raises(SystemExit):
        main(["evaluate", "user/model", str(data), "--calibrate", "temperature"])


def test_what_16_bits_change_is_told(trained, clip_set, capsys):
    line = [str(trained), str(clip_set), "--resamples", "20", "--device", "cpu", "-q"]
    assert main(["evaluate", *line, "--json"]) == 0
    exact = json.loads(capsys.readouterr().out)
    assert "arithmetic" not in exact
    assert main(["evaluate", *line, "--precision", "bf16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = report["arithmetic"]
    assert found["study_auroc_exact"] == exact["study/auroc"]["value"]
    assert found["study_auroc"] == report["study/auroc"]["value"]
    assert found["difference"] == pytest.approx(found["study_auroc"] - found["study_auroc_exact"])
    assert 0 < found["largest_logit_difference"] < 1
    assert found["rank_correlation"] > 0.5
    assert "eager" in found["computed_by"]
    assert main(["evaluate", *line, "--precision", "bf16", "--backend", "fast", "--json"]) == 0
    fast = json.loads(capsys.readouterr().out)["arithmetic"]
    assert "fast graph" in fast["computed_by"]
    assert fast["study_auroc_exact"] == found["study_auroc_exact"]
    assert main(["evaluate", *line, "--precision", "bf16"]) == 0
    assert "16 bits against float32: rank correlation" in capsys.readouterr().out
