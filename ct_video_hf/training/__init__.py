"""Finetuning: a Trainer that knows studies, its arguments, and the one road that runs it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported when first used: the command line's --help reads training.options and must not wait
# for torch and transformers.
_EXPORTS = {
    "CTTrainer": "trainer",
    "CTTrainingArguments": "arguments",
    "ClipSampler": "sampler",
    "RunResult": "runner",
    "freeze_stages": "groups",
    "parameter_groups": "groups",
    "run": "runner",
}

__all__ = [
    "CTTrainer",
    "CTTrainingArguments",
    "ClipSampler",
    "RunResult",
    "freeze_stages",
    "parameter_groups",
    "run",
]

if TYPE_CHECKING:
    from .arguments import CTTrainingArguments
    from .groups import freeze_stages, parameter_groups
    from .runner import RunResult, run
    from .sampler import ClipSampler
    from .trainer import CTTrainer


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value
