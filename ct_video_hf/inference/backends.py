"""What computes a network's features: PyTorch as it is, or a recorded and rewritten graph.

A backend maps clips to the tensors that scores and key slices come from (the backbone's
``to_explain``); what follows, and is differentiated, is always eager PyTorch.
:func:`.fast_graph.fast_graph` takes any module of tensors, so a backbone may later be recorded in
two parts, one computed once a slice and one once a clip.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import CTVideoError
from ..models.base import CTVideoClassifier
from ..training.memory import keep_freed_memory
from .fast_graph import fast_graph

__all__ = ["BACKENDS", "Backend", "choose_backend"]

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "eager", "fast")

#: Largest difference of float32 features, relative to the largest feature, that "fast" may have.
TOLERANCE = 1e-4
#: The same for bfloat16, as a root mean square: a rewritten network that is another one has 1.
BFLOAT16_TOLERANCE = 0.3
#: Below this work a clip, recording costs more than a study gains.
_SMALL_GFLOP = 5.0


class Backend(Protocol):
    """Computes features of clips (clip, frame, channel, row, column)."""

    #: Seconds spent on recording and checking since they were last taken.
    setup_seconds: float

    def __call__(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the backbone's ``to_explain`` gives."""

    @property
    def name(self) -> str:
        """What computed the latest clips, for results."""

    @property
    def precision(self) -> str:
        """Its arithmetic, for results."""


class EagerBackend:
    """PyTorch, one operation at a time; 16-bit kinds through autocast."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        self.setup_seconds = 0.0

    @property
    def name(self) -> str:
        return f"PyTorch {torch.__version__} eager, {self.device.type}"

    @property
    def precision(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return name if self.dtype == torch.float32 else f"{name} (autocast)"

    def __call__(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self.model.backbone.to_explain(pixel_values)


class _ToExplain(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.backbone.to_explain(pixel_values)


class FastBackend:
    """The recorded and rewritten network, clip by clip; checked once against PyTorch as it is.

    The first clip of a shape goes through both. ``strict`` raises where the fast path cannot be
    had, does not agree, or cannot be checked; otherwise the network then stays eager, with the
    reason in the log and in :attr:`name`. Not strict, it also stays eager where it is too small to
    gain, or where the fast path was no faster on that clip.
    """

    def __init__(self, eager: EagerBackend, strict: bool) -> None:
        self.eager = eager
        self.strict = strict
        self.setup_seconds = 0.0
        self.run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None
        self.shape: tuple[int, ...] | None = None
        self.reason = ""

    @property
    def name(self) -> str:
        if self.shape is not None and self.run is None:
            return f"{self.eager.name} ({self.reason})"
        return f"PyTorch {torch.__version__} fast graph, cpu"

    @property
    def precision(self) -> str:
        if self.shape is not None and self.run is None:
            return self.eager.precision
        return str(self.eager.dtype).removeprefix("torch.")

    def __call__(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pixel_values = self.eager.model.backbone.check_pixel_values(pixel_values)
        if self.shape != tuple(pixel_values.shape[1:]):
            begin = time.perf_counter()
            self._set_up(pixel_values[:1])
            self.setup_seconds += time.perf_counter() - begin
        if self.run is None:
            return self.eager(pixel_values)
        clips = [self.run(clip.unsqueeze(0)) for clip in pixel_values]
        return tuple(torch.cat(parts) for parts in zip(*clips, strict=True))

    def _set_up(self, clip: torch.Tensor) -> None:
        self.shape, self.run = tuple(clip.shape[1:]), None
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            begin = time.perf_counter()
            with FlopCounterMode(display=False) as counter:
                expected = self.eager(clip)
            eager_seconds = time.perf_counter() - begin
            gflop = counter.get_total_flops() / 1e9
            if not self.strict and gflop < _SMALL_GFLOP:
                self.reason = "the network is small"
                return
            try:
                run = fast_graph(_ToExplain(self.eager.model.backbone), clip, self.eager.dtype)
                seconds, found = _timed(run, clip)
            except Exception as error:  # recording fails in many ways, all of which leave eager
                self._refuse(f"the network cannot be recorded: {_first_line(error)}", error)
                return
            if not self._agrees(found, expected):
                return
            if not self.strict and min(seconds, _timed(run, clip)[0]) > eager_seconds:
                self.reason = "the fast graph was slower"
                logger.info("eager network: %s on the first clip", self.reason)
                return
        self.run = run

    def _agrees(self, found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> bool:
        exact = self.eager.dtype == torch.float32
        far = max(_relative(one, other, exact) for one, other in zip(found, expected, strict=True))
        limit = TOLERANCE if exact else BFLOAT16_TOLERANCE
        if far <= limit:
            logger.info("fast graph: features differ by %.1e from the eager network's", far)
            return True
        self._refuse(f"the rewritten network's features differ by {far:.1e}, {limit:.0e} at most")
        return False

    def _refuse(self, reason: str, error: Exception | None = None) -> None:
        if self.strict:
            raise CTVideoError(
                f"Backend 'fast' cannot be used: {reason}. Use backend 'eager'."
            ) from error
        self.reason = reason
        logger.warning("eager network: %s", reason)


def _timed(run: Callable[[torch.Tensor], Any], clip: torch.Tensor) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = run(clip)
    return time.perf_counter() - begin, found


def _relative(found: torch.Tensor, expected: torch.Tensor, exact: bool) -> float:
    """Difference over size: the largest of each, or the root mean squares."""
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    expected = expected.float()
    difference = found - expected
    if exact:
        size, far = expected.abs().max(), difference.abs().max()
    else:
        size, far = expected.square().mean().sqrt(), difference.square().mean().sqrt()
    return float(far / size) if size > 0 else float(far)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def choose_backend(
    backend: str, model: nn.Module, device: torch.device, dtype: torch.dtype
) -> Backend:
    """The backend of a name.

    Parameters
    ----------
    backend : {"auto", "eager", "fast"}
        "auto" is "fast" for this package's networks on a CPU, where it can be had and gains, and
        "eager" elsewhere. On a CPU both but "eager" let the process keep freed memory, see
        :func:`..training.memory.keep_freed_memory`.
    model : torch.nn.Module
        In eval mode, on ``device``.
    device : torch.device
    dtype : torch.dtype
        Never chosen here: "fast" computes in what was asked for.

    Raises
    ------
    CTVideoError
        An unknown name, or "fast" where it cannot be had.
    """
    if backend not in BACKENDS:
        raise CTVideoError(f"backend is {backend!r}; allowed: {', '.join(BACKENDS)}.")
    eager = EagerBackend(model, device, dtype)
    possible = device.type == "cpu" and isinstance(model, CTVideoClassifier)
    if backend == "fast" and not possible:
        raise CTVideoError(
            f"Backend 'fast' is for this package's networks on a CPU; this is "
            f"{type(model).__name__} on {device.type}. Use backend 'eager'."
        )
    if backend == "eager" or not possible:
        return eager
    keep_freed_memory()
    return FastBackend(eager, strict=backend == "fast")
