"""Every option of a training run, in the order of its help, and the presets.

Standard library only, as everything that ``ct-video-hf train --help`` reads.
"""

from __future__ import annotations

import re
from typing import Any

from .option import Option

__all__ = ["ALIASES", "GROUPS", "OPTIONS", "PRESETS", "read_flag"]


def read_flag(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError(f"true or false, not {text!r}")
    return words[text.lower()]


def _window(text: str) -> list[float]:
    parts = text.split(",")
    if len(parts) != 2:
        raise ValueError(f"CENTRE,WIDTH in HU such as 400,1000, not {text!r}")
    return [float(part) for part in parts]


def _sampling(text: str) -> str:
    if text in ("balanced", "shuffle"):
        return text
    if 0 < float(text) < 1:
        return text
    raise ValueError(f"balanced, shuffle, or the share of positive clips, not {text!r}")


def _freeze(text: str) -> str:
    if text in ("none", "backbone") or (text.isdigit() and int(text) > 0):
        return text
    raise ValueError(f"none, backbone, or a number of stages from 1, not {text!r}")


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise ValueError(f"0 to 1, not {text}")
    return float(text)


def _within(text: str) -> float:
    if not 0 < float(text) < 1:
        raise ValueError(f"between 0 and 1, such as 0.999, not {text}")
    return float(text)


def _below_one(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise ValueError(f"from 0 to below 1, not {text}")
    return float(text)


def _class_weights(text: str) -> str:
    if text in ("none", "balanced"):
        return text
    parts = [float(part) for part in text.split(",")]
    if len(parts) != 2 or not all(0 < part < float("inf") for part in parts):
        raise ValueError(f"none, balanced, or two weights above 0 such as 1,3, not {text!r}")
    return text


def _label_weights(text: str) -> str:
    if text in ("set", "none"):
        return text
    if not all(0 <= float(part) < float("inf") for part in text.split(",")):
        raise ValueError(f"set, none, or one weight of 0 or more a label, not {text!r}")
    return text


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(f"at least 1, not {text}")
    return int(text)


def _repo(text: str) -> str:
    if not re.fullmatch(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", text) or (
        text.lower() in ("true", "false", "yes", "no")
    ):
        raise ValueError(f"the repository to push to, as user/name, not {text!r}")
    return text


def _not_negative(text: str) -> int:
    if int(text) < 0:
        raise ValueError(f"0 or more, not {text}")
    return int(text)


def _from_zero(text: str) -> float:
    if not 0 <= float(text) < float("inf"):
        raise ValueError(f"0 or more, not {text}")
    return float(text)


GROUPS = ("what to train", "input", "training", "validation and test", "running")
_WHAT, _INPUT, _TRAIN, _EVAL, _RUN = GROUPS

_ALL = (
    Option("data", _WHAT, "prepared set (ct-video-hf prepare writes it)", metavar="SET",
           required=True),
    Option("output", _WHAT, "folder for the finished model; created, must not hold another run",
           metavar="DIR", required=True),
    Option("backbone", _WHAT, "network: slow_r50, x3d_s, x3d_m, slowfast_r50, r3d_18, mc3_18, "
           "r2plus1d_18, resnet18_2d, slow_tiny, ...; a wrong name lists all. Or the folder or Hub "
           "id (user/model, user/model@revision) of a VideoMAE, V-JEPA 2, TimeSformer or ViViT of "
           "transformers", default="slow_r50", metavar="NAME"),
    Option("weights", _WHAT, "none, kinetics (imagenet for 2D networks), the path of a checkpoint "
           "or model folder, or the Hub id of a model (user/model); with a folder or Hub id as "
           "backbone: saved (its own weights) or none (default: none for a name, saved for a "
           "folder or Hub id)", metavar="W"),
    Option("keep_head", _WHAT, "start with the classifier of the weights, too, instead of a new "
           "one", read_flag, default=False, metavar="BOOL"),
    Option("other_inputs", _WHAT, "repeat the run of --config RUN/training_config.json on another "
           "set or from other weights, which is refused otherwise", read_flag, default=False,
           metavar="BOOL"),
    Option("labels", _WHAT, "which labels of a set with several are learned, by name (default: "
           "all, one logit each; clips of unknown label do not count for it)", several=True,
           metavar="NAME"),
    Option("preset", _WHAT, "starting values: what a practitioner does today, or the paper's",
           default="default", choices=("default", "paper-rsna", "paper-lidc")),
    Option("freeze", _WHAT, "backbone: train the head alone; N: freeze the first N stages, the "
           "stem among them; batch norm statistics are kept", _freeze, default="none",
           metavar="none|backbone|N"),
    Option("lora", _WHAT, "rank of low-rank adapters that learn instead of the backbone's weights "
           "and are merged into them at the end; 0: none (needs the extra lora)", _not_negative,
           default=0, metavar="RANK"),

    Option("windows", _INPUT, "HU windows, one for each channel or one for all; CENTRE,WIDTH",
           _window, several=True, metavar="C,W"),
    Option("num_frames", _INPUT, "slices in a clip", _positive, metavar="N"),
    Option("stride", _INPUT, "slices between the starts of clips (default: num_frames)",
           _positive, metavar="N"),
    Option("tail", _INPUT, "the slices that fill no whole clip: padded with air, covered by a "
           "clip shifted back, or dropped", choices=("pad", "shift", "drop")),
    Option("crop_size", _INPUT, "in-plane size of a clip, cut from the set's planes, pixels",
           _positive, metavar="PX"),
    Option("fraction", _INPUT, "share of the training patients to use; smaller shares are part "
           "of larger ones", float, default=1.0, metavar="SHARE"),
    Option("min_positive_slices", _INPUT, "a clip with this many positive slices is positive",
           _positive, default=4, metavar="N"),
    Option("rotation", _INPUT, "largest rotation in training, whole degrees either way",
           _not_negative, default=20, metavar="DEG"),
    Option("flips", _INPUT, "axes that may be mirrored in training (default: none; a mirrored "
           "chest has its heart on the wrong side)", choices=("columns", "rows", "slices"),
           several=True),
    Option("intensity_scale", _INPUT, "training multiplies HU by 1 - x to 1 + x", _from_zero,
           default=0.0, metavar="X"),
    Option("intensity_shift", _INPUT, "training adds -x to x HU", _from_zero, default=0.0,
           metavar="HU"),
    Option("window_jitter", _INPUT, "training moves and widens the windows by up to this share "
           "of their width", _from_zero, default=0.0, metavar="SHARE"),
    Option("sampling", _INPUT, "balanced, shuffle, or the share of positive clips, such as 0.3",
           _sampling, default="balanced", metavar="S"),

    Option("epochs", _TRAIN, "passes over the training clips", float, default=20.0, metavar="N"),
    Option("batch_size", _TRAIN, "clips in a batch, for each process", _positive, default=8,
           metavar="N"),
    Option("eval_batch_size", _TRAIN, "the same where nothing is learned (default: batch_size)",
           _positive, metavar="N"),
    Option("find_batch_size", _TRAIN, "try batch_size first and take its largest divisor that "
           "fits into memory; accumulation keeps the clips of a step", read_flag, default=False,
           metavar="BOOL"),
    Option("accumulate", _TRAIN, "batches to each optimizer step", _positive, default=1,
           metavar="N"),
    Option("lr", _TRAIN, "highest learning rate", float, default=3e-4, metavar="RATE"),
    Option("layer_decay", _TRAIN, "each stage learns at this factor times the rate of the next "
           "one, the head at lr; such as 0.75", _share, metavar="X"),
    Option("boundary", _TRAIN, "layer, such as classifier or blocks.4: what stands before it "
           "learns at boundary_factor times lr", metavar="LAYER"),
    Option("boundary_factor", _TRAIN, "see boundary", _share, default=0.1, metavar="X"),
    Option("weight_decay", _TRAIN, "decoupled for adamw, an L2 penalty for adam", float,
           default=0.01, metavar="X"),
    Option("optimizer", _TRAIN, "adamw (no decay on biases and norms) or adam (the paper's)",
           default="adamw", choices=("adamw", "adam")),
    Option("scheduler", _TRAIN, "plateau halves the rate when the validation loss stands still",
           default="cosine", choices=("cosine", "linear", "constant", "plateau")),
    Option("warmup", _TRAIN, "share of the steps in which the rate rises", float, default=0.1,
           metavar="SHARE"),
    Option("loss", _TRAIN, "cross_entropy, or focal (Lin et al. 2017), which counts clips less the "
           "surer the network is of them; both over the known labels alone",
           default="cross_entropy", choices=("cross_entropy", "focal")),
    Option("focal_gamma", _TRAIN, "power of the focal loss", _from_zero, default=2.0, metavar="G"),
    Option("label_smoothing", _TRAIN, "share of a label that is spread over present and absent: a "
           "label 1 becomes 1 - x/2", _below_one, default=0.0, metavar="X"),
    Option("class_weights", _TRAIN, "weights of negative and positive clips in the loss: two "
           "numbers such as 1,3, or balanced, which counts the training clips of each label (with "
           "sampling shuffle, for sampling by class evens them out already)", _class_weights,
           default="none", metavar="none|balanced|W0,W1"),
    Option("label_weights", _TRAIN, "weights of several labels in the loss: those of the set's "
           "official metric, where it has one (set), none, or one a label", _label_weights,
           default="set", metavar="set|none|W,W,..."),
    Option("ema", _TRAIN, "decay, such as 0.999, of a running mean of the weights, which is "
           "validated and saved in their place (default: none)", _within, metavar="DECAY"),
    Option("precision", _TRAIN, "bf16 and fp16: mixed precision", default="fp32",
           choices=("fp32", "bf16", "fp16")),
    Option("torch_compile", _TRAIN, "compile the network with torch.compile: minutes at the start, "
           "faster steps afterwards on a GPU; not with gradient_checkpointing", read_flag,
           default=False, metavar="BOOL"),
    Option("gradient_checkpointing", _TRAIN, "recompute activations: less memory, more time",
           read_flag, default=False, metavar="BOOL"),
    Option("channels_last", _TRAIN, "channels-last memory layout, faster with bf16", read_flag,
           default=False, metavar="BOOL"),

    Option("early_stopping", _EVAL, "stop after N validations without a better value; 0: never",
           _not_negative, default=5, metavar="N"),
    Option("metric", _EVAL, "what the best checkpoint is best at, such as study/auroc or loss",
           default="study/auroc", metavar="NAME"),
    Option("validation_split", _EVAL, "split that picks the checkpoint; none: keep the last one",
           default="validation", metavar="NAME"),
    Option("test_split", _EVAL, "split that the finished model is scored on; none: no scores",
           default="test", metavar="NAME"),
    Option("aggregation", _EVAL, "clip scores to a study score; attention is learned from the "
           "train studies once the network is finished, and max picks its checkpoint",
           default="max", choices=("max", "mean_top_k", "noisy_or", "attention")),
    Option("top_k", _EVAL, "clips that mean_top_k averages", _positive, default=3, metavar="K"),
    Option("study_label", _EVAL, "a study is positive by its own label, or (the paper's rule) "
           "when one of its clips is", default="study", choices=("study", "clips")),
    Option("calibration", _EVAL, "what makes probabilities of study scores, fitted on the "
           "validation studies", default="temperature",
           choices=("none", "temperature", "isotonic")),
    Option("resamples", _EVAL, "bootstrap resamples of an interval", _not_negative, default=2000,
           metavar="N"),

    Option("seed", _RUN, "of weights, order, augmentation and resamples", _not_negative,
           default=0, metavar="N"),
    Option("workers", _RUN, "processes that load data, for each training process", _not_negative,
           default=0, metavar="N"),
    Option("resume", _RUN, "go on from the last whole checkpoint in the output folder", read_flag,
           default=False, metavar="BOOL"),
    Option("push_to_hub", _RUN, "push to this repository of the Hub, private and made if it is not "
           "there: every checkpoint while training goes on (--hub-strategy end: only the finished "
           "model) and the finished model; --hub-private-repo false makes it public", _repo,
           metavar="REPO"),
    Option("license", _RUN, "licence that the trained weights are published under, for the card, "
           "such as cc-by-4.0 (default: not stated)", metavar="ID"),
    Option("report_to", _RUN, "where the course of training goes besides console and CSV: "
           "tensorboard (needs the extra of that name), trackio, wandb, ...", several=True,
           metavar="TRACKER"),
    Option("keep_checkpoints", _RUN, "leave the checkpoints in the finished folder", read_flag,
           default=False, metavar="BOOL"),
)  # fmt: skip

#: name -> :class:`Option`
OPTIONS: dict[str, Option] = {option.name: option for option in _ALL}

#: transformers' name for what an option says; either may be used, not both.
ALIASES = {
    "output_dir": "output",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "accumulate",
    "learning_rate": "lr",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "scheduler",
    "dataloader_num_workers": "workers",
    "metric_for_best_model": "metric",
    "resume_from_checkpoint": "resume",
}

#: Values that replace defaults. The paper searched the learning rate and trained in 16 bit; its
#: presets keep our default rate and precision, which the run may set. Input comes from the
#: processor preset of the same name (windows, mean, sizes, clip length, tail).
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper-rsna": {
        "optimizer": "adam",
        "weight_decay": 1e-6,
        "scheduler": "plateau",
        "warmup": 0.0,
        "epochs": 50.0,
        "early_stopping": 5,
        "rotation": 20,
        "intensity_scale": 0.0,
        "intensity_shift": 0.0,
        "window_jitter": 0.0,
        "sampling": "0.3",
        "study_label": "clips",
    },
    "paper-lidc": {
        "optimizer": "adam",
        "weight_decay": 1e-6,
        "scheduler": "plateau",
        "warmup": 0.0,
        "epochs": 50.0,
        "early_stopping": 5,
        "rotation": 20,
        "intensity_scale": 0.0,
        "intensity_shift": 0.0,
        "window_jitter": 0.0,
        "sampling": "balanced",
        "study_label": "clips",
    },
}
