"""Overlapping clips share what is computed slice by slice, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ct_video_hf.errors import CTVideoError
from ct_video_hf.inference import CTVideoPipeline, LoadedModel, fast_backend
from ct_video_hf.inference.slice_window import SliceWindow
from tests.support.prediction import chest_hu, tiny_model, tiny_processor, volume_of

#: Of slow_tiny, whose kernels over slices all are 3: stem and first stage see slices alone.
HALF = {"stem_kernel": [1, 5, 5], "temporal_kernels": [1, 3, 3]}


def pipeline(share=True, changes=HALF, **options):
    processor = tiny_processor(**{k: options.pop(k) for k in ("tail",) if k in options})
    loaded = LoadedModel(tiny_model(**changes), processor, "tiny")
    predict = CTVideoPipeline(loaded, device="cpu", **options)
    predict.scorer.share = share
    return predict


def logits(result):
    scores = np.array([clip["score"] for clip in result["clips"]])
    return np.log(scores) - np.log1p(-scores)


@pytest.mark.parametrize("tail", ["pad", "shift"])
@pytest.mark.parametrize(("slices", "stride"), [(40, 8), (45, 5), (33, 15), (9, 8), (16, 1)])
def test_scores_and_key_slices_are_those_without_sharing(slices, stride, tail):
    volume = volume_of(chest_hu(slices))
    shared = pipeline(backend="eager", stride=stride, tail=tail)
    alone = pipeline(share=False, backend="eager", stride=stride, tail=tail)
    assert shared.scorer.shares
    assert not alone.scorer.shares
    one, two = shared(volume), alone(volume)
    np.testing.assert_allclose(logits(one), logits(two), atol=1e-5)
    assert [key["index"] for key in one["key_slices"]] == [k["index"] for k in two["key_slices"]]
    assert [clip["stop"] for clip in one["clips"]] == [clip["stop"] for clip in two["clips"]]


@pytest.mark.parametrize(("batch_size", "warm"), [(1, False), (3, False), (8, True)])
def test_the_fast_graphs_share_too(batch_size, warm):
    volume = volume_of(chest_hu(45))
    fast = pipeline(backend="fast", batch_size=batch_size)
    if warm:
        fast.warm()
    result = fast(volume)
    assert "fast graph" in result["backend"]
    assert fast.backend.shared.run is not None
    assert fast.backend.whole.run is None
    expected = pipeline(share=False, backend="eager")(volume)
    np.testing.assert_allclose(logits(result), logits(expected), rtol=1e-3, atol=1e-3)
    assert (result["timings_s"]["setup"] == 0) == warm


def test_bfloat16_shares_and_says_so():
    volume = volume_of(chest_hu(40))
    found = pipeline(backend="fast", dtype="bfloat16")(volume)
    expected = pipeline(share=False, backend="eager")(volume)
    assert found["precision"] == "bfloat16"
    far = np.abs(logits(found) - logits(expected)).max()
    assert 0 < far < 0.1


def test_each_slice_is_windowed_and_computed_once(monkeypatch):
    predict = pipeline(backend="eager", stride=4, batch_size=2)
    windowed, computed = [], []
    window, first = predict.processor.to_pixel_values, predict.backend.slices

    def to_pixel_values(hu):
        windowed.append(hu.shape[1])
        return window(hu)

    def slices(pixels):
        computed.append(len(pixels))
        return first(pixels)

    monkeypatch.setattr(predict.processor, "to_pixel_values", to_pixel_values)
    monkeypatch.setattr(predict.backend, "slices", slices)
    predict(volume_of(chest_hu(40)))
    assert sum(windowed) == sum(computed) == 40  # 7 clips of 16


def test_without_slices_of_their_own_they_are_windowed_once(monkeypatch):
    predict = pipeline(changes={}, backend="eager", stride=4)
    assert not predict.scorer.shares
    window, windowed = predict.processor.to_pixel_values, []

    def to_pixel_values(hu):
        windowed.append(hu.shape[1])
        return window(hu)

    monkeypatch.setattr(predict.processor, "to_pixel_values", to_pixel_values)
    predict(volume_of(chest_hu(40)))
    assert sum(windowed) == 40


def test_a_part_that_is_rewritten_wrongly_is_refused(monkeypatch):
    """The check on the first clip runs both parts."""
    record = fast_backend.fast_graph

    def off(network, clip, dtype, **options):
        run = record(network, clip, dtype, **options)
        return lambda given: tuple(part * 1.001 for part in run(given))

    monkeypatch.setattr(fast_backend, "fast_graph", off)
    predict = pipeline(backend="fast")
    for _ in range(2):
        with pytest.raises(CTVideoError, match="features differ by"):
            predict(volume_of(chest_hu(40)))
    monkeypatch.setattr(fast_backend, "_SMALL_GFLOP", 0.0)
    auto = pipeline(backend="auto")
    found = auto(volume_of(chest_hu(40)))
    assert "features differ by" in found["backend"]
    expected = pipeline(backend="eager")(volume_of(chest_hu(40)))
    np.testing.assert_array_equal(logits(found), logits(expected))


def test_a_window_holds_what_clips_in_work_need():
    asked = []

    def make(first, stop):
        asked.append((first, stop))
        return torch.arange(first, stop).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    window = SliceWindow(make, total=100, at_once=8)
    for start in range(0, 81, 10):
        clips = window.clips([start, start + 4], 16)
        assert clips.shape == (2, 16, 3, 2, 2)
        for clip, begin in zip(clips, (start, start + 4), strict=True):
            assert clip[:, 0, 0, 0].tolist() == list(range(begin, begin + 16))
    assert asked == [(first, min(first + 8, 100)) for first in range(0, 104, 8)]
    assert window.most <= 20 + 2 * 8


def test_a_window_keeps_the_layout_of_planes():
    window = SliceWindow(
        lambda first, stop: torch.rand(stop - first, 4, 3, 3).to(memory_format=torch.channels_last),
        total=12,
        at_once=5,
    )
    for starts in ([0], [1, 4]):
        clips = window.clips(starts, 8).transpose(1, 2)
        assert clips.shape == (len(starts), 4, 8, 3, 3)
        assert clips.is_contiguous(memory_format=torch.channels_last_3d)
