"""transformers' own video classifiers, taken as they are: VideoMAE, V-JEPA 2, TimeSformer, ViViT.

They are found by a folder or a Hub id instead of a name of the registry, keep their own classes and
configurations, and are saved as such. What differs between them and this package's networks is
known here alone: the names of their sizes and of their input, the pixels that they expect, and
which clips they can take.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForVideoClassification, PreTrainedModel

from .base import align_weights
from .hub_files import DATA_FILES, is_hub_id, snapshot

__all__ = [
    "FAMILIES",
    "VideoFamily",
    "accept_clips",
    "clip_input",
    "create_video_model",
    "family_of",
    "input_name",
    "is_video_model_name",
    "open_video_model",
    "read_json",
    "shown_name",
]

logger = logging.getLogger(__name__)

_HEAD = "classifier."

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class VideoFamily:
    """What is to know about a family of transformers' video classifiers.

    Attributes
    ----------
    title : str
        For people.
    frames, size, channels : str
        The fields of its configuration that hold clip length, side of a plane and channels.
    mean, std, scale, shift : tuple of float, float
        What transformers' processor of the family does to pixels of 0..255 where nothing else is
        saved: ``(scale * pixel - shift - mean) / std``.
    other_frames, other_size : bool
        Whether trained weights go with another clip length or plane size: positions are computed
        (rotary, or the sine table along the frames) and not learned one by one.
    any_clip : bool
        Whether one and the same network takes any clip of whole tokens.
    input_name : str
        What it calls its clips.
    unused : str or None
        A part of the network that classification never runs.
    """

    title: str
    frames: str
    size: str
    channels: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    shift: float = 0.0
    other_frames: bool = False
    other_size: bool = False
    any_clip: bool = False
    input_name: str = "pixel_values"
    unused: str | None = None


_NAMES = ("num_frames", "image_size", "num_channels")
#: model_type -> family. The means are the defaults of transformers' processors of that name.
FAMILIES: dict[str, VideoFamily] = {
    "videomae": VideoFamily("VideoMAE", *_NAMES, *_HALVES, other_frames=True),
    "vjepa2": VideoFamily("V-JEPA 2", "frames_per_clip", "crop_size", "in_chans", *_IMAGENET,
                          other_frames=True, other_size=True, any_clip=True,
                          input_name="pixel_values_videos", unused="predictor"),
    "timesformer": VideoFamily("TimeSformer", *_NAMES, *_IMAGENET),
    "vivit": VideoFamily("ViViT", *_NAMES, *_HALVES, scale=1 / 127.5, shift=1.0),
}  # fmt: skip


def _field(config: Any, name: str, default: Any = None) -> Any:
    return (
        config.get(name, default) if isinstance(config, Mapping) else getattr(config, name, default)
    )


def clip_input(config: Any) -> tuple[int | None, int | None, int | None]:
    """Frames, side of a plane and channels that a configuration says.

    Parameters
    ----------
    config : PreTrainedConfig or mapping
        Of this package's networks or of a family here; a mapping is the content of config.json.
        What a configuration does not say is None.
    """
    family = FAMILIES.get(_field(config, "model_type"))
    names = _NAMES if family is None else (family.frames, family.size, family.channels)
    frames, size, channels = (_field(config, name) for name in names)
    if isinstance(size, Sequence):
        if len(set(size)) != 1:
            raise ValueError(
                f"The model takes planes of {list(size)} pixels; only square ones fit."
            )
        size = size[0]
    return frames, size, channels


def input_name(config: Any) -> str:
    """What the model of a configuration (or the content of config.json) calls its clips."""
    family = FAMILIES.get(_field(config, "model_type"))
    return "pixel_values" if family is None else family.input_name


def _steps(config: Any) -> tuple[int, int]:
    """Frames and pixels that one token spans."""
    tubelet, patch = _field(config, "tubelet_size", 1), _field(config, "patch_size", 1)
    if isinstance(tubelet, Sequence):
        return tubelet[0], tubelet[-1]
    return tubelet, patch[0] if isinstance(patch, Sequence) else patch


def family_of(config: Any, name: str) -> VideoFamily:
    model_type = _field(config, "model_type")
    if model_type not in FAMILIES:
        known = ", ".join(f"{family.title} ({kind})" for kind, family in FAMILIES.items())
        hint = ""
        if str(model_type).startswith("ct_"):
            hint = (
                " It is a network of this package: name its backbone, and give this folder as "
                "weights."
            )
        raise ValueError(f"{name} is a model of type {model_type!r}; taken are {known}.{hint}")
    return FAMILIES[model_type]


# ---- the input ----------------------------------------------------------------------------------


def accept_clips(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model of transformers be called as this package's networks are.

    From then on it takes ``pixel_values`` by that name, whatever its own is called, leaves out what
    else comes from ``CTVideoProcessor``, and refuses clips of other sizes at the door. A part that
    classification never runs (V-JEPA 2's predictor) is frozen: several processes would wait for its
    gradients for ever. Networks of this package and models that nothing is known about are left as
    they are. Nothing of this is saved with the model.
    """
    family = FAMILIES.get(model.config.model_type)
    if family is not None and not getattr(model, "_accepts_clips", False):
        model.register_forward_pre_hook(_as_its_own_input, with_kwargs=True)
        model._accepts_clips = True
        if family.unused is not None:
            getattr(model.base_model, family.unused).requires_grad_(False)
    return model


