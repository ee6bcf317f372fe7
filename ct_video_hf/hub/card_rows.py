"""Tables of the model card, each from one of a model folder's files."""

from __future__ import annotations

from typing import Any

from ..evaluation.report import values_in
from .card_conversion import conversion_rows

__all__ = [
    "aggregation_code",
    "data_words",
    "model_rows",
    "plain",
    "processor_rows",
    "result_rows",
    "split_rows",
    "subgroup_rows",
    "training_rows",
    "versions_line",
    "weight_rows",
]

NOT_MEASURED = "not measured"
NOT_STATED = "not stated"

_TRAINING_OPTIONS = {
    "epochs": "epochs at most",
    "lr": "highest learning rate",
    "scheduler": "learning rate schedule",
    "optimizer": "optimizer",
    "weight_decay": "weight decay",
    "sampling": "sampling",
    "rotation": "rotation, degrees either way",
    "min_positive_slices": "positive slices that make a clip positive",
    "freeze": "frozen (a number counts stages from the stem)",
    "lora": "rank of low-rank adapters, merged",
    "layer_decay": "a stage's learning rate over that of the next",
    "boundary": "layer before which a smaller rate holds",
    "boundary_factor": "that rate over the highest",
    "loss": "loss",
    "focal_gamma": "power of the focal loss",
    "label_smoothing": "label smoothing",
    "class_weights": "weights of negative and positive clips",
    "ema": "decay of the running mean of the weights, which the model is",
    "early_stopping": "patience of early stopping, validations",
    "metric": "the best checkpoint is best at",
    "precision": "precision",
}


def plain(value: Any) -> str:
    """A value as the cell of a Markdown table."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(entry) for entry in value) or "none"
    return " ".join(str(value).replace("|", "\\|").split())


def model_rows(
    config: dict[str, Any], training: dict[str, Any], labels: list[str]
) -> list[tuple[str, str]]:
    """Network, size and input."""
    from ..models.transformers_video import clip_input, input_name

    if len(labels) > 10:
        labels = [*labels[:3], "...", f"{len(labels)} in all"]
    parameters = training.get("parameters")
    frames, side, channels = (plain(NOT_STATED if n is None else n) for n in clip_input(config))
    binary = config.get("problem_type") != "single_label_classification"
    outputs = "one logit a label, sigmoid" if binary else "one logit a class, softmax"
    return [
        ("backbone", plain(training.get("backbone") or NOT_STATED)),
        ("model type", f"`{plain(config.get('model_type'))}`"),
        ("parameters", f"{parameters:,}" if parameters else NOT_STATED),
        (
            "input",
            f"`{input_name(config)}` (batch, slices: {frames}, channels: {channels}, {side}, "
            f"{side})",
        ),
        ("output", f"{outputs}: {plain(labels)}"),
    ]


def weight_rows(
    training: dict[str, Any], license: str | None, conversion: dict[str, Any]
) -> list[tuple[str, str]]:
    """Where training started, and every licence on its own line."""
    rows = [("licence of the code", "Apache-2.0")]
    if conversion:
        rows += [(words, plain(text)) for words, text in conversion_rows(conversion)]
        return [*rows, ("licence of this folder's weights", plain(license or NOT_STATED))]
    rows += _starting_weights(training)
    provenance = _provenance(training)
    rows.append(("licence of the training data", plain(provenance.get("licence") or NOT_STATED)))
    rows.append(("licence of these weights", plain(license or NOT_STATED)))
    return rows


def _starting_weights(training: dict[str, Any]) -> list[tuple[str, str]]:
    given = training.get("weights")
    if "weights" not in training:
        return [("starting weights", NOT_STATED)]
    if given in (None, "none"):
        return [("starting weights", "random; no pretraining")]
    if training.get("backbone_origin"):
        return _transformers_weights(training["backbone"], training["backbone_origin"])
    record = _weight_record(training.get("backbone"), given)
    if record is None and training.get("converted_from"):
        converted = [
            (words, plain(text)) for words, text in conversion_rows(training["converted_from"])
        ]
        return [("starting weights", f"`{plain(given)}`, a converted checkpoint"), *converted]
    if record is None:
        return [("starting weights", f"`{plain(given)}`"), ("their licence", NOT_STATED)]
    return [
        ("starting weights", f"`{given}`: {record.origin}, <{record.url}>"),
        ("their sha256", record.sha256 or "none published"),
        ("their code's licence", record.code_license),
        ("their licence", record.weight_license),
        ("their paper", record.paper),
    ]


def _transformers_weights(name: Any, origin: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of a model of transformers: whatever its own card says, and no more."""
    commit = f" at commit `{plain(origin['commit'])}`" if origin.get("commit") else ""
    license = origin.get("license")
    return [
        ("starting weights", f"those of `{plain(name)}`{commit}"),
        ("their licence", f"{plain(license)}, says their card" if license else NOT_STATED),
        ("data that they were trained on", NOT_STATED),
        ("code of the network", "transformers' own"),
    ]


