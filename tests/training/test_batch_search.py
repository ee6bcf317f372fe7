"""Memory that runs out is made here: a network that refuses more than two clips at a time."""

import pytest
import torch
from safetensors.torch import load_file

from ct_video_hf.errors import CTVideoError
from ct_video_hf.models.slow import CTSlowForVideoClassification
from ct_video_hf.training import run
from ct_video_hf.training.callbacks import TrainingLog
from tests.support.tiny_runs import OPTIONS

FORWARD = CTSlowForVideoClassification.forward


def limit(monkeypatch, most):
    """Of one clip too many, in training, torch's own error; returns the sizes that were tried."""
    tried = []

    def forward(self, pixel_values, **kwargs):
        if self.training:
            tried.append(len(pixel_values))
            if len(pixel_values) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return FORWARD(self, pixel_values, **kwargs)

    monkeypatch.setattr(CTSlowForVideoClassification, "forward", forward)
    return tried


GIVEN = OPTIONS | {"batch_size": 6, "accumulate": 1, "epochs": 1}


def test_the_largest_batch_that_fits_and_the_same_result_as_asking_for_it(
    clip_set, tmp_path, monkeypatch
):
    plain = run(
        data=str(clip_set), output=str(tmp_path / "plain"),
        **(GIVEN | {"batch_size": 2, "accumulate": 3}),
    )  # fmt: skip
    tried = limit(monkeypatch, 2)
    found = run(data=str(clip_set), output=str(tmp_path / "found"), find_batch_size=True, **GIVEN)
    assert tried[:3] == [6, 3, 2]
    assert set(tried[3:]) == {2}
    assert (found.config["batch_size"], found.config["accumulation_steps"]) == (2, 3)
    assert found.config["global_batch_size"] == plain.config["global_batch_size"] == 6
    assert found.metrics == plain.metrics
    weights = load_file(plain.folder / "model.safetensors")
    for name, value in load_file(found.folder / "model.safetensors").items():
        assert value.equal(weights[name]), name


def test_a_resumed_run_keeps_what_it_found(clip_set, tmp_path, monkeypatch):
    log = TrainingLog.on_log

    def interrupt(self, args, state, control, **kwargs):
        log(self, args, state, control, **kwargs)
        if state.epoch == 2:
            raise KeyboardInterrupt

    out, given = tmp_path / "out", GIVEN | {"epochs": 2, "find_batch_size": True}
    with monkeypatch.context() as patch:
        limit(patch, 2)
        patch.setattr(TrainingLog, "on_log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(data=str(clip_set), output=str(out), **given)
    tried = limit(monkeypatch, 100)  # more would fit now, and would change the batch norms
    resumed = run(data=str(clip_set), output=str(out), resume=True, **given)
    assert set(tried) == {2}
    assert resumed.config["batch_size"] == 2


def test_no_batch_at_all_and_other_errors(clip_set, tmp_path, monkeypatch):
    given = GIVEN | {"find_batch_size": True}
    with monkeypatch.context() as patch:
        limit(patch, 0)
        with pytest.raises(CTVideoError, match=r"not even one clip of \(8, 1, 32, 32\)"):
            run(data=str(clip_set), output=str(tmp_path / "a"), **given)

    def broken(self, pixel_values, **kwargs):
        raise RuntimeError("something else")

    monkeypatch.setattr(CTSlowForVideoClassification, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        run(data=str(clip_set), output=str(tmp_path / "b"), **given)
