"""What can be said about a training run: names, defaults, presets, files; standard library only.

``ct-video-hf train --help`` reads this module, so it must not import torch or transformers. Any
field of transformers' ``TrainingArguments`` that is not named here may be given as well; those are
checked in :mod:`ct_video_hf.training.arguments`, once transformers is imported anyway.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CTVideoError

__all__ = [
    "ALIASES",
    "OPTIONS",
    "PRESETS",
    "Option",
    "OptionError",
    "add_options",
    "did_you_mean",
    "parse_extras",
    "read_config",
    "resolve",
]


def _flag(text: str) -> bool:
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


class OptionError(CTVideoError):
    """An option that is unknown, missing, given twice, or has an impossible value."""


@dataclass(frozen=True)
class Option:
    """One option: how it is called, read, explained, and what holds without it."""

    name: str
    group: str
    help: str
    parse: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] | None = None
    metavar: str | None = None
    several: bool = False
    required: bool = False

    def read(self, value: Any) -> Any:
        """A value from the command line, a file or Python, as the option's own type."""
        if value is None:
            if self.required or self.default is not None:
                raise OptionError(f"option {self.name}: a value is needed, found null")
            return None
        if self.several:
            values = value if isinstance(value, list | tuple) else [value]
            # a window is itself a pair, in a file written [centre, width]
            return [self._read_one(self._joined(entry)) for entry in values]
        return self._read_one(value)

    @staticmethod
    def _joined(entry: Any) -> Any:
        return ",".join(map(str, entry)) if isinstance(entry, list | tuple) else entry

    def _read_one(self, value: Any) -> Any:
        if isinstance(value, dict | list | tuple):
            raise OptionError(f"option {self.name} takes one value, found {value!r}")
        text = str(value)
        try:
            parsed = self.parse(text)
        except ValueError as error:
            raise OptionError(f"option {self.name}: {error}") from error
        if self.choices and parsed not in self.choices:
            hint = did_you_mean(text, self.choices)
            raise OptionError(
                f"option {self.name}: choose from {', '.join(self.choices)}, found {text!r}{hint}"
            )
        return parsed


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
    Option("weights", _WHAT, "none, kinetics (imagenet for 2D networks), or the path of a "
           "checkpoint or model folder; with a folder or Hub id as backbone: saved (its own "
           "weights) or none (default: none for a name, saved for a folder or Hub id)",
           metavar="W"),
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
    Option("precision", _TRAIN, "bf16 and fp16: mixed precision", default="fp32",
           choices=("fp32", "bf16", "fp16")),
    Option("gradient_checkpointing", _TRAIN, "recompute activations: less memory, more time",
           _flag, default=False, metavar="BOOL"),
    Option("channels_last", _TRAIN, "channels-last memory layout, faster with bf16", _flag,
           default=False, metavar="BOOL"),

    Option("early_stopping", _EVAL, "stop after N validations without a better value; 0: never",
           _not_negative, default=5, metavar="N"),
    Option("metric", _EVAL, "what the best checkpoint is best at, such as study/auroc or loss",
           default="study/auroc", metavar="NAME"),
    Option("validation_split", _EVAL, "split that picks the checkpoint; none: keep the last one",
           default="validation", metavar="NAME"),
    Option("test_split", _EVAL, "split that the finished model is scored on; none: no scores",
           default="test", metavar="NAME"),
    Option("aggregation", _EVAL, "clip scores to a study score", default="max",
           choices=("max", "mean_top_k", "noisy_or")),
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
    Option("resume", _RUN, "go on from the last whole checkpoint in the output folder", _flag,
           default=False, metavar="BOOL"),
    Option("push_to_hub", _RUN, "push to this repository of the Hub, private and made if it is not "
           "there: every checkpoint while training goes on (--hub-strategy end: only the finished "
           "model) and the finished model; --hub-private-repo false makes it public", _repo,
           metavar="REPO"),
    Option("license", _RUN, "licence that the trained weights are published under, for the card, "
           "such as cc-by-4.0 (default: not stated)", metavar="ID"),
    Option("keep_checkpoints", _RUN, "leave the checkpoints in the finished folder", _flag,
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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare every option, in groups; what is not said is absent from the namespace."""
    for title in GROUPS:
        group = parser.add_argument_group(title)
        for option in (entry for entry in _ALL if entry.group == title):
            _add_option(group, option)


def _add_option(group, option: Option) -> None:
    text = option.help
    if option.default is not None and option.parse is not _flag:
        text += (
            f" (default: {option.default:g})"
            if isinstance(option.default, float)
            else (f" (default: {option.default})")
        )
    kwargs: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    kwargs["help"] = text.replace("%", "%%")
    if option.choices:
        kwargs["choices"] = option.choices
    else:
        kwargs["metavar"] = option.metavar
    if option.several:
        kwargs["nargs"] = "+"
    if option.parse is _flag:
        kwargs.update(nargs="?", const="true")
    group.add_argument(f"--{option.name.replace('_', '-')}", **kwargs)


def parse_extras(words: list[str]) -> dict[str, Any]:
    """``--name value``, ``--name=value`` and bare ``--flag`` words that no option above took."""
    extras: dict[str, Any] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name in extras:
                raise OptionError(f"--{name} is given twice")
            extras[name] = [value] if value else []
        elif name is None:
            raise OptionError(f"unexpected argument {word!r}; options are written --name value")
        else:
            extras[name].append(word)
    return {
        key: "true" if not values else values[0] if len(values) == 1 else values
        for key, values in extras.items()
    }


def read_config(path) -> dict[str, Any]:
    """Options from one YAML or JSON file; keys are option names, with - or _ between words."""
    path = Path(path)
    if not path.is_file():
        raise OptionError(f"no configuration file {path}")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            content = json.loads(text)
        else:
            import yaml

            content = yaml.safe_load(text)
    except ValueError as error:  # json
        raise OptionError(f"{path.name} is not valid JSON: {error}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise OptionError(f"{path.name} must hold option: value lines, found {type(content)}")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _named(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The same values under our own names; an option said twice under two names is refused."""
    named: dict[str, Any] = {}
    for key, value in given.items():
        name = ALIASES.get(key, key)
        if name in named:
            raise OptionError(f"{source}: {key} and {name} are one option, give it once")
        named[name] = value
    return named


def resolve(*sources: tuple[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Effective options: defaults, then the preset, then each source; later ones win.

    Parameters
    ----------
    *sources : (str, mapping)
        A name for messages ("the command line") and what was said there.

    Returns
    -------
    options : dict
        A value for every option in :data:`OPTIONS`.
    extras : dict
        What else was said: fields of ``TrainingArguments``, unchecked.
    """
    said: dict[str, Any] = {}
    for source, given in sources:
        said |= _named(given, source)
    extras = {name: value for name, value in said.items() if name not in OPTIONS}
    chosen = {name: OPTIONS[name].read(value) for name, value in said.items() if name in OPTIONS}
    defaults = {name: option.default for name, option in OPTIONS.items()}
    preset = PRESETS[chosen.get("preset", "default")]
    options = defaults | preset | chosen
    missing = [name for name, option in OPTIONS.items() if option.required and not options[name]]
    if missing:
        raise OptionError(
            "needed and not given: "
            + ", ".join(f"--{name}" for name in missing)
            + " (on the command line or in the file of --config)"
        )
    return options, extras
