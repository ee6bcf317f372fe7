"""Attention within shifted windows of a video, on torchvision's parameters.

torchvision's module reads the weights of its linear layers past the layers themselves: adapters
(LoRA) and hooks on them would have no effect. Here the layers are called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

__all__ = ["GeometricWindowAttention", "WindowAttention", "relative_position_index"]

_APART = -100.0  # added to the scores of patches that are no neighbours, as in both original codes


def relative_position_index(window: Sequence[int]) -> torch.Tensor:
    """Row of a table of offsets for every pair of patches in a window, (n, n), int64.

    Patches are listed by frame, row, column; the table by the offset (query minus key) over
    frames, rows, columns, each counted from its lowest value.
    """
    places = torch.cartesian_prod(*(torch.arange(size, device="cpu") for size in window))
    spans = torch.tensor(window, device="cpu")
    offsets = places[:, None] - places[None] + spans - 1
    frames, rows, columns = offsets.unbind(-1)
    _, height, width = (2 * size - 1 for size in window)
    return (frames * height + rows) * width + columns


def _to_windows(video: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """(batch, t, h, w, channel) -> (batch * windows, patches, channel)."""
    split = video
    for axis in (3, 2, 1):
        split = split.unflatten(axis, (video.shape[axis] // window[axis - 1], window[axis - 1]))
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)


def _from_windows(
    windows: torch.Tensor, window: Sequence[int], grid: Sequence[int]
) -> torch.Tensor:
    """Back to (batch, t, h, w, channel) on ``grid``."""
    counts = [extent // size for extent, size in zip(grid, window, strict=True)]
    batch = windows.shape[0] // math.prod(counts)
    split = windows.unflatten(1, tuple(window)).unflatten(0, (batch, *counts))
    return split.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def _apart(
    grid: Sequence[int], window: Sequence[int], move: Sequence[int], like: torch.Tensor
) -> torch.Tensor:
    """(windows, patches, patches): 0 for neighbours, else what keeps patches from each other.

    Moved windows at an edge hold patches of the opposite edge, which keep to themselves.
    """
    group = torch.zeros(*grid, dtype=torch.int64, device=like.device)
    for axis, (extent, steps) in enumerate(zip(grid, move, strict=True)):
        late = torch.arange(extent, device=like.device) >= extent - steps
        shape = [-1 if axis == other else 1 for other in range(3)]
        group = 2 * group + late.view(shape)
    groups = _to_windows(group[None, ..., None], window)
    return (groups != groups.transpose(1, 2)).to(like.dtype) * _APART


class WindowAttention(ShiftedWindowAttention3d):
    """Multi-head attention in windows, every second time moved by half a window.

    Where the grid has fewer rows or columns than the window, offsets are read from the table as
    the original codes do, which there are those of other patches.
    """

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Attend in (batch, t, h, w, channel)."""
        grid = video.shape[1:4]
        sizes = list(zip(grid, self.window_size, self.shift_size, strict=True))
        window = [min(extent, size) for extent, size, _ in sizes]
        move = [steps if extent > size else 0 for extent, size, steps in sizes]
        full = [-(-extent // size) * size for extent, size in zip(grid, window, strict=True)]
        missing = [whole - extent for whole, extent in zip(full, grid, strict=True)]
        video = nn.functional.pad(video, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
        if any(move):
            video = video.roll([-steps for steps in move], (1, 2, 3))
        video = _from_windows(
            self._attend(_to_windows(video, window), window, move, full), window, full
        )
        if any(move):
            video = video.roll(move, (1, 2, 3))
        return video[:, : grid[0], : grid[1], : grid[2]].contiguous()

    def _attend(
        self,
        windows: torch.Tensor,
        window: Sequence[int],
        move: Sequence[int],
        full: Sequence[int],
    ) -> torch.Tensor:
        split = self.qkv(windows).unflatten(2, (3, self.num_heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        bias = self.get_relative_position_bias(list(window)).to(query.dtype)
        if any(move):
            bias = bias + _apart(full, window, move, query)[:, None]
            bias = bias.repeat(windows.shape[0] // bias.shape[0], 1, 1, 1)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(seen.transpose(1, 2).flatten(2))


class GeometricWindowAttention(WindowAttention):
    """With the offsets between the patches themselves in grids that are smaller than a window."""

    def get_relative_position_bias(self, window_size: list[int]) -> torch.Tensor:
        """(1, head, patch, patch): what is added to the scores."""
        frames, rows, columns = window_size
        index = self.relative_position_index
        numbers = torch.arange(index.shape[0], device=index.device).view(self.window_size)
        inside = numbers[:frames, :rows, :columns].flatten()
        pairs = index[inside][:, inside]
        return self.relative_position_bias_table[pairs].permute(2, 0, 1).unsqueeze(0)
