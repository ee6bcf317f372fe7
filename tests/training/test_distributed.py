"""Two real processes (gloo) against one, through accelerate launch, in both its forms."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from ct_video_hf.evaluation import read_predictions
from ct_video_hf.evaluation.metrics import log_loss
from ct_video_hf.hub import check_model_card, check_model_folder
from ct_video_hf.training import run
from tests.support.tiny_runs import (
    OPTIONS,
    PATIENCE,
    REPOSITORY,
    command,
    complete,
    environment,
    kill_family,
)
from tests.support.transformers_models import video_model_folder

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

CPU = REPOSITORY / "scripts" / "accelerate" / "two_cpu.yaml"
#: A frozen backbone: batch norm statistics are per process, so only without them must the sum of
#: two half batches be the whole batch.
PROBE = {"freeze": "backbone", "lr": 0.05, "scheduler": "constant", "warmup": 0.0, "epochs": 3,
         "ema": 0.9, "aggregation": "attention"}  # fmt: skip


def launch(*target, config=CPU, **options):
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(config), *target)
    return complete(command(*launcher, **options))


def launch_and_kill(checkpoint, config=CPU, *, output, held_step, **options):
    """Start processes that wait at a step, and kill them all once a checkpoint is whole."""
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(config))
    target = ("-m", "tests.support.held_runs", "train")
    process = subprocess.Popen(
        command(*launcher, *target, output=output, **options),
        env=environment() | {"HELD_STEP": str(held_step)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while not (output / checkpoint / "complete.json").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        kill_family(process)


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
    for name in ("attention_score", "attention_logit"):
        np.testing.assert_allclose(first[name], second[name], rtol=1e-3, atol=1e-3)
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


#: A network without batch norm, all of which learns; the best checkpoint is the first of two.
WHOLE = {"num_frames": 4, "epochs": 2, "lr": 1e-3, "scheduler": "constant", "warmup": 0.0,
         "save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5,
         "max_steps": 10, "early_stopping": 0}  # fmt: skip


@pytest.fixture(scope="module")
def videomae(tmp_path_factory):
    return video_model_folder("videomae", tmp_path_factory.mktemp("base") / "videomae")


@pytest.fixture(scope="module")
def whole(clip_set, videomae, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    said = OPTIONS | WHOLE | {"backbone": str(videomae), "keep_checkpoints": True}
    return run(data=str(clip_set), output=str(out), **said)


def test_shards_learn_what_one_process_does(whole, clip_set, videomae, tmp_path):
    """FSDP2 for real: shards in training, one whole model in the folder, the same result.

    Both processes are killed in the first epoch, and the run goes on from its shards' checkpoint.
    Without use_cpu among the options: accelerate does not tell processes of its file's.
    """
    out = tmp_path / "out"
    options = WHOLE | {"batch_size": 2, "backbone": videomae, "use_cpu": "false"}
    options |= {"config": REPOSITORY / "scripts" / "accelerate" / "two_cpu_fsdp.yaml"}
    options |= {"data": clip_set, "output": out}
    launch_and_kill("checkpoint-5", held_step=7, **options)
    launch("-m", "ct_video_hf.training", resume="true", **options)
    assert check_model_card(out) + check_model_folder(out) == []
    record = json.loads((out / "training_config.json").read_text())
    assert record["spread"]["kind"] == "FSDP2"
    assert record["spread"]["backend"] == "gloo"
    assert record["spread"]["units"] > 2
    assert record["spread"]["share"] == pytest.approx(0.5, abs=0.05)
    assert whole.config["spread"] == {"kind": "one process"}
    assert record["parameters"] == whole.config["parameters"]
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    weights = load_file(whole.folder / "model.safetensors")
    for name, value in load_file(out / "model.safetensors").items():
        if not name.endswith("q_bias"):  # a gradient of rounding alone, which Adam makes a step of
            np.testing.assert_allclose(value, weights[name], rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(table_of(whole.folder)["logit"], table_of(out)["logit"], atol=1e-4)
    metrics = json.loads((out / "metrics.json").read_text())
    for name in ("study/log_loss", "clip/log_loss"):
        assert metrics[name]["value"] == pytest.approx(whole.metrics[name]["value"], abs=1e-4)


def test_the_best_checkpoint_is_read_under_the_names_it_was_saved_with(whole):
    """VideoMAE's biases are saved under other names, and the Trainer would leave them out."""
    clips, batch = whole.config["data"]["counts"]["train"]["clips"], OPTIONS["batch_size"]
    best = round(whole.config["best_epoch"] * clips / batch)
    saved = load_file(whole.folder / f"checkpoint-{best}" / "model.safetensors")
    assert any(name.endswith("q_bias") for name in saved)
    for name, value in load_file(whole.folder / "model.safetensors").items():
        assert value.equal(saved[name]), name


def test_shards_for_one_process_are_refused(clip_set, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(AssertionError, match="there is one process, which has nothing to share"):
        complete(command("-m", "ct_video_hf.training", data=clip_set, output=tmp_path / "out"))
