"""What a run's record holds, and running it again from there."""

import json
import logging
import subprocess

import pandas as pd
import pytest

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import read_predictions
from ct_video_hf.models.download import sha256_of
from ct_video_hf.training import run
from ct_video_hf.training.options import OptionError, read_config, read_record
from ct_video_hf.training.record import git_state
from tests.support.clip_sets import write_clip_set
from tests.support.tiny_runs import OPTIONS, REPOSITORY, command, complete

SAID = OPTIONS | {"epochs": 1, "windows": [[-600, 1500]], "max_grad_norm": 0.5,
                  "aggregation": "attention"}  # fmt: skip


@pytest.fixture(scope="module")
def first(clip_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("record") / "first"
    return run(data=str(clip_set), output=str(out), **SAID)


@pytest.fixture(scope="module")
def second(first, clip_set):
    """In-domain: begins with the first."""
    out = first.folder.parent / "second"
    return run(data=str(clip_set), output=str(out), weights=str(first.folder), **SAID)


def test_hashes_of_the_starting_weights_are_recorded(first, second):
    assert first.config["weight_files"] == {}
    digest = sha256_of(first.folder / "model.safetensors")
    assert second.config["weight_files"] == {"model.safetensors": digest}
    head = sha256_of(first.folder / "attention.safetensors")
    files = {"model.safetensors": digest, "attention.safetensors": head}
    assert first.config["model_files"] == files
    assert "run_again" not in second.config


def test_other_weights_are_refused(first, second, clip_set, tmp_path):
    said = {"config": second.folder / "training_config.json", "data": str(clip_set)}
    with pytest.raises(CTVideoError, match="the weights that training starts from are other ones"):
        run(output=str(tmp_path / "out"), weights=str(second.folder), **said)


def test_the_revision_of_the_checkout_is_recorded(first):
    state = git_state()
    if not (REPOSITORY / ".git").exists():
        assert state is None
        return
    words = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    head = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert state["revision"] == head
    assert first.config["git"] == state


def test_a_run_is_repeated_from_its_record(first, second, clip_set, tmp_path):
    record = second.folder / "training_config.json"
    out = tmp_path / "again"
    said = {"config": record, "data": clip_set, "output": out, "weights": first.folder}
    words = [word for name, value in said.items() for word in (f"--{name}", str(value))]
    complete([*command("-m", "ct_video_hf", "train")[:4], *words])
    again = json.loads((out / "training_config.json").read_text())
    assert again["run_again"]["same_data"] is True
    assert again["run_again"]["same_weights"] is True
    assert again["run_again"]["differences"] == []
    then = second.config["arguments"]
    places = {"output", "data"}
    assert {k: v for k, v in again["arguments"].items() if k not in places} == {
        k: v for k, v in then.items() if k not in places
    }
    assert json.loads((out / "metrics.json").read_text()) == second.metrics
    for name in ("predictions", "predictions_validation"):
        tables = [read_predictions(f / f"{name}.parquet") for f in (second.folder, out)]
        pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-5, atol=1e-6)


def test_another_set_is_told_loudly(first, tmp_path, caplog):
    other = write_clip_set(tmp_path / "other", seed=5)
    record = first.folder / "training_config.json"
    said = {"config": record, "data": str(other), "lr": 1e-4}
    with pytest.raises(CTVideoError, match=r"the set is another one.*--other-inputs"):
        run(output=str(tmp_path / "refused"), **said)
    with caplog.at_level(logging.WARNING):
        result = run(output=str(tmp_path / "out"), other_inputs=True, **said)
    assert result.config["run_again"]["same_data"] is False
    told = [entry.getMessage() for entry in caplog.records if "not the same run" in entry.message]
    assert any("the set is another one" in words for words in told)
    assert any("option lr is 0.0001, and was 0.002" in words for words in told)
    assert len(told) == len(result.config["run_again"]["differences"]) == 2


def test_what_a_record_is(first, tmp_path):
    record = first.folder / "training_config.json"
    assert read_record(record)["seed"] == 0
    assert not {"data", "output", "resume"} & read_config(record).keys()
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"lr": 1e-3}))
    assert read_record(plain) is None
    with pytest.raises(OptionError, match="needed and not given: --data"):
        run(config=record, output=str(tmp_path / "out"))
