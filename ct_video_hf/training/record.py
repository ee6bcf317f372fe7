"""What is written down about a run: options, data, versions, hardware; no path of this machine."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import platform
import subprocess
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CTVideoError
from ..models.download import sha256_of
from .counts import count_split
from .sharding import spread

if TYPE_CHECKING:
    from ..data import CTClipDataset
    from .inputs import Start
    from .trainer import CTTrainer

__all__ = [
    "compare_with_record",
    "course",
    "git_state",
    "hardware",
    "make_record",
    "public_command",
    "public_manifest",
    "public_value",
    "versions",
]

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "pytorchvideo")


def public_value(value: Any) -> Any:
    """The value with every absolute path shortened to its last part, lists and dicts included."""
    if isinstance(value, dict):
        return {str(key): public_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [public_value(entry) for entry in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(value)
            if path.is_absolute() or value.startswith(("~", "..")):
                return path.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def public_command(words: list[str]) -> str:
    """A command line that can be published: absolute paths are shortened to their last part."""
    shown = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            shown.append(f"{name}={public_value(value)}")
        else:
            shown.append(str(public_value(word)))
    return " ".join(shown)


def versions() -> dict[str, str]:
    """Versions of this package, Python and what computes."""
    from .. import __version__

    found = {"ct_video_hf": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """What the run was computed on; no host name."""
    described = {
        "device": device.type,
        "processes": processes,
        "cpu_cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def git_state() -> dict[str, Any] | None:
    """The commit of the checkout that this package runs from, and whether its code was changed.

    None for an installed package, which ``versions`` names, and where git does not answer.
    """
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return None
    answers = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", package.name]):
        try:
            done = subprocess.run(
                ["git", "-C", str(package.parent), *words],
                capture_output=True, text=True, timeout=30, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            logger.info("git does not tell the revision of this checkout: %s", error)
            return None
        answers.append(done.stdout.strip())
    return {"revision": answers[0], "changed": bool(answers[1])}


def make_record(
    trainer: CTTrainer,
    parts: dict[str, CTClipDataset],
    options: dict[str, Any],
    extras: dict[str, Any],
    *,
    start: Start,
    seconds: float,
    command: list[str] | None,
    origin: dict[str, Any] | None,
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of training_config.json: enough to run the same training again.

    Parameters
    ----------
    trainer : CTTrainer
        After training.
    parts : dict
        Role (train, validation, test) -> its clips.
    options, extras : dict
        As :func:`.options.resolve` gave them.
    start : Start
        What the weights were read from.
    seconds : float
        That training took.
    command : list of str or None
        How the run was started.
    origin : dict or None
        Of a network of transformers, see :func:`.inputs.name_weights`.
    before : dict or None
        Of a run that repeats another one, see :func:`compare_with_record`.
    """
    args, state = trainer.args, trainer.state
    counts = {role: count_split(part) for role, part in parts.items()}
    return {
        "command": None if command is None else public_command(command),
        "arguments": {**public_value(options), **extras},
        "backbone": _public_backbone(options["backbone"]),
        "weights": public_value(options["weights"]),
        "weight_files": start.sha256,
        **({} if start.commit is None else {"weights_commit": start.commit}),
        "converted_from": _converted_from(start.path),
        **({} if origin is None else {"backbone_origin": origin}),
        "data": {
            "set": Path(options["data"]).name,
            "manifest": public_manifest(Path(options["data"]) / "manifest.json"),
            "counts": counts,
        },
        **course(trainer),
        "batch_size": args.per_device_train_batch_size,
        "accumulation_steps": args.gradient_accumulation_steps,
        "best_epoch": _epoch_of(state, state.best_global_step),
        "positive_weights": trainer.loss.class_weights,
        "label_weights": args.label_weights,
        "train_clips": counts["train"]["clips"],
        "train_studies": counts["train"]["studies"],
        "training_seconds": round(seconds, 1),
        "git": git_state(),
        "spread": spread(trainer.accelerator, trainer.model),
        **({} if before is None else {"run_again": before}),
    }


