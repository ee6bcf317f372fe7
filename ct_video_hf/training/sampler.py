"""Which clips an epoch trains on, and in which order: a function of the seed and the epoch only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ..data import ClipIndex, clip_sampling_weights
from ..errors import CTVideoError

__all__ = ["ClipSampler", "positive_share"]


def positive_share(sampling: str) -> float | None:
    """The share of positive clips that ``sampling`` asks for; None for a plain shuffle."""
    if sampling == "shuffle":
        return None
    if sampling == "balanced":
        return 0.5
    try:
        share = float(sampling)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise CTVideoError(
            f"sampling is balanced, shuffle, or a share between 0 and 1, found {sampling!r}"
        )
    return share


class ClipSampler(Sampler[int]):
    """Clip numbers for one epoch, the same on every process.

    Every process draws the whole epoch's order from (seed, epoch) and accelerate deals the batches
    out, so the clips of a global batch do not depend on the number of processes, and a resumed
    run sees what an uninterrupted one would. An epoch is filled up to whole global batches: no
    batch is smaller than the others, which batch norm and the mean of the gradients rely on.

    Parameters
    ----------
    index : ClipIndex
        The training clips; those with no known label are never drawn. Of several labels the
        index's finding, or any of them, makes a clip positive.
    sampling : str
        ``"shuffle"``: every clip once, in random order. ``"balanced"`` or a share such as
        ``"0.3"``: clips are drawn with replacement, positives with that share of the mass (the
        paper: 0.3 on RSNA, balanced on LIDC).
    batch : int
        Clips in a global batch: per process, times processes, times accumulation steps.
    seed : int

    Raises
    ------
    CTVideoError
        No clip with a known label, or a share was asked for and one of the classes is absent.
    """

    def __init__(self, index: ClipIndex, sampling: str, *, batch: int, seed: int) -> None:
        share = positive_share(sampling)
        if not index.labels.shape[1]:
            raise CTVideoError("the training set has no labels; one is needed to train on")
        self.seed = seed
        self.epoch = 0
        self._clips = np.flatnonzero((index.labels >= 0).any(axis=1))
        if not self._clips.size:
            raise CTVideoError("there is no training clip with a known label")
        known = index.select(self._clips)
        self._mass = None if share is None else clip_sampling_weights(known, (1 - share, share))
        self._length = -(-self._clips.size // batch) * batch

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self._mass is not None:
            return iter(rng.choice(self._clips, size=self._length, p=self._mass).tolist())
        rounds = -(-self._length // self._clips.size)
        order = np.concatenate([rng.permutation(self._clips) for _ in range(rounds)])
        return iter(order[: self._length].tolist())