def _weight_record(backbone: Any, weights: Any) -> Any:
    from ..models import get_backbone, list_backbones

    if backbone not in list_backbones():
        return None
    return get_backbone(backbone).weights.get(str(weights))


def _provenance(training: dict[str, Any]) -> dict[str, Any]:
    return ((training.get("data") or {}).get("manifest") or {}).get("provenance") or {}


def data_words(training: dict[str, Any]) -> str:
    """Name, origin and split of the data, in sentences."""
    data = training.get("data") or {}
    if not data.get("set"):
        return "Not stated: the folder holds no record of its training data."
    provenance, manifest = _provenance(training), data.get("manifest") or {}
    words = [f"Prepared set “{plain(data['set'])}”"]
    if provenance.get("name"):
        words[0] += f", made from “{plain(provenance['name'])}”"
    words[0] += "."
    if provenance.get("description"):
        words.append(plain(provenance["description"]))
    if manifest.get("patients_known") is True:
        words.append("It was split by patient: no patient is in two splits.")
    elif manifest.get("patients_known") is False:
        words.append("Patients are not known in it: it was split by study.")
    if manifest.get("rejected") is not None:
        words.append(f"Studies that could not be read and were left out: {manifest['rejected']}.")
    words.append(f"Licence: {plain(provenance.get('licence') or NOT_STATED)}")
    return " ".join(words)


def split_rows(training: dict[str, Any]) -> list[list[str]]:
    """Studies and clips by what they were used for."""
    counts = (training.get("data") or {}).get("counts") or {}
    columns = ("studies", "positive_studies", "clips", "positive_clips")
    return [
        [
            role,
            *(plain(row.get(column, NOT_STATED)) for column in columns),
            plain((row.get("left_out") or {}).get("studies", NOT_STATED)),
        ]
        for role, row in counts.items()
    ]


_ATTENTION_CODE = """\
head = load_file(cached_file("{model_id}", "attention.safetensors"))
x = model({input_name}=clips["pixel_values"]).pooler_output  # (clip, feature)
gates = (x @ head["sigmoid.weight"] + head["sigmoid.bias"]).sigmoid()
gates = gates * (x @ head["tanh.weight"] + head["tanh.bias"]).tanh()
weights = (gates @ head["attention.weight"]).softmax(0)  # (clip, label)
odds = (weights * (x @ head["classifier.weight"] + head["classifier.bias"])).sum(0)
print(odds.sigmoid())"""


def aggregation_code(method: str, top_k: int, config: dict[str, Any], model_id: str) -> str:
    """The rule of ``evaluation.study_score`` in torch, from ``clips`` to what is printed."""
    from ..models.transformers_video import input_name

    name = input_name(config)
    if method == "attention":
        if not str(config.get("model_type")).startswith("ct_"):
            return "# learned attention: `ct_video_hf.pipeline` above makes the study's score"
        imports = "from safetensors.torch import load_file\n"
        imports += "from transformers.utils import cached_file\n\n"
        return imports + _ATTENTION_CODE.format(model_id=model_id, input_name=name)
    rule = {
        "max": "scores.amax(0)",
        "mean_top_k": f"scores.sort(0).values[-{top_k}:].mean(0)",
        "noisy_or": "1 - (1 - scores).prod(0)",
    }[method]
    scores = f'scores = model({name}=clips["pixel_values"]).logits.sigmoid()  # (clip, label)'
    return f"{scores}\nprint({rule})"


