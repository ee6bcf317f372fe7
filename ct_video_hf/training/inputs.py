"""Which input a model is trained on, and the clips of a split in that form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import Augmentation, ClipTransform, CTClipDataset, build_clip_index, stored_window
from ..data.label_choice import LabelChoice, choose_labels
from ..errors import CTVideoError
from ..models import CTVideoProcessor, list_backbones, locate_weights, processor_for
from ..models.download import sha256_of
from ..models.transformers_processor import origin_of
from ..models.transformers_video import clip_input, is_video_model_name

__all__ = [
    "Start",
    "as_scored",
    "build_processor",
    "clip_dataset",
    "find_start",
    "label_choice",
    "label_fields",
    "label_weights",
    "model_overrides",
    "name_weights",
    "plane_size",
    "split_datasets",
]

_SAME_NAME = ("num_frames", "stride", "tail", "crop_size", "windows")
_PROCESSOR_FILE = "video_preprocessor_config.json"


def name_weights(options: dict[str, Any]) -> dict[str, Any] | None:
    """Say in ``options["weights"]`` what holds when nothing was said.

    A network of the registry starts from random weights ("none"), a model of transformers from its
    own ("saved").

    Returns
    -------
    dict or None
        Of a model of transformers what is known of its origin, see :func:`.origin_of`.
    """
    known = options["backbone"] in list_backbones()
    if known or not is_video_model_name(options["backbone"]):
        options["weights"] = options["weights"] or "none"
        return None
    options["weights"] = options["weights"] or "saved"
    return origin_of(options["backbone"])


@dataclass(frozen=True)
class Start:
    """What training starts from.

    Attributes
    ----------
    path : Path or None
        The file or folder that holds the weights; None: random ones.
    commit : str or None
        Of a repository of the Hub.
    sha256 : dict
        File name -> hash of each file of weights.
    """

    path: Path | None = None
    commit: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)


_WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")


def find_start(options: dict[str, Any]) -> Start:
    """Find the weights that ``options`` name, fetched where needed, and hash their files."""
    path = locate_weights(options["backbone"], options["weights"])
    if path is None:
        return Start()
    files = [path]
    if path.is_dir():
        patterns = (sorted(path.glob(pattern)) for pattern in _WEIGHT_FILES)
        files = next((found for found in patterns if found), [])
    from_hub = _hub_id(options) is not None
    return Start(
        path, path.name if from_hub else None, {file.name: sha256_of(file) for file in files}
    )


def _hub_id(options: dict[str, Any]) -> str | None:
    """The Hub id that the weights come from, if they do."""
    for name in (options["weights"], options["backbone"]):
        if "/" in name and not Path(name).exists():
            return name
    return None


def model_overrides(options: dict[str, Any], start: Start | None = None) -> dict[str, Any]:
    """Keyword arguments of ``create_model`` besides the backbone's name.

    With a ``start`` a Hub id is replaced by the folder of the commit that was found.
    """
    overrides: dict[str, Any] = {"weights": options["weights"]}
    if start is not None and "/" in options["weights"] and start.path is not None:
        overrides["weights"] = str(start.path)
    if options["num_frames"] is not None:
        overrides["num_frames"] = options["num_frames"]
    if options["crop_size"] is not None:
        overrides["image_size"] = options["crop_size"]
    return overrides


def build_processor(
    options: dict[str, Any], model, plane_size: int, start: Start | None = None
) -> CTVideoProcessor:
    """The processor saved beside the model.

    Clip length, crop and channels are the model's, the plane size is the set's. Windows and
    normalisation come from the paper's preset, else from the model folder that training starts
    from, else from the backbone's record. Each is replaced by its option.

    Raises
    ------
    CTVideoError
        The planes are much larger than the model's input, so that a crop would miss the lungs.
    """
    frames, crop, channels = clip_input(model.config)
    if options["crop_size"] is None and plane_size > 1.5 * crop:
        raise CTVideoError(
            f"the set's planes are {plane_size} pixels wide and {options['backbone']} sees "
            f"{crop}: a crop would cut most of the chest away. Prepare the set with size "
            f"{round(crop * 8 / 7)}, or train with --crop-size"
        )
    fields: dict[str, Any] = {
        "num_frames": frames,
        "crop_size": crop,
        "size": plane_size,
        "num_channels": channels,
    }
    fields |= {name: options[name] for name in _SAME_NAME if options[name] is not None}
    if options["preset"] in ("paper-rsna", "paper-lidc"):
        return CTVideoProcessor.from_preset(options["preset"], **fields)
    path = None if start is None or options["weights"] == "saved" else start.path
    if path is not None and (path / _PROCESSOR_FILE).is_file():
        return CTVideoProcessor.from_pretrained(path, **fields)
    return processor_for(options["backbone"], **fields)


def plane_size(studies) -> int:
    """In-plane size of a prepared set's studies, pixels."""
    return int(studies.select_columns(["shape"])[0]["shape"][1])


