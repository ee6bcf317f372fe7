"""``CTTrainer``: transformers' Trainer that knows that clips belong to studies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..errors import CTVideoError
from ..evaluation import point_metrics
from ..evaluation.metrics import log_loss
from ..evaluation.score import ClassifierInput
from ..evaluation.tables import clip_table, in_order, predictions_from
from ..models.transformers_video import accept_clips
from ..workers import QuietSpawnContext
from .arguments import CTTrainingArguments
from .callbacks import AverageWeights, ProgressOnStderr, StopStaysStopped, TrainingLog
from .groups import groups_by_plan, plan_rates
from .loss import TrainingLoss, positive_weights
from .memory import to_channels_last
from .pushes import PushesToHub
from .sampler import ClipSampler
from .saving import KeepsCheckpoints
from .sharding import ShardsAreThere, check_deepspeed, choose_units, share_on_cpu

__all__ = ["CTTrainer", "collate_clips"]


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


class CTTrainer(KeepsCheckpoints, PushesToHub, Trainer):
    """Finetunes a video classifier on clips and scores it on clips and studies.

    What it adds to ``transformers.Trainer``: clips are drawn by class (:class:`.ClipSampler`) as a
    function of seed and epoch; evaluation gathers clip logits with their studies from all
    processes, counts each clip once and computes ``clip/...`` and ``study/...`` metrics; a loss
    that is not finite stops the run and names the studies; a checkpoint counts as written only
    when it is whole (:class:`.KeepsCheckpoints`); with ``args.push_to_hub`` every push is a whole
    model (:class:`.PushesToHub`). The rule that makes study scores (``args.aggregation``,
    ``args.top_k``) is set in the model's configuration.

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
