import json

import pytest
import torch
from safetensors.torch import load_file

from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation import point_metrics, read_predictions
from ct_video_hf.models import create_model
from ct_video_hf.training import run
from ct_video_hf.training.callbacks import TrainingLog
from ct_video_hf.training.ema import WeightAverage
from tests.support.tiny_runs import OPTIONS

STEPS = {"epochs": 3, "save_steps": 4, "save_strategy": "steps", "eval_steps": 4,
         "eval_strategy": "steps", "logging_strategy": "steps", "logging_steps": 4,
         "early_stopping": 0, "test_split": "none", "ema": 0.8}  # fmt: skip


def test_the_mean_is_the_mean_with_its_warm_up():
    layer = torch.nn.Linear(2, 1)
    average = WeightAverage(layer, 0.5)
    expected, seen = layer.weight.detach().clone(), []
    for step in range(12):
        torch.nn.init.normal_(layer.weight)
        seen.append(layer.weight.detach().clone())
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * seen[-1]
    with average.applied():
        torch.testing.assert_close(layer.weight.detach(), expected)
        with average.applied():  # saving what is being scored
            torch.testing.assert_close(layer.weight.detach(), expected)
    assert torch.equal(layer.weight, seen[-1])
    average.keep()
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_statistics_of_batch_norms_are_averaged_and_frozen_weights_left():
    model = create_model("slow_tiny", num_frames=8, image_size=32).train()
    model.backbone.blocks[0].requires_grad_(False)
    frozen = model.backbone.blocks[0].conv.weight
    average = WeightAverage(model, 0.9)
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm3d))
    before = norm.running_mean.clone()
    norm.running_mean.add_(1.0)
    average.update()  # decay 1/10
    with average.applied():
        torch.testing.assert_close(norm.running_mean, before + 0.9)
    kept = frozen.detach().clone()
    average.keep()
    assert torch.equal(frozen, kept)


def test_a_decay_that_is_none_is_refused():
    with pytest.raises(CTVideoError, match="between 0 and 1"):
        WeightAverage(torch.nn.Linear(1, 1), 1.0)


@pytest.fixture(scope="module")
def straight(clip_set, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "straight"
    return run(data=str(clip_set), output=str(out), keep_checkpoints=True, **(OPTIONS | STEPS))


def test_the_model_is_the_mean_and_was_scored_as_such(straight):
    """The saved weights give the metric that chose them, and are those of their checkpoint."""
    saved = load_file(straight.folder / "model.safetensors")
    step = json.loads((straight.folder / "training_config.json").read_text())["best_metric"]
    validation = read_predictions(straight.folder / "predictions.parquet")
    assert point_metrics(validation)["study/auroc"] == pytest.approx(step["value"])
    checkpoints = list(straight.folder.glob("checkpoint-*"))
    equal = [
        path
        for path in checkpoints
        if all(v.equal(saved[k]) for k, v in load_file(path / "model.safetensors").items())
    ]
    assert len(equal) == 1
    learning = load_file(equal[0] / "learning_weights.safetensors")
    name = "classifier.weight"
    assert not learning[name].equal(saved[name])
    assert straight.config["arguments"]["ema"] == 0.8


def test_without_validation_the_last_mean_is_the_model(clip_set, tmp_path):
    none = {"validation_split": "none", "test_split": "none", "keep_checkpoints": True}
    given = OPTIONS | {"epochs": 1, "ema": 0.9} | none
    result = run(data=str(clip_set), output=str(tmp_path / "out"), **given)
    (checkpoint,) = result.folder.glob("checkpoint-*")
    saved = load_file(result.folder / "model.safetensors")
    mean = load_file(checkpoint / "model.safetensors")
    assert all(value.equal(mean[name]) for name, value in saved.items())


def test_adapters_have_a_mean_too(clip_set, tmp_path, monkeypatch):
    """LoRA: the mean is that of the adapters and the head, and survives a resume."""
    given = OPTIONS | STEPS | {"lora": 2, "epochs": 2}
    first = run(data=str(clip_set), output=str(tmp_path / "first"), **given)
    log = TrainingLog.on_log

    def interrupt(self, args, state, control, **kwargs):
        log(self, args, state, control, **kwargs)
        if state.global_step == 8:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "on_log", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(data=str(clip_set), output=str(out), **given)
    resumed = run(data=str(clip_set), output=str(out), resume=True, **given)
    weights = load_file(first.folder / "model.safetensors")
    for name, value in load_file(resumed.folder / "model.safetensors").items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0, msg=name)
