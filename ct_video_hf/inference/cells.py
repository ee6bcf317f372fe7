"""Where the cells of a network's last grid lie in the clip that it saw.

A cell of a convolution of stride ``s``, its odd kernel padded by half, looks around pixel ``s * i``
of its input, not around the middle of the ``s`` pixels that it stands for; a patch looks at its own
pixels alone and lies in their middle. Interpolating as if both were the same moves a map by up to
half a cell: 15.5 pixels of 224 in a ResNet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CTVideoError
from ..models.slowfast import slow_frames

__all__ = ["Cells", "cells_of", "linear_weights", "token_cells", "tubelet_of"]


@dataclass(frozen=True)
class Cells:
    """The places of a grid's cells, as indices of frames, rows and columns of the clip.

    Attributes
    ----------
    frames, rows, columns : numpy.ndarray
        float64, ascending: the middle of what each cell looks at, along each axis of the grid.
    channels : slice
        The features that these places are for; SlowFast's pathways lie differently.
    """

    frames: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    channels: slice


#: Stride and first place along frames and along rows (columns are the same).
_Axes = tuple[tuple[int, float], tuple[int, float]]


def _centred(frames: int, plane: int) -> _Axes:
    return (frames, 0.0), (plane, 0.0)


def _patches(frames: int, plane: int) -> _Axes:
    return (frames, (frames - 1) / 2), (plane, (plane - 1) / 2)


def _staged(config: Any) -> _Axes:
    """Networks of pytorchvideo's stems and stages."""
    stem = config.stem_stride
    pool = getattr(config, "stem_pool_stride", [1, 1, 1])
    frames = stem[0] * pool[0] * math.prod(config.temporal_strides)
    return _centred(frames, stem[1] * pool[1] * math.prod(config.spatial_strides))


def _penet(config: Any) -> _Axes:
    halvings = 2 ** (len(config.depths) - 1)
    return _centred(2 * halvings, 4 * halvings)


def _video_resnet(config: Any) -> _Axes:
    later = config.convolutions[1:]
    return _centred(2 ** sum(kind != "2d" for kind in later), 2 * 2 ** len(later))


def _slice_resnet(config: Any) -> _Axes:
    return _centred(1, 4 * 2 ** (len(config.depths) - 1))


def _s3d(config: Any) -> _Axes:
    # The last pooling takes two of two: its cells lie between those that it gets.
    return (8, 2.0), (32, 8.0)


def _slowfast(config: Any) -> _Axes:
    return _centred(1, 4 * math.prod(config.spatial_strides))


def _mvit(config: Any) -> _Axes:
    later = len(config.depths) - 1
    patch, query = config.patch_stride, config.query_stride
    return _centred(patch[0] * query[0] ** later, patch[1] * query[1] ** later)


def _swin(config: Any) -> _Axes:
    frames, rows, _ = config.patch_size
    return _patches(frames, rows * 2 ** (len(config.depths) - 1))


def tubelet_of(config: Any) -> tuple[int, int]:
    """Frames, and pixels of a side, that a token of transformers' video classifiers is made of."""
    tubelet, patch = getattr(config, "tubelet_size", 1), getattr(config, "patch_size", None)
    if isinstance(tubelet, Sequence):  # frames, rows, columns
        return tubelet[0], tubelet[1]
    return tubelet, patch[0] if isinstance(patch, Sequence) else patch


def _tokens(config: Any) -> _Axes:
    return _patches(*tubelet_of(config))


_AXES: dict[str, Callable[[Any], _Axes]] = {
    "ct_csn": _staged,
    "ct_lrcn": _slice_resnet,
    "ct_mvit": _mvit,
    "ct_mvit_v2": _mvit,
    "ct_penet": _penet,
    "ct_r2plus1d": _staged,
    "ct_s3d": _s3d,
    "ct_slice_resnet": _slice_resnet,
    "ct_slow": _staged,
    "ct_slowfast": _slowfast,
    "ct_video_resnet": _video_resnet,
    "ct_video_swin": _swin,
    "ct_x3d": _staged,
    "timesformer": _tokens,
    "videomae": _tokens,
    "vivit": _tokens,
    "vjepa2": _tokens,
}


def cells_of(config: Any, frames: int, grid: Sequence[int]) -> list[Cells]:
    """The cells of the grid that a network is explained on.

    Parameters
    ----------
    config : PreTrainedConfig
        Of this package's networks or of transformers' video classifiers.
    frames : int
        Frames of the clip.
    grid : (t, h, w)
        The grid that the clip made.

    Returns
    -------
    list of Cells
        One, or one a pathway.

    Raises
    ------
    CTVideoError
        A network whose grid nothing is known about.
    """
    axes = _AXES.get(config.model_type)
    if axes is None:
        raise CTVideoError(
            f"Where the cells of a network of type {config.model_type!r} lie is not known, so that "
            f"no map can be made of it. Known are: {', '.join(sorted(_AXES))}."
        )
    along, across = axes(config)
    rows, columns = (_places(across, count) for count in grid[1:])
    if config.model_type == "ct_slowfast":
        return _pathways(config, frames, grid[0], rows, columns)
    return [Cells(_places(along, grid[0]), rows, columns, slice(None))]


def token_cells(config: Any, grid: Sequence[int]) -> list[Cells]:
    """As :func:`cells_of`, of the first tokens of an attention network."""
    kind = config.model_type
    if kind == "ct_video_swin":
        along, across = _patches(*config.patch_size[:2])
    elif kind.startswith("ct_mvit"):
        along, across = _centred(*config.patch_stride[:2])
    else:
        along, across = _tokens(config)
    rows, columns = (_places(across, count) for count in grid[1:])
    return [Cells(_places(along, grid[0]), rows, columns, slice(None))]


def _places(axis: tuple[int, float], count: int) -> np.ndarray:
    step, first = axis
    return first + step * np.arange(count, dtype=float)


def _pathways(
    config: Any, frames: int, count: int, rows: np.ndarray, columns: np.ndarray
) -> list[Cells]:
    """The slow pathway's own frames; of the fast one the middle of the frames averaged for each."""
    slow = np.asarray(slow_frames(frames, config.alpha), float)
    bins = np.arange(count)
    fast = (bins * frames // count + -(-(bins + 1) * frames // count) - 1) / 2
    width = config.widths[-1]
    return [
        Cells(slow, rows, columns, slice(None, width)),
        Cells(fast.astype(float), rows, columns, slice(width, None)),
    ]


def linear_weights(cells: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What each cell counts at each place: linear between cells, the nearest one beyond the ends.

    Parameters
    ----------
    cells : numpy.ndarray
        (cell,), ascending.
    places : numpy.ndarray
        (place,); nan where nothing was looked at.

    Returns
    -------
    numpy.ndarray
        float32 (place, cell); rows sum to 1, or to 0 at nan.
    """
    seen = np.isfinite(places)
    position = np.interp(np.where(seen, places, 0.0), cells, np.arange(len(cells), dtype=float))
    low = np.minimum(position.astype(int), len(cells) - 1)
    high = np.minimum(low + 1, len(cells) - 1)
    share = position - low
    weights = np.zeros((len(places), len(cells)), np.float32)
    lines = np.arange(len(places))
    np.add.at(weights, (lines, low), 1 - share)
    np.add.at(weights, (lines, high), share)
    weights[~seen] = 0.0
    return weights
