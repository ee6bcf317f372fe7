"""Learned positions for another grid: resampling of embeddings and of tables of offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["resample_grid", "square_side"]


def _linear_weights(old: int, new: int) -> torch.Tensor:
    """(new, old) matrix that reads a line of ``old`` values at ``new`` even positions.

    Both lines cover the same length and a value stands for the middle of its share, as patches of
    a picture do. Beyond the outermost middles the line goes on straight.
    """
    if old == 1:
        return torch.ones(new, 1, dtype=torch.float64)
    places = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    left = places.floor().clamp(0, old - 2).long()
    share = places - left
    weights = torch.zeros(new, old, dtype=torch.float64)
    rows = torch.arange(new)
    weights[rows, left] = 1 - share
    weights[rows, left + 1] = share
    return weights


def resample_grid(values: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Bring features on a grid to another grid over the same extent, linearly along each axis.

    Parameters
    ----------
    values : torch.Tensor
        (n_1, ..., n_k, feature).
    sizes : sequence of int
        Wanted sizes of the k grid axes.

    Returns
    -------
    torch.Tensor
        (sizes..., feature) in the dtype of ``values``: the same values where the sizes agree, a
        constant where they are constant, a straight line where they lie on one.
    """
    if values.ndim != len(sizes) + 1:
        raise ValueError(f"{values.ndim - 1} grid axes cannot be brought to {list(sizes)}.")
    result = values
    for axis, size in enumerate(sizes):
        if result.shape[axis] != size:
            weights = _linear_weights(result.shape[axis], size)
            moved = torch.tensordot(weights, result.double(), dims=([1], [axis]))
            result = moved.movedim(0, axis)
    return result.to(values.dtype).contiguous()


def square_side(count: int, name: str) -> int:
    """Side of a square grid of ``count`` positions.

    Raises
    ------
    ValueError
        For another number; ``name`` says of what.
    """
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f"{name} has {count} positions, which are no square of patches: only positions of "
            "square pictures can be brought to another size."
        )
    return side
