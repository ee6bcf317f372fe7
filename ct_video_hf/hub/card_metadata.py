"""The head of a model card, which the Hub reads."""

from __future__ import annotations

from typing import Any

from ..evaluation.report import values_in
from .card_facts import ModelCardFacts

__all__ = ["metadata"]


def metadata(facts: ModelCardFacts) -> str:
    """YAML of the card's head: licence, tags, and the results as the Hub lists them."""
    from huggingface_hub import ModelCardData

    results = _eval_results(facts)
    licence = (
        {"license": facts.license}
        if facts.license
        else {"license": "other", "license_name": "not-stated"}
    )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["ct-video-hf", "medical-imaging", "computed-tomography", "chest-ct", "3d",
              str(facts.origin.get("model_type") or facts.backbone).replace("_", "-"),
              "not-for-clinical-use"],
        base_model=facts.backbone.partition("@")[0] if facts.origin.get("commit") else None,
        metrics=["roc_auc"] if results else None,
        model_name=facts.name if results else None,
        eval_results=results or None,
        **licence,
    )  # fmt: skip
    return data.to_yaml().strip()


def _metric_type(name: str) -> str:
    kind = name.partition(":")[0].rpartition("/")[2]
    return "roc_auc" if kind == "auroc" else kind


def _eval_results(facts: ModelCardFacts) -> list[Any]:
    from huggingface_hub import EvalResult

    name = facts.set_name or "not stated"
    return [
        EvalResult(
            task_type="video-classification",
            task_name="Chest CT classification",
            dataset_type=name,
            dataset_name=name,
            dataset_split=facts.metrics.get("split"),
            metric_type=_metric_type(metric),
            metric_name=metric,
            metric_value=round(entry["value"], 4),
            metric_args={
                key: round(entry[key], 4) if isinstance(entry[key], float) else entry[key]
                for key in ("low", "high", "n", "positives")
                if key in entry
            },
        )
        for metric, entry in values_in(facts.metrics).items()
        if entry["value"] is not None
    ]
