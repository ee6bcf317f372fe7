"""Published checkpoints into our models: read safely, map strictly."""

from __future__ import annotations

import fnmatch
import json
import logging
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file

from .base import CTVideoClassifier
from .download import fetch
from .records import Backbone, Layout, WeightRecord

__all__ = [
    "fetch",
    "inflate_channels",
    "labels_of",
    "layout_of",
    "load_published",
    "map_keys",
    "read_checkpoint",
    "read_folder",
    "to_our_keys",
    "torchvision_facts",
]

logger = logging.getLogger(__name__)

_WRAPPERS = ("model_state", "state_dict", "model_state_dict", "model")
_HEAD = "classifier."


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint file without running code from it.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, or what ``torch.save`` wrote: a state dict, or a dictionary that
        holds one under ``model_state``, ``state_dict``, ``model_state_dict`` or ``model``. A
        prefix ``module.`` on every key is dropped.

    Raises
    ------
    ValueError
        For a file that is truncated, damaged, holds pickled code, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path.name!r}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(_numbers()):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} is not a plain checkpoint: it is damaged or holds pickled objects beyond "
            "tensors, which could run code and are never loaded. Save its state dict with "
            "torch.save or as safetensors and convert that."
        ) from error
    except (RuntimeError, EOFError, OSError, SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path.name} cannot be read: truncated, damaged or not a checkpoint ({error})."
        ) from error
    state = _unwrap(content)
    if state is None:
        raise ValueError(
            f"{path.name} holds no state dict: a dictionary of tensors, or one under "
            f"{', '.join(_WRAPPERS)}, is expected."
        )
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _numbers() -> list[Any]:
    """What a NumPy number is pickled with, such as the accuracy beside a checkpoint's weights."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *kinds,
    ]


def read_folder(folder: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder that ``save_pretrained`` wrote, of one file or of several.

    Raises
    ------
    ValueError
        Where there are no weights, or a file of them is missing or damaged.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ValueError(f"The folder {folder.name!r} lacks the weights {', '.join(absent)}.")
    state: dict[str, torch.Tensor] = {}
    for name in names:
        state |= read_checkpoint(folder / name)
    return state


def _unwrap(content: Any) -> dict[str, torch.Tensor] | None:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        return None
    state = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return state if len(state) == len(content) and all(map(_is_text, state)) else None


def _is_text(key: Any) -> bool:
    return isinstance(key, str)


def map_keys(
    state: Mapping[str, torch.Tensor], key_map: tuple[tuple[str, str], ...]
) -> dict[str, torch.Tensor]:
    """Rename published keys: the first prefix of ``key_map`` that fits is replaced.

    Raises
    ------
    ValueError
        When two keys become the same one and their tensors differ.
    """
    mapped: dict[str, torch.Tensor] = {}
    for published, value in state.items():
        key = published
        for prefix, ours in key_map:
            if key.startswith(prefix):
                key = ours + key.removeprefix(prefix)
                break
        if key in mapped and not torch.equal(mapped[key], value):
            raise ValueError(
                f"The checkpoint holds {key} twice with different values, the second time as "
                f"{published}: it is damaged or of another layout."
            )
        mapped[key] = value
    return mapped


def layout_of(state: Mapping[str, torch.Tensor], record: Backbone) -> Layout:
    """The layout of a checkpoint: one of ``record.layouts`` by its sign, else ``key_map``'s."""
    for layout in record.layouts:
        if any(key.startswith(layout.sign) for key in state):
            return layout
    return Layout(name="published", sign="", key_map=record.key_map)


