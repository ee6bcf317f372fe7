"""A study's planes through the network, a bounded number of clips at a time."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import CTVideoError
from ..models import CTVideoProcessor
from ..progress import Progress, counter
from .backends import Backend
from .localization import clip_forward

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
    """

    lengths: np.ndarray
    logits: np.ndarray
    activation: np.ndarray | None


@dataclass
class ClipScorer:
    """A network with its processor, backend and arithmetic.

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
    name : str
        How errors name the network.
    """

    model: torch.nn.Module
    processor: CTVideoProcessor
    backend: Backend
    device: torch.device
    dtype: torch.dtype
    label: int
    batch_size: int
    name: str

    def study(
        self, planes: np.ndarray, starts: np.ndarray, timings: dict[str, float], progress: Progress
    ) -> ClipScores:
        """All clips of a study.

        Parameters
        ----------
        planes : numpy.ndarray
            int16 HU (slice, row, column) as the network will see them.
        starts : numpy.ndarray
            First slice of each clip.
        timings : dict
            Seconds are added to its ``prepare``, ``setup`` and ``forward``.
        progress : bool or callable
            Show a bar of clips on stderr, or tell (done, total).

        Raises
        ------
        CTVideoError
            A score that is no number.
        """
        lengths, logits, activations = [], [], []
        with counter(len(starts), progress, unit="clip") as advance:
            for first in range(0, len(starts), self.batch_size):
                begin = time.perf_counter()
                clips, valid = self.processor.cut(planes, starts[first : first + self.batch_size])
                pixel_values = self.processor.to_pixel_values(clips)
                ready = time.perf_counter()
                scores, activation = self.clips(pixel_values)
                setup, self.backend.setup_seconds = self.backend.setup_seconds, 0.0
                timings["prepare"] += ready - begin
                timings["setup"] += setup
                timings["forward"] += time.perf_counter() - ready - setup
                lengths.append(valid)
                logits.append(scores)
                activations.append(activation)
                advance(len(valid))
        every = np.concatenate(logits)
        if not np.isfinite(every).all():
            raise CTVideoError(
                f"The network {self.name} gave a score that is no number, in "
                f"{self.backend.precision}. Its weights are damaged, or need float32."
            )
        along = None if activations[0] is None else np.concatenate(activations)
        return ClipScores(np.concatenate(lengths), every, along)

    def clips(self, pixel_values: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits (clip, label) and activations (clip, frame) of processed clips."""
        pixel_values = pixel_values.to(self.device)
        narrow = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=narrow), _exact(self.device):
            logits, activation = clip_forward(self.model, pixel_values, self.label, self.backend)
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
