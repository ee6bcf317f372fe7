"""Clip features: what a network's classifier sees, of a whole set written once to one file.

A feature file is safetensors: for each split ``SPLIT.features`` float32 (clip, feature),
``SPLIT.study`` (row of the study in its split) and ``SPLIT.start`` (first slice); its metadata name
the model, the hash of its weights, the set and the hash of the set's manifest. No label, no id.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

from ..data import CTClipDataset
from ..errors import CTVideoError
from ..evaluation.score import ClassifierInput
from ..files import replacing
from ..progress import counter

__all__ = ["HeadInput", "SetFeatures", "read_features", "weights_hash", "write_features"]

logger = logging.getLogger(__name__)

_FORMAT = "ct_video_hf.features.1"
#: Clips in one part, the most that a kill can cost.
_PART = 256


class HeadInput:
    """A classifier's input instead of its output.

    Parameters
    ----------
    model : PreTrainedModel
        In eval mode, with a linear ``classifier``. Where it classifies several positions and
        averages afterwards, features are the mean over the positions, which gives the same logits.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.input = model, ClassifierInput(model)
        if not isinstance(self.input.head, nn.Linear):
            raise CTVideoError(
                f"{self.input.name} is a graph without weights, to which features are tied: take "
                "the model that it was made of"
            )
        self._checked = False

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Features (clip, feature), float32, of clips (clip, frame, channel, row, column).

        Raises
        ------
        CTVideoError
            The network's logits are no linear function of them.
        """
        with self.input.watched():
            logits = self.model(pixel_values=pixel_values).logits
        features = self.input.taken()
        if not self._checked:
            self._check(features, logits.float())
        return features

    def _check(self, features: torch.Tensor, logits: torch.Tensor) -> None:
        with torch.autocast(features.device.type, enabled=False):
            head = self.input.head
            again = head(features.to(head.weight.dtype)).float()
        if again.shape != logits.shape or not torch.allclose(again, logits, rtol=1e-3, atol=1e-3):
            raise CTVideoError(
                f"the logits of {type(self.model).__name__} are no linear function of one feature "
                "vector a clip, so a linear head on features would not be the network's"
            )
        self._checked = True


@dataclass(frozen=True)
class SetFeatures:
    """A feature file.

    Attributes
    ----------
    metadata : dict
        ``model``, ``weights_sha256``, ``set``, ``set_sha256``, ``clips`` (how they were cut).
    splits : dict
        Split -> ``features`` float32 (clip, feature), ``study`` and ``start`` int64 (clip,).
    """

    metadata: dict[str, Any]
    splits: dict[str, dict[str, np.ndarray]]

    def of(self, split: str, dataset: CTClipDataset) -> np.ndarray:
        """Features (clip, feature) of a data set's clips in its order.

        Raises
        ------
        CTVideoError
            The file lacks the split or one of the clips.
        """
        if split not in self.splits:
            raise CTVideoError(
                f"the feature file has no split {split!r}; it has {', '.join(self.splits)}"
            )
        part, index = self.splits[split], dataset.index
        keys = zip(part["study"].tolist(), part["start"].tolist(), strict=True)
        places = {key: row for row, key in enumerate(keys)}
        wanted = list(zip(index.study.tolist(), index.start.tolist(), strict=True))
        lost = [key for key in wanted if key not in places]
        if lost:
            raise CTVideoError(
                f"the feature file lacks {len(lost)} of {len(wanted)} clips of the split {split}: "
                "it was made from other clips; write it again"
            )
        return part["features"][[places[key] for key in wanted]]


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names and values of all saved tensors but the classifier's."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("classifier."):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def write_features(
    model: nn.Module,
    datasets: dict[str, CTClipDataset],
    path: Path,
    metadata: dict[str, Any],
    *,
    device: torch.device,
    batch_size: int = 8,
    progress: bool = False,
) -> tuple[int, int]:
    """Write the features of every clip of a set; goes on where a killed one stopped.

    Memory holds one part of clips until the last step, which puts the parts together.

    Parameters
    ----------
    model : PreTrainedModel
    datasets : dict
        Split -> its clips, not augmented.
    path : pathlib.Path
        The file; parts lie beside it in a hidden folder until it is whole.
    metadata : dict
        JSON-able; parts made with other metadata are thrown away.
    device, batch_size, progress
        Where and how the network runs, and whether a bar is shown.

    Returns
    -------
    tuple of int
        Clips, and features of each.
    """
    told = {"format": _FORMAT, "facts": json.dumps(metadata, sort_keys=True)}
    folder = path.with_name(f".{path.name}.parts")
    _own(folder, told)
    compute = HeadInput(model.to(device).eval())
    total = sum(len(dataset) for dataset in datasets.values())
    with counter(total, progress, unit="clip") as advance:
        for split, dataset in datasets.items():
            for first in range(0, len(dataset), _PART):
                part = folder / f"{split}-{first:09}.safetensors"
                numbers = range(first, min(first + _PART, len(dataset)))
                if not part.is_file():
                    with replacing(part) as partial:
                        save_file(_part(compute, dataset, numbers, device, batch_size), partial)
                advance(len(numbers))
    with replacing(path) as partial:
        joined = dict(_joined(folder, datasets))
        save_file(joined, partial, metadata=told)
    shutil.rmtree(folder)
    widths = {array.shape[1] for name, array in joined.items() if name.endswith(".features")}
    return total, widths.pop()


def _own(folder: Path, told: dict[str, str]) -> None:
    """A folder of parts of this very file; one that was begun otherwise is emptied."""
    mark = folder / "parts.json"
    text = json.dumps(told)
    if folder.is_dir() and (not mark.is_file() or mark.read_text(encoding="utf-8") != text):
        logger.warning("parts of a feature file of other clips or weights are thrown away")
        shutil.rmtree(folder)
    if not folder.is_dir():
        with replacing(mark) as partial:
            partial.write_text(text, encoding="utf-8")


def _part(compute, dataset, numbers: range, device, batch_size: int) -> dict[str, np.ndarray]:
    found = []
    for begin in range(numbers.start, numbers.stop, batch_size):
        some = range(begin, min(begin + batch_size, numbers.stop))
        clips = torch.stack([dataset[number]["pixel_values"] for number in some])
        found.append(compute(clips.to(device)).cpu().numpy())
    index = dataset.index
    return {
        "features": np.concatenate(found),
        "study": index.study[numbers.start : numbers.stop].astype(np.int64),
        "start": index.start[numbers.start : numbers.stop].astype(np.int64),
    }


def _joined(folder: Path, datasets: dict) -> Iterator[tuple[str, np.ndarray]]:
    for split, dataset in datasets.items():
        files = [folder / f"{split}-{f:09}.safetensors" for f in range(0, len(dataset), _PART)]
        parts = [load_file(file) for file in files]
        for name in ("features", "study", "start"):
            yield f"{split}.{name}", np.concatenate([part[name] for part in parts])


def read_features(path: Path) -> SetFeatures:
    """Read what :func:`write_features` wrote.

    Raises
    ------
    CTVideoError
        No such file, or another kind of file.
    """
    if not path.is_file():
        raise CTVideoError(f"there is no feature file {path.name}")
    try:
        with safe_open(path, "np") as file:
            told = file.metadata() or {}
            names = list(file.keys())
    except Exception as error:  # of the Rust reader, without a common class
        raise CTVideoError(f"{path.name} is no feature file: {error}") from error
    if told.get("format") != _FORMAT:
        raise CTVideoError(f"{path.name} is no feature file of this version (ct-video-hf features)")
    arrays = load_file(path)
    splits: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        split, _, kind = name.rpartition(".")
        splits.setdefault(split, {})[kind] = arrays[name]
    return SetFeatures(json.loads(told["facts"]), splits)
