import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.training import run
from tests.support.clip_sets import COUNTS, write_clip_set
from tests.support.stranger import run_as_stranger
from tests.support.tiny_runs import OPTIONS

COMPLETE = {
    "config.json",
    "metrics.json",
    "model.safetensors",
    "predictions.csv",
    "predictions.parquet",
    "training_config.json",
    "training_log.csv",
    "video_preprocessor_config.json",
    "slow.py",
    "processing_ct.py",
}

ALL_IN = {"studies": 0, "study_ids": [], "clips_of_uncertain_label": 0}


@pytest.fixture(scope="module")
def finished(clip_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    words = ["ct-video-hf", "train", "--data", str(clip_set), f"--output={out}"]
    return run(data=str(clip_set), output=str(out), command=words, **OPTIONS)


def test_the_folder_is_complete_and_holds_nothing_else_of_the_run(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= COMPLETE
    assert not [name for name in names if name.startswith((".", "checkpoint-"))]
    assert "run_options.json" not in names
    figures = {path.name for path in (finished.folder / "figures").iterdir()}
    names = ("learning_curve", "pr", "reliability", "roc", "scores")
    assert figures == {f"{name}{end}.png" for name in names for end in ("", "_dark")}


def test_no_published_file_names_a_place_on_this_machine(finished, clip_set):
    home = str(Path(clip_set).parents[1]).encode()
    for path in finished.folder.rglob("*"):
        if path.is_file():
            assert home not in path.read_bytes(), path.name
    assert finished.config["command"] == "ct-video-hf train --data noise --output=finished"


def test_the_record_says_what_was_done(finished):
    record = json.loads((finished.folder / "training_config.json").read_text())
    assert record == finished.config
    assert record["backbone"] == "slow_tiny"
    assert record["arguments"]["lr"] == OPTIONS["lr"]
    assert record["data"]["counts"]["train"] == {
        "studies": 12, "positive_studies": 6, "clips": 36, "positive_clips": 6,
        "left_out": ALL_IN,
    }  # fmt: skip
    assert len(record["data"]["manifest"]["sha256"]) == 64
    assert "studies" not in record["data"]["manifest"]
    assert record["epochs_run"] == 2
    assert record["best_epoch"] in (1.0, 2.0)
    assert record["hardware"]["processes"] == 1


def test_metrics_are_those_of_the_predictions_table(finished, clip_set):
    from ct_video_hf.evaluation import evaluate_predictions, read_predictions

    metrics = json.loads((finished.folder / "metrics.json").read_text())
    table = read_predictions(finished.folder / "predictions.parquet")
    assert table["study_id"].nunique() == COUNTS["test"]
    assert metrics == evaluate_predictions(table, resamples=50, seed=0, left_out=ALL_IN)
    assert metrics["split"] == "test"


def test_the_model_saved_is_the_best_one(finished):
    log = pd.read_csv(finished.folder / "training_log.csv")
    best = log["eval_study/auroc"].max()
    assert finished.config["best_metric"]["value"] == pytest.approx(best)
    rows = log[log["eval_study/auroc"] == best]
    assert finished.config["best_epoch"] == rows["epoch"].iloc[0]
    from ct_video_hf.evaluation import point_metrics, read_predictions

    validation = read_predictions(finished.folder / "predictions_validation.parquet")
    assert point_metrics(validation)["study/auroc"] == pytest.approx(best)


def test_a_new_process_without_the_package_gives_the_same_scores(finished, clip_set, tmp_path):
    """From the folder alone: its own code, its processor, HU in, the table's logits out."""
    table = pd.read_csv(finished.folder / "predictions.csv")
    study = table["study_id"].iloc[0]
    volume = tmp_path / "hu.npy"
    from ct_video_hf.data import load_ct_dataset

    row = next(row for row in load_ct_dataset(clip_set, "test") if row["study_id"] == study)
    stored = np.frombuffer(row["volume"], "<u2").reshape(row["shape"])
    np.save(volume, stored.astype(np.int16) - 1024)
    code = (
        "import sys, json, numpy as np, torch\n"
        "from transformers import AutoModelForVideoClassification, AutoVideoProcessor\n"
        "folder, volume = sys.argv[1:]\n"
        "model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True)\n"
        "processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        "with torch.inference_mode():\n"
        "    values = processor(np.load(volume))['pixel_values']\n"
        "    print(json.dumps(model(pixel_values=values).logits[:, 0].tolist()))\n"
    )
    shown = run_as_stranger(code, finished.folder, volume, folder=tmp_path)
    expected = table.loc[table["study_id"] == study, "logit"]
    np.testing.assert_allclose(json.loads(shown), expected, atol=1e-5)


def test_resuming_a_finished_run_changes_nothing(finished, clip_set):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    again = run(data=str(clip_set), output=str(finished.folder), resume=True, **OPTIONS)
    assert again.metrics == finished.metrics
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}


def test_a_folder_in_use_is_refused(finished, clip_set):
    with pytest.raises(CTVideoError, match="not empty"):
        run(data=str(clip_set), output=str(finished.folder), **OPTIONS)


def test_the_card_is_written_before_the_folder_counts_as_finished(clip_set, tmp_path):
    out, seen = tmp_path / "out", []

    def write_card(folder):
        seen.append({path.name for path in folder.iterdir()})
        assert not (out / "training_config.json").exists()
        return (folder / "README.md").write_text("card")

    run(
        data=str(clip_set), output=str(out), write_card=write_card, keep_checkpoints=True, **OPTIONS
    )
    assert seen[0] >= COMPLETE
    assert (out / "README.md").read_text() == "card"
    assert list(out.glob("checkpoint-*/complete.json"))


def test_unfit_sets_are_refused_before_training(clip_set, tmp_path):
    one_class = write_clip_set(tmp_path / "set", one_class="validation")
    with pytest.raises(CTVideoError, match=r"every validation study_label is 0.*--metric loss"):
        run(data=str(one_class), output=str(tmp_path / "a"), **OPTIONS)
    no_test = write_clip_set(tmp_path / "small", {"train": 4, "validation": 2})
    with pytest.raises(CTVideoError, match=r"no split 'test' \(it has train, validation\)"):
        run(data=str(no_test), output=str(tmp_path / "b"), **OPTIONS)


def test_without_validation_the_last_model_is_kept(clip_set, tmp_path):
    result = run(
        data=str(clip_set),
        output=str(tmp_path / "out"),
        validation_split="none",
        test_split="none",
        **(OPTIONS | {"epochs": 1}),
    )
    assert result.metrics is None
    assert result.config["best_epoch"] is None
    assert not (result.folder / "metrics.json").exists()
    assert (result.folder / "model.safetensors").is_file()


def test_early_stopping_ends_the_run(clip_set, tmp_path):
    given = OPTIONS | {"epochs": 8, "lr": 0.0, "early_stopping": 2}
    result = run(data=str(clip_set), output=str(tmp_path / "out"), warmup=0.0, **given)
    # with a rate of 0 only the batch norm statistics move; the first epochs decide
    assert result.config["epochs_run"] < 8


# ---- resume: see also test_kills.py -------------------------------------------------------------


def test_a_resumed_run_keeps_its_options(clip_set, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CTVideoError, match="no split 'nowhere'"):  # begun, and failed
        run(data=str(clip_set), output=str(out), test_split="nowhere", **OPTIONS)
    with pytest.raises(CTVideoError, match=r"these have changed: lr .* test_split 'nowhere'"):
        run(data=str(clip_set), output=str(out), resume=True, **(OPTIONS | {"lr": 1.0}))


def test_a_run_that_failed_before_its_first_step_does_not_block_the_folder(clip_set, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(CTVideoError, match="neither the folder of a prepared set"):
        run(data=str(tmp_path / "misspelt"), output=str(out), **OPTIONS)
    result = run(data=str(clip_set), output=str(out), **(OPTIONS | {"epochs": 1}))
    assert result.config["epochs_run"] == 1
