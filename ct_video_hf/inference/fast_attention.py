"""Attention without its whole matrix in memory, found in a recorded graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["Attention", "PackedAttention"]

aten = torch.ops.aten

_FEW_MATRICES = 16


@dataclass(frozen=True)
class Attention:
    """softmax(scale q k^T + bias + mask) v, as it was recorded.

    Attributes
    ----------
    queries, keys, values : torch.fx.Node
        (batch, head, position, feature).
    scale : float
    bias : torch.Tensor or None
        Constant, (1, head, position, position).
    mask : torch.Tensor or None
        Constant, (window, position, position); the batch runs over the windows fastest.
    """

    queries: fx.Node
    keys: fx.Node
    values: fx.Node
    scale: float
    bias: torch.Tensor | None
    mask: torch.Tensor | None

    @classmethod
    def ending_in(cls, product: fx.Node, value: Callable[[Any], Any]) -> Attention | None:
        """The attention whose last product is ``product``; None where it is none."""
        softmax, values = product.args[:2]
        if not _once(softmax, aten.softmax.int) or softmax.args[1] != -1:
            return None
        scores, mask = _unmasked(softmax.args[0], value)
        bias = None
        if _once(scores, aten.add.Tensor) and value(scores.args[1]) is not None:
            bias = value(scores.args[1])
            scores = scores.args[0]
        scale = 1.0
        if _once(scores, aten.mul.Tensor) and isinstance(scores.args[1], float):
            scores, scale = scores.args
        if not _once(scores, aten.matmul.default):
            return None
        queries, keys = scores.args
        if not _transposed(keys) or queries.meta["val"].ndim != 4:
            return None
        if bias is not None and (bias.ndim != 4 or len(bias) != 1):
            return None
        return cls(queries, keys.args[0], values, scale, bias, mask)


def _once(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is target and len(node.users) == 1


def _transposed(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.target is not aten.transpose.int:
        return False
    return {axis % 4 for axis in node.args[1:]} == {2, 3}


def _unmasked(scores: Any, value: Callable[[Any], Any]) -> tuple[Any, torch.Tensor | None]:
    """Look through view, sum with a mask of (1, window, 1, position, position), view."""
    if not _once(scores, aten.view.default) or not _once(scores.args[0], aten.add.Tensor):
        return scores, None
    inner, mask = scores.args[0].args
    mask = value(mask)
    if mask is None or mask.ndim != 5 or mask.shape[0] != 1 or mask.shape[2] != 1:
        return scores, None
    if not _once(inner, aten.view.default):
        return scores, None
    return inner.args[0], mask[0, :, 0]


class PackedAttention:
    """An :class:`Attention` of fixed shapes in one dtype."""

    def __init__(self, found: Attention, dtype: torch.dtype) -> None:
        batch, heads = found.queries.meta["val"].shape[:2]
        self.scale = found.scale
        self.bias = None if found.bias is None else found.bias.to(dtype)
        self.groups: list[tuple[torch.Tensor, torch.Tensor]] = []
        if found.mask is not None:
            self.groups = [
                (windows, (mask if found.bias is None else found.bias + mask).to(dtype))
                for windows, mask in _alike(found.mask, batch)
            ]
        plain = self.bias is None and not self.groups
        self.few = plain and batch * heads <= _FEW_MATRICES and dtype == torch.float32

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if self.few:
            return self._matrix_by_matrix(q, k, v)
        if not self.groups:
            return scaled_dot_product_attention(q, k, v, self.bias, scale=self.scale)
        result = torch.empty_like(q)
        for windows, mask in self.groups:
            result[windows] = scaled_dot_product_attention(
                q[windows], k[windows], v[windows], mask, scale=self.scale
            )
        return result

    def _matrix_by_matrix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """A few large matrices: two products by oneDNN each."""
        product = torch.ops.mkldnn._linear_pointwise
        result = q.new_empty(*q.shape[:3], v.shape[3])
        for item in range(q.shape[0]):
            for head in range(q.shape[1]):
                scaled = q[item, head] * self.scale
                scores = product(scaled, k[item, head].contiguous(), None, "none", [], "")
                weights = torch.softmax(scores, -1)
                by_feature = v[item, head].t().contiguous()
                result[item, head] = product(weights, by_feature, None, "none", [], "")
        return result


def _alike(mask: torch.Tensor, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Windows with the same mask, (window,) and (1, 1, position, position)."""
    kinds: list[tuple[list[int], torch.Tensor]] = []
    for window in range(len(mask)):
        for members, kind in kinds:
            if torch.equal(mask[window], kind):
                members.append(window)
                break
        else:
            kinds.append(([window], mask[window]))
    repeats = range(0, batch, len(mask))
    return [
        (
            torch.tensor([first + window for first in repeats for window in members]),
            kind[None, None],
        )
        for members, kind in kinds
    ]
