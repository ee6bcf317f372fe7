"""The one list of backbones, and how a model is made from a name.

Every module of this folder that defines ``BACKBONES`` is found by itself: adding a backbone is
adding a file.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import pkgutil
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor

from .base import CTVideoClassifier, CTVideoConfig
from .processing_ct import CTVideoProcessor
from .records import Backbone
from .weights import fetch, layout_of, load_published, read_checkpoint

__all__ = [
    "all_backbones",
    "create_model",
    "get_backbone",
    "list_backbones",
    "processor_for",
    "register_with_transformers",
]

logger = logging.getLogger(__name__)

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
        raise ValueError(f"There is no backbone {name!r}; known: {', '.join(list_backbones())}.")
    return all_backbones()[name]


def _config(backbone: Backbone, num_labels: int, overrides: dict[str, Any]) -> CTVideoConfig:
    fields = {field.name for field in dataclasses.fields(backbone.config_class)} - _NOT_OVERRIDABLE
    unknown = sorted(set(overrides) - fields)
    if unknown:
        raise ValueError(
            f"{backbone.config_class.__name__} has no field {', '.join(unknown)}; known: "
            f"{', '.join(sorted(fields))}."
        )
    labels = {} if overrides.get("id2label") is not None else {"num_labels": num_labels}
    try:
        return backbone.config_class(**(dict(backbone.overrides) | overrides | labels))
    except StrictDataclassError as error:
        raise ValueError(f"{backbone.name} cannot be made so. {error}") from error


def create_model(
    backbone: str,
    num_labels: int = 1,
    weights: str | Path | None = None,
    *,
    channel_inflation: str = "sum",
    cache_dir: str | Path | None = None,
    **config_overrides: Any,
) -> CTVideoClassifier:
    """Make a video classifier by name, in eval mode.

    Parameters
    ----------
    backbone : str
        One of :func:`list_backbones`.
    num_labels : int
        Logits; 1 for a binary task. ``id2label`` among the overrides decides instead.
    weights : str or path, optional
        None for random weights; a name of the backbone's published weights such as
        ``"kinetics"`` (downloaded once into the Hugging Face cache); a folder that
        ``save_pretrained`` wrote; or a published checkpoint file.
    channel_inflation : {"sum", "mean"}
        How weights of the first layer are adapted when ``num_channels`` differs from the
        checkpoint's, see :func:`.weights.inflate_channels`.
    cache_dir : path, optional
        Where downloads are kept, instead of the Hugging Face cache.
    **config_overrides
        Fields of the backbone's configuration.

    Returns
    -------
    CTVideoClassifier
        All weights but the classifier's come from the checkpoint; the classifier's too when it
        has as many labels, else it starts anew.

    Raises
    ------
    ValueError
        For an unknown backbone, field or weight name, or a checkpoint of another network.
    OSError
        When a download fails.
    """
    record = get_backbone(backbone)
    source = None if weights is None else _locate(record, weights, cache_dir)
    if source is not None and source.is_dir():
        return _from_folder(record, source, num_labels, config_overrides)
    if source is None:
        return record.classifier_class(_config(record, num_labels, config_overrides)).eval()
    state = read_checkpoint(source)
    fields = dict(layout_of(state, record).config) | config_overrides
    model = record.classifier_class(_config(record, num_labels, fields))
    load_published(model, state, record, channel_inflation)
    return model.eval()


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
    if not path.exists():
        known = ", ".join(repr(name) for name in record.weights) or "none"
        raise ValueError(
            f"weights={str(weights)!r} is neither a file or folder nor published weights of "
            f"{record.name} (published: {known})."
        )
    return path


def _from_folder(
    record: Backbone, folder: Path, num_labels: int, overrides: dict[str, Any]
) -> CTVideoClassifier:
    saved = record.config_class.get_config_dict(folder)[0].get("model_type")
    if saved != record.config_class.model_type:
        raise ValueError(
            f"The folder {folder.name!r} holds a model of type {saved!r}; {record.name} is "
            f"{record.config_class.model_type!r}."
        )
    _config(record, num_labels, overrides)  # unknown and ill-typed fields are refused
    labels = {} if overrides.get("id2label") is not None else {"num_labels": num_labels}
    config = record.config_class.from_pretrained(folder, **overrides)
    if "num_labels" in labels and config.num_labels != num_labels:
        config.num_labels = num_labels
    model, info = record.classifier_class.from_pretrained(
        folder, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    reset = {name for name, *_ in info["mismatched_keys"]} | set(info["missing_keys"])
    lost = sorted(name for name in reset if not name.startswith("classifier."))
    if lost or info["unexpected_keys"]:
        raise ValueError(
            f"The weights in {folder.name!r} do not fit {record.name}: missing or of another shape "
            f"{lost}, unexpected {sorted(info['unexpected_keys'])}."
        )
    if reset:
        logger.info("The classifier starts anew: %s", ", ".join(sorted(reset)))
    return model.eval()


def processor_for(backbone: str, **overrides: Any) -> CTVideoProcessor:
    """The processor that fits a backbone: clip, plane and channels; normalised as its weights were.

    Planes are brought to 8/7 of the network's size and cropped (256 -> 224), as in the paper.
    Keywords replace fields of :class:`.processing_ct.CTVideoProcessor`.
    """
    record = get_backbone(backbone)
    config = _config(record, 1, {})
    fields = {
        "size": round(config.image_size * 8 / 7),
        "crop_size": config.image_size,
        "num_channels": config.num_channels,
        "num_frames": config.num_frames,
    }
    if record.weights:
        published = next(iter(record.weights.values()))
        fields |= {"mean": list(published.mean), "std": list(published.std)}
    return CTVideoProcessor(**(fields | overrides))


def register_with_transformers() -> None:
    """Make transformers' Auto classes know every family in the registry."""
    for record in all_backbones().values():
        config = record.config_class
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, record.model_class, exist_ok=True)
        AutoModelForVideoClassification.register(config, record.classifier_class, exist_ok=True)
        AutoVideoProcessor.register(config, CTVideoProcessor, exist_ok=True)
