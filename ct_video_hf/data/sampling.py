"""How often each clip is drawn in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .clips import ClipIndex
from .errors import CTDataError

__all__ = ["CLASS_MASS", "clip_sampling_weights"]

#: Share of draws that go to (negative, positive) clips, from arXiv 2304.00546.
CLASS_MASS = {
    "balanced": (0.5, 0.5),
    "paper-lidc": (0.5, 0.5),
    "paper-rsna": (0.7, 0.3),
}


def clip_sampling_weights(
    index: ClipIndex, mass: str | Sequence[float] | None = "balanced"
) -> np.ndarray:
    """Probability of drawing each clip.

    Parameters
    ----------
    index : ClipIndex
        With several labels, a clip is positive when any of them is 1.
    mass : str, pair of float, or None
        A name in :data:`CLASS_MASS`, or the shares of negative and positive clips; None leaves the
        classes as they are. Within a class clips are drawn in proportion to their study's weight.

    Returns
    -------
    numpy.ndarray
        float64 (clips,), adding up to 1.

    Raises
    ------
    CTDataError
        For an unlabelled set, unknown or impossible shares, or when a class that is to be drawn
        has no clip.
    """
    weights = index.weight.astype(np.float64)
    if mass is None:
        return weights / weights.sum()
    shares = _shares(mass)
    if index.labels.shape[1] == 0:
        raise CTDataError("the set has no labels: clips cannot be drawn by class")
    positive = index.positive
    for members, share, name in (
        (~positive, shares[0], "negative"),
        (positive, shares[1], "positive"),
    ):
        if share > 0 and not members.any():
            raise CTDataError(
                f"no {name} clip among {len(index)}: classes cannot be drawn {shares[0]:g} to "
                f"{shares[1]:g}. Check the labels and min_positive_slices; where every clip "
                "has some label, draw them as they come (sampling shuffle, --sampling shuffle)"
            )
        if members.any():
            weights[members] *= share / weights[members].sum()
    return weights


def _shares(mass: str | Sequence[float]) -> tuple[float, float]:
    if isinstance(mass, str):
        if mass not in CLASS_MASS:
            raise CTDataError(f"class mass {mass!r}; known are {', '.join(CLASS_MASS)}")
        return CLASS_MASS[mass]
    shares = tuple(float(share) for share in mass)
    if len(shares) != 2 or min(shares) < 0 or not np.isclose(sum(shares), 1.0):
        raise CTDataError(f"class mass {list(mass)}: two shares of at least 0 that add up to 1")
    return shares
