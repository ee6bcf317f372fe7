"""The one list of backbones, and how a model is made from a name.

Every module of this folder that defines ``BACKBONES`` is found by itself: adding a backbone is
adding a file.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor

from .base import CTVideoClassifier, CTVideoConfig
from .hub_files import is_hub_id, snapshot
from .processing_ct import CTVideoProcessor
from .records import Backbone, WeightRecord
from .transformers_processor import video_model_processor
from .transformers_video import create_video_model, is_video_model_name, open_video_model
from .weights import (
    fetch,
    labels_of,
    layout_of,
    load_published,
    read_checkpoint,
    read_folder,
    torchvision_facts,
)

__all__ = [
    "all_backbones",
    "create_model",
    "get_backbone",
    "list_backbones",
    "locate_weights",
    "processor_for",
    "register_with_transformers",
]

#: Endings of checkpoint files, which no Hub id is taken to have.
_CHECKPOINTS = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pyth", ".safetensors", ".tar"})
_NOT_OVERRIDABLE = frozenset({"transformers_version", "architectures", "auto_map"})


@cache
def all_backbones() -> MappingProxyType[str, Backbone]:
    """Name -> :class:`.records.Backbone`, sorted by name."""
    found: dict[str, Backbone] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if f"{__package__}.{module.name}" == __name__:
            continue
        for backbone in getattr(
            importlib.import_module(f".{module.name}", __package__), "BACKBONES", ()
        ):
            if backbone.name in found:
                raise ValueError(f"Two backbones are named {backbone.name!r}.")
            found[backbone.name] = backbone
    return MappingProxyType(dict(sorted(found.items())))


def list_backbones() -> list[str]:
    """Names that :func:`create_model` takes."""
    return list(all_backbones())


def get_backbone(name: str) -> Backbone:
    """The record of a backbone.

    Raises
    ------
    ValueError
        For a name that is not in the registry, with the known ones.
    """
    if name not in all_backbones():
        raise ValueError(
            f"There is no backbone {name!r}; known: {', '.join(list_backbones())}. A video model "
            "of transformers is named by its folder or Hub id (user/model)."
        )
    return all_backbones()[name]


def _check_fields(record: Backbone, overrides: dict[str, Any]) -> None:
    fields = {field.name for field in dataclasses.fields(record.config_class)} - _NOT_OVERRIDABLE
    unknown = sorted(set(overrides) - fields)
    if unknown:
        raise ValueError(
            f"{record.config_class.__name__} has no field {', '.join(unknown)}; known: "
            f"{', '.join(sorted(fields))}."
        )


def _labels(num_labels: int, overrides: dict[str, Any]) -> dict[str, int]:
    return {} if overrides.get("id2label") is not None else {"num_labels": num_labels}


def _config(record: Backbone, num_labels: int, overrides: dict[str, Any]) -> CTVideoConfig:
    _check_fields(record, overrides)
    values = dict(record.overrides) | overrides | _labels(num_labels, overrides)
    try:
        config = record.config_class(**values)
    except StrictDataclassError as error:
        raise ValueError(f"{record.name} cannot be made so. {error}") from error
    if overrides.keys() & {"num_frames", "image_size"}:
        _check_own_clip(record, config)
    return config


def _check_own_clip(record: Backbone, config: CTVideoConfig) -> None:
    """Refuse a clip length or plane size that the network could never take."""
    clip = (config.num_frames, config.image_size, config.image_size)
    least = config.smallest_clip
    if any(size < low for size, low in zip(clip, least, strict=True)):
        raise ValueError(
            f"{record.name} cannot be made for {clip[0]} frames of {clip[1]}x{clip[2]} pixels: it "
            f"takes at least {least[0]} frames of {least[1]}x{least[2]}."
        )
    config.check_clip(*clip)


def create_model(
    backbone: str,
    num_labels: int = 1,
    weights: str | Path | None = None,
    *,
    keep_head: bool | None = None,
    channel_inflation: str = "sum",
    cache_dir: str | Path | None = None,
    **config_overrides: Any,
) -> CTVideoClassifier:
    """Make a video classifier by name, in eval mode and float32.

    Parameters
    ----------
    backbone : str
        One of :func:`list_backbones`; or a folder or Hub id (``user/model``,
        ``user/model@revision``) of a VideoMAE, V-JEPA 2, TimeSformer or ViViT, see
        :func:`.transformers_video.create_video_model`, which then gives the model.
    num_labels : int
        Logits; 1 for a binary task. ``id2label`` among the overrides decides instead.
    weights : str or path, optional
        None or "none" for random weights (with a folder or Hub id as backbone None takes the
        weights there); a name of the backbone's published weights such as
        ``"kinetics"`` (downloaded once into the Hugging Face cache); a folder that
        ``save_pretrained`` wrote; the Hub id of such a one (``user/model``,
        ``user/model@revision``; configuration and safetensors are fetched, never code or
        pickles); or a published checkpoint file.
    keep_head : bool, optional
        True: keep the checkpoint's classifier and its labels, whatever their number; the labels
        of published weights are classes that exclude each other, named where torchvision lists
        their names. False: start a new classifier of ``num_labels``. None: keep the checkpoint's
        where it has ``num_labels``, else start a new one.
    channel_inflation : {"sum", "mean"}
        How weights of the first layer are adapted when ``num_channels`` differs from the
        checkpoint's, see :func:`.weights.inflate_channels`.
    cache_dir : path, optional
        Where downloads are kept, instead of the Hugging Face cache.
    **config_overrides
        Fields of the backbone's configuration. Where positions are learned (MViT, Video Swin) and
        ``num_frames``, ``image_size`` or ``window`` differ from those of the weights, positions
        are interpolated linearly and the log says so.

    Returns
    -------
    CTVideoClassifier
        All weights but the classifier's come from the checkpoint.

    Raises
    ------
    ValueError
        For an unknown backbone, field or weight name, a clip that the network cannot take, or a
        checkpoint of another network.
    OSError
        When a download fails.
    """
    if backbone not in all_backbones() and is_video_model_name(backbone):
        model = create_video_model(
            backbone, num_labels, weights, keep_head=keep_head, **config_overrides
        )
        _without_attention(model.config, config_overrides)
        return model
    record = get_backbone(backbone)
    _check_fields(record, config_overrides)
    if weights is None or weights == "none":
        if keep_head:
            raise ValueError("keep_head=True keeps a checkpoint's classifier; name its weights.")
        return record.classifier_class(_config(record, num_labels, config_overrides)).eval()
    published = record.weights.get(str(weights))
    source = _locate(record, weights, cache_dir)
    if source.is_dir():
        state, config = read_folder(source), _saved_config(record, source, config_overrides)
        if not keep_head and _labels(num_labels, config_overrides):
            _relabel(config, num_labels)
        _without_attention(config, config_overrides)
    else:
        state = read_checkpoint(source)
        layout = layout_of(state, record)
        config_overrides = {**layout.defaults, **layout.config, **config_overrides}
        config = _config(record, num_labels, config_overrides)
    model = record.classifier_class(config)
    if keep_head and not source.is_dir():
        found = labels_of(state, record, model.state_dict())
        if found is None:
            raise ValueError(f"{source.name} holds no classifier of {record.name} to keep.")
        fields = _published_labels(found, num_labels, published, config_overrides)
        model = record.classifier_class(_config(record, found, fields))
    try:
        load_published(model, state, record, channel_inflation, keep_head)
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    return model.eval()


def _without_attention(config: Any, overrides: dict[str, Any]) -> None:
    """The head of learned attention stays in its folder, and so does the rule that needs it."""
    learned = getattr(config, "study_aggregation", None) == "attention"
    if learned and "study_aggregation" not in overrides:
        config.study_aggregation = "max"


def _relabel(config: CTVideoConfig, num_labels: int) -> None:
    if config.num_labels != num_labels:
        config.num_labels = num_labels


def _published_labels(
    found: int, num_labels: int, published: WeightRecord | None, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Overrides that describe a classifier which is kept."""
    asked = len(overrides["id2label"]) if overrides.get("id2label") is not None else num_labels
    if asked not in (1, found):
        raise ValueError(
            f"keep_head=True keeps {found} labels, and {asked} are asked for; leave one out."
        )
    fields = {"problem_type": "single_label_classification"} if found > 1 else {}
    names = [] if published is None else torchvision_facts(published).get("categories", [])
    if len(names) == found:
        fields["id2label"] = dict(enumerate(names))
        fields["label2id"] = {name: index for index, name in enumerate(names)}
    return fields | overrides