def clip_dataset(
    studies,
    processor: CTVideoProcessor,
    *,
    train: bool,
    min_positive_slices: int = 4,
    rotation: int = 20,
    flips: Sequence[str] = (),
    intensity_scale: float = 0.0,
    intensity_shift: float = 0.0,
    window_jitter: float = 0.0,
    seed: int = 0,
    labels: LabelChoice | None = None,
) -> CTClipDataset:
    """Clips of one split as ``processor`` cuts them; augmented and cropped at random to train.

    The augmentation is that of :class:`ct_video_hf.data.Augmentation`; ``flips`` names the axes
    that may be mirrored: columns, rows, slices. ``labels`` says which labels of the set are meant;
    None where it has one.
    """
    index = build_clip_index(
        studies,
        processor.num_frames,
        processor.stride,
        min_positive_slices=min_positive_slices,
        tail=processor.tail,
        min_slices=processor.min_slices,
    )
    if labels is not None:
        index = index.with_labels(labels.places, labels.finding)
    augmentation = Augmentation(
        rotation_degrees=rotation,
        **{f"flip_{axis}": True for axis in flips},
        intensity_scale=intensity_scale,
        intensity_shift=intensity_shift,
        window_jitter=window_jitter,
    )
    transform = ClipTransform(
        processor, train, augmentation, seed, stored_window=stored_window(studies)
    )
    return CTClipDataset(studies, index, transform, labels)


def as_scored(dataset: CTClipDataset) -> CTClipDataset:
    """Clips that are made for training, as they are cut to be scored: nothing is left to chance."""
    transform = ClipTransform(
        dataset.transform.processor,
        False,
        dataset.transform.augmentation,
        stored_window=stored_window(dataset.dataset),
    )
    return CTClipDataset(dataset.dataset, dataset.index, transform, dataset.labels)


def label_choice(options: dict[str, Any], studies) -> LabelChoice | None:
    """Which labels of the set a run learns; None where it has one and none is named."""
    choice = choose_labels(options["data"], studies, options["labels"])
    return choice if options["labels"] or len(choice) > 1 else None


def label_fields(labels: LabelChoice | None) -> dict[str, Any]:
    """What ``create_model`` is told of the labels."""
    if labels is None:
        return {"num_labels": 1}
    return {"num_labels": len(labels), "id2label": dict(enumerate(labels.names))}


def label_weights(said: str, labels: LabelChoice | None) -> list[float] | None:
    """The weights of several labels in the loss, None where all weigh the same.

    ``said`` is "set" (the set's official ones, where it has such), "none", or one a label.

    Raises
    ------
    CTVideoError
        Not as many weights as labels.
    """
    if said == "none" or labels is None:
        return None
    if said == "set":
        return None if labels.weights is None else list(labels.weights)
    weights = [float(part) for part in said.split(",")]
    if len(weights) != len(labels):
        raise CTVideoError(
            f"label_weights has {len(weights)} values for {len(labels)} labels: "
            f"{', '.join(labels.names)}"
        )
    return weights


def split_datasets(
    options: dict[str, Any], studies: dict[str, Any], processor: CTVideoProcessor, labels
) -> dict[str, CTClipDataset]:
    """The clips of every role (train, validation, test) as a run's options say."""
    return {
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
            labels=labels,
        )
        for role, part in studies.items()
    }
