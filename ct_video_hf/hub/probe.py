"""A linear probe on cached features, saved as a whole model folder with its evidence."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..data import load_ct_dataset
from ..data.label_choice import choose_labels
from ..errors import CTVideoError
from ..evaluation import point_metrics, write_json
from ..evaluation.evidence import Evidence, gather_evidence
from ..evaluation.tables import left_out, predictions_from, with_attention
from ..training.attention import bags_of, fit_attention
from ..training.counts import count_split
from ..training.features import SetFeatures, weights_hash
from ..training.inputs import clip_dataset
from ..training.loss import TrainingLoss, positive_weights
from ..training.probe import PENALTIES, fit_head
from ..training.record import hardware, public_command, public_manifest, versions
from .card import write_model_card
from .model_folder import save_model_folder

__all__ = ["fit_probe"]


def fit_probe(
    loaded: Any,
    features: SetFeatures,
    data: str | os.PathLike,
    output: str | os.PathLike,
    *,
    labels: list[str] | None = None,
    aggregation: str = "max",
    top_k: int = 3,
    study_label: str = "study",
    min_positive_slices: int = 4,
    class_weights: str = "none",
    resamples: int = 2000,
    seed: int = 0,
    keep_head: bool = False,
    command: list[str] | None = None,
) -> dict[str, Any]:
    """Fit a head on the train split, choose its penalty on validation, score it on test, save all.

    The network does not run: its features are read. The folder is an ordinary model folder, whose
    predictions are those of the network with the new head. With ``aggregation="attention"`` a head
    of learned attention is fitted on top (:func:`ct_video_hf.training.attention.fit_attention`).

    Parameters
    ----------
    loaded : LoadedModel
        The model that the features are of.
    features : SetFeatures
    data : path
        The set that they are of.
    output : path
        A new folder.
    labels, class_weights, min_positive_slices
        As the options of training of these names.
    aggregation, top_k, study_label, resamples, seed
        See :func:`ct_video_hf.evaluation.evaluate_predictions`.
    keep_head : bool
        The model's own classifier stays as it is: only learned attention, calibration and evidence
        are made anew.
    command : list of str, optional
        Kept in training_config.json.

    Returns
    -------
    dict
        The content of ``metrics.json``; empty without a validation or test split.

    Raises
    ------
    CTVideoError
        Features of another model or set, an output folder in use, a set without labels.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CTVideoError(f"the output folder {output.name} is not empty; choose another one")
    if keep_head and labels is None:
        labels = _own_labels(loaded)
    manifest = public_manifest(Path(data) / "manifest.json")
    _same(features, loaded, manifest, Path(data).name)
    studies = load_ct_dataset(data)
    if "train" not in studies:
        raise CTVideoError(f"the set {Path(data).name} has no split train")
    choice = choose_labels(data, studies["train"], labels)
    several = choice if labels or len(choice) > 1 else None
    parts = {
        split: clip_dataset(
            rows, loaded.processor, train=False, min_positive_slices=min_positive_slices,
            labels=several,
        )
        for split, rows in studies.items()
    }  # fmt: skip
    rules = {"aggregation": aggregation, "top_k": top_k, "label_from": study_label}
    if keep_head:
        head, penalty, loss = _own_head(loaded, len(choice)), None, None
    else:
        head, penalty, loss = _fit(parts, features, class_weights, _while_fitting(rules))
    attention = None
    if aggregation == "attention":
        names = tuple(map(str, choice.names))
        attention = _attention(parts, features, head, names, loaded.model, study_label, seed)
    tables = {
        split: _table(parts[split], features.of(split, parts[split]), head, attention)
        for split in ("validation", "test")
        if split in parts
    }
    evidence = gather_evidence(
        tables,
        {split: left_out(parts[split]) for split in tables},
        calibration="temperature",
        rules=rules,
        resamples=resamples,
        seed=seed,
    )
    record = {
        "command": None if command is None else public_command(command),
        "arguments": {
            "output": output.name, "labels": labels, "min_positive_slices": min_positive_slices,
            "aggregation": aggregation, "top_k": top_k, "study_label": study_label,
            "class_weights": class_weights, "freeze": "backbone", "optimizer": "L-BFGS",
        },
        "backbone": str(loaded.training.get("backbone") or loaded.model.config.model_type),
        "weights": loaded.name,
        "probe": {"penalty": penalty, "penalties": list(PENALTIES), **features.metadata},
        "positive_weights": None if loss is None else loss.class_weights,
        "data": {
            "set": Path(data).name,
            "manifest": manifest,
            "counts": {split: count_split(part) for split, part in parts.items()},
        },
        "seed": seed,
        "parameters": None,
        "versions": versions(),
        "hardware": hardware(torch.device("cpu"), 1),
    }  # fmt: skip
    if attention is not None:
        record["attention"] = attention.fit
    if keep_head and loaded.training:  # the network is still that of its own training
        ours = {name: record["arguments"][name] for name in ("aggregation", "top_k", "study_label")}
        arguments = {**loaded.training.get("arguments", {}), **ours}
        record = {**loaded.training, "arguments": arguments, "attention": record.get("attention")}
    model = _with_head(loaded.model, head, [str(name) for name in choice.names], several, rules)
    record["parameters"] = sum(value.numel() for value in model.parameters())
    _save(model, loaded.processor, output, attention, evidence, record)
    return evidence.metrics or {}


