"""How many studies and clips a split has, for the record of a run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any
from weakref import WeakKeyDictionary

from ..data import CTClipDataset
from ..evaluation.predictions import LABEL_NAME
from ..evaluation.tables import clip_table, left_out

__all__ = ["count_split"]

#: What was counted; the clips of a dataset stay the same, and every push of a training asks again.
_counted: WeakKeyDictionary[CTClipDataset, dict[str, Any]] = WeakKeyDictionary()


def count_split(dataset: CTClipDataset) -> dict[str, Any]:
    """Studies, positive ones, clips, positive ones, and what has no clip.

    Of several labels "positive" is what draws clips by class: the set's main finding, or any
    label; ``labels`` counts each.
    """
    if dataset not in _counted:
        _counted[dataset] = _count(dataset)
    return deepcopy(_counted[dataset])


def _count(dataset: CTClipDataset) -> dict[str, Any]:
    table = clip_table(dataset)
    counts = {
        "studies": int(table["study_index"].nunique()),
        "positive_studies": 0,
        "clips": len(dataset),
        "positive_clips": int(dataset.index.positive.sum()),
        "left_out": left_out(dataset),
    }
    if LABEL_NAME not in table.columns:
        return counts | _of_label(table)
    finding = dataset.index.finding
    meant = table if finding is None else table[table[LABEL_NAME] == dataset.labels.names[finding]]
    positive = meant[meant["study_label"] == 1]["study_index"].nunique()
    each = {name: _of_label(rows) for name, rows in table.groupby(LABEL_NAME, sort=False)}
    return counts | {"positive_studies": int(positive), "labels": each}


def _of_label(rows) -> dict[str, int]:
    studies = rows.drop_duplicates("study_index")["study_label"]
    found = {
        "positive_studies": int((studies == 1).sum()),
        "positive_clips": int((rows["label"] == 1).sum()),
    }
    unknown = {
        "studies_of_unknown_label": int((studies < 0).sum()),
        "clips_of_unknown_label": int((rows["label"] < 0).sum()),
    }
    return found | {name: count for name, count in unknown.items() if count}
