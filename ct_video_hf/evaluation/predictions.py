"""The predictions table: one row a clip, the single source of every metric and figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import CTVideoError
from ..files import replacing
from .aggregation import check_aggregation, study_score
from .attention import ATTENTION_COLUMNS, how_to_fit

__all__ = [
    "COLUMNS",
    "LABEL_NAME",
    "SLICE_LABELS",
    "aggregate",
    "check_predictions",
    "make_predictions",
    "read_predictions",
    "write_predictions",
]

#: Columns of the table. Labels are 0, 1 or -1 (unknown); score is the sigmoid of the logit;
#: clip_start and clip_stop are slice indices, half open, feet to head.
COLUMNS = (
    "study_id",
    "patient_hash",
    "split",
    "clip_start",
    "clip_stop",
    "label",
    "logit",
    "score",
    "study_label",
)

#: Which label a row is about, in a table of several labels: one row a clip and label.
LABEL_NAME = "label_name"
#: Optional: labels of the clip's slices in one word, feet to head: 0, 1 or ? (unknown).
SLICE_LABELS = "slice_labels"


def make_predictions(
    *,
    study_id,
    patient_hash,
    split,
    clip_start,
    clip_stop,
    label,
    logit,
    study_label,
    **properties,
) -> pd.DataFrame:
    """A checked table, ordered by study and clip, from one array a column (score is computed).

    ``properties`` are further columns: what tells of the scan, see :data:`.subgroups.PROPERTIES`,
    :data:`.attention.ATTENTION_COLUMNS`, and :data:`LABEL_NAME`, whose labels keep their order
    within a clip.
    """
    logit = np.asarray(logit, dtype=np.float64)
    table = pd.DataFrame(
        {
            "study_id": np.asarray(study_id, dtype=object),
            "patient_hash": np.asarray(patient_hash, dtype=object),
            "split": np.asarray(split, dtype=object),
            "clip_start": np.asarray(clip_start, dtype=np.int64),
            "clip_stop": np.asarray(clip_stop, dtype=np.int64),
            "label": np.asarray(label, dtype=np.int64),
            "logit": logit,
            "score": 0.5 * (1 + np.tanh(0.5 * logit)),  # the sigmoid, without overflow
            "study_label": np.asarray(study_label, dtype=np.int64),
            **properties,
        }
    )
    table = table.sort_values(["study_id", "clip_start"], kind="stable", ignore_index=True)
    return check_predictions(table)


def check_predictions(table: pd.DataFrame) -> pd.DataFrame:
    """The table itself when it is sound.

    Raises
    ------
    CTVideoError
        A column is missing, a clip appears twice, a score is NaN, or a label is not 0, 1 or -1.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise CTVideoError(
            f"the predictions table lacks the column(s) {', '.join(missing)}; "
            f"it holds {', '.join(map(str, table.columns))}"
        )
    named = [LABEL_NAME] if LABEL_NAME in table.columns else []
    twice = table.duplicated(["study_id", "clip_start", *named])
    if twice.any():
        first = table[twice].iloc[0]
        raise CTVideoError(
            f"{int(twice.sum())} clip(s) appear twice in the predictions table, the first is "
            f"slice {first.clip_start} of study {first.study_id}; each clip counts once"
        )
    attention = [name for name in ATTENTION_COLUMNS if name in table.columns]
    if len(attention) == 1:
        raise CTVideoError(f"the predictions table has {attention[0]} without its other half")
    nan = table[["score", "logit", *attention]].isna().any(axis=1)
    if nan.any():
        studies = table.loc[nan, "study_id"].unique()
        raise CTVideoError(
            f"{int(nan.sum())} of {len(table)} scores are NaN, in study {studies[0]}"
            + (f" and {len(studies) - 1} more" if len(studies) > 1 else "")
            + "; the network's output is not usable (check the learning rate and the precision)"
        )
    for column in ("label", "study_label"):
        wrong = ~table[column].isin((-1, 0, 1))
        if wrong.any():
            raise CTVideoError(
                f"column {column} holds {table.loc[wrong, column].iloc[0]!r}; "
                "labels are 0, 1 or -1 for unknown"
            )
    groups = table.groupby(["study_id", *named])
    mixed = groups[["study_label", "patient_hash"]].nunique().max(axis=1) > 1
    if mixed.any():
        first = mixed.index[mixed][0]
        raise CTVideoError(
            f"study {first[0] if named else first} has two study labels or two patients in one "
            "table"
        )
    return table


