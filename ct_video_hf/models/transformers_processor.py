"""The processor of a model that transformers' own classes make, and where its weights come from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from .processing_ct import CTVideoProcessor
from .transformers_video import (
    VideoFamily,
    clip_input,
    family_of,
    open_video_model,
    read_json,
    shown_name,
)

__all__ = ["origin_of", "video_model_processor"]

logger = logging.getLogger(__name__)

#: Files in which transformers keeps what happens to a pixel, the first that is there counts.
_PROCESSOR_FILES = (
    "processor_config.json",
    "video_preprocessor_config.json",
    "preprocessor_config.json",
)


def video_model_processor(name: str | Path, **overrides: Any) -> CTVideoProcessor:
    """The processor that fits a model of :data:`FAMILIES`; keywords replace its fields.

    A CTVideoProcessor saved beside the model is taken as it is. Else clip, plane and channels are
    those of the configuration, and HU windowed to 0..1 are normalised as the processor saved there
    (``video_preprocessor_config.json`` or ``preprocessor_config.json``) does it with pixels of
    0..255; without one as :data:`FAMILIES` says.
    """
    folder, _ = open_video_model(name)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family = family_of(config, shown_name(name))
    saved = _saved_processor(folder)
    if saved.get("video_processor_type") == "CTVideoProcessor":
        return CTVideoProcessor.from_pretrained(folder, **overrides)
    frames, size, channels = clip_input(config)
    mean, std = _normalisation(saved, family)
    if not saved:
        logger.warning(
            "%s has no saved processor: pixels are normalised as transformers does by default for "
            "%s, with mean %s and std %s of 0..1", shown_name(name), family.title, mean, std,
        )  # fmt: skip
    fields = {
        "size": round(size * 8 / 7),
        "crop_size": size,
        "num_channels": channels,
        "num_frames": frames,
        "mean": mean if len(mean) == channels else [sum(mean) / len(mean)],
        "std": std if len(std) == channels else [sum(std) / len(std)],
    }
    return CTVideoProcessor(**(fields | overrides))


def _saved_processor(folder: Path) -> dict[str, Any]:
    for file in _PROCESSOR_FILES:
        if (folder / file).is_file():
            content = read_json(folder / file)
            found = content.get("video_processor", content)
            if isinstance(found, dict) and ("image_mean" in found or "do_normalize" in found
                                            or "video_processor_type" in found):  # fmt: skip
                return found
    return {}


def _normalisation(saved: dict[str, Any], family: VideoFamily) -> tuple[list[float], list[float]]:
    """Mean and std of pixels of 0..1 that do what a saved processor does with 0..255."""
    scale, shift = 1.0, 0.0
    if saved.get("do_rescale", True):
        scale = saved.get("rescale_factor", family.scale)
        shift = family.shift if saved.get("offset", True) else 0.0
    mean = list(saved.get("image_mean") or family.mean)
    std = list(saved.get("image_std") or family.std)
    if not saved.get("do_normalize", True):
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    whole = 255 * scale
    return [(shift + value) / whole for value in mean], [value / whole for value in std]


def origin_of(name: str | Path) -> dict[str, Any]:
    """What is known about a model's origin: ``model_type``, ``commit``, and ``license``.

    The licence is the one that its own model card states; None where there is none.
    """
    folder, commit = open_video_model(name)
    return {
        "model_type": read_json(folder / "config.json").get("model_type"),
        "commit": commit,
        "license": _card_license(folder / "README.md"),
    }


def _card_license(card: Path) -> str | None:
    import yaml

    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")[:65536]
    if not text.startswith("---"):
        return None
    try:
        front = yaml.safe_load(text.split("---", 2)[1])
    except yaml.YAMLError:
        return None
    license = front.get("license") if isinstance(front, dict) else None
    if license == "other" and front.get("license_name"):
        license = front["license_name"]
    return None if license is None else str(license)[:80]
