"""The recorded and rewritten network as a backend, checked against PyTorch as it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import CTVideoError, first_line
from .fast_graph import fast_graph

if TYPE_CHECKING:
    from .backends import EagerBackend

__all__ = ["SLICES_AT_ONCE", "FastBackend"]

logger = logging.getLogger(__name__)

#: Largest difference of float32 features, relative to the largest feature, that "fast" may have.
TOLERANCE = 1e-4
#: In bfloat16 the root mean square of the difference from float32, relative to the features', may
#: be twice that of PyTorch's own autocast, or this where that is less. It is never more than 1.
BFLOAT16_TOLERANCE = 0.05
#: Slices that the first part of a network takes at a time: more fit no cache, fewer keep no core
#: busy.
SLICES_AT_ONCE = 16
#: Below this work a clip, recording costs more than a study gains.
_SMALL_GFLOP = 5.0

_Parts = tuple[torch.Tensor, ...]


class _ToExplain(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: torch.Tensor) -> _Parts:
        return self.backbone.to_explain(pixel_values)


class _SliceFeatures(_ToExplain):
    def forward(self, slices: torch.Tensor) -> _Parts:
        return (self.backbone.slice_features(slices),)


class _ExplainSlices(_ToExplain):
    def forward(self, features: torch.Tensor) -> _Parts:
        return self.backbone.explain_slices(features)


class _TwoParts:
    """A network recorded in two parts: a number of slices at a time, and one clip at a time."""

    def __init__(self, backbone: nn.Module, clip: torch.Tensor, dtype: torch.dtype) -> None:
        frames = clip.shape[1]
        self.at_once = min(SLICES_AT_ONCE, frames)
        some = clip[0, : self.at_once].contiguous()
        self.first = fast_graph(_SliceFeatures(backbone), some, dtype, widen=False)
        features = self.slices(some)
        whole = torch.zeros(1, frames, *features.shape[1:]).transpose(1, 2)
        self.second = fast_graph(_ExplainSlices(backbone), whole, dtype)

    def slices(self, slices: torch.Tensor) -> torch.Tensor:
        parts = []
        for some in slices.split(self.at_once):
            missing = self.at_once - len(some)
            filled = torch.cat([some, some[-1:].expand(missing, -1, -1, -1)]) if missing else some
            parts.append(self.first(filled)[0][: len(some)])
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def __call__(self, clip: torch.Tensor) -> _Parts:
        """One clip (1, frame, channel, row, column) through both."""
        return self.second(self.slices(clip[0]).transpose(0, 1).unsqueeze(0))


@dataclass
class _Way:
    """What became of recording, for one clip shape: a function, or the reason why there is none."""

    shape: tuple[int, ...] | None = None
    run: Callable[[torch.Tensor], _Parts] | None = None
    reason: str = ""


class FastBackend:
    """The recorded and rewritten network, clip by clip; checked once against PyTorch as it is.

    The first clip of a shape goes through both. ``strict`` raises where the fast path cannot be
    had, does not agree, or cannot be checked; otherwise the network then stays eager, with the
    reason in the log and in :attr:`name`. Not strict, it also stays eager where it is too small to
    gain, or where the fast path was no faster on that clip.
    """

    shares = True

    def __init__(self, eager: EagerBackend, strict: bool) -> None:
        self.eager = eager
        self.strict = strict
        self.setup_seconds = 0.0
        self.whole = _Way()
        self.shared = _Way()
        self.latest = self.whole

    @property
    def name(self) -> str:
        if self._is_eager:
            return f"{self.eager.name} ({self.latest.reason})"
        return f"PyTorch {torch.__version__} fast graph, cpu"

    @property
    def precision(self) -> str:
        if self._is_eager:
            return self.eager.precision
        return str(self.eager.dtype).removeprefix("torch.")

    @property
    def _is_eager(self) -> bool:
        return self.latest.shape is not None and self.latest.run is None

    def __call__(self, pixel_values: torch.Tensor) -> _Parts:
        pixel_values = self.eager.model.backbone.check_pixel_values(pixel_values)
        self._ready(self.whole, pixel_values[:1], self._record_whole)
        if self.whole.run is None:
            return self.eager(pixel_values)
        return _joined(self.whole.run(clip.unsqueeze(0)) for clip in pixel_values)

    def share(self, clip: torch.Tensor) -> None:
        clip = self.eager.model.backbone.check_pixel_values(clip)
        self._ready(self.shared, clip, self._record_shared)

    def slices(self, slices: torch.Tensor) -> torch.Tensor:
        if self.shared.run is None:
            return self.eager.slices(slices)
        return self.shared.run.slices(slices)

    def from_slices(self, features: torch.Tensor) -> _Parts:
        if self.shared.run is None:
            return self.eager.from_slices(features)
        return _joined(self.shared.run.second(clip.unsqueeze(0)) for clip in features)

    # ---- recording -------------------------------------------------------------------------------

    def _record_whole(self, clip: torch.Tensor) -> Callable[[torch.Tensor], _Parts]:
        return fast_graph(_ToExplain(self.eager.model.backbone), clip, self.eager.dtype)

    def _record_shared(self, clip: torch.Tensor) -> Callable[[torch.Tensor], _Parts]:
        return _TwoParts(self.eager.model.backbone, clip, self.eager.dtype)

    def _ready(
        self,
        way: _Way,
        clip: torch.Tensor,
        record: Callable[[torch.Tensor], Callable[[torch.Tensor], _Parts]],
    ) -> None:
        self.latest = way
        if way.shape != tuple(clip.shape[1:]):
            begin = time.perf_counter()
            self._set_up(way, clip, record)
            self.setup_seconds += time.perf_counter() - begin

    def _set_up(self, way: _Way, clip: torch.Tensor, record: Callable) -> None:
        way.shape, way.run = tuple(clip.shape[1:]), None
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            begin = time.perf_counter()
            with FlopCounterMode(display=False) as counter:
                expected = self.eager(clip)
            eager_seconds = time.perf_counter() - begin
            if not self.strict and counter.get_total_flops() / 1e9 < _SMALL_GFLOP:
                way.reason = "the network is small"
                return
            limit = TOLERANCE
            if self.eager.dtype != torch.float32:
                with torch.autocast("cpu", self.eager.dtype):
                    eager_seconds, narrow = _timed(self.eager, clip)
                limit = min(max(2 * self._far(narrow, expected), BFLOAT16_TOLERANCE), 1.0)
            try:
                run = record(clip)
                seconds, found = _timed(run, clip)
            except Exception as error:  # recording fails in many ways, all of which leave eager
                self._refuse(way, f"the network cannot be recorded: {first_line(error)}", error)
                return
            far = self._far(found, expected)
            if not far <= limit:
                words = f"the rewritten network's features differ by {far:.1e}, {limit:.0e} at most"
                self._refuse(way, words)
                return
            logger.info("fast graph: features differ by %.1e from the eager network's", far)
            if not self.strict and min(seconds, _timed(run, clip)[0]) > eager_seconds:
                way.reason = "the fast graph was slower"
                logger.info("eager network: %s on the first clip", way.reason)
                return
        way.run = run

    def _far(self, found: _Parts, expected: _Parts) -> float:
        exact = self.eager.dtype == torch.float32
        return max(_relative(one, other, exact) for one, other in zip(found, expected, strict=True))

    def _refuse(self, way: _Way, reason: str, error: Exception | None = None) -> None:
        if self.strict:
            way.shape = None  # asked again it is checked again, and not computed eagerly
            raise CTVideoError(
                f"Backend 'fast' cannot be used: {reason}. Use backend 'eager'."
            ) from error
        way.reason = reason
        logger.warning("eager network: %s", reason)


def _joined(clips: Any) -> _Parts:
    return tuple(torch.cat(parts) for parts in zip(*clips, strict=True))


def _timed(run: Callable[[torch.Tensor], Any], clip: torch.Tensor) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = run(clip)
    return time.perf_counter() - begin, found


def _relative(found: torch.Tensor, expected: torch.Tensor, exact: bool) -> float:
    """Difference over size: the largest of each, or the root mean squares."""
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    found, expected = found.float(), expected.float()
    difference = found - expected
    if exact:
        size, far = expected.abs().max(), difference.abs().max()
    else:
        size, far = expected.square().mean().sqrt(), difference.square().mean().sqrt()
    return float(far / size) if size > 0 else float(far)
