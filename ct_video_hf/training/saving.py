"""What a training keeps: whole checkpoints, the mean of the weights, and the way back into them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from transformers import PreTrainedModel
from transformers.trainer_utils import rotate_checkpoints

from ..errors import CTVideoError
from ..progress import no_transformers_bars
from .checkpoints import best_beside, load_weights, mark_complete
from .ema import WeightAverage

__all__ = ["KeepsCheckpoints"]


class KeepsCheckpoints:
    """Mixed into a ``transformers.Trainer``: how it saves, and how it goes on.

    A checkpoint counts as written only when it is whole, older ones go afterwards, and of shards
    or a running mean of the weights the model file is what prediction loads.

    Attributes
    ----------
    average : WeightAverage or None
        The running mean that ``args.ema`` asks for, while training goes on.
    """

    average: WeightAverage | None = None

    # ---- going on --------------------------------------------------------------------------------

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        """As in transformers, but a resumed run may lie elsewhere than when it was saved."""
        counts = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None and self.args.load_best_model_at_end:
            self.state.best_model_checkpoint = best_beside(resume_from_checkpoint)
        return counts

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        if self._names_itself():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model if model is None else model, resume_from_checkpoint)
        if self.args.ema is not None:
            self.begin_average()
            self.average.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self._names_itself():
            super()._load_best_model()
        else:
            load_weights(self.model, self.state.best_model_checkpoint)

    def _names_itself(self) -> bool:
        """Whether checkpoints hold weights under the model's own names: shards and adapters do."""
        plain = isinstance(self.model, PreTrainedModel)
        return self.is_fsdp_enabled or self.is_deepspeed_enabled or not plain

    # ---- the running mean ------------------------------------------------------------------------

    def begin_average(self) -> None:
        """Begin the running mean of the weights that ``args.ema`` asks for, unless there is one.

        Raises
        ------
        CTVideoError
            No process has all weights (FSDP, DeepSpeed).
        """
        if self.args.ema is None or self.average is not None:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise CTVideoError(
                "ema needs all weights on every process, which FSDP and DeepSpeed divide: train "
                "with DDP or on one process, or leave ema out"
            )
        self.average = WeightAverage(self.accelerator.unwrap_model(self.model), self.args.ema)

    def _averaged(self) -> AbstractContextManager:
        """A block in which the model has the running mean of its weights, where there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    # ---- saving ----------------------------------------------------------------------------------

    def save_model(self, output_dir=None, _internal_call=False) -> None:
        """As in transformers; of shards one whole model, whatever kind of checkpoint is kept."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))

    def _save(self, output_dir=None, state_dict=None) -> None:
        with no_transformers_bars():
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            # A pickle of this machine's paths, which nothing here reads.
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            (folder / "training_args.bin").unlink(missing_ok=True)

    def _save_checkpoint(self, model, trial) -> None:
        """Save, mark the checkpoint whole, and only then let older ones go."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with self._averaged():
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        run_dir = self._get_output_dir(trial)
        folder = os.path.join(run_dir, f"checkpoint-{self.state.global_step}")
        if self.average is not None:
            self.average.save(Path(folder))
        mark_complete(folder, step=self.state.global_step, processes=self.args.world_size)
        rotate_checkpoints(
            output_dir=run_dir,
            save_total_limit=limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )
