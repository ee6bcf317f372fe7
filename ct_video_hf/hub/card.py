"""The model card: facts from the files of a model folder, rendered through one template.

Nothing is written that is not in ``config.json``, ``video_preprocessor_config.json``,
``training_config.json``, ``calibration.json``, ``metrics.json`` or an export's ``parity.json``;
what those lack is "not measured" or "not stated".
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import CTVideoError
from ..evaluation import (
    AGGREGATIONS,
    Calibration,
    LabelCalibrations,
    describe_aggregation,
    read_calibration,
)
from ..evaluation.report import values_in
from ..files import replacing
from .card_calibration import (
    calibration_limit,
    calibration_words,
    point_rows,
    score_words,
)
from .card_conversion import (
    CONVERSION_FILE,
    conversion_limits,
    conversion_summary,
    conversion_words,
)
from .card_export import PARITY_FILE, export_rows, export_words
from .card_figures import CardFigure, find_figures
from .card_rows import (
    aggregation_code,
    data_words,
    model_rows,
    processor_rows,
    result_rows,
    split_rows,
    subgroup_rows,
    training_rows,
    versions_line,
    weight_rows,
)

__all__ = ["ModelCardFacts", "render_model_card", "write_model_card"]

_CITATION = """\
@inproceedings{ke2023video,
  title     = {Video pretraining advances {3D} deep learning on chest {CT} tasks},
  author    = {Ke, Alexander and Huang, Shih-Cheng and O'Connell, Chloe P and Klimont, Michal
               and Yeung, Serena and Rajpurkar, Pranav},
  booktitle = {Medical Imaging with Deep Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {227},
  pages     = {758--774},
  year      = {2023}
}"""


@dataclass(frozen=True)
class ModelCardFacts:
    """What a card is made of.

    Attributes
    ----------
    name : str
        The model's name, the card's title.
    model_id : str
        What the code on the card loads: a Hub id, or the folder's name.
    config, processor : dict
        ``config.json`` and ``video_preprocessor_config.json``.
    training : dict
        ``training_config.json``; empty for a model that was not trained here.
    metrics : dict
        ``metrics.json``; empty when nothing was measured.
    conversion : dict
        ``conversion.json``; empty unless the weights are a converted checkpoint's as they are.
    calibration : Calibration, LabelCalibrations or None
        ``calibration.json``.
    parity : dict
        ``parity.json``; empty unless the folder is an exported one.
    figures : list of CardFigure
        Pictures in the folder that the card shows.
    license : str or None
        Identifier of the licence that these weights are published under; None: not stated.
    """

    name: str
    model_id: str
    config: dict[str, Any]
    processor: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    figures: list[CardFigure] = field(default_factory=list)
    license: str | None = None
    conversion: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | LabelCalibrations | None = None
    parity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_folder(
        cls,
        model_dir: str | os.PathLike,
        *,
        model_id: str | None = None,
        license: str | None = None,
    ) -> ModelCardFacts:
        """Collect the facts of a model folder.

        Raises
        ------
        CTVideoError
            When configuration or processor are missing, or a file is not valid JSON.
        """
        path = Path(model_dir)
        if not path.is_dir():
            raise CTVideoError(f"There is no model folder {path.name!r}.")
        config = _read(path / "config.json", needed=True)
        processor = _read(path / "video_preprocessor_config.json", needed=True)
        training = _read(path / "training_config.json")
        name = model_id or _folder_name(path, training)
        return cls(
            name=name.rpartition("/")[2],
            model_id=name,
            config=config,
            processor=processor,
            training=training,
            metrics=_read(path / "metrics.json"),
            figures=find_figures(path),
            license=license or (training.get("arguments") or {}).get("license"),
            calibration=read_calibration(path),
            conversion={} if training else _read(path / CONVERSION_FILE),
            parity=_read(path / PARITY_FILE),
        )

    @property
    def aggregation(self) -> tuple[str, int]:
        """How clip scores become the study's score: the rule and the clips of mean_top_k."""
        return self.config.get("study_aggregation", "max"), self.config.get("study_top_k", 3)

    @property
    def labels(self) -> list[str]:
        """Names of the labels; ``positive`` for a binary task without a name."""
        names = self.config.get("id2label") or {"0": "LABEL_0"}
        found = [str(names[key]) for key in sorted(names, key=int)]
        return ["positive"] if found == ["LABEL_0"] else found


def write_model_card(
    model_dir: str | os.PathLike,
    *,
    model_id: str | None = None,
    license: str | None = None,
    out: str | os.PathLike | None = None,
) -> Path:
    """Render the card of a model folder and put it in place.

    Parameters
    ----------
    model_dir : path-like
        A folder that training wrote, or any with configuration and processor.
    model_id : str, optional
        The Hub id that it will have; default: the folder's name.
    license : str, optional
        Identifier of the licence that these weights are published under.
    out : path-like, optional
        Where to write; default: ``README.md`` in the folder.

    Returns
    -------
    pathlib.Path
        The file written; an older one is replaced only by a complete one.

    Raises
    ------
    CTVideoError
        When the folder lacks what a card needs, or the card would not pass
        :func:`.card_check.check_card_text`.
    """
    from .card_check import check_card_text

    facts = ModelCardFacts.from_folder(model_dir, model_id=model_id, license=license)
    text = render_model_card(facts)
    problems = check_card_text(text)
    if problems:
        raise CTVideoError(f"The card of {facts.name} is not sound: {'; '.join(problems)}.")
    path = Path(out) if out is not None else Path(model_dir) / "README.md"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path


def render_model_card(facts: ModelCardFacts) -> str:
    """The card's text, metadata included."""
    import jinja2

    source = resources.files(__package__).joinpath("templates/model_card.md.jinja")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    template = environment.from_string(source.read_text(encoding="utf-8"))
    training, metrics = facts.training, facts.metrics
    confidence = metrics.get("confidence")
    text = template.render(
        metadata=_metadata(facts),
        name=facts.name,
        backbone=_backbone(facts),
        model_id=facts.model_id,
        summary=_summary(facts),
        intended_use=_intended_use(facts),
        model_rows=model_rows(facts.config, training or facts.conversion, facts.labels),
        weight_rows=weight_rows(training, facts.license, facts.conversion),
        converted=bool(facts.conversion),
        export_words=export_words(facts.parity) if facts.parity else None,
        export_rows=export_rows(facts.parity) if facts.parity else [],
        data_words=_data_words(facts),
        split_rows=split_rows(training),
        processor_rows=processor_rows(facts.processor),
        training_words=conversion_words(facts.conversion)
        if facts.conversion
        else _training_words(training),
        training_rows=training_rows(training),
        command=training.get("command"),
        aggregation_words=describe_aggregation(*facts.aggregation),
        aggregation_code=aggregation_code(*facts.aggregation, facts.config, facts.model_id),
        result_words=_result_words(metrics),
        result_rows=result_rows(metrics),
        interval_name=f"{100 * confidence:.0f} % interval" if confidence else "interval",
        figures=facts.figures,
        calibration_words=calibration_words(facts.calibration, facts.metrics),
        score_words=score_words(facts.calibration),
        point_rows=point_rows(metrics),
        subgroup_rows=subgroup_rows(metrics),
        limits=_limits(facts),
        versions=versions_line(training or facts.conversion),
        citation=_CITATION,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _read(path: Path, *, needed: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if needed:
            raise CTVideoError(f"{path.parent.name} is not a model folder: {path.name} is missing.")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CTVideoError(f"{path.name} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CTVideoError(f"{path.name} holds no JSON object.")
    return content


def _folder_name(path: Path, training: dict[str, Any]) -> str:
    """The output folder of the run: while a run finishes, the card's folder is a hidden one."""
    given = str(training.get("arguments", {}).get("output") or "").replace("\\", "/")
    return PurePosixPath(given).name or path.resolve().name.lstrip(".")


def _backbone(facts: ModelCardFacts) -> str:
    known = facts.training.get("backbone") or facts.conversion.get("backbone")
    return str(known or facts.config.get("model_type"))


def _origin(facts: ModelCardFacts) -> dict[str, Any]:
    """Of a network of transformers that training started from, see training_config.json."""
    return facts.training.get("backbone_origin") or {}


def _set_name(training: dict[str, Any]) -> str | None:
    return (training.get("data") or {}).get("set")


def _summary(facts: ModelCardFacts) -> str:
    if facts.conversion:
        return conversion_summary(facts.conversion)
    labels = ", ".join(f"“{label}”" for label in facts.labels)
    words = f"A {_backbone(facts)} video network that reads a chest CT in clips of slices"
    words += f" and scores {labels}."
    if _set_name(facts.training):
        words += f" It was trained on the set “{_set_name(facts.training)}”."
    return _progress(facts.training) + words


def _progress(training: dict[str, Any]) -> str:
    """Said first of a checkpoint that is pushed while training goes on."""
    moment = training.get("in_progress")
    if not moment:
        return ""
    epoch = f"epoch {moment['epoch']:.4g}, " if moment.get("epoch") is not None else ""
    return (
        f"**Training in progress** ({epoch}step {moment['step']}): these are the weights of the "
        "latest checkpoint, not of the finished model.\n\n"
    )


def _intended_use(facts: ModelCardFacts) -> str:
    return (
        "Research and teaching: comparing networks and pretraining, and building on the features "
        "for other chest CT tasks. It has been tried on nothing but the data below; any other "
        "scanner, protocol, population or question has to be evaluated first."
    )


def _data_words(facts: ModelCardFacts) -> str:
    if facts.conversion:
        return "No data was used here. What the weights were trained on stands in the table above."
    return data_words(facts.training)


def _training_words(training: dict[str, Any]) -> str:
    if not training:
        return "This model was not trained here; its folder holds no training record."
    return "`training_config.json` holds every option. The main ones:"


def _result_words(metrics: dict[str, Any]) -> str:
    if not result_rows(metrics):
        return "Not measured."
    words = (
        f"Split: {metrics.get('split', 'not stated')}. `clip/...` counts clips and `study/...` "
        f"studies; a study's score: "
        f"{_aggregation_of(metrics)}."
    )
    left_out = metrics.get("left_out") or {}
    if left_out.get("studies"):
        words += f" Studies of the split without any clip, not scored: {left_out['studies']}."
    if left_out.get("clips_of_uncertain_label"):
        words += f" Clips of uncertain label, not scored: {left_out['clips_of_uncertain_label']}."
    if metrics.get("resamples"):
        words += (
            f" Intervals: {metrics.get('interval', 'bootstrap')}, {metrics['resamples']} resamples."
        )
    return words


def _aggregation_of(metrics: dict[str, Any]) -> str:
    if metrics.get("aggregation") not in AGGREGATIONS:
        return "a rule that is not stated"
    return describe_aggregation(metrics["aggregation"], metrics.get("top_k", 3))


def _limits(facts: ModelCardFacts) -> list[str]:
    if facts.conversion:
        return conversion_limits(facts.conversion)
    limits = [
        "Performance in other hospitals and on other scanners was not measured.",
        "The marked slices show what drove the network, which need not be what a radiologist "
        "would mark.",
    ]
    limits.insert(0, calibration_limit(facts.calibration))
    studies = (facts.metrics.get("study/auroc") or {}).get("n")
    if studies is None:
        limits.append("Nothing at all was measured on held-out studies.")
    elif studies < 100:
        limits.append(f"It was measured on {studies} studies only: see the width of the intervals.")
    provenance = ((facts.training.get("data") or {}).get("manifest") or {}).get("provenance") or {}
    if "generated" in f"{provenance.get('name')} {provenance.get('description')}".lower():
        limits.append("It was trained on generated scans and means nothing on patients' scans.")
    return limits


def _metadata(facts: ModelCardFacts) -> str:
    from huggingface_hub import ModelCardData

    results = _eval_results(facts)
    licence = (
        {"license": facts.license}
        if facts.license
        else {"license": "other", "license_name": "not-stated"}
    )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=["ct-video-hf", "medical-imaging", "computed-tomography", "chest-ct", "3d",
              str(_origin(facts).get("model_type") or _backbone(facts)).replace("_", "-"),
              "not-for-clinical-use"],
        base_model=_backbone(facts).partition("@")[0] if _origin(facts).get("commit") else None,
        metrics=["roc_auc"] if results else None,
        model_name=facts.name if results else None,
        eval_results=results or None,
        **licence,
    )  # fmt: skip
    return data.to_yaml().strip()


def _metric_type(name: str) -> str:
    kind = name.partition(":")[0].rpartition("/")[2]
    return "roc_auc" if kind == "auroc" else kind


def _eval_results(facts: ModelCardFacts) -> list[Any]:
    from huggingface_hub import EvalResult

    name = _set_name(facts.training) or "not stated"
    return [
        EvalResult(
            task_type="video-classification",
            task_name="Chest CT classification",
            dataset_type=name,
            dataset_name=name,
            dataset_split=facts.metrics.get("split"),
            metric_type=_metric_type(metric),
            metric_name=metric,
            metric_value=round(entry["value"], 4),
            metric_args={
                key: round(entry[key], 4) if isinstance(entry[key], float) else entry[key]
                for key in ("low", "high", "n", "positives")
                if key in entry
            },
        )
        for metric, entry in values_in(facts.metrics).items()
        if entry["value"] is not None
    ]
