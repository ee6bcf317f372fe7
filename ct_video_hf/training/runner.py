"""The one road from options to a finished model folder, used by every way to start a training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ..data import CTClipDataset, load_ct_dataset
from ..errors import CTVideoError
from ..evaluation.predictions import LABEL_NAME
from ..evaluation.tables import clip_table
from ..models import create_model
from .arguments import build_arguments
from .batch_search import fit_batch
from .checkpoints import last_complete
from .finish import finish
from .groups import freeze_backbone, freeze_stages
from .inputs import (
    build_processor,
    find_start,
    label_choice,
    label_fields,
    label_weights,
    model_overrides,
    name_weights,
    plane_size,
    split_datasets,
)
from .lora import add_lora, merge_lora
from .memory import prepare_cpu_training
from .options import OptionError, read_config, read_record, resolve
from .record import compare_with_record, make_record, public_value
from .run_folder import RunResult, claim_output
from .trackers import is_tracking, let_trackers_go
from .trainer import CTTrainer

__all__ = ["RunResult", "run"]


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
        YAML or JSON file of options; ``given`` wins over it. Or the training_config.json of a
        finished run, to do the same again; ``given`` then names at least data and output.
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
    finished = claim_output(output, options, extras)
    if finished is not None:
        return finished

    start = find_start(options)
    record = None if config is None else read_record(config)
    before = None if record is None else compare_with_record(record, options, start)
    set_seed(options["seed"])
    studies = _load_studies(options)
    labels = label_choice(options, studies["train"])
    args.label_weights = label_weights(options["label_weights"], labels)
    model = create_model(
        options["backbone"],
        **label_fields(labels),
        keep_head=options["keep_head"],
        **model_overrides(options, start),
    )
    processor = build_processor(options, model, plane_size(studies["train"]), start)
    parts = split_datasets(options, studies, processor, labels)
    _no_double_balance(parts["train"], options)
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
    if options["aggregation"] == "attention" and options["torch_compile"]:
        raise OptionError("torch_compile hides the features that learned attention needs: fit it "
                          "afterwards, with ct-video-hf probe --keep-head --aggregation "
                          "attention")  # fmt: skip
    if options["lora"] and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise OptionError("lora learns on whole weights: leave out FSDP and DeepSpeed, DDP is "
                          "enough for it")  # fmt: skip
    if args.device.type == "cpu":
        prepare_cpu_training(model, torch.bfloat16 if args.bf16 else torch.float32)
    describe = partial(
        make_record, trainer, parts, options, extras,
        start=start, command=command, origin=origin, before=before,
    )  # fmt: skip
    trainer.describe_run = partial(describe, seconds=0.0)
    checkpoint = last_complete(output) if options["resume"] else None
    if options["find_batch_size"]:
        fit_batch(trainer, checkpoint)
        if options["eval_batch_size"] is None:
            args.per_device_eval_batch_size = args.per_device_train_batch_size
    began, tracked_before = time.perf_counter(), is_tracking()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.perf_counter() - began
    let_trackers_go(trainer, end_run=not tracked_before)
    if options["lora"]:
        trainer.model = trainer.model_wrapped = merge_lora(trainer.model)
    result = finish(trainer, parts, options, describe(seconds=seconds), write_card)
    return replace(result, push=trainer.push_finished(output))


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


def _no_double_balance(train: CTClipDataset, options: dict) -> None:
    """Drawing clips by class and weighing them by class would correct for one thing twice."""
    one_label = train.index.labels.shape[1] == 1
    if one_label and options["class_weights"] == "balanced" and options["sampling"] != "shuffle":
        raise OptionError(
            f"class_weights balanced beside sampling {options['sampling']} would balance the "
            "classes twice: add --sampling shuffle, or name two weights"
        )


def _can_pick_a_best(validation: CTClipDataset, options: dict) -> None:
    """An AUROC of one class is undefined, and then no checkpoint would ever be the best."""
    if options["metric"].rpartition("/")[2] not in ("auroc", "auprc"):
        return
    table = clip_table(validation)
    column = "study_label" if options["study_label"] == "study" else "label"
    if LABEL_NAME in table.columns:
        found = {name: set(rows[column]) - {-1} for name, rows in table.groupby(LABEL_NAME)}
        if any(labels == {0, 1} for labels in found.values()):
            return
        labels, column = set().union(*found.values()), f"{column} of each label"
    else:
        labels = set(table[column]) - {-1}
    if labels != {0, 1} or LABEL_NAME in table.columns:
        raise CTVideoError(
            f"{options['metric']} cannot pick a checkpoint: every validation {column} is "
            f"{' or '.join(map(str, labels)) or 'unknown'}. Use --metric loss, or a set whose "
            "validation split has both classes"
        )
