"""How far the label of a prepared set can be told without looking at anatomy.

A network that scores well on a generated set has learned the task only if cheaper roads to the
label are closed. Each shortcut here is one number a study that involves no shape: mean intensity,
bright area, slice count, ... Its AUROC should be near 0.5. One road stands for all of them
together: a logistic regression on all numbers and their squares, scored on studies that it was not
fitted on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..data.stored_volume import HU_OFFSET, volume_view
from ..errors import CTVideoError
from .bootstrap import Interval, bootstrap_intervals
from .metrics import auroc

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

__all__ = ["COMBINED", "shortcut_features", "shortcut_scores"]

#: Name of the road that combines all others.
COMBINED = "all of these, combined"
_BRIGHT_HU = -300  # between lung and soft tissue
_FOLDS = 5


def shortcut_features(volume: np.ndarray, spacing: list[float]) -> dict[str, float]:
    """One number for each shortcut.

    Parameters
    ----------
    volume : numpy.ndarray
        uint16 (slice, row, column), HU + 1024, as a prepared set stores it.
    spacing : sequence of 3 floats
        mm (slice, row, column).
    """
    mean_of_slices = volume.mean(axis=(1, 2)) - HU_OFFSET
    bright_of_slices = (volume > _BRIGHT_HU + HU_OFFSET).mean(axis=(1, 2))
    return {
        "mean intensity": float(mean_of_slices.mean()),
        "spread of intensity": float(volume.std()),
        "brightest slice": float(mean_of_slices.max()),
        "darkest slice": float(mean_of_slices.min()),
        "bright area": float(bright_of_slices.mean()),
        "largest bright area of a slice": float(bright_of_slices.max()),
        "range of bright area over slices": float(np.ptp(bright_of_slices)),
        "number of slices": float(len(volume)),
        "slice spacing": round(float(spacing[0]), 3),
        "pixel spacing": round(float(spacing[1]), 3),
    }


def shortcut_scores(dataset: Dataset, *, seed: int = 0) -> dict[str, Interval]:
    """AUROC of every shortcut over all labelled studies of a prepared set, with intervals.

    Parameters
    ----------
    dataset : datasets.Dataset
        Rows of a prepared set, see :func:`ct_video_hf.data.load_prepared`.
    seed : int
        Of the folds and of the bootstrap.

    Returns
    -------
    dict of str to Interval
        AUROC in the direction in which the shortcut is better than chance over all studies
        (for the combined one: as predicted); nan with one class.

    Raises
    ------
    CTVideoError
        When fewer than ten studies of either class are labelled.
    """
    labels = np.array(dataset["study_label"], int)
    if min((labels == 0).sum(), (labels == 1).sum()) < 2 * _FOLDS:
        raise CTVideoError(
            f"shortcuts need {2 * _FOLDS} studies of either class; found "
            f"{(labels == 1).sum()} positive and {(labels == 0).sum()} negative ones"
        )
    table = [_features(batch) for batch in dataset.with_format("arrow").iter(1)]
    known = labels >= 0
    patients = np.array(dataset["patient_hash"], dtype=str)[known]
    features = {name: np.array([entry[name] for entry in table])[known] for name in table[0]}
    columns = np.stack(list(features.values()), axis=1)
    features[COMBINED] = _cross_fitted(columns, labels[known], seed)
    scores = {}
    for name, values in features.items():
        if name != COMBINED and auroc(labels[known], values) < 0.5:
            values = -values
        intervals = bootstrap_intervals(
            {"auroc": auroc}, labels[known], values, patients, resamples=1000, seed=seed
        )
        scores[name] = intervals["auroc"]
    return scores


def _features(batch: pa.Table) -> dict[str, float]:
    shape, spacing = (batch.column(name)[0].as_py() for name in ("shape", "spacing"))
    return shortcut_features(volume_view(batch.column("volume").chunk(0), 0, shape), spacing)


def _cross_fitted(columns: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Each study's score from a logistic regression fitted on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    model = make_pipeline(
        StandardScaler(), PolynomialFeatures(2), StandardScaler(), LogisticRegression(C=0.1)
    )
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    return cross_val_predict(model, columns, labels, cv=folds, method="decision_function")
