"""Clips as views of studies: where they are, what they are labelled, how they are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset as TorchDataset

from ..models.hu_clips import clip_start_indices
from .errors import CTDataError
from .label_choice import LabelChoice
from .stored_volume import stored_window, volume_view

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["CTClipDataset", "ClipIndex", "build_clip_index"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClipIndex:
    """The clips of a data set.

    Attributes
    ----------
    study : numpy.ndarray
        int32 (clips,): row of the study in the data set.
    start, length : numpy.ndarray
        int32 (clips,): first slice, and slices of the scan in the clip; the rest is air.
    labels : numpy.ndarray
        float32 (clips, labels): 1, 0 or -1 (unknown); no columns when the set is not labelled.
    weight : numpy.ndarray
        float64 (clips,): weight of the study.
    weak : numpy.ndarray
        bool (clips,): a label is the study's, because nothing is known of its slices.
    num_frames : int
        Slices in a clip.
    short_studies : tuple of int
        Rows of studies left out for too few slices.
    uncertain_clips : int
        Clips left out because all their labels hang on slices of unknown label.
    finding : int or None
        The label that makes a clip positive; None: any of them.
    """

    study: np.ndarray
    start: np.ndarray
    length: np.ndarray
    labels: np.ndarray
    weight: np.ndarray
    weak: np.ndarray
    num_frames: int
    short_studies: tuple[int, ...] = ()
    uncertain_clips: int = 0
    finding: int | None = None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def positive(self) -> np.ndarray:
        """bool (clips,): the finding, or any label, is 1."""
        meant = self.labels if self.finding is None else self.labels[:, [self.finding]]
        return (meant > 0.5).any(axis=1)

    def with_labels(self, places: Sequence[int], finding: int | None) -> ClipIndex:
        """The same clips with these of their labels; ``finding`` is a place among them."""
        return replace(self, labels=self.labels[:, list(places)], finding=finding)

    def select(self, clips: np.ndarray) -> ClipIndex:
        """The clips at these places, or where this mask is true."""
        arrays = {name: getattr(self, name)[clips] for name in _CLIP_ARRAYS}
        return replace(self, **arrays)


_CLIP_ARRAYS = ("study", "start", "length", "labels", "weight", "weak")


def build_clip_index(
    dataset: Dataset,
    num_frames: int = 32,
    stride: int | None = None,
    min_positive_slices: int = 4,
    tail: str = "pad",
    *,
    min_slices: int | None = None,
    short_lesions: bool = False,
    finding: int | None = None,
    lenient: bool = False,
) -> ClipIndex:
    """Where the clips of a prepared set are and how they are labelled.

    A clip is positive when it holds at least ``min_positive_slices`` positive slices (the rule of
    arXiv 2304.00546), each label for itself. Where nothing is known of a study's slices, its clips
    take the label of the study and are marked ``weak``. A label that hangs on slices of unknown
    label is unknown (-1); a clip whose labels all are is left out.

    Parameters
    ----------
    dataset : datasets.Dataset
        Rows of a prepared set; only its small columns are read.
    num_frames : int
        Slices in a clip.
    stride : int, optional
        Slices between the starts of neighbouring clips; None is ``num_frames``.
    min_positive_slices : int
        Positive slices that make a clip positive.
    tail : {"pad", "shift", "drop"}
        Of :func:`ct_video_hf.models.hu_clips.clip_start_indices`.
    min_slices : int, optional
        Studies with fewer slices have no clips; None is half of ``num_frames``, rounded up.
    short_lesions : bool
        A clip is also positive when it holds all slices of a run of positive slices that is
        shorter than ``min_positive_slices``. Off, as in the paper: such lesions are missed.
    finding : int, optional
        Place of the label that makes a clip positive, for counts and sampling; any label when None.
    lenient : bool
        Who shows counts learns from the index alone what was left out: no warning is logged, and
        where there is no clip the index is empty.

    Raises
    ------
    CTDataError
        For parameters out of range, or when there is no clip at all (unless ``lenient``).
    """
    stride = num_frames if stride is None else stride
    min_slices = (num_frames + 1) // 2 if min_slices is None else min_slices
    if not 1 <= stride <= num_frames:
        raise CTDataError(f"stride is {stride}; from 1 to num_frames ({num_frames}) is allowed")
    if not 1 <= min_positive_slices <= num_frames:
        raise CTDataError(
            f"min_positive_slices is {min_positive_slices}; from 1 to num_frames ({num_frames}) is "
            "allowed"
        )
    if tail not in ("pad", "shift", "drop"):
        raise CTDataError(f"tail is {tail!r}; known are pad, shift, drop")
    columns = ["shape", "slice_labels", "labels", "weight"]
    small = dataset.select_columns(columns).with_format("arrow")[:]
    slices = _slice_counts(small["shape"])
    short = tuple(np.flatnonzero(slices < min_slices).tolist())
    if short and not lenient:
        logger.warning("%d studies with fewer than %d slices have no clips", len(short), min_slices)
    study, start, length = _places(slices, min_slices, num_frames, stride, tail)
    if len(study) == 0 and not lenient:
        raise CTDataError(
            f"{len(dataset)} studies give no clip of {num_frames} slices at stride {stride} with "
            f"tail {tail!r} and at least {min_slices} slices a study"
        )
    labels = _study_labels(small["labels"])[study]
    marks, first = _marks(small["slice_labels"], slices, labels.shape[1])
    weak, hopeless = np.zeros(len(study), bool), np.ones(len(study), bool)
    for place in range(labels.shape[1]):
        rule = _LabelRule(marks[:, place], first, min_positive_slices, short_lesions)
        positive, unknown, by_study = rule.of_clips(study, start, length)
        labels[~by_study, place] = positive[~by_study]
        labels[unknown, place] = -1
        hopeless &= unknown
        weak |= by_study
    if len(study) and labels.shape[1] and weak.all():
        logger.info("no slice labels: clips take the labels of their study")
    weight = small["weight"].to_numpy()[study]
    index = ClipIndex(
        study, start, length, labels, weight, weak, num_frames, short, finding=finding
    )
    certain = ~hopeless | (labels.shape[1] == 0)
    if certain.all():
        return index
    index = replace(index.select(certain), uncertain_clips=int((~certain).sum()))
    if not lenient:
        logger.warning("%d clips of uncertain label are left out", index.uncertain_clips)
    return index


def _slice_counts(shapes: pa.ChunkedArray) -> np.ndarray:
    flat = shapes.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, 3)[:, 0].astype(np.int64)


def _places(
    slices: np.ndarray, min_slices: int, num_frames: int, stride: int, tail: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Study, start and length of every clip; the rule is asked once for each slice count."""
    counts, which = np.unique(slices, return_inverse=True)
    rules = [
        clip_start_indices(int(n), num_frames, stride, tail)
        if n >= min_slices
        else np.empty(0, int)
        for n in counts
    ]
    per_study = np.array([len(rule) for rule in rules], np.int64)[which]
    study = np.repeat(np.arange(len(slices)), per_study)
    parts = [rules[kind] for kind in which]
    start = np.concatenate(parts) if parts else np.empty(0, int)
    length = np.minimum(slices[study] - start, num_frames)
    return study.astype(np.int32), start.astype(np.int32), length.astype(np.int32)


