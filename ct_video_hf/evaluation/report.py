"""metrics.json: every metric of a predictions table, on clips and on studies, with intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd

from ..files import replacing
from .aggregation import describe_aggregation
from .bootstrap import Interval, bootstrap_intervals
from .calibration import Calibration, score_log_odds
from .calibration_labels import LabelCalibrations
from .metrics import METRICS, OF_PROBABILITIES, undefined_reason
from .operating import operating_point_report
from .predictions import aggregate, check_predictions
from .rsna_report import is_official, rsna_report
from .several import by_label, has_several_labels, mean_metrics, mean_of_points
from .subgroups import subgroup_report

__all__ = [
    "evaluate_predictions",
    "format_metrics",
    "point_metrics",
    "values_in",
    "write_json",
]


def _known(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["label"] >= 0]


def point_metrics(
    table: pd.DataFrame, *, aggregation: str = "max", top_k: int = 3, label_from: str = "study"
) -> dict[str, float]:
    """``clip/...`` and ``study/...`` values without intervals, for use during training.

    Of several labels these are means over them, and ``study/auroc:NAME`` are those of each.
    """
    if has_several_labels(table):
        rules = {"aggregation": aggregation, "top_k": top_k, "label_from": label_from}
        found = {name: point_metrics(rows, **rules) for name, rows in by_label(table).items()}
        each = {f"study/auroc:{name}": values["study/auroc"] for name, values in found.items()}
        return mean_of_points(found) | each
    studies = aggregate(table, aggregation, top_k=top_k, label_from=label_from)
    values = {}
    for level, cases in (("clip", _known(table)), ("study", _known(studies))):
        labels, scores = cases["label"].to_numpy(), cases["score"].to_numpy()
        for name, metric in METRICS.items():
            values[f"{level}/{name}"] = metric(labels, scores)
    return values


def evaluate_predictions(
    table: pd.DataFrame,
    *,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    left_out: dict | None = None,
    calibration: Calibration | LabelCalibrations | None = None,
) -> dict:
    """All metrics of one split with patient-clustered bootstrap intervals, ready for JSON.

    Parameters
    ----------
    table : DataFrame
        A predictions table; rows with an unknown label (-1) do not count and are counted.
    aggregation, top_k, label_from
        See :func:`ct_video_hf.evaluation.predictions.aggregate`.
    resamples, seed, confidence
        See :func:`ct_video_hf.evaluation.bootstrap.bootstrap_intervals`.
    left_out : dict, optional
        What the table lacks of its split (:func:`ct_video_hf.evaluation.tables.left_out`); kept in
        the report. None: not known.
    calibration : Calibration or LabelCalibrations, optional
        Fitted on another split: what it and its operating points do here is measured, too.

    Returns
    -------
    dict
        ``"clip/auroc": {"value", "low", "high", "n", "positives"}`` and so on for each metric on
        clips and on studies; an undefined value is None and has ``undefined``, the reason. Beside
        them how it was made: aggregation, resamples, seed, confidence, split, patients; further
        ``subgroups``, and with a calibration ``study/brier_calibrated`` and so on,
        ``calibration`` and ``operating_points``. Of several labels ``clip/...`` and ``study/...``
        are means over the labels (``over`` says how many), ``labels`` holds the metrics of each,
        with ``not_calibrated``, the reason, of a label that the calibration leaves out, and of
        RSNA's official labels there is ``rsna/weighted_log_loss``, of scores as they are.
    """
    check_predictions(table)
    if has_several_labels(table):
        rules = {"aggregation": aggregation, "top_k": top_k, "label_from": label_from}
        how = {"resamples": resamples, "seed": seed, "confidence": confidence}
        return _of_several(table, rules, how, left_out, calibration)
    studies = aggregate(table, aggregation, top_k=top_k, label_from=label_from)
    report: dict = {}
    how = {"resamples": resamples, "seed": seed, "confidence": confidence}
    for level, cases in (("clip", _known(table)), ("study", _known(studies))):
        labels, scores = cases["label"].to_numpy(), cases["score"].to_numpy()
        clusters = cases["patient_hash"].to_numpy(dtype=str)
        intervals = bootstrap_intervals(METRICS, labels, scores, clusters, **how)
        for name, interval in intervals.items():
            report[f"{level}/{name}"] = _entry(name, interval, labels, scores)
    if calibration is not None:
        report |= _calibrated(calibration, labels, scores, clusters, how)
    report["subgroups"] = subgroup_report(table, studies, **how)
    report |= {
        "aggregation": aggregation,
        "study_label_from": label_from,
        "interval": "percentile bootstrap over patients",
        "confidence": confidence,
        "resamples": resamples,
        "seed": seed,
        "split": ", ".join(sorted(map(str, table["split"].unique()))),
        "patients": int(table["patient_hash"].nunique()),
        "unknown_labels": {
            "clips": int((table["label"] < 0).sum()),
            "studies": int((studies["label"] < 0).sum()),
        },
    }
    if aggregation == "mean_top_k":
        report["top_k"] = top_k
    if left_out is not None:
        report["left_out"] = left_out
    return report


#: Entries of a label's report that say how it was made, as those of all its labels do.
_HOW = ("aggregation", "study_label_from", "interval", "confidence", "resamples", "seed", "split",
        "patients", "top_k")  # fmt: skip


def _of_several(
    table: pd.DataFrame, rules: dict, how: dict, left_out: dict | None, calibration
) -> dict:
    tables = by_label(table)
    held = {name: None if calibration is None else calibration.of(name) for name in tables}
    each = {
        name: evaluate_predictions(rows, **rules, **how, calibration=held[name])
        for name, rows in tables.items()
    }
    if calibration is not None:
        for name in tables:
            if held[name] is None:
                each[name]["not_calibrated"] = calibration.why_not(name)
    report: dict = {}
    for name, interval, cases, over in mean_metrics(table, **rules, **how, calibration=calibration):
        entry = _bounds(interval) | {"n": cases, "over": len(over)}
        if entry["value"] is None:
            entry["undefined"] = "undefined for every label"
        if interval.undefined_resamples:
            entry["undefined_resamples"] = interval.undefined_resamples
        report[name] = entry
    if is_official(table):
        scores = {"aggregation": rules["aggregation"], "top_k": rules["top_k"]}
        report |= rsna_report(table, **scores, **how)
    first = next(iter(each.values()))
    report["labels"] = {
        name: {key: value for key, value in found.items() if key not in _HOW}
        for name, found in each.items()
    }
    report |= {key: first[key] for key in _HOW if key in first}
    if left_out is not None:
        report["left_out"] = left_out
    return report


def _calibrated(calibration: Calibration, labels, scores, clusters, how: dict) -> dict:
    """What the calibration and its thresholds do on these studies, which it was not fitted on."""
    probabilities = calibration.apply(score_log_odds(scores))
    metrics = {name: METRICS[name] for name in OF_PROBABILITIES}
    report: dict = {}
    for name, interval in bootstrap_intervals(
        metrics, labels, probabilities, clusters, **how
    ).items():
        report[f"study/{name}_calibrated"] = _entry(name, interval, labels, probabilities)
    report["calibration"] = {
        key: value for key, value in calibration.to_dict().items() if key != "operating_points"
    } | {"words": calibration.words()}
    report["operating_points"] = operating_point_report(
        calibration.operating_points, labels, scores, clusters, **how
    )
    return report


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _bounds(interval: Interval) -> dict:
    values = (interval.value, interval.low, interval.high)
    return dict(zip(("value", "low", "high"), map(_number, values), strict=True))


def _entry(name: str, interval: Interval, labels, scores) -> dict:
    entry = _bounds(interval) | {
        "n": int(labels.size),
        "positives": int(labels.sum()),
    }
    if entry["value"] is None:
        entry["undefined"] = undefined_reason(name, labels, scores)
    if interval.undefined_resamples:
        entry["undefined_resamples"] = interval.undefined_resamples
    return entry


def write_json(content: dict, path) -> Path:
    """Write strict JSON (no NaN); an older file is replaced by a complete one."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def values_in(report: dict) -> dict[str, dict]:
    """Name -> entry of everything with a value; those of one label of several as ``NAME: LABEL``.

    Of each label its AUROC and AUPRC, on clips and studies.
    """
    found = {
        name: entry
        for name, entry in report.items()
        if isinstance(entry, dict) and "value" in entry
    }
    for label, metrics in (report.get("labels") or {}).items():
        found |= {
            f"{level}/{metric}: {label}": metrics[f"{level}/{metric}"]
            for level in ("clip", "study")
            for metric in ("auroc", "auprc")
        }
    return found


