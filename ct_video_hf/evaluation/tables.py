"""From a clip dataset to the rows of the predictions table."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from ..data import CTClipDataset
from ..data.rsna_labels import OFFICIAL_LABELS
from ..errors import CTVideoError
from .attention import ATTENTION_COLUMNS
from .predictions import LABEL_NAME, SLICE_LABELS, check_predictions, make_predictions
from .subgroups import PROPERTIES

__all__ = ["clip_table", "in_order", "left_out", "predictions_from", "with_attention"]


def clip_table(dataset: CTClipDataset) -> pd.DataFrame:
    """One row a clip in the dataset's order: study_index and the label columns of a prediction.

    Columns: study_index, study_id, patient_hash, split, clip_start, clip_stop, label, study_label,
    and what is known of the scan: slices, spacing_mm (between slices), manufacturer. Of a set with
    several labels there is one row a clip and label, those of a clip together, with label_name; of
    RSNA's official labels also slice_labels.
    """
    index, studies, choice = dataset.index, dataset.dataset, dataset.labels
    clips, count = len(index), max(1, index.labels.shape[1])
    labels = index.labels if index.labels.shape[1] else np.full((clips, 1), -1)
    rows = pd.DataFrame(
        {
            "study_index": np.repeat(index.study.astype(np.int64), count),
            "clip_start": np.repeat(index.start.astype(np.int64), count),
            "clip_stop": np.repeat(index.start.astype(np.int64) + index.length, count),
            "label": labels.astype(np.int64).ravel(),
        }
    )
    names = ["study_id", "patient_hash", "split"]
    columns = [*names, "shape", "spacing", "report", "study_label", "labels"]
    of_studies = studies.select_columns(columns).to_pandas()
    of_studies["slices"] = [int(shape[0]) for shape in of_studies["shape"]]
    of_studies["spacing_mm"] = [float(spacing[0]) for spacing in of_studies["spacing"]]
    of_studies["manufacturer"] = [
        json.loads(report).get("manufacturer") for report in of_studies["report"]
    ]
    for name in (*names, *PROPERTIES):
        rows[name] = of_studies[name].to_numpy()[rows["study_index"]]
    if choice is None:
        rows["study_label"] = of_studies["study_label"].to_numpy()[rows["study_index"]]
        return rows
    known = np.stack(of_studies["labels"].to_numpy())[:, list(choice.places)]
    rows["study_label"] = known[index.study].astype(np.int64).ravel()
    if count > 1:
        rows[LABEL_NAME] = np.tile(np.array(choice.names, dtype=object), clips)
        if set(choice.names) == set(OFFICIAL_LABELS):
            rows[SLICE_LABELS] = _slice_words(dataset).ravel()
    return rows


def _slice_words(dataset: CTClipDataset) -> np.ndarray:
    """Labels of the slices of each clip and label in one word, (clip, label)."""
    index, choice = dataset.index, dataset.labels
    small = dataset.dataset.select_columns(["slice_labels", "shape"])
    words = np.full((len(index), len(choice)), "", dtype=object)
    signs = np.array(["?", "0", "1"])
    for row in np.unique(index.study):
        study = small[int(row)]
        marks = np.asarray(study["slice_labels"], np.int8)
        if not marks.size:
            continue
        marks = marks.reshape(study["shape"][0], -1)[:, list(choice.places)]
        for clip in np.flatnonzero(index.study == row):
            start, length = int(index.start[clip]), int(index.length[clip])
            for label, column in enumerate(marks[start : start + length].T):
                words[clip, label] = "".join(signs[column.astype(int) + 1])
    return words


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
    logits : array_like, (n,) or (n, label)
    study_index, clip_start : array_like, (n,)
        Which clip each logit belongs to, in any order.

    Raises
    ------
    CTVideoError
        A clip of the dataset has no logit.
    """
    wanted = clip_table(dataset)
    keys = ["study_index", "clip_start"]
    found = pd.DataFrame({"study_index": np.ravel(study_index), "clip_start": np.ravel(clip_start)})
    given = np.asarray(logits, dtype=np.float64).reshape(len(found), -1)
    labels = max(1, dataset.index.labels.shape[1])
    if given.shape[1] != labels:
        raise CTVideoError(f"{given.shape[1]} logits a clip, for {labels} labels")
    found["place"] = np.arange(len(found))
    merged = wanted.merge(found.drop_duplicates(keys), on=keys, how="left", indicator=True)
    lost = merged[merged["_merge"] != "both"]
    if len(lost):
        raise CTVideoError(
            f"{len(lost) // labels} of {len(dataset)} clips were not scored, the first begins at "
            f"slice {lost.iloc[0].clip_start} of study {lost.iloc[0].study_id}"
        )
    columns = [name for name in wanted.columns if name != "study_index"]
    label = np.tile(np.arange(labels), len(dataset))
    return make_predictions(
        logit=given[merged["place"].to_numpy(dtype=np.int64), label],
        **{name: merged[name].to_numpy() for name in columns},
    )


def in_order(dataset: CTClipDataset, values, study_index, clip_start) -> np.ndarray:
    """Gathered values (n, ...) of clips in the order of the dataset, each clip once.

    Parameters
    ----------
    dataset : CTClipDataset
    values : array_like, (n, ...)
    study_index, clip_start : array_like, (n,)
        Which clip each value belongs to; all clips of the dataset are among them.
    """
    keys = zip(np.ravel(study_index).tolist(), np.ravel(clip_start).tolist(), strict=True)
    places = {key: row for row, key in enumerate(keys)}
    wanted = zip(dataset.index.study.tolist(), dataset.index.start.tolist(), strict=True)
    return np.asarray(values)[[places[key] for key in wanted]]


def with_attention(table: pd.DataFrame, dataset: CTClipDataset, values) -> pd.DataFrame:
    """A predictions table of a dataset with what an attention head gives each clip and label.

    Parameters
    ----------
    table : DataFrame
        From :func:`predictions_from`.
    dataset : CTClipDataset
    values : numpy.ndarray
        (clip, label, 2) in the order of the dataset, from
        :meth:`.attention.AttentionHead.clip_values`.

    Raises
    ------
    CTVideoError
        Other clips or labels than those of the dataset.
    """
    keys = ["study_id", "clip_start"]
    wanted = clip_table(dataset)
    keys += [LABEL_NAME] if LABEL_NAME in wanted.columns else []
    pairs = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    if len(pairs) != len(wanted):
        raise CTVideoError(
            f"the attention head gave {len(pairs)} values for {len(wanted)} clips and labels; it "
            "belongs to a model of other labels"
        )
    found = wanted[keys].assign(**dict(zip(ATTENTION_COLUMNS, pairs.T, strict=True)))
    rest = table.drop(columns=list(ATTENTION_COLUMNS), errors="ignore")
    return check_predictions(rest.merge(found, on=keys, how="left", validate="one_to_one"))
