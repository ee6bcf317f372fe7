"""The one road from options to a finished model folder, used by every way to start a training."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import set_seed

from ..data import CTClipDataset, load_ct_dataset
from ..errors import CTVideoError
from ..evaluation import (
    Calibration,
    aggregate,
    evaluate_predictions,
    fit_calibration,
    write_json,
    write_predictions,
)
from ..evaluation.figures import plot_learning_curve, write_figures
from ..evaluation.style import in_both_themes
from ..evaluation.tables import clip_table, left_out
from ..files import move_into_place
from ..models import create_model
from .arguments import CTTrainingArguments, build_arguments
from .callbacks import LOG_NAME
from .checkpoints import discard_partial, last_complete, remove_all
from .groups import freeze_backbone, freeze_stages
from .inputs import build_processor, clip_dataset, model_overrides, name_weights, plane_size
from .lora import add_lora, merge_lora
from .memory import prepare_cpu_training
from .options import OptionError, read_config, resolve
from .record import hardware, public_command, public_value, versions
from .trainer import CTTrainer

__all__ = ["RunResult", "run"]

logger = logging.getLogger(__name__)

CONFIG_NAME = "training_config.json"
METRICS_NAME = "metrics.json"
_OPTIONS_NAME = "run_options.json"
#: Options that may differ when a run is resumed: they do not change its result.
_FREE_ON_RESUME = (
    "resume",
    "output",
    "data",
    "workers",
    "eval_batch_size",
    "keep_checkpoints",
    "disable_tqdm",
    "push_to_hub",
    "license",
    "hub_strategy",
    "hub_private_repo",
    "hub_revision",
    "hub_always_push",
)


@dataclass(frozen=True)
class RunResult:
    """A finished run: the model folder, the content of its metrics.json and config, and the push.

    ``push`` is what :meth:`.pushes.PushesToHub.push_finished` tells, with ``error`` if it failed.
    """

    folder: Path
    metrics: dict | None
    config: dict
    push: dict | None = None


def run(
    *,
    config: str | os.PathLike | None = None,
    write_card: Callable[[Path], Path] | None = None,
    command: list[str] | None = None,
    **given: Any,
) -> RunResult:
    """Train, score and save; what ``ct-video-hf train`` does.

    Parameters
    ----------
    config : path, optional
        YAML or JSON file of options; ``given`` wins over it.
    write_card : callable, optional
        Writes README.md into the finished folder; the command line passes
        ``ct_video_hf.hub.card.write_model_card``. Without it there is no README.md.
    command : list of str, optional
        How the run was started, kept in training_config.json.
    **given
        Options by name (:data:`.options.OPTIONS`) and fields of ``TrainingArguments``.

    Returns
    -------
    RunResult

    Raises
    ------
    CTVideoError
        Unknown or contradictory options, an output folder in use, unfit data, a NaN loss.
    """
    sources: list[tuple[str, Mapping[str, Any]]] = [("the options", given)]
    if config is not None:
        sources.insert(0, (Path(config).name, read_config(config)))
    options, extras = resolve(*sources)
    origin = name_weights(options)
    output = Path(options["output"]).expanduser()
    validate = options["validation_split"] != "none"
    args = build_arguments(options, extras, output, validate=validate)
    extras = {name: public_value(getattr(args, name)) for name in extras}  # as they were read
    finished = _claim_output(output, options, extras)
    if finished is not None:
        return finished

    set_seed(options["seed"])
    model = create_model(options["backbone"], num_labels=1, **model_overrides(options))
    studies = _load_studies(options)
    processor = build_processor(options, model, plane_size(studies["train"]))
    parts = {
        role: clip_dataset(
            part,
            processor,
            train=role == "train",
            min_positive_slices=options["min_positive_slices"],
            rotation=options["rotation"],
            flips=options["flips"] or (),
            intensity_scale=options["intensity_scale"],
            intensity_shift=options["intensity_shift"],
            window_jitter=options["window_jitter"],
            seed=options["seed"],
        )
        for role, part in studies.items()
    }
    if validate:
        _can_pick_a_best(parts["validation"], options)
    model = _choose_what_learns(model, options)
    trainer = CTTrainer(
        model,
        args,
        train_dataset=parts["train"],
        eval_dataset=parts.get("validation"),
        processing_class=processor,
    )
    if args.device.type == "cpu":
        prepare_cpu_training(model, torch.bfloat16 if args.bf16 else torch.float32)
    trainer.describe_run = partial(_record, trainer, parts, options, extras, 0.0, command, origin)
    checkpoint = last_complete(output) if options["resume"] else None
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - start
    if options["lora"]:
        trainer.model = trainer.model_wrapped = merge_lora(trainer.model)
    result = _finish(trainer, parts, options, extras, seconds, write_card, command, origin)
    return replace(result, push=trainer.push_finished(output))


# ---- the output folder ---------------------------------------------------------------------------


def _claim_output(output: Path, options: dict, extras: dict) -> RunResult | None:
    """Make the folder ours; the result itself when this very run is finished already."""
    state = PartialState()
    said = {"options": options, "extras": extras}
    with state.main_process_first():
        config_file, options_file = output / CONFIG_NAME, output / _OPTIONS_NAME
        if options["resume"] and config_file.is_file():
            logger.warning("the run in %s is finished, nothing to resume", output.name)
            metrics = output / METRICS_NAME
            return RunResult(
                output, _read(metrics) if metrics.is_file() else None, _read(config_file)
            )
        if options["resume"] and options_file.is_file():
            _same_options(_read(options_file), json.loads(json.dumps(said)))
            if state.is_main_process:
                discard_partial(output)
        elif state.is_main_process and _is_used(output):
            raise CTVideoError(
                f"the output folder {output.name} is not empty; choose another one"
                + (", or --resume to go on with its run" if options_file.is_file() else "")
            )
        if state.is_main_process:
            write_json(said, options_file)
    return None


def _is_used(output: Path) -> bool:
    """Whether a folder holds more than the options of a run that failed before its first step."""
    return output.exists() and any(path.name != _OPTIONS_NAME for path in output.iterdir())


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _same_options(before: dict, now: dict) -> None:
    flat_before = {**before["options"], **before["extras"]}
    flat_now = {**now["options"], **now["extras"]}
    changed = [
        f"{name} {flat_before.get(name)!r} -> {flat_now.get(name)!r}"
        for name in sorted(flat_before.keys() | flat_now.keys())
        if name not in _FREE_ON_RESUME and flat_before.get(name) != flat_now.get(name)
    ]
    if changed:
        raise CTVideoError(
            "a resumed run keeps its options, these have changed: " + "; ".join(changed)
        )


# ---- data ----------------------------------------------------------------------------------------


def _load_studies(options: dict) -> dict[str, Any]:
    """Studies by role: train, validation, test; only the roles that the options name."""
    fraction = None if options["fraction"] == 1 else options["fraction"]
    found = load_ct_dataset(options["data"], fraction=fraction, fraction_seed=options["seed"])
    names = {
        "train": "train",
        "validation": options["validation_split"],
        "test": options["test_split"],
    }
    wanted = {role: split for role, split in names.items() if split != "none"}
    for role, split in wanted.items():
        if split not in found:
            raise CTVideoError(
                f"the set {Path(options['data']).name} has no split {split!r} (it has "
                f"{', '.join(found)})"
                + ("" if role == "train" else f"; name another, or none, with --{role}-split")
            )
    return {role: found[split] for role, split in wanted.items()}


def _choose_what_learns(model, options: dict):
    """Freeze stages, or add adapters; a model of peft then, whose adapters :func:`run` merges."""
    if options["lora"]:
        if options["freeze"] != "none" or options["layer_decay"] or options["boundary"]:
            raise OptionError("lora freezes the backbone itself: leave out freeze, layer_decay "
                              "and boundary")  # fmt: skip
        return add_lora(model, options["lora"])
    if options["freeze"] == "backbone":
        freeze_backbone(model)
    elif options["freeze"] != "none":
        freeze_stages(model, int(options["freeze"]))
    return model


def _can_pick_a_best(validation: CTClipDataset, options: dict) -> None:
    """An AUROC of one class is undefined, and then no checkpoint would ever be the best."""
    if options["metric"].rpartition("/")[2] not in ("auroc", "auprc"):
        return
    table = clip_table(validation)
    column = "study_label" if options["study_label"] == "study" else "label"
    labels = set(table[column]) - {-1}
    if labels != {0, 1}:
        raise CTVideoError(
            f"{options['metric']} cannot pick a checkpoint: every validation {column} is "
            f"{', '.join(map(str, labels)) or 'unknown'}. Use --metric loss, or a set whose "
            "validation split has both classes"
        )


# ---- the finished folder -------------------------------------------------------------------------


def _finish(trainer, parts, options, extras, seconds, write_card, command, origin) -> RunResult:
    """Score the best model and put everything in place, the record last."""
    output = Path(trainer.args.output_dir)
    tables = {}
    for role in ("validation", "test"):
        if role in parts:
            trainer.predict(parts[role], metric_key_prefix=role)
            tables[role] = trainer.predictions
    scored = "test" if "test" in tables else "validation" if "validation" in tables else None
    calibration = _calibration(tables.get("validation"), options)
    record = _record(trainer, parts, options, extras, seconds, command, origin)
    metrics = None
    if scored:
        metrics = evaluate_predictions(
            tables[scored],
            **_rules(options),
            resamples=options["resamples"],
            seed=options["seed"],
            left_out=left_out(parts[scored]),
            # on the studies that it was fitted on it would only flatter
            calibration=calibration if scored == "test" else None,
        )
    stage = output / ".finished"
    state = PartialState()
    if state.is_main_process:
        shutil.rmtree(stage, ignore_errors=True)
    state.wait_for_everyone()
    trainer.save_model(str(stage), _internal_call=True)
    if state.is_main_process:
        write_json(record, stage / CONFIG_NAME)
        if calibration is not None:
            calibration.write(stage)
        _write_evidence(stage, tables, scored, metrics, trainer, options, calibration)
        if write_card is not None:
            shutil.copyfile(output / LOG_NAME, stage / LOG_NAME)
            write_card(stage)
        move_into_place(stage, output, last=CONFIG_NAME)  # with it the run counts as finished
        (output / _OPTIONS_NAME).unlink()
        if not options["keep_checkpoints"]:
            remove_all(output)
    state.wait_for_everyone()
    return RunResult(output, metrics, record)


def _rules(options: dict) -> dict[str, Any]:
    """How clips become studies, as the evaluation room calls it."""
    return {
        "aggregation": options["aggregation"],
        "top_k": options["top_k"],
        "label_from": options["study_label"],
    }


def _calibration(validation, options: dict) -> Calibration | None:
    """Fitted on the validation studies; None, with a word, where that is not possible."""
    if options["calibration"] == "none" or validation is None:
        return None
    rules = _rules(options)
    studies = aggregate(
        validation, rules["aggregation"], top_k=rules["top_k"], label_from=rules["label_from"]
    )
    try:
        return fit_calibration(studies, options["calibration"], **rules)
    except CTVideoError as error:
        logger.warning("the model is not calibrated: %s", error)
        return None


def _write_evidence(stage: Path, tables, scored, metrics, trainer, options, calibration) -> None:
    for role, table in tables.items():
        name = "predictions" if role == scored else f"predictions_{role}"
        write_predictions(table, stage, name)
    figures = stage / "figures"
    in_both_themes(
        plot_learning_curve,
        trainer.state.log_history,
        path=figures / "learning_curve.png",
        metric=options["metric"],
    )
    if scored:
        write_json(metrics, stage / METRICS_NAME)
        write_figures(
            tables[scored],
            figures,
            calibration=calibration if scored == "test" else None,
            resamples=options["resamples"],
            seed=options["seed"],
            **_rules(options),
        )


def _record(trainer: CTTrainer, parts, options, extras, seconds: float, command, origin) -> dict:
    args: CTTrainingArguments = trainer.args
    state = trainer.state
    train = clip_table(parts["train"])
    counts = {
        role: {
            "studies": int(table["study_index"].nunique()),
            "positive_studies": int(
                (table.drop_duplicates("study_index")["study_label"] == 1).sum()
            ),
            "clips": len(table),
            "positive_clips": int((table["label"] == 1).sum()),
            "left_out": left_out(parts[role]),
        }
        for role, table in ((role, clip_table(part)) for role, part in parts.items())
    }
    return {
        "command": None if command is None else public_command(command),
        "arguments": {**public_value(options), **extras},
        "backbone": _public_backbone(options["backbone"]),
        "weights": public_value(options["weights"]),
        "converted_from": _converted_from(options["weights"]),
        **({} if origin is None else {"backbone_origin": origin}),
        "data": {
            "set": Path(options["data"]).name,
            "manifest": _public_manifest(Path(options["data"]) / "manifest.json"),
            "counts": counts,
        },
        "seed": options["seed"],
        "global_batch_size": args.train_batch_size
        * args.gradient_accumulation_steps
        * args.world_size,
        "epochs_run": math.ceil(round(state.epoch or 0, 6)),
        "steps": state.global_step,
        "best_epoch": _epoch_of(state, state.best_global_step),
        "best_metric": {"name": args.metric_for_best_model, "value": state.best_metric}
        if state.best_metric is not None
        else None,
        "train_clips": len(train),
        "train_studies": int(train["study_index"].nunique()),
        "parameters": sum(value.numel() for value in trainer.model.parameters()),
        "trainable_parameters": trainer.trainable_parameters,
        "training_seconds": round(seconds, 1),
        "versions": versions(),
        "hardware": hardware(args.device, args.world_size),
    }


def _converted_from(weights: str) -> dict | None:
    """What the folder that training started from says of its own origin; see hub.convert."""
    path = Path(weights) / "conversion.json"
    return public_value(_read(path)) if path.is_file() else None


def _public_backbone(name: str) -> str:
    """A name or Hub id as it is, of a folder the last part."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _public_manifest(path: Path) -> dict | None:
    """The set's manifest without its list of studies, with the hash of the whole file.

    None when the data is a source by name, which has no folder of its own.
    """
    if not path.is_file():
        return None
    kept = {name: value for name, value in _read(path).items() if name != "studies"}
    kept["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return public_value(kept)


def _epoch_of(state, step: int | None) -> float | None:
    epochs = [row["epoch"] for row in state.log_history if row["step"] == step and "epoch" in row]
    return epochs[0] if step and epochs else None
