"""The part of a network that sees each slice alone, so that overlapping clips can share it.

Neighbouring clips of a study overlap. What a network computes before the first operation that mixes
slices depends on a slice alone, so it can be computed once and used in every clip that holds the
slice; only rounding may differ. That is so for convolutions and poolings of one slice at a step of
one slice, for batch norms in eval mode, and for what works voxel by voxel. A group norm takes its
statistics over all slices and a squeeze-and-excitation its means, so they end it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

__all__ = ["SliceStages", "leading_slice_stages"]


def leading_slice_stages(sizes: Iterable[Sequence[int]]) -> int:
    """How many stages, from the first, have 1 for all their kernels and strides over slices."""
    count = 0
    for stage in sizes:
        if set(stage) != {1}:
            break
        count += 1
    return count


class SliceStages:
    """A backbone in two parts: stages that see slices alone, and the rest; one after the other.

    ``slice_stages`` says how many of ``blocks`` are in the first part: 0 unless a subclass knows
    better. Both parts are for eval mode, without gradients.
    """

    blocks: nn.ModuleList
    head_pool: nn.Module

    @property
    def slice_stages(self) -> int:
        """Stages, from the first, that see each slice alone in eval mode."""
        return 0

    def slice_features(self, slices: torch.Tensor) -> torch.Tensor:
        """The first part: each slice's own features.

        Parameters
        ----------
        slices : torch.Tensor
            (slice, channel, row, column), as in ``pixel_values``; of any clips, in any order.

        Returns
        -------
        torch.Tensor
            (slice, feature, row, column).
        """
        video = slices.transpose(0, 1).unsqueeze(0)
        for block in self.blocks[: self.slice_stages]:
            video = block(video)
        return video[0].transpose(0, 1)

    def explain_slices(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The second part: what ``to_explain`` gives for the clips that the slices make up.

        Parameters
        ----------
        features : torch.Tensor
            (clip, feature, frame, row, column) of :meth:`slice_features`.
        """
        for block in self.blocks[self.slice_stages :]:
            features = block(features)
        return features, self.head_pool(features)
