"""Video-pretrained 3D networks for chest CT on the Hugging Face stack.

After ``import ct_video_hf``, transformers' ``AutoConfig``, ``AutoModel``,
``AutoModelForVideoClassification`` and ``AutoVideoProcessor`` know this package's classes. The
names below are imported when first used, so that importing the package itself is quick.

Not for clinical use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._registration import register_when_transformers_is_imported

__version__ = "0.1.0"

_EXPORTS = {
    "CTReadError": "dicom",
    "CTVolume": "dicom",
    "read_ct": "dicom",
    "CTVideoProcessor": "models",
    "create_model": "models",
    "load_ct_dataset": "data",
    "CTTrainer": "training",
    "CTTrainingArguments": "training",
    "pipeline": "inference",
}

__all__ = [
    "CTReadError",
    "CTTrainer",
    "CTTrainingArguments",
    "CTVideoProcessor",
    "CTVolume",
    "__version__",
    "create_model",
    "load_ct_dataset",
    "pipeline",
    "read_ct",
]

if TYPE_CHECKING:
    from .data import load_ct_dataset
    from .dicom import CTReadError, CTVolume, read_ct
    from .inference import pipeline
    from .models import CTVideoProcessor, create_model
    from .training import CTTrainer, CTTrainingArguments


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


register_when_transformers_is_imported()
