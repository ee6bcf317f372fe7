"""The pointing game: does the brightest place of a saliency map lie on what is to be found?

Zhang et al., "Top-down Neural Attention by Excitation Backprop", arXiv 1608.00507: one point a
study, a hit or a miss, the share of hits over studies. Objects are balls in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Pointing", "pointing_game", "share_within", "wilson_interval"]


@dataclass(frozen=True)
class Pointing:
    """What a pointing game gave.

    Attributes
    ----------
    hits, studies : int
    tolerance_mm : float
        How far from an object a point may lie and still hit it.
    accuracy : float
        Share of hits; nan without studies.
    low, high : float
        Its 95 % Wilson interval over studies.
    chance : float
        Expected share of hits of points drawn evenly from where a map could point.
    swapped : float
        Share of hits of every study's point among the objects of every other study: what points
        gain by where objects usually are. nan for fewer than two studies.
    distances_mm : numpy.ndarray
        (study,): from each point to the nearest object's surface, below 0 inside.
    """

    hits: int
    studies: int
    tolerance_mm: float
    accuracy: float
    low: float
    high: float
    chance: float
    swapped: float
    distances_mm: np.ndarray


def pointing_game(
    points: np.ndarray,
    objects: Sequence[np.ndarray],
    chances: np.ndarray,
    tolerance_mm: float = 0.0,
) -> Pointing:
    """Score points, one a study, against balls.

    Parameters
    ----------
    points : numpy.ndarray
        (study, 3), mm; nan for a study whose map points nowhere, which is a miss.
    objects : sequence of numpy.ndarray
        For each study (object, 4): centre and radius, mm, in coordinates that begin at the same
        place of every study.
    chances : numpy.ndarray
        (study,): see :func:`share_within`.
    tolerance_mm : float
    """
    pairs = zip(points, objects, strict=True)
    distance = np.array([_surface(point, balls) for point, balls in pairs])
    hits = int(np.count_nonzero(distance <= tolerance_mm))
    low, high = wilson_interval(hits, len(points))
    others = [
        _surface(point, balls) <= tolerance_mm
        for study, balls in enumerate(objects)
        for other, point in enumerate(points)
        if other != study
    ]
    return Pointing(
        hits=hits,
        studies=len(points),
        tolerance_mm=tolerance_mm,
        accuracy=hits / len(points) if len(points) else float("nan"),
        low=low,
        high=high,
        chance=float(np.mean(chances)) if len(chances) else float("nan"),
        swapped=float(np.mean(others)) if others else float("nan"),
        distances_mm=distance,
    )


def _surface(point: np.ndarray, balls: np.ndarray) -> float:
    """Distance in mm to the nearest ball's surface; infinite for a point that is nowhere."""
    if not np.isfinite(point).all():
        return float("inf")
    return float((np.linalg.norm(balls[:, :3] - point, axis=1) - balls[:, 3]).min())


def share_within(
    places: Sequence[np.ndarray], balls: np.ndarray, tolerance_mm: float = 0.0
) -> float:
    """Share of a grid's points that would hit a ball.

    Parameters
    ----------
    places : three numpy.ndarray
        Coordinates in mm along each axis of the grid, in the order of the balls' centres.
    balls : numpy.ndarray
        (object, 4): centre and radius, mm.
    """
    inside = np.zeros([len(axis) for axis in places], bool)
    for *centre, radius in balls:
        squares = [(axis - middle) ** 2 for axis, middle in zip(places, centre, strict=True)]
        distance = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        inside |= distance <= (radius + tolerance_mm) ** 2
    return float(inside.mean())


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); nan without cases."""
    if count == 0:
        return float("nan"), float("nan")
    z = 1.959963984540054
    share, scale = hits / count, 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / scale
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / scale
    return float(max(middle - half, 0.0)), float(min(middle + half, 1.0))
