"""``CTTrainingArguments``: transformers' arguments with the defaults that clips of CT call for."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..errors import CTVideoError
from ..evaluation.aggregation import check_aggregation
from .options import ALIASES, OPTIONS, OptionError, did_you_mean
from .sharding import check_processes, started_processes

__all__ = ["CTTrainingArguments", "build_arguments", "help_of_all_fields"]

#: Batch entries that are not the model's input; the Trainer gathers them beside the logits.
LABEL_NAMES = ("labels", "study_index", "clip_start")

_SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "plateau": "reduce_lr_on_plateau",
}
_PUSH_STRATEGIES = (HubStrategy.EVERY_SAVE, HubStrategy.END)
_LOWER_IS_BETTER = ("loss", "brier", "expected_calibration_error")
#: Fields that the run sets itself, with what to do instead.
_RESERVED = {
    "label_names": "the trainer gathers study and clip with the labels",
    "remove_unused_columns": "the trainer needs the study of each clip",
    "include_for_metrics": "the trainer gathers study and clip with the labels",
    "hub_model_id": "use push_to_hub, which names the repository",
    "hub_token": "log in with hf auth login or set HF_TOKEN: options are written down",
    "auto_find_batch_size": "use find_batch_size, which keeps the global batch",
    "train_sampling_strategy": "use sampling",
    "activation_checkpointing": "use gradient_checkpointing",
    "bf16": "use precision bf16",
    "fp16": "use precision fp16",
    "optim": "use optimizer",
    "label_smoothing_factor": "use label_smoothing, which is right for binary labels",
}


#: Tracker -> modules, one of which it needs, and how they are had.
_TRACKERS = {
    "tensorboard": (("tensorboard", "tensorboardX"), "pip install 'ct-video-hf[tensorboard]'"),
    "trackio": (("trackio",), "pip install trackio"),
    "wandb": (("wandb",), "pip install wandb"),
}
#: Options that are fields of that name.
_SAME_NAME = ("loss", "focal_gamma", "label_smoothing", "class_weights", "ema")


@dataclass
class CTTrainingArguments(TrainingArguments):
    """Arguments of :class:`~ct_video_hf.training.CTTrainer`.

    A subclass of ``transformers.TrainingArguments``; every field of that one works. Other defaults:
    validate, log and save once an epoch, keep the checkpoint with the best study AUROC and the
    last one, restore early stopping on resume, stop on a NaN loss, keep study ids in the batch.
    """

    sampling: str = field(
        default="balanced",
        metadata={"help": "balanced, shuffle, or the share of positive clips drawn, such as 0.3"},
    )
    optimizer: str = field(default="adamw", metadata={"help": "adamw or adam (L2 penalty)"})
    layer_decay: float | None = field(
        default=None, metadata={"help": "each stage's rate over that of the next one, such as 0.75"}
    )
    boundary: str | None = field(
        default=None, metadata={"help": "layer before which boundary_factor times the rate holds"}
    )
    boundary_factor: float = field(default=0.1, metadata={"help": "0 to 1, see boundary"})
    channels_last: bool = field(
        default=False, metadata={"help": "keep the weights in channels-last-3d layout"}
    )
    loss: str = field(default="cross_entropy", metadata={"help": "cross_entropy or focal"})
    focal_gamma: float = field(default=2.0, metadata={"help": "of the focal loss"})
    label_smoothing: float = field(default=0.0, metadata={"help": "0 to 1, of each label"})
    class_weights: str = field(
        default="none", metadata={"help": "none, balanced, or two weights such as 1,3"}
    )
    label_weights: list[float] | None = field(
        default=None, metadata={"help": "one weight a label in the loss, of several labels"}
    )
    ema: float | None = field(
        default=None, metadata={"help": "decay of the running mean of the weights, such as 0.999"}
    )
    early_stopping: int = field(
        default=5, metadata={"help": "validations without a better value before it ends; 0: never"}
    )
    aggregation: str = field(default="max", metadata={"help": "clip scores to a study score"})
    top_k: int = field(default=3, metadata={"help": "clips that mean_top_k averages"})
    study_label: str = field(
        default="study", metadata={"help": "study: the set's label; clips: any clip positive"}
    )

    eval_strategy: str = field(default="epoch", metadata={"help": "when to validate"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint"})
    logging_strategy: str = field(default="epoch", metadata={"help": "when to log the loss"})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "a private repository; false: a public one"}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the best"})
    metric_for_best_model: str | None = field(
        default="study/auroc", metadata={"help": "what the best checkpoint is best at"}
    )
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "not used"})
    label_names: list[str] | None = field(default=None, metadata={"help": "not used"})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "a NaN loss is an error here, not a gap in the log"}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "early stopping goes on counting after a resume"}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "of weights; not biases or norms"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate over time"})

    def __post_init__(self) -> None:
        if self.label_names is None:
            self.label_names = list(LABEL_NAMES)
        metric = self.metric_for_best_model
        if self.greater_is_better is None and metric is not None:
            self.greater_is_better = not metric.endswith(_LOWER_IS_BETTER)
        if self.dataloader_num_workers and self.dataloader_multiprocessing_context is None:
            # Arrow and OpenMP have threads in this process: a forked copy of it may wait for ever.
            self.dataloader_multiprocessing_context = "spawn"
            self.dataloader_persistent_workers = True  # each start imports torch anew
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # there is nothing to pin it for
        if self.push_to_hub and self.hub_strategy not in _PUSH_STRATEGIES:
            raise CTVideoError(
                f"hub_strategy is every_save or end, found {self.hub_strategy.value!r}: whole "
                "checkpoints hold pickles and the state of this machine, and are not published"
            )
        if self.optimizer not in ("adamw", "adam"):
            raise CTVideoError(f"optimizer is adamw or adam, found {self.optimizer!r}")
        _check_trackers(self.report_to)
        if self.loss not in ("cross_entropy", "focal"):
            raise CTVideoError(f"loss is cross_entropy or focal, found {self.loss!r}")
        check_aggregation(self.aggregation, self.top_k)
        if self.aggregation == "attention":
            raise CTVideoError(
                "a Trainer scores studies without a head of learned attention, which is fitted on "
                "the finished network: `ct-video-hf train --aggregation attention` does both, "
                "`ct-video-hf probe --keep-head --aggregation attention` the latter"
            )


def _check_trackers(names: list[str]) -> None:
    """Refuse a tracker that is not installed before any data is read."""
    for name in names:
        modules, install = _TRACKERS.get(name, ((), ""))
        if modules and not any(importlib.util.find_spec(module) for module in modules):
            raise CTVideoError(
                f"report_to {name}: the package {modules[0]} is not installed; {install}, or leave "
                "report_to out (the log is in training_log.csv in any case)"
            )


def _fields() -> dict[str, dataclasses.Field]:
    return {entry.name: entry for entry in dataclasses.fields(CTTrainingArguments) if entry.init}


def _parser() -> HfArgumentParser:
    return HfArgumentParser(CTTrainingArguments, allow_abbrev=False, add_help=False, prog="")


def help_of_all_fields() -> str:
    """The argparse help of every field of :class:`CTTrainingArguments`."""
    return _parser().format_help()


def _check_names(extras: dict[str, Any]) -> None:
    known = _fields()
    for name in extras:
        if name in _RESERVED:
            raise OptionError(f"option {name} is set by the run itself: {_RESERVED[name]}")
        if name not in known:
            hint = did_you_mean(name, [*OPTIONS, *ALIASES, *known])
            raise OptionError(f"unknown option {name}{hint}")


def _as_words(name: str, value: Any) -> list[str]:
    """A value from a file in the words that the command line would use."""
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    return [f"--{name}", str(value)]


def _parse_extras(extras: dict[str, Any]) -> dict[str, Any]:
    """Values of ``TrainingArguments`` fields, read as transformers' own command line reads them."""
    _check_names(extras)
    given = {name: value for name, value in extras.items() if value is not None}
    parser = _parser()
    for action in parser._actions:  # only what was said; the rest keeps our dataclass's defaults
        action.default = None
    parser.error = _refuse
    words = [word for name, value in given.items() for word in _as_words(name, value)]
    namespace = parser.parse_args(words)
    return {name: getattr(namespace, name) for name in given}