def _as_its_own_input(
    model: PreTrainedModel, positional: tuple, named: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    own = input_name(model.config)
    kept = {key: value for key, value in named.items() if key not in _NOT_FOR_THEM}
    if "pixel_values" in kept:
        kept[own] = kept.pop("pixel_values")
    pixels = positional[0] if positional else kept.get(own)
    if isinstance(pixels, torch.Tensor):
        _check_pixels(model.config, pixels)
    return positional, kept


_NOT_FOR_THEM = ("clip_starts", "clip_lengths")


def _check_pixels(config: Any, pixels: torch.Tensor) -> None:
    family, shape = FAMILIES[config.model_type], tuple(pixels.shape)
    axes = "(batch, frames, channels, rows, columns)"
    if len(shape) != 5:
        raise ValueError(f"pixel_values has shape {shape}; {axes} is needed.")
    frames, size, channels = clip_input(config)
    if shape[2] != channels:
        raise ValueError(
            f"pixel_values has shape {shape}: {shape[2]} channels where this {family.title} takes "
            f"{channels}; the axes are {axes}."
        )
    if family.any_clip:
        _check_whole_tokens(config, family, shape[1], shape[3:])
    elif (shape[1], *shape[3:]) != (frames, size, size):
        raise ValueError(
            f"pixel_values has {shape[1]} frames of {shape[3]}x{shape[4]} pixels; this "
            f"{family.title} takes exactly {frames} frames of {size}x{size}."
        )


def _check_whole_tokens(
    config: Any, family: VideoFamily, frames: int, sides: Sequence[int]
) -> None:
    step, patch = _steps(config)
    if frames % step or any(side % patch for side in sides) or not all((frames, *sides)):
        raise ValueError(
            f"{family.title} cannot take {frames} frames of {'x'.join(map(str, sides))} pixels: "
            f"the frames have to be a multiple of {step} and the sides of {patch}."
        )


# ---- making one ---------------------------------------------------------------------------------


def is_video_model_name(name: str | Path) -> bool:
    """Whether a backbone's name means a folder or a Hub id (user/model, user/model@revision)."""
    text = str(name)
    return Path(text).is_dir() or "/" in text


def open_video_model(name: str | Path) -> tuple[Path, str | None]:
    """The folder of a model, and its commit where it comes from the Hub."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(f"The folder {path.name!r} is no model folder: it has no config.json.")
        return path, None
    repo, _, revision = str(name).partition("@")
    if not is_hub_id(repo):
        raise ValueError(f"There is no folder {str(name)!r}, and that is no Hub id (user/model).")
    folder = snapshot(repo, revision or None, files=(*DATA_FILES, "README.md"))
    if not list(folder.glob("*.safetensors")):  # older repositories; read with weights_only
        snapshot(repo, folder.name, files=("pytorch_model*.bin",))
    return folder, folder.name


def create_video_model(
    name: str | Path,
    num_labels: int = 1,
    weights: str | Path | None = None,
    *,
    keep_head: bool | None = None,
    **config_overrides: Any,
) -> PreTrainedModel:
    """Make a classifier of a family in :data:`FAMILIES`, in eval mode and float32.

    Parameters
    ----------
    name : str or path
        A folder that ``save_pretrained`` wrote, or a Hub id, with ``@revision`` for another one
        than main.
    num_labels : int
        Logits; 1 for a binary task (``problem_type`` "multi_label_classification", BCE).
    weights : {None, "saved", "none"}
        None and "saved": those of the folder, with a new classifier unless it has as many labels.
        "none": random ones, for the same configuration.
    keep_head : bool, optional
        None: keep the folder's classifier where it has ``num_labels``. False: start a new one.
        True: it has to be there with ``num_labels``.
    **config_overrides
        Fields of its configuration; ``num_frames`` and ``image_size`` by these names whatever the
        family calls them.

    Raises
    ------
    ValueError
        Another kind of model, an unknown field, a clip that it cannot take, or weights that do not
        fill the network below its head.
    OSError
        A repository that cannot be fetched.
    """
    if weights not in (None, "saved", "none"):
        raise ValueError(
            f"weights={str(weights)!r} with the backbone {str(name)!r}, which is a model itself: "
            "'saved' takes its weights, 'none' random ones. To start from another folder, name "
            "that one as the backbone."
        )
    folder, _ = open_video_model(name)
    saved = read_json(folder / "config.json")
    family = family_of(saved, shown_name(name))
    config = _configure(folder, saved, num_labels, config_overrides, shown_name(name))
    if weights == "none":
        if keep_head:
            raise ValueError("keep_head=True keeps a saved classifier; weights 'none' has none.")
        model = AutoModelForVideoClassification.from_config(config, trust_remote_code=False)
        return accept_clips(model.float().eval())
    _check_trained_sizes(saved, config, family, shown_name(name))
    return accept_clips(_load(folder, config, shown_name(name), keep_head).eval())


def shown_name(name: str | Path) -> str:
    """A name for messages: of a folder the last part."""
    return repr(Path(name).name if Path(name).is_dir() else str(name))


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path.name} of {path.parent.name!r} is not valid JSON: {error}."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} of {path.parent.name!r} holds no JSON object.")
    return content


def _configure(
    folder: Path, saved: dict, num_labels: int, overrides: dict[str, Any], name: str
) -> Any:
    family = family_of(saved, name)
    own = {"num_frames": family.frames, "image_size": family.size, "num_channels": family.channels}
    fields = {own.get(key, key): value for key, value in overrides.items()}
    fields = {"problem_type": "multi_label_classification"} | fields
    if fields.get("id2label") is None and len(saved.get("id2label") or {0: 0, 1: 1}) != num_labels:
        fields["id2label"] = {index: f"LABEL_{index}" for index in range(num_labels)}
    if fields.get("id2label") is not None:
        fields["label2id"] = {label: index for index, label in fields["id2label"].items()}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        known = {field.name for field in dataclasses.fields(config)}
        if set(fields) - known:
            raise ValueError(
                f"The configuration of {name} has no field "
                f"{', '.join(sorted(set(fields) - known))}; known: {', '.join(sorted(known))}."
            )
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **fields)
    except StrictDataclassError as error:
        raise ValueError(f"{name} cannot be made so. {error}") from error
    frames, size, _ = clip_input(config)
    _check_whole_tokens(config, family, frames, (size, size))
    return config


def _check_trained_sizes(saved: dict, config: Any, family: VideoFamily, name: str) -> None:
    """Refuse a clip that the trained weights have no positions for."""
    # config.json leaves out what is the family's default
    before = clip_input(type(config).from_dict(saved))
    now = clip_input(config)
    fixed = (not family.other_frames, not family.other_size, True)
    if any(lock and a != b for lock, a, b in zip(fixed, before, now, strict=True)):
        frames = "any whole number of tubelets" if family.other_frames else before[0]
        raise ValueError(
            f"The weights of {name} cannot be used for {now[0]} frames of {now[1]}x{now[1]} pixels "
            f"and {now[2]} channels, for they hold positions of their own. Allowed are frames: "
            f"{frames}, pixels: {before[1]}x{before[1]}, channels: {before[2]}; any others with "
            "random weights (weights 'none')."
        )


def _start_anew(model: PreTrainedModel) -> None:
    """Initialise the classifier again, as transformers does where a checkpoint lacks it."""
    for module in model.get_submodule(_HEAD.rstrip(".")).modules():
        for thing in (module, *module.parameters(recurse=False)):
            thing._is_hf_initialized = False  # else initialisation leaves out what was loaded
        model._init_weights(module)


def _load(folder: Path, config: Any, name: str, keep_head: bool | None = None) -> PreTrainedModel:
    try:
        model, info = AutoModelForVideoClassification.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The weights of {name} are damaged or hold pickled objects beyond tensors, which "
            "could run code and are never loaded. Ask for them as safetensors."
        ) from error
    except (RuntimeError, OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"The weights of {name} cannot be loaded: {error}") from error
    body = f"{model.base_model_prefix}."
    reset = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    lost = sorted(key for key in reset if key.startswith(body))
    surplus = sorted(key for key in info["unexpected_keys"] if key.startswith(body))
    if lost or surplus:
        raise ValueError(
            f"The weights of {name} do not fit its network. Missing or of another shape: "
            f"{', '.join(lost[:8]) or 'none'}. Unexpected: {', '.join(surplus[:8]) or 'none'}."
        )
    lost = sorted(key for key in reset if key.startswith(_HEAD))
    if keep_head and lost:
        raise ValueError(
            f"keep_head=True keeps the classifier of {name}, which has none with "
            f"{config.num_labels} label(s)."
        )
    if keep_head is False and not lost:
        _start_anew(model)
        reset |= {key for key in model.state_dict() if key.startswith(_HEAD)}
    if reset:
        logger.info("Parts of %s that start anew: %s", name, ", ".join(sorted(reset)))
    align_weights(model)
    return model
