"""Generated videos: only the direction of time tells the classes apart."""

from __future__ import annotations

import numpy as np
import pytest

from ct_video_hf.data import load_ct_dataset
from ct_video_hf.data.phantom_video import VideoParameters
from ct_video_hf.errors import CTVideoError


def video(positive, seed=3):
    return VideoParameters().generate(np.random.default_rng(seed), positive)


def test_a_negative_video_is_a_positive_one_played_backwards():
    forward, backward = video(True), video(False)
    assert (forward.label, backward.label) == (1, 0)
    np.testing.assert_array_equal(forward.hu, backward.hu[::-1])
    assert forward.hu.shape == (32, 96, 96)
    assert forward.hu.dtype == np.int16


def test_discs_grow_towards_the_end_of_a_positive_video():
    frames = [video(True, seed).hu for seed in range(20)]
    bright = np.mean([[(frame > -400).mean() for frame in (v[0], v[-1])] for v in frames], axis=0)
    assert bright[1] > 1.1 * bright[0]


def test_videos_travel_the_road_of_scans(tmp_path):
    data = load_ct_dataset(
        "phantom_video", cache_dir=tmp_path, data_dir=tmp_path / "in", size=48,
        train=2, validation=2, test=2, progress=False,
    )  # fmt: skip
    assert {name: len(part) for name, part in data.items()} == {
        "train": 2, "validation": 2, "test": 2,
    }  # fmt: skip
    assert sorted(data["train"]["study_label"]) == [0, 1]


def test_sizes_that_show_nothing_are_refused():
    with pytest.raises(CTVideoError, match="at least 8 frames of 48"):
        VideoParameters(frames=4)
