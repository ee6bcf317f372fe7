"""Scores, activation along a clip, and the choice of key slices."""

import math

import numpy as np
import pytest
import torch

from ct_video_hf.inference.localization import clip_forward, slice_relevance
from ct_video_hf.inference.results import NOT_BY_ATTENTION, key_slices, log_odds, sigmoid
from tests.support.prediction import chest_hu, tiny_model, tiny_processor, volume_of


def clip(start, stop, score):
    return {"start": start, "stop": stop, "score": score}


@pytest.mark.parametrize("value", [-800.0, -3.0, 0.0, 2.5, 800.0])
def test_sigmoid(value):
    expected = float(torch.sigmoid(torch.tensor(value, dtype=torch.float64)))
    assert math.isclose(sigmoid(value), expected, rel_tol=1e-12, abs_tol=1e-300)


def test_log_odds_of_softmax():
    logits = np.array([[0.3, -1.0, 2.0], [100.0, -100.0, 0.0]])
    odds = log_odds(logits, "single_label_classification")
    expected = torch.tensor(logits).softmax(1).numpy()
    found = np.vectorize(sigmoid)(odds)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-30)
    assert log_odds(logits, "multi_label_classification") is logits


def test_logits_are_those_of_the_model():
    model = tiny_model()
    pixels = tiny_processor()(volume_of(chest_hu(30)))["pixel_values"]
    logits, activation = clip_forward(model, pixels, 0)
    with torch.no_grad():
        assert torch.equal(logits, model(pixel_values=pixels).logits)
    assert activation.shape == pixels.shape[:2]
    assert activation.min() >= 0
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_activation_shows_where_the_feature_is():
    """With mean pooling and a classifier that copies one feature, it is that feature's map."""
    model = tiny_model(head_pool="mean")
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.weight[0, 3] = 1.0
        pixels = tiny_processor()(volume_of(chest_hu(30)))["pixel_values"]
        grid = model.backbone(pixels).last_hidden_state[:, 3]
    _, activation = clip_forward(model, pixels, 0)
    expected = grid.amax((2, 3)) / grid[0].numel()
    expected = torch.nn.functional.interpolate(expected[:, None], 16, mode="linear")[:, 0]
    torch.testing.assert_close(activation, expected)
    assert float(activation.std()) > 0


def test_relevance_ignores_padding():
    activation = np.array([[1.0, 2.0, 8.0], [0.0, 0.0, 5.0], [1.0, 4.0, 2.0]])
    relevance = slice_relevance(activation, np.array([2, 2, 3]))
    np.testing.assert_array_equal(relevance, [[0.5, 1, 0], [0, 0, 0], [0.25, 1, 0.5]])


def test_key_slices_follow_score_times_relevance():
    volume = volume_of(chest_hu(48))
    clips = [clip(0, 16, 0.2), clip(16, 32, 0.9), clip(32, 48, 0.5)]
    relevance = np.zeros((3, 16))
    relevance[0, 5], relevance[1, 10], relevance[1, 11], relevance[2, 2] = 1.0, 1.0, 0.9, 1.0
    keys, rule = key_slices(volume, clips, relevance, 16, include_ids=False)
    assert [key["index"] for key in keys] == [26, 34, 5]  # 27 is too near to 26
    assert [key["score"] for key in keys] == [0.9, 0.5, 0.2]
    assert "activation" in rule


@pytest.mark.parametrize("relevance", [None, np.zeros((3, 16))])
def test_key_slices_without_activation_are_the_middles_of_clips(relevance):
    clips = [clip(0, 16, 0.2), clip(16, 32, 0.9), clip(32, 40, 0.5)]
    keys, rule = key_slices(volume_of(chest_hu(40)), clips, relevance, 16, include_ids=False)
    assert [key["index"] for key in keys] == [23, 35, 7]
    assert all(key["relevance"] is None for key in keys)
    assert "middle" in rule


@pytest.mark.parametrize("relevance", [None, np.eye(2, 16)])
def test_key_slices_follow_scores_where_attention_makes_the_study_score(relevance):
    """A clip may weigh much because it speaks against the label; the rule says what counts."""
    volume = volume_of(chest_hu(32))
    clips = [clip(0, 16, 0.9), clip(16, 32, 0.1)]
    rows, rule = key_slices(volume, clips, relevance, 16, include_ids=False)
    weighed = [one | {"attention": share} for one, share in zip(clips, (0.01, 0.99), strict=True)]
    assert key_slices(volume, weighed, relevance, 16, include_ids=False) == (
        rows,
        f"{rule} {NOT_BY_ATTENTION}",
    )
    assert rows[0]["score"] == 0.9
