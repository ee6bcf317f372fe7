"""Recomputed blocks (gradient checkpointing) and frozen ones leave batch statistics alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["OnceCounted", "rest_frozen_parts"]


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Leave running statistics of batch norms as they are for a repeated forward pass."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [
        (norm.momentum, None if norm.num_batches_tracked is None else norm.num_batches_tracked + 0)
        for norm in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if count is not None:
                norm.num_batches_tracked.copy_(count)


class OnceCounted:
    """Calls a block; from the second call on (recomputation) its statistics stay as they are."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.called = False

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The block's output."""
        if self.called:
            with _kept_statistics(self.block):
                return self.block(*inputs)
        self.called = True
        return self.block(*inputs)


def rest_frozen_parts(module: nn.Module) -> bool:
    """Put every part of ``module`` whose parameters are all frozen into eval mode.

    A frozen batch norm then neither moves its statistics nor uses those of the batch, and dropout
    or stochastic depth between frozen layers is off.

    Returns
    -------
    bool
        Whether ``module`` has parameters and none of them learns.
    """
    own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    children = list(module.children())
    frozen = [rest_frozen_parts(child) for child in children]
    learning = [
        child for child, rests in zip(children, frozen, strict=True) if not rests and _has(child)
    ]
    if any(own) or learning or not (own or any(frozen)):
        return False
    module.eval()
    return True


def _has(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
