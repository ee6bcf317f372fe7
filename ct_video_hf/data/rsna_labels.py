"""The labels of RSNA STR PE: columns, weights of the official metric, and what must hold together.

Rules and weights are the challenge's (Colak et al. 2021, doi:10.1148/ryai.2021200254, and its
evaluation page): every image says whether PE is seen on it, every exam has nine scored labels, and
the labels of an exam have to be consistent with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

__all__ = [
    "EXAM_WEIGHTS",
    "ID_COLUMNS",
    "IMAGE_LABEL",
    "IMAGE_WEIGHT",
    "OFFICIAL_LABELS",
    "STUDY_LABELS",
    "inconsistencies",
]

ID_COLUMNS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")

#: The label of single slices.
IMAGE_LABEL = "pe_present_on_image"

#: Exam labels of the official metric with their weights.
EXAM_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "negative_exam_for_pe": 0.0736196319,
        "indeterminate": 0.09202453988,
        "chronic_pe": 0.1042944785,
        "acute_and_chronic_pe": 0.1042944785,
        "central_pe": 0.1877300613,
        "leftsided_pe": 0.06257668712,
        "rightsided_pe": 0.06257668712,
        "rv_lv_ratio_gte_1": 0.2346625767,
        "rv_lv_ratio_lt_1": 0.0782208589,
    }
)

#: Weight of each image, times the fraction of positive images of its exam.
IMAGE_WEIGHT = 0.07361963

#: The image label and the exam labels that the official metric scores.
OFFICIAL_LABELS = (IMAGE_LABEL, *EXAM_WEIGHTS)

#: Every column of train.csv that says something of a whole study, in the file's order.
STUDY_LABELS = (
    "negative_exam_for_pe",
    "qa_motion",
    "qa_contrast",
    "flow_artifact",
    "rv_lv_ratio_gte_1",
    "rv_lv_ratio_lt_1",
    "leftsided_pe",
    "chronic_pe",
    "true_filling_defect_not_pe",
    "rightsided_pe",
    "acute_and_chronic_pe",
    "central_pe",
    "indeterminate",
)

_RATIO = ("rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1")
_SIDES = ("central_pe", "leftsided_pe", "rightsided_pe")
_AGE = ("chronic_pe", "acute_and_chronic_pe")
_WHOLE = ("negative_exam_for_pe", "indeterminate")


def inconsistencies(
    positive_image: np.ndarray, exams: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Which exams break which rule of label consistency.

    With a positive image an exam has exactly one RV/LV ratio, at least one of central, left and
    right, not both kinds of chronic PE, and is neither negative nor indeterminate. Without one it
    is exactly one of negative and indeterminate, and has no other label.

    Parameters
    ----------
    positive_image : numpy.ndarray
        bool (exams,): PE is seen on at least one image.
    exams : mapping
        Label -> bool (exams,). Rules about labels that are not given are left out. Probabilities
        are cut at 0.5 before (the challenge's threshold).

    Returns
    -------
    dict
        Rule in words -> bool (exams,) of the exams that break it; rules that hold are left out.
    """
    seen = np.asarray(positive_image, bool)
    columns = {name: np.asarray(values, bool) for name, values in exams.items()}

    def count(names: tuple[str, ...]) -> np.ndarray:
        return np.sum([columns[name] for name in names], axis=0)

    def have(*names: str) -> bool:
        return all(name in columns for name in names)

    found: dict[str, np.ndarray] = {}
    for name in _WHOLE:
        if have(name):
            found[f"PE on an image of an exam with {name}"] = seen & columns[name]
    if have(*_RATIO):
        found["PE on an image and not exactly one RV/LV ratio"] = seen & (count(_RATIO) != 1)
    if have(*_SIDES):
        found["PE on an image and none of central, left, right"] = seen & (count(_SIDES) == 0)
    if have(*_AGE):
        found["both chronic_pe and acute_and_chronic_pe"] = seen & (count(_AGE) == 2)
    if have(*_WHOLE):
        found["no PE on any image and not exactly one of negative and indeterminate"] = ~seen & (
            count(_WHOLE) != 1
        )
    for name in (*_RATIO, *_SIDES, *_AGE):
        if have(name):
            found[f"{name} without PE on any image"] = ~seen & columns[name]
    return {rule: broken for rule, broken in found.items() if broken.any()}
