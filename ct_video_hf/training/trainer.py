"""``CTTrainer``: transformers' Trainer that knows that clips belong to studies."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
)
from transformers.trainer_utils import EvalLoopOutput, rotate_checkpoints

from ..errors import CTVideoError
from ..evaluation import point_metrics
from ..evaluation.metrics import log_loss
from ..evaluation.score import ClassifierInput
from ..evaluation.tables import clip_table, in_order, predictions_from
from ..models.transformers_video import accept_clips
from ..progress import no_transformers_bars
from ..workers import QuietSpawnContext
from .arguments import CTTrainingArguments
from .callbacks import AverageWeights, ProgressOnStderr, StopStaysStopped, TrainingLog
from .checkpoints import best_beside, load_weights, mark_complete
from .ema import WeightAverage
from .groups import groups_by_plan, plan_rates
from .loss import TrainingLoss, positive_weights
from .memory import to_channels_last
from .pushes import PushesToHub
from .sampler import ClipSampler
from .sharding import ShardsAreThere, check_deepspeed, choose_units, share_on_cpu

__all__ = ["CTTrainer", "collate_clips"]

logger = logging.getLogger(__name__)


def collate_clips(items: list[dict]) -> dict[str, torch.Tensor]:
    """Stack dataset items: pixel_values (B, T, C, H, W), labels (B, num_labels), and the clip."""
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": torch.stack([torch.as_tensor(item["labels"]).float() for item in items]),
        "study_index": torch.tensor([item["study_index"] for item in items]),
        "clip_start": torch.tensor([item["clip_start"] for item in items]),
    }


def _check_labels(config, dataset) -> None:
    """Refuse a model whose logits are not the labels of the clips, one sigmoid each."""
    if getattr(config, "problem_type", None) == "single_label_classification":
        raise CTVideoError(
            "the trainer learns labels that may be present or absent, each on its own; the model "
            "chooses between classes (problem_type single_label_classification)"
        )
    given = getattr(config, "num_labels", 1)
    wanted = 1 if dataset is None else max(1, dataset.index.labels.shape[1])
    if dataset is not None and given != wanted:
        raise CTVideoError(
            f"the clips have {wanted} label(s), the model has {given}: create it with "
            f"num_labels={wanted}"
        )


class CTTrainer(PushesToHub, Trainer):
    """Finetunes a video classifier on clips and scores it on clips and studies.

    What it adds to ``transformers.Trainer``: clips are drawn by class (:class:`.ClipSampler`) as a
    function of seed and epoch; evaluation gathers clip logits with their studies from all
    processes, counts each clip once and computes ``clip/...`` and ``study/...`` metrics; a loss
    that is not finite stops the run and names the studies; a checkpoint counts as written only
    when it is whole; with ``args.push_to_hub`` every push is a whole model (:class:`.PushesToHub`).
    The rule that makes study scores (``args.aggregation``, ``args.top_k``) is
    set in the model's configuration.

    Parameters
    ----------
    model : PreTrainedModel
        As many logits as the clips have labels; its forward takes ``pixel_values``
        (B, T, C, H, W) and returns ``logits`` (B, num_labels). VideoMAE, V-JEPA 2, TimeSformer and
        ViViT of transformers are taken as they are.
    args : CTTrainingArguments
    train_dataset, eval_dataset : CTClipDataset
    **kwargs
        As for ``transformers.Trainer``.

    Attributes
    ----------
    predictions : DataFrame or None
        The predictions table of the latest evaluation.
    features : numpy.ndarray or None
        What the classifier saw of each clip of the latest evaluation, (clip, feature) in the order
        of its data set; kept only while ``keep_features`` is set.
    keep_features : bool
    trainable_parameters : int
        Numbers that learn.
    """

    def __init__(self, model, args: CTTrainingArguments, **kwargs) -> None:
        _check_labels(model.config, kwargs.get("train_dataset"))
        check_deepspeed(args)
        # Saved with the model, so that prediction makes study scores as validation did.
        model.config.study_aggregation = args.aggregation
        model.config.study_top_k = args.top_k
        accept_clips(model)
        if args.channels_last:
            to_channels_last(model)
        self._rates = plan_rates(
            model,
            layer_decay=args.layer_decay,
            boundary=args.boundary,
            boundary_factor=args.boundary_factor,
            decay_all=args.optimizer == "adam",
        )
        self.trainable_parameters = sum(
            value.numel() for value in model.parameters() if value.requires_grad
        )
        self._given_optimizer = kwargs.get("optimizer_cls_and_kwargs")
        kwargs.setdefault("data_collator", collate_clips)
        super().__init__(model=model, args=args, **kwargs)
        # The loss is divided by what _get_num_items_in_batch counts, and by nothing else.
        self.model_accepts_loss_kwargs = True
        self.predictions: pd.DataFrame | None = None
        self.features: np.ndarray | None = None
        self.keep_features = False
        self.average: WeightAverage | None = None
        self.loss = self._make_loss()
        self._sampler: ClipSampler | None = None
        self._replace_callbacks()

    def _replace_callbacks(self) -> None:
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if not self.args.disable_tqdm:
            self.add_callback(ProgressOnStderr())
        if self.args.early_stopping and self.args.eval_strategy != "no":
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping))
            self.add_callback(StopStaysStopped(self))
        if self.is_fsdp_enabled:
            choose_units(self.accelerator, self.model)
            self.add_callback(ShardsAreThere(self))
        self.add_callback(TrainingLog())
        if self.args.ema is not None:
            self.add_callback(AverageWeights(self))

    def _make_loss(self) -> TrainingLoss:
        args, weights = self.args, None
        if self.train_dataset is not None:
            weights = positive_weights(self.train_dataset.index, args.class_weights)
        return TrainingLoss(
            class_weights=weights,
            label_smoothing=args.label_smoothing,
            focal_gamma=args.focal_gamma if args.loss == "focal" else 0.0,
            label_weights=args.label_weights,
        )

    def create_accelerator_and_postprocess(self) -> None:
        """As in transformers; FSDP is carried out on CPUs too, see :mod:`.sharding`."""
        super().create_accelerator_and_postprocess()
        share_on_cpu(self.accelerator, self.args)
        self.is_fsdp_enabled = getattr(self.accelerator.state, "fsdp_plugin", None) is not None

    # ---- training --------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        batch = self.args.train_batch_size * self.args.world_size
        self._sampler = ClipSampler(
            dataset.index,
            self.args.sampling,
            batch=batch * self.args.gradient_accumulation_steps,
            seed=self.args.seed,
        )
        return self._sampler

    def _get_dataloader(self, *args, **kwargs):
        """As in transformers; spawned workers leave Ctrl-C to this process."""
        said = self.args.dataloader_multiprocessing_context  # arguments are written as JSON
        if said == "spawn":
            self.args.dataloader_multiprocessing_context = QuietSpawnContext()
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_multiprocessing_context = said

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

    def _run_epoch(self, *args, epoch: int, **kwargs) -> None:
        if self.control.should_training_stop:  # resumed after an early stop
            return
        # Told directly: accelerate's set_epoch does not reach a sampler through the wrapper that
        # skips batches on resume.
        self._sampler.set_epoch(epoch)
        if hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device):
        """What the losses of one optimizer step are divided by: known labels, all processes'.

        A mean of the means of its parts would weigh labels by how many others their part knows.
        """
        if not batch_samples:
            return None
        count = sum(self.loss.weight(batch["labels"]) for batch in batch_samples).to(device)
        if self.args.world_size > 1:  # whose gradients DDP averages
            count = self.accelerator.gather(count.float()).mean()
        return count

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The run's loss (:class:`.loss.TrainingLoss`) of the model's logits.

        Raises
        ------
        CTVideoError
            The loss is NaN or infinite; the message names the studies.
        """
        if model.training:
            self._keep_frozen_parts_in_eval_mode()
        outputs = model(pixel_values=inputs["pixel_values"])
        loss = self.loss(outputs["logits"], inputs["labels"], num_items_in_batch)
        if not torch.isfinite(loss):
            raise CTVideoError(self._describe_bad_loss(loss, outputs["logits"], inputs))
        return (loss, outputs) if return_outputs else loss

    def _describe_bad_loss(self, loss, logits, inputs) -> str:
        finite = torch.isfinite(logits.detach()).flatten(1).all(dim=1).cpu()
        bad_input = ~torch.isfinite(inputs["pixel_values"]).flatten(1).all(dim=1).cpu()
        suspects = bad_input if bad_input.any() else ~finite
        if not suspects.any():
            suspects = torch.ones_like(finite)
        table = clip_table(self.train_dataset)
        names = dict(zip(table["study_index"], table["study_id"], strict=True))
        studies = sorted({str(names[int(i)]) for i in inputs["study_index"].cpu()[suspects]})
        cause = (
            "its input is not finite"
            if bad_input.any()
            else "the input is finite, so the weights have diverged: lower lr or use precision fp32"
        )
        return (
            f"the loss is {loss.item()} at step {self.state.global_step + 1}, "
            f"in study {', '.join(studies)}; {cause}"
        )

    def _keep_frozen_parts_in_eval_mode(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights of layers; all parameters for the paper's Adam.

        The parent goes by names, and pytorchvideo's batch norms (``norm_a``) escape it.
        """
        return sorted(self._rates.decaying)

    def create_optimizer(self, model=None):
        """AdamW as transformers makes it, or Adam with its L2 penalty (``optimizer="adam"``).

        Its groups have the learning rates that ``layer_decay`` or ``boundary`` ask for.
        """
        trained = self.model if model is None else model
        kind, settings = self._given_optimizer or self._own_optimizer(trained)
        rates = (self.args.learning_rate, self.args.weight_decay)
        groups = groups_by_plan(trained.named_parameters(), self._rates, *rates)
        self.optimizer_cls_and_kwargs = (kind, {"params": groups, **settings})
        return super().create_optimizer(model)

    def _own_optimizer(self, trained) -> tuple[type[torch.optim.Optimizer], dict]:
        if self.args.optimizer == "adamw":
            return self.get_optimizer_cls_and_kwargs(self.args, trained)
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        settings = {"betas": betas, "eps": self.args.adam_epsilon}
        return torch.optim.Adam, {"lr": self.args.learning_rate, **settings}

    # ---- evaluation ------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Logits with label, study and clip start; the loss comes later, on each clip once."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            logits = self._scored(model, inputs["pixel_values"])
        keys = tuple(inputs[name].detach() for name in ("labels", "study_index", "clip_start"))
        return None, logits.detach().float(), keys

    def _scored(self, model, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits (clip, label), followed by the features of each clip where those are kept."""
        if not self.keep_features:
            return model(pixel_values=pixel_values)["logits"]
        seen = ClassifierInput(self.accelerator.unwrap_model(model))
        with seen.watched():
            logits = model(pixel_values=pixel_values)["logits"]
        return torch.cat([logits.float(), seen.taken()], dim=1)

    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ) -> EvalLoopOutput:
        """Score a dataset; metrics are the same whatever the number of processes."""
        with self._averaged():
            self._share_buffers()
            output = super().evaluation_loop(
                dataloader,
                description,
                prediction_loss_only=False,
                ignore_keys=ignore_keys,
                metric_key_prefix=metric_key_prefix,
            )
        _, study_index, clip_start = output.label_ids
        logits, self.features = output.predictions, None
        if self.keep_features:
            labels = self.accelerator.unwrap_model(self.model).config.num_labels
            logits, kept = np.split(np.asarray(logits), [labels], axis=1)
            self.features = in_order(dataloader.dataset, kept, study_index, clip_start)
        self.predictions = predictions_from(dataloader.dataset, logits, study_index, clip_start)
        known = self.predictions[self.predictions["label"] >= 0]
        values = {"loss": log_loss(known["label"].to_numpy(), known["score"].to_numpy())}
        values |= point_metrics(
            self.predictions,
            aggregation=self.args.aggregation,
            top_k=self.args.top_k,
            label_from=self.args.study_label,
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        return output._replace(metrics={**output.metrics, **metrics})

    def _share_buffers(self) -> None:
        """Give every process the batch norm statistics of the first, which are those saved.

        DDP hands them out at the start of a training step; after it each process has its own.
        """
        if self.args.world_size > 1:
            for buffer in self.accelerator.unwrap_model(self.model).buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler=True)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        if isinstance(self.lr_scheduler, plateau) and not skip_scheduler:
            # On the loss (the paper's rule), whatever metric picks the best checkpoint.
            self.lr_scheduler.step(metrics["eval_loss"])
        return metrics

    # ---- saving ----------------------------------------------------------------------------------

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
