import numpy as np
import pytest

from ct_video_hf.data import ClipIndex
from ct_video_hf.errors import CTVideoError
from ct_video_hf.training.sampler import ClipSampler


def index(labels):
    count = len(labels)
    places = np.arange(count, dtype=np.int32)
    return ClipIndex(
        study=places,
        start=places,
        length=places,
        labels=np.asarray(labels, np.float32).reshape(count, -1),
        weight=np.ones(count),
        weak=np.zeros(count, bool),
        num_frames=8,
    )


def drawn(sampler, epoch):
    sampler.set_epoch(epoch)
    return np.array(list(sampler))


def test_an_epoch_is_a_function_of_seed_and_epoch():
    labels = np.arange(50) % 5 == 0
    sampler = ClipSampler(index(labels), "balanced", batch=4, seed=3)
    third = drawn(sampler, 2)
    drawn(sampler, 0)
    np.testing.assert_array_equal(third, drawn(sampler, 2))
    same = ClipSampler(index(labels), "balanced", batch=4, seed=3)
    np.testing.assert_array_equal(third, drawn(same, 2))
    assert (third != drawn(sampler, 3)).any()
    other = ClipSampler(index(labels), "balanced", batch=4, seed=4)
    assert (third != drawn(other, 2)).any()


@pytest.mark.parametrize(("sampling", "share"), [("balanced", 0.5), ("0.3", 0.3)])
def test_positives_have_their_share(sampling, share):
    labels = np.arange(1000) % 20 == 0
    sampler = ClipSampler(index(labels), sampling, batch=1, seed=0)
    found = np.mean([labels[drawn(sampler, epoch)].mean() for epoch in range(20)])
    assert found == pytest.approx(share, abs=0.02)


def test_shuffle_takes_every_clip_once_and_fills_the_last_batch():
    sampler = ClipSampler(index([0, 1] * 5), "shuffle", batch=4, seed=0)
    order = drawn(sampler, 0)
    assert len(sampler) == len(order) == 12
    assert sorted(order[:10]) == list(range(10))


def test_clips_of_unknown_label_are_never_drawn():
    labels = np.array([0, -1, 1, np.nan, 0, 1])
    for sampling in ("balanced", "shuffle"):
        order = drawn(ClipSampler(index(labels), sampling, batch=30, seed=0), 0)
        assert set(order) == {0, 2, 4, 5}


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(CTVideoError, match="no positive clip"):
        ClipSampler(index([0, 0]), "balanced", batch=1, seed=0)
    with pytest.raises(CTVideoError, match="known label"):
        ClipSampler(index([-1, -1]), "shuffle", batch=1, seed=0)
    with pytest.raises(CTVideoError, match="share between"):
        ClipSampler(index([0, 1]), "often", batch=1, seed=0)


def test_of_several_labels_a_clip_needs_one_that_is_known():
    sampler = ClipSampler(index([[0, -1], [-1, -1], [-1, 1]]), "shuffle", batch=1, seed=0)
    assert sorted(sampler) == [0, 2]
