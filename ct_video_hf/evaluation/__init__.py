"""Metrics, intervals, the predictions table and the figures made from it; numpy and pandas."""

from .aggregation import AGGREGATIONS, describe_aggregation, study_score
from .bootstrap import Interval, bootstrap_intervals, delong_difference, delong_interval
from .calibration import Calibration, fit_calibration
from .calibration_labels import LabelCalibrations, calibrate_table, read_calibration
from .comparisons import compare_arithmetic
from .metrics import METRICS, auprc, auroc, undefined_reason
from .predictions import aggregate, make_predictions, read_predictions, write_predictions
from .report import evaluate_predictions, format_metrics, point_metrics, write_json
from .rsna import rsna_weighted_log_loss

__all__ = [
    "AGGREGATIONS",
    "METRICS",
    "Calibration",
    "Interval",
    "LabelCalibrations",
    "aggregate",
    "auprc",
    "auroc",
    "bootstrap_intervals",
    "calibrate_table",
    "compare_arithmetic",
    "delong_difference",
    "delong_interval",
    "describe_aggregation",
    "evaluate_predictions",
    "fit_calibration",
    "format_metrics",
    "make_predictions",
    "point_metrics",
    "read_calibration",
    "read_predictions",
    "rsna_weighted_log_loss",
    "study_score",
    "undefined_reason",
    "write_json",
    "write_predictions",
]
