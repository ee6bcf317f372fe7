"""Where in a scan a network finds what speaks for its score: a map on the scan's own grid.

>>> predict = ct_video_hf.pipeline("user/model")                          # doctest: +SKIP
>>> found = predict.saliency("scan/")                                       # doctest: +SKIP
>>> found.values.shape, found.affine                # as read_ct("scan/").hu    # doctest: +SKIP
>>> found.plane(41)                               # one slice, float32      # doctest: +SKIP
>>> found.most_suspicious(5)                      # places, best first      # doctest: +SKIP
>>> found.save_nifti("saliency.nii.gz")           # lies over the scan      # doctest: +SKIP

A value is 0 to 1. It is what a place adds to the score of a clip, in log-odds, times that score;
overlapping clips give the larger value; and all of it is scaled so that the largest value of the
study is the score of the clip that it came from. So the brightest place of a study that nobody need
suspect is faint, and within a study half as bright means half the evidence. What speaks against the
label is 0, and so is what no clip saw (outside of the crop). The map is about this network, not
about disease: a bright place is where the score comes from, rightly or not.

With test-time flips (``pipeline(..., tta="flips")``) contributions are, as the scores are, the
means of both sides, those of the mirrored clips mapped back.

Convolutional networks are explained by HiResCAM on their last grid, which costs no more than a
prediction. Attention networks (MViT, Video Swin, VideoMAE, V-JEPA 2, TimeSformer, ViViT) are by
integrated gradients over their first tokens, some 25 times a prediction for each clip: of those
only the eight clips with the highest scores are explained.

The map is kept on the network's grid within the plane (``found.grid``, a few cells a slice) and
brought to the scan's pixels plane by plane, so that a study of 1,500 slices takes megabytes until
``found.values`` is asked for. It is a map of the volume that was given; for a path, of the scan at
full size, though it is read at the network's. Slices ascend from feet to head as in every CTVolume;
``found.in_source_order()`` gives them as the scanner numbered them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dicom.planes import unfitted_affine
from ..progress import Progress, counter
from .backends import EagerBackend
from .cells import linear_weights
from .choices import TTA
from .evidence import Evidence, Way, both_sides, way_of
from .results import log_odds, sigmoid

if TYPE_CHECKING:
    import os

    from ..dicom import CTVolume
    from ..models import CTVideoProcessor
    from .pipeline import CTVideoPipeline
    from .scorer import ClipScorer

__all__ = ["COMBINATION", "SaliencyMap", "plane_places", "study_saliency"]

#: How the maps of clips become that of the study.
COMBINATION = (
    "clip score times contribution in log-odds, negative ones cut off; the largest of overlapping "
    "clips; scaled so that the largest value is the score of its clip"
)


@dataclass(eq=False, repr=False)
class SaliencyMap:
    """What speaks for a label in a scan, place by place.

    Attributes
    ----------
    grid : numpy.ndarray
        float32 (slice, h, w), 0..1: the map before it is brought to the plane's pixels.
    row_weights, column_weights : numpy.ndarray
        float32 (row, h) and (column, w): what each cell counts at each pixel. A line of zeros is
        outside of what the network saw.
    affine : numpy.ndarray
        float64 (4, 4), of the volume: index (slice, row, column, 1) to mm, LPS.
    source_index : list of (int or None)
        One per slice, of the volume: its place in source order.
    label : str
        What the map speaks for.
    method : str
        How contributions were found.
    combination : str
        How clips became a study.
    scale : float
        A value times this is the contribution in log-odds times the clip's score.
    clips : list of dict
        For each clip ``start``, ``stop`` (half-open, slices of the scan), ``score`` (0..1),
        ``logit`` (the log-odds explained), ``strongest`` (the largest contribution of a cell, in
        log-odds) and ``explained`` (the sum of all contributions, positive and negative). The last
        two are None for clips that were not explained, see :class:`.evidence.Way`.
    model : dict
        As in the pipeline's result.
    backend, precision : str
        What computed the map, and its arithmetic.
    test_time_augmentation : str or None
        As in the pipeline's result; contributions are means over the same views.
    """

    grid: np.ndarray
    row_weights: np.ndarray
    column_weights: np.ndarray
    affine: np.ndarray
    source_index: list[int | None]
    label: str
    method: str
    scale: float = 0.0
    clips: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    backend: str = ""
    precision: str = ""
    combination: str = COMBINATION
    test_time_augmentation: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns of the volume."""
        return len(self.grid), len(self.row_weights), len(self.column_weights)

    def __len__(self) -> int:
        return len(self.grid)

    def __repr__(self) -> str:
        """Shape, label and method."""
        return f"SaliencyMap({'x'.join(map(str, self.shape))}, {self.label!r}, {self.method})"

    def plane(self, index: int) -> np.ndarray:
        """float32 (row, column): the map of one slice of the volume."""
        return self.row_weights @ self.grid[index] @ self.column_weights.T

    @property
    def values(self) -> np.ndarray:
        """float32 (slice, row, column): the whole map, made anew each time (4 bytes a voxel)."""
        whole = np.empty(self.shape, np.float32)
        for index, plane in enumerate(whole):
            plane[...] = self.plane(index)
        return whole

    def in_source_order(self) -> Iterator[tuple[int, np.ndarray]]:
        """Source index and plane of every slice that has one, in source order."""
        order = [(s, i) for i, s in enumerate(self.source_index) if s is not None]
        for source, index in sorted(order):
            yield source, self.plane(index)

    def slice_maxima(self) -> np.ndarray:
        """float32 (slice,): the largest value of each slice."""
        return np.array([self.plane(i).max() if g.any() else 0 for i, g in enumerate(self.grid)])

    def most_suspicious(
        self, count: int = 5, apart: int = 1, least: float = 0.05
    ) -> list[dict[str, Any]]:
        """The slices with the largest values, best first.

        Parameters
        ----------
        count : int
            Slices at most.
        apart : int
            Slices between two of them at least.
        least : float
            Slices are left out whose largest value is below this share of the study's largest, and
            those without any evidence.

        Returns
        -------
        list of dict
            ``index``, ``row``, ``column`` of the largest value, ``value``, ``position_mm`` (x, y,
            z; LPS) and ``source_index`` (None for a slice that was interpolated).
        """
        maxima, chosen = self.slice_maxima(), []
        for index in np.argsort(-maxima, kind="stable").tolist():
            if len(chosen) == count or not maxima[index] > max(0.0, least * maxima.max()):
                break
            if all(abs(index - other["index"]) >= apart for other in chosen):
                chosen.append(self._place(index))
        return chosen

    def _place(self, index: int) -> dict[str, Any]:
        plane = self.plane(index)
        row, column = (int(n) for n in np.unravel_index(plane.argmax(), plane.shape))
        position = (self.affine @ np.array([index, row, column, 1.0]))[:3]
        return {
            "index": index,
            "row": row,
            "column": column,
            "value": float(plane[row, column]),
            "position_mm": position.tolist(),
            "source_index": self.source_index[index],
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything but the values; holds no identifier."""
        return {
            "label": self.label,
            "method": self.method,
            "combination": self.combination,
            "shape": list(self.shape),
            "affine_lps": self.affine.tolist(),
            "most_suspicious": self.most_suspicious(),
            "clips": self.clips,
            "model": self.model,
            "backend": self.backend,
            "precision": self.precision,
            "test_time_augmentation": self.test_time_augmentation,
        }

    def save_nifti(self, path: str | os.PathLike, like: str | os.PathLike | None = None) -> Path:
        """Write the map as NIfTI, see :func:`.saliency_nifti.write_nifti`."""
        from .saliency_nifti import write_nifti

        return write_nifti(self, path, like)


def study_saliency(
    predictor: CTVideoPipeline,
    volume: CTVolume,
    *,
    fitted: bool = False,
    progress: Progress = False,
) -> SaliencyMap:
    """The map of a volume by a pipeline's network, label and clips.

    Beside the volume, memory holds its planes at the processor's in-plane size, the map on the
    network's grid, and one batch of clips (two with test-time flips).

    Parameters
    ----------
    predictor : CTVideoPipeline
    volume : CTVolume
        The map is on its grid.
    fitted : bool
        The volume was read at the processor's in-plane size, and the map is on the grid that the
        scan had before.
    progress : bool or callable
        Show a bar of clips on stderr, or tell (done, total).

    Raises
    ------
    CTVideoError
        Too few slices, values that are not Hounsfield units, or a network of a kind that nothing
        is known about.
    """
    scorer, way = predictor.scorer, way_of(predictor.model)
    frames = predictor.processor.num_frames
    starts, planes = predictor._prepare(volume)
    chosen, others = _choose(scorer, way, planes, starts)
    rows, columns = volume.hu.shape[1:]
    affine = volume.affine.copy()
    if fitted:
        rows, columns = volume.report.rows, volume.report.columns
        affine = unfitted_affine(affine, rows, columns, predictor.processor.size)
    places = plane_places(rows, columns, predictor.processor)
    sheet: _Sheet | None = None
    with counter(len(chosen), progress, unit="clip") as advance, scorer.arithmetic():
        windows = [scorer.window(view, chosen, {"prepare": 0.0}) for view in scorer.views(planes)]
        for first in range(0, len(chosen), scorer.batch_size):
            batch = chosen[first : first + scorer.batch_size]
            sides = [way.evidence(scorer, window.clips(batch, frames)) for window in windows]
            found = both_sides(*sides, planes.shape[2]) if len(sides) > 1 else sides[0]
            if sheet is None:
                cells = (found.rows, found.columns)
                sheet = _Sheet(len(volume), *map(linear_weights, cells, places))
            odds = log_odds(found.logits, scorer.model.config.problem_type)[:, scorer.label]
            for index, start in enumerate(batch.tolist()):
                length = min(len(volume) - start, frames)
                sheet.add(start, length, float(odds[index]), found, index)
            advance(len(batch))
    backend = predictor.backend
    if way.eager:
        backend = EagerBackend(predictor.model, predictor.device, predictor.dtype)
    return SaliencyMap(
        grid=sheet.scaled(),
        row_weights=sheet.weights[0],
        column_weights=sheet.weights[1],
        affine=affine,
        source_index=list(volume.source_index),
        label=predictor.labels[predictor.label],
        method=way.name,
        scale=sheet.scale,
        clips=sorted([*sheet.clips, *others], key=itemgetter("start")),
        model=predictor.loaded.describe(),
        backend=backend.name,
        precision=backend.precision,
        test_time_augmentation=TTA[predictor.tta],
    )


def _choose(
    scorer: ClipScorer, way: Way, planes: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Starts of the clips to explain, ascending, and what is said of the others."""
    if way.most_clips is None or len(starts) <= way.most_clips:
        return starts, []
    timings = dict.fromkeys(("prepare", "setup", "forward"), 0.0)
    scores = scorer.study(planes, starts, timings, False)
    logits = log_odds(scores.logits, scorer.model.config.problem_type)[:, scorer.label]
    ranks = np.argsort(np.argsort(-logits, kind="stable"))
    others = [
        {
            "start": int(starts[clip]),
            "stop": int(starts[clip] + scores.lengths[clip]),
            "score": sigmoid(float(logits[clip])),
            "logit": float(logits[clip]),
            "strongest": None,
            "explained": None,
        }
        for clip in np.flatnonzero(ranks >= way.most_clips)
    ]
    return starts[ranks < way.most_clips], others


class _Sheet:
    """The study's map on the network's grid, clip by clip."""

    def __init__(self, slices: int, row_weights: np.ndarray, column_weights: np.ndarray) -> None:
        self.weights = row_weights, column_weights
        rows, columns = ((part > 0).any(0) for part in self.weights)
        self.seen = rows[:, None] & columns  # cells that any pixel of the scan shows
        self.grid = np.zeros((slices, *self.seen.shape), np.float32)
        self.clips: list[dict[str, Any]] = []
        self._largest = (0.0, 1.0)  # score times contribution, and that score

    def add(self, start: int, length: int, logit: float, found: Evidence, index: int) -> None:
        """Take in a clip of these log-odds; frames past its length are padding."""
        kept = np.where(self.seen, found.values[index, :length], 0.0).clip(min=0.0)
        score, strongest = sigmoid(logit), float(kept.max())
        here = self.grid[start : start + length]
        np.maximum(here, kept * score, out=here)
        if score * strongest > self._largest[0]:
            self._largest = (score * strongest, score)
        self.clips.append(
            {
                "start": start,
                "stop": start + length,
                "score": score,
                "logit": logit,
                "strongest": strongest,
                "explained": float(found.explained[index]),
            }
        )

    @property
    def scale(self) -> float:
        """What a value of the scaled map stands for."""
        largest, score = self._largest
        return largest / score

    def scaled(self) -> np.ndarray:
        """The map, its largest value being the score of that value's clip; ends the collecting."""
        if self.scale > 0:
            self.grid /= self.scale
        return self.grid


def plane_places(
    rows: int, columns: int, processor: CTVideoProcessor
) -> tuple[np.ndarray, np.ndarray]:
    """Where the rows and columns of a scan lie in the planes that the network sees.

    Undoes padding to a square, in-plane resizing and the central crop.

    Returns
    -------
    rows, columns : numpy.ndarray
        float64, indices of the network's rows (columns) for each of the scan's; nan outside of
        what it sees.
    """
    side, crop = max(rows, columns), processor.plane_size
    first = (processor.size - crop) // 2
    places = []
    for length in (rows, columns):
        before = (side - length) // 2
        place = (np.arange(length) + before + 0.5) * processor.size / side - 0.5 - first
        places.append(np.where((place >= -0.5) & (place <= crop - 0.5), place, np.nan))
    return places[0], places[1]
