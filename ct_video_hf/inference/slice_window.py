"""The slices of a study that clips in work hold, each made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

__all__ = ["SliceWindow"]


class SliceWindow:
    """Slices in order, each made once and kept until every clip that holds it has been cut.

    Parameters
    ----------
    make : callable
        First slice and the one after the last -> tensor (slice, ...). Asked for every slice once,
        in ascending order.
    total : int
        Slices that clips hold, padding included.
    at_once : int
        Slices to ask for at a time; the last time fewer.

    Attributes
    ----------
    most : int
        Most slices that were kept at a time.
    """

    def __init__(self, make: Callable[[int, int], torch.Tensor], total: int, at_once: int) -> None:
        self._make = make
        self._total = total
        self._at_once = at_once
        self._pieces: list[tuple[int, torch.Tensor]] = []
        self._end = 0
        self.most = 0

    def between(self, first: int, stop: int) -> torch.Tensor:
        """Slices from ``first`` to before ``stop``; none before ``first`` is asked for again."""
        self._pieces = [piece for piece in self._pieces if piece[0] + len(piece[1]) > first]
        self._extend(stop)
        parts = [
            piece[max(first - begin, 0) : stop - begin]
            for begin, piece in self._pieces
            if begin < stop
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def clips(self, starts: Sequence[int] | np.ndarray, frames: int) -> torch.Tensor:
        """Clips (clip, frame, ...) at ascending ``starts``.

        What :meth:`between` gives; planes whose channels lie innermost in memory keep that layout.
        """
        begin = int(starts[0])
        held = self.between(begin, int(starts[-1]) + frames)
        innermost = held.ndim == 4 and held.is_contiguous(memory_format=torch.channels_last)
        if innermost:
            held = held.permute(0, 2, 3, 1)
        if len(starts) == 1:
            clips = held.unsqueeze(0)
        else:
            places = [int(start) - begin for start in starts]
            clips = torch.stack([held[place : place + frames] for place in places])
        return clips.permute(0, 1, 4, 2, 3) if innermost else clips

    def _extend(self, stop: int) -> None:
        while self._end < stop:
            end = min(self._end + self._at_once, self._total)
            self._pieces.append((self._end, self._make(self._end, end)))
            self._end = end
        self.most = max(self.most, sum(len(piece) for _, piece in self._pieces))
