"""The end of a run: the best model scored, and everything put into its folder at once."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState

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
from ..evaluation.figures_labels import write_label_figures
from ..evaluation.several import has_several_labels
from ..evaluation.style import in_both_themes
from ..evaluation.tables import left_out
from ..files import move_into_place
from .arguments import CTTrainingArguments
from .callbacks import LOG_NAME
from .checkpoints import remove_all
from .counts import count_split
from .record import hardware, public_command, public_value, versions
from .run_folder import CONFIG_NAME, METRICS_NAME, OPTIONS_NAME, RunResult, read_json
from .trainer import CTTrainer

__all__ = ["finish", "run_record"]

logger = logging.getLogger(__name__)


def finish(trainer, parts, options, extras, seconds, write_card, command, origin) -> RunResult:
    """Score the best model and put everything in place, the record last."""
    output = Path(trainer.args.output_dir)
    tables = {}
    for role in ("validation", "test"):
        if role in parts:
            trainer.predict(parts[role], metric_key_prefix=role)
            tables[role] = trainer.predictions
    scored = "test" if "test" in tables else "validation" if "validation" in tables else None
    calibration = _calibration(tables.get("validation"), options)
    record = run_record(trainer, parts, options, extras, seconds, command, origin)
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
        (output / OPTIONS_NAME).unlink()
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
    if has_several_labels(validation):
        logger.info("a model of several labels is not calibrated")
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
    if scored and "labels" in metrics:
        write_label_figures(metrics, figures)
    elif scored:
        write_figures(
            tables[scored],
            figures,
            calibration=calibration if scored == "test" else None,
            resamples=options["resamples"],
            seed=options["seed"],
            **_rules(options),
        )


def run_record(trainer: CTTrainer, parts, options, extras, seconds: float, command, origin) -> dict:
    args: CTTrainingArguments = trainer.args
    state = trainer.state
    counts = {role: count_split(part) for role, part in parts.items()}
    return {
        "command": None if command is None else public_command(command),
        "arguments": {**public_value(options), **extras},
        "backbone": _public_backbone(options["backbone"]),
        "weights": public_value(options["weights"]),
        "converted_from": _converted_from(options["weights"]),
        **({} if origin is None else {"backbone_origin": origin}),
        "data": {
            "set": Path(options["data"]).name,
            "manifest": public_manifest(Path(options["data"]) / "manifest.json"),
            "counts": counts,
        },
        "seed": options["seed"],
        "global_batch_size": args.train_batch_size
        * args.gradient_accumulation_steps
        * args.world_size,
        "batch_size": args.per_device_train_batch_size,
        "accumulation_steps": args.gradient_accumulation_steps,
        "epochs_run": math.ceil(round(state.epoch or 0, 6)),
        "steps": state.global_step,
        "best_epoch": _epoch_of(state, state.best_global_step),
        "best_metric": {"name": args.metric_for_best_model, "value": state.best_metric}
        if state.best_metric is not None
        else None,
        "positive_weights": trainer.loss.class_weights,
        "label_weights": args.label_weights,
        "train_clips": counts["train"]["clips"],
        "train_studies": counts["train"]["studies"],
        "parameters": sum(value.numel() for value in trainer.model.parameters()),
        "trainable_parameters": trainer.trainable_parameters,
        "training_seconds": round(seconds, 1),
        "versions": versions(),
        "hardware": hardware(args.device, args.world_size),
    }


def _converted_from(weights: str) -> dict | None:
    """What the folder that training started from says of its own origin; see hub.convert."""
    path = Path(weights) / "conversion.json"
    return public_value(read_json(path)) if path.is_file() else None


def _public_backbone(name: str) -> str:
    """A name or Hub id as it is, of a folder the last part."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def public_manifest(path: Path) -> dict | None:
    """The set's manifest without its list of studies, with the hash of the whole file.

    None when the data is a source by name, which has no folder of its own.
    """
    if not path.is_file():
        return None
    kept = {name: value for name, value in read_json(path).items() if name != "studies"}
    kept["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return public_value(kept)


def _epoch_of(state, step: int | None) -> float | None:
    epochs = [row["epoch"] for row in state.log_history if row["step"] == step and "epoch" in row]
    return epochs[0] if step and epochs else None
