"""AUROC by what the scans are: manufacturer, slice spacing, number of slices."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .bootstrap import bootstrap_intervals
from .metrics import auroc, undefined_reason

__all__ = ["PROPERTIES", "subgroup_report"]

#: Columns of a predictions table that tell of the scan; optional.
PROPERTIES = ("manufacturer", "spacing_mm", "slices")
#: Upper bounds of the groups of slice spacing, mm; thin, usual and thick slices.
_SPACING = (1.25, 2.5)


def _spacing_groups(values: pd.Series) -> pd.Series:
    low, high = _SPACING
    names = [f"up to {low:g} mm", f"{low:g} to {high:g} mm", f"above {high:g} mm"]
    return pd.cut(values, [-np.inf, low + 1e-6, high + 1e-6, np.inf], labels=names).astype(object)


def _slice_groups(values: pd.Series) -> pd.Series:
    """Thirds of the split by number of slices, fewer where they would coincide."""
    edges = np.unique(np.quantile(values, [0, 1 / 3, 2 / 3, 1], method="nearest"))
    if edges.size < 3:
        return pd.Series(f"{edges[0]:g} to {edges[-1]:g}", index=values.index)
    bounds = [edges[0] - 1, *edges[1:]]
    names = [f"{bounds[i] + 1:g} to {bounds[i + 1]:g}" for i in range(len(bounds) - 1)]
    return pd.cut(values, bounds, labels=names).astype(object)


def subgroup_report(table: pd.DataFrame, studies: pd.DataFrame, **intervals) -> list[dict]:
    """Study AUROC with intervals in every subgroup, ready for JSON.

    Parameters
    ----------
    table : DataFrame
        A predictions table; properties of :data:`PROPERTIES` that it lacks are left out.
    studies : DataFrame
        Its studies, from :func:`.predictions.aggregate`.
    **intervals
        ``resamples``, ``seed``, ``confidence`` of :func:`.bootstrap.bootstrap_intervals`.

    Returns
    -------
    list of dict
        ``by``, ``group``, ``studies``, ``positives`` and ``value``, ``low``, ``high``, which are
        None with ``undefined``, the reason, where a group has one class only. A property that is
        the same for all studies gives one group.
    """
    first = table.drop_duplicates("study_id").set_index("study_id")
    known = studies[studies["label"] >= 0]
    report = []
    for name in (column for column in PROPERTIES if column in table.columns):
        values = first.loc[known["study_id"], name].reset_index(drop=True)
        if name == "spacing_mm":
            values = _spacing_groups(values)
        elif name == "slices":
            values = _slice_groups(values)
        values = values.fillna("not stated").to_numpy(dtype=str)
        for group in sorted(set(values)):
            members = known[values == group]
            labels, scores = members["label"].to_numpy(), members["score"].to_numpy()
            found = bootstrap_intervals(
                {"auroc": auroc},
                labels,
                scores,
                members["patient_hash"].to_numpy(dtype=str),
                **intervals,
            )["auroc"]
            entry = {
                "by": name,
                "group": group,
                "studies": int(labels.size),
                "positives": int(labels.sum()),
            }
            for key in ("value", "low", "high"):
                value = getattr(found, key)
                entry[key] = None if np.isnan(value) else float(value)
            if entry["value"] is None:
                entry["undefined"] = undefined_reason("auroc", labels, scores)
            report.append(entry)
    return report