def processor_rows(processor: dict[str, Any]) -> list[tuple[str, str]]:
    """HU to network input."""
    windows = processor.get("windows") or []
    shown = "; ".join(f"C {plain(c)} W {plain(w)} HU" for c, w in windows)
    stride = processor.get("stride") or processor.get("num_frames")
    return [
        ("in-plane size", f"{plain(processor.get('size'))} pixels, area averaging"),
        ("centre crop", f"{plain(processor.get('crop_size'))} pixels"),
        ("HU windows, to 0..1", shown or NOT_STATED),
        ("channels", plain(processor.get("num_channels"))),
        ("mean, subtracted", plain(processor.get("mean"))),
        ("standard deviation, divided by", plain(processor.get("std"))),
        ("slices in a clip", plain(processor.get("num_frames"))),
        ("slices between clips", plain(stride)),
        ("after the last whole clip", plain(processor.get("tail"))),
        ("spacing", "slices as scanned; not resampled"),
    ]


def training_rows(training: dict[str, Any]) -> list[tuple[str, str]]:
    """Options and course of the run."""
    if not training:
        return []
    arguments = training.get("arguments") or {}
    rows = [
        (words, plain(arguments[name]))
        for name, words in _TRAINING_OPTIONS.items()
        if name in arguments and _matters(name, arguments)
    ]
    if training.get("probe"):
        words = "linear head alone, fitted on cached features; its L2 penalty, of"
        tried = plain(training["probe"]["penalties"])
        rows.append((f"{words} {tried}", plain(training["probe"]["penalty"])))
    if training.get("attention"):
        fit = training["attention"]
        words = f"gated (arXiv 1802.04712), {plain(fit.get('hidden'))} units, weight decay "
        words += f"{plain(fit.get('weight_decay'))}, epoch {plain(fit.get('epoch'))}, chosen by "
        rows.append(("learned attention", words + plain(fit.get("chosen_by"))))
    for name, words in (
        ("global_batch_size", "clips in a step"),
        ("epochs_run", "epochs run"),
        ("best_epoch", "epoch of the best checkpoint"),
        ("steps", "steps"),
        ("seed", "seed"),
        ("training_seconds", "seconds of training"),
    ):
        if training.get(name) is not None:
            rows.append((words, plain(training[name])))
    best = training.get("best_metric")
    if best:
        rows.append((f"its {plain(best['name'])}, on the validation split", plain(best["value"])))
    hardware = training.get("hardware")
    if hardware:
        rows.append(("hardware", ", ".join(f"{k} {plain(v)}" for k, v in hardware.items())))
    return rows


def _matters(name: str, arguments: dict[str, Any]) -> bool:
    """What is usually off only where it was asked for."""
    if name in ("layer_decay", "boundary", "ema"):
        return arguments[name] is not None
    if name in ("lora", "label_smoothing"):
        return bool(arguments[name])
    if name == "class_weights":
        return arguments[name] != "none"
    if name == "focal_gamma":
        return arguments.get("loss") == "focal"
    return name != "boundary_factor" or arguments.get("boundary") is not None


def result_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Level, metric, value, interval, cases and positive cases."""
    rows = []
    for name, entry in values_in(metrics).items():
        level, _, metric = name.partition("/")
        low, high = entry.get("low"), entry.get("high")
        value = f"undefined ({plain(entry.get('undefined', 'no reason given'))})"
        if entry["value"] is not None:
            value = f"{entry['value']:.3f}"
        interval = NOT_MEASURED if low is None or high is None else f"{low:.3f} to {high:.3f}"
        positives = f"mean of {entry['over']} labels" if "over" in entry else NOT_STATED
        counts = [plain(entry.get("n", NOT_STATED)), plain(entry.get("positives", positives))]
        rows.append([level or NOT_STATED, plain(metric), value, interval, *counts])
    return rows


def subgroup_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Study AUROC of every subgroup."""
    names = {"spacing_mm": "slice spacing", "slices": "number of slices"}
    rows = []
    for entry in metrics.get("subgroups") or []:
        value = f"undefined ({plain(entry.get('undefined', 'no reason given'))})"
        interval = NOT_MEASURED
        if entry["value"] is not None:
            value = f"{entry['value']:.3f}"
        if entry["low"] is not None:
            interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
        by = names.get(entry["by"], plain(entry["by"]))
        counts = [plain(entry[key]) for key in ("studies", "positives")]
        rows.append([by, plain(entry["group"]), *counts, value, interval])
    return rows


def versions_line(training: dict[str, Any]) -> str:
    """Versions of what computed."""
    versions = training.get("versions")
    if not versions:
        return "Not stated."
    return ", ".join(f"{name} {plain(version)}" for name, version in versions.items()) + "."
