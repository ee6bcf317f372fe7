"""Predictions of many studies as a CSV table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import write_csv

__all__ = ["prediction_row", "write_predictions"]

_COLUMNS = (
    "study",
    "probability",
    "label",
    "score",
    "calibrated",
    "aggregation",
    "clips",
    "best_clip_start",
    "best_clip_stop",
    "best_clip_z_low_mm",
    "best_clip_z_high_mm",
    "key_slice",
    "key_slice_z_mm",
    "key_slice_source_index",
    "slices",
    "slice_spacing_mm",
    "findings",
    "model",
    "commit",
    "precision",
    "seconds",
    "error",
)


def prediction_row(
    study: str, result: Mapping[str, Any] | None, error: Exception | None = None
) -> dict[str, Any]:
    """One table row: a study's result, or its error.

    With several labels there are columns ``probability:NAME`` and ``calibrated:NAME`` for each.
    """
    if result is None:
        return {"study": study, "error": " ".join(str(error or "unknown").split())}
    best = max(result["clips"], key=lambda clip: clip["score"])
    report, keys = result["report"], result["key_slices"]
    row = {
        "study": study,
        "probability": result["study_probability"],
        "label": result["label"],
        "score": result["study_score"],
        "calibrated": result["calibrated"],
        "aggregation": result["aggregation"],
        "clips": len(result["clips"]),
        "best_clip_start": best["start"],
        "best_clip_stop": best["stop"],
        "best_clip_z_low_mm": best["z_mm"][0],
        "best_clip_z_high_mm": best["z_mm"][1],
        "slices": report["slices"],
        "slice_spacing_mm": report["spacing_mm"][0],
        "findings": " ".join(sorted({finding["code"] for finding in report["findings"]})),
        "model": result["model"]["name"],
        "commit": result["model"]["commit"],
        "precision": result["precision"],
        "seconds": result["timings_s"]["total"],
    }
    if keys:
        row["key_slice"] = keys[0]["index"]
        row["key_slice_z_mm"] = keys[0]["z_mm"]
        row["key_slice_source_index"] = keys[0]["source_index"]
    if len(result["study_probabilities"]) > 1:
        row |= {f"probability:{n}": p for n, p in result["study_probabilities"].items()}
        told = result.get("labels", {})  # a mean of models has no calibration
        row |= {
            f"calibrated:{n}": n in told and told[n]["calibrated"]
            for n in result["study_probabilities"]
        }
    return row


def write_predictions(rows: Iterable[Mapping[str, Any]], path: str | os.PathLike) -> Path:
    """Write rows of :func:`prediction_row` as CSV; the file appears only when it is complete."""
    rows = list(rows)
    extra = dict.fromkeys(name for row in rows for name in row if name not in _COLUMNS)
    columns = [*_COLUMNS[:3], *extra, *_COLUMNS[3:]]
    return write_csv(path, columns, rows)
