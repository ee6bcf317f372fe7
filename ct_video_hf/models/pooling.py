"""Pooling before the classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["HEAD_POOLS", "GlobalMaxPool", "WindowAveragePool", "make_head_pool"]

#: "published" averages a window at stride 1; the others pool everything.
HEAD_POOLS = ("published", "mean", "max")


class WindowAveragePool(nn.AvgPool3d):
    """AvgPool3d at stride 1 that also takes half precision on a CPU, where torch has none."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Pool (batch, channel, frame, row, column)."""
        if video.device.type == "cpu" and video.dtype in (torch.bfloat16, torch.float16):
            return super().forward(video.float()).to(video.dtype)
        return super().forward(video)


class GlobalMaxPool(nn.Module):
    """Largest value of each channel, (batch, channel, 1, 1, 1)."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Pool (batch, channel, frame, row, column)."""
        return video.amax((2, 3, 4), keepdim=True)


def make_head_pool(kind: str, kernel: Sequence[int]) -> nn.Module:
    """Build the pooling that ``kind`` names; ``kernel`` is the window of "published".

    Raises
    ------
    ValueError
        For a kind that is not in :data:`HEAD_POOLS`.
    """
    if kind == "published":
        return WindowAveragePool(tuple(kernel), stride=1)
    if kind == "mean":
        return nn.AdaptiveAvgPool3d(1)
    if kind == "max":
        return GlobalMaxPool()
    raise ValueError(f"head_pool is {kind!r}; allowed: {', '.join(HEAD_POOLS)}.")