def _renamed(state: Mapping[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
    kept = {
        key: value
        for key, value in state.items()
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in layout.drop)
    }
    return map_keys(kept, layout.key_map)


def _check_config(model: CTVideoClassifier, layout: Layout, name: str) -> None:
    wrong = [
        f"{field}={value!r} (it is {getattr(model.config, field)!r})"
        for field, value in layout.config.items()
        if getattr(model.config, field) != value
    ]
    if wrong:
        raise ValueError(
            f"Weights in the {layout.name} layout need a {name} with {', '.join(wrong)}: with "
            "other values they are another network."
        )


def inflate_channels(weight: torch.Tensor, channels: int, method: str = "sum") -> torch.Tensor:
    """Adapt a convolution weight (out, in, ...) to another number of input channels.

    Parameters
    ----------
    weight : torch.Tensor
        For ``in`` channels.
    channels : int
        Wanted number of input channels.
    method : {"sum", "mean"}
        ``"sum"``: the response to one picture repeated on all channels stays what it was (for one
        channel: the sum over the old ones). ``"mean"``: every channel gets the mean of the old
        ones, so that the response grows with the number of channels.
    """
    if weight.shape[1] == channels:
        return weight
    if method not in ("sum", "mean"):
        raise ValueError(f"channel_inflation is {method!r}; allowed: sum, mean.")
    mean = weight.mean(1, keepdim=True)
    if method == "sum":
        mean = mean * (weight.shape[1] / channels)
    return mean.expand(-1, channels, *weight.shape[2:]).contiguous()


def _is_ours(state: Mapping[str, torch.Tensor], own: Collection[str]) -> bool:
    return 2 * len(state.keys() & set(own)) > len(own)


def to_our_keys(
    state: Mapping[str, torch.Tensor], record: Backbone, own: Collection[str]
) -> dict[str, torch.Tensor]:
    """A published state dict under our keys; one that has most of ``own`` is left as it is."""
    if _is_ours(state, own):
        return dict(state)
    return _renamed(state, layout_of(state, record))


def labels_of(
    state: Mapping[str, torch.Tensor], record: Backbone, own: Collection[str]
) -> int | None:
    """Classes of a state dict's classifier, see :func:`to_our_keys`; None where it has none."""
    weight = to_our_keys(state, record, own).get(f"{_HEAD}weight")
    return None if weight is None else int(weight.shape[0])


def load_published(
    model: CTVideoClassifier,
    state: Mapping[str, torch.Tensor],
    record: Backbone,
    channel_inflation: str = "sum",
    keep_head: bool | None = None,
) -> list[str]:
    """Load a published state dict into a fresh model, strictly.

    Parameters
    ----------
    model : CTVideoClassifier
        Of ``record``'s family, as just made.
    state : mapping
        Published keys, or our own.
    record : Backbone
        Gives the layouts and the layers that see the input.
    channel_inflation : {"sum", "mean"}
        See :func:`inflate_channels`.
    keep_head : bool, optional
        True: the checkpoint's classifier has to be there and to fit. False: it starts anew. None:
        it is kept where it fits.

    Returns
    -------
    list of str
        Keys that start anew: of the classifier, and of the parts that ``record.new_parts`` names;
        everything else is loaded.

    Raises
    ------
    ValueError
        With the missing, unexpected and ill-shaped keys, or with the fields of the configuration
        that the checkpoint's layout needs otherwise; the model is then left as it was.
    """
    own = model.state_dict()
    if not _is_ours(state, own):
        _check_config(model, layout_of(state, record), record.name)
    given = to_our_keys(state, record, own)
    for key in own.keys() & given.keys():  # a classifier that is a 1x1x1 convolution
        if key.startswith(_HEAD) and given[key].shape == (*own[key].shape, 1, 1, 1):
            given[key] = given[key].reshape(own[key].shape)
    for key in record.input_keys:
        if key in given and key in own and given[key].ndim == own[key].ndim:
            given[key] = inflate_channels(given[key], own[key].shape[1], channel_inflation)
    if record.adapt is not None:
        given = record.adapt(given, model.config)
    anew = tuple(
        part
        for part in (_HEAD, *record.new_parts)
        if _starts_anew(part, own, given, keep_head if part == _HEAD else None)
    )
    fresh = sorted(key for key in own if key.startswith(anew)) if anew else []
    given = {key: value for key, value in given.items() if not (anew and key.startswith(anew))}
    missing = sorted(set(own) - set(given) - set(fresh))
    unexpected = sorted(set(given) - set(own))
    shapes = [
        f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in sorted(given.items())
        if key in own and value.shape != own[key].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"The checkpoint does not fit {record.name}. Missing: {_some(missing)}. Unexpected: "
            f"{_some(unexpected)}. Other shape: {_some(shapes)}."
        )
    model.load_state_dict(given, strict=not fresh)
    if fresh:
        logger.info("Parts of %s that start anew: %s", record.name, ", ".join(fresh))
    return fresh


def _starts_anew(
    part: str,
    own: Mapping[str, torch.Tensor],
    given: Mapping[str, torch.Tensor],
    keep: bool | None,
) -> bool:
    """Whether a part is to start anew: it was asked for, or the checkpoint has nothing of it.

    A classifier of another number of labels counts as none.
    """
    if keep is not None:
        return not keep
    if part == _HEAD:
        keys = [key for key in own if key.startswith(part)]
        return any(key not in given or given[key].shape != own[key].shape for key in keys)
    return not any(key.startswith(part) for key in given)


def torchvision_facts(record: WeightRecord) -> dict[str, Any]:
    """What torchvision states about weights that it publishes; empty for others.

    ``categories``: names of the classes; ``_file_size``: size of the file, MiB.
    """
    for name in torchvision.models.list_models():
        for entry in torchvision.models.get_model_weights(name):
            if entry.url == record.url:
                return dict(entry.meta)
    return {}


def _some(names: list[str], limit: int = 8) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
