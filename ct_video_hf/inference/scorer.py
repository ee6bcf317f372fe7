"""A study's planes through the network, a bounded number of clips at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import CTVideoError
from ..evaluation.attention import AttentionHead
from ..evaluation.score import ClassifierInput
from ..models import CTVideoProcessor
from ..models.base import CTVideoClassifier
from ..models.hu_clips import AIR_HU
from ..progress import Progress, counter
from .backends import Backend
from .fast_backend import SLICES_AT_ONCE
from .localization import clip_forward, parts_forward
from .slice_window import SliceWindow

__all__ = ["ClipScorer", "ClipScores"]


@dataclass(frozen=True)
class ClipScores:
    """What the network said about the clips of a study.

    Attributes
    ----------
    lengths : numpy.ndarray
        int64 (clip,): slices of the scan in each clip, the rest being padding.
    logits : numpy.ndarray
        float64 (clip, label).
    activation : numpy.ndarray or None
        (clip, frame), see :func:`.localization.clip_forward`.
    attention : numpy.ndarray or None
        float64 (clip, label, 2): what an attention head gives, where there is one.
    """

    lengths: np.ndarray
    logits: np.ndarray
    activation: np.ndarray | None
    attention: np.ndarray | None = None


@dataclass
class ClipScorer:
    """A network with its processor, backend and arithmetic.

    Each slice is windowed once, however many clips hold it, and where the network's first stages
    see each slice alone and clips overlap (:attr:`shares`), those stages are computed once a slice
    too. Memory holds the slices of one batch of clips and :data:`.fast_backend.SLICES_AT_ONCE`
    more, as features of the last such stage, and what the network takes for one batch.

    Attributes
    ----------
    model : torch.nn.Module
        In eval mode, on ``device``.
    processor : CTVideoProcessor
    backend : Backend
    device : torch.device
    dtype : torch.dtype
        Arithmetic; 16-bit kinds through autocast.
    label : int
        The logit that activations speak for.
    batch_size : int
        Clips in the network at a time.
    stride : int or None
        Slices between the starts of clips; None for the processor's.
    name : str
        How errors name the network.
    share : bool
        False computes every clip on its own.
    flips : bool
        Score the study as it is and mirrored left to right; logits and activations are the means.
    attention : AttentionHead or None
        That of the model, where study scores are made by learned attention.
    """

    model: torch.nn.Module
    processor: CTVideoProcessor
    backend: Backend
    device: torch.device
    dtype: torch.dtype
    label: int
    batch_size: int
    stride: int | None
    name: str
    share: bool = True
    flips: bool = False
    attention: AttentionHead | None = None

    @property
    def shares(self) -> bool:
        """Whether overlapping clips share what is computed slice by slice."""
        stride = self.stride or self.processor.stride or self.processor.num_frames
        if not self.share or stride >= self.processor.num_frames:
            return False
        if not isinstance(self.model, CTVideoClassifier) or not self.backend.shares:
            return False
        return self.model.backbone.slice_stages > 0

    def study(
        self,
        planes: np.ndarray,
        starts: np.ndarray,
        timings: dict[str, float],
        progress: Progress,
    ) -> ClipScores:
        """All clips of a study.

        Parameters
        ----------
        planes : numpy.ndarray
            int16 HU (slice, row, column) as the network will see them.
        starts : numpy.ndarray
            First slice of each clip, ascending.
        timings : dict
            Seconds are added to its ``prepare``, ``setup`` and ``forward``.
        progress : bool or callable
            Show a bar of clips on stderr, or tell (done, total).

        Raises
        ------
        CTVideoError
            A score that is no number.
        """
        begin, prepared = time.perf_counter(), timings["prepare"]
        views = self.views(planes)
        total = len(views) * len(starts)
        with counter(total, progress, unit="clip") as advance, self.arithmetic():
            found = [self._view(view, starts, timings, advance) for view in views]
        every = np.mean([logits for logits, _ in found], axis=0)
        along = None
        if found[0][1] is not None:  # mirrored planes stand in the same order
            along = np.mean([activation for _, activation in found], axis=0)
        setup, self.backend.setup_seconds = self.backend.setup_seconds, 0.0
        timings["setup"] += setup
        apart = timings["prepare"] - prepared + setup
        timings["forward"] += time.perf_counter() - begin - apart
        if not np.isfinite(every).all():
            raise CTVideoError(
                f"The network {self.name} gave a score that is no number, in "
                f"{self.backend.precision}. Its weights are damaged, or need float32."
            )
        lengths = np.minimum(len(planes) - starts, self.processor.num_frames)
        if self.attention is None:
            return ClipScores(lengths, every, along)
        return ClipScores(lengths, every[..., 0], along, every[..., 1:])

    def views(self, planes: np.ndarray) -> list[np.ndarray]:
        """The planes as they are, and mirrored left to right where that is asked for."""
        return [planes, planes[..., ::-1]] if self.flips else [planes]

    def _view(
        self,
        planes: np.ndarray,
        starts: np.ndarray,
        timings: dict[str, float],
        advance: Callable[[int], None],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What :meth:`_scored` gives of all clips of these planes."""
        frames, every, along = self.processor.num_frames, None, None
        window = self.window(planes, starts, timings)
        for first in range(0, len(starts), self.batch_size):
            batch = starts[first : first + self.batch_size]
            scores, activation = self._batch(window.clips(batch, frames))
            if every is None:  # small blocks kept between large ones would pin their memory
                every = np.empty((len(starts), *scores.shape[1:]))
                if activation is not None:
                    along = np.empty((len(starts), *activation.shape[1:]), activation.dtype)
            every[first : first + len(batch)] = scores
            if along is not None:
                along[first : first + len(batch)] = activation
            advance(len(batch))
        return every, along

    def clips(self, pixel_values: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits (clip, label) and activations (clip, frame) of processed clips.

        With an attention head instead of logits (clip, label, 3): logits, and what the head gives.
        """
        pixel_values = pixel_values.to(self.device)
        with self.arithmetic():
            return self._scored(clip_forward, self.model, pixel_values, self.label, self.backend)

    def _scored(self, forward: Callable, *inputs) -> tuple[np.ndarray, np.ndarray | None]:
        if self.attention is None:
            return _as_arrays(*forward(*inputs))
        seen = ClassifierInput(self.model)
        with seen.watched():
            logits, activation = _as_arrays(*forward(*inputs))
        values = self.attention.clip_values(seen.taken().cpu().numpy())
        return np.concatenate([logits[..., None], values], axis=2), activation

    def window(
        self, planes: np.ndarray, starts: np.ndarray, timings: dict[str, float]
    ) -> SliceWindow:
        """What clips are made of: pixels (slice, channel, row, column), or shared features."""
        frames = self.processor.num_frames
        total = int(starts[-1]) + frames

        def pixels_of(first: int, stop: int) -> torch.Tensor:
            begin = time.perf_counter()
            pixels = self._pixels(planes, first, stop)
            timings["prepare"] += time.perf_counter() - begin
            return pixels

        pixels = SliceWindow(pixels_of, total, SLICES_AT_ONCE)
        if not self.shares:
            return pixels
        self.backend.share(pixels.clips(starts[:1], frames))

        def features_of(first: int, stop: int) -> torch.Tensor:
            return self.backend.slices(pixels.between(first, stop))

        return SliceWindow(features_of, total, SLICES_AT_ONCE)

    def _pixels(self, planes: np.ndarray, first: int, stop: int) -> torch.Tensor:
        """Windowed slices (slice, channel, row, column); those after the last slice are air."""
        some = planes[first:stop]
        if len(some) < stop - first:
            padding = np.full((stop - first - len(some), *planes.shape[1:]), AIR_HU, np.int16)
            some = np.concatenate([some, padding])
        return self.processor.to_pixel_values(some[None])[0].to(self.device)

    def _batch(self, clips: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores of clips (clip, frame, channel or feature, row, column)."""
        if not self.shares:
            return self._scored(clip_forward, self.model, clips, self.label, self.backend)
        parts = self.parts(clips)
        return self._scored(parts_forward, self.model, parts, self.label, clips.shape[1])

    def parts(self, clips: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the backbone's ``to_explain`` gives, of clips of :meth:`window`."""
        with torch.no_grad():
            if self.shares:
                return self.backend.from_slices(clips.transpose(1, 2))
            return self.backend(clips)

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Within it torch computes as this scorer does."""
        narrow = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=narrow), _exact(self.device):
            yield


def _as_arrays(
    logits: torch.Tensor, activation: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray | None]:
    along = None if activation is None else activation.cpu().numpy()
    return logits.double().cpu().numpy(), along


def _exact(device: torch.device) -> AbstractContextManager:
    """Convolutions of float32 in float32: cuDNN would round their input to TF32 by default."""
    if device.type != "cuda":
        return nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
