"""What computes a network's features: PyTorch as it is, or a recorded and rewritten graph.

A backend maps clips to the tensors that scores and key slices come from (the backbone's
``to_explain``); what follows, and is differentiated, is always eager PyTorch. Where a network's
first stages see each slice alone (``slice_stages``), a backend also computes it in two parts, one
once a slice and one once a clip.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from ..errors import CTVideoError
from ..models.base import CTVideoClassifier
from ..training.memory import keep_freed_memory
from .exported import FORMATS, ExportedNetwork
from .fast_backend import FastBackend

__all__ = ["BACKENDS", "Backend", "choose_backend"]

_GRAPHS = tuple(kind.backend for kind in FORMATS.values())
BACKENDS = ("auto", "eager", "fast", *_GRAPHS)


class Backend(Protocol):
    """Computes features of clips (clip, frame, channel, row, column)."""

    #: Seconds spent on recording and checking since they were last taken.
    setup_seconds: float
    #: Whether it has the two parts: :meth:`share`, :meth:`slices` and :meth:`from_slices`.
    shares: bool

    def __call__(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the backbone's ``to_explain`` gives."""

    def share(self, clip: torch.Tensor) -> None:
        """Get ready for :meth:`slices` and :meth:`from_slices` of clips like this one.

        ``clip`` is (1, frame, channel, row, column); only for networks with ``slice_stages``.
        """

    def slices(self, slices: torch.Tensor) -> torch.Tensor:
        """Features (slice, feature, row, column) of slices (slice, channel, row, column)."""

    def from_slices(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As a call, from the slices' features (clip, feature, frame, row, column)."""

    @property
    def name(self) -> str:
        """What computed the latest clips, for results."""

    @property
    def precision(self) -> str:
        """Its arithmetic, for results."""


class EagerBackend:
    """PyTorch, one operation at a time; 16-bit kinds through autocast."""

    shares = True

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

    def share(self, clip: torch.Tensor) -> None:
        self.model.backbone.check_pixel_values(clip)

    def slices(self, slices: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model.backbone.slice_features(slices)

    def from_slices(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self.model.backbone.explain_slices(features)


def choose_backend(
    backend: str, model: nn.Module, device: torch.device, dtype: torch.dtype
) -> Backend:
    """The backend of a name.

    Parameters
    ----------
    backend : {"auto", "eager", "fast", "onnxruntime", "openvino"}
        The last two run exported models, each those of its format; "auto" takes the right one.
        Of other models "auto" is "fast" for this package's networks on a CPU, where it can be had
        and gains, and "eager" elsewhere. On a CPU both but "eager" let the process keep freed
        memory, see :func:`..training.memory.keep_freed_memory`.
    model : torch.nn.Module
        In eval mode, on ``device``.
    device : torch.device
    dtype : torch.dtype
        Never chosen here: "fast" computes in what was asked for.

    Raises
    ------
    CTVideoError
        An unknown name, or one that does not go with the model, device or arithmetic.
    """
    if backend not in BACKENDS:
        raise CTVideoError(f"backend is {backend!r}; allowed: {', '.join(BACKENDS)}.")
    if isinstance(model, ExportedNetwork):
        return _runner_of(model, backend, device, dtype)
    if backend in _GRAPHS:
        raise CTVideoError(
            f"Backend {backend!r} runs exported models, and this is none. Export it first: "
            "ct-video-hf export MODEL OUT."
        )
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


def _runner_of(
    model: ExportedNetwork, backend: str, device: torch.device, dtype: torch.dtype
) -> Backend:
    """What runs the graph of an exported model, where that is what was asked for."""
    own = model.runner.kind.backend
    if backend not in ("auto", own):
        raise CTVideoError(
            f"Backend {backend!r} cannot run this model, which was exported to "
            f"{model.runner.kind.title}: it has a graph for {own} and no weights."
        )
    if device.type != "cpu":
        raise CTVideoError(f"Exported models run on the CPU here, not on {device}; use device cpu.")
    if dtype != torch.float32:
        raise CTVideoError(
            "Exported models compute in float32, for which they were compared with the network; "
            f"dtype is {str(dtype).removeprefix('torch.')}."
        )
    return model.runner