def _refuse(message: str) -> None:
    raise OptionError(f"training arguments: {message}")


def build_arguments(
    options: dict[str, Any], extras: dict[str, Any], output_dir, *, validate: bool
) -> CTTrainingArguments:
    """The Trainer's arguments from resolved options (see :func:`.options.resolve`).

    Parameters
    ----------
    options, extras : dict
        ``extras`` are further fields by their own names; unknown ones are refused.
    output_dir : path
        Where the Trainer keeps its checkpoints.
    validate : bool
        Whether there is a validation split; without one the last checkpoint is the result.
    """
    values: dict[str, Any] = {
        "output_dir": str(output_dir),
        "num_train_epochs": options["epochs"],
        "per_device_train_batch_size": options["batch_size"],
        "per_device_eval_batch_size": options["eval_batch_size"] or options["batch_size"],
        "gradient_accumulation_steps": options["accumulate"],
        "learning_rate": options["lr"],
        "weight_decay": options["weight_decay"],
        "optimizer": options["optimizer"],
        "layer_decay": options["layer_decay"],
        "boundary": options["boundary"],
        "boundary_factor": options["boundary_factor"],
        "lr_scheduler_type": _SCHEDULERS[options["scheduler"]],
        "warmup_steps": options["warmup"],
        "bf16": options["precision"] == "bf16",
        "fp16": options["precision"] == "fp16",
        "activation_checkpointing": options["gradient_checkpointing"],
        "channels_last": options["channels_last"],
        "dataloader_num_workers": options["workers"],
        "seed": options["seed"],
        "sampling": options["sampling"],
        **{name: options[name] for name in _SAME_NAME},
        "early_stopping": options["early_stopping"],
        "metric_for_best_model": options["metric"],
        # the head is fitted afterwards; until then, and to pick a checkpoint, the default holds
        "aggregation": "max" if options["aggregation"] == "attention" else options["aggregation"],
        "top_k": options["top_k"],
        "study_label": options["study_label"],
    }
    if options["report_to"]:
        values["report_to"] = options["report_to"]
    if options["torch_compile"]:
        if options["gradient_checkpointing"]:
            raise OptionError("torch_compile and gradient_checkpointing exclude each other here: "
                              "torch cannot compile blocks that are recomputed")  # fmt: skip
        values["torch_compile"] = True
    if options["push_to_hub"] is not None:
        values |= {"push_to_hub": True, "hub_model_id": options["push_to_hub"]}
    if options["scheduler"] == "plateau":
        if not validate:
            raise OptionError("scheduler plateau follows the validation loss: name a split")
        values["lr_scheduler_kwargs"] = {"factor": 0.5}
        values["warmup_steps"] = 0
    if not validate:
        values |= {"eval_strategy": "no", "load_best_model_at_end": False, "early_stopping": 0}
    values |= _parse_extras(extras)
    if started_processes() > 1 and not torch.accelerator.is_available():
        values["use_cpu"] = (
            True  # the use_cpu of accelerate's configuration reaches one process only
        )
    args = CTTrainingArguments(**values)
    check_processes(args)
    return args