def locate_weights(
    backbone: str, weights: str | Path, cache_dir: str | Path | None = None
) -> Path | None:
    """The file or folder that :func:`create_model` reads weights from, fetched where needed.

    Parameters
    ----------
    backbone, weights, cache_dir
        As for :func:`create_model`; of a Hub id the folder is named by the commit.

    Returns
    -------
    pathlib.Path or None
        None for random weights.

    Raises
    ------
    ValueError, OSError
        As :func:`create_model` does.
    """
    if str(weights) == "none":
        return None
    if backbone not in all_backbones() and is_video_model_name(backbone):
        return open_video_model(backbone)[0]
    return _locate(get_backbone(backbone), weights, cache_dir)


def _locate(record: Backbone, weights: str | Path, cache_dir: str | Path | None) -> Path:
    if str(weights) in record.weights:
        published = record.weights[str(weights)]
        if published.url is None:
            raise ValueError(
                f"The {weights} weights of {record.name} are never downloaded: "
                f"{published.weight_license}. Convert a file of your own, 'ct-video-hf convert "
                f"{record.name} CHECKPOINT OUT', or give its path as weights."
            )
        return fetch(published, cache_dir)
    path = Path(weights)
    if path.exists():
        return path
    repo, _, revision = str(weights).partition("@")
    if "/" in repo and is_hub_id(repo) and path.suffix not in _CHECKPOINTS:
        return snapshot(repo, revision or None)
    known = ", ".join(repr(name) for name in record.weights) or "none"
    raise ValueError(
        f"weights={str(weights)!r} is neither a file or folder, nor a Hub id (user/model), nor "
        f"published weights of {record.name} (published: {known})."
    )


