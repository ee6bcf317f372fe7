"""Callbacks: progress on stderr, the training log as CSV, and stops that stay."""

from __future__ import annotations

import sys
from pathlib import Path

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ProgressCallback

from ..files import write_csv

__all__ = ["AverageWeights", "ProgressOnStderr", "StopStaysStopped", "TrainingLog"]

LOG_NAME = "training_log.csv"


class ProgressOnStderr(ProgressCallback):
    """Transformers' progress bars with one short line a log, on stderr.

    The parent writes its lines to stdout, which here belongs to the answer of ``--json``.
    """

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show loss, learning rate and the metric that picks the best checkpoint."""
        if not state.is_world_process_zero or self.training_bar is None:
            return
        wanted = {
            "loss": "loss",
            "learning_rate": "lr",
            "eval_loss": "validation loss",
            f"eval_{args.metric_for_best_model}": f"validation {args.metric_for_best_model}",
        }
        parts = [f"{text} {logs[key]:.4g}" for key, text in wanted.items() if key in logs]
        if parts:
            epoch = "" if state.epoch is None else f"epoch {state.epoch:.4g}: "
            self.training_bar.write(epoch + ", ".join(parts), file=sys.stderr)


class TrainingLog(TrainerCallback):
    """Keeps ``training_log.csv`` in the output folder equal to the trainer's log so far."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Rewrite the file; a resumed run starts from the restored log, so no row is lost."""
        if state.is_world_process_zero:
            write_log(state.log_history, Path(args.output_dir) / LOG_NAME)


def write_log(history: list[dict], path: Path) -> None:
    """Write log entries as CSV, one row an entry, one column a name; replaced atomically."""
    names = ["step", "epoch", *sorted({key for row in history for key in row} - {"step", "epoch"})]
    write_csv(path, names, history)


class StopStaysStopped(TrainerCallback):
    """A run that had stopped early before it was killed does not train on when resumed."""

    def __init__(self, trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Raise the stop flag again, which the handler has just lowered."""
        for callback in self._trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                reached = callback.early_stopping_patience_counter
                control.should_training_stop |= reached >= callback.early_stopping_patience
        return control


class AverageWeights(TrainerCallback):
    """Keeps the running mean of the weights, and leaves it in the model when training ends."""

    def __init__(self, trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin a mean, unless a checkpoint has brought one."""
        self._trainer.begin_average()

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Take in the new weights; where 16 bits overflowed there are none."""
        if not self._trainer.accelerator.optimizer_step_was_skipped:
            self._trainer.average.update()

    def on_train_end(self, args, state, control, **kwargs):
        """The best checkpoint, when it has been loaded, is a mean already."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._trainer.average.keep()
        self._trainer.average = None
