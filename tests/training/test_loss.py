"""The loss that a run learns by, through the trainer."""

import json

import numpy as np
import pytest
import torch

from ct_video_hf.data import ClipIndex
from ct_video_hf.errors import CTVideoError
from ct_video_hf.training import run
from ct_video_hf.training.loss import TrainingLoss, positive_weights
from ct_video_hf.training.options import OptionError
from tests.support.tiny_runs import OPTIONS


def index_of(labels):
    labels = np.asarray(labels, np.float32)
    count = len(labels)
    zeros = np.zeros(count, np.int32)
    return ClipIndex(zeros, zeros, zeros, labels, np.ones(count), zeros.astype(bool), 8)


def test_balanced_weights_are_counted_for_each_label_where_it_is_known():
    index = index_of([[1, 0], [0, 0], [0, -1], [0, 1]])
    assert positive_weights(index, "balanced") == [3.0, 2.0]
    assert positive_weights(index, "2,3") == [1.5, 1.5]
    assert positive_weights(index, "none") is None
    with pytest.raises(CTVideoError, match="label 2 of 2 there are 0 positive and 2 negative"):
        positive_weights(index_of([[1, 0], [0, 0]]), "balanced")


def test_the_loss_is_that_of_logits_alone():
    loss = TrainingLoss(class_weights=[2.0], label_smoothing=0.2, focal_gamma=0.0)
    logits, labels = torch.randn(5, 1), torch.tensor([[1.0], [0.0], [1.0], [-1.0], [1.0]])
    known = labels[:, 0] >= 0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[known], labels[known] * 0.8 + 0.1, pos_weight=torch.tensor([2.0])
    )
    assert loss(logits, labels) == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "focal", "focal_gamma": 1.0, "label_smoothing": 0.1},
        {"class_weights": "balanced", "sampling": "shuffle"},
    ],
)
def test_runs_learn_by_it_and_say_so(clip_set, tmp_path, given):
    result = run(
        data=str(clip_set), output=str(tmp_path / "out"), **(OPTIONS | {"epochs": 1} | given)
    )
    record = json.loads((result.folder / "training_config.json").read_text())
    assert given.items() <= record["arguments"].items()
    # 36 training clips, 6 of them positive
    assert record["positive_weights"] == ([5.0] if "class_weights" in given else None)
    config = json.loads((result.folder / "config.json").read_text())
    assert config.get("class_weights") is None  # the model's own loss stays the plain one


def test_balancing_twice_is_refused(clip_set, tmp_path):
    with pytest.raises(OptionError, match="add --sampling shuffle"):
        run(data=str(clip_set), output=str(tmp_path / "out"), class_weights="balanced", **OPTIONS)