def format_metrics(report: dict) -> str:
    """The report as a small table for the console."""
    lines = [f"{'metric':<38} {'value':>7}   {100 * report['confidence']:.0f} % interval"]
    for name, entry in values_in(report).items():
        if entry["value"] is None:
            lines.append(f"{name:<38} {'-':>7}   undefined: {entry['undefined']}")
            continue
        bounds = "-"
        if entry["low"] is not None:
            bounds = f"{entry['low']:.3f} to {entry['high']:.3f}"
        lines.append(f"{name:<38} {entry['value']:>7.3f}   {bounds}")
    lines += _point_words(report)
    for name, found in (report.get("labels") or {}).items():
        lines += _point_words(found, f" of {name}")
    if "arithmetic" in report:
        lines.append(_arithmetic_words(report["arithmetic"]))
    lines += _calibration_words(report)
    if "labels" in report:
        for name, found in report["labels"].items():
            lines += _calibration_words(found, f" of {name}")
        lines.append(f"values without a label's name: means over {len(report['labels'])} labels")
    if "rsna/label_consistency" in report:
        found = report["rsna/label_consistency"]
        lines.append(f"labels consistent at 0.5 in {found['consistent']:.1%} of {found['n']} exams")
    rule = describe_aggregation(report["aggregation"], report.get("top_k", 3))
    lines += ["", f"study score: {rule}; {report['interval']}"]
    lines += _left_out_words(report.get("left_out") or {})
    return "\n".join(lines)


