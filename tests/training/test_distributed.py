"""Two real processes (gloo) against one, through accelerate launch, in both its forms."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from ct_video_hf.evaluation import read_predictions
from ct_video_hf.evaluation.metrics import log_loss
from ct_video_hf.hub import check_model_card, check_model_folder
from ct_video_hf.training import run
from tests.support.tiny_runs import OPTIONS, REPOSITORY, command, complete
from tests.support.transformers_models import video_model_folder

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

CPU = REPOSITORY / "scripts" / "accelerate" / "two_cpu.yaml"
#: A frozen backbone: batch norm statistics are per process, so only without them must the sum of
#: two half batches be the whole batch.
PROBE = {"freeze": "backbone", "lr": 0.05, "scheduler": "constant", "warmup": 0.0, "epochs": 3,
         "ema": 0.9}  # fmt: skip


def launch(*target, **options):
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(CPU), *target)
    return complete(command(*launcher, **options))


@pytest.fixture(scope="module")
def one(clip_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "out"
    return run(data=str(clip_set), output=str(out), **(OPTIONS | PROBE))


def table_of(folder):
    return pd.read_csv(Path(folder) / "predictions.csv")


def test_two_processes_learn_what_one_does(one, clip_set, tmp_path):
    """7 test studies of 3 clips: 21 does not divide by the batch, so padding must be dropped."""
    out = tmp_path / "out"
    module = ("-m", "ct_video_hf.training")
    done = launch(*module, data=clip_set, output=out, **(PROBE | {"batch_size": 2}))
    assert "torch.jit.script" not in done.stderr  # pytorchvideo's, nothing of the user's
    assert check_model_card(out) + check_model_folder(out) == []
    record = json.loads((out / "training_config.json").read_text())
    assert record["hardware"]["processes"] == 2
    assert record["global_batch_size"] == one.config["global_batch_size"] == 4
    assert record["steps"] == one.config["steps"]
    weights = load_file(one.folder / "model.safetensors")
    for name, value in load_file(out / "model.safetensors").items():
        np.testing.assert_allclose(value, weights[name], rtol=1e-4, atol=1e-5, err_msg=name)
    first, second = table_of(one.folder), table_of(out)
    keys = ["study_id", "patient_hash", "clip_start", "clip_stop", "label", "study_label"]
    pd.testing.assert_frame_equal(first[keys], second[keys])
    np.testing.assert_allclose(first["logit"], second["logit"], atol=1e-4)
    metrics = json.loads((out / "metrics.json").read_text())
    for name, entry in one.metrics.items():
        if isinstance(entry, dict) and "n" in entry:
            assert metrics[name]["n"] == entry["n"], name
            assert metrics[name]["value"] == pytest.approx(entry["value"], abs=1e-4), name
    columns = ["loss", "eval_loss", "eval_study/auroc", "eval_clip/auroc"]
    logs = [pd.read_csv(Path(f) / "training_log.csv")[columns] for f in (one.folder, out)]
    np.testing.assert_allclose(*logs, atol=1e-4)


def test_the_script_form_with_batch_norm_saves_what_it_scored(clip_set, tmp_path):
    """Each process has its own batch norm statistics; scores must come from the saved ones."""
    from ct_video_hf.cli import main

    out = tmp_path / "out"
    script = str(REPOSITORY / "scripts" / "train.py")
    done = launch(script, data=clip_set, output=out, batch_size=3, rotation=5)
    assert done.stdout.count("model folder:") == 1  # said once, not by both
    record = json.loads((out / "training_config.json").read_text())
    log = pd.read_csv(out / "training_log.csv")
    during = log.loc[log["epoch"] == record["best_epoch"], "eval_loss"].dropna().iloc[0]
    validation = read_predictions(out / "predictions_validation.parquet")
    after = log_loss(validation["label"].to_numpy(), validation["score"].to_numpy())
    assert during == pytest.approx(after, abs=1e-6)
    again = tmp_path / "again"
    arguments = ["evaluate", str(out), str(clip_set), "--out", str(again), "--device", "cpu", "-q"]
    assert main(arguments) == 0
    np.testing.assert_allclose(table_of(out)["logit"], table_of(again)["logit"], atol=1e-5)
    assert check_model_card(out) + check_model_folder(out) == []


def test_an_error_in_one_process_ends_both(clip_set, tmp_path):
    with pytest.raises(AssertionError, match="no split 'nowhere'"):
        launch(
            "-m", "ct_video_hf.training", data=clip_set, output=tmp_path / "out",
            test_split="nowhere",
        )  # fmt: skip


def test_a_network_with_a_part_that_nothing_calls(clip_set, tmp_path):
    """V-JEPA 2's predictor gets no gradient, which two processes would wait for."""
    start = video_model_folder("vjepa2", tmp_path / "vjepa2")
    out = tmp_path / "out"
    few = {"validation_split": "none", "test_split": "none", "max_steps": 2, "epochs": 1,
           "num_frames": 4, "gradient_checkpointing": "true"}  # fmt: skip
    launch("-m", "ct_video_hf.training", data=clip_set, output=out, backbone=start, **few)
    record = json.loads((out / "training_config.json").read_text())
    assert record["hardware"]["processes"] == 2
    assert record["trainable_parameters"] < record["parameters"]
