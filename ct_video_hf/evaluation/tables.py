"""From a clip dataset to the rows of the predictions table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..data import CTClipDataset
from ..errors import CTVideoError
from .predictions import make_predictions

__all__ = ["clip_table", "predictions_from"]


def clip_table(dataset: CTClipDataset) -> pd.DataFrame:
    """One row a clip in the dataset's order: study_index and the label columns of a prediction.

    Columns: study_index, study_id, patient_hash, split, clip_start, clip_stop, label, study_label.
    """
    index, studies = dataset.index, dataset.studies
    columns = {name: np.asarray(studies[name]) for name in ("study_id", "patient_hash", "split")}
    columns["study_label"] = np.asarray(studies["study_label"], dtype=np.int64)
    rows = pd.DataFrame(
        {
            "study_index": np.asarray(index.study, dtype=np.int64),
            "clip_start": np.asarray(index.start, dtype=np.int64),
            "clip_stop": np.asarray(index.start) + np.asarray(index.length),
            "label": np.asarray(index.label, dtype=np.int64),
        }
    )
    for name, values in columns.items():
        rows[name] = values[rows["study_index"]]
    return rows


def predictions_from(dataset: CTClipDataset, logits, study_index, clip_start) -> pd.DataFrame:
    """The predictions table from gathered logits, each clip counted once.

    Processes are padded to equal batches, so a clip may arrive twice; it may not be missing.

    Parameters
    ----------
    dataset : CTClipDataset
    logits : array_like, (n,) or (n, 1)
    study_index, clip_start : array_like, (n,)
        Which clip each logit belongs to, in any order.

    Raises
    ------
    CTVideoError
        A clip of the dataset has no logit.
    """
    wanted = clip_table(dataset)
    found = pd.DataFrame(
        {
            "study_index": np.asarray(study_index).ravel(),
            "clip_start": np.asarray(clip_start).ravel(),
            "logit": np.asarray(logits, dtype=np.float64).reshape(len(np.ravel(study_index))),
        }
    ).drop_duplicates(["study_index", "clip_start"])
    merged = wanted.merge(found, on=["study_index", "clip_start"], how="left", indicator=True)
    lost = merged[merged["_merge"] != "both"]
    if len(lost):
        raise CTVideoError(
            f"{len(lost)} of {len(wanted)} clips were not scored, the first begins at slice "
            f"{lost.iloc[0].clip_start} of study {lost.iloc[0].study_id}"
        )
    names = ("study_id", "patient_hash", "split", "clip_start", "clip_stop", "label", "study_label")
    return make_predictions(
        logit=merged["logit"].to_numpy(), **{name: merged[name].to_numpy() for name in names}
    )