def _point_words(report: dict, of_label: str = "") -> list[str]:
    words = []
    for point in report.get("operating_points", []):
        rates = ", ".join(
            f"{name} {point[name]['value']:.3f}"
            for name in ("sensitivity", "specificity")
            if point[name]["value"] is not None
        )
        words.append(f"threshold{of_label} {point['threshold']:.3f} ({point['rule']}): {rates}")
    return words


def _calibration_words(report: dict, of_label: str = "") -> list[str]:
    if "calibration" in report:
        return [f"calibration{of_label}: {report['calibration']['words']}"]
    if "not_calibrated" in report:
        return [f"calibration{of_label}: none ({report['not_calibrated']})"]
    return []


def _arithmetic_words(found: dict) -> str:
    words = f"16 bits against float32: rank correlation of clips {found['rank_correlation']:.4f}"
    if found["difference"] is not None:
        words += f", study AUROC {found['difference']:+.4f}"
    if found["low"] is not None:
        words += f" ({found['low']:+.4f} to {found['high']:+.4f})"
    return f"{words}; {found['computed_by']}"


def _left_out_words(left_out: dict) -> list[str]:
    """A line for each kind of thing that was not scored; none when all was."""
    words = []
    names = left_out.get("study_ids", [])
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        words.append(f"not scored, no clip (too few slices?): {len(names)} studies: {shown}")
    if left_out.get("clips_of_uncertain_label"):
        words.append(f"not scored, uncertain label: {left_out['clips_of_uncertain_label']} clips")
    return words
