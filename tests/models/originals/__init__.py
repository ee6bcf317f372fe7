"""The networks that ours have to equal, one file a family beside ours in ``ct_video_hf.models``.

Each module has ``ORIGINALS``: registry name -> :class:`Original`. They are found by themselves.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Original", "all_originals", "class_token"]


def _by_blocks(network: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    head = network.blocks[-1]
    return network.blocks[0], head.pool or network.blocks[-2], head.proj


def _averaged(features: torch.Tensor) -> torch.Tensor:
    return features.mean((2, 3, 4))


def class_token(tokens: torch.Tensor) -> torch.Tensor:
    """First of (batch, token, feature), for :attr:`Original.pooled`."""
    return tokens[:, 0]


def _one_tensor(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return network(pixels.transpose(1, 2))


@dataclass(frozen=True)
class Original:
    """A reference network and how to compare it with ours.

    Attributes
    ----------
    small : callable
        Builds it with 5 classes, small where its builder allows; None where only the full size
        exists and is too slow to compare twice.
    sizes : mapping
        Configuration of ours that fits ``small``.
    clips : tuple of (frames, rows, columns)
        Two clips, the second of which makes sliding windows slide.
    full : callable
        Builds the published network with its classes, without a final activation.
    full_clip : (frames, rows, columns)
        A clip for ``full``.
    million : float or None
        Parameters of ``full`` in millions, to three digits; None where nobody published it.
    feed : callable
        network, pixels (batch, frame, channel, row, column) -> logits.
    parts : callable
        network -> its first layer, the module that gives pooled features, its classifier.
    pooled : callable
        What the middle one of ``parts`` gives -> features (batch, feature).
    """

    small: Callable[[], nn.Module]
    sizes: Mapping[str, Any]
    full: Callable[[], nn.Module]
    full_clip: tuple[int, int, int]
    million: float | None
    clips: tuple[tuple[int, int, int], tuple[int, int, int]] = ((3, 32, 32), (5, 48, 64))
    feed: Callable[[nn.Module, torch.Tensor], torch.Tensor] = _one_tensor
    parts: Callable[[nn.Module], tuple[nn.Module, nn.Module, nn.Module]] = _by_blocks
    pooled: Callable[[torch.Tensor], torch.Tensor] = _averaged


def all_originals() -> dict[str, Original]:
    """Registry name -> original, of all modules here."""
    found: dict[str, Original] = {}
    for module in pkgutil.iter_modules(__path__):
        content = importlib.import_module(f".{module.name}", __name__)
        assert not found.keys() & content.ORIGINALS.keys()
        found |= content.ORIGINALS
    return dict(sorted(found.items()))