def course(trainer: CTTrainer) -> dict[str, Any]:
    """What a Trainer itself tells: seed, steps, the best value, parameters, what computed."""
    args, state = trainer.args, trainer.state
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "seed": args.seed,
        "global_batch_size": args.train_batch_size
        * args.gradient_accumulation_steps
        * args.world_size,
        "epochs_run": math.ceil(round(state.epoch or 0, 6)),
        "steps": state.global_step,
        "best_metric": None
        if state.best_metric is None
        else {"name": args.metric_for_best_model, "value": state.best_metric},
        "parameters": sum(value.numel() for value in model.parameters()),
        "trainable_parameters": trainer.trainable_parameters,
        "versions": versions(),
        "hardware": hardware(args.device, args.world_size),
    }


def _converted_from(start: Path | None) -> dict | None:
    """What the folder that training started from says of its own origin; see hub.convert."""
    if start is None or not (start / "conversion.json").is_file():
        return None
    return public_value(json.loads((start / "conversion.json").read_text(encoding="utf-8")))


def _public_backbone(name: str) -> str:
    """A name or Hub id as it is, of a folder the last part."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def public_manifest(path: Path) -> dict | None:
    """The set's manifest without its list of studies, with the hash of the whole file.

    None when the data is a source by name, which has no folder of its own.
    """
    if not path.is_file():
        return None
    kept = {
        name: value
        for name, value in json.loads(path.read_text(encoding="utf-8")).items()
        if name != "studies"
    }
    kept["sha256"] = sha256_of(path)
    return public_value(kept)


def _epoch_of(state, step: int | None) -> float | None:
    epochs = [row["epoch"] for row in state.log_history if row["step"] == step and "epoch" in row]
    return epochs[0] if step and epochs else None


def compare_with_record(
    record: dict[str, Any], options: dict[str, Any], start: Start
) -> dict[str, Any]:
    """What differs from the run that ``record`` tells of; every difference is logged as a warning.

    Another set or other weights are refused unless the option ``other_inputs`` allows them.

    Returns
    -------
    dict
        ``same_data`` and ``same_weights`` (None where the record does not tell), ``differences``,
        and ``git`` of the earlier run.

    Raises
    ------
    CTVideoError
        The set or the starting weights are not those of the record.
    """
    now = public_manifest(Path(options["data"]) / "manifest.json")
    then = (record.get("data") or {}).get("manifest")
    same_data = None if then is None or now is None else then["sha256"] == now["sha256"]
    same_weights = None
    if record.get("weight_files") is not None:
        same_weights = sorted(record["weight_files"].values()) == sorted(start.sha256.values())
    differences = []
    if same_data is False:
        differences.append(
            f"the set is another one: its manifest has sha256 {now['sha256'][:12]}, the record's "
            f"{then['sha256'][:12]}"
        )
    if same_weights is False:
        differences.append("the weights that training starts from are other ones")
    if differences and not options["other_inputs"]:
        raise CTVideoError(
            f"this would not repeat the run of the record: {'; '.join(differences)}. Name the ones "
            "that it had with --data and --weights, or allow others with --other-inputs"
        )
    done = record.get("versions") or {}
    differences += [
        f"{name} is {version}, and was {done[name]}"
        for name, version in versions().items()
        if name in done and done[name] != version
    ]
    said = {
        name: value
        for name, value in public_value(options).items()
        if name not in ("data", "output", "weights", "resume", "other_inputs")
    }
    told = record["arguments"]
    differences += [
        f"option {name} is {value!r}, and was {told[name]!r}"
        for name, value in said.items()
        if name in told and told[name] != value
    ]
    for words in differences:
        logger.warning("not the same run as the record's: %s", words)
    return {
        "same_data": same_data,
        "same_weights": same_weights,
        "differences": differences,
        "git": record.get("git"),
    }
