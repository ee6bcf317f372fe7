"""Backbones, their heads and the processor, in the form that transformers knows.

Importing this package registers every family with transformers' Auto classes. The files here are
copied into model repositories, so they import nothing of the package but each other.
"""

from .base import CTVideoBackbone, CTVideoClassifier, CTVideoConfig, CTVideoPreTrainedModel
from .download import DownloadError
from .processing_ct import PROCESSOR_PRESETS, CTVideoProcessor
from .records import Backbone, WeightRecord
from .registry import (
    create_model,
    get_backbone,
    list_backbones,
    processor_for,
    register_with_transformers,
)
from .slow import CTSlowConfig, CTSlowForVideoClassification, CTSlowModel
from .slowfast import CTSlowFastConfig, CTSlowFastForVideoClassification, CTSlowFastModel
from .video_resnet import (
    CTVideoResNetConfig,
    CTVideoResNetForVideoClassification,
    CTVideoResNetModel,
)
from .x3d import CTX3DConfig, CTX3DForVideoClassification, CTX3DModel

__all__ = [
    "PROCESSOR_PRESETS",
    "Backbone",
    "CTSlowConfig",
    "CTSlowFastConfig",
    "CTSlowFastForVideoClassification",
    "CTSlowFastModel",
    "CTSlowForVideoClassification",
    "CTSlowModel",
    "CTVideoBackbone",
    "CTVideoClassifier",
    "CTVideoConfig",
    "CTVideoPreTrainedModel",
    "CTVideoProcessor",
    "CTVideoResNetConfig",
    "CTVideoResNetForVideoClassification",
    "CTVideoResNetModel",
    "CTX3DConfig",
    "CTX3DForVideoClassification",
    "CTX3DModel",
    "DownloadError",
    "WeightRecord",
    "create_model",
    "get_backbone",
    "list_backbones",
    "processor_for",
    "register_with_transformers",
]

register_with_transformers()