def _own_labels(loaded: Any) -> list[str] | None:
    """Names of the model's labels; None where it has one without a name."""
    config = loaded.model.config
    names = [str(config.id2label[place]) for place in range(config.num_labels)]
    return None if names == ["LABEL_0"] else names


def _own_head(loaded: Any, labels: int) -> torch.nn.Linear:
    config, head = loaded.model.config, loaded.model.classifier
    if getattr(config, "problem_type", None) == "single_label_classification":
        raise CTVideoError(
            f"{loaded.name} chooses between classes; a head for labels that may be present or "
            "absent is needed: leave out --keep-head"
        )
    if head.out_features != labels:
        raise CTVideoError(
            f"{loaded.name} scores {head.out_features} labels and {labels} are asked for: leave "
            "out --keep-head"
        )
    return head.requires_grad_(False)


def _while_fitting(rules: dict) -> dict:
    """Learned attention comes after the head; until then the highest clip counts."""
    learned = rules["aggregation"] == "attention"
    return rules | {"aggregation": "max"} if learned else rules


def _attention(
    parts: dict, features: SetFeatures, head, names: tuple[str, ...], model, label_from: str,
    seed: int,
):  # fmt: skip
    bags = {
        split: bags_of(parts[split], features.of(split, parts[split]), label_from)
        for split in ("train", "validation")
        if split in parts
    }
    digest = weights_hash(model)
    return fit_attention(bags["train"], bags.get("validation"), head, names, digest, seed=seed)


def _same(features: SetFeatures, loaded: Any, manifest: dict | None, name: str) -> None:
    told = features.metadata
    if told["weights_sha256"] != weights_hash(loaded.model):
        raise CTVideoError(
            f"the features are of {told['model']} with other weights than {loaded.name}: write "
            "them again"
        )
    if manifest is None or told["set_sha256"] != manifest["sha256"]:
        raise CTVideoError(f"the features are of the set {told['set']} and not of {name} as it is")


def _fit(parts: dict, features: SetFeatures, class_weights: str, rules: dict):
    index = parts["train"].index
    if not index.labels.shape[1]:
        raise CTVideoError("the set has no labels; one is needed to fit a head")
    loss = TrainingLoss(class_weights=positive_weights(index, class_weights))
    train = features.of("train", parts["train"])
    if "validation" not in parts:
        head, penalty = fit_head(train, index.labels, loss, penalties=(1e-2,))
        return head, penalty, loss
    held = features.of("validation", parts["validation"])

    def score(logits) -> float:
        table = _predictions(parts["validation"], logits(held))
        value = point_metrics(table, **rules)["study/auroc"]
        return -math.inf if math.isnan(value) else value

    return *fit_head(train, index.labels, loss, score), loss


def _predictions(dataset, logits):
    return predictions_from(dataset, logits, dataset.index.study, dataset.index.start)


@torch.no_grad()
def _table(dataset, features, head, attention):
    table = _predictions(dataset, head(torch.from_numpy(features)).numpy())
    if attention is None:
        return table
    return with_attention(table, dataset, attention.clip_values(features))


def _with_head(model, head, names: list[str], several, rules: dict):
    """The network with the new head and its labels."""
    model.classifier = head
    config = model.config
    shown = names if several is not None else ["LABEL_0"]
    config.id2label = dict(enumerate(shown))
    config.label2id = {name: place for place, name in enumerate(shown)}
    config.problem_type = "multi_label_classification"
    config.study_aggregation, config.study_top_k = rules["aggregation"], rules["top_k"]
    if getattr(config, "class_weights", None) is not None:
        config.class_weights = None  # of the labels before
    return model.eval()


def _save(
    model, processor, output: Path, attention, evidence: Evidence, record: dict[str, Any]
) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    stage = hidden / output.name
    try:
        save_model_folder(model, processor, stage)
        if attention is not None:
            attention.write(stage)
        evidence.write(stage)
        write_json(record, stage / "training_config.json")
        write_model_card(stage)
        if output.exists():
            output.rmdir()
        os.replace(stage, output)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
