"""Sentences of a model card, from its facts alone."""

from __future__ import annotations

from typing import Any

from ..evaluation import AGGREGATIONS, describe_aggregation
from .card_calibration import calibration_limit, calibration_words, score_words
from .card_conversion import conversion_limits, conversion_summary, conversion_words
from .card_export import export_words
from .card_facts import ModelCardFacts
from .card_rows import data_words, result_rows

__all__ = ["sentences"]


def sentences(facts: ModelCardFacts) -> dict[str, str | list[str] | None]:
    """Every sentence of the card, by its name in the template."""
    return {
        "summary": _summary(facts),
        "intended_use": _intended_use(),
        "export_words": export_words(facts.parity) if facts.parity else None,
        "data_words": _data_words(facts),
        "training_words": _training_words(facts),
        "aggregation_words": describe_aggregation(*facts.aggregation),
        "result_words": _result_words(facts.metrics),
        "calibration_words": calibration_words(facts.calibration, facts.metrics),
        "score_words": score_words(facts.calibration),
        "limits": _limits(facts),
    }


def _summary(facts: ModelCardFacts) -> str:
    if facts.conversion:
        return conversion_summary(facts.conversion)
    labels = ", ".join(f"“{label}”" for label in facts.labels)
    words = f"A {facts.backbone} video network that reads a chest CT in clips of slices"
    words += f" and scores {labels}."
    if facts.set_name:
        words += f" It was trained on the set “{facts.set_name}”."
    return _progress(facts.training) + words


def _progress(training: dict[str, Any]) -> str:
    """Said first of a checkpoint that is pushed while training goes on."""
    moment = training.get("in_progress")
    if not moment:
        return ""
    epoch = f"epoch {moment['epoch']:.4g}, " if moment.get("epoch") is not None else ""
    return (
        f"**Training in progress** ({epoch}step {moment['step']}): these are the weights of the "
        "latest checkpoint, not of the finished model.\n\n"
    )


def _intended_use() -> str:
    return (
        "Research and teaching: comparing networks and pretraining, and building on the features "
        "for other chest CT tasks. It has been tried on nothing but the data below; any other "
        "scanner, protocol, population or question has to be evaluated first."
    )


def _data_words(facts: ModelCardFacts) -> str:
    if facts.conversion:
        return "No data was used here. What the weights were trained on stands in the table above."
    return data_words(facts.training)


def _training_words(facts: ModelCardFacts) -> str:
    if facts.conversion:
        return conversion_words(facts.conversion)
    if not facts.training:
        return "This model was not trained here; its folder holds no training record."
    return "`training_config.json` holds every option. The main ones:"


def _result_words(metrics: dict[str, Any]) -> str:
    if not result_rows(metrics):
        return "Not measured."
    words = (
        f"Split: {metrics.get('split', 'not stated')}. `clip/...` counts clips and `study/...` "
        f"studies; a study's score: "
        f"{_aggregation_of(metrics)}."
    )
    left_out = metrics.get("left_out") or {}
    if left_out.get("studies"):
        words += f" Studies of the split without any clip, not scored: {left_out['studies']}."
    if left_out.get("clips_of_uncertain_label"):
        words += f" Clips of uncertain label, not scored: {left_out['clips_of_uncertain_label']}."
    if metrics.get("resamples"):
        words += (
            f" Intervals: {metrics.get('interval', 'bootstrap')}, {metrics['resamples']} resamples."
        )
    return words


def _aggregation_of(metrics: dict[str, Any]) -> str:
    if metrics.get("aggregation") not in AGGREGATIONS:
        return "a rule that is not stated"
    return describe_aggregation(metrics["aggregation"], metrics.get("top_k", 3))


def _limits(facts: ModelCardFacts) -> list[str]:
    if facts.conversion:
        return conversion_limits(facts.conversion)
    limits = [
        "Performance in other hospitals and on other scanners was not measured.",
        "The marked slices show what drove the network, which need not be what a radiologist "
        "would mark.",
    ]
    limits.insert(0, calibration_limit(facts.calibration))
    studies = (facts.metrics.get("study/auroc") or {}).get("n")
    if studies is None:
        limits.append("Nothing at all was measured on held-out studies.")
    elif studies < 100:
        limits.append(f"It was measured on {studies} studies only: see the width of the intervals.")
    provenance = ((facts.training.get("data") or {}).get("manifest") or {}).get("provenance") or {}
    if "generated" in f"{provenance.get('name')} {provenance.get('description')}".lower():
        limits.append("It was trained on generated scans and means nothing on patients' scans.")
    return limits