def _saved_config(record: Backbone, folder: Path, overrides: dict[str, Any]) -> CTVideoConfig:
    """The configuration of a saved model of the same family, with fields replaced."""
    saved = record.config_class.get_config_dict(folder)[0].get("model_type")
    if saved != record.config_class.model_type:
        raise ValueError(
            f"The folder {folder.name!r} holds a model of type {saved!r}; {record.name} is "
            f"{record.config_class.model_type!r}."
        )
    try:
        config = record.config_class.from_pretrained(folder, **overrides)
    except StrictDataclassError as error:
        raise ValueError(f"{record.name} cannot be made so. {error}") from error
    if overrides.keys() & {"num_frames", "image_size"}:
        _check_own_clip(record, config)
    return config


def processor_for(backbone: str, weights: str | None = None, **overrides: Any) -> CTVideoProcessor:
    """The processor that fits a backbone: clip, plane and channels; normalised as its weights were.

    Planes are brought to 8/7 of the network's size and cropped (256 -> 224), as in the paper. Where
    ``num_channels`` is not that of the weights, each channel gets the average of their mean and
    standard deviation.

    Parameters
    ----------
    backbone : str
        One of :func:`list_backbones`.
    weights : str, optional
        Which published weights, where there are several; None takes the first.
    **overrides
        Replace fields of :class:`.processing_ct.CTVideoProcessor`.
    """
    if backbone not in all_backbones() and is_video_model_name(backbone):
        return video_model_processor(backbone, **overrides)
    record = get_backbone(backbone)
    config = _config(record, 1, {})
    fields = {
        "size": round(config.image_size * 8 / 7),
        "crop_size": config.image_size,
        "num_channels": config.num_channels,
        "num_frames": config.num_frames,
    } | overrides
    if record.weights:
        published = record.weights[weights or next(iter(record.weights))]
        for name in ("mean", "std"):
            values = list(getattr(published, name) or ())
            if len(values) not in (0, fields["num_channels"]):
                values = [sum(values) / len(values)] * fields["num_channels"]
            fields.setdefault(name, values or None)
    return CTVideoProcessor(**fields)


def register_with_transformers() -> None:
    """Make transformers' Auto classes know every family in the registry."""
    for record in all_backbones().values():
        config = record.config_class
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, record.model_class, exist_ok=True)
        AutoModelForVideoClassification.register(config, record.classifier_class, exist_ok=True)
        AutoVideoProcessor.register(config, CTVideoProcessor, exist_ok=True)
