"""TensorBoard, wandb and trackio: they hear of the training, and their runs end with it."""

from __future__ import annotations

import sys
from typing import Any

from transformers.integrations import get_reporting_integration_callbacks

__all__ = ["is_tracking", "let_trackers_go"]


def is_tracking() -> bool:
    """Whether a run of wandb is open in this process, which then is its owner's to end."""
    return getattr(sys.modules.get("wandb"), "run", None) is not None


def let_trackers_go(trainer: Any, *, end_run: bool) -> None:
    """Take the trackers from a trainer that has finished training.

    What it scores afterwards is the evidence of the finished folder. trackio, whose run is closed
    by now, would open another for it, and both would name validation ``train/validation_...``.

    Parameters
    ----------
    trainer : CTTrainer
    end_run : bool
        End wandb's run, which else stays open for whatever this process trains next.
    """
    for kind in get_reporting_integration_callbacks(trainer.args.report_to):
        trainer.remove_callback(kind)
    if end_run and is_tracking():
        sys.modules["wandb"].finish()