def _study_labels(column: pa.ChunkedArray) -> np.ndarray:
    """float32 (studies, labels)."""
    lists = column.combine_chunks()
    widths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(widths) != 1:
        raise CTDataError(f"studies have different numbers of labels: {widths.tolist()}")
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(lists), int(widths[0])).astype(np.float32)


def _marks(
    column: pa.ChunkedArray, slices: np.ndarray, labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """All slice labels as int8 (slices of all studies, labels), and where each study begins."""
    lists = column.combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    wrong = np.flatnonzero((lengths > 0) & (lengths != slices * labels))
    if len(wrong):
        row = int(wrong[0])
        raise CTDataError(
            f"row {row} has {lengths[row]} slice labels for {slices[row]} slices and {labels} "
            "label(s)"
        )
    flat = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, max(labels, 1))
    return flat, np.concatenate([[0], np.cumsum(lengths // max(labels, 1))])


@dataclass(frozen=True, eq=False)
class _LabelRule:
    """What the slices say of a label of clips.

    ``marks`` int8 (slices of all studies,), ``first`` where each study begins in it, and its end.
    """

    marks: np.ndarray
    first: np.ndarray
    least: int
    short_lesions: bool

    def of_clips(
        self, study: np.ndarray, start: np.ndarray, length: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each clip: is it positive, is that uncertain, is nothing known of its study."""
        if not len(self.marks):
            nothing = np.zeros(len(study), bool)
            return nothing, nothing, ~nothing
        known = _between(self.marks != -1, self.first[:-1], self.first[1:]) > 0
        by_study = ~known[study]
        low = self.first[study] + np.where(by_study, 0, start)
        high = low + np.where(by_study, 0, length)
        count = _between(self.marks == 1, low, high)
        unknown = _between(self.marks == -1, low, high)
        positive = count >= self.least
        if self.short_lesions:
            starts = self.first[:-1]
            positive |= _holds_short_run(self.marks == 1, starts, self.least, low, high)
        return positive, ~by_study & ~positive & (count + unknown >= self.least), by_study


def _between(flags: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many flags are set in each half-open range."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return total[high] - total[low]


def _holds_short_run(
    flags: np.ndarray, first: np.ndarray, limit: int, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Does a range hold a whole run of set flags that is shorter than ``limit``?"""
    begins = np.zeros(len(flags) + 1, bool)
    begins[first] = True  # a run does not go on into the next study
    before = np.concatenate([[False], flags[:-1]])
    starts = np.flatnonzero(flags & (~before | begins[:-1]))
    after = np.concatenate([flags[1:], [False]])
    stops = np.flatnonzero(flags & (~after | begins[1:])) + 1
    brief = stops - starts < limit
    starts, stops = starts[brief], stops[brief]
    return np.searchsorted(stops, high, "right") > np.searchsorted(starts, low, "left")


class CTClipDataset(TorchDataset):
    """Clips of a prepared set for a torch ``DataLoader``.

    A clip is a view into the memory-mapped study; only its own slices are ever touched. The data
    set may be pickled for worker processes started in any way: workers map the files themselves.

    Parameters
    ----------
    dataset : datasets.Dataset
        Rows of a prepared set.
    index : ClipIndex
        Made from the same rows.
    labels : LabelChoice, optional
        What the columns of ``index.labels`` are, where the set has several or names them.
    transform : callable
        ``transform(clip, index=, epoch=)`` with clip uint16 (slices, row, column), HU + 1024, or
        uint8 where the set keeps a window, gives ``pixel_values``; a
        :class:`.transforms.ClipTransform`.

    Notes
    -----
    An item is a dict of ``pixel_values`` float32 (T, C, H, W), ``labels`` float32 (labels,),
    ``study_index`` (row in ``dataset``) and ``clip_start``; unlabelled sets have no ``labels``.

    :meth:`set_epoch` chooses the augmentation of an epoch, also for workers that are running.
    """

    def __init__(
        self,
        dataset: Dataset,
        index: ClipIndex,
        transform: Callable[..., torch.Tensor],
        labels: LabelChoice | None = None,
    ) -> None:
        if len(index) and int(index.study.max()) >= len(dataset):
            raise CTDataError(
                f"the clip index names row {int(index.study.max())} of a data set with "
                f"{len(dataset)}: it was made from another one"
            )
        self.dataset = dataset
        self.index = index
        self.transform = transform
        self.labels = labels
        self.window = stored_window(dataset)
        self._rows = dataset.select_columns(["volume", "shape"]).with_format("arrow")
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._views: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.index)

    @property
    def epoch(self) -> int:
        """The epoch that decides the augmentation."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation of this epoch; worker processes see it too."""
        self._epoch[0] = epoch

    def volume(self, row: int) -> np.ndarray:
        """A whole study (slice, row, column) as it is stored: a read-only view.

        uint16 HU + 1024; uint8 where the set keeps one window (``window``, centre and width).
        """
        view = self._views.get(row)
        if view is None:
            table = self._rows[row]
            view = volume_view(
                table["volume"].chunk(0),
                0,
                table["shape"][0].as_py(),
                eight_bit=self.window is not None,
            )
            self._views[row] = view
        return view

    def clip(self, number: int) -> np.ndarray:
        """Clip ``number`` (slices, row, column) as it is stored: a read-only view."""
        start, length = int(self.index.start[number]), int(self.index.length[number])
        return self.volume(int(self.index.study[number]))[start : start + length]

    def __getitem__(self, number: int) -> dict[str, Any]:
        number = int(number)
        if not -len(self) <= number < len(self):
            raise IndexError(f"clip {number} of {len(self)}")
        number %= len(self)
        item = {
            "pixel_values": self.transform(self.clip(number), index=number, epoch=self.epoch),
            "study_index": int(self.index.study[number]),
            "clip_start": int(self.index.start[number]),
        }
        if self.index.labels.shape[1]:
            item["labels"] = torch.from_numpy(self.index.labels[number].copy())
        return item

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_views": {}}  # views would be pickled as whole studies
