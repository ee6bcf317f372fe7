"""Which input a model is trained on, and the clips of a split in that form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import Augmentation, ClipTransform, CTClipDataset, build_clip_index, stored_window
from ..errors import CTVideoError
from ..models import CTVideoProcessor, processor_for

__all__ = ["build_processor", "clip_dataset", "model_overrides", "plane_size"]

_SAME_NAME = ("num_frames", "stride", "tail", "crop_size", "windows")
_PROCESSOR_FILE = "video_preprocessor_config.json"


def model_overrides(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``create_model`` besides the backbone's name."""
    weights = None if options["weights"] == "none" else options["weights"]
    overrides: dict[str, Any] = {"weights": weights}
    if options["num_frames"] is not None:
        overrides["num_frames"] = options["num_frames"]
    if options["crop_size"] is not None:
        overrides["image_size"] = options["crop_size"]
    return overrides


def build_processor(options: dict[str, Any], model, plane_size: int) -> CTVideoProcessor:
    """The processor saved beside the model.

    Clip length, crop and channels are the model's, the plane size is the set's. Windows and
    normalisation come from the paper's preset, else from the model folder that training starts
    from, else from the backbone's record. Each is replaced by its option.

    Raises
    ------
    CTVideoError
        The planes are much larger than the model's input, so that a crop would miss the lungs.
    """
    crop = model.config.image_size
    if options["crop_size"] is None and plane_size > 1.5 * crop:
        raise CTVideoError(
            f"the set's planes are {plane_size} pixels wide and {options['backbone']} sees "
            f"{crop}: a crop would cut most of the chest away. Prepare the set with size "
            f"{round(crop * 8 / 7)}, or train with --crop-size"
        )
    fields: dict[str, Any] = {
        "num_frames": model.config.num_frames,
        "crop_size": crop,
        "size": plane_size,
        "num_channels": model.config.num_channels,
    }
    fields |= {name: options[name] for name in _SAME_NAME if options[name] is not None}
    if options["preset"] in ("paper-rsna", "paper-lidc"):
        return CTVideoProcessor.from_preset(options["preset"], **fields)
    if (Path(options["weights"]) / _PROCESSOR_FILE).is_file():
        return CTVideoProcessor.from_pretrained(options["weights"], **fields)
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
) -> CTClipDataset:
    """Clips of one split as ``processor`` cuts them; augmented and cropped at random to train.

    The augmentation is that of :class:`ct_video_hf.data.Augmentation`; ``flips`` names the axes
    that may be mirrored: columns, rows, slices.
    """
    index = build_clip_index(
        studies,
        processor.num_frames,
        processor.stride,
        min_positive_slices=min_positive_slices,
        tail=processor.tail,
        min_slices=processor.min_slices,
    )
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
    return CTClipDataset(studies, index, transform)
