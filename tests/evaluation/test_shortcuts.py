"""The shortcut check finds a planted leak and is silent where there is none."""

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from ct_video_hf.data.stored_volume import HU_OFFSET
from ct_video_hf.errors import CTVideoError
from ct_video_hf.evaluation.shortcuts import COMBINED, shortcut_scores

FEATURES = Features(
    {
        "volume": Value("large_binary"),
        "shape": List(Value("int32")),
        "spacing": List(Value("float64")),
        "study_label": Value("int8"),
        "patient_hash": Value("string"),
    }
)


def studies(leak_hu=0.0, extra_slices=0, count=80, positives=None):
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        label = index % 2 if positives is None else int(index < positives)
        shape = (8 + int(rng.integers(0, 3)) + label * extra_slices, 16, 16)
        hu = rng.normal(-600 + label * leak_hu, 300, shape)
        rows.append(
            {
                "volume": (hu + HU_OFFSET).clip(0, 4000).astype("<u2").tobytes(),
                "shape": list(shape),
                "spacing": [2.0, 1.0, 1.0],
                "study_label": label,
                "patient_hash": f"p{index}",
            }
        )
    return Dataset.from_list(rows, features=FEATURES)


def test_no_leak_is_chance():
    scores = shortcut_scores(studies())
    assert scores[COMBINED].low < 0.5 < scores[COMBINED].high
    assert max(score.value for score in scores.values()) < 0.7
    assert scores["pixel spacing"].value == 0.5


def test_intensity_leak_is_found_in_either_direction():
    for leak in (-60.0, 60.0):
        scores = shortcut_scores(studies(leak_hu=leak))
        assert scores["mean intensity"].value > 0.95
        assert scores[COMBINED].value > 0.95


def test_slice_count_leak_is_found():
    assert shortcut_scores(studies(extra_slices=3))["number of slices"].value == 1.0


def test_too_few_studies_of_a_class_are_refused():
    with pytest.raises(CTVideoError, match="found 3 positive and 77 negative"):
        shortcut_scores(studies(positives=3))
