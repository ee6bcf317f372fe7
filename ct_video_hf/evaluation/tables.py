"""From a clip dataset to the rows of the predictions table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from ..data import CTClipDataset
from ..errors import CTVideoError
from .predictions import make_predictions
from .subgroups import PROPERTIES

__all__ = ["clip_table", "left_out", "predictions_from"]


def clip_table(dataset: CTClipDataset) -> pd.DataFrame:
    """One row a clip in the dataset's order: study_index and the label columns of a prediction.

    Columns: study_index, study_id, patient_hash, split, clip_start, clip_stop, label, study_label,
    and what is known of the scan: slices, spacing_mm (between slices), manufacturer.
    """
    index, studies = dataset.index, dataset.dataset
    if index.labels.shape[1] > 1:
        raise CTVideoError(
            f"the set has {index.labels.shape[1]} labels; predictions tables hold one"
        )
    labels = index.labels[:, 0] if index.labels.shape[1] else np.full(len(index), -1)
    rows = pd.DataFrame(
        {
            "study_index": index.study.astype(np.int64),
            "clip_start": index.start.astype(np.int64),
            "clip_stop": index.start.astype(np.int64) + index.length,
            "label": labels.astype(np.int64),
        }
    )
    names = ["study_id", "patient_hash", "split", "study_label"]
    of_studies = studies.select_columns([*names, "shape", "spacing", "report"]).to_pandas()
    of_studies["slices"] = [int(shape[0]) for shape in of_studies["shape"]]
    of_studies["spacing_mm"] = [float(spacing[0]) for spacing in of_studies["spacing"]]
    of_studies["manufacturer"] = [
        json.loads(report).get("manufacturer") for report in of_studies["report"]
    ]
    for name in (*names, *PROPERTIES):
        rows[name] = of_studies[name].to_numpy()[rows["study_index"]]
    return rows


def left_out(dataset: CTClipDataset) -> dict:
    """What of a split no metric can count: studies without any clip, and single clips.

    Returns
    -------
    dict
        ``studies`` (how many have no clip: too few slices, or labels too uncertain), ``study_ids``
        and ``clips_of_uncertain_label``, ready for JSON.
    """
    rows = np.setdiff1d(np.arange(len(dataset.dataset)), dataset.index.study)
    names = dataset.dataset.select_columns(["study_id"]).select(rows)["study_id"]
    return {
        "studies": len(rows),
        "study_ids": sorted(map(str, names)),
        "clips_of_uncertain_label": int(dataset.index.uncertain_clips),
    }


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
        logit=merged["logit"].to_numpy(),
        **{name: merged[name].to_numpy() for name in (*names, *PROPERTIES)},
    )
