"""A linear head fitted on cached features: a model in seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from .loss import TrainingLoss

__all__ = ["PENALTIES", "fit_head"]

#: Weights of the L2 penalty that are tried; the best on the validation split is taken.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    loss: TrainingLoss,
    score: Callable[[Callable[[np.ndarray], np.ndarray]], float] | None = None,
    penalties: tuple[float, ...] = PENALTIES,
) -> tuple[nn.Linear, float]:
    """The linear layer that minimises the loss with an L2 penalty, on standardised features.

    The standardisation becomes part of the layer, so it works on features as they are. There is no
    chance in it: the same features give the same layer.

    Parameters
    ----------
    features : numpy.ndarray
        float32 (clip, feature).
    labels : numpy.ndarray
        (clip, label): 1, 0 or -1 (unknown).
    loss : TrainingLoss
    score : callable, optional
        How good a head is, larger is better, given what takes features to logits; None keeps the
        smallest penalty of ``penalties``.

    Returns
    -------
    (torch.nn.Linear, float)
        In float32, and the penalty that was chosen.
    """
    x = torch.from_numpy(np.asarray(features, np.float64))
    y = torch.from_numpy(np.asarray(labels, np.float32))
    mean, spread = x.mean(0), x.std(0, correction=0)
    spread = torch.where(spread > 1e-12 * (1 + mean.abs()), spread, torch.inf)
    scaled = ((x - mean) / spread).float()
    best: tuple[float, nn.Linear, float] | None = None
    for penalty in penalties:
        head = _folded(_minimise(scaled, y, loss, penalty), mean, spread)
        value = 0.0 if score is None else score(_logits_of(head))
        if best is None or value > best[0]:
            best = (value, head, penalty)
        if score is None:
            break
    return best[1], best[2]


def _minimise(x: torch.Tensor, y: torch.Tensor, loss: TrainingLoss, penalty: float) -> nn.Linear:
    layer = nn.Linear(x.shape[1], y.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(layer(x), y) + 0.5 * penalty * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return layer


@torch.no_grad()
def _folded(layer: nn.Linear, mean: torch.Tensor, spread: torch.Tensor) -> nn.Linear:
    weight = layer.weight.double() / spread
    layer.bias.copy_(layer.bias.double() - weight @ mean)
    layer.weight.copy_(weight)
    return layer


def _logits_of(head: nn.Linear) -> Callable[[np.ndarray], np.ndarray]:
    @torch.no_grad()
    def logits(features: np.ndarray) -> np.ndarray:
        return head(torch.from_numpy(features)).numpy()

    return logits
