"""Calibrated study probabilities and operating points, fitted on validation studies.

A network's study score ranks studies; it need not be a probability. What turns it into one is
fitted on studies that were not trained on, kept as ``calibration.json`` in the model folder, and
used by prediction. It never changes an AUROC: ranks are those of the scores themselves.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import CTVideoError
from ..files import replacing
from .metrics import roc_curve

__all__ = [
    "CALIBRATION_FILE",
    "METHODS",
    "Calibration",
    "OperatingPoint",
    "fit_calibration",
    "score_log_odds",
    "write_calibration",
]

CALIBRATION_FILE = "calibration.json"
METHODS = ("temperature", "isotonic")
#: Fewer studies of a class than this give no calibration worth the name.
FEWEST_OF_A_CLASS = 10
_TEMPERATURES = (0.05, 20.0)
_RULES = {
    "youden": "largest sensitivity + specificity",
    "sensitivity_90": "highest threshold with sensitivity of at least 0.9",
    "specificity_90": "lowest threshold with specificity of at least 0.9",
}


def score_log_odds(scores) -> np.ndarray:
    """Log-odds of scores 0..1; those that round to 0 or 1 stop at about 36."""
    scores = np.asarray(scores, dtype=np.float64).clip(2.0**-52, 1 - 2.0**-52)
    return np.log(scores) - np.log1p(-scores)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold chosen by a stated rule on the studies of the fit.

    Attributes
    ----------
    rule : str
        ``youden``, ``sensitivity_90`` or ``specificity_90``.
    words : str
        The rule in words.
    threshold : float
        Study score, not calibrated; a study at or above it is called positive.
    sensitivity, specificity : float
        On the studies of the fit, which flatters them; measure them on others.
    """

    rule: str
    words: str
    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class Calibration:
    """From a study's log-odds to its probability.

    Attributes
    ----------
    method : {"temperature", "isotonic"}
    parameters : dict
        ``temperature``, by which log-odds are divided (Guo et al. 2017, arXiv 1706.04599); or
        ``log_odds`` and ``probability``, the corners of a rising line (Zadrozny and Elkan 2002),
        level beyond its ends.
    aggregation, top_k, label_from
        The rules of study scores and labels that it was fitted for.
    split : str
    studies, positives : int
        What it was fitted on.
    operating_points : tuple of OperatingPoint
    """

    method: str
    parameters: dict[str, Any]
    aggregation: str
    top_k: int
    label_from: str
    split: str
    studies: int
    positives: int
    operating_points: tuple[OperatingPoint, ...] = field(default=())

    def apply(self, log_odds) -> np.ndarray:
        """Probabilities (n,) of study log-odds (n,)."""
        log_odds = np.asarray(log_odds, dtype=np.float64)
        if self.method == "temperature":
            return 0.5 * (1 + np.tanh(0.5 * log_odds / self.parameters["temperature"]))
        corners = self.parameters
        return np.interp(log_odds, corners["log_odds"], corners["probability"])

    def words(self) -> str:
        """What it is and what it rests on, in a sentence."""
        how = {
            "temperature": "temperature scaling (T = "
            f"{self.parameters.get('temperature', float('nan')):.3g})",
            "isotonic": "isotonic regression",
        }[self.method]
        return f"{how}, fitted on {self.studies} {self.split} studies ({self.positives} positive)"

    def of(self, label: str) -> Calibration:
        """The calibration of a model's only label, whatever its name."""
        return self

    def why_not(self, label: str) -> str | None:
        """Why a label is not calibrated: None, it is."""
        return None

    def fits(self, aggregation: str, top_k: int, label_from: str | None = None) -> bool:
        """Whether it was fitted for study scores made by these rules; None: whatever the labels."""
        same = (self.aggregation, self.top_k) == (aggregation, top_k)
        return same and label_from in (None, self.label_from)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"operating_points": [asdict(p) for p in self.operating_points]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Calibration:
        """What :meth:`to_dict` gave.

        Raises
        ------
        CTVideoError
            Fields are missing, unknown, or hold impossible values.
        """
        try:
            points = tuple(OperatingPoint(**p) for p in content.get("operating_points", ()))
            calibration = cls(**{**content, "operating_points": points})
            calibration._check()
        except (TypeError, KeyError, ValueError) as error:
            raise CTVideoError(f"{CALIBRATION_FILE} is no calibration: {error}") from error
        return calibration

    def _check(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; known: {', '.join(METHODS)}")
        if self.method == "temperature":
            temperature = float(self.parameters["temperature"])
            if not 0 < temperature < np.inf:
                raise ValueError(f"temperature is {temperature}; a number above 0 is expected")
            return
        x = np.asarray(self.parameters["log_odds"], dtype=np.float64)
        y = np.asarray(self.parameters["probability"], dtype=np.float64)
        if x.shape != y.shape or x.ndim != 1 or x.size == 0:
            raise ValueError("log_odds and probability must be lists of one length")
        rising = (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
        if not rising or not np.isfinite(x).all() or y.min() < 0 or y.max() > 1:
            raise ValueError("log_odds and probability must rise, the latter within 0 and 1")

    def write(self, folder) -> Path:
        """Write ``calibration.json`` into a model folder; returns its path."""
        return write_calibration(self.to_dict(), folder)


def write_calibration(content: dict[str, Any], folder) -> Path:
    """Write ``calibration.json`` into a model folder; returns its path."""
    path = Path(folder) / CALIBRATION_FILE
    with replacing(path) as partial:
        text = json.dumps(content, indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def fit_calibration(
    studies: pd.DataFrame,
    method: str = "temperature",
    *,
    aggregation: str = "max",
    top_k: int = 3,
    label_from: str = "study",
) -> Calibration:
    """Fit a calibration and operating points on the studies of a validation split.

    Parameters
    ----------
    studies : DataFrame
        As :func:`.predictions.aggregate` gives them, by the rules that follow; studies of unknown
        label do not count.
    method : {"temperature", "isotonic"}
        Isotonic wants hundreds of studies; its probabilities are kept half a study off 0 and 1.
    aggregation, top_k, label_from
        How ``studies`` was made.

    Raises
    ------
    CTVideoError
        For an unknown method or too few studies of a class.
    """
    if method not in METHODS:
        raise CTVideoError(f"unknown calibration {method!r}; choose from {', '.join(METHODS)}")
    known = studies[studies["label"] >= 0]
    labels = known["label"].to_numpy()
    scores = known["score"].to_numpy(dtype=np.float64)
    positives = int(labels.sum())
    if min(positives, labels.size - positives) < FEWEST_OF_A_CLASS:
        raise CTVideoError(
            f"a calibration needs {FEWEST_OF_A_CLASS} studies of either class, found {positives} "
            f"positive of {labels.size}"
        )
    fit = _fit_temperature if method == "temperature" else _fit_isotonic
    return Calibration(
        method=method,
        parameters=fit(score_log_odds(scores), labels),
        aggregation=aggregation,
        top_k=top_k,
        label_from=label_from,
        split=", ".join(sorted(map(str, known["split"].unique()))),
        studies=int(labels.size),
        positives=positives,
        operating_points=_operating_points(labels, scores),
    )


def _fit_temperature(log_odds: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from scipy.optimize import minimize_scalar

    signs = np.where(labels == 1, -1.0, 1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, signs * log_odds / np.exp(log_temperature)).mean())

    bounds = tuple(np.log(_TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return {"temperature": float(np.exp(found.x))}


def _fit_isotonic(log_odds: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    from sklearn.isotonic import IsotonicRegression

    margin = 0.5 / labels.size
    model = IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip")
    model.fit(log_odds, labels)
    return {
        "log_odds": model.X_thresholds_.tolist(),
        "probability": model.y_thresholds_.tolist(),
    }


def _operating_points(labels: np.ndarray, scores: np.ndarray) -> tuple[OperatingPoint, ...]:
    false_rate, true_rate, thresholds = roc_curve(labels, scores)
    specificity = 1 - false_rate
    # thresholds fall along the curve: the first that is sensitive enough is the highest one,
    # the last that is specific enough the lowest; 1e-12 as in metrics
    chosen = {
        "youden": int(np.argmax(true_rate + specificity)),
        "sensitivity_90": int(np.argmax(true_rate >= 0.9 - 1e-12)),
        "specificity_90": int(np.flatnonzero(specificity >= 0.9 - 1e-12)[-1]),
    }
    return tuple(
        OperatingPoint(
            rule,
            _RULES[rule],
            # the curve begins at infinity, where nothing is called positive
            float(min(thresholds[place], 1.0)),
            float(true_rate[place]) if np.isfinite(thresholds[place]) else 0.0,
            float(specificity[place]) if np.isfinite(thresholds[place]) else 1.0,
        )
        for rule, place in chosen.items()
    )
