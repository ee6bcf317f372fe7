"""The end of a run: the best model scored, and everything put into its folder at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import AutoModelForVideoClassification

from ..evaluation import write_json
from ..evaluation.evidence import Evidence, gather_evidence
from ..evaluation.figures import plot_learning_curve
from ..evaluation.style import in_both_themes
from ..evaluation.tables import left_out, with_attention
from ..files import move_into_place
from ..models.download import sha256_of
from ..progress import no_transformers_bars
from .attention import bags_of, fit_attention
from .callbacks import LOG_NAME
from .checkpoints import remove_all
from .features import weights_hash
from .inputs import as_scored
from .run_folder import CONFIG_NAME, OPTIONS_NAME, RunResult

__all__ = ["finish"]


def finish(trainer, parts, options, record: dict, write_card) -> RunResult:
    """Score the best model and put everything in place, the record last.

    ``record`` is of :func:`.record.make_record`; the hashes of the model's files are added.
    """
    output = Path(trainer.args.output_dir)
    stage = output / ".finished"
    state = PartialState()
    if state.is_main_process:
        shutil.rmtree(stage, ignore_errors=True)
    state.wait_for_everyone()
    trainer.model.config.study_aggregation = options["aggregation"]
    trainer.save_model(str(stage), _internal_call=True)
    state.wait_for_everyone()
    tables, head = _score(trainer, parts, options, stage)
    evidence = _gather(tables, parts, options)
    if state.is_main_process:
        if head is not None:
            head.write(stage)
            record |= {"attention": head.fit}
        files = sorted(stage.glob("*.safetensors"))
        record |= {"model_files": {file.name: sha256_of(file) for file in files}}
        write_json(record, stage / CONFIG_NAME)
        evidence.write(stage)
        in_both_themes(
            plot_learning_curve,
            trainer.state.log_history,
            path=stage / "figures" / "learning_curve.png",
            metric=options["metric"],
        )
        if write_card is not None:
            shutil.copyfile(output / LOG_NAME, stage / LOG_NAME)
            write_card(stage)
        move_into_place(stage, output, last=CONFIG_NAME)  # with it the run counts as finished
        (output / OPTIONS_NAME).unlink()
        if not options["keep_checkpoints"]:
            remove_all(output)
    state.wait_for_everyone()
    return RunResult(output, evidence.metrics, record)


def _score(trainer, parts, options: dict, stage: Path):
    """Predictions tables of validation and test, and the attention head where one was asked for.

    The head is fitted by the first process, on what all processes gathered.
    """
    learned = options["aggregation"] == "attention"
    trainer.keep_features = learned
    tables, features = {}, {}
    roles = {role: parts[role] for role in ("validation", "test") if role in parts}
    if learned:
        roles["train"] = as_scored(parts["train"])
    for role, dataset in roles.items():
        trainer.predict(dataset, metric_key_prefix=role)
        tables[role], features[role] = trainer.predictions, trainer.features
    trainer.keep_features = False
    if not learned:
        return tables, None
    tables.pop("train")
    bags = {
        role: bags_of(roles[role], features[role], options["study_label"])
        for role in ("train", "validation")
        if role in roles
    }
    head = None
    if PartialState().is_main_process:
        with no_transformers_bars():
            network = AutoModelForVideoClassification.from_pretrained(stage, dtype=torch.float32)
        names = [str(network.config.id2label[place]) for place in range(network.config.num_labels)]
        head = fit_attention(
            bags["train"], bags.get("validation"), network.classifier, tuple(names),
            weights_hash(network), seed=options["seed"],
        )  # fmt: skip
    (head,) = broadcast_object_list([head], from_process=0)
    tables = {
        role: with_attention(table, roles[role], head.clip_values(features[role]))
        for role, table in tables.items()
    }
    return tables, head


def _gather(tables: dict, parts: dict, options: dict) -> Evidence:
    rules = {
        "aggregation": options["aggregation"],
        "top_k": options["top_k"],
        "label_from": options["study_label"],
    }
    return gather_evidence(
        tables,
        {role: left_out(parts[role]) for role in tables},
        calibration=options["calibration"],
        rules=rules,
        resamples=options["resamples"],
        seed=options["seed"],
    )
