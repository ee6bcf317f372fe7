"""A running mean of the weights (EMA), which is scored and saved in the place of the weights.

After each optimizer step the mean moves by ``1 - d`` of the way to the weights, with ``d`` the
smaller of the decay and ``(1 + n) / (10 + n)`` after ``n`` steps, so that the mean of a short run
does not hang on its first weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import CTVideoError
from ..files import replacing

__all__ = ["WeightAverage"]

#: In a checkpoint, beside model.safetensors, which holds the mean: the weights that learn.
_LEARNING = "learning_weights.safetensors"
_COUNT = "weight_average.json"


class WeightAverage:
    """The running mean of a model's weights and of the statistics of its batch norms.

    Every process has the whole of it, so it works on one process and under DDP. Weights that do
    not learn are their own mean.

    Parameters
    ----------
    model : torch.nn.Module
        Not wrapped; on the device where it trains.
    decay : float
        0 to 1, both excluded.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise CTVideoError(f"ema is {decay}; a decay between 0 and 1 is expected, as 0.999")
        self.decay = decay
        self.steps = 0
        self._model = model
        self._names = _learning(model)
        self._mean = {name: value.clone() for name, value in self._live()}
        self._inside = False

    def _live(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and value of what learns; looked up anew, for loading may replace tensors."""
        found = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        return ((name, found[name].detach()) for name in self._names)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after an optimizer step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, live in self._live():
            self._mean[name].lerp_(live, 1 - decay)

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, live in self._live():
            kept = live.clone()
            live.copy_(self._mean[name])
            self._mean[name].copy_(kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this block the model has the mean in the place of its weights."""
        if self._inside:
            yield
            return
        self._exchange()
        self._inside = True
        try:
            yield
        finally:
            self._exchange()
            self._inside = False

    def keep(self) -> None:
        """Leave the mean in the model for good."""
        with torch.no_grad():
            for name, live in self._live():
                live.copy_(self._mean[name])

    def save(self, folder: Path) -> None:
        """Write what a checkpoint whose model file holds the mean lacks to go on learning."""
        weights = {name: value.cpu().contiguous() for name, value in self._live()}
        with replacing(folder / _LEARNING) as partial:
            save_file(weights, partial)
        with replacing(folder / _COUNT) as partial:
            partial.write_text(json.dumps({"steps": self.steps, "decay": self.decay}) + "\n")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Go on from a checkpoint whose model file, the mean, has just been loaded.

        Raises
        ------
        CTVideoError
            The checkpoint was written without a mean, or belongs to another network.
        """
        if not (folder / _LEARNING).is_file():
            raise CTVideoError(
                f"{folder.name} holds no running mean of the weights; resume without ema"
            )
        self.steps = int(json.loads((folder / _COUNT).read_text(encoding="utf-8"))["steps"])
        learning = load_file(folder / _LEARNING)
        if learning.keys() != set(self._names):
            raise CTVideoError(f"{folder.name} holds the running mean of another network")
        for name, live in self._live():
            self._mean[name].copy_(live)
            live.copy_(learning[name])


def _learning(model: nn.Module) -> list[str]:
    """What changes while a model learns: parameters that do, and saved floating-point buffers."""
    saved = model.state_dict().keys()
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    return names + [
        name for name, value in model.named_buffers() if name in saved and value.is_floating_point()
    ]