def aggregate(
    table: pd.DataFrame, method: str = "max", *, top_k: int = 3, label_from: str = "study"
) -> pd.DataFrame:
    """One row a study from one row a clip.

    Parameters
    ----------
    table : DataFrame
        A predictions table (see :data:`COLUMNS`) of one label.
    method, top_k
        See :data:`.aggregation.AGGREGATIONS`.
    label_from : {"study", "clips"}
        ``study`` takes the set's own study label; ``clips`` calls a study positive when any of
        its clips is, which is the paper's rule. Unknown study labels fall back on the clips.

    Returns
    -------
    DataFrame
        study_id, patient_hash, split, label, score, clips; ordered by study_id.
    """
    check_aggregation(method, top_k)
    if method == "attention" and not set(ATTENTION_COLUMNS) <= set(table.columns):
        raise CTVideoError(
            f"aggregation attention needs the columns {', '.join(ATTENTION_COLUMNS)}, which the "
            f"predictions table lacks: no attention head was there. {how_to_fit('MODEL')}"
        )
    if LABEL_NAME in table.columns:
        raise CTVideoError(
            "the predictions table has several labels, whose rows make no study score together: "
            "take those of one label (ct_video_hf.evaluation.several.by_label)"
        )
    if label_from not in ("study", "clips"):
        raise CTVideoError(f"label_from is 'study' or 'clips', found {label_from!r}")
    rows = []
    for study, clips in table.groupby("study_id", sort=True):
        first = clips.iloc[0]
        # With unknown clips beside negative ones nobody knows whether the study is negative.
        attended = None
        if set(ATTENTION_COLUMNS) <= set(table.columns):
            attended = clips[list(ATTENTION_COLUMNS)].to_numpy(dtype=np.float64)
        of_clips = 1 if (clips["label"] == 1).any() else int(clips["label"].min())
        given = int(first.study_label)
        rows.append(
            {
                "study_id": study,
                "patient_hash": first.patient_hash,
                "split": first.split,
                "label": of_clips if label_from == "clips" or given < 0 else given,
                "score": study_score(clips["score"].to_numpy(), method, top_k, attended),
                "clips": len(clips),
            }
        )
    columns = ["study_id", "patient_hash", "split", "label", "score", "clips"]
    return pd.DataFrame(rows, columns=columns)


def write_predictions(table: pd.DataFrame, folder, name: str = "predictions") -> list[Path]:
    """Write ``name``.parquet and ``name``.csv into ``folder``; returns both paths."""
    check_predictions(table)
    parquet, text = (Path(folder) / f"{name}.{suffix}" for suffix in ("parquet", "csv"))
    with replacing(parquet) as partial:
        table.to_parquet(partial, index=False)
    with replacing(text) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
    return [parquet, text]


_TEXT_COLUMNS = dict.fromkeys(("study_id", "patient_hash", LABEL_NAME, SLICE_LABELS), str)


def read_predictions(path) -> pd.DataFrame:
    """Read a table written by :func:`write_predictions` (parquet or csv) and check it."""
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise CTVideoError(f"{path.name}: a predictions table is a .parquet or a .csv file")
    if not path.is_file():
        raise CTVideoError(f"no predictions table {path.name} in {path.parent.name or '.'}")
    if path.suffix == ".parquet":
        return check_predictions(pd.read_parquet(path))
    return check_predictions(pd.read_csv(path, dtype=_TEXT_COLUMNS))
