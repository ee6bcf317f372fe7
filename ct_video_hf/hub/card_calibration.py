"""What a card says of calibration and operating points, of one label or several."""

from __future__ import annotations

from typing import Any

from ..evaluation import Calibration, LabelCalibrations
from .card_rows import plain

__all__ = ["calibration_limit", "calibration_words", "point_rows", "score_words"]

Held = Calibration | LabelCalibrations | None


def calibration_words(calibration: Held, metrics: dict[str, Any]) -> str:
    """Which calibration there is, on what it was fitted and whether it was measured."""
    if calibration is None:
        if any("calibration" in name for name in metrics):
            return "Calibration: none; the error of the scores as they are stands in the table."
        return "Calibration: not measured."
    if isinstance(calibration, LabelCalibrations):
        words = f"Calibration, label by label; `calibration.json` holds it. {_each(calibration)}"
    else:
        words = f"Calibration: {calibration.words()}; `calibration.json` holds it."
    if "study/brier_calibrated" in metrics:
        return f"{words} Rows named `..._calibrated` measure it on the split above."
    return f"{words} What it does on other studies was not measured."


def _each(calibration: LabelCalibrations) -> str:
    told = [f"{plain(name)}: {one.words()}." for name, one in calibration.calibrations.items()]
    told += [
        f"{plain(name)}: not calibrated ({plain(reason)})."
        for name, reason in calibration.missing.items()
    ]
    return " ".join(told)


def score_words(calibration: Held) -> str:
    """What the scores of the code on the card are not."""
    if calibration is None:
        return "Scores are not calibrated: 0.8 does not mean four cases of five."
    return (
        "These scores are not calibrated; `ct_video_hf.pipeline` calibrates the study's score with "
        "`calibration.json` and says so."
    )


def calibration_limit(calibration: Held) -> str:
    """What the probabilities and thresholds do not hold for."""
    if calibration is None:
        return "Scores are not calibrated, and no operating point was chosen."
    words = (
        "The calibration and the thresholds hold for patients like the validation studies, with as "
        "large a share of positive ones."
    )
    missing = getattr(calibration, "missing", {})
    if missing:
        words += f" Scores of {', '.join(map(plain, missing))} are not calibrated."
    return words


def _with_interval(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return "undefined"
    shown = f"{entry['value']:.3f}"
    if entry["low"] is not None:
        shown += f" ({entry['low']:.3f} to {entry['high']:.3f})"
    return shown


def point_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Operating points: rule, threshold and its rates with intervals; of several labels each's."""
    rows = _points(metrics)
    for name, found in (metrics.get("labels") or {}).items():
        rows += _points(found, f"{plain(name)}: ")
    return rows


def _points(metrics: dict[str, Any], of_label: str = "") -> list[list[str]]:
    rates = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")
    return [
        [
            of_label + plain(point["words"]),
            f"{point['threshold']:.3f}",
            *(_with_interval(point[rate]) for rate in rates),
        ]
        for point in metrics.get("operating_points") or []
    ]
