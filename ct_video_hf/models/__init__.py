"""Backbones, their heads and the processor, in the form that transformers knows.

Importing this package registers every family with transformers' Auto classes. The files here are
copied into model repositories, so they import nothing of the package but each other.

The classes of the families (``CTSlowConfig``, ``CTSlowForVideoClassification``, ...) are names of
this package too, found through the registry.
"""

from typing import Any

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig, CTVideoPreTrainedModel
from .download import DownloadError
from .processing_ct import PROCESSOR_PRESETS, CTVideoProcessor
from .records import Backbone, WeightRecord
from .registry import (
    all_backbones,
    create_model,
    get_backbone,
    list_backbones,
    locate_weights,
    processor_for,
    register_with_transformers,
)

__all__ = [
    "PROCESSOR_PRESETS",
    "Backbone",
    "CTVideoBackbone",
    "CTVideoClassifier",
    "CTVideoConfig",
    "CTVideoPreTrainedModel",
    "CTVideoProcessor",
    "DownloadError",
    "WeightRecord",
    "create_model",
    "get_backbone",
    "list_backbones",
    "locate_weights",
    "processor_for",
    "register_with_transformers",
]

register_with_transformers()


def _family_classes() -> dict[str, type]:
    return {
        kind.__name__: kind
        for record in all_backbones().values()
        for kind in (record.config_class, record.model_class, record.classifier_class)
    }


def __getattr__(name: str) -> Any:
    if name.startswith("CT") and name in _family_classes():
        return _family_classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_family_classes()})
