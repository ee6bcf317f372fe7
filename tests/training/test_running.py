"""Trackers, 16 bits, compilation, and what a loss that is no number says."""

import importlib.util
import json
import math

import pandas as pd
import pytest
import torch
from transformers.integrations import get_reporting_integration_callbacks

from ct_video_hf.cli import main
from ct_video_hf.data import ClipTransform, load_ct_dataset
from ct_video_hf.errors import CTVideoError
from ct_video_hf.models.slow import CTSlowForVideoClassification
from ct_video_hf.training import run
from ct_video_hf.training.arguments import build_arguments
from ct_video_hf.training.options import OptionError, resolve
from tests.support.tiny_runs import OPTIONS, words

SHORT = OPTIONS | {"epochs": 1, "test_split": "none", "resamples": 0}


def test_tensorboard_gets_what_the_csv_gets(clip_set, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    run(data=str(clip_set), output=str(out), report_to=["tensorboard"], **SHORT)
    (events,) = out.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events.parent))
    found.Reload()
    log = pd.read_csv(out / "training_log.csv")
    for tag, column in (("train/loss", "loss"), ("eval/study/auroc", "eval_study/auroc")):
        (scalar,) = found.Scalars(tag)
        assert scalar.value == pytest.approx(log[column].dropna().iloc[0], rel=1e-6)


def test_trackers_hear_of_the_training_alone(clip_set, tmp_path, capsys, monkeypatch):
    """Scoring the finished model is not, and what a tracker prints is no part of the answer."""
    kind = get_reporting_integration_callbacks(["tensorboard"])[0]
    heard = []
    for event in ("on_train_begin", "on_train_end", "on_predict"):

        def hear(self, *args, event=event, **kwargs):
            heard.append(event)
            print("* run", event)

        monkeypatch.setattr(kind, event, hear)
    said = words(data=clip_set, output=tmp_path / "out", report_to="tensorboard", **SHORT)
    assert main(["train", *said, "--json"]) == 0
    assert heard == ["on_train_begin", "on_train_end"]
    told = capsys.readouterr()
    assert json.loads(told.out)["model"] == str(tmp_path / "out")
    assert "* run on_train_end" in told.err


def test_a_tracker_that_is_not_installed_is_refused_at_once(clip_set, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    absent = ("tensorboard", "tensorboardX")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    out = tmp_path / "out"
    with pytest.raises(CTVideoError, match=r"tensorboard is not installed; pip install"):
        run(data=str(clip_set), output=str(out), report_to=["tensorboard"], **SHORT)
    assert not out.exists()


@pytest.mark.parametrize("given", [{"accumulate": 3}, {"accumulate": 2, "precision": "fp16"}])
def test_a_loss_that_is_no_number_names_its_study_whatever_the_step(
    clip_set, tmp_path, monkeypatch, given
):
    """One clip of one study is broken, in the middle of an accumulated step."""
    studies = load_ct_dataset(clip_set, "train")
    poisoned = studies[5]["study_id"]
    call = ClipTransform.__call__

    def poison(self, clip, *, index, epoch):
        values = call(self, clip, index=index, epoch=epoch)
        if self.train and index == 16:  # three clips a study: the second of study 5
            values[0, 0, 0, 0] = math.nan
        return values

    monkeypatch.setattr(ClipTransform, "__call__", poison)
    message = f"the loss is nan at step .*, in study {poisoned}; its input is not finite"
    with pytest.raises(CTVideoError, match=message):
        run(
            data=str(clip_set), output=str(tmp_path / "out"), sampling="shuffle",
            **(SHORT | {"batch_size": 3} | given),
        )  # fmt: skip


def test_fp16_trains_and_saves_float32(clip_set, tmp_path):
    from safetensors.torch import load_file

    result = run(
        data=str(clip_set), output=str(tmp_path / "out"), precision="fp16", ema=0.9, **SHORT
    )
    saved = load_file(result.folder / "model.safetensors")
    assert {v.dtype for v in saved.values() if v.is_floating_point()} == {torch.float32}
    assert all(torch.isfinite(v).all() for v in saved.values())


def test_a_compiled_network_learns_the_same_and_is_saved_plainly(clip_set, tmp_path, monkeypatch):
    called = []
    compiled = torch.compile

    def watched(model, *args, **kwargs):
        called.append(type(model))
        return compiled(model, *args, **kwargs)

    monkeypatch.setattr(torch, "compile", watched)
    given = SHORT | {"freeze": "backbone"}
    plain = run(data=str(clip_set), output=str(tmp_path / "plain"), **given)
    fast = run(
        data=str(clip_set), output=str(tmp_path / "fast"), torch_compile=True,
        torch_compile_backend="eager", **given,
    )  # fmt: skip
    assert called == [CTSlowForVideoClassification]
    assert fast.metrics["study/auroc"]["value"] == plain.metrics["study/auroc"]["value"]
    config = json.loads((fast.folder / "config.json").read_text())
    assert config["architectures"] == ["CTSlowForVideoClassification"]


def test_compiling_and_recomputing_exclude_each_other(tmp_path):
    said = {"data": "x", "output": "y", "torch_compile": True, "gradient_checkpointing": True}
    options, extras = resolve(("test", said))
    with pytest.raises(OptionError, match="exclude each other"):
        build_arguments(options, extras, tmp_path, validate=True)
